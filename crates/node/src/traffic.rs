//! The traffic of each day, for a chart in the web UI.
//!
//! The network counts bytes since the start of the instance. Every minute the new
//! bytes are added to the current day. The days are in one small file; only the
//! chart is lost with it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use api::{TrafficDay, Transferred};
use disk::{AtomicWrite, Parsed, RealDisk, read_cache, write_atomic};
use jiff::Zoned;
use jiff::civil::Date;
use net::Handle;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// Maximum number of days; the oldest are dropped first.
const DAYS_MAX: usize = 400;
/// Interval at which the file is written if there is something new.
const SAVE_INTERVAL: Duration = Duration::from_secs(60);
/// Maximum length of the file in bytes; a day needs about eighty.
const FILE_LEN_MAX: u64 = 1 << 20;

/// Returns the bytes that the network has counted since the start.
fn counted(net: &Handle) -> Transferred {
    let metrics = net.metrics();
    Transferred {
        sent_bytes: metrics.stream_bytes_sent,
        received_bytes: metrics.stream_bytes_received,
    }
}

#[derive(Debug, Default)]
struct Days {
    days: BTreeMap<Date, Transferred>,
    /// The part of the network's counters that is in the days already.
    counted: Transferred,
    is_changed: bool,
}

impl Days {
    fn add(&mut self, now: Transferred, today: Date) {
        let sent = now.sent_bytes.saturating_sub(self.counted.sent_bytes);
        let received = now.received_bytes.saturating_sub(self.counted.received_bytes);
        self.counted = now;
        if sent == 0 && received == 0 {
            return;
        }
        self.is_changed = true;
        let day = self.days.entry(today).or_default();
        day.sent_bytes = day.sent_bytes.saturating_add(sent);
        day.received_bytes = day.received_bytes.saturating_add(received);
        while self.days.len() > DAYS_MAX {
            self.days.pop_first();
        }
    }
}

/// The traffic of an instance per day. Clones share it.
#[derive(Clone)]
pub struct Traffic {
    net: Handle,
    days: Arc<Mutex<Days>>,
}

impl Traffic {
    /// Creates a value without earlier days.
    pub(crate) fn new(net: Handle) -> Self {
        Self { net, days: Arc::default() }
    }

    /// Returns the days with traffic, the oldest first.
    pub fn days(&self) -> Vec<TrafficDay> {
        let mut days = self.days.lock();
        days.add(counted(&self.net), Zoned::now().date());
        days.days.iter().map(|(day, sum)| TrafficDay { day: *day, transferred: *sum }).collect()
    }

    /// Adds the days in a file, and writes the file until `stop`.
    pub(crate) async fn save(self, path: PathBuf, stop: CancellationToken) {
        let from = path.clone();
        let before = tokio::task::spawn_blocking(move || read(&from)).await.unwrap_or_default();
        {
            let mut days = self.days.lock();
            for (day, sum) in before {
                let total = days.days.entry(day).or_default();
                total.sent_bytes = total.sent_bytes.saturating_add(sum.sent_bytes);
                total.received_bytes = total.received_bytes.saturating_add(sum.received_bytes);
            }
        }
        loop {
            let is_last = tokio::select! {
                () = tokio::time::sleep(SAVE_INTERVAL) => false,
                () = stop.cancelled() => true,
            };
            let changed = {
                let mut days = self.days.lock();
                days.add(counted(&self.net), Zoned::now().date());
                std::mem::take(&mut days.is_changed).then(|| days.days.clone())
            };
            if let Some(days) = changed {
                let to = path.clone();
                // The panic hook has logged a panic.
                let _ = tokio::task::spawn_blocking(move || write(&to, &days)).await;
            }
            if is_last {
                return;
            }
        }
    }
}

/// Reads the days in a file. A file that cannot be used is kept under another name.
fn read(path: &Path) -> BTreeMap<Date, Transferred> {
    let consequence = "the traffic of earlier days is not shown";
    read_cache(&RealDisk, path, FILE_LEN_MAX, consequence, parse).unwrap_or_default()
}

fn parse(bytes: &[u8]) -> Parsed<BTreeMap<Date, Transferred>> {
    Parsed::of(serde_json::from_slice(bytes))
}

fn write(path: &Path, days: &BTreeMap<Date, Transferred>) {
    let written = serde_json::to_vec_pretty(days).map_err(std::io::Error::from).and_then(|json| {
        Ok(write_atomic(&RealDisk, path, &json, &AtomicWrite::PRIVATE).map(drop)?)
    });
    if let Err(error) = written {
        tracing::warn!(path = %path.display(), %error, "cannot write the traffic file");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(sent_bytes: u64, received_bytes: u64) -> Transferred {
        Transferred { sent_bytes, received_bytes }
    }

    #[test]
    fn what_is_counted_goes_to_its_day_once_and_the_oldest_days_go() {
        let mut days = Days::default();
        let first: Date = "2026-11-22".parse().unwrap();
        days.add(of(0, 0), first);
        assert!(!days.is_changed && days.days.is_empty());
        days.add(of(10, 1), first);
        days.add(of(15, 1), first);
        days.add(of(15, 3), first.tomorrow().unwrap());
        let found: Vec<_> = days.days.values().copied().collect();
        assert_eq!(found, [of(15, 1), of(0, 2)]);
        let mut day = first;
        for number in 0..DAYS_MAX as u64 + 10 {
            day = day.tomorrow().unwrap();
            days.add(of(100 + number, 3), day);
        }
        assert_eq!(days.days.len(), DAYS_MAX);
        assert_eq!(*days.days.last_key_value().unwrap().0, day);
    }

    #[test]
    fn the_days_come_back_and_a_damaged_file_begins_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("traffic.json");
        assert_eq!(read(&path), BTreeMap::new());
        let days = BTreeMap::from([("2026-11-22".parse().unwrap(), of(1, 2))]);
        write(&path, &days);
        assert_eq!(read(&path), days);
        for damaged in [&b""[..], b"{", b"[]", b"{\"2026-99-99\":{}}", b"\xff"] {
            std::fs::write(&path, damaged).unwrap();
            assert_eq!(read(&path), BTreeMap::new());
        }
        std::fs::write(&path, " ".repeat((1 << 20) + 1)).unwrap();
        assert_eq!(read(&path), BTreeMap::new());
    }

    #[test]
    fn fuzz_traffic() {
        let days = BTreeMap::from([("2026-11-22".parse::<Date>().unwrap(), of(1, u64::MAX))]);
        fuzzing::target!(&[serde_json::to_vec(&days).unwrap()], |bytes: &[u8]| {
            if let Parsed::Valid(days) = parse(bytes) {
                assert_eq!(parse(&serde_json::to_vec(&days).unwrap()), Parsed::Valid(days));
            }
        });
    }
}

//! The traffic of each day, for a chart in the web UI.
//!
//! The network counts bytes since the start of the instance. Every minute the new
//! bytes are added to the current day. The days are in one small file; only the
//! chart is lost with it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use api::{TrafficDay, Transferred};
use jiff::Zoned;
use jiff::civil::Date;
use net::Handle;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::json_file::JsonFile;

/// Maximum number of days; the oldest are dropped first.
const DAYS_MAX: usize = 400;
/// Interval at which the file is written if there is something new.
const SAVE_INTERVAL: Duration = Duration::from_secs(60);

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
        let file = JsonFile::new(path);
        let from = file.clone();
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
                let to = file.clone();
                // The panic hook has logged a panic.
                let _ = tokio::task::spawn_blocking(move || write(&to, &days)).await;
            }
            if is_last {
                return;
            }
        }
    }
}

/// Days with their traffic, as the file has them.
type SavedDays = BTreeMap<Date, Transferred>;

fn read(file: &JsonFile) -> SavedDays {
    file.read_cache("the traffic of earlier days is not shown").unwrap_or_default()
}

fn write(file: &JsonFile, days: &SavedDays) {
    if let Err(error) = file.write(days) {
        tracing::warn!(%error, "cannot write the traffic file");
    }
}

#[cfg(test)]
mod tests {
    use disk::Parsed;

    use super::*;
    use crate::json_file::parse;

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
        let file = JsonFile::new(path.clone());
        assert_eq!(read(&file), BTreeMap::new());
        let days = BTreeMap::from([("2026-11-22".parse().unwrap(), of(1, 2))]);
        write(&file, &days);
        assert_eq!(read(&file), days);
        for damaged in [&b""[..], b"{", b"[]", b"{\"2026-99-99\":{}}", b"\xff"] {
            std::fs::write(&path, damaged).unwrap();
            assert_eq!(read(&file), BTreeMap::new());
        }
    }

    #[test]
    fn fuzz_traffic() {
        let days = BTreeMap::from([("2026-11-22".parse::<Date>().unwrap(), of(1, u64::MAX))]);
        fuzzing::target!(&[serde_json::to_vec(&days).unwrap()], |bytes: &[u8]| {
            if let Parsed::Valid(days) = parse::<SavedDays>(bytes) {
                assert_eq!(parse(&serde_json::to_vec(&days).unwrap()), Parsed::Valid(days));
            }
        });
    }
}

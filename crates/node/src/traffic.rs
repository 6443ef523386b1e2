//! How much travelled on each day: for people who want to see what a backup
//! costs.
//!
//! The network counts from the start of the instance; what it has counted goes
//! to the day on which it is looked at, a minute later at most. The days are in
//! one small file; nothing but a chart is lost with it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use disk::{AtomicWrite, RealDisk, write_atomic};
use jiff::Zoned;
use jiff::civil::Date;
use net::Handle;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

/// Days that are kept.
const DAYS_MAX: usize = 400;
/// How often the file is written, where there is something new.
const SAVED_EVERY: Duration = Duration::from_secs(60);
/// The longest file that is read, in bytes: some eighty for a day.
const FILE_LEN_MAX: u64 = 1 << 20;

/// What travelled on one day, between this machine and others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Transferred {
    /// Bytes that were sent.
    pub(crate) sent_bytes: u64,
    /// Bytes that were received.
    pub(crate) received_bytes: u64,
}

impl Transferred {
    /// What the network has counted since the instance was started.
    fn now(net: &Handle) -> Self {
        let counted = net.metrics();
        Self {
            sent_bytes: counted.stream_bytes_sent,
            received_bytes: counted.stream_bytes_received,
        }
    }
}

/// One day.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct TrafficDay {
    /// The date, by the clock and the time zone of this machine.
    #[schema(value_type = String, format = Date)]
    pub(crate) day: Date,
    /// What travelled.
    #[serde(flatten)]
    pub(crate) transferred: Transferred,
}

#[derive(Debug, Default)]
struct Days {
    days: BTreeMap<Date, Transferred>,
    /// What of the network's counts is in the days.
    counted: Transferred,
    is_changed: bool,
}

impl Days {
    fn count(&mut self, now: Transferred, today: Date) {
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

/// The days of an instance. Clones share them.
#[derive(Clone)]
pub(crate) struct Traffic {
    net: Handle,
    days: Arc<Mutex<Days>>,
}

impl Traffic {
    /// Nothing is known yet of the days before.
    pub(crate) fn new(net: Handle) -> Self {
        Self { net, days: Arc::default() }
    }

    /// The days on which something travelled, the oldest first.
    pub(crate) fn days(&self) -> Vec<TrafficDay> {
        let mut days = self.days.lock();
        days.count(Transferred::now(&self.net), Zoned::now().date());
        days.days.iter().map(|(day, sum)| TrafficDay { day: *day, transferred: *sum }).collect()
    }

    /// Takes up the days in a file, and keeps them there until `stop`.
    pub(crate) async fn keep(self, path: PathBuf, stop: CancellationToken) {
        let from = path.clone();
        let before = tokio::task::spawn_blocking(move || read(&from)).await.unwrap_or_default();
        {
            let mut days = self.days.lock();
            for (day, sum) in before {
                let there = days.days.entry(day).or_default();
                there.sent_bytes = there.sent_bytes.saturating_add(sum.sent_bytes);
                there.received_bytes = there.received_bytes.saturating_add(sum.received_bytes);
            }
        }
        loop {
            let is_last = tokio::select! {
                () = tokio::time::sleep(SAVED_EVERY) => false,
                () = stop.cancelled() => true,
            };
            let changed = {
                let mut days = self.days.lock();
                days.count(Transferred::now(&self.net), Zoned::now().date());
                std::mem::take(&mut days.is_changed).then(|| days.days.clone())
            };
            if let Some(days) = changed {
                let to = path.clone();
                // A panic in it was logged.
                let _ = tokio::task::spawn_blocking(move || write(&to, &days)).await;
            }
            if is_last {
                return;
            }
        }
    }
}

/// What a file says; nothing where it cannot be read.
fn read(path: &Path) -> BTreeMap<Date, Transferred> {
    match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return BTreeMap::new(),
        Ok(metadata) if metadata.len() > FILE_LEN_MAX => {
            tracing::warn!(path = %path.display(), "too long for what it is; it begins anew");
            return BTreeMap::new();
        }
        _ => {}
    }
    let days = std::fs::read(path)
        .map_err(|error| error.to_string())
        .and_then(|bytes| serde_json::from_slice(&bytes).map_err(|error| error.to_string()));
    days.unwrap_or_else(|error| {
        tracing::warn!(path = %path.display(), error, "cannot be read; it begins anew");
        BTreeMap::new()
    })
}

fn write(path: &Path, days: &BTreeMap<Date, Transferred>) {
    let written = serde_json::to_vec_pretty(days).map_err(std::io::Error::from).and_then(|json| {
        Ok(write_atomic(&RealDisk, path, &json, &AtomicWrite::PRIVATE).map(drop)?)
    });
    if let Err(error) = written {
        tracing::warn!(path = %path.display(), %error, "cannot be written; the days stay in memory");
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
        days.count(of(0, 0), first);
        assert!(!days.is_changed && days.days.is_empty());
        days.count(of(10, 1), first);
        days.count(of(15, 1), first);
        days.count(of(15, 3), first.tomorrow().unwrap());
        let found: Vec<_> = days.days.values().copied().collect();
        assert_eq!(found, [of(15, 1), of(0, 2)]);
        let mut day = first;
        for number in 0..DAYS_MAX as u64 + 10 {
            day = day.tomorrow().unwrap();
            days.count(of(100 + number, 3), day);
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
}

//! Files that have changed, and when each is visited again without a hint.
//!
//! * A program that stores through a shared mapping (`mmap`) sets the times of the file when a
//!   page is first written to, and again only after the kernel has written the page to the disk
//!   ([`Tuning::settle`](crate::Tuning)). A store in between leaves the stamp unchanged, and no
//!   event comes before the mapping is removed. So the first visit reads the file.
//! * No event comes for a write to a file by a loop device, by the kernel's NFS server, or by
//!   native asynchronous I/O (`io_submit`). The stamp shows it, so the later visits
//!   only examine the file: after two, four, eight times that time, and so on for an hour.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use types::RelPath;

/// Maximum number of files that wait. The next full scan finds changes of the files beyond it.
const FILES_MAX: usize = 100_000;
/// Maximum number of files that one scan visits, so that it does not delay the scan of what has
/// just changed.
const BATCH_MAX: usize = 1000;
/// Age of the last change after which a file is no longer visited: full scans are as frequent.
const AGE_MAX: Duration = Duration::from_secs(3600);

/// The next visit of a file.
#[derive(Clone, Copy, Debug)]
struct Visit {
    at: Duration,
    /// Time between the last change and the visit.
    age: Duration,
    is_first: bool,
}

/// The files that have changed.
#[derive(Debug, Default)]
pub(crate) struct Revisits {
    visits: HashMap<RelPath, Visit>,
    by_time: BTreeSet<(Duration, RelPath)>,
}

/// Files whose visit is due.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct DueFiles {
    /// Files that are read.
    pub(crate) read: Vec<RelPath>,
    /// Files that are examined, and read if their stamp is new.
    pub(crate) examined: Vec<RelPath>,
}

impl Revisits {
    /// Adds a file that was read at `now`; its first visit is due after `settle`. If that is
    /// zero, no file is visited.
    pub(crate) fn add(&mut self, path: RelPath, now: Duration, settle: Duration) {
        if settle.is_zero() {
            return;
        }
        self.set(path, Visit { at: now + settle, age: settle, is_first: true });
    }

    fn set(&mut self, path: RelPath, visit: Visit) {
        if self.visits.len() >= FILES_MAX && !self.visits.contains_key(&path) {
            return;
        }
        if let Some(old) = self.visits.insert(path.clone(), visit) {
            self.by_time.remove(&(old.at, path.clone()));
        }
        self.by_time.insert((visit.at, path));
    }

    /// Returns when the next visit is due.
    pub(crate) fn next_at(&self) -> Option<Duration> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// Returns files that are due, and plans their next visits.
    pub(crate) fn take_due(&mut self, now: Duration) -> DueFiles {
        let mut due = DueFiles::default();
        for _ in 0..BATCH_MAX {
            let Some((at, path)) = self.by_time.pop_first() else { break };
            if at > now {
                self.by_time.insert((at, path));
                break;
            }
            let Some(visit) = self.visits.remove(&path) else { continue };
            let age = visit.age * 2;
            if age <= AGE_MAX {
                self.set(path.clone(), Visit { at: now + visit.age, age, is_first: false });
            }
            if visit.is_first {
                due.read.push(path);
            } else {
                due.examined.push(path);
            }
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTLE: Duration = Duration::from_secs(40);

    const fn second(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn path(name: impl Into<Vec<u8>>) -> RelPath {
        RelPath::new(name.into()).unwrap()
    }

    fn read(files: &[&RelPath]) -> DueFiles {
        DueFiles { read: files.iter().map(|path| (*path).clone()).collect(), ..DueFiles::default() }
    }

    #[test]
    fn a_file_that_changes_again_is_due_later_and_once() {
        let (log, other) = (path("log"), path("other"));
        let mut revisits = Revisits::default();
        revisits.add(log.clone(), second(0), SETTLE);
        revisits.add(other.clone(), second(1), SETTLE);
        revisits.add(log.clone(), second(2), SETTLE);
        assert_eq!(revisits.next_at(), Some(second(41)));
        assert_eq!(revisits.take_due(second(40)), DueFiles::default());
        assert_eq!(revisits.take_due(second(41)), read(&[&other]));
        assert_eq!(revisits.take_due(second(50)), read(&[&log]));
    }

    #[test]
    fn a_file_is_read_once_and_then_examined_at_growing_intervals_for_an_hour() {
        let file = path("image");
        let mut revisits = Revisits::default();
        revisits.add(file.clone(), second(0), SETTLE);
        let mut times = Vec::new();
        while let Some(at) = revisits.next_at() {
            let due = revisits.take_due(at);
            let is_first = times.is_empty();
            assert_eq!((due.read.len(), due.examined.len()), (is_first.into(), (!is_first).into()));
            times.push(at.as_secs());
        }
        assert_eq!(times, [40, 80, 160, 320, 640, 1280, 2560]);
        assert!(revisits.visits.is_empty());
    }

    #[test]
    fn many_files_come_in_parts() {
        let mut revisits = Revisits::default();
        for number in 0..FILES_MAX + 5 {
            revisits.add(path(number.to_string()), second(0), SETTLE);
        }
        let parts = std::iter::from_fn(|| {
            Some(revisits.take_due(SETTLE).read.len()).filter(|count| *count > 0)
        });
        let parts: Vec<_> = parts.collect();
        assert_eq!(parts, vec![BATCH_MAX; FILES_MAX / BATCH_MAX]);
        assert_eq!(revisits.next_at(), Some(second(80)));
    }
}

//! Files that were changed shortly before they were read, and when each is read once more.
//!
//! A program that stores through a shared mapping (`mmap`) sets the times of the file when a
//! page is first written to, and again only after the kernel has written the page to the disk
//! ([`Tuning::settle`](crate::Tuning)). A store in between leaves the stamp unchanged, and no
//! event comes before the mapping is removed.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use types::RelPath;

/// Maximum number of files that wait. The next full scan reads the files beyond it.
const FILES_MAX: usize = 100_000;
/// Maximum number of files that are read once more in one scan, so that it does not delay the
/// scan of what has just changed.
const BATCH_MAX: usize = 1000;

/// The files that were changed shortly before they were read.
#[derive(Debug, Default)]
pub(crate) struct Settling {
    /// The files, in the order in which they are due. An entry whose time is not that of
    /// `due` is obsolete: the file has changed again since.
    queue: VecDeque<(Duration, RelPath)>,
    due: HashMap<RelPath, Duration>,
}

impl Settling {
    /// Adds a file that is due at `at`. No file that is in the queue is due later.
    pub(crate) fn add(&mut self, path: RelPath, at: Duration) {
        if self.queue.len() < FILES_MAX {
            self.due.insert(path.clone(), at);
            self.queue.push_back((at, path));
        }
    }

    /// Returns when the next file is due.
    pub(crate) fn next_at(&self) -> Option<Duration> {
        self.queue.front().map(|(at, _)| *at)
    }

    /// Removes files that are due, and returns them.
    pub(crate) fn take_due(&mut self, now: Duration) -> Vec<RelPath> {
        let mut taken = Vec::new();
        while taken.len() < BATCH_MAX {
            let Some((at, path)) = self.queue.pop_front_if(|(at, _)| *at <= now) else { break };
            if self.due.get(&path) == Some(&at) {
                self.due.remove(&path);
                taken.push(path);
            }
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_changes_again_is_due_later_and_once() {
        let second = Duration::from_secs;
        let [log, other] = ["log", "other"].map(|name| RelPath::new(name).unwrap());
        let mut settling = Settling::default();
        settling.add(log.clone(), second(40));
        settling.add(other.clone(), second(41));
        settling.add(log.clone(), second(42));
        assert_eq!(settling.next_at(), Some(second(40)));
        assert!(settling.take_due(second(39)).is_empty());
        assert!(settling.take_due(second(40)).is_empty());
        assert_eq!(settling.take_due(second(41)), [other]);
        assert_eq!(settling.take_due(second(50)), [log]);
        assert_eq!((settling.next_at(), settling.due.len()), (None, 0));
    }

    #[test]
    fn many_files_come_in_parts() {
        let mut settling = Settling::default();
        for number in 0..FILES_MAX + 5 {
            settling.add(RelPath::new(format!("{number}")).unwrap(), Duration::ZERO);
        }
        let parts = std::iter::from_fn(|| {
            Some(settling.take_due(Duration::ZERO).len()).filter(|count| *count > 0)
        });
        let parts: Vec<_> = parts.collect();
        assert_eq!(parts, vec![BATCH_MAX; FILES_MAX / BATCH_MAX]);
    }
}

//! Files that change while they are read, and when each is read again.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use types::RelPath;

use crate::settings::Tuning;

/// A file that changed while it was read.
#[derive(Clone, Copy, Debug)]
struct ChangingFile {
    /// When the first attempt failed.
    since: Duration,
    attempts: u32,
    next_at: Duration,
    /// True once an attempt has failed [`Tuning::unstable_after`] after the first one. Only
    /// [`Retries::add`] sets it, and its caller puts the file on the error list: otherwise the
    /// status could treat a file as listed that is not on the list yet.
    is_unstable: bool,
}

/// The files that changed while they were read.
#[derive(Debug, Default)]
pub(crate) struct Retries(BTreeMap<RelPath, ChangingFile>);

impl Retries {
    /// Adds a file that changed while it was read. Returns true if the file has been doing so
    /// for [`Tuning::unstable_after`].
    pub(crate) fn add(&mut self, path: RelPath, now: Duration, tuning: &Tuning) -> bool {
        let new = ChangingFile { since: now, attempts: 0, next_at: now, is_unstable: false };
        let file = self.0.entry(path).or_insert(new);
        let pause = tuning.retry_min.saturating_mul(1 << file.attempts.min(20));
        file.next_at = now + pause.min(tuning.retry_max);
        file.attempts += 1;
        file.is_unstable |= now.saturating_sub(file.since) >= tuning.unstable_after;
        file.is_unstable
    }

    /// Removes a file that was read or no longer exists.
    pub(crate) fn remove(&mut self, path: &RelPath) {
        self.0.remove(path);
    }

    /// Returns when the next attempt is due. Files for which `is_in_work` is true are ignored.
    pub(crate) fn next_at(&self, is_in_work: impl Fn(&RelPath) -> bool) -> Option<Duration> {
        let resting = self.0.iter().filter(|(path, _)| !is_in_work(path));
        resting.map(|(_, file)| file.next_at).min()
    }

    /// Returns all files.
    pub(crate) fn all(&self) -> HashSet<RelPath> {
        self.0.keys().cloned().collect()
    }

    /// Returns the files that are due, and the files that are not.
    pub(crate) fn split(&self, now: Duration) -> (Vec<RelPath>, HashSet<RelPath>) {
        let (mut due, mut resting) = (Vec::new(), HashSet::new());
        for (path, file) in &self.0 {
            if file.next_at <= now {
                due.push(path.clone());
            } else {
                resting.insert(path.clone());
            }
        }
        (due, resting)
    }

    /// Returns the files that have been changing for [`Tuning::unstable_after`]: the next
    /// attempt reads as much of them as holds still. This depends on the time alone, so that
    /// no further attempt has to fail first.
    pub(crate) fn overdue(&self, now: Duration, tuning: &Tuning) -> Vec<RelPath> {
        let is_overdue =
            |file: &ChangingFile| now.saturating_sub(file.since) >= tuning.unstable_after;
        self.0.iter().filter(|(_, file)| is_overdue(file)).map(|(path, _)| path.clone()).collect()
    }

    /// Returns the files that have changed during two attempts.
    pub(crate) fn repeated(&self) -> impl Iterator<Item = &RelPath> {
        self.0.iter().filter(|(_, file)| file.attempts >= 2).map(|(path, _)| path)
    }

    /// Returns the files for which [`Retries::add`] has returned true.
    pub(crate) fn unstable(&self) -> Vec<RelPath> {
        self.0.iter().filter(|(_, file)| file.is_unstable).map(|(path, _)| path.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_minute_the_next_attempt_may_read_a_part() {
        let (path, tuning) = (RelPath::new("log").unwrap(), Tuning::default());
        let mut retries = Retries::default();
        let mut now = Duration::ZERO;
        while now < tuning.unstable_after {
            assert!(retries.overdue(now, &tuning).is_empty());
            assert!(!retries.add(path.clone(), now, &tuning));
            now = retries.next_at(|_| false).unwrap();
        }
        // No attempt has failed since then, so the file is not on the error list.
        assert_eq!(retries.overdue(now, &tuning), std::slice::from_ref(&path));
        assert!(retries.unstable().is_empty());
    }

    #[test]
    fn pauses_grow_and_a_file_becomes_unstable() {
        let tuning = Tuning {
            retry_min: Duration::from_secs(1),
            retry_max: Duration::from_secs(8),
            unstable_after: Duration::from_secs(20),
            ..Tuning::default()
        };
        let path = RelPath::new("busy").unwrap();
        let mut retries = Retries::default();
        let mut now = Duration::ZERO;
        let mut pauses = Vec::new();
        let mut is_unstable = Vec::new();
        for _ in 0..7 {
            is_unstable.push(retries.add(path.clone(), now, &tuning));
            assert_eq!(retries.unstable().is_empty(), is_unstable.last() == Some(&false));
            let next = retries.next_at(|_| false).unwrap();
            pauses.push((next - now).as_secs());
            assert!(retries.split(next - Duration::from_millis(1)).0.is_empty());
            assert_eq!(retries.split(next).0, std::slice::from_ref(&path));
            now = next;
        }
        assert_eq!(pauses, [1, 2, 4, 8, 8, 8, 8]);
        assert_eq!(is_unstable, [false, false, false, false, false, true, true]);
        assert_eq!(retries.unstable(), std::slice::from_ref(&path));
        retries.remove(&path);
        assert_eq!(retries.next_at(|_| false), None);
    }
}

//! Files that change while they are read: when each is tried again.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use types::RelPath;

use crate::settings::Tuning;

/// One file that does not hold still.
#[derive(Clone, Copy, Debug)]
struct Retry {
    since: Duration,
    tries: u32,
    at: Duration,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Retries(BTreeMap<RelPath, Retry>);

impl Retries {
    /// A file changed while it was read. Tells whether it has done so for
    /// longer than anybody has patience.
    pub(crate) fn add(&mut self, path: RelPath, now: Duration, tuning: &Tuning) -> bool {
        let retry = self.0.entry(path).or_insert(Retry { since: now, tries: 0, at: now });
        let pause = tuning.retry_min.saturating_mul(1 << retry.tries.min(20));
        retry.at = now + pause.min(tuning.retry_max);
        retry.tries += 1;
        now.saturating_sub(retry.since) >= tuning.patience
    }

    /// A file was read, or is no more.
    pub(crate) fn remove(&mut self, path: &RelPath) {
        self.0.remove(path);
    }

    /// When the next is due.
    pub(crate) fn next_at(&self) -> Option<Duration> {
        self.0.values().map(|retry| retry.at).min()
    }

    /// All of them.
    pub(crate) fn all(&self) -> HashSet<RelPath> {
        self.0.keys().cloned().collect()
    }

    /// Those that are due, and those that rest.
    pub(crate) fn split(&self, now: Duration) -> (Vec<RelPath>, HashSet<RelPath>) {
        let (mut due, mut resting) = (Vec::new(), HashSet::new());
        for (path, retry) in &self.0 {
            if retry.at <= now {
                due.push(path.clone());
            } else {
                resting.insert(path.clone());
            }
        }
        (due, resting)
    }

    /// Those that have not been still for longer than anybody has patience.
    pub(crate) fn restless(&self, now: Duration, tuning: &Tuning) -> Vec<RelPath> {
        let is_restless = |retry: &Retry| now.saturating_sub(retry.since) >= tuning.patience;
        self.0.iter().filter(|(_, r)| is_restless(r)).map(|(path, _)| path.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_patience_ends() {
        let tuning = Tuning {
            retry_min: Duration::from_secs(1),
            retry_max: Duration::from_secs(8),
            patience: Duration::from_secs(20),
            ..Tuning::default()
        };
        let path = RelPath::new("busy").unwrap();
        let mut retries = Retries::default();
        let mut now = Duration::ZERO;
        let mut pauses = Vec::new();
        let mut ended = Vec::new();
        for _ in 0..7 {
            ended.push(retries.add(path.clone(), now, &tuning));
            let next = retries.next_at().unwrap();
            pauses.push((next - now).as_secs());
            assert!(retries.split(next - Duration::from_millis(1)).0.is_empty());
            assert_eq!(retries.split(next).0, std::slice::from_ref(&path));
            now = next;
        }
        assert_eq!(pauses, [1, 2, 4, 8, 8, 8, 8]);
        assert_eq!(ended, [false, false, false, false, false, true, true]);
        assert_eq!(retries.restless(now, &tuning), std::slice::from_ref(&path));
        retries.remove(&path);
        assert_eq!(retries.next_at(), None);
    }
}

//! The list of an instance's restores, with their progress and results.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use api::RestoreReport;
use parking_lot::Mutex;
use restore::{Progress, Report};
use types::RelPath;

/// Maximum number of restores in the list; the oldest finished one is dropped
/// first.
const RESTORES_MAX: usize = 100;

/// The restores of an instance since its start. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Restores(Arc<List>);

#[derive(Debug, Default)]
struct List {
    last_id: AtomicU64,
    restores: Mutex<BTreeMap<u64, Arc<RestoreStatus>>>,
}

/// One restore: its progress and, once it has finished, its result.
#[derive(Debug)]
struct RestoreStatus {
    id: u64,
    snapshot: String,
    passed_over: Option<String>,
    progress: Progress,
    end: Mutex<Option<RestoreEnd>>,
}

#[derive(Clone, Debug)]
pub(crate) enum RestoreEnd {
    Done(Report),
    Failed(String),
    Cancelled,
}

/// Completes the report of a restore that has finished. The instance and a
/// restore without an instance report the same.
pub fn restore_model(shown: RestoreReport, done: Report) -> RestoreReport {
    let is_complete = done.is_complete();
    let text = |path: &RelPath| String::from_utf8_lossy(path.as_bytes()).into_owned();
    RestoreReport {
        state: if is_complete { "done" } else { "failed" }.to_owned(),
        error: (!is_complete).then(|| incomplete(&done)),
        in_the_way: done.in_the_way,
        not_set: done.not_set,
        owners_not_set: done.owners_not_set,
        privileges_left_out: done.privileges_left_out,
        is_part: done.is_part,
        skipped: done.skipped,
        failed: done.failed,
        is_cut_short: done.is_cut_short,
        not_found: done.not_found.iter().map(text).collect(),
        ..shown
    }
}

/// Describes why a restore is incomplete. The remedy differs between the command
/// line and the web UI, which add it.
fn incomplete(done: &Report) -> String {
    let at_least = if done.is_cut_short { "at least " } else { "" };
    let counted = |count: usize, one: &str, more: &str| match count {
        0 => None,
        1 => Some(format!("1 {one}")),
        count => Some(format!("{at_least}{count} {more}")),
    };
    let parts = [
        counted(
            done.in_the_way.len(),
            "entry already exists and was not replaced",
            "entries already exist and were not replaced",
        ),
        counted(done.failed.len(), "entry was not restored", "entries were not restored"),
        counted(
            done.not_found.len(),
            "path is not in the snapshot",
            "paths are not in the snapshot",
        ),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join("; ")
}

impl RestoreStatus {
    fn to_api(&self) -> RestoreReport {
        let mut report = RestoreReport {
            id: self.id,
            state: "running".to_owned(),
            snapshot: self.snapshot.clone(),
            entries_done: self.progress.entries_done(),
            entries_total: self.progress.entries_total(),
            bytes_done: self.progress.bytes_done(),
            bytes_total: self.progress.bytes_total(),
            passed_over: self.passed_over.clone(),
            ..RestoreReport::default()
        };
        match self.end.lock().clone() {
            None => {}
            Some(RestoreEnd::Done(done)) => {
                report = restore_model(report, done);
            }
            Some(RestoreEnd::Failed(error)) => {
                report.state = "failed".to_owned();
                report.error = Some(error);
            }
            Some(RestoreEnd::Cancelled) => report.state = "cancelled".to_owned(),
        }
        report
    }
}

/// Keeps a restore in the state "running" while it exists. Dropping it without
/// [`RunningRestore::finish`], for example by a panic, marks the restore as
/// failed.
pub(crate) struct RunningRestore(Arc<RestoreStatus>);

impl RunningRestore {
    pub(crate) fn to_api(&self) -> RestoreReport {
        self.0.to_api()
    }

    pub(crate) fn progress(&self) -> &Progress {
        &self.0.progress
    }

    pub(crate) fn finish(self, end: RestoreEnd) {
        *self.0.end.lock() = Some(end);
    }
}

impl Drop for RunningRestore {
    fn drop(&mut self) {
        let mut end = self.0.end.lock();
        if end.is_none() {
            *end = Some(RestoreEnd::Failed("the restore ended unexpectedly; see the log".into()));
        }
    }
}

impl Restores {
    /// Returns the id of a new restore.
    pub(crate) fn next_id(&self) -> u64 {
        self.0.last_id.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Adds a running restore.
    pub(crate) fn add(
        &self,
        id: u64,
        snapshot: &str,
        passed_over: Option<String>,
    ) -> RunningRestore {
        let mut all = self.0.restores.lock();
        if all.len() >= RESTORES_MAX
            && let Some(id) =
                all.iter().find(|(_, restore)| restore.end.lock().is_some()).map(|(id, _)| *id)
        {
            all.remove(&id);
        }
        let restore = Arc::new(RestoreStatus {
            id,
            snapshot: snapshot.to_owned(),
            passed_over,
            progress: Progress::default(),
            end: Mutex::new(None),
        });
        all.insert(id, restore.clone());
        RunningRestore(restore)
    }

    /// Returns every restore, the oldest first.
    pub fn list(&self) -> Vec<RestoreReport> {
        self.0.restores.lock().values().map(|restore| restore.to_api()).collect()
    }

    /// Returns the restore with this id.
    pub fn get(&self, id: u64) -> Option<RestoreReport> {
        self.0.restores.lock().get(&id).map(|restore| restore.to_api())
    }

    /// Asks the restore with this id to stop soon, and returns its report.
    pub fn cancel(&self, id: u64) -> Option<RestoreReport> {
        let restore = self.0.restores.lock().get(&id).cloned()?;
        restore.progress.stop();
        Some(restore.to_api())
    }

    /// Reports whether a restore is running.
    pub fn is_any_running(&self) -> bool {
        self.0.restores.lock().values().any(|restore| restore.end.lock().is_none())
    }

    /// Asks every restore to stop soon. A restore that is run again skips the files
    /// that are restored already.
    pub(crate) fn stop(&self) {
        self.0.restores.lock().values().for_each(|restore| restore.progress.stop());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restore_whose_work_breaks_off_has_failed() {
        let restores = Restores::default();
        let id = restores.next_id();
        let running = restores.add(id, "aabb", None);
        assert_eq!(restores.get(id).unwrap().state, "running");
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            let _running = running;
            panic!("on purpose");
        }));
        assert!(panicked.is_err());
        let report = restores.get(id).unwrap();
        assert_eq!(report.state, "failed");
        assert!(report.error.unwrap().contains("ended unexpectedly"));
        // Another end stays.
        let id = restores.next_id();
        restores.add(id, "aabb", None).finish(RestoreEnd::Cancelled);
        assert_eq!(restores.get(id).unwrap().state, "cancelled");
    }

    #[test]
    fn an_incomplete_restore_is_described() {
        let list = |count: usize| (0..count).map(|number| number.to_string()).collect();
        let one = Report { in_the_way: list(1), ..Report::default() };
        assert_eq!(incomplete(&one), "1 entry already exists and was not replaced");
        let more = Report { failed: list(2), is_cut_short: true, ..one };
        assert_eq!(
            incomplete(&more),
            "1 entry already exists and was not replaced; at least 2 entries were not restored"
        );
    }

    #[test]
    fn of_many_the_oldest_that_have_ended_are_forgotten() {
        let restores = Restores::default();
        let first = restores.add(restores.next_id(), "aabb", None);
        for _ in 0..RESTORES_MAX + 5 {
            drop(restores.add(restores.next_id(), "aabb", None));
        }
        assert_eq!(restores.list().len(), RESTORES_MAX);
        assert_eq!(restores.get(first.0.id).unwrap().state, "running");
    }
}

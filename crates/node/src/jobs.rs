//! Jobs: long work that a client starts and then polls, such as a
//! verification.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use parking_lot::Mutex;

/// Maximum number of jobs in the list; the oldest finished one is dropped
/// first.
const JOBS_MAX: usize = 100;

/// The jobs of an instance since its start. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Jobs(Arc<Mutex<BTreeMap<u64, Arc<JobStatus>>>>);

/// One job: its progress and, once it has finished, its result.
#[derive(Debug)]
pub(crate) struct JobStatus {
    id: u64,
    kind: &'static str,
    /// Units of work done.
    pub(crate) done: AtomicU64,
    /// Units of work in total; 0 if not known yet.
    pub(crate) total: AtomicU64,
    started_at: Timestamp,
    end: Mutex<Option<(Timestamp, Result<serde_json::Value, String>)>>,
}

/// Another job of the same kind has not finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("another {kind} is running; wait until it has finished")]
pub struct AlreadyRunning {
    kind: &'static str,
}

impl JobStatus {
    pub(crate) fn to_api(&self) -> api::Job {
        let end = self.end.lock().clone();
        let ended_at = end.as_ref().map(|(at, _)| *at);
        let (state, result, error) = match end {
            None => ("running", None, None),
            Some((_, Ok(result))) => ("done", Some(result), None),
            Some((_, Err(error))) => ("failed", None, Some(error)),
        };
        let total = self.total.load(Ordering::Relaxed);
        api::Job {
            id: self.id,
            kind: self.kind.to_owned(),
            state: state.to_owned(),
            progress_done: self.done.load(Ordering::Relaxed),
            progress_total: (total > 0).then_some(total),
            result,
            error,
            started_at: Some(self.started_at),
            ended_at,
        }
    }

    fn finish(&self, result: Result<serde_json::Value, String>) {
        self.end.lock().get_or_insert_with(|| (Timestamp::now(), result));
    }
}

/// Keeps a job in the state "running" while it exists. Dropping it without
/// [`RunningJob::finish`], for example by a panic, marks the job as failed.
pub(crate) struct RunningJob(Arc<JobStatus>);

impl RunningJob {
    pub(crate) fn status(&self) -> &JobStatus {
        &self.0
    }

    pub(crate) fn finish(self, result: Result<serde_json::Value, String>) {
        self.0.finish(result);
    }
}

impl Drop for RunningJob {
    fn drop(&mut self) {
        self.0.finish(Err("the job ended unexpectedly; see the log".into()));
    }
}

impl Jobs {
    /// Reports whether a job is running.
    pub fn is_any_running(&self) -> bool {
        self.0.lock().values().any(|job| job.end.lock().is_none())
    }

    /// Returns every job, the oldest first.
    pub fn list(&self) -> Vec<api::Job> {
        self.0.lock().values().map(|job| job.to_api()).collect()
    }

    /// Returns the job with this id.
    pub fn get(&self, id: u64) -> Option<api::Job> {
        self.0.lock().get(&id).map(|job| job.to_api())
    }

    /// Adds a running job.
    ///
    /// # Errors
    ///
    /// Returns [`AlreadyRunning`] if a job of this kind is running.
    pub(crate) fn start(&self, kind: &'static str) -> Result<RunningJob, AlreadyRunning> {
        let mut jobs = self.0.lock();
        if jobs.values().any(|job| job.kind == kind && job.end.lock().is_none()) {
            return Err(AlreadyRunning { kind });
        }
        if jobs.len() >= JOBS_MAX
            && let Some(id) =
                jobs.iter().find(|(_, job)| job.end.lock().is_some()).map(|(id, _)| *id)
        {
            jobs.remove(&id);
        }
        let id = jobs.last_key_value().map_or(1, |(id, _)| id + 1);
        let job = Arc::new(JobStatus {
            id,
            kind,
            done: AtomicU64::new(0),
            total: AtomicU64::new(0),
            started_at: Timestamp::now(),
            end: Mutex::new(None),
        });
        jobs.insert(id, job.clone());
        Ok(RunningJob(job))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_job_that_panics_has_failed_and_the_next_may_begin() {
        let jobs = Jobs::default();
        let running = jobs.start("verify").unwrap();
        let id = running.status().id;
        assert!(jobs.start("verify").is_err());
        let panicked = tokio::spawn(async move {
            let _running = running;
            panic!("on purpose");
        });
        assert!(panicked.await.is_err());
        let job = jobs.get(id).unwrap();
        assert_eq!(job.state, "failed");
        assert!(job.error.unwrap().contains("ended unexpectedly") && job.ended_at.is_some());
        let next = jobs.start("verify").unwrap();
        let id = next.status().id;
        next.finish(Ok(serde_json::Value::Null));
        assert_eq!(jobs.get(id).unwrap().state, "done");
    }
}

//! The lane of long files: a thread of each folder that reads them one after the other, beside
//! the scans, so that small files are published meanwhile.
//!
//! A scan passes a long file to the lane instead of waiting for it. The file keeps its last row
//! until the folder's thread takes the result out of the lane.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};
use store::WriteEpoch;
use types::RelPath;

use super::chunks::Buffer;
use super::{FileReader, ReadJob, ReadResult, read_files};
use crate::work_monitor::WorkMonitor;

/// Maximum number of files in the lane. A scan reads further ones itself.
const JOBS_MAX: usize = 10_000;
/// Maximum time that the thread has to end.
const STOP_MAX: Duration = Duration::from_millis(500);
/// Interval of the checks whether it has ended.
const STOP_PAUSE: Duration = Duration::from_millis(2);

/// A reader of long files, and the time of the store from which its writes must be committed.
#[derive(Clone, Debug)]
pub(crate) struct LaneReader {
    pub(crate) reader: Arc<FileReader>,
    pub(crate) epoch: WriteEpoch,
}

/// The result for one file of the lane.
pub(crate) type LaneResult = (LaneReader, ReadResult);

/// A file in the lane.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    /// When the change was found that the read will cover.
    since: Duration,
    /// True if the error list says that the file is being read.
    is_listed: bool,
}

/// The lane of one folder. See the module.
pub(crate) struct Lane {
    /// Counts the work, and interrupts it.
    monitor: Arc<WorkMonitor>,
    waiting: BTreeMap<RelPath, Waiting>,
    /// Files that a scan skipped because they were in the lane, and when it first did: the read
    /// may not cover their last change. The next scan examines them.
    skipped: BTreeMap<RelPath, Duration>,
    /// Called after each result.
    on_result: Arc<dyn Fn() + Send + Sync>,
    thread: Option<LaneThread>,
}

struct LaneThread {
    jobs: Sender<(LaneReader, ReadJob)>,
    results: Receiver<LaneResult>,
    handle: JoinHandle<()>,
}

impl Lane {
    /// Returns an empty lane. `on_result` is called by its thread after each result.
    pub(crate) fn new(
        monitor: Arc<WorkMonitor>,
        on_result: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        Self {
            monitor,
            waiting: BTreeMap::new(),
            skipped: BTreeMap::new(),
            on_result: Arc::new(on_result),
            thread: None,
        }
    }

    /// Reports whether a file is in the lane.
    pub(crate) fn contains(&self, path: &RelPath) -> bool {
        self.waiting.contains_key(path)
    }

    /// Reports whether a file is in the lane, and so must not be examined by a scan now.
    pub(crate) fn skips(&mut self, path: &RelPath, now: Duration) -> bool {
        let is_in_lane = self.contains(path);
        if is_in_lane {
            self.skipped.entry(path.clone()).or_insert(now);
        }
        is_in_lane
    }

    /// Notes that a scan has examined all files whose results were taken.
    pub(crate) fn forget_skipped(&mut self) {
        self.skipped.retain(|path, _| self.waiting.contains_key(path));
    }

    /// Reports whether all changes were read that were found until `time`. If `may_be_listed` is
    /// true, files are ignored of which the error list says that they are being read.
    pub(crate) fn is_done(&self, time: Duration, may_be_listed: bool) -> bool {
        let is_open =
            |waiting: &Waiting| waiting.since <= time && !(may_be_listed && waiting.is_listed);
        !self.waiting.values().any(is_open)
            && !self.skipped.iter().any(|(path, at)| *at <= time && !self.contains(path))
    }

    /// Returns the time at which the next file will have been in the lane for `limit`, and is
    /// not on the error list.
    pub(crate) fn late_at(&self, limit: Duration) -> Option<Duration> {
        let unlisted = self.waiting.values().filter(|waiting| !waiting.is_listed);
        unlisted.map(|waiting| waiting.since + limit).min()
    }

    /// Returns the files that have been in the lane for `limit`, each once. The caller puts them
    /// on the error list.
    pub(crate) fn take_late(&mut self, now: Duration, limit: Duration) -> Vec<RelPath> {
        let late = self.waiting.iter_mut().filter(|(_, waiting)| {
            !waiting.is_listed && now.saturating_sub(waiting.since) >= limit
        });
        let listed = late.map(|(path, waiting)| {
            waiting.is_listed = true;
            path.clone()
        });
        listed.collect()
    }

    /// Adds a file. Returns the job if the lane is full or the system cannot start a thread.
    pub(crate) fn add(
        &mut self,
        reader: &LaneReader,
        job: ReadJob,
        now: Duration,
    ) -> Result<(), Box<ReadJob>> {
        if self.waiting.len() >= JOBS_MAX {
            return Err(Box::new(job));
        }
        if self.thread.is_none() {
            self.monitor.clear_interrupt();
            self.monitor.set_working(true);
            self.thread = LaneThread::start(self.on_result.clone());
        }
        let Some(thread) = &self.thread else { return Err(Box::new(job)) };
        let path = job.found.path.clone();
        // Sending fails only if the thread has panicked, which `take` reports.
        let sent = thread.jobs.send((reader.clone(), job));
        sent.map_err(|unsent| Box::new(unsent.into_inner().1))?;
        self.monitor.add_job();
        let since = self.skipped.remove(&path).unwrap_or(now);
        self.waiting.insert(path, Waiting { since, is_listed: false });
        Ok(())
    }

    /// Takes the results so far.
    pub(crate) fn take(&mut self) -> Vec<LaneResult> {
        let Some(thread) = &self.thread else { return Vec::new() };
        let results: Vec<_> = thread.results.try_iter().collect();
        for (_, read) in &results {
            self.monitor.end_job();
            self.waiting.remove(&read.path);
        }
        if self.waiting.is_empty() || thread.handle.is_finished() {
            self.end();
        }
        results
    }

    /// Drops all files of the lane. The work ends soon; a read that hangs is not waited for.
    pub(crate) fn cancel(&mut self) {
        self.monitor.interrupt();
        self.end();
        self.skipped.clear();
        self.monitor.end_all_jobs();
    }

    /// Ends the thread. Panics if the thread has panicked.
    fn end(&mut self) {
        self.waiting.clear();
        let Some(LaneThread { jobs, results, handle }) = self.thread.take() else { return };
        drop((jobs, results));
        self.monitor.set_working(false);
        let end = Instant::now() + STOP_MAX;
        while !handle.is_finished() && Instant::now() < end {
            std::thread::sleep(STOP_PAUSE);
        }
        if handle.is_finished()
            && let Err(panic) = handle.join()
            && !std::thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.cancel();
    }
}

impl LaneThread {
    fn start(on_result: Arc<dyn Fn() + Send + Sync>) -> Option<Self> {
        let (jobs, to_do) = unbounded::<(LaneReader, ReadJob)>();
        let (done, results) = unbounded();
        let work = move || {
            let mut buffer = Buffer::default();
            for (reader, job) in to_do {
                for read in read_files(&reader.reader, &mut buffer, vec![job]) {
                    if done.send((reader.clone(), read)).is_err() {
                        return;
                    }
                }
                on_result();
            }
        };
        let handle = std::thread::Builder::new().name("sync-long".to_owned()).spawn(work).ok()?;
        Some(Self { jobs, results, handle })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn path(text: &str) -> RelPath {
        RelPath::new(text).unwrap()
    }

    /// Returns a lane in which a file waits since a time; nothing is read.
    fn lane_with(file: &str, since: Duration) -> Lane {
        let mut lane = Lane::new(Arc::new(WorkMonitor::new()), || ());
        lane.waiting.insert(path(file), Waiting { since, is_listed: false });
        lane
    }

    #[test]
    fn a_scan_is_covered_after_the_files_that_it_found_were_read() {
        let mut lane = lane_with("image", s(10));
        assert!(lane.is_done(s(9), false) && !lane.is_done(s(10), false));
        // A scan at 13 s skips the file, which may have changed after it was read.
        assert!(lane.skips(&path("image"), s(13)) && !lane.skips(&path("other"), s(13)));
        assert!(lane.skips(&path("image"), s(14)));
        lane.waiting.clear();
        assert!(lane.is_done(s(12), false) && !lane.is_done(s(13), false));
        lane.forget_skipped();
        assert!(lane.is_done(s(20), false));
    }

    #[test]
    fn a_file_that_is_read_for_long_is_listed_once() {
        let mut lane = lane_with("image", s(10));
        assert_eq!(lane.late_at(s(60)), Some(s(70)));
        assert_eq!(lane.take_late(s(69), s(60)), []);
        assert_eq!(lane.take_late(s(70), s(60)), [path("image")]);
        assert_eq!((lane.take_late(s(71), s(60)), lane.late_at(s(60))), (Vec::new(), None));
        assert!(lane.is_done(s(70), true) && !lane.is_done(s(70), false));
    }
}

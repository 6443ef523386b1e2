//! The files of a folder that are read beside its scans: takes their results into the index, and
//! knows which scans are complete.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use fstree::TreeReader as _;
use jiff::Timestamp;
use parking_lot::Mutex;
use store::Pin;
use types::RelPath;

use super::mailbox::ScanReply;
use super::{Mailbox, Task};
use crate::error::SyncError;
use crate::hash::{Lane, LaneResult, ReadOutcome};
use crate::index::{Batch, Change};
use crate::scan::ScanReport;
use crate::watch::Hint;

/// Entry of the error list for a file that is read for long.
const BEING_READ: &str = "the file is long and is still being read; until then, its former \
    content stays in the backup";
/// Maximum number of scans that wait for files of the lane; of more, the last one is replaced.
const SCANS_MAX: usize = 64;

/// The files that are read beside the scans.
pub(super) struct LongFiles {
    /// Locked by the folder's thread only.
    pub(super) lane: Mutex<Lane>,
    /// Scans whose long files are not read yet: when each ended, and what it covers then.
    scans: VecDeque<(Duration, Timestamp)>,
    /// When a full scan ended, if it is complete only after its long files were read.
    full_scan: Option<Duration>,
    /// Requests that are answered when the files of a scan were read, which ended at this time.
    replies: Vec<(Duration, ScanReply)>,
    /// Other names of files in the lane, to be examined later.
    names: Vec<RelPath>,
    /// Keep the nodes of rows alive that are not published yet.
    pins: Vec<Arc<Pin>>,
}

impl LongFiles {
    pub(super) fn new(mailbox: &Arc<Mailbox>) -> Self {
        let wake = mailbox.clone();
        let lane = Lane::new(mailbox.long_monitor.clone(), move || wake.wake());
        Self {
            lane: Mutex::new(lane),
            scans: VecDeque::new(),
            full_scan: None,
            replies: Vec::new(),
            names: Vec::new(),
            pins: Vec::new(),
        }
    }

    /// Drops all work, because the settings of the folder have changed. Requests stay.
    pub(super) fn cancel(&mut self) {
        self.lane.lock().cancel();
        self.scans.clear();
        self.full_scan = None;
        self.names.clear();
    }

    /// Notes that all rows are in a manifest.
    pub(super) fn published(&mut self) {
        self.pins.clear();
    }

    /// Notes a scan that will cover everything until `covered` when its files were read.
    pub(super) fn add_scan(&mut self, now: Duration, covered: Timestamp) {
        if self.scans.len() >= SCANS_MAX {
            self.scans.pop_back();
        }
        self.scans.push_back((now, covered));
    }

    /// Keeps requests until the files of a scan that ended now were read.
    pub(super) fn add_replies(&mut self, now: Duration, replies: Vec<ScanReply>) {
        self.replies.extend(replies.into_iter().map(|reply| (now, reply)));
    }

    /// Takes all requests that wait.
    pub(super) fn take_replies(&mut self) -> Vec<ScanReply> {
        self.replies.drain(..).map(|(_, reply)| reply).collect()
    }

    /// Takes the requests whose files were read.
    pub(super) fn take_ready_replies(&mut self) -> Vec<ScanReply> {
        let lane = self.lane.lock();
        let is_ready = |(end, _): &mut (Duration, ScanReply)| lane.is_done(*end, false);
        self.replies.extract_if(.., is_ready).map(|(_, reply)| reply).collect()
    }
}

impl Task {
    /// Reports whether all changes that were found were read.
    pub(super) fn are_long_files_read(&self) -> bool {
        self.long.lane.lock().is_done(Duration::MAX, false)
    }

    /// Reports whether a file is in the lane.
    pub(super) fn is_in_lane(&self) -> impl Fn(&RelPath) -> bool {
        |path| self.long.lane.lock().contains(path)
    }

    /// Notes that the rows contain everything that was saved before `time`, unless a file
    /// changed while it was read. (A file that keeps changing is on the error list.)
    pub(super) fn note_scanned_until(&mut self, time: Timestamp) {
        if self.has_unstable_files() {
            return;
        }
        let time = self.pacing.limit(time);
        if self.long.lane.lock().is_done(Duration::MAX, true) {
            self.scanned_until = self.scanned_until.max(Some(time));
        } else {
            self.long.add_scan(self.now(), time);
        }
    }

    /// Notes that a full scan has ended whose long files are not read yet.
    pub(super) fn note_full_scan(&mut self) {
        // The files of an earlier one were read, or are in the lane again.
        self.long.full_scan = Some(self.now());
    }

    /// Takes the results of the lane into the index, and completes the scans that waited for
    /// them.
    pub(super) fn take_long_files(&mut self) -> Result<(), SyncError> {
        let results = self.long.lane.lock().take();
        if !results.is_empty()
            && let Err(error) = self.record_long_files(results)
        {
            // The next full scan finds all files of these results again. Until then, nothing
            // that waited for them is complete.
            self.schedule.request_full_scan();
            self.long.scans.clear();
            self.long.full_scan = None;
            return Err(error);
        }
        self.list_late_files()?;
        if self.rescan.is_empty() {
            self.complete_scans()?;
        }
        Ok(())
    }

    fn record_long_files(&mut self, results: Vec<LaneResult>) -> Result<(), SyncError> {
        let mut batch = Batch::default();
        let mut report = ScanReport::default();
        let mut linked = Vec::new();
        for (lane_reader, read) in results {
            let (reader, path) = (lane_reader.reader, read.path);
            // A change meanwhile was skipped by the scans.
            self.rescan.add_file(path.clone());
            match read.outcome {
                ReadOutcome::Row(row) => {
                    if reader.unsaved_blocks.take() {
                        self.context.store.commit(lane_reader.epoch)?;
                    }
                    if reader.unsaved_locations.take() {
                        self.context.in_place.commit()?;
                    }
                    self.retries.remove(&path);
                    let found = reader.root.examine(&path).ok().flatten();
                    if found.is_none_or(|found| found.stamp.inode != row.stamp.inode) {
                        // Another file, or none, has the name now; the scan decides.
                        continue;
                    }
                    if row.links > 1 {
                        linked.push(row.stamp);
                    }
                    if row.is_unsettled {
                        report.unsettled.push(path.clone());
                    }
                    self.long.pins.push(reader.pin.clone());
                    // The row may have been replaced meanwhile; see `lost`.
                    let before = self.context.index.row(self.record.number, &path)?;
                    let before = before.map(|row| row.stamp);
                    batch.add(path, Change::Put { row, before });
                }
                ReadOutcome::Changing => report.changing.push(path),
                ReadOutcome::Gone => self.retries.remove(&path),
                ReadOutcome::Failed(what) => {
                    self.retries.remove(&path);
                    batch.add(path, Change::Fail { what, is_marked: true });
                }
                ReadOutcome::Broken(error) => return Err(error),
            }
        }
        let now = self.context.clock.now();
        let applied = self.context.index.apply(&self.mailbox.id, &batch, now)?;
        self.context.files.add_former(self.record.number, &applied.replaced);
        self.note_report(report)?;
        for path in std::mem::take(&mut self.long.names) {
            self.rescan.add_file(path);
        }
        for stamp in linked {
            for number in self.context.files.numbers() {
                for (other, row) in self.context.index.names_of_inode(number, stamp.inode)? {
                    if row.stamp == stamp {
                        continue;
                    }
                    if number == self.record.number {
                        self.rescan.add_file(other);
                    } else {
                        let dir = other.parent().unwrap_or_else(RelPath::root);
                        (self.context.hints.0)(number, Hint::Dirty(dir));
                    }
                }
            }
        }
        self.rescan_at = Some(self.now());
        self.reload()?;
        let pending = self.pending_changes();
        self.schedule.scanned(self.now(), false, None, pending);
        Ok(())
    }

    /// Puts files on the error list that are read for long, so that the status can say that
    /// everything else is backed up. A first scan shows its progress instead.
    fn list_late_files(&mut self) -> Result<(), SyncError> {
        if !self.record.is_scanned {
            return Ok(());
        }
        let limit = self.context.tuning.unstable_after;
        let mut batch = Batch::default();
        for path in self.long.lane.lock().take_late(self.now(), limit) {
            let what = BEING_READ.to_owned();
            batch.add(path, Change::Fail { what, is_marked: false });
        }
        if !batch.is_empty() {
            self.context.index.apply(&self.mailbox.id, &batch, self.context.clock.now())?;
            self.reload()?;
        }
        Ok(())
    }

    /// Returns when the next file has to be listed.
    pub(super) fn next_late_file(&self) -> Option<Duration> {
        let limit = self.context.tuning.unstable_after;
        self.long.lane.lock().late_at(limit).filter(|_| self.record.is_scanned)
    }

    /// Completes the scans whose long files were read.
    fn complete_scans(&mut self) -> Result<(), SyncError> {
        let is_stable = !self.has_unstable_files();
        let lane = self.long.lane.get_mut();
        while is_stable
            && let Some((end, covered)) = self.long.scans.front().copied()
            && lane.is_done(end, true)
        {
            self.long.scans.pop_front();
            self.scanned_until = self.scanned_until.max(Some(covered));
        }
        if self.long.full_scan.take_if(|end| lane.is_done(*end, false)).is_some() {
            self.context.index.update(&self.mailbox.id, |record| {
                record.is_scanned = true;
                record.is_rehash_due = false;
                record.distrusted_since = None;
            })?;
            self.reload()?;
            let pending = self.pending_changes();
            self.schedule.scanned(self.now(), false, None, pending);
        }
        Ok(())
    }

    /// Notes the other names of files that a scan has passed to the lane.
    pub(super) fn note_long_names(&mut self, names: Vec<RelPath>) {
        self.long.names.extend(names);
    }
}

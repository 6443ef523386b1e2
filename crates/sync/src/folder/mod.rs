//! The thread of one folder: waits until work is due, scans the disk and publishes
//! manifests.
//!
//! Only this thread changes the state of the folder. Other threads post requests and hints
//! to its [`Mailbox`]. [`Schedule`] decides what is due; a scan and a publication run to
//! their end, or until the mailbox interrupts them.

mod commands;
mod hooks;
mod hung_mounts;
mod long_files;
mod lost;
mod mailbox;
mod modes;
mod own_dirs;
mod pacing;
mod publishing;
mod retries;
mod revisits;
mod scan_failure;
mod status;
#[cfg(test)]
mod tests;

pub(crate) use status::problem;

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fstree::{Ground, Owners, SourceTree, TreeReader as _};
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use store::{FileId, Pin};
use types::{RelPath, with_causes};

pub(crate) use hung_mounts::may_hang;
pub(crate) use mailbox::{Config, Mailbox};

use crate::context::Context;
use crate::error::SyncError;
use crate::hash::{self, FileReader, LaneReader, Unsaved};
use crate::index::{AlarmRecord, Batch, Change, FolderRecord, RowStamp};
use crate::publish;
use crate::root_id::RootId;
use crate::scan::{self, HintedFiles, ScanError, ScanOptions, ScanReport, Targets, normalise};
use crate::schedule::{Action, Schedule, Span};
use crate::status::{AlarmKind, FolderState};
use hooks::Hooks;
use hung_mounts::HungMounts;
use long_files::LongFiles;
use pacing::Pacing;
use publishing::FirstScan;
use retries::Retries;
use revisits::Revisits;
use scan_failure::ScanFailure;

/// Entry of the error list for a file that has been changing for too long.
const UNSTABLE: &str =
    "the file keeps changing while it is read; its last readable content stays in the backup";
/// Maximum time between a change and its hint: several pauses of the watcher.
const HINT_LAG: SignedDuration = SignedDuration::from_millis(100);

/// Result of [`Task::turn`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Work was done; more may be due.
    Worked,
    /// Nothing is due until this time of the clock, or until something is posted.
    Waits(Option<Duration>),
    /// The mailbox had the request to stop.
    Stopped,
}

/// The state of a folder's thread.
pub(crate) struct Task {
    context: Arc<Context>,
    mailbox: Arc<Mailbox>,
    config: Config,
    record: FolderRecord,
    schedule: Schedule,
    retries: Retries,
    revisits: Revisits,
    /// Files that change all the time.
    pacing: Pacing,
    /// When the current scan started.
    scan_started: Timestamp,
    /// Files of `revisits` that the current scan reads.
    settled: HashSet<RelPath>,
    hinted: HintedFiles,
    hooks: Hooks,
    /// Paths that have to be scanned again, and when.
    rescan: Targets,
    rescan_at: Option<Duration>,
    /// Files to be read even if their stamp has not changed.
    suspects: HashSet<RelPath>,
    /// Versions of files that were overwritten before the backup server had them.
    lost: BTreeMap<RelPath, FileId>,
    /// Files whose content was missing from the store at the last attempt to publish.
    missing: HashSet<RelPath>,
    /// See [`ScanOptions::applied_rules`].
    applied_rules: BTreeMap<RelPath, Option<RowStamp>>,
    /// Number of directories that cannot be watched.
    unwatched: u64,
    /// The file system of the root at the last scan.
    ground: Option<Ground>,
    /// Keeps the nodes of unpublished rows alive.
    pin: Arc<Pin>,
    /// Mounts in the folder that do not answer.
    hung_mounts: HungMounts,
    /// The files that are read beside the scans.
    long: LongFiles,
    owners: Owners,
    /// True during a requested scan, which reads changing files without a pause.
    is_on_request: bool,
    /// True during a scan after the user has confirmed the current root, even an empty one.
    is_root_confirmed: bool,
    /// True during a scan after the user has confirmed the current mounts in the folder.
    are_mounts_confirmed: bool,
    /// The last error of the work, and when it first occurred.
    last_error: Option<(String, Timestamp)>,
    /// The rows contain everything that was saved before this time. `None` until the first
    /// full scan has ended.
    scanned_until: Option<Timestamp>,
    /// See [`crate::FolderStatus::covers_until`].
    covers_until: Option<Timestamp>,
}

impl Task {
    /// Creates the task of a folder with the stored state `record`. When this returns, the
    /// nodes of its rows are pinned, so it must be called before any collection.
    pub(crate) fn new(
        context: Arc<Context>,
        mailbox: Arc<Mailbox>,
        config: Config,
        record: FolderRecord,
    ) -> Result<Self, SyncError> {
        let pin = Arc::new(context.store.pin());
        let missing = publish::pin_unpublished(&context, &record, &pin)?;
        Ok(Self {
            schedule: Schedule::new(config.times.clone()),
            hung_mounts: HungMounts::new(),
            long: LongFiles::new(&mailbox),
            context,
            mailbox,
            config,
            record,
            retries: Retries::default(),
            revisits: Revisits::default(),
            pacing: Pacing::default(),
            scan_started: Timestamp::UNIX_EPOCH,
            settled: HashSet::new(),
            hinted: HintedFiles::default(),
            hooks: Hooks::default(),
            rescan: Targets::default(),
            rescan_at: None,
            unwatched: 0,
            ground: None,
            suspects: missing.into_iter().collect(),
            lost: BTreeMap::new(),
            missing: HashSet::new(),
            applied_rules: BTreeMap::new(),
            pin,
            owners: Owners::system(),
            is_on_request: false,
            is_root_confirmed: false,
            are_mounts_confirmed: false,
            last_error: None,
            scanned_until: None,
            covers_until: None,
        })
    }

    fn now(&self) -> Duration {
        self.context.clock.elapsed()
    }

    /// Works until the mailbox has the request to stop.
    pub(crate) fn run(mut self) {
        loop {
            match self.turn() {
                Turn::Worked => {}
                Turn::Waits(until) => {
                    self.mailbox.wait(until.map(|until| until.saturating_sub(self.now())));
                }
                Turn::Stopped => return,
            }
        }
    }

    /// Does the next piece of work, if one is due.
    pub(crate) fn turn(&mut self) -> Turn {
        let (mut requests, hints) = self.mailbox.take_requests();
        if requests.is_stop {
            requests.scans.extend(self.long.take_replies());
            self.refuse(requests.scans, requests.confirms, || SyncError::Stopped);
            return Turn::Stopped;
        }
        if let Some(config) = requests.config {
            self.configure(config);
        }
        if self.config.folder.paused {
            let id = self.mailbox.id.clone();
            requests.scans.extend(self.long.take_replies());
            self.refuse(requests.scans, requests.confirms, || SyncError::Paused(id.clone()));
            return Turn::Waits(None);
        }
        if let Err(error) = self.take_long_files() {
            self.report_error(&error);
        }
        self.schedule.hints = hints;
        let retry_at = self.retries.next_at(self.is_in_lane());
        let (revisits, mounts) = (self.revisits.next_at(), self.hung_mounts.next_at());
        let paced = self.pacing.next_at(self.context.tuning.publish_interval_max);
        let hooks = self.hooks.next_at(&self.config.folder.hooks);
        let again_at = [retry_at, self.rescan_at, revisits, mounts, paced, hooks];
        self.schedule.retry_at = again_at.into_iter().flatten().min();
        if !requests.confirms.is_empty() {
            self.answer_confirms(requests.confirms);
            self.answer_scans(requests.scans);
            return Turn::Worked;
        }
        if !requests.scans.is_empty() {
            self.answer_scans(requests.scans);
            return Turn::Worked;
        }
        if self.rescan.is_empty() {
            let replies = self.long.take_ready_replies();
            if !replies.is_empty() {
                self.answer_read_scans(replies);
                return Turn::Worked;
            }
        }
        let now = self.now();
        let result = match self.schedule.next(now) {
            action if !matches!(action, Action::Wait(_)) && self.are_hooks_due() => {
                self.publish_with_hooks()
            }
            Action::ScanAll => self.scan_all(),
            Action::ScanDirty => self.scan_dirty(),
            Action::Publish => self.publish_with_hooks(),
            Action::Wait(until) => {
                self.show_rest();
                return Turn::Waits([until, self.next_late_file()].into_iter().flatten().min());
            }
        };
        if let Err(error) = result {
            self.report_error(&error);
        }
        Turn::Worked
    }

    fn configure(&mut self, config: Config) {
        let old = std::mem::replace(&mut self.config, config);
        self.schedule.times = self.config.times.clone();
        self.adapt_rescan_interval();
        let (old, new) = (old.folder, &self.config.folder);
        if new.paused {
            self.context.watcher.unwatch_folder(self.record.number);
        }
        if old != *new {
            self.context.files.set_root(self.record.number, new.path.clone());
            self.schedule.unblock();
            self.schedule.request_full_scan();
            self.long.cancel();
            (self.scanned_until, self.covers_until) = (None, None);
        }
        self.show_rest();
    }

    /// Logs an error, shows it in the status and delays the next attempt. Ignores alarms,
    /// which have a state of their own, and interruptions.
    fn report_error(&mut self, error: &SyncError) {
        if matches!(error, SyncError::Stopped | SyncError::Alarm { .. }) {
            return;
        }
        let text = with_causes(error);
        tracing::warn!(folder = %self.mailbox.id, error = text, "cannot back up the folder");
        let first = self.last_error.take().map(|(_, since)| since);
        let since = first.unwrap_or_else(|| self.context.clock.now());
        self.last_error = Some((text, since));
        self.schedule.failed(self.now());
        self.show_rest();
    }

    fn reload(&mut self) -> Result<(), SyncError> {
        let record = self.context.index.folder(&self.mailbox.id)?;
        self.record = record.ok_or_else(|| SyncError::UnknownFolder(self.mailbox.id.clone()))?;
        Ok(())
    }

    fn scan_all(&mut self) -> Result<(), SyncError> {
        let started = self.context.clock.now();
        self.scan_started = started;
        let pending = self.mailbox.take_pending_scan();
        self.suspects.extend(pending.suspects);
        self.lost.extend(pending.lost);
        self.hinted.add_dirs(pending.targets.dirs);
        (self.rescan, self.rescan_at) = (Targets::default(), None);
        self.scan(Targets::all(), pending.hints)?;
        if !self.are_long_files_read() {
            self.note_full_scan();
        }
        self.note_scanned_until(started);
        Ok(())
    }

    fn scan_dirty(&mut self) -> Result<(), SyncError> {
        let started = self.context.clock.now();
        self.scan_started = started;
        // Before the hints are taken: all changes until then are among them.
        let unread = self.context.watcher.unread_time();
        let pending = self.mailbox.take_pending_scan();
        self.suspects.extend(pending.suspects);
        self.lost.extend(pending.lost);
        self.rescan_at = None;
        let mut targets = std::mem::take(&mut self.rescan);
        for (dir, is_deep) in pending.targets.dirs {
            targets.add_dir(dir, is_deep);
        }
        for path in pending.targets.files {
            targets.add_file(path);
        }
        for path in self.split_retries().0 {
            targets.add_file(path);
        }
        let revisited = self.revisits.take_due(self.now());
        for path in revisited.read.iter().chain(&revisited.examined) {
            targets.add_file(path.clone());
        }
        self.settled.extend(revisited.read);
        let interval = self.context.tuning.publish_interval_max;
        for path in self.pacing.take_due(self.now(), interval) {
            targets.add_file(path);
        }
        for dir in self.hung_mounts.take_due(self.now()) {
            targets.add_dir(dir, false);
        }
        let targets = normalise(&self.context.index, self.record.number, targets)?;
        self.scan(targets, pending.hints)?;
        // If the whole folder is watched, nothing has changed elsewhere.
        if self.scanned_until.is_some() && self.is_watched() {
            let unread = SignedDuration::try_from(unread).unwrap_or(SignedDuration::MAX);
            let lag = HINT_LAG.saturating_add(unread);
            self.note_scanned_until(started.saturating_sub(lag).unwrap_or(Timestamp::MIN));
        }
        Ok(())
    }

    /// Returns the changing files that are due to be read, and those that are not.
    fn split_retries(&self) -> (Vec<RelPath>, HashSet<RelPath>) {
        if self.is_on_request {
            return (self.retries.all().into_iter().collect(), HashSet::new());
        }
        self.retries.split(self.now())
    }

    /// Scans the targets and notes the results. If the scan fails, the next one is a full
    /// scan.
    fn scan(&mut self, targets: Targets, hints: Option<Span>) -> Result<(), SyncError> {
        if targets.is_empty() {
            self.schedule.scanned(self.now(), false, hints, self.pending_changes());
            return Ok(());
        }
        self.show(FolderState::Scanning);
        self.mailbox.monitor.set_working(true);
        let is_all = targets.is_all();
        let result = self.scan_impl(targets, is_all);
        self.mailbox.monitor.set_working(false);
        match result {
            Ok(()) => {}
            Err(ScanFailure::Alarm(kind, text)) => return Err(self.raise_alarm(kind, text)?),
            Err(ScanFailure::Other(error)) => {
                self.schedule.request_full_scan();
                return Err(error);
            }
        }
        self.last_error = None;
        self.reload()?;
        self.adapt_rescan_interval();
        self.keep_lost()?;
        let pending = self.pending_changes();
        self.schedule.scanned(self.now(), is_all, hints, pending);
        Ok(())
    }

    /// Shortens the interval of full scans if some directories cannot be watched.
    fn adapt_rescan_interval(&mut self) {
        let rescan = self.config.times.rescan;
        self.schedule.times.rescan = if self.is_watched() {
            rescan
        } else {
            rescan.min(self.context.tuning.unwatched_interval)
        };
    }

    /// Stops the folder until the alarm has passed or the user has confirmed. Returns the
    /// error for requesters.
    fn raise_alarm(&mut self, kind: AlarmKind, text: String) -> Result<SyncError, SyncError> {
        self.schedule.alarmed(self.now());
        if self.record.alarm.as_ref().is_none_or(|alarm| alarm.kind != kind) {
            tracing::error!(folder = %self.mailbox.id, "{text}");
            let since = self.context.clock.now();
            let alarm = AlarmRecord { kind, text: text.clone(), since };
            self.context.index.update(&self.mailbox.id, |record| record.alarm = Some(alarm))?;
            self.reload()?;
        }
        self.show_rest();
        Ok(SyncError::Alarm { folder: self.mailbox.id.clone(), text })
    }

    fn scan_impl(&mut self, targets: Targets, is_all: bool) -> Result<(), ScanFailure> {
        let folder = self.config.folder.clone();
        let mut root = SourceTree::open(&folder.path).map_err(|error| self.root_failure(&error))?;
        let identity = RootId::of(&root);
        if let Some(known) = &self.record.root
            && !known.is_same(&identity)
            && !self.is_root_confirmed
        {
            return Err(self.root_replaced());
        }
        root.set_hung(self.hung_mounts.update(&folder.path, self.context.clock.elapsed()));
        let ground = self.ground.insert(root.ground());
        let has_true_holes = hash::tells_holes(&ground.file_system);
        let ground = ground.kind;
        if self.record.root.is_none() {
            // Stored before the first row, so that rows always belong to a known root.
            let root = Some(identity.clone());
            self.context.index.update(&self.mailbox.id, |record| record.root = root)?;
        }
        let own_dirs = self.own_dirs()?;
        let own_folders = self.own_folders();
        let root = Arc::new(root);
        let reader = |pin, monitor| {
            Arc::new(FileReader {
                root: root.clone(),
                index: self.context.index.clone(),
                store: self.context.store.clone(),
                scheme: self.context.scheme.clone(),
                in_place: self.context.in_place.clone(),
                pin,
                monitor,
                clock: self.context.clock.clone(),
                settle: self.context.tuning.settle,
                clone_dir: self.context.state_dir.clone(),
                unsaved_blocks: Unsaved::default(),
                unsaved_locations: Unsaved::default(),
                has_true_holes,
                second_reader: Mutex::default(),
            })
        };
        let lane_reader = LaneReader {
            epoch: self.context.store.write_epoch(),
            reader: reader(Arc::new(self.context.store.pin()), self.mailbox.long_monitor.clone()),
        };
        let reader = reader(self.pin.clone(), self.mailbox.monitor.clone());
        let distrusted_since = self.record.distrusted_since.map(Timestamp::as_nanosecond);
        let modes = self.modes()?;
        let mut resting = self.split_retries().1;
        if self.is_on_request {
            self.pacing.skip_none();
        } else {
            let interval = self.context.tuning.publish_interval_max;
            let paced = self.pacing.resting(self.now(), interval);
            // A version that was requested too late must be replaced.
            resting.extend(paced.into_iter().filter(|path| !self.suspects.contains(path)));
        }
        self.owners.refresh();
        let mut applied_rules = std::mem::take(&mut self.applied_rules);
        let mut first_scan = FirstScan::start(self).filter(|_| is_all);
        let batch_time = self.context.tuning.batch_time;
        let batch_time = first_scan.as_ref().map_or(batch_time, FirstScan::interval);
        let options = ScanOptions {
            folder: &self.mailbox.id,
            number: self.record.number,
            targets,
            exclude: &folder.exclude,
            own_folders: &own_folders,
            are_mounts_confirmed: self.are_mounts_confirmed,
            one_file_system: folder.one_file_system,
            exclude_caches: folder.exclude_caches,
            ground,
            own_dirs: &own_dirs,
            is_rehash: self.record.is_rehash_due && is_all,
            distrusted_since: distrusted_since.filter(|_| is_all),
            suspects: &self.suspects,
            retried: &self.retries.all(),
            // A file that was read in an earlier life of the instance is in no queue.
            reads_unsettled: is_all
                && (self.scanned_until.is_none() || (self.is_on_request && !self.is_watched())),
            hinted: self.is_on_request.then_some(&self.hinted),
            settled: &self.settled,
            resting: &resting,
            modes: &modes,
            may_be_empty: self.is_root_confirmed,
            applied_rules: &mut applied_rules,
            batch_time,
            lane: self.long.lane.lock(),
            lane_reader,
            on_saved: &mut || first_scan.as_mut().map_or(Ok(()), FirstScan::publish_if_due),
        };
        let result = scan::scan(&self.context, options, reader);
        self.applied_rules = applied_rules;
        let report = match result {
            Ok(report) => report,
            Err(ScanError::Empty) => {
                let text = format!(
                    "{} is empty. If you deleted everything on purpose, run \
                     `archivist folder confirm {}`",
                    folder.path.display(),
                    folder.id
                );
                return Err(ScanFailure::Alarm(AlarmKind::RootEmpty, text));
            }
            Err(ScanError::Other(SyncError::Root(error))) => return Err(self.root_failure(&error)),
            Err(ScanError::Other(error @ SyncError::Unreadable { .. })) => {
                return Err(ScanFailure::Alarm(AlarmKind::RootGone, with_causes(&error)));
            }
            Err(ScanError::Other(error)) => return Err(error.into()),
        };
        self.long.lane.lock().forget_skipped();
        let are_all_read = self.are_long_files_read();
        if is_all || self.record.alarm.is_some() {
            let now = self.context.clock.now();
            self.context.index.update(&self.mailbox.id, |record| {
                record.root = Some(identity);
                record.alarm = None;
                if is_all {
                    record.last_scan = Some(now);
                }
                if is_all && are_all_read {
                    record.is_scanned = true;
                    record.is_rehash_due = false;
                    record.distrusted_since = None;
                }
            })?;
        }
        self.suspects.clear();
        self.settled.clear();
        if is_all && self.is_on_request {
            self.hinted.clear();
        }
        self.unwatched = report.unwatched + if is_all { 0 } else { self.unwatched };
        Ok(self.note_report(report)?)
    }

    fn note_report(&mut self, report: ScanReport) -> Result<(), SyncError> {
        let now = self.now();
        self.note_long_names(report.long_names);
        for path in &report.resolved {
            self.retries.remove(path);
        }
        let mut unstable = Batch::default();
        for path in report.changing {
            if self.retries.add(path.clone(), now, &self.context.tuning) {
                let what = UNSTABLE.to_owned();
                unstable.add(path, Change::Fail { what, is_marked: true });
            }
        }
        if !unstable.is_empty() {
            self.context.index.apply(&self.mailbox.id, &unstable, self.context.clock.now())?;
        }
        for (path, was_unpublished) in report.replaced {
            self.pacing.note_read(path, was_unpublished, now, self.scan_started);
        }
        self.hinted.add_files(report.hinted);
        for path in report.unsettled {
            self.revisits.add(path, now, self.context.tuning.settle);
        }
        for path in report.unread {
            self.rescan.add_file(path.clone());
            self.suspects.insert(path);
            self.rescan_at = Some(now);
        }
        for dir in report.rescan {
            self.rescan.add_dir(dir, true);
            self.rescan_at = Some(now + self.context.tuning.retry_min);
        }
        Ok(())
    }
}

/// Formats a path for people.
fn display_path(path: &Path) -> String {
    path.display().to_string()
}

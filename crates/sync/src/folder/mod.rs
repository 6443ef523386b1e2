//! One folder: a thread that waits until something is due, looks at the disk,
//! and makes manifests. It alone changes the folder's state; others tell it
//! things through [`Mailbox`].

mod asked;
mod mailbox;
mod publishing;
mod retries;
mod status;
#[cfg(test)]
mod tests;

pub(crate) use status::problem;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use fstree::{Owners, RootError, SourceTree, TreeReader as _};
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use store::Pin;
use types::{RelPath, with_causes};

pub(crate) use mailbox::{Config, Mailbox};

use crate::core::Core;
use crate::error::SyncError;
use crate::hash::{Mode, Reading, Unsaved};
use crate::index::{AlarmRecord, Batch, Change, FolderRecord, RowStamp};
use crate::publish::{self, Standing};
use crate::root_id::RootId;
use crate::scan::{Order, ScanError, Targets, normalise, scan};
use crate::schedule::{Action, Schedule};
use crate::status::{AlarmKind, FolderState, WatchMode};
use publishing::FirstLook;
use retries::Retries;

/// A file of which this many versions were found changed when somebody asked
/// for a block has its blocks put into the store from then on.
const HOT: u32 = 3;
/// A change can be as old as this before the watcher has told of it: several
/// of its pauses.
const HINT_LAG: SignedDuration = SignedDuration::from_millis(100);

/// See the module.
pub(crate) struct Task {
    core: Arc<Core>,
    mailbox: Arc<Mailbox>,
    config: Config,
    record: FolderRecord,
    schedule: Schedule,
    retries: Retries,
    /// What is to be looked at again soon.
    again: Targets,
    again_at: Option<Duration>,
    suspects: HashSet<RelPath>,
    /// Files whose content was missing when it was to be published.
    missing: HashSet<RelPath>,
    /// See [`Order::obeyed`].
    obeyed: BTreeMap<RelPath, Option<RowStamp>>,
    /// How many directories cannot be watched.
    unwatched: u64,
    /// Keeps alive what rows name that is in no manifest yet.
    pin: Arc<Pin>,
    owners: Owners,
    /// Somebody waits: no file is left alone because it changed before.
    is_asked: bool,
    /// What the user has confirmed: the root that is there, empty or not.
    is_accepted: bool,
    trouble: Option<(String, Timestamp)>,
    /// The rows have whatever was saved before this. Not known before
    /// everything was looked at.
    seen: Option<Timestamp>,
    /// See [`crate::FolderStatus::covers_until`].
    covers_until: Option<Timestamp>,
}

impl Task {
    /// A task for a folder whose state is `record`. What its rows name is kept
    /// from when this returns, so that it has to be before any collection.
    pub(crate) fn new(
        core: Arc<Core>,
        mailbox: Arc<Mailbox>,
        config: Config,
        record: FolderRecord,
    ) -> Result<Self, SyncError> {
        let pin = Arc::new(core.store.pin());
        let missing = publish::keep_unpublished(&core, &record, &pin)?;
        Ok(Self {
            schedule: Schedule::new(config.times.clone()),
            core,
            mailbox,
            config,
            record,
            retries: Retries::default(),
            again: Targets::default(),
            again_at: None,
            unwatched: 0,
            suspects: missing.into_iter().collect(),
            missing: HashSet::new(),
            obeyed: BTreeMap::new(),
            pin,
            owners: Owners::system(),
            is_asked: false,
            is_accepted: false,
            trouble: None,
            seen: None,
            covers_until: None,
        })
    }

    fn now(&self) -> Duration {
        self.core.clock.elapsed()
    }

    /// Works until it is stopped.
    pub(crate) fn run(mut self) {
        loop {
            let (requests, hints) = self.mailbox.take_requests();
            if requests.is_stop {
                self.refuse(requests.scans, requests.confirms, || SyncError::Stopped);
                return;
            }
            if let Some(config) = requests.config {
                self.configure(config);
            }
            if self.config.folder.paused {
                let id = self.mailbox.id.clone();
                self.refuse(requests.scans, requests.confirms, || SyncError::Paused(id.clone()));
                self.mailbox.wait(None);
                continue;
            }
            self.schedule.hints = hints;
            self.schedule.retry_at = match (self.retries.next_at(), self.again_at) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
            if !requests.confirms.is_empty() {
                self.confirm(requests.confirms);
                self.answer_scans(requests.scans);
                continue;
            }
            if !requests.scans.is_empty() {
                self.answer_scans(requests.scans);
                continue;
            }
            let now = self.now();
            let result = match self.schedule.next(now) {
                Action::ScanAll => self.look_at_all(),
                Action::ScanDirty => self.look_at_dirt(),
                Action::Publish => self.publish(Standing::Found),
                Action::Wait(until) => {
                    self.show_rest();
                    self.mailbox.wait(until.map(|until| until.saturating_sub(self.now())));
                    continue;
                }
            };
            if let Err(error) = result {
                self.note_trouble(&error);
            }
        }
    }

    fn configure(&mut self, config: Config) {
        let old = std::mem::replace(&mut self.config, config);
        self.schedule.times = self.config.times.clone();
        self.times_of_watching();
        let (old, new) = (old.folder, &self.config.folder);
        if new.paused {
            self.core.watcher.unwatch_folder(self.record.number);
        }
        if (&old.path, &old.exclude, old.paused) != (&new.path, &new.exclude, new.paused)
            || old.name != new.name
        {
            self.core.files.set_root(self.record.number, new.path.clone());
            self.schedule.unblock();
            self.schedule.want_all();
            (self.seen, self.covers_until) = (None, None);
        }
        self.show_rest();
    }

    /// What went wrong, where it is not the folder's alarm.
    fn note_trouble(&mut self, error: &SyncError) {
        match error {
            // It was told to do something else.
            SyncError::Stopped | SyncError::Alarm { .. } => return,
            _ => {}
        }
        let text = with_causes(error);
        tracing::warn!(folder = %self.mailbox.id, error = text, "the folder cannot be backed up");
        let since = self.trouble.take().map_or_else(|| self.core.clock.now(), |(_, since)| since);
        self.trouble = Some((text, since));
        self.schedule.failed(self.now());
        self.show_rest();
    }

    fn reload(&mut self) -> Result<(), SyncError> {
        let record = self.core.index.folder(&self.mailbox.id)?;
        self.record = record.ok_or_else(|| SyncError::UnknownFolder(self.mailbox.id.clone()))?;
        Ok(())
    }

    fn look_at_all(&mut self) -> Result<(), SyncError> {
        let begun = self.core.clock.now();
        let dirt = self.mailbox.take_dirt();
        self.suspects.extend(dirt.suspects);
        (self.again, self.again_at) = (Targets::default(), None);
        self.look(Targets::all(), dirt.hints.map(|hints| hints.last))?;
        self.note_seen(begun);
        Ok(())
    }

    fn look_at_dirt(&mut self) -> Result<(), SyncError> {
        let begun = self.core.clock.now();
        let dirt = self.mailbox.take_dirt();
        self.suspects.extend(dirt.suspects);
        self.again_at = None;
        let mut targets = std::mem::take(&mut self.again);
        for (dir, is_deep) in dirt.targets.dirs {
            targets.add_dir(dir, is_deep);
        }
        for path in dirt.targets.files {
            targets.add_file(path);
        }
        for path in self.split_retries().0 {
            targets.add_file(path);
        }
        let targets = normalise(&self.core.index, self.record.number, targets)?;
        self.look(targets, dirt.hints.map(|hints| hints.last))?;
        // Elsewhere nothing has changed, where the watcher would have told.
        if self.seen.is_some() && self.watch_status().mode == WatchMode::Watching {
            self.note_seen(begun.saturating_sub(HINT_LAG).unwrap_or(begun));
        }
        Ok(())
    }

    /// Whatever was saved before `begun` was found. A file that did not hold
    /// still was not; one that never does is on the error list.
    fn note_seen(&mut self, begun: Timestamp) {
        if !self.is_unsettled() {
            self.seen = Some(begun);
        }
    }

    /// The files that are to be tried again, and those that rest.
    fn split_retries(&self) -> (Vec<RelPath>, HashSet<RelPath>) {
        if self.is_asked {
            return (self.retries.all().into_iter().collect(), HashSet::new());
        }
        self.retries.split(self.now())
    }

    /// Looks at the disk and notes what came of it. Where it fails, everything
    /// is looked at the next time.
    fn look(&mut self, targets: Targets, last_hint: Option<Duration>) -> Result<(), SyncError> {
        if targets.is_empty() {
            self.schedule.scanned(self.now(), false, last_hint, self.record.pending);
            return Ok(());
        }
        self.show(FolderState::Scanning);
        self.mailbox.monitor.set_working(true);
        let is_all = targets.is_all();
        let result = self.look_impl(targets, is_all);
        self.mailbox.monitor.set_working(false);
        match result {
            Ok(()) => {}
            Err(Trouble::Alarm(kind, text)) => return Err(self.raise(kind, text)?),
            Err(Trouble::Other(error)) => {
                self.schedule.want_all();
                return Err(error);
            }
        }
        self.trouble = None;
        self.reload()?;
        self.times_of_watching();
        let mut pending = self.record.pending;
        if self.record.is_scanned && self.is_otherwise() {
            pending = pending.max(1);
        }
        self.schedule.scanned(self.now(), is_all, last_hint, pending);
        Ok(())
    }

    /// A folder that is not watched whole is looked through more often.
    fn times_of_watching(&mut self) {
        let is_watched = self.watch_status().mode == WatchMode::Watching;
        let rescan = self.config.times.rescan;
        self.schedule.times.rescan =
            if is_watched { rescan } else { rescan.min(self.core.tuning.unwatched_interval) };
    }

    fn raise(&mut self, kind: AlarmKind, text: String) -> Result<SyncError, SyncError> {
        self.schedule.alarmed(self.now());
        if self.record.alarm.as_ref().is_none_or(|alarm| alarm.kind != kind) {
            tracing::error!(folder = %self.mailbox.id, "{text}");
            let since = self.core.clock.now();
            let alarm = AlarmRecord { kind, text: text.clone(), since };
            self.core.index.update(&self.mailbox.id, |record| record.alarm = Some(alarm))?;
            self.reload()?;
        }
        self.show_rest();
        Ok(SyncError::Alarm { folder: self.mailbox.id.clone(), text })
    }

    fn look_impl(&mut self, targets: Targets, is_all: bool) -> Result<(), Trouble> {
        let folder = self.config.folder.clone();
        let root = SourceTree::open(&folder.path).map_err(|error| root_alarm(&error))?;
        let identity = RootId::of(&root);
        if let Some(known) = &self.record.root
            && !known.is_same(&identity)
            && !self.is_accepted
        {
            return Err(replaced(&folder.path));
        }
        if self.record.root.is_none() {
            // From the first row on it is known what they are of.
            self.core.index.update(&self.mailbox.id, |record| record.root = Some(identity))?;
        }
        let own_dirs = self.own_dirs()?;
        let reading = Arc::new(Reading {
            root,
            index: self.core.index.clone(),
            store: self.core.store.clone(),
            in_place: self.core.in_place.clone(),
            scheme: self.core.scheme.clone(),
            pin: self.pin.clone(),
            monitor: self.mailbox.monitor.clone(),
            clock: self.core.clock.clone(),
            put: Unsaved::default(),
            noted: Unsaved::default(),
            second_reader: Mutex::default(),
        });
        let modes = self.modes()?;
        let resting = self.split_retries().1;
        self.owners.refresh();
        let mut obeyed = std::mem::take(&mut self.obeyed);
        let mut first_look = FirstLook::begin(self).filter(|_| is_all);
        let batch_time = self.core.tuning.batch_time;
        let batch_time = first_look.as_ref().map_or(batch_time, FirstLook::pause);
        let order = Order {
            folder: &self.mailbox.id,
            number: self.record.number,
            targets,
            exclude: &folder.exclude,
            own_dirs: &own_dirs,
            is_rehash: self.record.is_rehash_due && is_all,
            suspects: &self.suspects,
            tried: &self.retries.all(),
            resting: &resting,
            modes: &modes,
            may_be_empty: self.is_accepted,
            obeyed: &mut obeyed,
            batch_time,
            on_saved: &mut || first_look.as_mut().map_or(Ok(()), FirstLook::publish),
        };
        let scanned = scan(&self.core, order, reading);
        self.obeyed = obeyed;
        let scanned = match scanned {
            Ok(scanned) => scanned,
            Err(ScanError::Empty) => {
                let text = format!(
                    "{} has nothing in it any more; if that is meant, confirm it",
                    folder.path.display()
                );
                return Err(Trouble::Alarm(AlarmKind::RootEmpty, text));
            }
            Err(ScanError::Other(SyncError::Root(error))) => return Err(root_alarm(&error)),
            Err(ScanError::Other(error @ SyncError::Unreadable { .. })) => {
                return Err(Trouble::Alarm(AlarmKind::RootGone, with_causes(&error)));
            }
            Err(ScanError::Other(error)) => return Err(error.into()),
        };
        if is_all || self.record.alarm.is_some() {
            let now = self.core.clock.now();
            self.core.index.update(&self.mailbox.id, |record| {
                record.root = Some(identity);
                record.alarm = None;
                if is_all {
                    record.is_scanned = true;
                    record.is_rehash_due = false;
                    record.last_scan = Some(now);
                }
            })?;
        }
        self.suspects.clear();
        self.unwatched = scanned.unwatched + if is_all { 0 } else { self.unwatched };
        self.note_scanned(scanned)
    }

    /// How files are read that cannot be served from where they are.
    fn modes(&self) -> Result<BTreeMap<RelPath, Mode>, SyncError> {
        let mut modes = BTreeMap::new();
        let mut room = self.core.tuning.spool_max;
        for path in self.mailbox.hot(HOT) {
            let row = self.core.index.row(self.record.number, &path)?;
            if let Some(left) = room.checked_sub(row.map_or(0, |row| row.stamp.size)) {
                room = left;
                modes.insert(path, Mode::Spool);
            }
        }
        let restless = self.retries.restless(self.now(), &self.core.tuning);
        modes.extend(restless.into_iter().map(|path| (path, Mode::Prefix)));
        Ok(modes)
    }

    fn note_scanned(&mut self, scanned: crate::scan::Scanned) -> Result<(), Trouble> {
        let now = self.now();
        for path in &scanned.settled {
            self.retries.remove(path);
        }
        let mut restless = Batch::default();
        for path in scanned.changing {
            if self.retries.add(path.clone(), now, &self.core.tuning) {
                let what = "changes all the time; its last good state is kept".to_owned();
                restless.add(path, Change::Fail { what, is_marked: true });
            }
        }
        if !restless.is_empty() {
            self.core.index.apply(&self.mailbox.id, &restless, self.core.clock.now())?;
        }
        for dir in scanned.again {
            self.again.add_dir(dir, true);
            self.again_at = Some(now + self.core.tuning.retry_min);
        }
        Ok(())
    }

    /// What the instance itself writes, where that is in the folder.
    fn own_dirs(&self) -> Result<HashSet<RelPath>, SyncError> {
        let path = &self.config.folder.path;
        let root = std::fs::canonicalize(path).unwrap_or_else(|_| path.clone());
        let mut own_dirs = HashSet::new();
        for own in &self.core.own_dirs {
            if root.starts_with(own) {
                return Err(SyncError::Refused {
                    folder: self.mailbox.id.clone(),
                    text: format!("{} is Archivist's own; choose another folder", own.display()),
                });
            }
            if let Ok(inner) = own.strip_prefix(&root)
                && let Ok(inner) =
                    RelPath::new(std::os::unix::ffi::OsStrExt::as_bytes(inner.as_os_str()))
            {
                own_dirs.insert(inner);
            }
        }
        Ok(own_dirs)
    }
}

/// Why a look at a folder was given up.
enum Trouble {
    Alarm(AlarmKind, String),
    Other(SyncError),
}

impl From<SyncError> for Trouble {
    fn from(error: SyncError) -> Self {
        Self::Other(error)
    }
}

fn replaced(path: &std::path::Path) -> Trouble {
    let text = format!(
        "{} is another directory than it was; mount the right disk, or confirm that this is meant",
        path.display()
    );
    Trouble::Alarm(AlarmKind::RootReplaced, text)
}

fn root_alarm(error: &RootError) -> Trouble {
    match error {
        RootError::Replaced(path) => replaced(path),
        error => Trouble::Alarm(AlarmKind::RootGone, with_causes(error)),
    }
}

/// A path for people.
fn shown(path: &std::path::Path) -> String {
    path.display().to_string()
}

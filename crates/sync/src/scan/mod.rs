//! The truth about a folder: what is on the disk, held against the rows.
//!
//! A walk and the rows go side by side, in the order of paths. What is there
//! and has no row, or one of another stamp, is taken in; what has a row and is
//! not there is forgotten, at the very end, after the root was found to be
//! what it was. What could not be looked at keeps its rows.
//!
//! **Invariants.** A row is durable only after the blocks that it names are:
//! nodes in the store, chunks in the index of blocks in place. Nothing is
//! forgotten because something failed.

mod meet;
mod rows;
mod targets;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use fstree::{FileKind, ReadError, TreeReader as _, Visit, WalkItem, WalkOptions};
use types::{FolderId, RelPath, with_causes};

use crate::core::Core;
use crate::error::SyncError;
use crate::hash::{Mode, Outcome, Pool, Read, Reading};
use crate::index::{Batch, Change, RowStamp};
use crate::path_key::{FolderNumber, below_range, cmp_path_to_key};
use crate::rules::Rules;
use crate::watch::WatchResult;
use rows::Rows;
pub(crate) use targets::{Targets, normalise};

/// What is said of a directory that hides what was backed up of it.
const MOUNTED: &str = "another file system is mounted here; what it hides is kept as it was";
/// How many entries of the error list are looked at in one scan.
const ERRORS_MAX: usize = 10_000;

/// What to look at, and how.
pub(crate) struct Order<'a> {
    pub(crate) folder: &'a FolderId,
    pub(crate) number: FolderNumber,
    pub(crate) targets: Targets,
    pub(crate) exclude: &'a [String],
    /// Directories that are never looked at.
    pub(crate) own_dirs: &'a HashSet<RelPath>,
    /// Whether every file is read.
    pub(crate) is_rehash: bool,
    /// Files that are read whatever their stamp says.
    pub(crate) suspects: &'a HashSet<RelPath>,
    /// Files that changed while they were read before.
    pub(crate) tried: &'a HashSet<RelPath>,
    /// Those of them that are left alone until it is time.
    pub(crate) resting: &'a HashSet<RelPath>,
    /// Files that are read in another way.
    pub(crate) modes: &'a BTreeMap<RelPath, Mode>,
    /// Whether nothing below the root may mean that all was deleted.
    pub(crate) may_be_empty: bool,
    /// Files of rules that are not as their rows say, and were obeyed as they
    /// are: what cannot be read gets no row, and one that changes an old one.
    pub(crate) obeyed: &'a mut BTreeMap<RelPath, Option<RowStamp>>,
    /// What is found is made durable at least so often.
    pub(crate) batch_time: Duration,
    /// Called when some of it is, while the look goes on.
    pub(crate) on_saved: &'a mut dyn FnMut() -> Result<(), SyncError>,
}

/// What a scan came to.
#[derive(Debug, Default)]
pub(crate) struct Scanned {
    /// Files that changed while they were read.
    pub(crate) changing: Vec<RelPath>,
    /// Files that were tried before, and are done with.
    pub(crate) settled: Vec<RelPath>,
    /// Directories that have to be looked at again.
    pub(crate) again: Vec<RelPath>,
    /// How many of the directories that were looked at cannot be watched.
    pub(crate) unwatched: u64,
}

/// Why a scan was given up.
#[derive(Debug)]
pub(crate) enum ScanError {
    /// There is nothing in the root any more.
    Empty,
    /// All else.
    Other(SyncError),
}

impl From<SyncError> for ScanError {
    fn from(error: SyncError) -> Self {
        Self::Other(error)
    }
}

impl From<fstree::RootError> for ScanError {
    fn from(error: fstree::RootError) -> Self {
        Self::Other(error.into())
    }
}

pub(crate) struct Scan<'a> {
    core: &'a Core,
    order: Order<'a>,
    reading: Arc<Reading>,
    pool: Pool,
    epoch: store::WriteEpoch,
    batch: Batch,
    batch_since: Option<Duration>,
    gone: Vec<(RelPath, Option<RowStamp>)>,
    /// Paths that something went wrong with, each with all below it.
    failed: BTreeSet<RelPath>,
    /// What is wrong with files of rules.
    problems: Vec<(RelPath, String)>,
    /// Directories that are to be looked through after the one under way.
    later: Vec<RelPath>,
    /// Directories that were looked at, and whether that was deep.
    looked_at: BTreeMap<RelPath, bool>,
    /// Entries of the root that were met.
    in_root: u64,
    is_all: bool,
    has_rows: bool,
    has_errors: bool,
    scanned: Scanned,
}

/// Does what is ordered.
pub(crate) fn scan<'a>(
    core: &'a Core,
    order: Order<'a>,
    reading: Arc<Reading>,
) -> Result<Scanned, ScanError> {
    let record = core.index.folder(order.folder)?;
    let record = record.ok_or_else(|| SyncError::UnknownFolder(order.folder.clone()))?;
    let pool = Pool::new(reading.clone(), core.tuning.hash_threads);
    let mut scan = Scan {
        core,
        reading,
        pool,
        epoch: core.store.write_epoch(),
        batch: Batch::default(),
        batch_since: None,
        gone: Vec::new(),
        failed: BTreeSet::new(),
        problems: Vec::new(),
        later: Vec::new(),
        looked_at: BTreeMap::new(),
        in_root: 0,
        is_all: order.targets.is_all(),
        has_rows: record.rows.files + record.rows.dirs > 0,
        has_errors: record.errors > 0,
        scanned: Scanned::default(),
        order,
    };
    scan.run()?;
    Ok(scan.scanned)
}

impl Scan<'_> {
    fn run(&mut self) -> Result<(), ScanError> {
        let targets = std::mem::take(&mut self.order.targets);
        for (dir, is_deep) in targets.dirs {
            self.dir(&dir, is_deep)?;
            while let Some(dir) = self.later.pop() {
                self.dir(&dir, true)?;
            }
        }
        for path in targets.files {
            self.file(&path)?;
        }
        while let Some(read) = self.pool.finish_one() {
            self.take_in(read)?;
            self.flush_if_due()?;
        }
        self.clear_errors()?;
        // What follows deletes; it counts only if the root is what it was.
        self.reading.root.check()?;
        for (path, before) in std::mem::take(&mut self.gone) {
            self.core.watcher.unwatch_below(self.order.number, &path);
            self.batch.forget(path, before);
        }
        self.flush()?;
        // After the rows of those files themselves, which clear what is noted.
        for (path, what) in std::mem::take(&mut self.problems) {
            if path.parent().is_some_and(|dir| has_failed(&self.failed, &dir)) {
                // Nothing in there can be read, and that is on the list.
                continue;
            }
            self.failed.insert(path.clone());
            self.has_errors = true;
            self.batch.add(path, Change::Fail { what, is_marked: false });
        }
        self.flush()?;
        if self.is_all && self.has_errors {
            let (failed, tried) = (&self.failed, self.order.tried);
            let keep = |path: &RelPath| has_failed(failed, path) || tried.contains(path);
            self.core.index.keep_errors(self.order.folder, keep)?;
        }
        Ok(())
    }

    /// Looks at a directory and what is in it, and below it where that is deep.
    fn dir(&mut self, dir: &RelPath, mut is_deep: bool) -> Result<(), ScanError> {
        let root = self.reading.clone();
        let root = &root.root;
        if self.is_hidden(dir)? {
            return Ok(());
        }
        // Before it is looked at: what changes later is told.
        self.watch(dir);
        let examined = match root.examine(dir) {
            Err(error) if dir.is_root() => return Err(self.unreadable(error).into()),
            Err(error) => {
                self.fail(dir, with_causes(&error));
                return Ok(());
            }
            Ok(examined) => examined,
        };
        let Some(found) = examined else {
            // It went just now; its parent has a hint of it.
            self.scanned.again.push(dir.parent().unwrap_or_else(RelPath::root));
            return Ok(());
        };
        if found.kind() != FileKind::Dir {
            self.scanned.again.push(dir.parent().unwrap_or_else(RelPath::root));
            return Ok(());
        }
        let row = self.core.index.row(self.order.number, dir)?;
        self.meet(found, row.as_ref())?;
        let rules = RefCell::new(self.rules_at(root, dir)?);
        is_deep |= self.has_other_rules(dir, &rules.borrow())?;
        // A directory that says that it is a cache is recorded, and not
        // entered.
        let caches = RefCell::new(BTreeSet::new());
        let own_dirs = self.order.own_dirs;
        let decide = |path: &RelPath, kind: FileKind| {
            let is_dir = kind == FileKind::Dir;
            if (is_dir && own_dirs.contains(path)) || rules.borrow().is_excluded(path, is_dir) {
                return Visit::Skip;
            }
            if !is_dir {
                return Visit::Record;
            }
            if is_deep && !root.is_cache_dir(path) {
                return Visit::Descend;
            }
            if is_deep {
                caches.borrow_mut().insert(path.clone());
            }
            Visit::Record
        };
        let options = WalkOptions { one_file_system: true, ..WalkOptions::default() };
        let index = self.core.index.clone();
        let range = below_range(self.order.number, dir);
        let mut rows = Rows::new(&index, self.order.number, range);
        let is_cache = !dir.is_root() && root.is_cache_dir(dir);
        let walk = match root.walk(dir, options, decide) {
            // Nothing in a cache is met.
            Ok(walk) => walk.take(if is_cache { 0 } else { usize::MAX }),
            Err(error) if dir.is_root() => return Err(self.unreadable(error).into()),
            Err(error) => {
                self.fail(dir, with_causes(&error));
                return Ok(());
            }
        };
        for item in walk {
            self.reading.monitor.check()?;
            match item {
                WalkItem::Entry(found) => {
                    self.reading.monitor.add_entry();
                    self.in_root += u64::from(dir.is_root());
                    let path = found.path.clone();
                    let (kind, is_mount_point) = match found.kind {
                        fstree::FoundKind::Dir { is_mount_point } => {
                            (FileKind::Dir, is_mount_point)
                        }
                        _ => (found.kind(), false),
                    };
                    let row = self.row_at(&mut rows, &path)?;
                    if row.as_ref().is_some_and(crate::index::Row::is_dir) {
                        if is_mount_point && rows.is_within(&path)? {
                            // What it hides is not deleted.
                            self.fail(&path, MOUNTED.to_owned());
                            rows.skip_within(&path);
                            continue;
                        }
                        if kind != FileKind::Dir || !is_deep {
                            rows.skip_within(&path);
                        }
                    }
                    // (What was hidden may have changed before it was.)
                    let is_same = row.as_ref().is_some_and(|row| {
                        row.is_dir()
                            && row.stamp.inode == found.stamp.inode
                            && row.error.as_deref() != Some(MOUNTED)
                    });
                    if row.as_ref().is_some_and(crate::index::Row::is_dir) && !is_same {
                        // What is watched there is another directory.
                        self.core.watcher.unwatch_below(self.order.number, &path);
                    }
                    if kind == FileKind::Dir {
                        let is_entered =
                            is_deep && !is_mount_point && !caches.borrow_mut().remove(&path);
                        if is_entered {
                            rules.borrow_mut().enter(&path);
                            self.watch(&path);
                        } else if !is_deep
                            && !is_mount_point
                            && !is_same
                            && !root.is_cache_dir(&path)
                        {
                            self.later.push(path);
                        }
                    }
                    self.meet(found, row.as_ref())?;
                }
                WalkItem::Error(error) => {
                    let path = error.path().clone();
                    self.in_root += u64::from(dir.is_root());
                    // What is before it was not met, and is gone.
                    self.rows_before(&mut rows, &path)?;
                    if !matches!(error, ReadError::Name { .. }) {
                        rows.skip_within(&path);
                    }
                    self.fail(&path, with_causes(&error));
                }
            }
            while let Some(read) = self.pool.take() {
                self.take_in(read)?;
            }
            self.flush_if_due()?;
        }
        while let Some((path, row)) = rows.take()? {
            self.not_met(&mut rows, path, &row);
        }
        self.problems.append(&mut rules.borrow_mut().problems());
        if dir.is_root() && self.in_root == 0 && self.has_rows && !self.order.may_be_empty {
            // What is there may all be excluded.
            let mut list = root.list(dir).map_err(|error| self.unreadable(error))?;
            if list.next().is_none() {
                return Err(ScanError::Empty);
            }
        }
        *self.looked_at.entry(dir.clone()).or_default() |= is_deep;
        Ok(())
    }

    /// Whether a directory is in another file system than the root: a disk is
    /// mounted on it, or above it. Nothing of that is looked at, and what it
    /// hides is noted and keeps its rows.
    fn is_hidden(&mut self, dir: &RelPath) -> Result<bool, ScanError> {
        let mount = match self.reading.root.mount_on_the_way(dir) {
            Ok(None) => return Ok(false),
            Ok(Some(mount)) => mount,
            Err(error) if dir.is_root() => return Err(self.unreadable(error).into()),
            Err(error) => {
                self.fail(dir, with_causes(&error));
                return Ok(true);
            }
        };
        let below = below_range(self.order.number, &mount);
        if Rows::new(&self.core.index, self.order.number, below).peek()?.is_some() {
            self.fail(&mount, MOUNTED.to_owned());
        } else if let Ok(Some(found)) = self.reading.root.examine(&mount) {
            let row = self.core.index.row(self.order.number, &mount)?;
            self.meet(found, row.as_ref())?;
        }
        Ok(true)
    }

    /// The row of a path; those before it were not met.
    fn row_at(
        &mut self,
        rows: &mut Rows<'_>,
        path: &RelPath,
    ) -> Result<Option<crate::index::Row>, SyncError> {
        self.rows_before(rows, path)?;
        let is_it = rows.peek()?.is_some_and(|raw| {
            cmp_path_to_key(path.as_bytes(), raw.key_path()) == std::cmp::Ordering::Equal
        });
        if !is_it {
            return Ok(None);
        }
        Ok(rows.take()?.map(|(_, row)| row))
    }

    fn rows_before(&mut self, rows: &mut Rows<'_>, path: &RelPath) -> Result<(), SyncError> {
        while rows.peek()?.is_some_and(|raw| {
            cmp_path_to_key(path.as_bytes(), raw.key_path()) == std::cmp::Ordering::Greater
        }) {
            if let Some((path, row)) = rows.take()? {
                self.not_met(rows, path, &row);
            }
        }
        Ok(())
    }

    fn not_met(&mut self, rows: &mut Rows<'_>, path: RelPath, row: &crate::index::Row) {
        if row.is_dir() {
            rows.skip_within(&path);
        }
        self.gone.push((path, Some(row.stamp)));
    }

    /// The rules that hold in a directory.
    fn rules_at<'r>(
        &self,
        root: &'r fstree::SourceTree,
        dir: &RelPath,
    ) -> Result<Rules<'r>, SyncError> {
        let rules = Rules::new(root, self.order.exclude);
        let mut rules = rules.map_err(|error| SyncError::Refused {
            folder: self.order.folder.clone(),
            text: with_causes(&error),
        })?;
        for ancestor in targets::ancestors(dir) {
            rules.enter(&ancestor);
        }
        Ok(rules)
    }

    /// Whether the file of rules in a directory is another than it was: what
    /// is below has to be looked through then.
    fn has_other_rules(&mut self, dir: &RelPath, rules: &Rules<'_>) -> Result<bool, SyncError> {
        let Ok(path) = dir.join(Rules::ignore_file_name()) else { return Ok(false) };
        if rules.is_excluded(&path, false) {
            // It has no row to tell; the next look at everything does.
            return Ok(false);
        }
        let device = self.reading.root.identity().device;
        let found = self.reading.root.examine(&path).ok().flatten();
        let found = found.map(|found| RowStamp::of(&found.stamp, device));
        let row = self.core.index.row(self.order.number, &path)?;
        if found == row.map(|row| row.stamp) {
            self.order.obeyed.remove(&path);
            return Ok(false);
        }
        Ok(self.order.obeyed.insert(path, found) != Some(found))
    }

    fn watch(&mut self, dir: &RelPath) {
        match self.core.watcher.watch_dir(self.order.number, &self.reading.root, dir) {
            WatchResult::Watched | WatchResult::Gone => {}
            WatchResult::LimitReached => self.scanned.unwatched += 1,
            WatchResult::Failed(error) => {
                tracing::debug!(%dir, %error, "a directory cannot be watched");
                self.scanned.unwatched += 1;
            }
        }
    }

    fn unreadable(&self, source: ReadError) -> SyncError {
        SyncError::Unreadable { path: self.reading.root.path().to_owned(), source }
    }

    /// Errors of what has no row and is not there any more.
    fn clear_errors(&mut self) -> Result<(), ScanError> {
        if !self.has_errors {
            return Ok(());
        }
        for (path, _) in self.core.index.errors(self.order.number, ERRORS_MAX)? {
            let Some(dir) = path.parent() else { continue };
            let is_deep = |dir: &RelPath| self.looked_at.get(dir) == Some(&true);
            let is_looked_at =
                self.looked_at.contains_key(&dir) || targets::ancestors(&dir).iter().any(is_deep);
            if is_looked_at
                && !has_failed(&self.failed, &path)
                && !self.order.tried.contains(&path)
                && self.batch.row(&path).is_none()
                && self.core.index.row(self.order.number, &path)?.is_none()
                && self.reading.root.examine(&path).is_ok_and(|found| found.is_none())
            {
                self.gone.push((path, None));
            }
        }
        Ok(())
    }

    /// Notes that something is wrong with a path. It keeps its last good row.
    fn fail(&mut self, path: &RelPath, what: String) {
        self.failed.insert(path.clone());
        self.has_errors = true;
        self.since();
        if let Some(row) = self.batch.row(path) {
            let mut row = Box::new(row.clone());
            row.error = Some(what);
            self.batch.add(path.clone(), Change::Put { row, before: None });
        } else {
            self.batch.add(path.clone(), Change::Fail { what, is_marked: true });
        }
    }

    /// Takes in what became of a file that was read.
    fn take_in(&mut self, read: Read) -> Result<(), ScanError> {
        let Read { path, before, outcome } = read;
        match outcome {
            Outcome::Row(row) => {
                self.settled(&path);
                if row.error.is_some() {
                    self.failed.insert(path.clone());
                    self.has_errors = true;
                }
                self.since();
                self.batch.add(path, Change::Put { row, before });
            }
            Outcome::Changing => self.scanned.changing.push(path),
            Outcome::Gone => {
                self.settled(&path);
                self.scanned.again.push(path.parent().unwrap_or_else(RelPath::root));
            }
            Outcome::Failed(what) => {
                self.settled(&path);
                self.fail(&path, what);
            }
            Outcome::Broken(error) => return Err(error.into()),
        }
        Ok(())
    }

    pub(super) fn settled(&mut self, path: &RelPath) {
        if self.order.tried.contains(path) {
            self.scanned.settled.push(path.clone());
        }
    }

    fn since(&mut self) {
        if self.batch_since.is_none() {
            self.batch_since = Some(self.core.clock.elapsed());
        }
    }

    fn flush_if_due(&mut self) -> Result<(), SyncError> {
        let is_full = self.batch.len() >= self.core.tuning.batch_rows;
        let is_old = || {
            self.batch_since.is_some_and(|since| {
                self.core.clock.elapsed().saturating_sub(since) >= self.order.batch_time
            })
        };
        if is_full || is_old() {
            self.flush()?;
            (self.order.on_saved)()?;
        }
        Ok(())
    }

    /// Makes what was found durable: first what the rows name, then the rows.
    fn flush(&mut self) -> Result<(), SyncError> {
        self.batch_since = None;
        if self.batch.is_empty() {
            return Ok(());
        }
        if self.reading.put.take() {
            self.core.store.commit(self.epoch)?;
        }
        if self.reading.noted.take() {
            self.core.in_place.commit()?;
        }
        let batch = std::mem::take(&mut self.batch);
        let applied = self.core.index.apply(self.order.folder, &batch, self.core.clock.now())?;
        for path in applied.conflicts {
            self.scanned.again.push(path.parent().unwrap_or_else(RelPath::root));
        }
        Ok(())
    }
}

/// Whether a path, or something that it is in, is among those that failed.
fn has_failed(failed: &BTreeSet<RelPath>, path: &RelPath) -> bool {
    let mut at = Some(path.clone());
    while let Some(path) = at {
        if failed.contains(&path) {
            return true;
        }
        at = path.parent();
    }
    false
}

//! Scanning a folder: compares the tree on disk with the rows of the index.
//!
//! A walk of the tree and a cursor over the rows advance together, in the order of paths. An
//! entry without a row, or with another stamp than its row, is recorded ([`reconcile`]). A
//! row without an entry is removed, but only at the very end, after a check that the root is
//! still the same directory. A path that cannot be read keeps its rows.
//!
//! **Invariants.** A row becomes durable only after the blocks that it names: nodes in the
//! store, chunks in the index of blocks in place. No row is removed because of an error.
//!
//! Absent: the decision when to scan (`schedule`), and publishing (`publish`).

mod errors;
mod hinted;
mod links;
mod mounts;
mod options;
mod reconcile;
mod rows;
mod targets;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use fstree::{FileKind, ReadError, TreeReader as _, Visit, WalkItem, WalkOptions};
use types::{RelPath, with_causes};

use crate::context::Context;
use crate::error::SyncError;
use crate::hash::{FileReader, Pool, ReadOutcome, ReadResult};
use crate::index::{Batch, Change, RowStamp};
use crate::path_key::{below_range, cmp_path_to_key};
use crate::rules::Rules;
use crate::watch::WatchResult;
use errors::{has_failed, has_listing_error};
pub(crate) use hinted::HintedFiles;
use links::LinkedFiles;
pub(crate) use mounts::is_mount_error;
use mounts::{MountState, Mounts};
pub(crate) use options::{ScanError, ScanOptions, ScanReport};
use rows::RowCursor;
pub(crate) use targets::{Targets, normalise};

/// Maximum number of files in [`ScanReport::replaced`].
const REPLACED_MAX: usize = 10_000;

/// A running scan.
pub(crate) struct Scan<'a> {
    context: &'a Context,
    options: ScanOptions<'a>,
    reader: Arc<FileReader>,
    pool: Pool,
    epoch: store::WriteEpoch,
    batch: Batch,
    /// When the first change of `batch` was added.
    batch_since: Option<Duration>,
    /// Paths to be removed at the end, with the stamps of their rows.
    gone: Vec<(RelPath, Option<RowStamp>)>,
    /// Paths with an error; everything below them keeps its rows.
    failed: BTreeSet<RelPath>,
    /// Problems of ignore files.
    problems: Vec<(RelPath, String)>,
    linked: LinkedFiles,
    mounts: Mounts,
    /// New directories, to be scanned deep after the current one.
    queue: Vec<RelPath>,
    /// The scanned directories, and whether each scan was deep.
    scanned_dirs: BTreeMap<RelPath, bool>,
    /// Number of entries found in the root.
    root_entries: u64,
    is_all: bool,
    has_rows: bool,
    has_errors: bool,
    report: ScanReport,
}

/// Scans the targets of `options`.
pub(crate) fn scan<'a>(
    context: &'a Context,
    options: ScanOptions<'a>,
    reader: Arc<FileReader>,
) -> Result<ScanReport, ScanError> {
    let record = context.index.folder(options.folder)?;
    let record = record.ok_or_else(|| SyncError::UnknownFolder(options.folder.clone()))?;
    let pool = Pool::new(reader.clone(), context.tuning.hash_threads);
    let mut scan = Scan {
        context,
        reader,
        pool,
        epoch: context.store.write_epoch(),
        batch: Batch::default(),
        batch_since: None,
        gone: Vec::new(),
        failed: BTreeSet::new(),
        problems: Vec::new(),
        linked: LinkedFiles::default(),
        mounts: Mounts::new(&record.mounts),
        queue: Vec::new(),
        scanned_dirs: BTreeMap::new(),
        root_entries: 0,
        is_all: options.targets.is_all(),
        has_rows: record.rows.files + record.rows.dirs > 0,
        has_errors: record.errors > 0,
        report: ScanReport::default(),
        options,
    };
    scan.run()?;
    Ok(scan.report)
}

impl Scan<'_> {
    fn run(&mut self) -> Result<(), ScanError> {
        let targets = std::mem::take(&mut self.options.targets);
        for (dir, is_deep) in targets.dirs {
            self.scan_dir(&dir, is_deep)?;
            while let Some(dir) = self.queue.pop() {
                self.scan_dir(&dir, true)?;
            }
        }
        for path in targets.files {
            self.scan_file(&path)?;
        }
        loop {
            while let Some(read) = self.pool.finish_one() {
                self.record(read)?;
                self.flush_if_due()?;
            }
            if !self.examine_linked()? {
                break;
            }
        }
        self.note_long_names();
        self.clear_errors()?;
        // Rows are removed only if the root is still the same directory.
        self.reader.root.check()?;
        for (path, before) in std::mem::take(&mut self.gone) {
            self.context.watcher.unwatch_below(self.options.number, &path);
            self.batch.forget(path, before);
        }
        self.flush()?;
        self.store_left_out()?;
        // After the rows of the ignore files themselves, which clear their errors.
        for (path, what) in std::mem::take(&mut self.problems) {
            if path.parent().is_some_and(|dir| has_failed(&self.failed, &dir)) {
                // The error list already has the unreadable directory.
                continue;
            }
            self.failed.insert(path.clone());
            self.has_errors = true;
            self.batch.add(path, Change::Fail { what, is_marked: false });
        }
        self.flush()?;
        if self.is_all && self.has_errors {
            let (failed, retried) = (&self.failed, self.options.retried);
            let lane = &self.options.lane;
            let keep = |path: &RelPath| {
                has_failed(failed, path) || retried.contains(path) || lane.contains(path)
            };
            self.context.index.keep_errors(self.options.folder, keep)?;
        }
        Ok(())
    }

    /// Scans a directory and its entries, and everything below if the scan is deep.
    fn scan_dir(&mut self, dir: &RelPath, mut is_deep: bool) -> Result<(), ScanError> {
        let root = self.reader.clone();
        let root = &*root.root;
        let Some(within) = self.mount_of(dir)? else { return Ok(()) };
        // Before the directory is listed, so that later changes lead to hints.
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
            // The directory has just disappeared; its parent is scanned again.
            self.report.rescan.push(dir.parent().unwrap_or_else(RelPath::root));
            return Ok(());
        };
        if found.kind() != FileKind::Dir {
            self.report.rescan.push(dir.parent().unwrap_or_else(RelPath::root));
            return Ok(());
        }
        let row = self.context.index.row(self.options.number, dir)?;
        self.reconcile(found, row.as_ref())?;
        let rules = RefCell::new(self.rules_at(root, dir)?);
        is_deep |= self.have_rules_changed(dir, &rules.borrow())?;
        // A directory that is marked as a cache is recorded, and not entered.
        let caches = RefCell::new(BTreeSet::new());
        let own_dirs = self.options.own_dirs;
        let excludes_caches = self.options.exclude_caches;
        let is_cache_dir = |path: &RelPath| excludes_caches && root.is_cache_dir(path);
        let ground = self.options.ground;
        let decide = |path: &RelPath, kind: FileKind| {
            let is_dir = kind == FileKind::Dir;
            if (is_dir && own_dirs.contains(path)) || rules.borrow().is_excluded(path, is_dir) {
                return Visit::Skip;
            }
            if !is_dir {
                let is_deleted = mounts::is_deleted_file(ground, path);
                return if is_deleted { Visit::Skip } else { Visit::Record };
            }
            if is_deep && !is_cache_dir(path) {
                return Visit::Descend;
            }
            if is_deep {
                caches.borrow_mut().insert(path.clone());
            }
            Visit::Record
        };
        let options = WalkOptions { one_file_system: true, within, ..WalkOptions::default() };
        let index = self.context.index.clone();
        let range = below_range(self.options.number, dir);
        let mut rows = RowCursor::new(&index, self.options.number, range);
        let is_cache = !dir.is_root() && is_cache_dir(dir);
        let walk = match root.walk(dir, options, decide) {
            // The entries of a cache are left out.
            Ok(walk) => walk.take(if is_cache { 0 } else { usize::MAX }),
            Err(error) if dir.is_root() => return Err(self.unreadable(error).into()),
            Err(error) => {
                self.fail(dir, with_causes(&error));
                return Ok(());
            }
        };
        for item in walk {
            self.reader.monitor.check()?;
            match item {
                WalkItem::Entry(found) => {
                    self.reader.monitor.add_entry();
                    self.root_entries += u64::from(dir.is_root());
                    let path = found.path.clone();
                    let kind = found.kind();
                    let row = self.row_at(&mut rows, &path)?;
                    let state = if kind == FileKind::Dir {
                        self.decide_found(&path, mounts::is_mount_point(&found))?
                    } else if row.as_ref().is_some_and(crate::index::Row::is_dir)
                        && self.keep_missing_mounts(&path)?
                    {
                        MountState::Kept
                    } else {
                        MountState::Ordinary
                    };
                    if state == MountState::Kept {
                        rows.skip_within(&path);
                        continue;
                    }
                    if row.as_ref().is_some_and(crate::index::Row::is_dir)
                        && state != MountState::Dropped
                        && (kind != FileKind::Dir || !is_deep || state == MountState::Entered)
                    {
                        rows.skip_within(&path);
                    }
                    // (Files that a mounted file system hid may have changed before it was
                    // mounted.)
                    let is_same = row.as_ref().is_some_and(|row| {
                        row.is_dir()
                            && row.stamp.inode == found.stamp.inode
                            && row.stamp.is_elsewhere == (found.stamp.device != self.device())
                            && !row.error.as_deref().is_some_and(mounts::is_mount_error)
                    });
                    if row.as_ref().is_some_and(crate::index::Row::is_dir) && !is_same {
                        // Another directory is watched under this path.
                        self.context.watcher.unwatch_below(self.options.number, &path);
                    }
                    if kind == FileKind::Dir {
                        let is_ordinary = state == MountState::Ordinary;
                        let is_cache = is_deep && is_ordinary && caches.borrow_mut().remove(&path);
                        if is_cache {
                            self.note_cache(&path);
                        } else if is_deep && is_ordinary {
                            rules.borrow_mut().enter(&path);
                            self.watch(&path);
                        } else if state == MountState::Entered {
                            if is_deep || !is_same {
                                self.queue.push(path);
                            }
                        } else if !is_deep && is_ordinary && !is_same {
                            if is_cache_dir(&path) {
                                self.note_cache(&path);
                            } else {
                                self.queue.push(path);
                            }
                        } else if !is_deep && row.as_ref().is_some_and(has_listing_error) {
                            // Only a scan of the directory shows whether it can be read now.
                            self.queue.push(path);
                            continue;
                        }
                    }
                    self.reconcile(found, row.as_ref())?;
                }
                WalkItem::Error(error) => {
                    let path = error.path().clone();
                    self.root_entries += u64::from(dir.is_root());
                    // The rows before it have no entry.
                    self.rows_before(&mut rows, &path)?;
                    if !matches!(error, ReadError::Name { .. }) {
                        rows.skip_within(&path);
                    }
                    self.fail(&path, with_causes(&error));
                }
            }
            while let Some(read) = self.pool.take() {
                self.record(read)?;
            }
            self.flush_if_due()?;
        }
        while let Some((path, row)) = rows.take()? {
            self.mark_gone(&mut rows, path, &row)?;
        }
        self.problems.append(&mut rules.borrow_mut().problems());
        if dir.is_root() && self.root_entries == 0 && self.has_rows && !self.options.may_be_empty {
            // All entries may be excluded.
            let mut list = root.list(dir).map_err(|error| self.unreadable(error))?;
            if list.next().is_none() {
                return Err(ScanError::Empty);
            }
        }
        *self.scanned_dirs.entry(dir.clone()).or_default() |= is_deep;
        Ok(())
    }

    /// Returns the row of a path. The rows before it have no entry, and are marked as gone.
    fn row_at(
        &mut self,
        rows: &mut RowCursor<'_>,
        path: &RelPath,
    ) -> Result<Option<crate::index::Row>, ScanError> {
        self.rows_before(rows, path)?;
        let is_it = rows.peek()?.is_some_and(|raw| {
            cmp_path_to_key(path.as_bytes(), raw.key_path()) == std::cmp::Ordering::Equal
        });
        if !is_it {
            return Ok(None);
        }
        Ok(rows.take()?.map(|(_, row)| row))
    }

    fn rows_before(&mut self, rows: &mut RowCursor<'_>, path: &RelPath) -> Result<(), ScanError> {
        while rows.peek()?.is_some_and(|raw| {
            cmp_path_to_key(path.as_bytes(), raw.key_path()) == std::cmp::Ordering::Greater
        }) {
            if let Some((path, row)) = rows.take()? {
                self.mark_gone(rows, path, &row)?;
            }
        }
        Ok(())
    }

    fn mark_gone(
        &mut self,
        rows: &mut RowCursor<'_>,
        path: RelPath,
        row: &crate::index::Row,
    ) -> Result<(), ScanError> {
        if row.is_dir() {
            rows.skip_within(&path);
            if self.keep_missing_mounts(&path)? {
                return Ok(());
            }
        } else if row.hard_link.is_some() {
            self.linked.gone.push((path.clone(), row.stamp.inode));
        }
        self.gone.push((path, Some(row.stamp)));
        Ok(())
    }

    /// Returns the rules that apply in a directory.
    fn rules_at<'r>(
        &self,
        root: &'r fstree::SourceTree,
        dir: &RelPath,
    ) -> Result<Rules<'r>, SyncError> {
        let rules = Rules::new(root, self.options.exclude);
        let mut rules = rules.map_err(|error| SyncError::Refused {
            folder: self.options.folder.clone(),
            text: with_causes(&error),
        })?;
        for ancestor in targets::ancestors(dir) {
            rules.enter(&ancestor);
        }
        Ok(rules)
    }

    /// Reports whether the ignore file of a directory has changed; then everything below has to
    /// be scanned.
    fn have_rules_changed(&mut self, dir: &RelPath, rules: &Rules<'_>) -> Result<bool, SyncError> {
        let Ok(path) = dir.join(Rules::ignore_file_name()) else { return Ok(false) };
        if rules.is_excluded(&path, false) {
            // An excluded ignore file has no row; the next full scan applies its changes.
            return Ok(false);
        }
        let device = self.reader.root.identity().device;
        let found = self.reader.root.examine(&path).ok().flatten();
        let found = found.map(|found| RowStamp::of(&found.stamp, device));
        let row = self.context.index.row(self.options.number, &path)?;
        if found == row.map(|row| row.stamp) {
            self.options.applied_rules.remove(&path);
            return Ok(false);
        }
        Ok(self.options.applied_rules.insert(path, found) != Some(found))
    }

    fn watch(&mut self, dir: &RelPath) {
        match self.context.watcher.watch_dir(self.options.number, &self.reader.root, dir) {
            WatchResult::Watched | WatchResult::Gone => {}
            WatchResult::LimitReached => self.report.unwatched += 1,
            WatchResult::Failed(error) => {
                tracing::debug!(%dir, %error, "cannot watch a directory");
                self.report.unwatched += 1;
            }
        }
    }

    fn unreadable(&self, source: ReadError) -> SyncError {
        SyncError::Unreadable { path: self.reader.root.path().to_owned(), source }
    }

    /// Records the result of reading a file.
    fn record(&mut self, read: ReadResult) -> Result<(), ScanError> {
        let ReadResult { path, before, inode, outcome } = read;
        match outcome {
            ReadOutcome::Row(mut row) => {
                // The clock of the computer may have been set back after the change.
                let was_settled = self.options.settled.contains(&path);
                row.is_unsettled &= !(was_settled && before == Some(row.stamp));
                self.share_row(&path, &row, inode)?;
                self.mark_resolved(&path);
                if row.error.is_some() {
                    self.failed.insert(path.clone());
                    self.has_errors = true;
                }
                self.put(path, row, before);
                return Ok(());
            }
            ReadOutcome::Changing => self.report.changing.push(path),
            ReadOutcome::Gone => {
                self.mark_resolved(&path);
                self.report.rescan.push(path.parent().unwrap_or_else(RelPath::root));
            }
            ReadOutcome::Failed(what) => {
                self.mark_resolved(&path);
                self.fail(&path, what);
            }
            ReadOutcome::Broken(error) => return Err(error.into()),
        }
        self.read_next_name(inode);
        Ok(())
    }

    /// Notes that a file that changed before needs no further attempt.
    pub(super) fn mark_resolved(&mut self, path: &RelPath) {
        if self.options.retried.contains(path) {
            self.report.resolved.push(path.clone());
        }
    }

    fn start_batch_timer(&mut self) {
        if self.batch_since.is_none() {
            self.batch_since = Some(self.context.clock.elapsed());
        }
    }

    fn flush_if_due(&mut self) -> Result<(), SyncError> {
        let is_full = self.batch.len() >= self.context.tuning.batch_rows;
        let is_old = || {
            self.batch_since.is_some_and(|since| {
                self.context.clock.elapsed().saturating_sub(since) >= self.options.batch_time
            })
        };
        if is_full || is_old() {
            self.flush()?;
            (self.options.on_saved)()?;
        }
        Ok(())
    }

    /// Makes the results durable: first the blocks that the rows name, then the rows.
    fn flush(&mut self) -> Result<(), SyncError> {
        self.batch_since = None;
        if self.batch.is_empty() {
            return Ok(());
        }
        if self.reader.unsaved_blocks.take() {
            self.context.store.commit(self.epoch)?;
        }
        if self.reader.unsaved_locations.take() {
            self.context.in_place.commit()?;
        }
        let batch = std::mem::take(&mut self.batch);
        let applied =
            self.context.index.apply(self.options.folder, &batch, self.context.clock.now())?;
        self.context.files.add_former(self.options.number, &applied.replaced);
        let changed = applied.replaced.into_iter().filter(|version| version.has_other_content);
        let room = REPLACED_MAX.saturating_sub(self.report.replaced.len());
        let changed = changed.map(|version| (version.path, version.was_unpublished));
        self.report.replaced.extend(changed.take(room));
        for path in applied.conflicts {
            self.report.rescan.push(path.parent().unwrap_or_else(RelPath::root));
        }
        Ok(())
    }
}

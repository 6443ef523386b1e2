//! The restore: one thread walks the manifest and creates the entries without
//! content, others create the files. Hard links and the metadata of directories come
//! last.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded};
use fstree::{
    Attribute, CreateFile, CreatedEntry, DestError, DestOptions, DestTree, FileContent, FileWriter,
    Identity, NotSet, OwnerPolicy, TreeWriter,
};
use parking_lot::Mutex;
use types::{Cid, Codec, Entry, EntryKind, Metadata, RelPath, with_causes};

use crate::blocks::{Blocks, BlocksError};
use crate::file::{ContentRef, FileError, FileTask, ReadAhead, WriteBehind, has_content};
use crate::manifest::Manifest;
use crate::options::{RestoreError, RestoreOptions};
use crate::privileges::{is_device, remove_privileges};
use crate::protected::protected_below;
use crate::report::{Progress, Report, ReportKind};
use crate::select::{Match, Selection};
use crate::target_root::{StartMark, has_mode_and_mtime};

/// Maximum number of files in a batch, the unit of work of a worker.
const BATCH_FILES_MAX: usize = 64;
/// Number of bytes from which on a batch is complete.
const BATCH_LEN: u64 = 4 << 20;
/// Maximum number of batches waiting for a worker.
const BATCHES: usize = 4;

/// Restores the tree of `manifest`, or a part of it, into the directory `target`,
/// which is created if it does not exist. When it returns, everything that it has
/// created is durable, or the report says that it may not be.
///
/// # Errors
///
/// Returns [`RestoreError`] if the restore cannot continue. Errors that concern
/// single entries are in the report.
pub fn restore(
    blocks: &Arc<dyn Blocks>,
    manifest: Cid,
    target: &Path,
    options: &RestoreOptions,
    progress: &Progress,
) -> Result<Report, RestoreError> {
    let cid = manifest;
    let manifest = Manifest::open(blocks.clone(), cid)?;
    let refuse = |protected| RestoreError::Protected { target: target.to_owned(), protected };
    // Before the target is created, so that nothing is left in a protected directory.
    let existing = target.ancestors().find_map(|dir| dir.canonicalize().ok());
    protected_below(target, &existing.unwrap_or_default(), &options.protected).map_err(refuse)?;
    let create = |source| RestoreError::Create { path: target.to_owned(), source };
    std::fs::create_dir_all(target).map_err(create)?;
    let resolved = target.canonicalize().map_err(create)?;
    let protected = protected_below(target, &resolved, &options.protected).map_err(refuse)?;
    // The target gets the mode and time of the backed-up root only if it is used for
    // this folder alone: if it is empty, or already has them.
    let mut root_metadata = manifest.header().root.metadata.clone();
    if !options.as_it_was {
        remove_privileges(&mut root_metadata);
    }
    let started = StartMark::new(target, cid);
    let is_empty = std::fs::read_dir(target).is_ok_and(|mut entries| entries.next().is_none());
    let sets_root = is_empty || started.exists() || has_mode_and_mtime(target, &root_metadata);
    let dest = DestTree::open(
        target,
        DestOptions {
            overwrite: options.overwrite,
            owners: options.owners.clone(),
            ..DestOptions::default()
        },
    )
    .map_err(|source| RestoreError::Target { path: target.to_owned(), source })?;
    if is_empty && options.selection.is_all() {
        started.create();
    }
    let stats = manifest.header().stats;
    if options.selection.is_all() {
        progress.expect_all(stats.total_files + stats.total_dirs, stats.total_size_bytes);
    }
    let job = Job {
        blocks: &**blocks,
        dest,
        progress,
        sets_owners: !matches!(options.owners, OwnerPolicy::Leave),
        as_it_was: options.as_it_was,
        report: Mutex::default(),
        end: Mutex::default(),
        linked: Mutex::default(),
    };
    // Every snapshot contains the root, but not as an entry.
    let found = HashSet::from([RelPath::root()]);
    let mut walk = WalkState { found, protected, ..WalkState::default() };
    let walked = std::thread::scope(|scope| {
        let (sender, receiver) = bounded(BATCHES);
        let (behind, write_out) = WriteBehind::new();
        scope.spawn(write_out);
        for _ in 0..options.workers.max(1) {
            let (job, receiver) = (&job, receiver.clone());
            let (ahead, read) = ReadAhead::new(job.blocks, behind.clone());
            scope.spawn(read);
            scope.spawn(move || job.work(&receiver, &ahead));
        }
        // The reading and writing threads then end when the workers end.
        drop((receiver, behind));
        walk.run(&job, &manifest, &options.selection, &sender)
    });
    // The error of a worker comes first: an error of the walk is a consequence.
    if let Some(end) = job.end.lock().take() {
        return Err(end);
    }
    walked?;
    std::thread::scope(|scope| {
        let (behind, write_out) = WriteBehind::new();
        let (ahead, read) = ReadAhead::new(job.blocks, behind);
        scope.spawn(write_out);
        scope.spawn(read);
        walk.create_links(&job, &ahead);
    });
    if let Some(end) = job.end.lock().take() {
        return Err(end);
    }
    if sets_root && options.selection.is_all() {
        let root = job.without_privileges(manifest.header().root.clone());
        walk.dirs.extend(root.map(|root| (RelPath::root(), root.metadata)));
    }
    if options.selection.is_all() {
        started.remove();
    }
    let (not_set, errors) = job.dest.finish_dirs(std::mem::take(&mut walk.dirs));
    job.note_not_set(not_set);
    for error in errors {
        job.note(ReportKind::Failed, with_causes(&error));
    }
    // After the last change: an end without an error means that everything is on the
    // disk.
    if let Err(error) = job.dest.sync() {
        let (target, error) = (target.display(), with_causes(&error));
        job.note(
            ReportKind::Failed,
            format!("{target}: the restored files may not be on the disk: {error}"),
        );
    }
    if !sets_root && options.selection.is_all() {
        let why = "the directory was not empty, so its permissions and time were not changed";
        job.note(ReportKind::Skipped, format!("{}: {why}", target.display()));
    }
    let mut report = job.report.into_inner();
    report.is_part = types::is_part(manifest.header().held.as_deref());
    report.not_found = options
        .selection
        .paths()
        .iter()
        .filter(|path| !walk.found.contains(path))
        .cloned()
        .collect();
    Ok(report)
}

/// State shared by the threads of a restore.
struct Job<'a, W> {
    blocks: &'a dyn Blocks,
    dest: W,
    progress: &'a Progress,
    /// False if entries keep the owner of this process; then the others are only counted.
    sets_owners: bool,
    /// See [`RestoreOptions::as_it_was`].
    as_it_was: bool,
    report: Mutex<Report>,
    /// The reason to stop the restore, if there is one.
    end: Mutex<Option<RestoreError>>,
    /// Identities of the created files with several names.
    linked: Mutex<HashMap<RelPath, Identity>>,
}

/// State of the walk over the manifest.
#[derive(Default)]
struct WalkState {
    dirs: Vec<(RelPath, Metadata)>,
    /// First name of each file with several names. Names with the same number but
    /// other content were scanned at different times, and become separate files.
    first_names: HashMap<(u64, ContentRef), RelPath>,
    links: Vec<Link>,
    /// First name, kind and identity of each other entry with several names.
    first_specials: HashMap<u64, (RelPath, EntryKind, Identity)>,
    /// Selected paths that the snapshot contains.
    found: HashSet<RelPath>,
    /// Directories of the instance below the target.
    protected: Vec<RelPath>,
}

/// A further name of a file.
struct Link {
    first: RelPath,
    task: FileTask,
}

impl WalkState {
    fn run<W: TreeWriter>(
        &mut self,
        job: &Job<'_, W>,
        manifest: &Manifest,
        selection: &Selection,
        batches: &Sender<Vec<FileTask>>,
    ) -> Result<(), RestoreError> {
        let mut batch = Batch::default();
        // The parent of a selected entry is created when the entry is reached.
        let mut parents: Vec<Entry> = Vec::new();
        let broken = manifest.entries(
            |segment, next| selection.wants(segment, next),
            |entry| {
                match selection.matches(&entry.path) {
                    Match::None => return ControlFlow::Continue(()),
                    Match::Parent => {
                        parents.retain(|dir| entry.path.is_within(&dir.path));
                        if entry.kind == EntryKind::Dir {
                            parents.push(entry);
                        }
                        return ControlFlow::Continue(());
                    }
                    Match::Selected => {}
                }
                for dir in std::mem::take(&mut parents) {
                    if entry.path.is_within(&dir.path) {
                        self.restore_entry(job, dir, &mut batch);
                    }
                }
                if selection.paths().contains(&entry.path) {
                    self.found.insert(entry.path.clone());
                }
                if !selection.is_all() {
                    let bytes = match &entry.kind {
                        EntryKind::File { size, .. } => *size,
                        _ => 0,
                    };
                    job.progress.expect(1, bytes);
                }
                self.restore_entry(job, entry, &mut batch);
                if job.has_ended() {
                    return ControlFlow::Break(());
                }
                if batch.is_full() && batches.send(batch.take()).is_err() {
                    return ControlFlow::Break(());
                }
                ControlFlow::Continue(())
            },
        )?;
        if broken.is_some() {
            return Err(RestoreError::Stopped);
        }
        // Sending fails only if the workers have stopped and recorded their error.
        let _ = batches.send(batch.take());
        Ok(())
    }

    /// Creates an entry without content, or adds a file to the batch.
    fn restore_entry<W: TreeWriter>(&mut self, job: &Job<'_, W>, entry: Entry, batch: &mut Batch) {
        let Some(Entry { path, kind, metadata, .. }) = job.without_privileges(entry) else {
            return;
        };
        if self.protected.iter().any(|dir| path.is_within(dir)) {
            let why = "not restored, because this program keeps its data there";
            job.note(ReportKind::Failed, format!("{path}: {why}"));
            return;
        }
        match kind {
            EntryKind::File { cid, size, blake3, is_sparse } => {
                let content = ContentRef { cid, size, blake3 };
                let hard_link = metadata.hard_link;
                let task = FileTask { path, content, is_sparse, metadata };
                if let Some(group) = hard_link {
                    if let Some(first) = self.first_names.get(&(group, content)) {
                        self.links.push(Link { first: first.clone(), task });
                        return;
                    }
                    self.first_names.insert((group, content), task.path.clone());
                }
                batch.push(task);
            }
            EntryKind::Dir => {
                if job.record(&path, job.dest.create_dir(&path)).is_some() {
                    self.dirs.push((path, metadata));
                }
            }
            kind => {
                let created = match self.link_special(job, &path, &kind, &metadata) {
                    Some(linked) => linked,
                    None => job.dest.create(&path, &kind, &metadata),
                };
                let identity = created.as_ref().ok().map(|created| created.identity);
                job.record(&path, created);
                if let (Some(group), Some(identity)) = (metadata.hard_link, identity) {
                    self.first_specials.entry(group).or_insert((path, kind, identity));
                }
            }
        }
    }

    /// Creates a further name of a symbolic link, a pipe or a device. Returns `None` if there
    /// is no first name, or if the target cannot link to it: then it becomes a separate entry.
    fn link_special<W: TreeWriter>(
        &self,
        job: &Job<'_, W>,
        path: &RelPath,
        kind: &EntryKind,
        metadata: &Metadata,
    ) -> Option<Result<CreatedEntry, DestError>> {
        let (first, of_first, identity) = self.first_specials.get(&metadata.hard_link?)?;
        if of_first != kind {
            return None;
        }
        match job.dest.create_hard_link(first, *identity, path) {
            Err(DestError::CannotLink { .. } | DestError::Changed { .. }) => None,
            linked => Some(linked),
        }
    }

    /// Creates the further names of the files that were created.
    fn create_links<W: TreeWriter>(&mut self, job: &Job<'_, W>, ahead: &ReadAhead) {
        for Link { first, task } in std::mem::take(&mut self.links) {
            if job.has_ended() {
                return;
            }
            let identity = job.linked.lock().get(&first).copied();
            let linked =
                identity.map(|identity| job.dest.create_hard_link(&first, identity, &task.path));
            match linked {
                Some(Err(DestError::CannotLink { .. } | DestError::Changed { .. })) | None => {
                    // Create a separate file instead.
                    job.create_files(vec![task], ahead);
                }
                Some(created) => {
                    job.progress.wrote(task.content.size);
                    job.record(&task.path, created);
                }
            }
        }
    }
}

#[derive(Default)]
struct Batch {
    tasks: Vec<FileTask>,
    len: u64,
}

impl Batch {
    fn push(&mut self, task: FileTask) {
        self.len += task.content.size;
        self.tasks.push(task);
    }

    fn is_full(&self) -> bool {
        self.tasks.len() >= BATCH_FILES_MAX || self.len >= BATCH_LEN
    }

    fn take(&mut self) -> Vec<FileTask> {
        self.len = 0;
        std::mem::take(&mut self.tasks)
    }
}

impl<W: TreeWriter> Job<'_, W> {
    fn work(&self, batches: &Receiver<Vec<FileTask>>, ahead: &ReadAhead) {
        for batch in batches {
            if self.has_ended() {
                return;
            }
            self.create_files(batch, ahead);
        }
    }

    /// Reports whether the restore must stop. If a stop was requested, it becomes the
    /// result, because the caller now skips entries.
    fn has_ended(&self) -> bool {
        if self.progress.is_stopped() {
            self.end(RestoreError::Stopped);
        }
        self.end.lock().is_some()
    }

    fn end(&self, error: RestoreError) {
        self.end.lock().get_or_insert(error);
    }

    /// Creates files. The blocks of files with a single chunk are requested together.
    fn create_files(&self, tasks: Vec<FileTask>, ahead: &ReadAhead) {
        let small: Vec<Cid> = tasks
            .iter()
            .map(|task| task.content.cid)
            .filter(|cid| cid.codec() == Codec::Raw)
            .collect();
        let found = match self.blocks.get(&small) {
            Ok(found) => found,
            Err(error) => return self.end(RestoreError::Blocks(error)),
        };
        let mut found = found.into_iter();
        for task in tasks {
            let chunk = match task.content.cid.codec() {
                Codec::Raw => Some(found.next().flatten()),
                _ => None,
            };
            if self.has_ended() {
                return;
            }
            match self.create_file(&task, chunk, ahead) {
                Ok(created) => {
                    self.count(&task.path, created, task.metadata.hard_link.is_some());
                }
                Err(FileError::Dest(error)) => {
                    self.record(&task.path, Err(error));
                }
                Err(FileError::Stopped) => self.end(RestoreError::Stopped),
                // A block of this file is missing or wrong; other files can be
                // restored.
                Err(
                    error @ (FileError::Blocks(BlocksError::Missing(_))
                    | FileError::Tree(_)
                    | FileError::Hash
                    | FileError::ReaderPanicked),
                ) => self.note(ReportKind::Failed, format!("{}: {error}", task.path)),
                Err(FileError::Blocks(error)) => self.end(RestoreError::Blocks(error)),
            }
        }
    }

    /// Creates one file; `chunk` is its content if it has a single chunk.
    fn create_file(
        &self,
        task: &FileTask,
        chunk: Option<Option<bytes::Bytes>>,
        ahead: &ReadAhead,
    ) -> Result<CreatedEntry, FileError> {
        let content = task.content;
        let shape = FileContent { size: content.size, is_sparse: task.is_sparse };
        let verify = |file: &File| has_content(file, &content, self.progress);
        match self.dest.create_file(&task.path, shape, &task.metadata, verify)? {
            CreateFile::Existing(existing) => {
                self.progress.wrote(content.size);
                Ok(existing)
            }
            CreateFile::Write(mut sink) => {
                match chunk {
                    Some(chunk) => {
                        let chunk = chunk.ok_or(BlocksError::Missing(content.cid))?;
                        if chunk.len() as u64 != content.size {
                            return Err(FileError::Tree("a chunk has the wrong length"));
                        }
                        sink.write(&chunk)?;
                        self.progress.wrote(content.size);
                    }
                    None => ahead.write_tree(&content, &mut sink, self.progress)?,
                }
                let created = sink.finish(&task.metadata)?;
                self.report.lock().bytes += content.size;
                Ok(created)
            }
        }
    }

    /// Records the result for an entry in the report. Returns `None` if the entry
    /// does not exist in the target.
    fn record(&self, path: &RelPath, result: Result<CreatedEntry, DestError>) -> Option<()> {
        match result {
            Ok(created) => {
                self.count(path, created, false);
                Some(())
            }
            Err(error @ (DestError::Full { .. } | DestError::ReadOnly { .. })) => {
                self.end(RestoreError::TargetUnwritable(error));
                None
            }
            Err(error) => {
                let kind = match &error {
                    DestError::InTheWay { .. } | DestError::Collision { .. } => {
                        ReportKind::InTheWay
                    }
                    DestError::CannotCreate { .. } => ReportKind::Skipped,
                    _ => ReportKind::Failed,
                };
                self.note(kind, with_causes(&error));
                None
            }
        }
    }

    /// Leaves out the privileges of an entry, if that is required. Returns `None` if nothing of the
    /// entry is left.
    fn without_privileges(&self, mut entry: Entry) -> Option<Entry> {
        if self.as_it_was {
            return Some(entry);
        }
        let path = &entry.path;
        if is_device(&entry) {
            self.note(ReportKind::Skipped, format!("{path}: not created, because it is a device"));
            self.report.lock().privileges_left_out += 1;
            self.progress.done(1);
            return None;
        }
        if let Some(removed) = remove_privileges(&mut entry.metadata) {
            let at = match path.is_root() {
                true => "the directory itself".to_owned(),
                false => path.to_string(),
            };
            self.note(ReportKind::Skipped, format!("{at}: restored without {removed}"));
            self.report.lock().privileges_left_out += 1;
        }
        Some(entry)
    }

    /// Counts an entry that exists in the target now.
    fn count(&self, path: &RelPath, created: CreatedEntry, is_linked: bool) {
        {
            let mut report = self.report.lock();
            if created.is_new {
                report.made += 1;
            } else {
                report.same += 1;
            }
        }
        if is_linked {
            self.linked.lock().insert(path.clone(), created.identity);
        }
        self.note_not_set(created.not_set);
        self.progress.done(1);
    }

    fn note_not_set(&self, not_set: Vec<NotSet>) {
        for not_set in not_set {
            let NotSet { path, attribute, source } = not_set;
            if attribute == Attribute::Owner && !self.sets_owners {
                self.report.lock().owners_not_set += 1;
                continue;
            }
            self.note(ReportKind::NotSet, format!("{path}: {attribute}: {source}"));
        }
    }

    fn note(&self, kind: ReportKind, text: String) {
        self.report.lock().list(kind, text);
    }
}

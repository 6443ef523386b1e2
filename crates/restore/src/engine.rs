//! The restore itself: one thread walks the manifest and makes what has no
//! content, others make the files; hard links and the metadata of directories
//! come last.

use std::collections::{HashMap, HashSet};
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded};
use fstree::{
    DestError, DestOptions, DestTree, FileContent, How, Identity, Made, MakeFile, NotSet,
    OwnerPolicy, RootError,
};
use parking_lot::Mutex;
use types::{Cid, Codec, Entry, EntryKind, Metadata, RelPath, with_causes};

use crate::blocks::{Blocks, BlocksError};
use crate::file::{Content, FileError, FileTask, ReadAhead, WriteBehind, has_content};
use crate::manifest::{Manifest, ManifestError};
use crate::report::{Progress, Report, Trouble};
use crate::select::{Part, Selection};

/// Files that are handed to a worker at once …
const FILES_AT_ONCE: usize = 64;
/// … up to so many bytes of them.
const BYTES_AT_ONCE: u64 = 4 << 20;
/// Batches that wait for a worker.
const BATCHES: usize = 4;

/// What is to be restored, and how.
#[derive(Clone, Debug)]
pub struct RestoreOptions {
    /// Which part of the snapshot.
    pub selection: Selection,
    /// Replace what is in the way.
    pub overwrite: bool,
    /// Have every file on the disk before it gets its name.
    pub durable: bool,
    /// Whose the files become.
    pub owners: OwnerPolicy,
    /// Threads that make files.
    pub workers: usize,
}

impl Default for RestoreOptions {
    fn default() -> Self {
        Self {
            selection: Selection::default(),
            overwrite: false,
            durable: false,
            owners: OwnerPolicy::for_this_process(),
            workers: std::thread::available_parallelism().map_or(2, usize::from).min(8),
        }
    }
}

/// Why a restore ended before its end. Begun again, it goes on where it was.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The manifest.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The target as a whole.
    #[error("cannot restore into {}", path.display())]
    Target {
        /// The target.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: RootError,
    },
    /// The target could not be made.
    #[error("cannot make {}", path.display())]
    Create {
        /// The target.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The target takes no more.
    #[error("the restore has stopped: the target is full or cannot be written to")]
    TargetEnds(#[source] DestError),
    /// The blocks cannot be had any more.
    #[error("the restore has stopped: its blocks cannot be had")]
    Blocks(#[source] BlocksError),
    /// It was stopped.
    #[error("the restore was stopped")]
    Stopped,
}

/// Makes the tree of `manifest`, or a part of it, below `target`, which is
/// made where it is not there.
///
/// # Errors
///
/// [`RestoreError`] where it makes no sense to go on. What went wrong with
/// single entries is in the report.
pub fn restore(
    blocks: &Arc<dyn Blocks>,
    manifest: Cid,
    target: &Path,
    options: &RestoreOptions,
    progress: &Progress,
) -> Result<Report, RestoreError> {
    let manifest = Manifest::open(blocks.clone(), manifest)?;
    std::fs::create_dir_all(target)
        .map_err(|source| RestoreError::Create { path: target.to_owned(), source })?;
    // The folder's own mode and times are given to a directory that is for it
    // alone: one that is empty, or was given them before.
    let of_root = &manifest.header().root.metadata;
    let is_empty = std::fs::read_dir(target).is_ok_and(|mut entries| entries.next().is_none());
    let is_its_own = is_empty || is_as(target, of_root);
    let made = DestTree::open(
        target,
        DestOptions {
            overwrite: options.overwrite,
            owners: options.owners.clone(),
            durable: options.durable,
            ..DestOptions::default()
        },
    )
    .map_err(|source| RestoreError::Target { path: target.to_owned(), source })?;
    let stats = manifest.header().stats;
    if options.selection.is_all() {
        progress.expect_all(stats.total_files + stats.total_dirs, stats.total_size_bytes);
    }
    let job = Job {
        blocks: &**blocks,
        target: made,
        progress,
        report: Mutex::default(),
        end: Mutex::default(),
        linked: Mutex::default(),
    };
    // The root is in every snapshot, and is no entry.
    let mut walk = WalkState { found: HashSet::from([RelPath::root()]), ..WalkState::default() };
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
        // So that those threads end when the workers do.
        drop((receiver, behind));
        walk.run(&job, &manifest, &options.selection, &sender)
    });
    // Why a worker gave up counts before what the walk made of it.
    if let Some(end) = job.end.lock().take() {
        return Err(end);
    }
    walked?;
    std::thread::scope(|scope| {
        let (behind, write_out) = WriteBehind::new();
        let (ahead, read) = ReadAhead::new(job.blocks, behind);
        scope.spawn(write_out);
        scope.spawn(read);
        walk.make_links(&job, &ahead);
    });
    if let Some(end) = job.end.lock().take() {
        return Err(end);
    }
    if is_its_own && options.selection.is_all() {
        walk.dirs.push((RelPath::root(), of_root.clone()));
    }
    let (not_set, errors) = job.target.finish_dirs(std::mem::take(&mut walk.dirs));
    job.note_not_set(not_set);
    for error in errors {
        job.note(Trouble::Failed, with_causes(&error));
    }
    if !is_its_own && options.selection.is_all() {
        let what = "is left with its mode and times, as it was not empty";
        job.note(Trouble::NotSet, format!("{} {what}", target.display()));
    }
    let mut report = job.report.into_inner();
    report.not_found = options
        .selection
        .paths()
        .iter()
        .filter(|path| !walk.found.contains(path))
        .cloned()
        .collect();
    Ok(report)
}

/// Whether the target itself is as the folder was.
fn is_as(target: &Path, of_root: &Metadata) -> bool {
    std::fs::metadata(target).is_ok_and(|now| {
        let mtime_ns = i128::from(now.mtime()) * 1_000_000_000 + i128::from(now.mtime_nsec());
        (now.mode() & 0o7777, mtime_ns) == (of_root.mode, of_root.mtime_ns)
    })
}

/// What the threads share.
struct Job<'a> {
    blocks: &'a dyn Blocks,
    target: DestTree,
    progress: &'a Progress,
    report: Mutex<Report>,
    /// Why all of it ends, where it does.
    end: Mutex<Option<RestoreError>>,
    /// The inodes of files with several names.
    linked: Mutex<HashMap<RelPath, Identity>>,
}

/// What the walk keeps.
#[derive(Default)]
struct WalkState {
    dirs: Vec<(RelPath, Metadata)>,
    /// The first name of each file with several: names of one file that have
    /// other content were taken in at another time, and are files of their own.
    first_names: HashMap<(u64, Content), RelPath>,
    links: Vec<Link>,
    /// Selected paths that are in the snapshot.
    found: HashSet<RelPath>,
}

/// A further name of a file.
struct Link {
    first: RelPath,
    task: FileTask,
}

impl WalkState {
    fn run(
        &mut self,
        job: &Job<'_>,
        manifest: &Manifest,
        selection: &Selection,
        batches: &Sender<Vec<FileTask>>,
    ) -> Result<(), RestoreError> {
        let mut batch = Batch::default();
        // A directory on the way is made when something is wanted in it.
        let mut on_the_way: Vec<Entry> = Vec::new();
        let broken = manifest.entries(
            |segment, next| selection.wants(segment, next),
            |entry| {
                match selection.part(&entry.path) {
                    Part::Not => return ControlFlow::Continue(()),
                    Part::OnTheWay => {
                        on_the_way.retain(|dir| entry.path.is_within(&dir.path));
                        if entry.kind == EntryKind::Dir {
                            on_the_way.push(entry);
                        }
                        return ControlFlow::Continue(());
                    }
                    Part::Wanted => {}
                }
                for dir in std::mem::take(&mut on_the_way) {
                    if entry.path.is_within(&dir.path) {
                        self.take(job, dir, &mut batch);
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
                self.take(job, entry, &mut batch);
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
        // Nobody takes it where the workers have given up, and said why.
        let _ = batches.send(batch.take());
        Ok(())
    }

    fn take(&mut self, job: &Job<'_>, entry: Entry, batch: &mut Batch) {
        let Entry { path, kind, metadata, .. } = entry;
        match kind {
            EntryKind::File { cid, size, blake3, is_sparse } => {
                let content = Content { cid, size, blake3 };
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
                if job.settle(&path, job.target.make_dir(&path)).is_some() {
                    self.dirs.push((path, metadata));
                }
            }
            kind => {
                job.settle(&path, job.target.make(&path, &kind, &metadata));
            }
        }
    }

    /// Makes the further names, now that the files are there.
    fn make_links(&mut self, job: &Job<'_>, ahead: &ReadAhead) {
        for Link { first, task } in std::mem::take(&mut self.links) {
            if job.has_ended() {
                return;
            }
            let identity = job.linked.lock().get(&first).copied();
            let linked =
                identity.map(|identity| job.target.make_hard_link(&first, identity, &task.path));
            match linked {
                Some(Err(DestError::CannotLink { .. } | DestError::Changed { .. })) | None => {
                    // As a file of its own, then.
                    job.make_files(vec![task], ahead);
                }
                Some(made) => {
                    job.progress.wrote(task.content.size);
                    job.settle(&task.path, made);
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
        self.tasks.len() >= FILES_AT_ONCE || self.len >= BYTES_AT_ONCE
    }

    fn take(&mut self) -> Vec<FileTask> {
        self.len = 0;
        std::mem::take(&mut self.tasks)
    }
}

impl Job<'_> {
    fn work(&self, batches: &Receiver<Vec<FileTask>>, ahead: &ReadAhead) {
        for batch in batches {
            if self.has_ended() {
                return;
            }
            self.make_files(batch, ahead);
        }
    }

    /// Whether it makes no sense to go on. A stop that anybody has obeyed is an
    /// end: something was left out because of it.
    fn has_ended(&self) -> bool {
        if self.progress.is_stopped() {
            self.end(RestoreError::Stopped);
        }
        self.end.lock().is_some()
    }

    fn end(&self, error: RestoreError) {
        self.end.lock().get_or_insert(error);
    }

    /// Makes files. The blocks of those with one chunk are asked for together.
    fn make_files(&self, tasks: Vec<FileTask>, ahead: &ReadAhead) {
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
            match self.make_file(&task, chunk, ahead) {
                Ok(made) => self.made(&task.path, made, task.metadata.hard_link.is_some()),
                Err(FileError::Dest(error)) => {
                    self.settle(&task.path, Err(error));
                }
                Err(FileError::Stopped) => self.end(RestoreError::Stopped),
                // A block is missing or another: this file cannot be made, the
                // others can.
                Err(
                    error @ (FileError::Blocks(BlocksError::Missing(_))
                    | FileError::Tree(_)
                    | FileError::Hash),
                ) => self.note(Trouble::Failed, format!("{}: {error}", task.path)),
                Err(FileError::Blocks(error)) => self.end(RestoreError::Blocks(error)),
            }
        }
    }

    /// Makes one file; `chunk` is its content, where it has only one.
    fn make_file(
        &self,
        task: &FileTask,
        chunk: Option<Option<bytes::Bytes>>,
        ahead: &ReadAhead,
    ) -> Result<Made, FileError> {
        let content = task.content;
        let shape = FileContent {
            size: content.size,
            mtime_ns: task.metadata.mtime_ns,
            is_sparse: task.is_sparse,
        };
        let made = self
            .target
            .make_file(&task.path, shape, |file| has_content(file, &content, self.progress))?;
        match made {
            MakeFile::Same(same) => {
                self.progress.wrote(content.size);
                Ok(same.finish(&task.metadata)?)
            }
            MakeFile::Write(mut sink) => {
                match chunk {
                    Some(chunk) => {
                        let chunk = chunk.ok_or(BlocksError::Missing(content.cid))?;
                        if chunk.len() as u64 != content.size {
                            return Err(FileError::Tree("the only one has another length"));
                        }
                        sink.write(&chunk)?;
                        self.progress.wrote(content.size);
                    }
                    None => ahead.write_tree(&content, &mut sink, self.progress)?,
                }
                let made = sink.finish(&task.metadata)?;
                self.report.lock().bytes += content.size;
                Ok(made)
            }
        }
    }

    /// Notes what came of an entry. `None`: it is not there.
    fn settle(&self, path: &RelPath, made: Result<Made, DestError>) -> Option<()> {
        match made {
            Ok(made) => {
                self.made(path, made, false);
                Some(())
            }
            Err(error @ (DestError::Full { .. } | DestError::ReadOnly { .. })) => {
                self.end(RestoreError::TargetEnds(error));
                None
            }
            Err(error) => {
                let trouble = match &error {
                    DestError::InTheWay { .. } | DestError::Collision { .. } => Trouble::InTheWay,
                    DestError::CannotMake { .. } => Trouble::Skipped,
                    _ => Trouble::Failed,
                };
                self.note(trouble, with_causes(&error));
                None
            }
        }
    }

    fn made(&self, path: &RelPath, made: Made, is_linked: bool) {
        {
            let mut report = self.report.lock();
            match made.how {
                How::New => report.made += 1,
                How::Same => report.same += 1,
            }
        }
        if is_linked {
            self.linked.lock().insert(path.clone(), made.identity);
        }
        self.note_not_set(made.not_set);
        self.progress.done(1);
    }

    fn note_not_set(&self, not_set: Vec<NotSet>) {
        for not_set in not_set {
            let NotSet { path, what, source } = not_set;
            self.note(Trouble::NotSet, format!("{path}: {what:?}: {source}"));
        }
    }

    fn note(&self, trouble: Trouble, text: String) {
        self.report.lock().list(trouble, text);
    }
}

//! Creating a tree: the interface that each platform implements.

mod temp_names;

use std::fmt;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use types::{EntryKind, Metadata, RelPath};

use crate::entry::Identity;
use crate::error::{DestError, RootError};
use crate::owners::OwnerNumbers;
use crate::resolution::Resolution;

pub(crate) use temp_names::TempNames;
pub use temp_names::is_temp_name;

/// Creates a tree below a directory. Clones refer to the same tree; one process at
/// a time can open a directory.
///
/// Rules for every implementation:
///
/// * Nothing outside the directory is created, changed or removed. No link inside
///   it is followed, even if another process creates links at the same time.
/// * An entry is created under a temporary name and renamed when it is complete,
///   so a name always leads to the old entry or to the complete new one.
/// * An existing entry stays unless [`DestOptions::overwrite`] is set. A directory
///   that is not empty always stays.
/// * A new directory is accessible only to its owner until it is finished.
///
/// Order of calls: [`create_dir`](Self::create_dir) before anything inside the
/// directory, [`create_hard_link`](Self::create_hard_link) after the file, and
/// [`finish_dir`](Self::finish_dir) after everything inside the directory, because
/// each new entry changes the time of its directory.
///
/// The caller decides which entries to create, where their content comes from, and
/// what to do if an entry exists, a name collides or an owner cannot be set.
pub trait TreeWriter: Clone + fmt::Debug + Send + Sync + Sized {
    /// A file that is being written.
    type File: FileWriter;

    /// Opens a directory and removes the temporary files that an interrupted run
    /// left in it; [`TreeWriter::create_dir`] does the same in the directories
    /// below. If `dir` is a link to a directory, the link is followed once, here.
    ///
    /// # Errors
    ///
    /// Returns [`RootError`]; [`RootError::InUse`] if another process has opened
    /// the directory.
    fn open(dir: &Path, options: DestOptions) -> Result<Self, RootError>;

    /// Creates a directory that only its owner can access until it is finished. An
    /// existing directory is used, made accessible to its owner, and cleared of the
    /// temporary files of interrupted runs. The path of the root returns the root
    /// directory itself.
    ///
    /// If the directory collides with another one, all entries below it are
    /// rejected, because they would end up in the other directory.
    ///
    /// # Errors
    ///
    /// Returns [`DestError`]; [`DestError::InTheWay`] if another entry exists and
    /// overwriting is not allowed, and [`DestError::Collision`].
    fn create_dir(&self, path: &RelPath) -> Result<CreatedEntry, DestError>;

    /// Creates an entry of any kind except a file, which
    /// [`TreeWriter::create_file`] creates. A directory is not finished.
    ///
    /// # Errors
    ///
    /// Returns [`DestError`]; [`DestError::CannotCreate`] for a file, a socket, and a
    /// device if this process lacks the privilege.
    fn create(
        &self,
        path: &RelPath,
        kind: &EntryKind,
        metadata: &Metadata,
    ) -> Result<CreatedEntry, DestError>;

    /// Starts a file. If a file with the same length and time exists, `verify`
    /// checks its content; if that is the same, the existing file is kept. This is
    /// how an interrupted restore resumes.
    ///
    /// # Errors
    ///
    /// Returns [`DestError`].
    fn create_file(
        &self,
        path: &RelPath,
        content: FileContent,
        metadata: &Metadata,
        verify: impl FnOnce(&File) -> io::Result<bool>,
    ) -> Result<CreateFile<Self::File>, DestError>;

    /// Creates a second name for a file that was created earlier as `existing`
    /// with the given identity.
    ///
    /// # Errors
    ///
    /// Returns [`DestError::Changed`] if `existing` is now another file, and
    /// [`DestError::CannotLink`] if the entry must be created as a separate file.
    fn create_hard_link(
        &self,
        existing: &RelPath,
        identity: Identity,
        path: &RelPath,
    ) -> Result<CreatedEntry, DestError>;

    /// Sets the metadata of a directory when nothing more will be created in it.
    /// Returns the attributes that could not be set.
    ///
    /// # Errors
    ///
    /// Returns [`DestError::NoParent`] if the directory does not exist, and other
    /// variants.
    fn finish_dir(&self, path: &RelPath, metadata: &Metadata) -> Result<Vec<NotSet>, DestError>;

    /// Makes everything that was created durable: contents, metadata and names.
    /// Called once, after the last change. Blocks while the disk writes.
    ///
    /// # Errors
    ///
    /// Returns [`DestError::Io`] if the disk did not write everything since the tree
    /// was opened. What is on the disk is not known then.
    fn sync(&self) -> Result<(), DestError>;

    /// Finishes many directories, inner ones first. A caller with more directories
    /// than fit in memory calls [`TreeWriter::finish_dir`] in the reverse order of
    /// paths.
    fn finish_dirs(
        &self,
        dirs: impl IntoIterator<Item = (RelPath, Metadata)>,
    ) -> (Vec<NotSet>, Vec<DestError>) {
        let mut dirs: Vec<_> = dirs.into_iter().collect();
        dirs.sort_by(|(a, _), (b, _)| b.cmp(a));
        let (mut not_set, mut errors) = (Vec::new(), Vec::new());
        for (path, metadata) in &dirs {
            match self.finish_dir(path, metadata) {
                Ok(more) => not_set.extend(more),
                Err(error) => errors.push(error),
            }
        }
        (not_set, errors)
    }
}

/// A file that is being written. If it is dropped unfinished, nothing remains.
pub trait FileWriter: fmt::Debug + Send + Sized {
    /// Writes the next bytes. In a sparse file, blocks of zeros become holes.
    ///
    /// # Errors
    ///
    /// Returns [`DestError::Size`] beyond the announced length,
    /// [`DestError::Full`] and [`DestError::Io`]. The file cannot be finished after
    /// an error.
    fn write(&mut self, bytes: &[u8]) -> Result<(), DestError>;

    /// Returns the number of bytes given to [`FileWriter::write`].
    fn written(&self) -> u64;

    /// Returns a task that writes the bytes given so far to the disk and drops them
    /// from the page cache, to be run by another thread. Then the end of a long
    /// file does not wait for all of it; and its pages are reused for the next
    /// bytes. Fresh pages cost several times the copying on machines whose memory
    /// comes from a host, and would displace the cached data of other programs.
    ///
    /// [`FileWriter::finish`] waits for a running task and returns its error.
    fn write_out(&self) -> WriteOut;

    /// Sets the metadata and then gives the file its name.
    ///
    /// # Errors
    ///
    /// Returns [`DestError::Size`] if bytes are missing, [`DestError::InTheWay`] if
    /// the name is taken by now, the error of a [`FileWriter::write_out`] task, and
    /// other variants. Nothing remains after an error.
    fn finish(self, metadata: &Metadata) -> Result<CreatedEntry, DestError>;
}

/// A task of [`FileWriter::write_out`].
pub type WriteOut = Box<dyn FnOnce() + Send>;

/// Options for creating a tree.
#[derive(Clone, Debug, Default)]
pub struct DestOptions {
    /// True if existing entries are replaced. A directory that is not empty is
    /// never replaced.
    pub overwrite: bool,
    /// Owners of the created entries.
    pub owners: OwnerPolicy,
    /// True if each file is synced before it gets its name, and each directory when
    /// it is finished. [`TreeWriter::sync`] does not need it, except where it is
    /// used in any case: on file systems and mounts that a sync of the file system
    /// of the root does not reach.
    pub durable: bool,
    /// Strategy for resolving paths.
    pub resolution: Resolution,
}

/// Owners of the created entries.
#[derive(Clone, Debug, Default)]
pub enum OwnerPolicy {
    /// The user of this process. If the owners in the metadata differ, they are reported.
    /// File capabilities and `trusted.*` attributes are not set either, because they grant
    /// privileges as owners do.
    #[default]
    Leave,
    /// The user and group numbers in the metadata. Requires the privilege to change
    /// owners, which root has.
    Numbers,
    /// The user and group with the names in the metadata, if they exist on this computer,
    /// otherwise the numbers. Requires the same privilege. (ACLs contain numbers only.)
    Names(Arc<OwnerNumbers>),
}

/// Content of a file that is to be created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileContent {
    /// Length in bytes.
    pub size: u64,
    /// True if blocks of zeros become holes.
    pub is_sparse: bool,
}

/// Result of starting a file.
#[derive(Debug)]
pub enum CreateFile<W> {
    /// The content must be written.
    Write(W),
    /// The file exists with the same length, time and content. Its other metadata
    /// was set if overwriting is allowed, and is unchanged otherwise.
    Existing(CreatedEntry),
}

/// An entry that was created or found.
#[derive(Debug)]
pub struct CreatedEntry {
    /// True if the entry was created or replaced another one, false if it already
    /// existed as required.
    pub is_new: bool,
    /// Identity of the entry, for a hard link to it.
    pub identity: Identity,
    /// Attributes that differ from the metadata.
    pub not_set: Vec<NotSet>,
}

/// An attribute of an entry that could not be set, or reads back differently.
#[derive(Debug)]
pub struct NotSet {
    /// The entry.
    pub path: RelPath,
    /// The attribute.
    pub attribute: Attribute,
    /// The reason.
    pub source: io::Error,
}

/// A part of the metadata.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Attribute {
    /// The owner or the group.
    Owner,
    /// The permissions. Setuid and setgid are removed if the owner or the group
    /// differs, because they would then grant the privileges of another user.
    Mode,
    /// The time of the last write.
    Mtime,
    /// The extended attribute, or ACL, with this name.
    Xattr(Vec<u8>),
}

impl fmt::Display for Attribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Owner => f.write_str("owner"),
            Self::Mode => f.write_str("permissions"),
            Self::Mtime => f.write_str("modification time"),
            Self::Xattr(name) => {
                write!(f, "extended attribute {}", String::from_utf8_lossy(name))
            }
        }
    }
}

//! The only way to write a small file as a whole.
//!
//! The content goes to a temporary file in the same directory, which is synced
//! and renamed; then the directory is synced. [`write_atomic`] has the
//! guarantee.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use crate::disk::{Disk, DiskFile};

/// Options of [`write_atomic`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AtomicWrite {
    /// Permissions of the file.
    pub permissions: Permissions,
    /// Treatment of a file that exists already.
    pub existing: Existing,
    /// Number of writers that the file may have at the same time.
    pub writers: Writers,
    /// True if the file is locked before it gets its name, so that nobody finds
    /// it unlocked. The returned file holds the lock.
    pub lock: bool,
}

/// Permissions of a file that is written atomically.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permissions {
    /// These bits, as far as the umask of the process allows.
    Mode(u32),
    /// The permissions and the owner of the replaced file. A new file is readable and
    /// writable for its owner only.
    Inherit,
}

/// Treatment of a file that exists already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// The new content replaces the old.
    Replace,
    /// The write fails with [`io::ErrorKind::AlreadyExists`].
    Keep,
}

/// Number of writers that a file may have at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writers {
    /// One, which the caller ensures. The temporary file is `NAME.new`; the
    /// next write removes one that a crash left behind.
    One,
    /// Several, in one process or more. Each uses a temporary file of its own,
    /// `.NAME.RANDOM.tmp`, which stays if the process dies.
    Several,
}

impl AtomicWrite {
    /// Replaces a file that only its owner may read and that has one writer.
    pub const PRIVATE: Self = Self {
        permissions: Permissions::Mode(0o600),
        existing: Existing::Replace,
        writers: Writers::One,
        lock: false,
    };
}

/// An error of [`write_atomic`] or [`read_file`].
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The file system reported an error.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// The failed operation, as a verb.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The error of the file system.
        #[source]
        source: io::Error,
    },
    /// The file is longer than its reader accepts.
    #[error("{} has {len} bytes, more than the limit of {limit}", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// Its length in bytes.
        len: u64,
        /// The limit in bytes.
        limit: u64,
    },
}

impl FileError {
    pub(crate) fn io<'a>(
        action: &'static str,
        path: &'a Path,
    ) -> impl FnOnce(io::Error) -> Self + 'a {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }

    /// Returns the kind of the error of the file system.
    pub fn kind(&self) -> io::ErrorKind {
        match self {
            Self::Io { source, .. } => source.kind(),
            Self::TooLong { .. } => io::ErrorKind::FileTooLarge,
        }
    }
}

/// Drops the action and the path, for callers that name them themselves.
impl From<FileError> for io::Error {
    fn from(error: FileError) -> Self {
        match error {
            FileError::Io { source, .. } => source,
            error @ FileError::TooLong { .. } => Self::new(io::ErrorKind::FileTooLarge, error),
        }
    }
}

/// Writes a file as a whole, durably, and returns it open.
///
/// Guarantee: after a crash or a power cut at any moment, `path` has either all
/// of the old content (or no file, if there was none) or all of the new content.
/// After a successful return it is the new content. This needs both syncs: the
/// one before the rename, or the name could lead to bytes that never reached the
/// disk; and the one of the directory, or the old content could come back.
///
/// Blocks while the disk writes.
///
/// # Errors
///
/// Returns [`FileError::Io`] if an operation fails. `path` has the old content
/// then, unless the failed operation was the sync of the directory (the path in
/// the error): then `path` has the new content, and a crash may bring back the
/// old. The kind of the source is [`io::ErrorKind::AlreadyExists`] if the file
/// exists and [`Existing::Keep`] was requested, and
/// [`io::ErrorKind::WouldBlock`] if the lock is taken.
pub fn write_atomic(
    disk: &dyn Disk,
    path: &Path,
    content: &[u8],
    options: &AtomicWrite,
) -> Result<Box<dyn DiskFile>, FileError> {
    let dir = directory(path);
    let temporary = dir.join(temporary_name(path, options.writers));
    if options.writers == Writers::One {
        match disk.remove(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(FileError::io("remove", &temporary)(error));
            }
            _ => {}
        }
    }
    let named = write_and_rename(disk, path, &temporary, content, options);
    if named.is_err() {
        // Best effort: the write has failed in any case.
        let _ = disk.remove(&temporary);
    }
    let file = named?;
    disk.sync_dir(dir).map_err(FileError::io("sync", dir))?;
    Ok(file)
}

/// Returns the directory of a file, `.` for a bare name.
pub(crate) fn directory(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."))
}

fn write_and_rename(
    disk: &dyn Disk,
    path: &Path,
    temporary: &Path,
    content: &[u8],
    options: &AtomicWrite,
) -> Result<Box<dyn DiskFile>, FileError> {
    let mode = match options.permissions {
        Permissions::Mode(mode) => mode,
        Permissions::Inherit => 0o600,
    };
    let file =
        disk.create_with_mode(temporary, mode).map_err(FileError::io("create", temporary))?;
    if options.lock {
        file.lock().map_err(FileError::io("lock", temporary))?;
    }
    file.write_at(&[content], 0).map_err(FileError::io("write", temporary))?;
    if options.permissions == Permissions::Inherit {
        file.copy_permissions(path).map_err(FileError::io("set the permissions of", temporary))?;
    }
    file.sync().map_err(FileError::io("sync", temporary))?;
    match options.existing {
        Existing::Replace => disk.rename(temporary, path),
        Existing::Keep => disk.rename_new(temporary, path),
    }
    .map_err(FileError::io("rename", temporary))?;
    Ok(file)
}

fn temporary_name(path: &Path, writers: Writers) -> OsString {
    let name = path.file_name().unwrap_or_default();
    match writers {
        Writers::One => {
            let mut temporary = name.to_owned();
            temporary.push(".new");
            temporary
        }
        Writers::Several => {
            let mut temporary = OsString::from(".");
            temporary.push(name);
            temporary.push(format!(".{:016x}.tmp", rand::random::<u64>()));
            temporary
        }
    }
}

/// Returns the content of a file of at most `limit` bytes.
///
/// # Errors
///
/// Returns [`FileError::Io`] if the file cannot be opened or read, and
/// [`FileError::TooLong`] if it has more than `limit` bytes.
pub fn read_file(disk: &dyn Disk, path: &Path, limit: u64) -> Result<Vec<u8>, FileError> {
    let file = disk.open_read(path).map_err(FileError::io("open", path))?;
    let len = file.len().map_err(FileError::io("read", path))?;
    if len > limit {
        return Err(FileError::TooLong { path: path.to_owned(), len, limit });
    }
    file.read_vec_at(usize::try_from(len).unwrap_or(usize::MAX), 0)
        .map_err(FileError::io("read", path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    use super::*;
    use crate::RealDisk;
    use crate::sim::{Fault, Power, SimDisk};

    const PATH: &str = "/d/file";
    /// Longer than a page, and the new content shorter than the old: a mixture
    /// is neither.
    const OLD: [u8; 9000] = [1; 9000];
    const NEW: [u8; 5000] = [2; 5000];

    fn all_options() -> Vec<AtomicWrite> {
        let mut all = Vec::new();
        for existing in [Existing::Replace, Existing::Keep] {
            for writers in [Writers::One, Writers::Several] {
                for (permissions, lock) in
                    [(Permissions::Mode(0o600), true), (Permissions::Inherit, false)]
                {
                    all.push(AtomicWrite { permissions, existing, writers, lock });
                }
            }
        }
        all
    }

    /// A disk that has the old content, or no file if that is empty.
    fn disk_with(old: Option<&[u8]>) -> SimDisk {
        let disk = SimDisk::new();
        disk.create_dir(Path::new("/d")).unwrap();
        if let Some(old) = old {
            let file = disk.create(Path::new(PATH)).unwrap();
            file.write_at(&[old], 0).unwrap();
            file.sync().unwrap();
            disk.sync_dir(Path::new("/d")).unwrap();
        }
        disk
    }

    fn content(disk: &SimDisk) -> Option<Vec<u8>> {
        read_file(disk, Path::new(PATH), u64::MAX).ok()
    }

    fn powers() -> impl Iterator<Item = Power> {
        let fixed = [Power::Kept, Power::Dropped, Power::Torn];
        fixed.into_iter().chain((0..40).map(Power::Reordered))
    }

    /// Writes with each fault at each operation, cuts the power in each way
    /// after it, and reports the first result that the guarantee forbids.
    fn check(
        old: Option<&[u8]>,
        options: &AtomicWrite,
        prepare: fn(&SimDisk),
    ) -> Result<(), String> {
        let keeps = options.existing == Existing::Keep && old.is_some();
        let mut faults = 0;
        for fault in [Fault::Die, Fault::Fail(io::ErrorKind::Other)] {
            for at in 0.. {
                let disk = disk_with(old);
                prepare(&disk);
                let first = disk.operations();
                disk.set_fault(first + at, fault);
                let written = write_atomic(&disk, Path::new(PATH), &NEW, options);
                let is_done = disk.operations() <= first + at;
                disk.clear_fault();
                if is_done && written.is_ok() == keeps {
                    return Err(format!("{written:?} without a fault"));
                }
                for power in powers() {
                    let found = content(&disk.crash(power));
                    let is_old = found.as_deref() == old;
                    let is_new = found.as_deref() == Some(&NEW[..]);
                    let is_right = match (&written, keeps) {
                        (_, true) => is_old,
                        (Ok(_), false) => is_new,
                        (Err(_), false) => is_old || is_new,
                    };
                    if !is_right {
                        let len = found.map(|found| found.len());
                        return Err(format!("{fault:?} at {at}, {power:?}: {len:?} bytes"));
                    }
                }
                // The next write succeeds, and removes the temporary file.
                let next = disk.crash(Power::Kept);
                let again = write_atomic(&next, Path::new(PATH), &NEW, &AtomicWrite::PRIVATE);
                if again.is_err() || content(&next).as_deref() != Some(&NEW[..]) {
                    return Err(format!("{fault:?} at {at}: no write succeeds after it"));
                }
                if options.writers == Writers::One && next.files() != [Path::new(PATH)] {
                    return Err(format!("{fault:?} at {at}: {:?}", next.files()));
                }
                faults += 1;
                if is_done {
                    break;
                }
            }
        }
        assert!(faults > 8, "{faults}");
        Ok(())
    }

    #[test]
    fn a_crash_at_any_point_leaves_the_old_content_or_the_new() {
        for options in all_options() {
            for old in [None, Some(&OLD[..])] {
                check(old, &options, |_| {}).unwrap_or_else(|problem| {
                    panic!("{options:?}, old content: {}: {problem}", old.is_some())
                });
            }
        }
    }

    #[test]
    fn neither_sync_can_be_left_out() {
        for old in [None, Some(&OLD[..])] {
            let no_file_sync = check(old, &AtomicWrite::PRIVATE, |d| d.ignore_syncs(true, false));
            assert!(no_file_sync.is_err());
            let no_dir_sync = check(old, &AtomicWrite::PRIVATE, |d| d.ignore_syncs(false, true));
            assert!(no_dir_sync.is_err());
        }
    }

    #[test]
    fn an_error_leaves_no_temporary_file() {
        for options in all_options() {
            for at in 0..6 {
                let disk = disk_with(None);
                disk.set_fault(disk.operations() + at, Fault::Fail(io::ErrorKind::StorageFull));
                let _ = write_atomic(&disk, Path::new(PATH), &NEW, &options);
                let left = disk.files().into_iter().filter(|path| path != Path::new(PATH));
                assert_eq!(left.count(), 0, "{options:?} {at}");
            }
        }
    }

    #[test]
    fn a_file_that_exists_is_kept_on_request() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let options = AtomicWrite {
            existing: Existing::Keep,
            writers: Writers::Several,
            ..AtomicWrite::PRIVATE
        };
        write_atomic(&RealDisk, &path, b"first", &options).unwrap();
        let error = write_atomic(&RealDisk, &path, b"second", &options).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&path).unwrap(), b"first");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn permissions_are_the_requested_ones() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let mode = || std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777;
        write_atomic(&RealDisk, &path, b"1", &AtomicWrite::PRIVATE).unwrap();
        assert_eq!(mode(), 0o600);
        let options = AtomicWrite { permissions: Permissions::Mode(0o644), ..AtomicWrite::PRIVATE };
        write_atomic(&RealDisk, &path, b"2", &options).unwrap();
        // The umask of the process applies, as it does to a file that is created directly.
        let plain = dir.path().join("plain");
        RealDisk.create_with_mode(&plain, 0o644).unwrap();
        let allowed = std::fs::metadata(&plain).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(), allowed);
        for bits in [0o640, 0o604] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(bits)).unwrap();
            let before = std::fs::metadata(&path).unwrap();
            let options = AtomicWrite { permissions: Permissions::Inherit, ..AtomicWrite::PRIVATE };
            write_atomic(&RealDisk, &path, b"3", &options).unwrap();
            assert_eq!(mode(), bits);
            let after = std::fs::metadata(&path).unwrap();
            assert_eq!((after.uid(), after.gid()), (before.uid(), before.gid()));
            assert_ne!(after.ino(), before.ino());
        }
    }

    #[test]
    fn the_lock_is_held_while_the_file_is_open() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let options = AtomicWrite { lock: true, ..AtomicWrite::PRIVATE };
        let file = write_atomic(&RealDisk, &path, b"1", &options).unwrap();
        let other = RealDisk.open(&path).unwrap();
        assert_eq!(other.lock().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(file);
        other.lock().unwrap();
    }

    #[test]
    fn a_file_over_the_limit_is_not_read() {
        let disk = disk_with(Some(&OLD));
        let path = Path::new(PATH);
        assert_eq!(read_file(&disk, path, OLD.len() as u64).unwrap(), OLD);
        let error = read_file(&disk, path, OLD.len() as u64 - 1).unwrap_err();
        assert!(matches!(error, FileError::TooLong { len: 9000, limit: 8999, .. }), "{error}");
    }

    #[test]
    fn a_bare_name_is_in_the_current_directory() {
        assert_eq!(directory(Path::new("file")), Path::new("."));
        assert_eq!(directory(Path::new("d/file")), Path::new("d"));
        assert_eq!(directory(Path::new("/file")), Path::new("/"));
    }
}

//! Clones of files: the content of one instant, which a program that writes to the file does not
//! change.

use std::fs::File;
use std::path::Path;

/// Clones a file into a file without a name in `dir`. Returns `None` if the file system cannot
/// do that: btrfs, bcachefs and XFS (with `reflink=1`) can, if `dir` is on the same file system.
/// The clone shares the blocks of the file, and needs no time and no space for them.
#[cfg(target_os = "linux")]
pub(super) fn clone_of(file: &File, dir: &Path) -> Option<File> {
    use rustix::fs::{Mode, OFlags};

    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let clone = rustix::fs::open(dir, flags, Mode::RUSR | Mode::WUSR).ok()?;
    rustix::fs::ioctl_ficlone(&clone, file).ok()?;
    Some(File::from(clone))
}

/// Returns `None`: this system has no such call.
#[cfg(not(target_os = "linux"))]
pub(super) fn clone_of(_: &File, _: &Path) -> Option<File> {
    None
}

//! Opens regular files and directories for reading, and nothing else.

use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::path::Arg;

use super::beneath::PATH_ONLY;
use super::stat::{Stat, has_proc, stat_fd};
use crate::entry::FileKind;

const READ: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

/// Flags to open a directory for listing.
const LIST: OFlags = READ.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW);

/// Opens the regular file with this name; `None` if the entry is of another kind.
pub(crate) fn open_regular(
    dir: BorrowedFd<'_>,
    name: &[u8],
) -> Result<Option<(OwnedFd, Stat)>, Errno> {
    // First hold the inode with O_PATH, check that it is a regular file, and only
    // then open it: between examining and opening a name, the name may come to
    // lead to another inode.
    let held = rustix::fs::openat(dir, name, PATH_ONLY, Mode::empty())?;
    match open_held(held.as_fd()) {
        Err(Errno::OPNOTSUPP) => {}
        opened => return opened,
    }
    // Without `/proc`, a pipe that replaces the file at this moment is opened
    // without waiting, and closed.
    let flags = READ | OFlags::NOFOLLOW;
    let fd = no_atime(flags, |flags| rustix::fs::openat(dir, name, flags, Mode::empty()))?;
    let stat = stat_fd(fd.as_fd())?;
    Ok((stat.kind == Some(FileKind::File)).then_some((fd, stat)))
}

/// Opens an inode held with `O_PATH` for reading if it is a regular file. Returns
/// `OPNOTSUPP` if there is no `/proc`.
pub(crate) fn open_held(held: BorrowedFd<'_>) -> Result<Option<(OwnedFd, Stat)>, Errno> {
    if stat_fd(held)?.kind != Some(FileKind::File) {
        return Ok(None);
    }
    let path = proc_path(held)?;
    let fd = no_atime(READ, |flags| rustix::fs::open(path.as_str(), flags, Mode::empty()))?;
    let stat = stat_fd(fd.as_fd())?;
    Ok(Some((fd, stat)))
}

/// Opens a directory for listing.
pub(crate) fn open_list(dir: BorrowedFd<'_>, name: impl Arg + Copy) -> Result<OwnedFd, Errno> {
    no_atime(LIST, |flags| rustix::fs::openat(dir, name, flags, Mode::empty()))
}

/// Opens without changing the access time, if this user may: only the owner may.
fn no_atime<T>(flags: OFlags, open: impl Fn(OFlags) -> Result<T, Errno>) -> Result<T, Errno> {
    match open(flags | OFlags::NOATIME) {
        Err(Errno::PERM) => open(flags),
        result => result,
    }
}

/// Returns the name of an open inode below `/proc`. It leads to that inode even if
/// the path by which it was opened now leads elsewhere. Returns `OPNOTSUPP` if
/// there is no `/proc`.
pub(crate) fn proc_path(fd: BorrowedFd<'_>) -> Result<String, Errno> {
    if !has_proc() {
        return Err(Errno::OPNOTSUPP);
    }
    Ok(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

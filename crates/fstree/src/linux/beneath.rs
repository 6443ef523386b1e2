//! Resolves a path below an open directory. No other code resolves a path with
//! more than one name.
//!
//! **Invariant**: no link is followed, in no component of the path, and nothing
//! outside the directory is reached. `openat2` (Linux 5.6) guarantees this in one
//! call. On older kernels, and in sandboxes that reject the call, the path is opened
//! name by name, which is equally safe and slower.
//!
//! A path that is too long for one call is opened in pieces.

use std::sync::OnceLock;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::resolution::Resolution;

/// Maximum length of a path in one call, in bytes without the final NUL.
const PIECE_LEN_MAX: usize = 4095;

/// Maximum number of attempts if renames elsewhere disturb a call.
const TRIES_MAX: u32 = 32;

/// Flags for directories on a path, and for entries that are examined but not read.
pub(crate) const PATH_ONLY: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

const PATH_DIR: OFlags = PATH_ONLY.union(OFlags::DIRECTORY);

const RESOLVE: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

/// Reports whether the kernel supports `openat2` and lets this process call it.
fn has_openat2() -> bool {
    static HAS_OPENAT2: OnceLock<bool> = OnceLock::new();
    *HAS_OPENAT2.get_or_init(|| {
        let probe = rustix::fs::openat2(CWD, c".", PATH_DIR, Mode::empty(), RESOLVE);
        !matches!(probe, Err(Errno::NOSYS | Errno::PERM | Errno::INVAL | Errno::TOOBIG))
    })
}

impl Resolution {
    fn is_by_name(self) -> bool {
        self == Self::ByName || !has_openat2()
    }

    /// Opens `path`, names joined by `/`, below `dir`. The empty path is the
    /// directory itself. `O_NOFOLLOW` and `O_CLOEXEC` are always added.
    pub(crate) fn open(
        self,
        dir: BorrowedFd<'_>,
        path: &[u8],
        flags: OFlags,
    ) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        if path.is_empty() {
            return retry(|| rustix::fs::openat(dir, c".", flags, Mode::empty()));
        }
        let mut held: Option<OwnedFd> = None;
        let mut rest = path;
        loop {
            let base = held.as_ref().map_or(dir, AsFd::as_fd);
            let Some((piece, after)) = self.split(rest) else {
                return self.open_piece(base, rest, flags);
            };
            held = Some(self.open_piece(base, piece, PATH_DIR)?);
            rest = after;
        }
    }

    /// Opens the directory `path` with `O_PATH`.
    pub(crate) fn open_dir(self, dir: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Errno> {
        self.open(dir, path, PATH_DIR)
    }

    /// Splits a path that needs more than one call into the first piece and the
    /// rest.
    fn split(self, path: &[u8]) -> Option<(&[u8], &[u8])> {
        let is_slash = |byte: &u8| *byte == b'/';
        let at = if self.is_by_name() {
            path.iter().position(is_slash)?
        } else if path.len() > PIECE_LEN_MAX {
            path[..=PIECE_LEN_MAX].iter().rposition(is_slash)?
        } else {
            return None;
        };
        Some((&path[..at], &path[at + 1..]))
    }

    fn open_piece(self, dir: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        if self.is_by_name() {
            // One name, and `O_NOFOLLOW` is among the flags.
            return retry(|| rustix::fs::openat(dir, path, flags, Mode::empty()));
        }
        // `EXDEV`: a directory on the path was moved out of the tree during the call.
        retry(|| match rustix::fs::openat2(dir, path, flags, Mode::empty(), RESOLVE) {
            Err(Errno::XDEV) => Err(Errno::AGAIN),
            result => result,
        })
    }
}

/// Repeats a call that was interrupted by a signal, or disturbed by a rename
/// elsewhere. (File leases cause the same error, but only for files, which are not
/// opened this way.)
fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    for _ in 1..TRIES_MAX {
        match call() {
            Err(Errno::INTR | Errno::AGAIN) => {}
            result => return result,
        }
    }
    call()
}

/// Reports whether the error means that the path does not exist: a name is missing,
/// or a component is a link or not a directory.
pub(crate) fn is_absent(errno: Errno) -> bool {
    matches!(errno, Errno::NOENT | Errno::NOTDIR | Errno::LOOP)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::super::stat::stat_fd;
    use super::*;
    use crate::entry::FileKind;

    const BOTH: [Resolution; 2] = [Resolution::Best, Resolution::ByName];

    #[test]
    fn links_are_followed_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        fs::create_dir_all(outside.path().join("b")).unwrap();
        for at in ["link", "a/link", "a/b/link"] {
            symlink(outside.path(), dir.path().join(at)).unwrap();
        }
        symlink("b", dir.path().join("a/inner")).unwrap();
        let root = fs::File::open(dir.path()).unwrap();
        for how in BOTH {
            let open = |path: &str| how.open_dir(root.as_fd(), path.as_bytes());
            assert!(open("").is_ok() && open("a").is_ok() && open("a/b").is_ok());
            for bad in ["link", "link/b", "a/link", "a/link/b", "a/b/link/b", "a/inner", "none"] {
                assert!(is_absent(open(bad).unwrap_err()), "{how:?} {bad}");
            }
            let link = how.open(root.as_fd(), b"a/link", PATH_ONLY).unwrap();
            let stat = stat_fd(link.as_fd()).unwrap();
            assert_eq!(stat.kind, Some(FileKind::Symlink));
        }
    }

    #[test]
    fn a_path_of_any_length_is_opened() {
        let dir = tempfile::tempdir().unwrap();
        let name = "n".repeat(250);
        let root = fs::File::open(dir.path()).unwrap();
        let mut at = OwnedFd::from(root.try_clone().unwrap());
        for _ in 0..40 {
            rustix::fs::mkdirat(&at, &name, Mode::RWXU).unwrap();
            at = rustix::fs::openat(&at, &name, PATH_DIR, Mode::empty()).unwrap();
        }
        let path = [name.as_str()].repeat(40).join("/");
        let deepest = stat_fd(at.as_fd()).unwrap();
        for how in BOTH {
            let fd = how.open_dir(root.as_fd(), path.as_bytes()).unwrap();
            let stat = stat_fd(fd.as_fd()).unwrap();
            assert_eq!(stat.identity(), deepest.identity());
        }
    }
}

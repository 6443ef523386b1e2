//! From a directory that is open to what is below it: the only code that
//! resolves a path of more than one name.
//!
//! **Invariant**: no link is followed, in no part of a path, and nothing is
//! reached that is not below the directory. The kernel does it in one call
//! where it can (`openat2`, Linux 5.6); older ones, and sandboxes that refuse
//! the call, are asked name by name, which is as safe and slower.
//!
//! A path may be longer than one call takes: it is opened in pieces then.

use std::sync::OnceLock;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// How paths are resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Resolution {
    /// With `openat2` where it works, else name by name.
    #[default]
    Best,
    /// Name by name, as on a kernel without `openat2`.
    ByName,
}

/// The longest path that one call takes, in bytes, its NUL not counted.
const PIECE_LEN_MAX: usize = 4095;

/// How often a call is repeated that was disturbed by a rename elsewhere.
const TRIES_MAX: u32 = 32;

/// For directories on the way, and things that are looked at but not read.
pub(crate) const PATH_ONLY: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

const PATH_DIR: OFlags = PATH_ONLY.union(OFlags::DIRECTORY);

const RESOLVE: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

/// Whether the system has `openat2` and lets this process call it.
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

    /// Opens `path`, names joined by `/`, below `dir`; the empty path is the
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

    /// The directory `path`, to reach other things through.
    pub(crate) fn open_dir(self, dir: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Errno> {
        self.open(dir, path, PATH_DIR)
    }

    /// What is opened first of a path that takes more than one call, and what
    /// remains.
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
        // `EXDEV`: a directory on the way was moved out of the tree just now.
        retry(|| match rustix::fs::openat2(dir, path, flags, Mode::empty(), RESOLVE) {
            Err(Errno::XDEV) => Err(Errno::AGAIN),
            result => result,
        })
    }
}

/// Repeats a call that a signal, or a rename elsewhere, has stopped. (What a
/// lease of another process stops with the same error is not opened here.)
fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    for _ in 1..TRIES_MAX {
        match call() {
            Err(Errno::INTR | Errno::AGAIN) => {}
            result => return result,
        }
    }
    call()
}

/// Whether the error says that the path is not there: a name is missing, or
/// one on the way is no directory, or is a link.
pub(crate) fn is_absent(errno: Errno) -> bool {
    matches!(errno, Errno::NOENT | Errno::NOTDIR | Errno::LOOP)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

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
            let stat = crate::stat::stat_fd(link.as_fd()).unwrap();
            assert_eq!(stat.file_type, rustix::fs::FileType::Symlink);
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
        let deepest = crate::stat::stat_fd(at.as_fd()).unwrap();
        for how in BOTH {
            let fd = how.open_dir(root.as_fd(), path.as_bytes()).unwrap();
            let stat = crate::stat::stat_fd(fd.as_fd()).unwrap();
            assert_eq!(stat.identity(), deepest.identity());
        }
    }
}

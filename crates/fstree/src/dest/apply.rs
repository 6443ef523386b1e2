//! Giving an inode its metadata, and finding out what of it holds.
//!
//! The order matters: an owner is changed before the mode, since a change of
//! owner takes setuid and capabilities away; ACLs are set before the mode,
//! since an ACL is a mode, too; times come last. Then the inode is looked at
//! once more, and what is not as it should be is reported: file systems clamp
//! times and kernels drop bits without a word.
//!
//! **Invariant**: what is set is set on an open inode, never on a name, so it
//! cannot be turned onto another file.

use std::io;

use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::{AtFlags, CWD, Gid, Mode, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags};
use rustix::io::Errno;
use rustix::thread::CapabilitySet;
use types::{Metadata, RelPath};

use crate::found::Kind;
use crate::stat::{Identity, Stat, proc_path, split_ns, stat_fd};
use crate::xattrs::{ACL_ACCESS, ACL_DEFAULT};

/// Whose the things that are made become.
#[derive(Clone, Debug, Default)]
pub enum OwnerPolicy {
    /// This user's. File capabilities and `trusted.*` attributes, which give
    /// rights as owners do, are not set either.
    #[default]
    Leave,
    /// Those of the numbers in the metadata. It takes the right to give files
    /// away, which root has.
    Numbers,
}

impl OwnerPolicy {
    /// [`OwnerPolicy::Numbers`] where this process may give files away, which
    /// takes root or the capability; else [`OwnerPolicy::Leave`].
    pub fn for_this_process() -> Self {
        let chown = CapabilitySet::CHOWN;
        match rustix::thread::capabilities(None) {
            Ok(sets) if sets.effective.contains(chown) => Self::Numbers,
            Err(_) if rustix::process::geteuid().is_root() => Self::Numbers,
            _ => Self::Leave,
        }
    }
}

/// What of an entry is not as the metadata has it.
#[derive(Debug)]
pub struct NotSet {
    /// The entry.
    pub path: RelPath,
    /// What of it.
    pub what: Attribute,
    /// Why.
    pub source: io::Error,
}

/// A part of the metadata.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Attribute {
    /// The owner or the group.
    Owner,
    /// The permissions. Setuid and setgid are left away where the owner or the
    /// group is another: they would give rights that nobody granted.
    Mode,
    /// The time of the last write.
    Mtime,
    /// The extended attribute, or ACL, of this name.
    Xattr(Vec<u8>),
}

/// An inode that is open.
pub(crate) struct Inode<'a> {
    pub(crate) fd: BorrowedFd<'a>,
    pub(crate) kind: Kind,
    /// Opened by `O_PATH`: not all calls take it.
    pub(crate) is_path_only: bool,
}

const EMPTY_PATH: AtFlags = AtFlags::EMPTY_PATH;

impl Inode<'_> {
    fn set_owner(&self, uid: Option<u32>, gid: u32) -> Result<(), Errno> {
        let (uid, gid) = (uid.map(Uid::from_raw), Some(Gid::from_raw(gid)));
        if self.is_path_only {
            rustix::fs::chownat(self.fd, c"", uid, gid, EMPTY_PATH)
        } else {
            rustix::fs::fchown(self.fd, uid, gid)
        }
    }

    fn set_xattr(&self, name: &[u8], value: &[u8]) -> Result<(), Errno> {
        if self.is_path_only {
            let path = proc_path(self.fd)?;
            rustix::fs::setxattr(path.as_str(), name, value, XattrFlags::empty())
        } else {
            rustix::fs::fsetxattr(self.fd, name, value, XattrFlags::empty())
        }
    }

    /// Nothing where there is none.
    fn remove_xattr(&self, name: &[u8]) -> Result<(), Errno> {
        let removed = if self.is_path_only {
            proc_path(self.fd).and_then(|path| rustix::fs::removexattr(path.as_str(), name))
        } else {
            rustix::fs::fremovexattr(self.fd, name)
        };
        match removed {
            Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
            removed => removed,
        }
    }

    pub(crate) fn set_mode(&self, mode: u32) -> Result<(), Errno> {
        let mode = Mode::from_raw_mode(mode);
        if self.is_path_only {
            rustix::fs::chmod(proc_path(self.fd)?.as_str(), mode)
        } else {
            rustix::fs::fchmod(self.fd, mode)
        }
    }

    fn set_mtime(&self, mtime_ns: i128) -> Result<(), Errno> {
        let (seconds, nanoseconds) = split_ns(mtime_ns).ok_or(Errno::INVAL)?;
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            last_modification: Timespec { tv_sec: seconds, tv_nsec: nanoseconds },
        };
        if !self.is_path_only {
            return rustix::fs::futimens(self.fd, &times);
        }
        match rustix::fs::utimensat(self.fd, c"", &times, EMPTY_PATH) {
            // Linux before 5.8.
            Err(Errno::INVAL | Errno::NOENT) => {
                rustix::fs::utimensat(CWD, proc_path(self.fd)?.as_str(), &times, AtFlags::empty())
            }
            result => result,
        }
    }

    /// Sets everything, as far as it can be, and says what could not. Returns
    /// which inode it was.
    pub(crate) fn apply(
        &self,
        path: &RelPath,
        metadata: &Metadata,
        owners: &OwnerPolicy,
        not_set: &mut Vec<NotSet>,
    ) -> Result<Identity, Errno> {
        let mut report = |what, source| {
            not_set.push(NotSet { path: path.clone(), what, source });
        };
        let owned = self.apply_owner(metadata, owners)?;
        if let Some(source) = owned.error {
            report(Attribute::Owner, source);
        }
        if self.kind != Kind::Symlink {
            // What the directory around it gave it.
            for name in [ACL_ACCESS, ACL_DEFAULT] {
                let is_kept = metadata.xattrs.contains_key(name);
                if is_kept || (name == ACL_DEFAULT && self.kind != Kind::Dir) {
                    continue;
                }
                if let Err(errno) = self.remove_xattr(name) {
                    report(Attribute::Xattr(name.to_vec()), errno.into());
                }
            }
        }
        for (name, value) in &metadata.xattrs {
            let set = if matches!(owners, OwnerPolicy::Leave) && gives_rights(name) {
                Err(io::Error::new(
                    io::ErrorKind::PermissionDenied,
                    "it is only set together with owners",
                ))
            } else {
                self.set_xattr(name, value).map_err(io::Error::from)
            };
            if let Err(source) = set {
                report(Attribute::Xattr(name.clone()), source);
            }
        }
        let mut mode_error = None;
        if self.kind != Kind::Symlink {
            mode_error = self.set_mode(metadata.mode & !owned.forbidden_bits).err();
        }
        let mtime_error = self.set_mtime(metadata.mtime_ns).err();
        let now = stat_fd(self.fd)?;
        let reason = |errno: Option<Errno>, otherwise: &'static str| {
            errno.map_or_else(|| io::Error::new(io::ErrorKind::Unsupported, otherwise), Into::into)
        };
        if self.kind != Kind::Symlink && now.mode != metadata.mode {
            report(Attribute::Mode, reason(mode_error, "the system keeps other permissions"));
        }
        if now.stamp.mtime_ns() != metadata.mtime_ns {
            report(Attribute::Mtime, reason(mtime_error, "the file system keeps another time"));
        }
        Ok(now.identity())
    }

    fn apply_owner(&self, metadata: &Metadata, owners: &OwnerPolicy) -> Result<Owned, Errno> {
        let (uid, gid) = (metadata.uid, metadata.gid);
        let is_right = |stat: &Stat| stat.uid == uid && stat.gid == gid;
        let mut stat = stat_fd(self.fd)?;
        let mut error = None;
        if !matches!(owners, OwnerPolicy::Leave) && !is_right(&stat) {
            let changed = self.set_owner(Some(uid), gid);
            if changed.is_err() {
                // A user may give a file to another group of his.
                let _ = self.set_owner(None, gid);
            }
            stat = stat_fd(self.fd)?;
            if !is_right(&stat) {
                error = Some(changed.err().unwrap_or(Errno::OPNOTSUPP).into());
            }
        }
        let mut forbidden_bits = 0;
        if self.kind == Kind::File {
            forbidden_bits |= if stat.uid == uid { 0 } else { 0o4000 };
            forbidden_bits |= if stat.gid == gid { 0 } else { 0o2000 };
        }
        Ok(Owned { error, forbidden_bits })
    }
}

struct Owned {
    error: Option<io::Error>,
    /// Bits of the mode that the file must not have with the owner that it has.
    forbidden_bits: u32,
}

/// Attributes that give a program rights, or steer the kernel.
fn gives_rights(name: &[u8]) -> bool {
    name == b"security.capability" || name.starts_with(b"trusted.")
}

/// A directory or file that is open for more than its path.
pub(crate) fn open_inode(fd: &impl AsFd, kind: Kind) -> Inode<'_> {
    Inode { fd: fd.as_fd(), kind, is_path_only: false }
}

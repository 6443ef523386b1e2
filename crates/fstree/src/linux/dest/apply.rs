//! Sets the metadata of an inode, and checks the result.
//!
//! The order matters. The owner is set before the mode, because a change of owner
//! removes setuid and capabilities. ACLs are set before the mode, because an ACL
//! contains a mode. Times come last. Then the inode is examined again, and every
//! difference is reported: file systems clamp times and kernels drop bits silently.
//!
//! The programs behind some FUSE file systems (sshfs) apply a change of a link to the file
//! that it points to, which may be anywhere. There, links get no metadata.
//!
//! **Invariant**: metadata is set on an open inode, never by name, so that it cannot
//! be redirected to another file.

use std::io;
use std::sync::Arc;

use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::{AtFlags, CWD, Gid, Mode, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags};
use rustix::io::Errno;
use rustix::thread::CapabilitySet;
use types::{Metadata, RelPath};

use super::super::acl::mode_without_acl;
use super::super::open::proc_path;
use super::super::stat::{FUSE_MAGIC, Stat, file_system_magic, split_ns, stat_fd};
use super::super::xattrs::{ACL_ACCESS, ACL_DEFAULT, is_copy_of_acl, read_fd};
use crate::dest::{Attribute, NotSet, OwnerPolicy};
use crate::entry::{FileKind, Identity};
use crate::owners::Owners;

impl OwnerPolicy {
    /// Returns [`OwnerPolicy::Numbers`] or, if `by_name` is set, [`OwnerPolicy::Names`] with
    /// the names of this computer if this process may change owners (as root, or with the
    /// capability `CAP_CHOWN`), otherwise [`OwnerPolicy::Leave`].
    pub fn for_this_process(by_name: bool) -> Self {
        let chown = CapabilitySet::CHOWN;
        let may = match rustix::thread::capabilities(None) {
            Ok(sets) => sets.effective.contains(chown),
            Err(_) => rustix::process::geteuid().is_root(),
        };
        match (may, by_name) {
            (true, true) => Self::Names(Arc::new(Owners::system().numbers())),
            (true, false) => Self::Numbers,
            (false, _) => Self::Leave,
        }
    }

    /// Returns the numbers of the owners that an entry should have.
    fn wanted(&self, metadata: &Metadata) -> (u32, u32) {
        match self {
            Self::Names(numbers) => numbers.of(metadata),
            Self::Leave | Self::Numbers => (metadata.uid, metadata.gid),
        }
    }
}

/// An open inode.
pub(crate) struct Inode<'a> {
    pub(crate) fd: BorrowedFd<'a>,
    pub(crate) kind: FileKind,
    /// True if the descriptor is an `O_PATH` descriptor, which not all calls accept.
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

    /// Removes an attribute if it exists.
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

    /// Sets the mtime, and returns the state of the inode afterwards, with the error if it
    /// could not be set. Programs that use version 2 of libfuse accept a call that sets only
    /// the mtime, and ignore it; they get both times.
    fn set_mtime(&self, mtime_ns: i128) -> Result<(Stat, Option<Errno>), Errno> {
        let set = self.set_times(Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT }, mtime_ns);
        let now = stat_fd(self.fd)?;
        if set.is_err() || now.stamp.mtime_ns() == mtime_ns {
            return Ok((now, set.err()));
        }
        let stat = rustix::fs::fstat(self.fd)?;
        let nanoseconds = i64::try_from(stat.st_atime_nsec).unwrap_or(0);
        let atime = Timespec { tv_sec: stat.st_atime, tv_nsec: nanoseconds };
        let set = self.set_times(atime, mtime_ns);
        Ok((stat_fd(self.fd)?, set.err()))
    }

    fn set_times(&self, atime: Timespec, mtime_ns: i128) -> Result<(), Errno> {
        let (seconds, nanoseconds) = split_ns(mtime_ns).ok_or(Errno::INVAL)?;
        let times = Timestamps {
            last_access: atime,
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

    /// Sets all metadata that can be set, and adds the rest to `not_set`. Returns
    /// the identity of the inode.
    pub(crate) fn apply(
        &self,
        path: &RelPath,
        metadata: &Metadata,
        owners: &OwnerPolicy,
        not_set: &mut Vec<NotSet>,
    ) -> Result<Identity, Errno> {
        let mut report = |attribute, source| {
            not_set.push(NotSet { path: path.clone(), attribute, source });
        };
        if self.kind == FileKind::Symlink && file_system_magic(self.fd) == Some(FUSE_MAGIC) {
            return self.report_link(metadata, owners, report);
        }
        let owned = self.apply_owner(metadata, owners)?;
        if let Some(source) = owned.error {
            report(Attribute::Owner, source);
        }
        if self.kind != FileKind::Symlink {
            // Remove the ACLs inherited from the parent directory.
            for name in [ACL_ACCESS, ACL_DEFAULT] {
                let is_kept = metadata.xattrs.contains_key(name);
                if is_kept || (name == ACL_DEFAULT && self.kind != FileKind::Dir) {
                    continue;
                }
                if let Err(errno) = self.remove_xattr(name) {
                    report(Attribute::Xattr(name.to_vec()), errno.into());
                }
            }
        }
        let mut mode = metadata.mode & !owned.forbidden_bits;
        let mut mode_reason = "the system stored other permissions";
        for (name, value) in &metadata.xattrs {
            if is_copy_of_acl(name) {
                continue;
            }
            let set = if matches!(owners, OwnerPolicy::Leave) && grants_privileges(name) {
                Err(io::Error::new(
                    io::ErrorKind::PermissionDenied,
                    "not set because owners are not restored",
                ))
            } else {
                self.set_xattr(name, value).map_err(io::Error::from)
            };
            if let Err(source) = set {
                report(Attribute::Xattr(name.clone()), source);
                if name == ACL_ACCESS {
                    mode = mode_without_acl(mode, value);
                    mode_reason = "reduced, because the ACL cannot be set";
                }
            }
        }
        let mut mode_error = None;
        if self.kind != FileKind::Symlink {
            mode_error = self.set_mode(mode).err();
        }
        let (now, mtime_error) = self.set_mtime(metadata.mtime_ns)?;
        let reason = |errno: Option<Errno>, otherwise: &'static str| {
            errno.map_or_else(|| io::Error::new(io::ErrorKind::Unsupported, otherwise), Into::into)
        };
        if self.kind != FileKind::Symlink && now.mode != metadata.mode {
            report(Attribute::Mode, reason(mode_error, mode_reason));
        }
        if now.stamp.mtime_ns() != metadata.mtime_ns {
            report(Attribute::Mtime, reason(mtime_error, "the file system stored another time"));
        }
        Ok(now.identity())
    }

    /// Reads the extended attributes again, and reports those that were set and differ.
    pub(crate) fn check_xattrs(
        &self,
        path: &RelPath,
        metadata: &Metadata,
        not_set: &mut Vec<NotSet>,
    ) {
        let Ok(now) = read_fd(self.fd) else { return };
        for (name, value) in &metadata.xattrs {
            let attribute = Attribute::Xattr(name.clone());
            let is_known = not_set.iter().any(|one| one.attribute == attribute);
            if is_known || is_copy_of_acl(name) || now.xattrs.get(name) == Some(value) {
                continue;
            }
            let why = "the file system lost it when it wrote the data";
            let source = io::Error::new(io::ErrorKind::Unsupported, why);
            not_set.push(NotSet { path: path.clone(), attribute, source });
        }
    }

    /// Reports the differences of a link whose metadata must not be set.
    fn report_link(
        &self,
        metadata: &Metadata,
        owners: &OwnerPolicy,
        mut report: impl FnMut(Attribute, io::Error),
    ) -> Result<Identity, Errno> {
        let unsafe_here = || {
            let why = "not set, because this file system may change the target of the link instead";
            io::Error::new(io::ErrorKind::Unsupported, why)
        };
        let now = stat_fd(self.fd)?;
        if (now.uid, now.gid) != owners.wanted(metadata) {
            report(Attribute::Owner, unsafe_here());
        }
        for name in metadata.xattrs.keys() {
            report(Attribute::Xattr(name.clone()), unsafe_here());
        }
        if now.stamp.mtime_ns() != metadata.mtime_ns {
            report(Attribute::Mtime, unsafe_here());
        }
        Ok(now.identity())
    }

    fn apply_owner(&self, metadata: &Metadata, owners: &OwnerPolicy) -> Result<Owned, Errno> {
        let (uid, gid) = owners.wanted(metadata);
        let is_right = |stat: &Stat| stat.uid == uid && stat.gid == gid;
        let mut stat = stat_fd(self.fd)?;
        let mut error = None;
        if matches!(owners, OwnerPolicy::Leave) {
            if !is_right(&stat) {
                error = Some(Errno::PERM.into());
            }
        } else if !is_right(&stat) {
            let changed = self.set_owner(Some(uid), gid);
            if changed.is_err() {
                // Users may change the group of a file to another of their groups.
                let _ = self.set_owner(None, gid);
            }
            stat = stat_fd(self.fd)?;
            if !is_right(&stat) {
                error = Some(changed.err().unwrap_or(Errno::OPNOTSUPP).into());
            }
        }
        let mut forbidden_bits = 0;
        if self.kind == FileKind::File {
            forbidden_bits |= if stat.uid == uid { 0 } else { 0o4000 };
            forbidden_bits |= if stat.gid == gid { 0 } else { 0o2000 };
        }
        Ok(Owned { error, forbidden_bits })
    }
}

struct Owned {
    error: Option<io::Error>,
    /// Bits of the mode that the file must not have with its actual owner.
    forbidden_bits: u32,
}

/// Reports whether an attribute grants privileges, or controls the kernel.
fn grants_privileges(name: &[u8]) -> bool {
    name == b"security.capability" || name.starts_with(b"trusted.")
}

/// Returns the inode of a directory or file that is not open with `O_PATH`.
pub(crate) fn open_inode(fd: &impl AsFd, kind: FileKind) -> Inode<'_> {
    Inode { fd: fd.as_fd(), kind, is_path_only: false }
}

//! What the system says of an inode, in one form whichever call said it.

use std::sync::OnceLock;

use rustix::fd::BorrowedFd;
use rustix::fs::{AtFlags, FileType, RawMode, StatxFlags, StatxTimestamp};
use rustix::io::Errno;
use rustix::path::Arg;

/// What makes a file the same file: an inode on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    /// The device.
    pub device: u64,
    /// The inode on the device.
    pub inode: u64,
}

/// What says that a file is as it was: another write, other metadata, or
/// another file under the same name, changes at least one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stamp {
    /// The device.
    pub device: u64,
    /// The inode on the device.
    pub inode: u64,
    /// The length, in bytes.
    pub size: u64,
    /// The time of the last write, in seconds and nanoseconds.
    pub mtime: (i64, i64),
    /// The time of the last change of the inode, its attributes and ACLs
    /// included, in seconds and nanoseconds.
    pub ctime: (i64, i64),
}

impl Stamp {
    /// The inode.
    pub fn identity(&self) -> Identity {
        Identity { device: self.device, inode: self.inode }
    }

    /// The time of the last write, in nanoseconds since 1970.
    pub fn mtime_ns(&self) -> i128 {
        i128::from(self.mtime.0) * NS_PER_SEC + i128::from(self.mtime.1)
    }
}

const NS_PER_SEC: i128 = 1_000_000_000;

/// Seconds and nanoseconds of a time in nanoseconds; `None` where no file
/// system could have it.
pub(crate) fn split_ns(ns: i128) -> Option<(i64, i64)> {
    let seconds = i64::try_from(ns.div_euclid(NS_PER_SEC)).ok()?;
    let nanoseconds = i64::try_from(ns.rem_euclid(NS_PER_SEC)).ok()?;
    Some((seconds, nanoseconds))
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Stat {
    pub(crate) file_type: FileType,
    /// The low twelve bits.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) links: u64,
    pub(crate) stamp: Stamp,
    /// In units of 512 bytes.
    pub(crate) blocks: u64,
    /// Of a device: its major and minor number.
    pub(crate) rdev: (u32, u32),
    /// When the inode was made, in seconds and nanoseconds, where the file
    /// system tells.
    pub(crate) born: Option<(i64, i64)>,
    /// Which mount it is in, where the system tells.
    pub(crate) mount: Option<u64>,
}

impl Stat {
    pub(crate) fn identity(&self) -> Identity {
        self.stamp.identity()
    }

    /// Whether something is mounted between this directory and `inner`, which
    /// is in it. A subvolume counts: it has a device of its own.
    pub(crate) fn is_mount_boundary(&self, inner: &Self) -> bool {
        self.stamp.device != inner.stamp.device
            || matches!((self.mount, inner.mount), (Some(outer), Some(inner)) if outer != inner)
    }
}

/// All that is ever wanted, and what costs less.
const ALL: StatxFlags = NO_MOUNT.union(StatxFlags::MNT_ID);
const NO_MOUNT: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::BTIME);

/// What stands at `name` in a directory; a link is not followed, and nothing
/// is mounted by looking.
pub(crate) fn stat_at(dir: BorrowedFd<'_>, name: impl Arg + Copy) -> Result<Stat, Errno> {
    stat(dir, name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT, ALL)
}

/// As [`stat_at`], without the mount, which matters for directories alone.
pub(crate) fn stat_leaf(dir: BorrowedFd<'_>, name: impl Arg + Copy) -> Result<Stat, Errno> {
    stat(dir, name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT, NO_MOUNT)
}

/// What a descriptor, one of `O_PATH` included, is open on.
pub(crate) fn stat_fd(fd: BorrowedFd<'_>) -> Result<Stat, Errno> {
    stat(fd, c"", AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW, ALL)
}

fn stat(
    dir: BorrowedFd<'_>,
    name: impl Arg + Copy,
    flags: AtFlags,
    mask: StatxFlags,
) -> Result<Stat, Errno> {
    let stat = match rustix::fs::statx(dir, name, flags, mask) {
        Err(Errno::NOSYS) => return old_stat(dir, name, flags),
        result => result?,
    };
    let time = |time: StatxTimestamp| (time.tv_sec, i64::from(time.tv_nsec));
    Ok(Stat {
        file_type: FileType::from_raw_mode(RawMode::from(stat.stx_mode)),
        mode: u32::from(stat.stx_mode) & 0o7777,
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        links: u64::from(stat.stx_nlink),
        stamp: Stamp {
            device: rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor),
            inode: stat.stx_ino,
            size: stat.stx_size,
            mtime: time(stat.stx_mtime),
            ctime: time(stat.stx_ctime),
        },
        blocks: stat.stx_blocks,
        rdev: (stat.stx_rdev_major, stat.stx_rdev_minor),
        born: (stat.stx_mask & StatxFlags::BTIME.bits() != 0).then(|| time(stat.stx_btime)),
        mount: (stat.stx_mask & StatxFlags::MNT_ID.bits() != 0).then_some(stat.stx_mnt_id),
    })
}

/// For sandboxes that refuse `statx`.
#[allow(clippy::useless_conversion, reason = "the types differ between machines")]
fn old_stat(dir: BorrowedFd<'_>, name: impl Arg + Copy, flags: AtFlags) -> Result<Stat, Errno> {
    let stat = rustix::fs::statat(dir, name, flags)?;
    let nanoseconds = |ns| i64::try_from(ns).unwrap_or(0);
    let size = u64::try_from(stat.st_size).map_err(|_| Errno::OVERFLOW)?;
    Ok(Stat {
        file_type: FileType::from_raw_mode(stat.st_mode),
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        links: u64::from(stat.st_nlink),
        stamp: Stamp {
            device: stat.st_dev,
            inode: stat.st_ino,
            size,
            mtime: (stat.st_mtime, nanoseconds(stat.st_mtime_nsec)),
            ctime: (stat.st_ctime, nanoseconds(stat.st_ctime_nsec)),
        },
        blocks: u64::try_from(stat.st_blocks).unwrap_or(0),
        rdev: (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)),
        born: None,
        mount: None,
    })
}

/// Whether `/proc` is there, and is what it should be. Some things can only be
/// done to an open inode by its name there.
pub(crate) fn has_proc() -> bool {
    static HAS_PROC: OnceLock<bool> = OnceLock::new();
    *HAS_PROC.get_or_init(|| {
        rustix::fs::statfs(c"/proc/self/fd")
            .is_ok_and(|stat| stat.f_type == rustix::fs::PROC_SUPER_MAGIC)
    })
}

/// The name of an open inode below `/proc`. It leads to that inode, whatever
/// has become of the path that it was opened by.
pub(crate) fn proc_path(fd: BorrowedFd<'_>) -> Result<String, Errno> {
    use rustix::fd::AsRawFd;
    if !has_proc() {
        return Err(Errno::OPNOTSUPP);
    }
    Ok(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use rustix::fd::AsFd;

    use super::*;

    #[test]
    fn both_calls_say_the_same() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), [7; 10_000]).unwrap();
        let new = stat_fd(file.as_file().as_fd()).unwrap();
        let old = old_stat(file.as_file().as_fd(), c"", AtFlags::EMPTY_PATH).unwrap();
        assert_eq!(new.stamp, old.stamp);
        assert_eq!((new.mode, new.uid, new.gid), (old.mode, old.uid, old.gid));
        assert_eq!((new.links, new.blocks, new.rdev), (old.links, old.blocks, old.rdev));
        assert_eq!(new.file_type, old.file_type);
        let metadata = file.as_file().metadata().unwrap();
        assert_eq!(new.stamp.device, metadata.dev());
        assert_eq!(new.stamp.mtime, (metadata.mtime(), metadata.mtime_nsec()));
    }

    #[test]
    fn times_before_1970_are_split_as_file_systems_do() {
        assert_eq!(split_ns(-1), Some((-1, 999_999_999)));
        assert_eq!(split_ns(-1_000_000_000), Some((-1, 0)));
        assert_eq!(split_ns(1_500_000_000), Some((1, 500_000_000)));
        assert_eq!(split_ns(i128::MAX), None);
        let stamp = Stamp { device: 0, inode: 0, size: 0, mtime: (-2, 1), ctime: (0, 0) };
        assert_eq!(split_ns(stamp.mtime_ns()), Some((-2, 1)));
    }
}

//! Examines inodes, in one form for both system calls.

use std::sync::OnceLock;

use rustix::fd::BorrowedFd;
use rustix::fs::{AtFlags, FileType, RawMode, StatxFlags, StatxTimestamp};
use rustix::io::Errno;
use rustix::path::Arg;

use crate::entry::{FileKind, Identity, Stamp};
use crate::source::MountId;

/// Magic number of FUSE file systems (`FUSE_SUPER_MAGIC` of Linux).
pub(crate) const FUSE_MAGIC: u32 = 0x6573_5546;

/// Returns the magic number of the file system of an open inode, if it is known.
pub(crate) fn file_system_magic(fd: BorrowedFd<'_>) -> Option<u32> {
    // The type of the field differs between platforms, and so does its sign.
    #[allow(clippy::cast_sign_loss, clippy::cast_possible_truncation, reason = "32 bits")]
    rustix::fs::fstatfs(fd).ok().map(|stat| stat.f_type as u32)
}

const NS_PER_SEC: i128 = 1_000_000_000;

/// Splits a time in nanoseconds into seconds and nanoseconds; `None` if no file
/// system can represent it.
pub(crate) fn split_ns(ns: i128) -> Option<(i64, i64)> {
    let seconds = i64::try_from(ns.div_euclid(NS_PER_SEC)).ok()?;
    let nanoseconds = i64::try_from(ns.rem_euclid(NS_PER_SEC)).ok()?;
    Some((seconds, nanoseconds))
}

/// Result of examining an inode.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stat {
    /// `None` if the kernel reports a kind that this program does not know.
    pub(crate) kind: Option<FileKind>,
    /// The low twelve bits.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) links: u64,
    pub(crate) stamp: Stamp,
    /// Allocated space in units of 512 bytes.
    pub(crate) blocks: u64,
    /// Major and minor number of a device.
    pub(crate) rdev: (u32, u32),
    /// Birth time of the inode in seconds and nanoseconds, if the file system
    /// records it.
    pub(crate) born: Option<(i64, i64)>,
    /// Id of the mount, if the kernel reports it.
    pub(crate) mount: Option<u64>,
}

impl Stat {
    pub(crate) fn identity(&self) -> Identity {
        self.stamp.identity()
    }

    /// Reports whether `inner`, an entry of this directory, is in another mount. A
    /// subvolume is treated as a mount, because it has its own device number.
    pub(crate) fn is_mount_boundary(&self, inner: &Self) -> bool {
        self.mount_id().differs(inner.mount_id())
    }

    pub(crate) fn mount_id(&self) -> MountId {
        MountId { device: self.stamp.device, mount: self.mount }
    }
}

impl MountId {
    /// Reports whether these are two mounts, or two subvolumes of one.
    pub(crate) fn differs(self, other: Self) -> bool {
        self.device != other.device
            || matches!((self.mount, other.mount), (Some(a), Some(b)) if a != b)
    }
}

/// Fields to request for directories and, at less cost, for other entries.
const ALL: StatxFlags = NO_MOUNT.union(StatxFlags::MNT_ID);
const NO_MOUNT: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::BTIME);

/// Examines the entry `name` of a directory. Links are not followed, and no
/// automount is triggered.
pub(crate) fn stat_at(dir: BorrowedFd<'_>, name: impl Arg + Copy) -> Result<Stat, Errno> {
    stat(dir, name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT, ALL)
}

/// Same as [`stat_at`] without the mount id, which only directories need.
pub(crate) fn stat_leaf(dir: BorrowedFd<'_>, name: impl Arg + Copy) -> Result<Stat, Errno> {
    stat(dir, name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT, NO_MOUNT)
}

/// Examines the inode of an open descriptor, which may be an `O_PATH` descriptor.
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
        kind: kind_of(FileType::from_raw_mode(RawMode::from(stat.stx_mode))),
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

/// Examines an inode with the older call, for sandboxes that reject `statx`.
#[allow(clippy::useless_conversion, reason = "the types differ between machines")]
fn old_stat(dir: BorrowedFd<'_>, name: impl Arg + Copy, flags: AtFlags) -> Result<Stat, Errno> {
    let stat = rustix::fs::statat(dir, name, flags)?;
    let nanoseconds = |ns| i64::try_from(ns).unwrap_or(0);
    let size = u64::try_from(stat.st_size).map_err(|_| Errno::OVERFLOW)?;
    Ok(Stat {
        kind: kind_of(FileType::from_raw_mode(stat.st_mode)),
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

/// Converts a file type; `None` for an unknown one.
pub(crate) fn kind_of(file_type: FileType) -> Option<FileKind> {
    Some(match file_type {
        FileType::RegularFile => FileKind::File,
        FileType::Directory => FileKind::Dir,
        FileType::Symlink => FileKind::Symlink,
        FileType::Fifo => FileKind::Fifo,
        FileType::Socket => FileKind::Socket,
        FileType::CharacterDevice => FileKind::CharDevice,
        FileType::BlockDevice => FileKind::BlockDevice,
        FileType::Unknown => return None,
    })
}

/// Reports whether `/proc` is mounted and really is procfs. Some operations on an
/// open inode are only possible through its name there.
pub(crate) fn has_proc() -> bool {
    static HAS_PROC: OnceLock<bool> = OnceLock::new();
    *HAS_PROC.get_or_init(|| {
        rustix::fs::statfs(c"/proc/self/fd")
            .is_ok_and(|stat| stat.f_type == rustix::fs::PROC_SUPER_MAGIC)
    })
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
        assert_eq!(new.kind, old.kind);
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

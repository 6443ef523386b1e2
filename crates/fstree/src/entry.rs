//! An entry that a walk found, and its state.

use std::fmt;

use types::{EntryKind, Metadata, RelPath, Xattrs};

use crate::owners::Owners;

/// Identity of a file: its device and its inode on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    /// The device.
    pub device: u64,
    /// The inode on the device.
    pub inode: u64,
}

/// State of a file. A write, a change of metadata, or another file under the same
/// name changes at least one field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stamp {
    /// The device.
    pub device: u64,
    /// The inode on the device.
    pub inode: u64,
    /// Length in bytes.
    pub size: u64,
    /// Time of the last write, in seconds and nanoseconds.
    pub mtime: (i64, i64),
    /// Time of the last change of the inode, including its attributes and ACLs,
    /// in seconds and nanoseconds.
    pub ctime: (i64, i64),
}

impl Stamp {
    /// Returns the identity of the file.
    pub fn identity(&self) -> Identity {
        Identity { device: self.device, inode: self.inode }
    }

    /// Returns the time of the last write in nanoseconds since 1970.
    pub fn mtime_ns(&self) -> i128 {
        i128::from(self.mtime.0) * 1_000_000_000 + i128::from(self.mtime.1)
    }
}

/// The kind of an entry in a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

impl fmt::Display for FileKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::File => "file",
            Self::Dir => "directory",
            Self::Symlink => "symbolic link",
            Self::Fifo => "named pipe",
            Self::Socket => "socket",
            Self::CharDevice => "character device",
            Self::BlockDevice => "block device",
        })
    }
}

/// The kind of a found entry, with the data that only this kind has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FoundKind {
    /// A regular file; its length is in the stamp.
    File {
        /// True if the file uses less disk space than its length, so that it has
        /// holes. File systems with compression report this for files without
        /// holes, too.
        is_sparse: bool,
    },
    /// A directory.
    Dir {
        /// True if the directory is a mount point or a subvolume. With
        /// [`WalkOptions::one_file_system`](crate::WalkOptions) the walk does not
        /// enter it.
        is_mount_point: bool,
    },
    /// A symbolic link.
    Symlink {
        /// The target, exactly as stored in the link.
        target: Vec<u8>,
    },
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A character device.
    CharDevice {
        /// Its major and minor number.
        device: (u32, u32),
    },
    /// A block device.
    BlockDevice {
        /// Its major and minor number.
        device: (u32, u32),
    },
}

/// An entry of a tree, with everything that is known without opening it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundEntry {
    /// Path of the entry.
    pub path: RelPath,
    /// Kind of the entry.
    pub kind: FoundKind,
    /// State of the entry.
    pub stamp: Stamp,
    /// Permissions with setuid, setgid and sticky: the low twelve bits.
    pub mode: u32,
    /// Number of the owner.
    pub uid: u32,
    /// Number of the group.
    pub gid: u32,
    /// Birth time of the inode in seconds and nanoseconds, if the file system
    /// records it. No system call sets it, so it distinguishes two files that used
    /// the same inode one after the other.
    pub born: Option<(i64, i64)>,
    /// Number of names; meaningless for a directory.
    pub links: u64,
    /// Number that identifies the inode if it has several names. It is the same
    /// for all names of the inode, different for all other inodes, and stays the
    /// same between walks.
    pub hard_link: Option<u64>,
}

impl FoundEntry {
    /// Returns the kind of the entry.
    pub fn kind(&self) -> FileKind {
        match self.kind {
            FoundKind::File { .. } => FileKind::File,
            FoundKind::Dir { .. } => FileKind::Dir,
            FoundKind::Symlink { .. } => FileKind::Symlink,
            FoundKind::Fifo => FileKind::Fifo,
            FoundKind::Socket => FileKind::Socket,
            FoundKind::CharDevice { .. } => FileKind::CharDevice,
            FoundKind::BlockDevice { .. } => FileKind::BlockDevice,
        }
    }

    /// Returns the kind for a manifest entry; `None` for a file, which must be
    /// read first.
    pub fn entry_kind(&self) -> Option<EntryKind> {
        Some(match &self.kind {
            FoundKind::File { .. } => return None,
            FoundKind::Dir { .. } => EntryKind::Dir,
            FoundKind::Symlink { target } => EntryKind::Symlink { target: target.clone() },
            FoundKind::Fifo => EntryKind::Fifo,
            FoundKind::Socket => EntryKind::Socket,
            FoundKind::CharDevice { device } => EntryKind::CharDevice { device: *device },
            FoundKind::BlockDevice { device } => EntryKind::BlockDevice { device: *device },
        })
    }

    /// Returns the metadata for a manifest entry. The caller provides the extended
    /// attributes; those read earlier are still valid if the stamp is unchanged.
    pub fn metadata(&self, owners: &Owners, xattrs: Xattrs) -> Metadata {
        Metadata {
            mode: self.mode,
            mtime_ns: self.stamp.mtime_ns(),
            uid: self.uid,
            gid: self.gid,
            user: owners.user(self.uid).map(str::to_owned),
            group: owners.group(self.gid).map(str::to_owned),
            xattrs,
            hard_link: self.hard_link,
        }
    }
}

/// Returns the number of an inode with several names. On the file system of the root, whose
/// number is 0, it is the inode number alone. On others, the numbers of the inode and of the
/// file system are mixed; no two inodes of one file system get the same number.
pub(crate) fn hard_link_id(inode: u64, file_system: u64) -> u64 {
    if file_system == 0 { inode } else { mix(inode ^ mix(file_system)) }
}

/// Mixes the bits of a number with the finalizer of MurmurHash3, which is a
/// bijection.
pub(crate) fn mix(mut x: u64) -> u64 {
    x ^= x >> 33;
    x = x.wrapping_mul(0xff51_afd7_ed55_8ccd);
    x ^= x >> 33;
    x = x.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ (x >> 33)
}

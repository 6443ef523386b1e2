//! What a walk finds at a path.

use std::fmt;

use rustix::fs::FileType;
use types::{EntryKind, Metadata, RelPath, Xattrs};

use crate::owners::Owners;
use crate::stat::{Stamp, Stat};

/// What a thing in a directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
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

impl Kind {
    /// `None` where the system does not say, or names a kind that this program
    /// does not know.
    pub(crate) fn new(file_type: FileType) -> Option<Self> {
        Some(match file_type {
            FileType::RegularFile => Self::File,
            FileType::Directory => Self::Dir,
            FileType::Symlink => Self::Symlink,
            FileType::Fifo => Self::Fifo,
            FileType::Socket => Self::Socket,
            FileType::CharacterDevice => Self::CharDevice,
            FileType::BlockDevice => Self::BlockDevice,
            FileType::Unknown => return None,
        })
    }
}

impl fmt::Display for Kind {
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

/// What was found, with what its kind alone has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FoundKind {
    /// A regular file; its length is in the stamp.
    File {
        /// It takes less room than its length: it has holes. (A file system
        /// that compresses says so of files without holes, too.)
        is_sparse: bool,
    },
    /// A directory.
    Dir {
        /// Something is mounted on it, or it is a subvolume. With
        /// [`WalkOptions::one_file_system`](crate::WalkOptions) it is not
        /// entered, and so looks empty.
        is_mount_point: bool,
    },
    /// A symbolic link, and where it points.
    Symlink {
        /// The target, as it stands in the link.
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

/// One thing in a tree, and all that one look at it tells. Nothing was opened
/// for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Where it is.
    pub path: RelPath,
    /// What it is.
    pub kind: FoundKind,
    /// What changes when it changes.
    pub stamp: Stamp,
    /// Permissions with setuid, setgid and sticky: the low twelve bits.
    pub mode: u32,
    /// The owner's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
    /// When the inode was made, in seconds and nanoseconds, where the file
    /// system tells. Nothing sets it: of two files that have had the same inode
    /// one after the other, it tells which is which.
    pub born: Option<(i64, i64)>,
    /// How many names it has; a directory's count means nothing.
    pub links: u64,
    /// Where it has several names: the same number for all of them, and for
    /// nothing else. It stays the same from walk to walk.
    pub hard_link: Option<u64>,
}

impl Found {
    pub(crate) fn new(path: RelPath, kind: FoundKind, stat: &Stat, root_device: u64) -> Self {
        let has_names = stat.links > 1 && !matches!(kind, FoundKind::Dir { .. });
        Self {
            path,
            kind,
            stamp: stat.stamp,
            mode: stat.mode,
            uid: stat.uid,
            gid: stat.gid,
            born: stat.born,
            links: stat.links,
            hard_link: has_names.then(|| hard_link_id(&stat.stamp, root_device)),
        }
    }

    /// What it is, without what only its kind has.
    pub fn kind(&self) -> Kind {
        match self.kind {
            FoundKind::File { .. } => Kind::File,
            FoundKind::Dir { .. } => Kind::Dir,
            FoundKind::Symlink { .. } => Kind::Symlink,
            FoundKind::Fifo => Kind::Fifo,
            FoundKind::Socket => Kind::Socket,
            FoundKind::CharDevice { .. } => Kind::CharDevice,
            FoundKind::BlockDevice { .. } => Kind::BlockDevice,
        }
    }

    /// The kind as a manifest has it; `None` for a file, which has to be read
    /// first.
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

    /// The metadata as a manifest has it, with the extended attributes that
    /// the caller has read, or knows from before: they are as they were where
    /// the stamp is.
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

/// The number of an inode with several names. On the root's own device it is
/// the inode's, since the numbers of devices may change with every start of
/// the machine. Inodes of other devices are moved out of the way; for one
/// device, no two get the same number.
fn hard_link_id(stamp: &Stamp, root_device: u64) -> u64 {
    if stamp.device == root_device {
        stamp.inode
    } else {
        mix(stamp.inode ^ mix(stamp.device ^ root_device))
    }
}

/// The finalizer of MurmurHash3: one to one, and far from the identity.
pub(crate) fn mix(mut x: u64) -> u64 {
    x ^= x >> 33;
    x = x.wrapping_mul(0xff51_afd7_ed55_8ccd);
    x ^= x >> 33;
    x = x.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ (x >> 33)
}

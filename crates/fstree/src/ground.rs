//! The file system under a tree, and the promises that it keeps.

/// The file system under a tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ground {
    /// Type as the system names it: `ext4`, `fuse.sshfs`; empty if it is unknown.
    pub file_system: String,
    /// The source of the mount, in its own notation: a device, or `user@host:/path`. `None` if
    /// it is unknown.
    pub source: Option<String>,
    /// True if the system reports every change. It does not if changes can pass by this
    /// computer (network file systems), or by the mount (FUSE, overlays).
    pub has_all_events: bool,
    /// Kind of the file system.
    pub kind: GroundKind,
}

/// The kind of a file system, as far as it decides about the identity of an entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GroundKind {
    /// A program of a user implements the file system. There are no birth times, and inode
    /// and device numbers are those of one mount.
    Fuse,
    /// It shows the entries of other file systems, which get another birth time when they
    /// are copied up.
    Overlay,
    /// NFS. Its client renames a deleted file that is still open.
    Nfs,
    /// Any other file system.
    #[default]
    Other,
}

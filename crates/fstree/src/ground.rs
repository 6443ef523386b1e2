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
    /// True if a program of a user implements the file system.
    pub is_fuse: bool,
    /// True if it shows the entries of other file systems. Then the birth time of an entry
    /// changes when it is copied up.
    pub is_overlay: bool,
}

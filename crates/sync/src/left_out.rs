//! Directories whose contents are not backed up although no pattern excludes them.

use fstree::MountPoint;
use serde::{Deserialize, Serialize};
use types::RelPath;

use crate::index::path_text;

/// A directory in a folder whose contents are left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeftOut {
    /// The path in the folder.
    #[serde(with = "path_text")]
    pub path: RelPath,
    /// The reason.
    pub reason: LeftOutReason,
}

/// The reason why a directory is left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeftOutReason {
    /// Another file system is mounted there; its type, as the system names it.
    Mount(String),
    /// The same, and a scan never enters it, because its changes cannot be noticed in the way
    /// in which those of the folder are: a network file system, FUSE, `/proc` and the like.
    Remote(String),
    /// It is a subvolume.
    Subvolume,
    /// It has a `CACHEDIR.TAG`.
    Cache,
}

impl LeftOutReason {
    /// Returns the reason why a scan does not enter a mount point or a subvolume, if it does
    /// not.
    pub(crate) fn of_mount(mount: &MountPoint, one_file_system: bool) -> Option<Self> {
        let is_allowed = mount.ground.has_all_events;
        let kind = mount.ground.file_system.clone();
        match (mount.is_subvolume, is_allowed) {
            (_, true) if !one_file_system => None,
            (true, _) => Some(Self::Subvolume),
            (false, true) => Some(Self::Mount(kind)),
            (false, false) => Some(Self::Remote(kind)),
        }
    }

    /// Reports whether the setting `one_file_system` decides about it.
    #[must_use]
    pub fn is_one_file_system(&self) -> bool {
        matches!(self, Self::Mount(_) | Self::Subvolume)
    }
}

impl std::fmt::Display for LeftOutReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Mount(kind) | Self::Remote(kind) if kind.is_empty() => {
                f.write_str("another file system is mounted there")
            }
            Self::Mount(kind) | Self::Remote(kind) => {
                write!(f, "another file system ({kind}) is mounted there")
            }
            Self::Subvolume => f.write_str("a btrfs subvolume"),
            Self::Cache => f.write_str("a cache (CACHEDIR.TAG)"),
        }
    }
}

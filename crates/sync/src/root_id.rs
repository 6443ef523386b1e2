//! The identity of the directory of a folder.
//!
//! If the disk of a folder is not mounted, the folder looks as if all its files were deleted.
//! So the index stores which directory the folder was, and another directory at the same path
//! raises an alarm.
//!
//! The device number is unreliable, since it may change with every boot. The birth time of the
//! inode does not change, and together with the inode number it identifies a directory. On a
//! file system without birth times, the id of the file system or the device number decides.

use fstree::{SourceTree, TreeReader as _};
use serde::{Deserialize, Serialize};

/// The identity of a directory, valid across reboots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RootId {
    /// The inode number.
    pub(crate) inode: u64,
    /// The device number since the last boot.
    pub(crate) device: u64,
    /// The birth time, in seconds and nanoseconds.
    pub(crate) born: Option<(i64, u32)>,
    /// The id of the file system.
    pub(crate) file_system: Option<u64>,
}

impl RootId {
    /// Returns the identity of an open root.
    pub(crate) fn of(root: &SourceTree) -> Self {
        let identity = root.identity();
        let born = root.born();
        Self {
            inode: identity.inode,
            device: identity.device,
            born: born.and_then(|(secs, nanos)| Some((secs, u32::try_from(nanos).ok()?))),
            file_system: root.file_system_id(),
        }
    }

    /// Reports whether both are the same directory.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        if self.inode != other.inode {
            return false;
        }
        match (self.born, other.born) {
            (Some(a), Some(b)) => a == b,
            _ => {
                self.device == other.device
                    || (self.file_system.is_some() && self.file_system == other.file_system)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: RootId = RootId { inode: 2, device: 5, born: Some((100, 7)), file_system: Some(12) };

    #[test]
    fn the_birth_time_decides_if_it_is_known() {
        // Another device number after a reboot.
        assert!(ID.is_same(&RootId { device: 9, file_system: None, ..ID }));
        // Another disk whose root has the same inode number.
        assert!(!ID.is_same(&RootId { born: Some((200, 1)), ..ID }));
        assert!(!ID.is_same(&RootId { inode: 3, ..ID }));
    }

    #[test]
    fn without_a_birth_time_the_device_or_the_file_system_decides() {
        let id = RootId { born: None, ..ID };
        assert!(id.is_same(&RootId { file_system: None, ..id }));
        assert!(id.is_same(&RootId { device: 9, ..id }));
        assert!(!id.is_same(&RootId { device: 9, file_system: Some(13), ..id }));
        assert!(!id.is_same(&RootId { device: 9, file_system: None, ..id }));
    }

    #[test]
    fn a_directory_created_again_at_its_path_is_another() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("root");
        std::fs::create_dir(&path).unwrap();
        let before = RootId::of(&SourceTree::open(&path).unwrap());
        assert!(before.is_same(&RootId::of(&SourceTree::open(&path).unwrap())));
        std::fs::remove_dir(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        let after = RootId::of(&SourceTree::open(&path).unwrap());
        assert!(!before.is_same(&after), "{before:?} {after:?}");
    }
}

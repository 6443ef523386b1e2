//! Which directory a folder is bound to.
//!
//! A folder whose disk is not mounted looks like a folder whose files were all
//! deleted. So it is remembered which directory it was, and a directory at the
//! same path that is another one is an alarm.
//!
//! The number of a device says little: it may change with every start of the
//! machine. The time at which the inode was made does not change, and together
//! with the inode tells any two directories apart; where a file system has no
//! such time, its id or its device decides.

use fstree::{SourceTree, TreeReader as _};
use serde::{Deserialize, Serialize};

/// A directory, across restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RootId {
    /// The inode.
    pub(crate) inode: u64,
    /// Its device, in this run of the machine.
    pub(crate) device: u64,
    /// When it was made, in seconds and nanoseconds.
    pub(crate) born: Option<(i64, u32)>,
    /// The id of its file system.
    pub(crate) file_system: Option<u64>,
}

impl RootId {
    /// Of a root that is open.
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

    /// Whether it is the same directory.
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
    fn the_time_of_birth_decides_where_there_is_one() {
        // Another device number after a restart.
        assert!(ID.is_same(&RootId { device: 9, file_system: None, ..ID }));
        // Another disk, with the same inode for its root.
        assert!(!ID.is_same(&RootId { born: Some((200, 1)), ..ID }));
        assert!(!ID.is_same(&RootId { inode: 3, ..ID }));
    }

    #[test]
    fn without_it_the_device_or_the_file_system_does() {
        let id = RootId { born: None, ..ID };
        assert!(id.is_same(&RootId { file_system: None, ..id }));
        assert!(id.is_same(&RootId { device: 9, ..id }));
        assert!(!id.is_same(&RootId { device: 9, file_system: Some(13), ..id }));
        assert!(!id.is_same(&RootId { device: 9, file_system: None, ..id }));
    }

    #[test]
    fn a_directory_made_again_under_its_name_is_another() {
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

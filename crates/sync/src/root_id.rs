//! The identity of the directory of a folder.
//!
//! If the disk of a folder is not mounted, the folder looks as if all its files were deleted.
//! So the index stores which directory the folder was, and another directory at the same path
//! raises an alarm.
//!
//! The device number is unreliable, since it may change with every boot. The birth time of the
//! inode does not change, and together with the inode number it identifies a directory. On a
//! file system without birth times, the id of the file system or the device number decides.
//!
//! FUSE mounts have neither birth times nor ids, and their device number is the lowest that is
//! free at the time of the mount. Their type and source decide. On an overlay, the first
//! write into a directory gives it a new birth time; there, one of inode and birth time must
//! be the same.

use fstree::{Ground, GroundKind, MountPoint, SourceTree, TreeReader as _};
use serde::{Deserialize, Serialize};

/// The identity of a directory, valid across reboots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RootId {
    /// The inode number.
    pub(crate) inode: u64,
    /// The device number since the last boot.
    pub(crate) device: u64,
    /// The birth time, in seconds and nanoseconds.
    pub(crate) born: Option<(i64, u32)>,
    /// The id of the file system.
    pub(crate) file_system: Option<u64>,
    /// The ground; `None` if an earlier version stored the identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ground: Option<RootGround>,
}

/// The kind of the file system of a root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RootGround {
    /// FUSE, with the type and the source of the mount.
    Fuse(String, String),
    /// An overlay.
    Overlay,
    /// Any other file system, and FUSE without a known source.
    Other,
}

impl From<Ground> for RootGround {
    fn from(ground: Ground) -> Self {
        match (ground.kind, ground.source) {
            (GroundKind::Fuse, Some(source)) => Self::Fuse(ground.file_system, source),
            (GroundKind::Overlay, _) => Self::Overlay,
            _ => Self::Other,
        }
    }
}

impl RootId {
    /// Returns the identity of an open root.
    pub(crate) fn of(root: &SourceTree) -> Self {
        let identity = root.identity();
        let born = root.born();
        Self {
            inode: identity.inode,
            device: identity.device,
            born: birth(born),
            file_system: root.file_system_id(),
            ground: Some(root.ground().into()),
        }
    }

    /// Returns the identity of the root of a file system that is mounted in a folder.
    pub(crate) fn of_mount(mount: &MountPoint) -> Self {
        Self {
            inode: mount.identity.inode,
            device: mount.identity.device,
            born: birth(mount.born),
            file_system: mount.file_system_id,
            ground: Some(mount.ground.clone().into()),
        }
    }

    /// Reports whether both are the same directory.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let is_same_disk = self.device == other.device
            || (self.file_system.is_some() && self.file_system == other.file_system);
        let is_same_birth = self.born.is_some() && self.born == other.born;
        let is_same_inode = self.inode == other.inode;
        match (&self.ground, &other.ground) {
            (Some(a @ RootGround::Fuse(..)), Some(b @ RootGround::Fuse(..))) => a == b,
            // Two of the three; an inode number may change with the mount.
            (Some(RootGround::Overlay), Some(RootGround::Overlay) | None)
            | (None, Some(RootGround::Overlay)) => {
                [is_same_disk, is_same_birth, is_same_inode].iter().filter(|same| **same).count()
                    >= 2
            }
            // An overlay shows inodes of its layers, with their numbers.
            (Some(a), Some(b)) if a != b => false,
            _ if self.born.is_some() && other.born.is_some() => is_same_inode && is_same_birth,
            _ => is_same_inode && is_same_disk,
        }
    }
}

fn birth(born: Option<(i64, i64)>) -> Option<(i64, u32)> {
    born.and_then(|(secs, nanos)| Some((secs, u32::try_from(nanos).ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: RootId = RootId {
        inode: 2,
        device: 5,
        born: Some((100, 7)),
        file_system: Some(12),
        ground: Some(RootGround::Other),
    };

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
        assert!(id.is_same(&RootId { file_system: None, ..id.clone() }));
        assert!(id.is_same(&RootId { device: 9, ..id.clone() }));
        assert!(!id.is_same(&RootId { device: 9, file_system: Some(13), ..id.clone() }));
        assert!(!id.is_same(&RootId { device: 9, file_system: None, ..id.clone() }));
    }

    #[test]
    fn the_source_of_a_fuse_mount_decides() {
        let mount =
            |source: &str| Some(RootGround::Fuse("fuse.sshfs".to_owned(), source.to_owned()));
        let id = RootId { born: None, file_system: None, ground: mount("a:/x"), ..ID };
        // Mounted again, after another one.
        assert!(id.is_same(&RootId { device: 9, ..id.clone() }));
        // Another server at the same path, with the same device number.
        assert!(!id.is_same(&RootId { ground: mount("b:/x"), ..id.clone() }));
        // An earlier version did not store the source.
        let old = RootId { ground: None, ..id.clone() };
        assert!(old.is_same(&id));
        assert!(!old.is_same(&RootId { device: 9, ..id }));
        // A local disk is mounted instead, or FUSE instead of a disk.
        assert!(!ID.is_same(&RootId { device: 9, born: None, file_system: None, ..ID }));
    }

    #[test]
    fn a_directory_that_an_overlay_copies_up_is_the_same() {
        let id = RootId { ground: Some(RootGround::Overlay), ..ID };
        // Without the overlay, its upper directory is at the path, with the same inode.
        assert!(!id.is_same(&ID));
        assert!(!ID.is_same(&id));
        assert!(id.is_same(&RootId { ground: None, ..id.clone() }));
        assert!(id.is_same(&RootId { born: Some((200, 1)), ..id.clone() }));
        // Inode numbers may change with every mount.
        assert!(id.is_same(&RootId { inode: 7, ..id.clone() }));
        assert!(!id.is_same(&RootId { inode: 7, born: Some((200, 1)), ..id.clone() }));
        // After a reboot, with another number and id.
        assert!(id.is_same(&RootId { device: 9, file_system: Some(13), ..id.clone() }));
        let copied_up = RootId { born: Some((200, 1)), ..id.clone() };
        assert!(!id.is_same(&RootId { device: 9, file_system: Some(13), ..copied_up }));
    }

    #[test]
    fn an_identity_of_an_earlier_version_is_read() {
        let stored = r#"{"inode":2,"device":5,"born":[100,7],"file_system":12}"#;
        let id = RootId { ground: None, ..ID };
        assert_eq!(serde_json::from_str::<RootId>(stored).unwrap(), id);
        assert_eq!(serde_json::to_string(&id).unwrap(), stored);
        assert!(id.is_same(&ID));
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

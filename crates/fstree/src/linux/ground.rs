//! Finds out which file system is under a directory.
//!
//! The magic number of `statfs` decides about the properties, since it needs no `/proc`. Its
//! type and source come from `/proc/self/mountinfo`; `proc_pid_mountinfo(5)` describes it.

use rustix::fd::BorrowedFd;

use super::stat::{FUSE_MAGIC, Stat, file_system_magic};
use crate::ground::{Ground, GroundKind};

/// Magic numbers of file systems on local disks and in memory, each change of which passes
/// through this kernel. Source: `include/uapi/linux/magic.h` and the file systems.
const LOCAL: [u32; 19] = [
    0xef53,      // ext2, ext3, ext4
    0x5846_5342, // XFS
    0x9123_683e, // btrfs
    0xf2f5_2010, // F2FS
    0xca45_1a4e, // bcachefs
    0x2fc1_2fc1, // ZFS
    0x3153_464a, // JFS
    0x5265_4973, // ReiserFS
    0x3434,      // NILFS2
    0x2405_1905, // UBIFS
    0x0102_1994, // tmpfs
    0x8584_58f6, // ramfs
    0x4d44,      // FAT
    0x2011_bab0, // exFAT
    0x7366_746e, // NTFS3
    0x482b,      // HFS+
    0x7371_7368, // SquashFS
    0xe0f5_e1e2, // EROFS
    0x9660,      // ISO 9660
];
const OVERLAY_MAGIC: u32 = 0x794c_7630;
const NFS_MAGIC: u32 = 0x6969;

/// Returns the ground of an open directory.
pub(crate) fn ground(dir: BorrowedFd<'_>, stat: &Stat) -> Ground {
    let magic = file_system_magic(dir);
    let mounts = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    let (file_system, source) = stat.mount.and_then(|id| find(&mounts, id)).unwrap_or_default();
    Ground {
        file_system,
        source: Some(source).filter(|source| !source.is_empty()),
        has_all_events: magic.is_some_and(|magic| LOCAL.contains(&magic)),
        kind: match magic {
            Some(FUSE_MAGIC) => GroundKind::Fuse,
            Some(OVERLAY_MAGIC) => GroundKind::Overlay,
            Some(NFS_MAGIC) => GroundKind::Nfs,
            _ => GroundKind::Other,
        },
    }
}

/// Returns the type and the source of a mount, with the escapes of the file.
fn find(mounts: &[u8], id: u64) -> Option<(String, String)> {
    mounts.split(|byte| *byte == b'\n').find_map(|line| {
        let mut fields = line.split(|byte| *byte == b' ');
        let found = std::str::from_utf8(fields.next()?).ok()?.parse::<u64>().ok()?;
        if found != id {
            return None;
        }
        // The number of optional fields before the separator differs.
        let mut fields = fields.skip_while(|field| *field != b"-").skip(1);
        let mut text = || Some(String::from_utf8_lossy(fields.next()?).into_owned());
        Some((text()?, text()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &[u8] = b"22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
        35 22 0:30 / /mnt/a\\040b rw - fuse.sshfs me@host:/srv/a\\040b rw,user_id=0\n\
        36 22 0:31 / /mnt/\xff rw master:1 propagate_from:2 - overlay overlay rw\n";

    #[test]
    fn a_mount_is_found_by_its_id() {
        let found = |id| find(MOUNTS, id);
        let pair = |kind: &str, source: &str| Some((kind.to_owned(), source.to_owned()));
        assert_eq!(found(22), pair("ext4", "/dev/vda"));
        assert_eq!(found(35), pair("fuse.sshfs", "me@host:/srv/a\\040b"));
        assert_eq!(found(36), pair("overlay", "overlay"));
        assert_eq!(found(2), None);
        for cut in 0..MOUNTS.len() {
            find(&MOUNTS[..cut], 36);
        }
    }

    #[test]
    fn fuzz_mountinfo() {
        fuzzing::target!(&[MOUNTS], |bytes: &[u8]| {
            let _ = find(bytes, 22);
        });
    }
}

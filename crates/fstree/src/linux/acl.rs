//! POSIX ACLs: the permissions that remain right without the ACL.
//!
//! A file with an ACL stores the mask of the ACL in the group bits of its mode. If the ACL
//! cannot be restored, these bits would give the group what the ACL withholds from it.
//!
//! Source of the format: `include/uapi/linux/posix_acl_xattr.h` and `posix_acl.h` of Linux:
//! a version, then entries of a tag, permissions and an id, all little-endian.

const VERSION: u32 = 2;
const VERSION_LEN: usize = 4;
const ENTRY_LEN: usize = 8;

const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;

/// All permissions of one class: read, write, execute.
const ALL: u32 = 0o7;

/// Returns `mode`, reduced to permissions that the ACL `acl` (the value of
/// `system.posix_acl_access`) gives, too.
///
/// Without the ACL, a named user has the permissions of the group or of the others, and a
/// member of a named group has those of the others. So each of these classes keeps only what
/// everybody in it has by the ACL. An ACL that cannot be parsed leaves the owner's
/// permissions.
pub(crate) fn mode_without_acl(mode: u32, acl: &[u8]) -> u32 {
    let Some(entries) = parse(acl) else { return mode & !0o077 };
    let common = |tag: u16, mask: u32| {
        let with_tag = entries.iter().filter(|entry| entry.0 == tag);
        with_tag.fold(ALL, |common, entry| common & entry.1 & mask)
    };
    let mask = common(MASK, ALL);
    let (users, groups) = (common(USER, mask), common(GROUP, mask));
    let group = common(GROUP_OBJ, mask) & users;
    let others = users & groups;
    mode & (!0o077 | group << 3 | others)
}

/// Returns the tag and the permissions of each entry.
fn parse(acl: &[u8]) -> Option<Vec<(u16, u32)>> {
    let (version, entries) = acl.split_first_chunk::<VERSION_LEN>()?;
    if u32::from_le_bytes(*version) != VERSION || entries.len() % ENTRY_LEN != 0 {
        return None;
    }
    let entries = entries.chunks_exact(ENTRY_LEN).map(|entry| {
        let tag = u16::from_le_bytes([entry[0], entry[1]]);
        (tag, u32::from(u16::from_le_bytes([entry[2], entry[3]])))
    });
    Some(entries.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const USER_OBJ: u16 = 0x01;
    const OTHER: u16 = 0x20;

    fn acl(entries: &[(u16, u16)]) -> Vec<u8> {
        let mut value = VERSION.to_le_bytes().to_vec();
        for (tag, permissions) in entries {
            value.extend(tag.to_le_bytes());
            value.extend(permissions.to_le_bytes());
            value.extend(1234_u32.to_le_bytes());
        }
        value
    }

    #[test]
    fn nobody_gets_more_than_the_acl_gave() {
        let reduced = |mode, entries: &[(u16, u16)]| mode_without_acl(mode, &acl(entries));
        // The group bits are the mask; the group itself has nothing.
        let private = [(USER_OBJ, 6), (USER, 6), (GROUP_OBJ, 0), (MASK, 6), (OTHER, 0)];
        assert_eq!(reduced(0o660, &private), 0o600);
        // The mask withholds the write permission.
        let masked = [(USER_OBJ, 7), (GROUP_OBJ, 7), (MASK, 5), (OTHER, 5)];
        assert_eq!(reduced(0o4755, &masked), 0o4755);
        // A named user who is kept out may be in the group, or is one of the others.
        let banned = [(USER_OBJ, 6), (USER, 0), (GROUP_OBJ, 4), (MASK, 4), (OTHER, 4)];
        assert_eq!(reduced(0o644, &banned), 0o600);
        // Members of a named group that is kept out are among the others.
        let group = [(USER_OBJ, 6), (GROUP_OBJ, 4), (GROUP, 0), (MASK, 4), (OTHER, 4)];
        assert_eq!(reduced(0o644, &group), 0o640);
        // A named user whom the mask keeps out.
        let by_mask = [(USER_OBJ, 6), (USER, 6), (GROUP_OBJ, 0), (MASK, 0), (OTHER, 4)];
        assert_eq!(reduced(0o604, &by_mask), 0o600);
        for unknown in [&b""[..], b"\x02\0\0", b"\x03\0\0\0", b"\x02\0\0\0\x01"] {
            assert_eq!(mode_without_acl(0o777, unknown), 0o700, "{unknown:?}");
        }
    }

    #[test]
    fn fuzz_acl() {
        let private = [(USER_OBJ, 6), (USER, 6), (GROUP_OBJ, 0), (MASK, 6), (OTHER, 0)];
        fuzzing::target!(&[acl(&private), acl(&[(USER_OBJ, u16::MAX)])], |bytes: &[u8]| {
            for mode in [0, 0o640, 0o7777, u32::MAX] {
                let reduced = mode_without_acl(mode, bytes);
                assert_eq!((reduced & !mode, reduced & !0o077), (0, mode & !0o077), "{mode:o}");
            }
        });
    }
}

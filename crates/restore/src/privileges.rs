//! Leaves out what grants privileges: a snapshot of an untrusted source decides about file contents
//! and names, and must not decide about the rights of the computer that restores it.

use types::{Entry, EntryKind, Metadata};

/// The setuid and the setgid bit.
const SET_ID: u32 = 0o6000;
/// Prefixes of attributes that the kernel or a security module obeys: file capabilities, labels,
/// the marks of overlay file systems.
const PREFIXES: [&[u8]; 2] = [b"security.", b"trusted."];

/// Removes the privileges of an entry. Returns what was removed, for users.
pub(crate) fn remove_privileges(metadata: &mut Metadata) -> Option<String> {
    let mut removed = Vec::new();
    if metadata.mode & SET_ID != 0 {
        metadata.mode &= !SET_ID;
        removed.push("its setuid or setgid bit".to_owned());
    }
    let privileged = |name: &[u8]| PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    metadata.xattrs.retain(|name, _| {
        let is_privileged = privileged(name);
        if is_privileged {
            removed.push(String::from_utf8_lossy(name).into_owned());
        }
        !is_privileged
    });
    (!removed.is_empty()).then(|| removed.join(", "))
}

/// Reports whether an entry is a device, which gives access to hardware.
pub(crate) fn is_device(entry: &Entry) -> bool {
    matches!(entry.kind, EntryKind::CharDevice { .. } | EntryKind::BlockDevice { .. })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_privileges_are_removed() {
        let mut metadata = Metadata { mode: 0o7755, ..Metadata::default() };
        let names: [&[u8]; 6] = [
            b"security.capability",
            b"security.selinux",
            b"trusted.overlay.opaque",
            b"system.posix_acl_access",
            b"user.note",
            b"user.security.x",
        ];
        for name in names {
            metadata.xattrs.insert(name.to_vec(), b"value".to_vec());
        }
        let removed = remove_privileges(&mut metadata).unwrap();
        assert_eq!(metadata.mode, 0o1755);
        assert_eq!(metadata.xattrs.len(), 3);
        for part in ["setuid", "security.capability", "security.selinux", "trusted.overlay.opaque"]
        {
            assert!(removed.contains(part), "{removed}");
        }
        assert_eq!(remove_privileges(&mut metadata), None);
    }
}

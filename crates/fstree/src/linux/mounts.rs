//! The file systems that are mounted below a directory, from `/proc/self/mountinfo`
//! (`proc_pid_mountinfo(5)`). Reading it asks none of them, so a mount that hangs is found, too.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use types::RelPath;

/// A file system that is mounted below a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Id of the mount; not used again before it is unmounted.
    pub id: u64,
    /// Path of the mount point below the directory.
    pub path: RelPath,
    /// Type of the file system as the system names it.
    pub file_system: String,
}

/// Returns what is mounted below the directory `root`; nothing if that is unknown.
pub fn mounts_below(root: &Path) -> Vec<Mount> {
    let Ok(root) = std::fs::canonicalize(root) else { return Vec::new() };
    let mounts = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    mounts.split(|byte| *byte == b'\n').filter_map(|line| parse(line, &root)).collect()
}

/// Parses one line. `None` if the mount is not below `root`, or the line is malformed.
fn parse(line: &[u8], root: &Path) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let at = unescape(fields.nth(3)?);
    let below = at.strip_prefix(root).ok().filter(|below| !below.as_os_str().is_empty())?;
    let path = RelPath::new(below.as_os_str().as_bytes()).ok()?;
    // The number of optional fields before the separator differs.
    let mut fields = fields.skip_while(|field| *field != b"-").skip(1);
    let file_system = String::from_utf8_lossy(fields.next()?).into_owned();
    Some(Mount { id, path, file_system })
}

/// Replaces the octal escapes of spaces, tabs, newlines and backslashes.
fn unescape(text: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..3).filter(|_| *first == b'\\');
        let code =
            digits.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match code {
            Some(code) => {
                bytes.push(code);
                rest = &after[3..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: [&[u8]; 4] = [
        b"22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw",
        b"35 22 0:30 / /home/me/my\\040drive\\134 rw - fuse.sshfs me@host:/srv rw,user_id=0",
        b"36 22 0:31 / /home/me rw master:1 propagate_from:2 - overlay overlay rw",
        b"37 22 0:32 / /home/me2/x rw - nfs4 server:/x rw",
    ];

    #[test]
    fn only_mounts_below_the_directory_are_returned() {
        let below = |root: &str| -> Vec<_> {
            let parsed = MOUNTS.iter().filter_map(|line| parse(line, Path::new(root)));
            parsed.map(|mount| (mount.id, mount.path, mount.file_system)).collect()
        };
        let of = |id, path: &str, kind: &str| (id, RelPath::new(path).unwrap(), kind.to_owned());
        let drive = |path: &str| of(35, path, "fuse.sshfs");
        assert_eq!(below("/home/me"), [drive("my drive\\")]);
        assert_eq!(below("/home").len(), 3);
        assert_eq!(
            below("/"),
            [
                drive("home/me/my drive\\"),
                of(36, "home/me", "overlay"),
                of(37, "home/me2/x", "nfs4"),
            ]
        );
        assert_eq!(below("/home/me/my drive\\"), []);
    }

    #[test]
    fn fuzz_mounts_below() {
        fuzzing::target!(&MOUNTS, |bytes: &[u8]| {
            let _ = parse(bytes, Path::new("/"));
        });
    }

    #[test]
    fn what_is_mounted_here_can_be_read() {
        // At least `/proc` itself.
        assert!(mounts_below(Path::new("/")).iter().any(|mount| mount.file_system == "proc"));
    }
}

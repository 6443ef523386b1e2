//! Names of users and groups, from `/etc/passwd` and `/etc/group`.
//!
//! Absent: names that only a directory service knows. Looking those up needs the
//! name service switch of the C library, which loads code and may wait for a
//! network. An owner without a name is recorded by number. So are all owners on a
//! platform without these files.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt as _;

use types::Metadata;

const USERS: &str = "/etc/passwd";
const GROUPS: &str = "/etc/group";
/// Maximum number of bytes read from a file.
const LEN_MAX: u64 = 16 << 20;

/// Names of users and groups by number, as last read.
#[derive(Clone, Debug, Default)]
pub struct Owners {
    users: Table,
    groups: Table,
}

#[derive(Clone, Debug, Default)]
struct Table {
    names: HashMap<u32, String>,
    /// The number of each name, also of a second name of one number.
    ids: HashMap<String, u32>,
    /// Inode, length and modification time (seconds, nanoseconds) of the file that
    /// was read. A file that is replaced by a rename has another inode.
    stamp: Option<(u64, u64, i64, i64)>,
}

impl Table {
    /// Parses lines of `name:password:number:…`. The first of two lines with the
    /// same number applies, as in other programs.
    fn parse(text: &[u8]) -> Self {
        let mut table = Self::default();
        for line in text.split(|byte| *byte == b'\n') {
            let mut fields = line.split(|byte| *byte == b':');
            let (name, id) = (fields.next(), fields.nth(1));
            let name = name.and_then(|name| std::str::from_utf8(name).ok());
            let id = id.and_then(|id| std::str::from_utf8(id).ok()?.parse().ok());
            let (Some(name), Some(id)) = (name, id) else { continue };
            if name.is_empty() || name.starts_with(['#', '+', '-']) {
                continue;
            }
            table.names.entry(id).or_insert_with(|| name.to_owned());
            table.ids.entry(name.to_owned()).or_insert(id);
        }
        table
    }

    /// Reads the file again if it has changed.
    fn refresh(&mut self, path: &str) -> io::Result<()> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        let stamp =
            Some((metadata.ino(), metadata.size(), metadata.mtime(), metadata.mtime_nsec()));
        if self.stamp != stamp {
            let mut text = Vec::new();
            file.take(LEN_MAX).read_to_end(&mut text)?;
            *self = Self { stamp, ..Self::parse(&text) };
        }
        Ok(())
    }
}

/// Numbers of users and groups by name, as last read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnerNumbers {
    users: HashMap<String, u32>,
    groups: HashMap<String, u32>,
}

impl OwnerNumbers {
    /// Returns the numbers of the owners of an entry on this computer: those with the names in
    /// the metadata, if these names exist here, otherwise the numbers in the metadata.
    pub fn of(&self, metadata: &Metadata) -> (u32, u32) {
        let number = |numbers: &HashMap<String, u32>, name: &Option<String>| {
            name.as_ref().and_then(|name| numbers.get(name)).copied()
        };
        (
            number(&self.users, &metadata.user).unwrap_or(metadata.uid),
            number(&self.groups, &metadata.group).unwrap_or(metadata.gid),
        )
    }
}

impl Owners {
    /// Returns the numbers of all names.
    pub fn numbers(&self) -> OwnerNumbers {
        OwnerNumbers { users: self.users.ids.clone(), groups: self.groups.ids.clone() }
    }

    /// Reads the names of this computer. A file that cannot be read provides no
    /// names.
    pub fn system() -> Self {
        let mut owners = Self::default();
        owners.refresh();
        owners
    }

    /// Parses the text of the two files.
    #[cfg(test)]
    fn parse(passwd: &[u8], group: &[u8]) -> Self {
        Self { users: Table::parse(passwd), groups: Table::parse(group) }
    }

    /// Reads the files again if they have changed; otherwise this costs two opens.
    /// If a file cannot be read, its names stay as they are.
    pub fn refresh(&mut self) {
        let _ = self.users.refresh(USERS);
        let _ = self.groups.refresh(GROUPS);
    }

    /// Returns the name of a user.
    pub fn user(&self, uid: u32) -> Option<&str> {
        self.users.names.get(&uid).map(String::as_str)
    }

    /// Returns the name of a group.
    pub fn group(&self, gid: u32) -> Option<&str> {
        self.groups.names.get(&gid).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_lines_are_passed_over() {
        let passwd = b"root:x:0:0:root:/root:/bin/sh\ntoor:x:0:0::/root:/bin/sh\n\
            # a comment:x:5:5::\n\n:x:6:6::\nno number:x:seven:7::\nshort\n+nis:x:9:9::\n\
            \xff\xfe:x:10:10::\nbig:x:4294967296:1::\nnobody:x:65534:65534::/:";
        let owners = Owners::parse(passwd, b"adm:x:4:\nadm:x:5:a,b");
        assert_eq!(owners.user(0), Some("root"));
        assert_eq!(owners.user(65534), Some("nobody"));
        assert_eq!(owners.users.names.len(), 2);
        assert_eq!((owners.group(4), owners.group(5)), (Some("adm"), Some("adm")));
        assert_eq!(owners.user(7), None);
    }

    #[test]
    fn a_name_decides_if_it_exists_here() {
        let owners =
            Owners::parse(b"root:x:0:0::\ntoor:x:0:0::\nalice:x:3002:3001::", b"bob:x:3001:");
        let numbers = owners.numbers();
        let of = |user: Option<&str>, group: Option<&str>| {
            numbers.of(&Metadata {
                uid: 3001,
                gid: 3001,
                user: user.map(str::to_owned),
                group: group.map(str::to_owned),
                ..Metadata::default()
            })
        };
        assert_eq!(of(Some("alice"), Some("alice")), (3002, 3001));
        assert_eq!(of(Some("toor"), Some("bob")), (0, 3001));
        assert_eq!(of(None, None), (3001, 3001));
    }

    #[test]
    fn a_file_of_the_same_length_and_time_that_replaces_another_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let [path, new] = ["passwd", "new"].map(|name| dir.path().join(name));
        let time = std::time::SystemTime::UNIX_EPOCH;
        for (path, text) in [(&path, "anna:x:1:"), (&new, "emma:x:1:")] {
            std::fs::write(path, text).unwrap();
            File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
        }
        let mut table = Table::default();
        let path = path.to_str().unwrap();
        table.refresh(path).unwrap();
        assert_eq!(table.names[&1], "anna");
        std::fs::rename(new, path).unwrap();
        table.refresh(path).unwrap();
        assert_eq!(table.names[&1], "emma");
    }

    #[test]
    fn the_machine_has_a_root() {
        let mut owners = Owners::system();
        assert_eq!(owners.user(0), Some("root"));
        owners.refresh();
        assert_eq!(owners.group(0), Some("root"));
    }

    #[test]
    fn fuzz_owners() {
        let examples =
            [&b"root:x:0:0:root:/root:/bin/sh\nme:x:1000:1000::/home/me:"[..], b"adm:x:4:"];
        fuzzing::target!(&examples, |bytes: &[u8]| {
            for name in Table::parse(bytes).names.values() {
                assert!(!name.is_empty() && !name.contains([':', '\n']));
            }
        });
    }
}

//! A path below the root of a folder, as bytes.
//!
//! Names on Unix are bytes without `/` and NUL, in any encoding or none. They
//! are carried as they are; only showing them to a person loses anything.
//!
//! The order is that of a walk that lists each directory sorted by bytes: part
//! by part, so that a directory is followed by what is in it. (By plain bytes,
//! `a-b` would stand between `a` and `a/c`.)

use std::cmp::Ordering;
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The longest path, in bytes: four times what Linux takes in one call, since
/// a tree may be deeper than one call can reach.
pub const MAX_PATH_LEN: usize = 16 * 1024;

/// The longest name in a path, in bytes: what Linux file systems allow.
pub const MAX_NAME_LEN: usize = 255;

/// A relative path: names joined by `/`, none empty, `.` or `..`, and none
/// with NUL. The empty path is the root itself.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RelPath(Vec<u8>);

/// Why bytes are not a path below a root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It begins with `/`.
    #[error("the path is absolute")]
    Absolute,
    /// A name in it is empty, `.` or `..`.
    #[error("the path has an empty name, `.` or `..` in it")]
    Name,
    /// It has a NUL in it.
    #[error("the path has a NUL in it")]
    Nul,
    /// It, or a name in it, is too long.
    #[error("the path is too long")]
    TooLong,
}

fn check_name(name: &[u8]) -> Result<(), PathError> {
    match name {
        b"" | b"." | b".." => Err(PathError::Name),
        name if name.contains(&0) => Err(PathError::Nul),
        name if name.len() > MAX_NAME_LEN => Err(PathError::TooLong),
        _ => Ok(()),
    }
}

impl RelPath {
    /// The root.
    pub const fn root() -> Self {
        Self(Vec::new())
    }

    /// Checks bytes from elsewhere.
    ///
    /// # Errors
    ///
    /// [`PathError`]: whatever could lead out of the root, or stand for
    /// another path.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, PathError> {
        let bytes = bytes.into();
        if bytes.len() > MAX_PATH_LEN {
            return Err(PathError::TooLong);
        }
        if bytes.is_empty() {
            return Ok(Self(bytes));
        }
        if bytes[0] == b'/' {
            return Err(PathError::Absolute);
        }
        bytes.split(|byte| *byte == b'/').try_for_each(check_name)?;
        Ok(Self(bytes))
    }

    /// The path of `name` in this directory.
    ///
    /// # Errors
    ///
    /// [`PathError`], as for [`RelPath::new`].
    pub fn join(&self, name: &[u8]) -> Result<Self, PathError> {
        check_name(name)?;
        if name.contains(&b'/') {
            return Err(PathError::Name);
        }
        let mut bytes = Vec::with_capacity(self.0.len() + 1 + name.len());
        if !self.0.is_empty() {
            bytes.extend_from_slice(&self.0);
            bytes.push(b'/');
        }
        bytes.extend_from_slice(name);
        if bytes.len() > MAX_PATH_LEN {
            return Err(PathError::TooLong);
        }
        Ok(Self(bytes))
    }

    /// The bytes of the path.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The path for calls of the system.
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }

    /// The names, from the root down.
    pub fn names(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|byte| *byte == b'/').filter(|name| !name.is_empty())
    }

    /// The last name; `None` for the root.
    pub fn name(&self) -> Option<&[u8]> {
        self.0.rsplit(|byte| *byte == b'/').next().filter(|name| !name.is_empty())
    }

    /// The directory that it is in; `None` for the root.
    pub fn parent(&self) -> Option<Self> {
        if self.0.is_empty() {
            return None;
        }
        let end = self.0.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        Some(Self(self.0[..end].to_vec()))
    }

    /// Whether it is `other` or below it.
    pub fn is_within(&self, other: &Self) -> bool {
        other.0.is_empty()
            || self.0 == other.0
            || (self.0.starts_with(&other.0) && self.0.get(other.0.len()) == Some(&b'/'))
    }

    /// Whether it is the root itself.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }
}

impl Ord for RelPath {
    fn cmp(&self, other: &Self) -> Ordering {
        // `/` before every other byte is part by part.
        let key = |byte: &u8| if *byte == b'/' { 0 } else { u16::from(*byte) + 1 };
        self.0.iter().map(key).cmp(other.0.iter().map(key))
    }
}

impl PartialOrd for RelPath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// For people: what is not UTF-8 or would not be seen is escaped, as in
/// `a\x07b` or `\u{202e}`, so that nothing on a screen is what it does not
/// look like.
impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for char in chunk.valid().chars() {
                if char == '\\' {
                    f.write_str("\\\\")?;
                } else if is_unsafe_to_show(char) {
                    write!(f, "{}", char.escape_unicode())?;
                } else {
                    write!(f, "{char}")?;
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

/// Whether a character could make a text on a screen look like another one:
/// control characters, and those that turn the direction of text or hide.
pub fn is_unsafe_to_show(char: char) -> bool {
    char.is_control()
        || matches!(
            char,
            '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{2069}'
                | '\u{feff}'
                | '\u{061c}'
        )
}

impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::new(text).unwrap()
    }

    #[test]
    fn what_could_lead_elsewhere_is_refused() {
        let cases: [(&[u8], PathError); 12] = [
            (b"/", PathError::Absolute),
            (b"/etc/passwd", PathError::Absolute),
            (b"..", PathError::Name),
            (b".", PathError::Name),
            (b"a/../b", PathError::Name),
            (b"a/./b", PathError::Name),
            (b"a//b", PathError::Name),
            (b"a/", PathError::Name),
            (b"a/..", PathError::Name),
            (b"a\0b", PathError::Nul),
            (&[b'x'; 256], PathError::TooLong),
            (&[b'/'; 1], PathError::Absolute),
        ];
        for (bytes, error) in cases {
            assert_eq!(RelPath::new(bytes), Err(error), "{}", String::from_utf8_lossy(bytes));
        }
        let deep = b"d/".repeat(10_000);
        assert_eq!(RelPath::new(deep), Err(PathError::TooLong));
        for name in [&b""[..], b".", b"..", b"a/b", b"\0"] {
            assert!(path("dir").join(name).is_err());
        }
        for odd in ["...", "..a", "-rf", " ", "a b ", "con", "a:b", "a\\b", "~", "*", "\n"] {
            assert!(RelPath::new(odd).is_ok(), "{odd:?}");
        }
        assert!(RelPath::new(vec![0xff, b'/', 0xfe]).is_ok());
    }

    #[test]
    fn the_order_is_that_of_a_walk() {
        let mut paths = ["a-b", "a", "a/c", "a/c/d", "b", "a.txt", "", "a/c-d"].map(path);
        paths.sort();
        let sorted = paths.map(|path| path.to_string());
        assert_eq!(sorted, ["", "a", "a/c", "a/c/d", "a/c-d", "a-b", "a.txt", "b"]);
    }

    #[test]
    fn parts_and_containment() {
        let deep = path("a/b/c");
        assert_eq!(deep.name(), Some(&b"c"[..]));
        assert_eq!(deep.parent(), Some(path("a/b")));
        assert_eq!(path("a").parent(), Some(RelPath::root()));
        assert_eq!(RelPath::root().parent(), None);
        assert_eq!(RelPath::root().names().count(), 0);
        assert!(deep.is_within(&path("a")) && deep.is_within(&RelPath::root()));
        assert!(!path("ab").is_within(&path("a")));
        assert_eq!(RelPath::root().join(b"a").unwrap().join(b"b").unwrap(), path("a/b"));
    }

    #[test]
    fn what_a_person_sees_hides_nothing() {
        let sly = RelPath::new("photo\u{202e}gpj.exe\n\\").unwrap();
        assert_eq!(sly.to_string(), "photo\\u{202e}gpj.exe\\u{a}\\\\");
        assert_eq!(RelPath::new(vec![b'a', 0xff]).unwrap().to_string(), "a\\xff");
        assert_eq!(path("Grüße/日本.txt").to_string(), "Grüße/日本.txt");
    }

    proptest! {
        #[test]
        fn checked_paths_stay_below(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(path) = RelPath::new(bytes.clone()) {
                let joined = Path::new("/root").join(path.as_path());
                prop_assert!(joined.starts_with("/root"));
                prop_assert!(path.names().all(|n| n != b".." && n != b"." && !n.contains(&0)));
                let mut again = RelPath::root();
                for name in path.names() {
                    again = again.join(name).unwrap();
                }
                prop_assert_eq!(again.as_bytes(), &bytes[..]);
            }
        }
    }
}

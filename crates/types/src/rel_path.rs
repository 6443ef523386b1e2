//! [`RelPath`]: a checked path below the root of a folder.
//!
//! File names on Unix are bytes without `/` and NUL, in any encoding. A
//! `RelPath` stores them unchanged. Only its display form loses information.
//!
//! Paths are ordered name by name, each name by its bytes. A directory is thus
//! directly followed by its content, as in a walk that sorts each directory. (In
//! the order of the plain bytes, `a-b` would stand between `a` and `a/c`.)

use std::cmp::Ordering;
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::text::is_unsafe_to_show;

/// Maximum length of a path in bytes: four times what Linux accepts in one
/// system call, because a tree may be deeper than that.
pub const MAX_PATH_LEN: usize = 16 * 1024;

/// Maximum length of one name in a path in bytes, as in Linux file systems.
pub const MAX_NAME_LEN: usize = 255;

/// Relative path: names joined by `/`. No name is empty, `.` or `..`, and none
/// contains NUL. The empty path is the root of the folder.
///
/// ```
/// use types::RelPath;
///
/// let path = RelPath::new("photos/2026/cat.jpg")?;
/// assert_eq!(path.name(), Some(&b"cat.jpg"[..]));
/// assert!(path.is_within(&RelPath::new("photos")?));
/// assert!(RelPath::new("../etc/passwd").is_err());
/// # Ok::<(), types::PathError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RelPath(Vec<u8>);

/// Reasons for which bytes are not a [`RelPath`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// The path begins with `/`.
    #[error("the path is absolute")]
    Absolute,
    /// A name in the path is empty, `.` or `..`.
    #[error("the path contains an empty name, `.` or `..`")]
    Name,
    /// The path contains NUL.
    #[error("the path contains a NUL byte")]
    Nul,
    /// The path is longer than [`MAX_PATH_LEN`], or one of its names is longer
    /// than [`MAX_NAME_LEN`].
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
    /// Returns the empty path: the root of the folder.
    pub const fn root() -> Self {
        Self(Vec::new())
    }

    /// Checks `bytes` and returns them as a path.
    ///
    /// # Errors
    ///
    /// Returns the [`PathError`] for the rule that `bytes` break. No accepted
    /// path leads out of the root, and no two accepted paths are spellings of
    /// the same path.
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

    /// Returns the path of `name` in this directory.
    ///
    /// # Errors
    ///
    /// Same as [`RelPath::new`]. A `name` with `/` in it is a
    /// [`PathError::Name`].
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

    /// Returns the bytes of the path.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns the path for system calls, relative to the root of the folder.
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }

    /// Returns the names in the path, from the root down. The root has none.
    pub fn names(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|byte| *byte == b'/').filter(|name| !name.is_empty())
    }

    /// Returns the last name, or `None` for the root.
    pub fn name(&self) -> Option<&[u8]> {
        self.0.rsplit(|byte| *byte == b'/').next().filter(|name| !name.is_empty())
    }

    /// Returns the path of the parent directory, or `None` for the root.
    pub fn parent(&self) -> Option<Self> {
        if self.0.is_empty() {
            return None;
        }
        let end = self.0.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        Some(Self(self.0[..end].to_vec()))
    }

    /// Reports whether the path is `other` or lies below it.
    pub fn is_within(&self, other: &Self) -> bool {
        other.0.is_empty()
            || self.0 == other.0
            || (self.0.starts_with(&other.0) && self.0.get(other.0.len()) == Some(&b'/'))
    }

    /// Reports whether the path is the root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }
}

impl Ord for RelPath {
    fn cmp(&self, other: &Self) -> Ordering {
        // The order is name by name if `/` sorts before every other byte.
        let key = |byte: &u8| if *byte == b'/' { 0 } else { u16::from(*byte) + 1 };
        self.0.iter().map(key).cmp(other.0.iter().map(key))
    }
}

impl PartialOrd for RelPath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Formats the path for people. Bytes that are not UTF-8, backslashes and
/// characters that [`is_unsafe_to_show`] reports are escaped, as in `a\xff`,
/// `\\` or `\u{202e}`, so that different paths look different.
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

//! The names of one directory, sorted, in little memory.

use std::ffi::CStr;
use std::mem::MaybeUninit;

use rustix::fd::BorrowedFd;
use rustix::fs::RawDir;
use rustix::io::Errno;

use super::stat::kind_of;
use crate::entry::FileKind;

/// Maximum number of names in one directory; about 300 MB of memory.
pub(crate) const NAMES_MAX: usize = 1 << 24;

/// Number of bytes of a directory that one call reads.
const BUFFER_LEN: usize = 64 << 10;

/// Buffer for reading directories; a walk uses one for all.
pub(crate) struct Buffer(Vec<MaybeUninit<u8>>);

impl Buffer {
    pub(crate) fn new() -> Self {
        Self(vec![MaybeUninit::uninit(); BUFFER_LEN])
    }
}

/// Names with their kinds, if the directory stores the kinds.
#[derive(Debug, Default)]
pub(crate) struct Names {
    /// The names, each with its final NUL.
    bytes: Vec<u8>,
    index: Vec<Place>,
}

/// Position of a name in the bytes.
#[derive(Clone, Copy, Debug)]
struct Place {
    start: u32,
    /// Length without the NUL.
    len: u16,
    kind: Option<FileKind>,
}

/// The reason why a directory could not be listed.
pub(crate) enum ListError {
    Io(Errno),
    TooMany,
}

impl From<Errno> for ListError {
    fn from(errno: Errno) -> Self {
        Self::Io(errno)
    }
}

impl Names {
    /// Reads the rest of a directory that is open for listing.
    pub(crate) fn read(dir: BorrowedFd<'_>, buffer: &mut Buffer) -> Result<Self, ListError> {
        let mut names = Self::default();
        let mut entries = RawDir::new(dir, &mut buffer.0);
        while let Some(entry) = entries.next() {
            let entry = match entry {
                Err(Errno::INTR) => continue,
                // The directory was removed, so it has no names.
                Err(Errno::NOENT) => break,
                entry => entry?,
            };
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            if names.index.len() == NAMES_MAX {
                return Err(ListError::TooMany);
            }
            let start = u32::try_from(names.bytes.len()).map_err(|_| ListError::TooMany)?;
            let len = u16::try_from(name.count_bytes()).map_err(|_| Errno::NAMETOOLONG)?;
            names.bytes.extend_from_slice(name.to_bytes_with_nul());
            names.index.push(Place { start, len, kind: kind_of(entry.file_type()) });
        }
        let bytes = &names.bytes;
        names.index.sort_unstable_by(|a, b| a.of(bytes).cmp(b.of(bytes)));
        // A directory that changes while it is read may return a name twice.
        names.index.dedup_by(|a, b| a.of(bytes) == b.of(bytes));
        Ok(names)
    }

    pub(crate) fn len(&self) -> usize {
        self.index.len()
    }

    pub(crate) fn get(&self, number: usize) -> Option<(&CStr, Option<FileKind>)> {
        let place = self.index.get(number)?;
        let start = place.start as usize;
        let bytes = &self.bytes[start..=start + usize::from(place.len)];
        Some((CStr::from_bytes_with_nul(bytes).unwrap_or_default(), place.kind))
    }
}

impl Place {
    fn of<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        let start = self.start as usize;
        &bytes[start..start + usize::from(self.len)]
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::ffi::OsStrExt;

    use rustix::fd::AsFd;

    use super::*;

    #[test]
    fn names_are_sorted_by_bytes_with_their_kinds() {
        let dir = tempfile::tempdir().unwrap();
        let names: [&[u8]; 8] =
            [b"b", b"a", b"\xff\xfe", b"a-b", b" ", b"\n", b"A", "é".as_bytes()];
        for name in names {
            fs::write(dir.path().join(std::ffi::OsStr::from_bytes(name)), b"").unwrap();
        }
        fs::create_dir(dir.path().join("dir")).unwrap();
        let file = fs::File::open(dir.path()).unwrap();
        let read = Names::read(file.as_fd(), &mut Buffer::new()).ok().unwrap();
        let read: Vec<_> = (0..read.len()).filter_map(|number| read.get(number)).collect();
        assert!(read.is_sorted_by_key(|(name, _)| name.to_bytes()));
        assert_eq!(read.len(), 9);
        let dirs = read.iter().filter(|(_, kind)| *kind == Some(FileKind::Dir)).count();
        assert_eq!(dirs, 1);
    }
}

//! The file that names the runs of the in-place index (docs/formats/index.md): a line with
//! its version, a line with the numbers of the runs, and a line with a checksum.

use std::io;

use crate::error::StoreError;

const HEAD: &str = "archivist in-place 1";

/// Returns the content of the file.
pub(crate) fn encode(runs: &[u64]) -> String {
    let runs: Vec<_> = runs.iter().map(u64::to_string).collect();
    let content = format!("{HEAD}\n{}\n", runs.join(" "));
    let sum = crc32c::crc32c(content.as_bytes());
    format!("{content}{sum:08x}\n")
}

/// Returns the runs in the file, or `None` if it is damaged.
pub(crate) fn decode(bytes: &[u8]) -> Option<Vec<u64>> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (content, sum) = text.strip_suffix('\n')?.rsplit_once('\n')?;
    let content = format!("{content}\n");
    if u32::from_str_radix(sum, 16).ok()? != crc32c::crc32c(content.as_bytes()) {
        return None;
    }
    let mut lines = content.lines();
    if lines.next()? != HEAD {
        return None;
    }
    lines.next()?.split_whitespace().map(|run| run.parse().ok()).collect()
}

/// Returns `Ok(None)` if an error shows that a file of the index is lost, else the error: too
/// many open files, or a missing permission, are no reason to hash all files again.
pub(crate) fn lost<T>(error: StoreError) -> Result<Option<T>, StoreError> {
    match &error {
        StoreError::Io { source, .. }
            if !matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof)
                && source.raw_os_error() != Some(rustix::io::Errno::IO.raw_os_error()) =>
        {
            Err(error)
        }
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::path::Path;
    use std::sync::Arc;

    use disk::sim::{EACCES, EIO, EMFILE, FaultRule, SimDisk};
    use types::{BlockScheme, Hash};

    use super::*;
    use crate::in_place::{FileId, FileTable, InPlaceChunk, InPlaceStore};

    #[derive(Debug)]
    struct NoFiles;

    impl FileTable for NoFiles {
        fn open(&self, _: FileId) -> io::Result<Option<File>> {
            Ok(None)
        }
    }

    #[test]
    fn fuzz_in_place_catalog() {
        let examples = [encode(&[]), encode(&[1, 22, u64::MAX])];
        fuzzing::target!(&examples, |bytes: &[u8]| {
            if let Some(runs) = decode(bytes) {
                assert!(runs.is_empty() || runs == [1, 22, u64::MAX], "{runs:?}");
            }
        });
    }

    #[test]
    fn an_index_that_cannot_be_read_is_not_lost() {
        let disk = SimDisk::new();
        let open = || {
            InPlaceStore::open(
                Arc::new(disk.clone()),
                Path::new("/in-place"),
                Arc::new(NoFiles),
                BlockScheme::plain(),
            )
        };
        let (store, is_lost) = open().unwrap();
        assert!(!is_lost);
        store.add(FileId(1), &[InPlaceChunk { hash: Hash::of(b"x"), offset: 0, len: 1 }]).unwrap();
        store.commit().unwrap();
        drop(store);
        for part in ["/in-place/in-place", ".run"] {
            for error in [EACCES, EMFILE] {
                let armed = disk.add_fault(FaultRule::reads(error).on(part));
                assert!(matches!(open(), Err(StoreError::Io { .. })), "{part}");
                assert!(armed.failures() > 0);
                disk.clear_fault_rules();
            }
        }
        let (store, is_lost) = open().unwrap();
        assert_eq!((store.places(), is_lost), (1, false));
        drop(store);
        // The disk cannot deliver the bytes: only hashing the files again helps.
        disk.add_fault(FaultRule::reads(EIO).on(".run").times(1));
        let (store, is_lost) = open().unwrap();
        assert_eq!((store.places(), is_lost), (0, true));
    }
}

//! The blocks whose roots were removed on purpose: a snapshot that the retention
//! removed is not one that was lost, although its record may still be in a pack.
//!
//! The list is a text file, one hash per line. It only helps the owner of a store to
//! decide; losing it loses nothing else. So a removal is appended without a sync, and
//! without an error if the disk is full. A collection shortens the list to the blocks
//! that still exist.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;

use types::Hash;

use disk::{AtomicWrite, Disk, Parsed, read_cache, read_file, write_atomic};

use crate::sync::Mutex;

/// Maximum length of the list in bytes: a quarter of a million hashes.
const MAX_LEN: u64 = 16 << 20;

/// See the module.
#[derive(Debug)]
pub(super) struct RemovedRoots {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    hashes: Mutex<BTreeSet<Hash>>,
}

impl RemovedRoots {
    /// Reads the list. A list that cannot be read is kept under another name. A line that
    /// is damaged is ignored: appended lines are not synced.
    pub(super) fn open(disk: Arc<dyn Disk>, path: PathBuf) -> Self {
        let consequence = "`archivist recover` also lists snapshots that were removed on purpose";
        let valid = |bytes: &[u8]| Parsed::Valid(parse(bytes));
        let hashes = read_cache(&*disk, &path, MAX_LEN, consequence, valid);
        Self { disk, path, hashes: Mutex::new(hashes.unwrap_or_default()) }
    }

    /// Reads the list for a reader. Changes nothing.
    pub(super) fn open_read_only(disk: Arc<dyn Disk>, path: PathBuf) -> Self {
        let hashes = match read_file(&*disk, &path, MAX_LEN) {
            Ok(bytes) => parse(&bytes),
            Err(error) => {
                if error.kind() != ErrorKind::NotFound {
                    let error = types::with_causes(&error);
                    tracing::warn!(error, "cannot read the list of removed roots");
                }
                BTreeSet::new()
            }
        };
        Self { disk, path, hashes: Mutex::new(hashes) }
    }

    pub(super) fn contains(&self, hash: &Hash) -> bool {
        self.hashes.lock().contains(hash)
    }

    /// Adds a block whose root was removed.
    pub(super) fn add(&self, hash: Hash) {
        let mut hashes = self.hashes.lock();
        if !hashes.insert(hash) {
            return;
        }
        let line = format!("{hash}\n");
        let appended = self.disk.open(&self.path).and_then(|file| {
            let end = file.len()?;
            file.write_at(&[line.as_bytes()], end)
        });
        if appended.is_err() {
            self.save(&hashes);
        }
    }

    /// Removes the blocks for which `keep` is false: they have a root again, or no
    /// longer exist.
    pub(super) fn retain(&self, keep: impl Fn(&Hash) -> bool) {
        let mut hashes = self.hashes.lock();
        let before = hashes.len();
        hashes.retain(keep);
        if hashes.len() != before {
            self.save(&hashes);
        }
    }

    fn save(&self, hashes: &BTreeSet<Hash>) {
        let text = encode(hashes);
        let options = AtomicWrite::PRIVATE;
        if let Err(error) = write_atomic(&*self.disk, &self.path, text.as_bytes(), &options) {
            tracing::warn!(%error, "cannot save the list of removed roots");
        }
    }
}

fn encode(hashes: &BTreeSet<Hash>) -> String {
    hashes.iter().map(|hash| format!("{hash}\n")).collect()
}

fn parse(bytes: &[u8]) -> BTreeSet<Hash> {
    String::from_utf8_lossy(bytes).lines().filter_map(Hash::from_hex).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fuzz_removed_roots() {
        let hashes = BTreeSet::from([Hash::of(b"1"), Hash::of(b"2")]);
        fuzzing::target!(&[encode(&hashes)], |bytes: &[u8]| {
            let found = parse(bytes);
            assert_eq!(parse(encode(&found).as_bytes()), found);
        });
    }
}

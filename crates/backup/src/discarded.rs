//! The confirmed snapshots that are lost and that the owner of this backup server has given up.
//!
//! The collection is held while a snapshot that was confirmed is not listed. This list ends that
//! for the snapshots in it. The receipts stay: they still tell how far a source has come.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;

use disk::{AtomicWrite, Disk, FileError, Parsed, StateError, read_file, read_state, write_atomic};
use net::PeerId;
use types::{Cid, FolderId};

use crate::confirmed_snapshot::ConfirmedSnapshot;

/// Maximum length of the file in bytes: several thousand folders.
const FILE_LEN_MAX: u64 = 1 << 20;

/// Source, folder and manifest of a snapshot.
type Key = (PeerId, FolderId, Cid);

/// The list, a file with one snapshot in each line. All functions block.
#[derive(Debug)]
pub(crate) struct DiscardedSnapshots {
    disk: Arc<dyn Disk>,
    path: PathBuf,
}

impl DiscardedSnapshots {
    pub(crate) fn new(disk: Arc<dyn Disk>, path: PathBuf) -> Self {
        Self { disk, path }
    }

    /// Returns the function that reports whether a snapshot is in the list. A damaged line is in
    /// no list, so that its snapshot is missed again.
    ///
    /// # Errors
    ///
    /// Returns [`FileError`] if the file exists and cannot be read.
    pub(crate) fn read(&self) -> Result<impl Fn(&ConfirmedSnapshot) -> bool + use<>, FileError> {
        let listed = match read_file(&*self.disk, &self.path, FILE_LEN_MAX) {
            Ok(bytes) => parse(&bytes).usable().unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::NotFound => BTreeSet::new(),
            Err(error) => return Err(error),
        };
        Ok(move |one: &ConfirmedSnapshot| listed.contains(&key(one)))
    }

    /// Adds snapshots, durably.
    ///
    /// # Errors
    ///
    /// Returns [`StateError`] if the file cannot be read or written.
    pub(crate) fn add(&self, snapshots: &[ConfirmedSnapshot]) -> Result<(), StateError> {
        self.change(|listed| listed.extend(snapshots.iter().map(key)))
    }

    /// Removes the snapshots for which `is_listed_again` returns true.
    ///
    /// # Errors
    ///
    /// Same as [`DiscardedSnapshots::add`].
    pub(crate) fn remove(
        &self,
        is_listed_again: impl Fn(&PeerId, &FolderId, &Cid) -> bool,
    ) -> Result<(), StateError> {
        self.change(|listed| {
            listed.retain(|(source, folder, manifest)| !is_listed_again(source, folder, manifest));
        })
    }

    fn change(&self, change: impl FnOnce(&mut BTreeSet<Key>)) -> Result<(), StateError> {
        let read = read_state(&*self.disk, &self.path, FILE_LEN_MAX, parse)?;
        if let Some(kept) = &read.kept {
            tracing::warn!("the list of discarded snapshots: {kept}");
        }
        let mut listed = read.value.unwrap_or_default();
        let before = listed.clone();
        change(&mut listed);
        if listed != before {
            write_atomic(&*self.disk, &self.path, &encode(&listed), &AtomicWrite::PRIVATE)?;
        }
        Ok(())
    }
}

fn key(snapshot: &ConfirmedSnapshot) -> Key {
    let confirmation = &snapshot.confirmation;
    (snapshot.source, confirmation.folder_id.clone(), confirmation.manifest_cid)
}

fn encode(listed: &BTreeSet<Key>) -> Vec<u8> {
    let line = |(source, folder, manifest): &Key| format!("{source} {folder} {manifest}\n");
    listed.iter().map(line).collect::<String>().into_bytes()
}

fn parse(bytes: &[u8]) -> Parsed<BTreeSet<Key>> {
    Parsed::of_lines(bytes, |line| {
        let mut parts = line.split(' ');
        let key =
            (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        parts.next().is_none().then_some(key)
    })
}

#[cfg(test)]
mod tests {
    use types::Codec;

    use super::*;

    #[test]
    fn fuzz_discarded_snapshots() {
        let key = (PeerId::random(), "docs".parse().unwrap(), Cid::of(Codec::DagCbor, b"1"));
        fuzzing::target!(&[encode(&BTreeSet::from([key]))], |bytes: &[u8]| {
            let listed = parse(bytes).usable().unwrap_or_default();
            assert_eq!(parse(&encode(&listed)), Parsed::Valid(listed));
        });
    }
}

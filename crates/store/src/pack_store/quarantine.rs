//! The records that were found damaged. They count as absent until a good copy
//! has been put. The list survives a restart.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;

use crate::error::StoreError;
use crate::sync::{Mutex, RwLock};
use disk::{AtomicWrite, Disk, Parsed, read_file, read_state, write_atomic};

/// Maximum length of the list in bytes.
const MAX_LEN: u64 = 16 << 20;

/// Place of a record: the number of its pack, and its number in the pack.
pub(super) type Place = (u32, u32);

/// See the module.
#[derive(Debug)]
pub(super) struct Quarantine {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    places: RwLock<BTreeSet<Place>>,
    /// Locked while the list is saved: the file has one writer at a time.
    saving: Mutex<()>,
}

impl Quarantine {
    /// Reads the list. If a part of the list is damaged, a copy of the file is kept, and
    /// described in `damage`: the next read of a record that is no longer in the list
    /// finds its damage again.
    ///
    /// # Errors
    ///
    /// Returns [`StoreError::Io`] if the list cannot be read: a damaged record would be
    /// taken for a good copy of its block.
    pub(super) fn open(
        disk: Arc<dyn Disk>,
        path: PathBuf,
        damage: &mut Vec<String>,
    ) -> Result<Self, StoreError> {
        let read = read_state(&*disk, &path, MAX_LEN, parse)?;
        let quarantine = Self::new(disk, path, read.value.unwrap_or_default());
        if let Some(kept) = read.kept {
            damage.push(format!(
                "the list of damaged blocks: {kept}; `archivist verify` finds damaged blocks again"
            ));
            quarantine.save();
        }
        Ok(quarantine)
    }

    /// Reads the list for a reader, which verifies each record that it reads. A list that
    /// cannot be read is described in `damage`. Changes nothing.
    pub(super) fn open_read_only(
        disk: Arc<dyn Disk>,
        path: PathBuf,
        damage: &mut Vec<String>,
    ) -> Self {
        let places = match read_file(&*disk, &path, MAX_LEN) {
            Ok(bytes) => parse(&bytes).usable().unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::NotFound => BTreeSet::new(),
            Err(error) => {
                let error = types::with_causes(&error);
                damage.push(format!("the list of damaged blocks is not used: {error}"));
                BTreeSet::new()
            }
        };
        Self::new(disk, path, places)
    }

    fn new(disk: Arc<dyn Disk>, path: PathBuf, places: BTreeSet<Place>) -> Self {
        Self { disk, path, places: RwLock::new(places), saving: Mutex::new(()) }
    }

    pub(super) fn contains(&self, place: Place) -> bool {
        let places = self.places.read();
        !places.is_empty() && places.contains(&place)
    }

    /// Adds a place. Reports whether it is new, so that the list must be saved.
    pub(super) fn add(&self, place: Place) -> bool {
        self.places.write().insert(place)
    }

    /// Removes the places for which `keep` is false: their packs no longer exist.
    pub(super) fn retain(&self, keep: impl Fn(Place) -> bool) {
        let mut places = self.places.write();
        let before = places.len();
        places.retain(|place| keep(*place));
        let changed = places.len() != before;
        drop(places);
        if changed {
            self.save();
        }
    }

    /// Returns the list, sorted.
    pub(super) fn all(&self) -> Vec<Place> {
        self.places.read().iter().copied().collect()
    }

    /// Saves the list.
    pub(super) fn save(&self) {
        let _one_at_a_time = self.saving.lock();
        let text = encode(&self.places.read());
        let options = AtomicWrite::PRIVATE;
        if let Err(error) = write_atomic(&*self.disk, &self.path, text.as_bytes(), &options) {
            // The list stays in memory; after a restart the next read finds the
            // damage again.
            tracing::warn!(%error, "cannot save the list of damaged blocks");
        }
    }
}

fn encode(places: &BTreeSet<Place>) -> String {
    places.iter().map(|(pack, record)| format!("{pack} {record}\n")).collect()
}

fn parse(bytes: &[u8]) -> Parsed<BTreeSet<Place>> {
    let place = |line: &str| {
        let (pack, record) = line.split_once(' ')?;
        Some((pack.parse().ok()?, record.parse().ok()?))
    };
    Parsed::of_lines(bytes, place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_line_costs_no_other_line() {
        let found = parse(b"1 2\n\xff\n3\n-4 5\n6 7\n");
        assert_ne!(found, Parsed::Valid(BTreeSet::from([(1, 2), (6, 7)])));
        assert_eq!(found.usable(), Some(BTreeSet::from([(1, 2), (6, 7)])));
    }

    #[test]
    fn fuzz_quarantine() {
        let places = BTreeSet::from([(0, 7), (1, 2), (u32::MAX, u32::MAX)]);
        fuzzing::target!(&[encode(&places)], |bytes: &[u8]| {
            let found = parse(bytes).usable().unwrap_or_default();
            assert_eq!(parse(encode(&found).as_bytes()), Parsed::Valid(found));
        });
    }
}

//! The records that were found damaged. They count as absent until a good copy
//! has been put. The list survives a restart.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

use disk::{AtomicWrite, Disk, read_file, write_atomic};

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
    /// Reads the list. Lines that are not valid are ignored: the next read of each record
    /// finds the damage again.
    pub(super) fn open(disk: Arc<dyn Disk>, path: PathBuf) -> Self {
        let bytes = read_file(&*disk, &path, MAX_LEN).unwrap_or_default();
        Self { disk, path, places: RwLock::new(parse(&bytes)), saving: Mutex::new(()) }
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

fn parse(bytes: &[u8]) -> BTreeSet<Place> {
    let place = |line: &str| {
        let (pack, record) = line.split_once(' ')?;
        Some((pack.parse().ok()?, record.parse().ok()?))
    };
    String::from_utf8_lossy(bytes).lines().filter_map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_line_costs_no_other_line() {
        assert_eq!(parse(b"1 2\n\xff\n3\n-4 5\n6 7\n"), BTreeSet::from([(1, 2), (6, 7)]));
    }

    #[test]
    fn fuzz_quarantine() {
        let places = BTreeSet::from([(0, 7), (1, 2), (u32::MAX, u32::MAX)]);
        fuzzing::target!(&[encode(&places)], |bytes: &[u8]| {
            let found = parse(bytes);
            assert_eq!(parse(encode(&found).as_bytes()), found);
        });
    }
}

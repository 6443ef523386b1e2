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
    /// Reads the list. If it is lost, the next read of each record finds the damage
    /// again.
    pub(super) fn open(disk: Arc<dyn Disk>, path: PathBuf) -> Self {
        let bytes = read_file(&*disk, &path, MAX_LEN).unwrap_or_default();
        let text = String::from_utf8(bytes).unwrap_or_default();
        let place = |line: &str| {
            let (pack, record) = line.split_once(' ')?;
            Some((pack.parse().ok()?, record.parse().ok()?))
        };
        let places = text.lines().filter_map(place).collect();
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
        let mut text = String::new();
        for (pack, record) in &*self.places.read() {
            text.push_str(&format!("{pack} {record}\n"));
        }
        let options = AtomicWrite::PRIVATE;
        if let Err(error) = write_atomic(&*self.disk, &self.path, text.as_bytes(), &options) {
            // The list stays in memory; after a restart the next read finds the
            // damage again.
            tracing::warn!(%error, "cannot save the list of damaged blocks");
        }
    }
}

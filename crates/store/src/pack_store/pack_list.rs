//! The list of packs with durable records, so that the store notices a pack that has
//! vanished or was cut.
//!
//! The catalog lists packs, too, but it is part of the index: a store that was never
//! closed has none, it may be removed, and it forgets a vanished pack. This list is
//! written when the first records of a pack are durable, that is once for each pack, and
//! before a collection removes a pack. With each pack it has a number of records that are
//! durable; the pack may have more. A pack that does not exist, or has fewer records, has
//! lost some. That stays in the list until a collection has succeeded: then nothing that
//! a root needs was lost.
//!
//! A list that cannot be written, as on a full disk, is written again with the next
//! commit. Until then, only a loss in the newest packs would not be noticed.
//!
//! A damaged list is not replaced before a collection has succeeded: until then it is not
//! known which packs are lost, also after a restart.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use types::with_causes;

use super::OpenReport;
use super::catalog::CatalogPack;
use crate::error::StoreError;
use crate::sync::Mutex;
use disk::{AtomicWrite, Disk, read_file, write_atomic};

/// Packs with the number of their durable records, by pack number.
pub(super) type Records = BTreeMap<u32, u32>;

const FIRST_LINE: &str = "archivist packs 1";
/// Maximum length of the list in bytes: about three million packs.
const MAX_LEN: u64 = 64 << 20;

/// See the module.
#[derive(Debug)]
pub(super) struct PackList {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    records: Records,
    /// False if packs in the file differ from `records`.
    is_saved: bool,
    /// Description of the damage if the file is damaged. It is not replaced then.
    damage: Option<String>,
}

impl PackList {
    /// Reads the list. `Err` in the result is the description of a damaged list.
    ///
    /// # Errors
    ///
    /// Returns [`StoreError::CatalogUnreadable`] if the list cannot be read, and
    /// [`StoreError::Unusable`] if a newer version of the program wrote it.
    pub(super) fn read(
        disk: &dyn Disk,
        path: &Path,
    ) -> Result<Result<Records, String>, StoreError> {
        let bytes = match read_file(disk, path, MAX_LEN) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Ok(Records::new())),
            Err(error) => {
                let (path, reason) = (path.to_owned(), with_causes(&error));
                return Err(StoreError::CatalogUnreadable { path, reason });
            }
        };
        let damaged = || {
            let path = path.display();
            Ok(Err(format!(
                "{path}: the list of packs is damaged, so a missing pack may not be noticed"
            )))
        };
        let Some(text) = checked_text(&bytes) else { return damaged() };
        let mut lines = text.lines();
        match lines.next() {
            Some(FIRST_LINE) => {}
            Some(line) if line.starts_with("archivist packs ") => {
                let reason = "a newer version of this program wrote it; use that version".into();
                return Err(StoreError::Unusable { path: path.to_owned(), reason });
            }
            _ => return damaged(),
        }
        let records: Option<_> = lines.map(parse_line).collect();
        records.map_or_else(damaged, |records| Ok(Ok(records)))
    }

    /// Creates the list with the packs that [`PackList::read`] has read from the file, or with
    /// the description of its damage.
    pub(super) fn new(disk: Arc<dyn Disk>, path: PathBuf, read: Result<Records, String>) -> Self {
        let damage = read.as_ref().err().cloned();
        let records = read.unwrap_or_default();
        Self { disk, path, state: Mutex::new(State { records, is_saved: true, damage }) }
    }

    /// Returns the packs with the number of their durable records.
    pub(super) fn records(&self) -> Records {
        self.state.lock().records.clone()
    }

    /// Adds packs with a number of durable records, unless `exists` is false for them.
    /// Saves the list if a pack is new, or the list could not be saved before.
    pub(super) fn add(
        &self,
        packs: impl IntoIterator<Item = (u32, u32)>,
        exists: impl Fn(u32) -> bool,
    ) {
        // The check is under the lock: a collection first forgets a pack, then removes
        // it from the list.
        let mut state = self.state.lock();
        for (number, records) in packs.into_iter().filter(|(number, _)| exists(*number)) {
            let listed = state.records.insert(number, records);
            if let Some(listed) = listed.filter(|listed| *listed > records) {
                state.records.insert(number, listed);
            }
            state.is_saved &= listed.is_some();
        }
        self.save_again(&mut state);
    }

    /// Adds what a start has found out about lost records, and saves the list.
    pub(super) fn add_lost(&self, packs: &Records) {
        let mut state = self.state.lock();
        for (number, records) in packs {
            let listed = state.records.insert(*number, *records);
            state.is_saved &= listed == Some(*records);
        }
        self.save_again(&mut state);
    }

    /// Removes packs that a collection is about to remove.
    ///
    /// # Errors
    ///
    /// Returns [`StoreError`] if the list cannot be saved; it is unchanged then.
    pub(super) fn remove(&self, packs: impl IntoIterator<Item = u32>) -> Result<(), StoreError> {
        let mut state = self.state.lock();
        let mut records = state.records.clone();
        for number in packs {
            records.remove(&number);
        }
        self.replace(&mut state, records)
    }

    /// Removes packs whose files are emptied; the list is saved later.
    pub(super) fn remove_later(&self, packs: impl IntoIterator<Item = u32>) {
        let mut state = self.state.lock();
        for number in packs {
            let was_listed = state.records.remove(&number).is_some();
            state.is_saved &= !was_listed;
        }
    }

    /// Forgets what is lost. `records_of` returns the number of records of a pack, or
    /// `None` if the pack does not exist.
    ///
    /// # Errors
    ///
    /// Returns [`StoreError`] if the list cannot be saved; it is unchanged then.
    pub(super) fn forget_lost(
        &self,
        records_of: impl Fn(u32) -> Option<u32>,
    ) -> Result<(), StoreError> {
        let mut state = self.state.lock();
        let left = state.records.iter();
        let left = left
            .filter_map(|(number, records)| Some((*number, records_of(*number)?.min(*records))));
        let left: Records = left.collect();
        if state.damage.is_some() {
            self.save(&left)?;
            *state = State { records: left, is_saved: true, damage: None };
            return Ok(());
        }
        self.replace(&mut state, left)
    }

    /// Describes the losses. `records_of` as in [`PackList::forget_lost`].
    pub(super) fn losses(&self, records_of: impl Fn(u32) -> Option<u32>) -> Vec<String> {
        let state = self.state.lock();
        let damage = state.damage.iter().cloned();
        damage.chain(losses(&state.records, records_of)).collect()
    }

    /// Reports whether a pack with this number of records has lost some.
    pub(super) fn has_lost(&self, number: u32, records: u32) -> bool {
        self.state.lock().records.get(&number).is_some_and(|listed| *listed > records)
    }

    fn replace(&self, state: &mut State, records: Records) -> Result<(), StoreError> {
        if state.damage.is_some() {
            state.records = records;
        } else if records != state.records {
            self.save(&records)?;
            *state = State { records, is_saved: true, damage: None };
        }
        Ok(())
    }

    fn save_again(&self, state: &mut State) {
        if state.is_saved || state.damage.is_some() {
            return;
        }
        match self.save(&state.records) {
            Ok(()) => state.is_saved = true,
            Err(error) => {
                let error = with_causes(&error);
                tracing::warn!(error, "cannot save the list of packs");
            }
        }
    }

    fn save(&self, records: &Records) -> Result<(), StoreError> {
        let mut text = format!("{FIRST_LINE}\n");
        for (number, records) in records {
            let _ = writeln!(text, "{number:08x} {records}");
        }
        let sum = crc32c::crc32c(text.as_bytes());
        let _ = writeln!(text, "crc32c {sum:08x}");
        write_atomic(&*self.disk, &self.path, text.as_bytes(), &AtomicWrite::PRIVATE)?;
        Ok(())
    }
}

/// Parses the line of a pack.
fn parse_line(line: &str) -> Option<(u32, u32)> {
    let (number, records) = line.split_once(' ')?;
    Some((u32::from_str_radix(number, 16).ok()?, records.parse().ok()?))
}

/// Returns the text before the checksum. `None` if it is damaged.
fn checked_text(bytes: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(bytes).ok()?.strip_suffix('\n')?;
    let (_, sum) = text.rsplit_once("\ncrc32c ")?;
    let content = &text[..text.len() - sum.len() - "crc32c ".len()];
    let is_intact = format!("{:08x}", crc32c::crc32c(content.as_bytes())) == sum;
    is_intact.then_some(content)
}

/// Returns the packs that should have records, with the number of these records: those
/// of the list and of the catalog. A pack in the catalog without records may have been
/// removed by a start.
pub(super) fn expected(known: &BTreeMap<u32, CatalogPack>, listed: &Records) -> Records {
    let mut expected = listed.clone();
    for pack in known.values().filter(|pack| pack.indexed > 0) {
        let records = expected.entry(pack.number).or_default();
        *records = pack.indexed.max(*records);
    }
    expected
}

/// Returns the description of a pack that is lost.
pub(super) fn description(number: u32) -> PathBuf {
    PathBuf::from(format!("pack {number:08x}"))
}

/// Describes the losses, if packs should have so many records and have those that
/// `records_of` returns: `None` if the pack does not exist.
pub(super) fn losses(expected: &Records, records_of: impl Fn(u32) -> Option<u32>) -> Vec<String> {
    let loss = |(number, expected): (&u32, &u32)| {
        let pack = description(*number);
        match records_of(*number) {
            None => Some(format!("{} of the store is missing", pack.display())),
            Some(records) if records < *expected => Some(format!(
                "{} of the store has only {records} of {expected} records or more",
                pack.display()
            )),
            Some(_) => None,
        }
    };
    expected.iter().filter_map(loss).collect()
}

/// Returns a list that a reader has read. `None` if it cannot be read: a reader replaces
/// nothing, so it does without it, and reports that.
///
/// # Errors
///
/// Returns all errors but [`StoreError::CatalogUnreadable`].
pub(super) fn readable<T>(
    read: Result<T, StoreError>,
    report: &mut OpenReport,
) -> Result<Option<T>, StoreError> {
    match read {
        Ok(list) => Ok(Some(list)),
        Err(error @ StoreError::CatalogUnreadable { .. }) => {
            report.damage.push(error.to_string());
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Returns the list for a reader, or the reason why it is damaged or cannot be read.
///
/// # Errors
///
/// Returns [`StoreError::Unusable`] if a newer version of the program wrote the list.
pub(super) fn list_for_reading(
    disk: &dyn Disk,
    path: &Path,
    report: &mut OpenReport,
) -> Result<Result<Records, String>, StoreError> {
    Ok(match readable(PackList::read(disk, path), report)? {
        Some(Ok(records)) => Ok(records),
        Some(Err(reason)) => {
            report.damage.push(reason.clone());
            Err(reason)
        }
        None => Err(format!(
            "{}: the list of packs cannot be read, so a missing pack may not be noticed",
            path.display()
        )),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use disk::sim::SimDisk;

    fn disk() -> (SimDisk, &'static Path) {
        let disk = SimDisk::new();
        disk.create_dir(Path::new("/s")).unwrap();
        (disk, Path::new("/s/pack-list"))
    }

    #[test]
    fn it_reads_back_and_any_damage_is_noticed() {
        let (disk, path) = disk();
        let read = || PackList::read(&disk, path).unwrap();
        assert_eq!(read(), Ok(Records::new()));
        let list = PackList::new(Arc::new(disk.clone()), path.to_owned(), Ok(Records::new()));
        list.add([(3, 4), (0xabc, 1), (7, 1)], |number| number != 7);
        assert_eq!(read(), Ok([(3, 4), (0xabc, 1)].into()));
        let text = read_file(&disk, path, MAX_LEN).unwrap();
        for at in 0..text.len() {
            disk.damage(path, |bytes| bytes[at] ^= 1);
            assert!(read().is_err(), "{at}");
            disk.damage(path, |bytes| bytes[at] ^= 1);
            disk.damage(path, |bytes| bytes.truncate(at));
            assert!(read().is_err(), "cut to {at}");
            disk.damage(path, |bytes| *bytes = text.clone());
        }
        list.remove([3]).unwrap();
        list.remove_later([0xabc]);
        assert_eq!(read(), Ok([(0xabc, 1)].into()));
        list.add([], |_| true);
        assert_eq!(read(), Ok(Records::new()));
        disk.damage(path, |bytes| {
            let content = "archivist packs 2\n";
            let sum = crc32c::crc32c(content.as_bytes());
            *bytes = format!("{content}crc32c {sum:08x}\n").into_bytes();
        });
        assert!(matches!(PackList::read(&disk, path), Err(StoreError::Unusable { .. })));
    }

    /// A pack that grows costs no write; its records are saved with the next pack.
    #[test]
    fn it_is_saved_once_for_each_pack() {
        let (disk, path) = disk();
        let read = || PackList::read(&disk, path).unwrap().unwrap();
        let list = PackList::new(Arc::new(disk.clone()), path.to_owned(), Ok(Records::new()));
        list.add([(1, 1)], |_| true);
        let operations = disk.operations();
        list.add([(1, 9)], |_| true);
        list.add([(1, 5)], |_| true);
        assert_eq!((disk.operations(), read()), (operations, [(1, 1)].into()));
        list.add([(2, 3)], |_| true);
        assert_eq!(read(), [(1, 9), (2, 3)].into());
    }

    #[test]
    fn what_is_lost_stays_in_the_list_until_it_is_forgotten() {
        let (disk, path) = disk();
        let list = PackList::new(Arc::new(disk.clone()), path.to_owned(), Ok(Records::new()));
        list.add([(1, 5), (2, 3), (3, 8)], |_| true);
        list.add_lost(&[(3, 9), (4, 1)].into());
        let records_of = |number: u32| [None, Some(5), Some(2), Some(9), None][number as usize];
        let losses = list.losses(records_of);
        assert_eq!(losses.len(), 2, "{losses:?}");
        assert!(losses[0].contains("00000002") && losses[0].contains("2 of 3"), "{losses:?}");
        assert!(losses[1].contains("00000004") && losses[1].contains("missing"), "{losses:?}");
        let saved = PackList::read(&disk, path).unwrap().unwrap();
        assert_eq!(super::losses(&saved, records_of), losses);
        list.forget_lost(records_of).unwrap();
        assert_eq!(list.losses(records_of), [] as [String; 0]);
        let saved = PackList::read(&disk, path).unwrap().unwrap();
        assert_eq!(saved, [(1, 5), (2, 2), (3, 9)].into());
    }

    /// A damaged list stays, and is reported after each restart, until a collection has succeeded.
    #[test]
    fn a_damaged_list_is_replaced_only_after_a_collection() {
        let (disk, path) = disk();
        let open = || {
            let read = PackList::read(&disk, path).unwrap();
            PackList::new(Arc::new(disk.clone()), path.to_owned(), read)
        };
        open().add([(1, 5), (2, 3)], |_| true);
        disk.damage(path, |bytes| bytes[20] ^= 1);
        let damaged = read_file(&disk, path, MAX_LEN).unwrap();
        let records_of = |number: u32| (number != 2).then_some(5);
        for _ in 0..2 {
            let list = open();
            list.add([(1, 5), (3, 5)], |_| true);
            list.add_lost(&[(4, 1)].into());
            list.remove([3]).unwrap();
            assert_eq!(list.losses(records_of).len(), 1);
            assert!(list.losses(records_of)[0].contains("may not be noticed"));
            assert_eq!(read_file(&disk, path, MAX_LEN).unwrap(), damaged);
        }
        let list = open();
        list.add([(1, 5), (3, 5)], |_| true);
        list.forget_lost(records_of).unwrap();
        assert_eq!(list.losses(records_of), [] as [String; 0]);
        assert_eq!(open().records(), [(1, 5), (3, 5)].into());
    }

    #[test]
    fn fuzz_pack_list() {
        let (disk, path) = disk();
        let list = PackList::new(Arc::new(disk.clone()), path.to_owned(), Ok(Records::new()));
        list.add([(1, 1), (2, 70)], |_| true);
        let example = read_file(&disk, path, MAX_LEN).unwrap();
        fuzzing::target!(&[example], |bytes: &[u8]| {
            if let Some(text) = checked_text(bytes) {
                let _ = text.lines().map(parse_line).collect::<Option<Records>>();
            }
        });
    }
}

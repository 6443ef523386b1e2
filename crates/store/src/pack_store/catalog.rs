//! The catalog: the runs that form the index, and the packs that they cover.
//!
//! The catalog also lists the packs, so that the store notices a pack that has
//! vanished, and the next pack number, so that no number is used twice.
//!
//! The catalog is replaced atomically. If it is missing or damaged, the index is
//! rebuilt. A catalog that cannot be read is neither, and is not replaced.

use std::io::ErrorKind;
use std::path::Path;

use crate::error::StoreError;
use disk::{AtomicWrite, Disk, read_file, write_atomic};
use types::with_causes;

const MAGIC: [u8; 8] = *b"ARCHCATA";
const VERSION: u32 = 1;
const FILE: &str = "catalog";
/// Maximum length of the catalog in bytes: about two million packs.
const MAX_LEN: u64 = 64 << 20;
const PACK_LEN: usize = 24;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Catalog {
    pub(super) next_pack: u32,
    /// Ids of the runs, oldest first.
    pub(super) runs: Vec<u64>,
    pub(super) packs: Vec<CatalogPack>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CatalogPack {
    pub(super) number: u32,
    pub(super) uuid: [u8; 16],
    /// Number of its records, from the first on, that the runs cover.
    pub(super) indexed: u32,
}

impl Catalog {
    pub(super) fn write(&self, disk: &dyn Disk, dir: &Path) -> Result<(), StoreError> {
        let mut bytes = Vec::with_capacity(64 + self.runs.len() * 8 + self.packs.len() * PACK_LEN);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&self.next_pack.to_le_bytes());
        bytes.extend_from_slice(&(self.runs.len() as u64).to_le_bytes());
        bytes.extend_from_slice(&(self.packs.len() as u64).to_le_bytes());
        for run in &self.runs {
            bytes.extend_from_slice(&run.to_le_bytes());
        }
        for pack in &self.packs {
            bytes.extend_from_slice(&pack.number.to_le_bytes());
            bytes.extend_from_slice(&pack.uuid);
            bytes.extend_from_slice(&pack.indexed.to_le_bytes());
        }
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        write_atomic(disk, &dir.join(FILE), &bytes, &AtomicWrite::PRIVATE)?;
        Ok(())
    }

    /// Reads the catalog. `None` if it is missing or damaged.
    ///
    /// # Errors
    ///
    /// Returns [`StoreError::CatalogUnreadable`] if the file cannot be read, and
    /// [`StoreError::Unusable`] if a newer version of the program wrote it.
    pub(super) fn read(disk: &dyn Disk, dir: &Path) -> Result<Option<Self>, StoreError> {
        let path = dir.join(FILE);
        let bytes = match read_file(disk, &path, MAX_LEN) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(StoreError::CatalogUnreadable { path, reason: with_causes(&error) });
            }
        };
        let Some(content) = checked_content(&bytes) else { return Ok(None) };
        match content.split_first_chunk::<4>() {
            Some((version, rest)) if u32::from_le_bytes(*version) == VERSION => {
                Ok(Self::decode(rest))
            }
            Some((version, _)) => {
                let version = u32::from_le_bytes(*version);
                let reason =
                    format!("it has version {version}; use a newer version of this program");
                Err(StoreError::Unusable { path, reason })
            }
            None => Ok(None),
        }
    }

    /// Decodes what follows the version.
    fn decode(rest: &[u8]) -> Option<Self> {
        let (next_pack, rest) = rest.split_first_chunk::<4>()?;
        let (run_count, rest) = rest.split_first_chunk::<8>()?;
        let (pack_count, rest) = rest.split_first_chunk::<8>()?;
        let runs_len = usize::try_from(u64::from_le_bytes(*run_count)).ok()?.checked_mul(8)?;
        let packs_len =
            usize::try_from(u64::from_le_bytes(*pack_count)).ok()?.checked_mul(PACK_LEN)?;
        if runs_len.checked_add(packs_len)? != rest.len() {
            return None;
        }
        let (runs, packs) = rest.split_at(runs_len);
        let runs = runs.as_chunks::<8>().0.iter().map(|run| u64::from_le_bytes(*run)).collect();
        let pack = |bytes: &[u8; PACK_LEN]| {
            let (number, rest) = bytes.split_first_chunk::<4>()?;
            let (uuid, rest) = rest.split_first_chunk::<16>()?;
            let indexed = rest.first_chunk::<4>()?;
            Some(CatalogPack {
                number: u32::from_le_bytes(*number),
                uuid: *uuid,
                indexed: u32::from_le_bytes(*indexed),
            })
        };
        let packs = packs.as_chunks::<PACK_LEN>().0.iter().map(pack).collect::<Option<_>>()?;
        Some(Self { next_pack: u32::from_le_bytes(*next_pack), runs, packs })
    }
}

/// Returns the bytes between the magic and the checksum. `None` if they are damaged.
fn checked_content(bytes: &[u8]) -> Option<&[u8]> {
    let (content, sum) = bytes.split_last_chunk::<4>()?;
    let is_intact = crc32c::crc32c(content) == u32::from_le_bytes(*sum);
    content.strip_prefix(&MAGIC).filter(|_| is_intact)
}

#[cfg(test)]
mod tests {
    use super::*;
    use disk::sim::SimDisk;

    #[test]
    fn fuzz_catalog() {
        let disk = SimDisk::new();
        let dir = Path::new("/i");
        disk.create_dir(dir).unwrap();
        let pack = |number| CatalogPack { number, uuid: [5; 16], indexed: 77 };
        let catalog = Catalog { next_pack: 9, runs: vec![4, 7], packs: vec![pack(3), pack(8)] };
        catalog.write(&disk, dir).unwrap();
        let example = read_file(&disk, &dir.join(FILE), MAX_LEN).unwrap();
        fuzzing::target!(&[example], |bytes: &[u8]| {
            // The example without the magic and the version, and every other part of it.
            let _ = checked_content(bytes);
            let _ = Catalog::decode(bytes);
            let _ = bytes.get(12..bytes.len().saturating_sub(4)).map(Catalog::decode);
        });
    }

    #[test]
    fn it_reads_back_and_any_damage_makes_it_none() {
        let disk = SimDisk::new();
        let dir = Path::new("/i");
        disk.create_dir(dir).unwrap();
        assert_eq!(Catalog::read(&disk, dir).unwrap(), None);
        let catalog = Catalog {
            next_pack: 9,
            runs: vec![4, 7],
            packs: vec![CatalogPack { number: 8, uuid: [5; 16], indexed: 77 }],
        };
        catalog.write(&disk, dir).unwrap();
        assert_eq!(Catalog::read(&disk, dir).unwrap(), Some(catalog));
        let path = dir.join(FILE);
        let len = read_file(&disk, &path, MAX_LEN).unwrap().len();
        for at in 0..len {
            disk.damage(&path, |bytes| bytes[at] ^= 1);
            assert_eq!(Catalog::read(&disk, dir).unwrap(), None);
            disk.damage(&path, |bytes| bytes[at] ^= 1);
        }
        for cut in 0..len {
            disk.damage(&path, |bytes| bytes.truncate(len - cut - 1));
            assert_eq!(Catalog::read(&disk, dir).unwrap(), None);
        }
    }
}

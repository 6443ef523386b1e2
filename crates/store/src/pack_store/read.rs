//! Finds and reads blocks.

use std::io;
use std::sync::Arc;

use types::{Cid, Codec, EncodedBlock, Encoding, Hash};

use super::Inner;
use super::packs::Pack;
use crate::error::StoreError;
use crate::record::{Entry, Form, ReadError, Record, read_record};
use crate::run::{VALUE_LEN, Value};
use crate::sync::atomic::Ordering;

/// Maximum number of lookups of a block that is being moved.
const MOVES_MAX: usize = 8;

/// Number of bytes read from a pack after which its page cache is dropped.
const DROP_CACHE_AFTER: u64 = 16 << 20;

/// Stands in the index for the form of a record of a later version.
const FORM_NEWER: u8 = 0xff;

/// Place of a block.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) pack: Arc<Pack>,
    /// Number of the record in the pack.
    pub(super) record: u32,
    pub(super) entry: Entry,
}

/// Encodes the value of a block in the index. Lengths need three bytes, since a
/// block has at most 4 MiB; the number of a record, too: a pack has at most 64 Ki
/// records.
pub(super) fn encode_place(pack: u32, record: u32, entry: &Entry) -> Value {
    let mut value = [0; VALUE_LEN];
    value[..4].copy_from_slice(&pack.to_le_bytes());
    value[4..7].copy_from_slice(&record.to_le_bytes()[..3]);
    value[7..11].copy_from_slice(&entry.offset.to_le_bytes());
    value[11..14].copy_from_slice(&entry.stored_len.to_le_bytes()[..3]);
    value[14..17].copy_from_slice(&entry.len.to_le_bytes()[..3]);
    value[17] = match entry.form {
        Form::Block { codec, encoding } => codec.tag() | encoding.tag() << 4,
        Form::Newer(_) => FORM_NEWER,
    };
    value
}

/// Returns the number of the pack in a value.
pub(super) fn pack_of(value: &Value) -> u32 {
    u32::from_le_bytes([value[0], value[1], value[2], value[3]])
}

pub(super) fn decode_place(hash: Hash, value: &Value) -> (u32, Entry) {
    let three = |at: usize| u32::from_le_bytes([value[at], value[at + 1], value[at + 2], 0]);
    let entry = Entry {
        hash,
        offset: u32::from_le_bytes([value[7], value[8], value[9], value[10]]),
        stored_len: three(11),
        len: three(14),
        form: match (Codec::from_tag(value[17] & 0xf), Encoding::from_tag(value[17] >> 4)) {
            (Some(codec), Some(encoding)) => Form::Block { codec, encoding },
            _ => Form::NEWER,
        },
    };
    (three(4), entry)
}

/// The places of a block.
#[derive(Debug, Default)]
pub(super) struct Places {
    /// Places that can be read.
    pub(super) usable: Vec<Place>,
    /// Places in quarantine.
    pub(super) damaged: Vec<Place>,
    /// True if the index named a pack that no longer exists.
    is_gone: bool,
}

impl Inner {
    /// Returns the first usable place of a block. A collection in progress will not
    /// delete it there.
    pub(super) fn locate(&self, hash: &Hash) -> Result<Option<Place>, StoreError> {
        Ok(self.places(hash)?.usable.into_iter().next())
    }

    pub(super) fn places(&self, hash: &Hash) -> Result<Places, StoreError> {
        self.places_of(hash, self.index_values(hash)?)
    }

    /// Returns the places of a block for which the index has just returned `values`.
    fn places_of(&self, hash: &Hash, mut values: Vec<Value>) -> Result<Places, StoreError> {
        loop {
            let places = self.places_at(hash, &values);
            if !places.is_gone || !places.usable.is_empty() {
                return Ok(places);
            }
            // A collection may have moved the block in the meantime. The new place
            // is in the index before the old pack is removed: if the index has not
            // changed, there is no other place.
            let latest = self.index_values(hash)?;
            if latest == values {
                return Ok(places);
            }
            values = latest;
        }
    }

    fn places_at(&self, hash: &Hash, values: &[Value]) -> Places {
        let mut places = Places::default();
        if values.is_empty() {
            return places;
        }
        let collection = self.collection.read();
        for value in values {
            let Some(pack) = self.packs.get(pack_of(value)) else {
                places.is_gone = true;
                continue;
            };
            let (record, entry) = decode_place(*hash, value);
            if record >= pack.usable_records.load(Ordering::SeqCst) {
                continue;
            }
            let place = Place { pack, record, entry };
            if self.quarantine.contains((place.pack.number(), record)) {
                places.damaged.push(place);
                continue;
            }
            if places.usable.is_empty()
                && let Some(collection) = &*collection
                && !collection.keep(&place)
            {
                continue;
            }
            places.usable.push(place);
        }
        places
    }

    /// Returns the values of a hash. Rebuilds the index if it is damaged, or if a page of it cannot
    /// be read: its file was opened, so the disk has failed, and without the page the blocks could
    /// not be read either. The rebuild reads the packs alone, and the old index stays in use if the
    /// rebuild fails.
    pub(super) fn index_values(&self, hash: &Hash) -> Result<Vec<Value>, StoreError> {
        let mut values = Vec::new();
        for _ in 0..2 {
            let rebuilt = self.rebuilds.load(Ordering::SeqCst);
            match self.index.get(hash, &mut values) {
                Ok(()) => return Ok(values),
                Err(error @ (StoreError::Unusable { .. } | StoreError::Io { .. })) => {
                    tracing::error!(%error, "the index is damaged or unreadable and will be rebuilt");
                    self.rebuild_index_since(rebuilt)?;
                }
                Err(error) => return Err(error),
            }
        }
        self.index.get(hash, &mut values)?;
        Ok(values)
    }

    pub(super) fn get_encoded(&self, cid: &Cid) -> Result<Option<EncodedBlock>, StoreError> {
        // If a collection moves the block during the lookup, the lookup is
        // repeated.
        for _ in 0..MOVES_MAX {
            let places = self.places(cid.hash())?;
            let mut damage = places
                .damaged
                .first()
                .map(|place| damaged(place, "it was found damaged earlier".into()));
            let mut has_moved = false;
            let mut unreadable = None;
            for place in &places.usable {
                match self.read(place) {
                    Ok(Some(block)) => return Ok(Some(block.read_as(cid.codec()))),
                    Ok(None) => has_moved = true,
                    Err(error @ (StoreError::Damaged { .. } | StoreError::Newer { .. })) => {
                        damage = Some(error);
                    }
                    // Another copy may be readable.
                    Err(error @ StoreError::Io { .. }) => unreadable = Some(error),
                    Err(error) => return Err(error),
                }
            }
            if let Some(error) = unreadable {
                return Err(error);
            }
            if !has_moved {
                return damage.map_or(Ok(None), Err);
            }
        }
        Ok(None)
    }

    /// Reads a block. A damaged record is quarantined. `None` if the pack no longer
    /// exists.
    pub(super) fn read(&self, place: &Place) -> Result<Option<EncodedBlock>, StoreError> {
        match self.read_any(place)? {
            Some(Record::Block(block)) => Ok(Some(block)),
            Some(Record::Newer(_)) => {
                Err(StoreError::Newer { hash: place.entry.hash, pack: place.pack.path.clone() })
            }
            None => Ok(None),
        }
    }

    /// Reads a record, which may be of a later version. A damaged record is
    /// quarantined. `None` if the pack no longer exists.
    pub(super) fn read_any(&self, place: &Place) -> Result<Option<Record>, StoreError> {
        let file = match self.packs.file(&place.pack) {
            Ok(file) => file,
            Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                self.lose_pack(&place.pack);
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let reason = match read_record(&*file, &place.entry) {
            Ok(record) => {
                self.count_read(place);
                return Ok(Some(record));
            }
            Err(ReadError::Damaged(reason)) => reason,
            // The error may disappear, and the bytes may be intact. A scrub decides
            // when to give up; see `set_aside_unreadable`.
            Err(ReadError::Io(source)) => {
                return Err(StoreError::io("read", &place.pack.path, source));
            }
        };
        if self.packs.get(place.pack.number()).is_none() {
            // A collection has emptied the pack in the meantime.
            return Ok(None);
        }
        Err(self.quarantine(place, reason))
    }

    /// Counts a read and drops the page cache from time to time: content is usually
    /// read only once. See [`Inner::drop_cache`].
    fn count_read(&self, place: &Place) {
        let (pack, len) = (&place.pack, u64::from(place.entry.stored_len));
        if pack.cached_bytes.fetch_add(len, Ordering::Relaxed) + len >= DROP_CACHE_AFTER {
            pack.cached_bytes.store(0, Ordering::Relaxed);
            // Only up to here: the bytes that the system has read ahead are needed
            // next.
            self.drop_cache(pack, place.entry.end());
        }
    }

    pub(super) fn quarantine(&self, place: &Place, reason: String) -> StoreError {
        let error = damaged(place, reason);
        tracing::error!(%error, "a stored block is damaged and counts as absent");
        let place = (place.pack.number(), place.record);
        if self.count_loss(|| self.quarantine.add(place)) {
            self.quarantine.save();
            self.losses.add_damage();
        }
        error
    }

    /// Removes a pack from the list whose file has vanished.
    pub(super) fn lose_pack(&self, pack: &Pack) {
        // A collection removes a pack from the list before it removes the file.
        if self.packs.get(pack.number()).is_some() {
            tracing::error!(
                pack = %pack.path.display(),
                "the file of a pack is missing; its blocks count as absent"
            );
            self.count_loss(|| self.packs.forget(pack.number()));
            self.losses.add_pack(pack.path.clone());
        }
    }
}

fn damaged(place: &Place, reason: String) -> StoreError {
    StoreError::Damaged {
        hash: place.entry.hash,
        pack: place.pack.path.clone(),
        offset: place.entry.offset.into(),
        reason,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use bytes::Bytes;
    use types::Block;

    use super::*;
    use crate::{
        BlockWrite as _, GcOptions, PackStore, Root, Roots as _, StoreAdmin as _, StoreOptions,
    };
    use disk::sim::SimDisk;

    #[test]
    fn a_block_that_is_moved_while_it_is_looked_for_is_found() {
        let disk = Arc::new(SimDisk::new());
        let options = StoreOptions { disk_reserve: 0, background: false, ..Default::default() };
        let (store, _) = PackStore::open_on(disk, Path::new("/store"), &options).unwrap();
        let block = |text: &'static [u8]| {
            EncodedBlock::plain(Block::new(Codec::Raw, Bytes::from_static(text)).unwrap())
        };
        let [kept, dropped, other] = [&b"kept"[..], b"dropped", b"other"].map(block);
        store.put(&[kept.clone(), dropped.clone()]).unwrap();
        let root = Root { cid: kept.cid(), partial: false };
        store.set_root("kept", root, store.write_epoch()).unwrap();
        // A reader has just asked the index when all blocks are moved, twice.
        let inner = &store.inner;
        let [found, gone] = [&kept, &dropped].map(|b| inner.index_values(b.cid().hash()).unwrap());
        store.gc(GcOptions::EVERYTHING).unwrap();
        store.put(&[other]).unwrap();
        store.gc(GcOptions::EVERYTHING).unwrap();
        assert!(inner.packs.get(pack_of(&found[0])).is_none(), "its pack has gone");
        assert_eq!(inner.places_of(kept.cid().hash(), found).unwrap().usable.len(), 1);
        assert_eq!(inner.places_of(dropped.cid().hash(), gone).unwrap().usable.len(), 0);
    }

    #[test]
    fn places_read_back_at_their_extremes() {
        let block = Form::Block { codec: Codec::DagCbor, encoding: Encoding::Zstd };
        for form in [block, Form::NEWER] {
            for (record, offset, len) in [(0, 0, 0), (0xff_ffff, u32::MAX, 4 << 20)] {
                let entry = Entry { hash: Hash::of(b"x"), offset, stored_len: len, len, form };
                let value = encode_place(7, record, &entry);
                assert_eq!(pack_of(&value), 7);
                assert_eq!(decode_place(entry.hash, &value), (record, entry));
            }
        }
    }

    #[test]
    fn a_form_in_the_index_that_is_unknown_is_one_of_a_later_version() {
        let block = Form::Block { codec: Codec::Raw, encoding: Encoding::Plain };
        let entry = Entry { hash: Hash::of(b"x"), offset: 64, stored_len: 1, len: 1, form: block };
        let mut value = encode_place(7, 0, &entry);
        for form in [0x03, 0x20, 0xf0, 0xff] {
            value[17] = form;
            assert_eq!(decode_place(entry.hash, &value).1, Entry { form: Form::NEWER, ..entry });
        }
    }
}

//! Finding and reading blocks.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use types::{Cid, Codec, EncodedBlock, Encoding, Hash};

use super::Inner;
use super::packs::Pack;
use crate::error::StoreError;
use crate::pack::{Entry, ReadError, read_record};
use crate::run::{VALUE_LEN, Value};

/// How often a block is looked for that a collection moves.
const MOVES_MAX: usize = 8;

/// A pack's content is forgotten when so many bytes of it have been read.
const FORGET_AFTER: u64 = 16 << 20;

/// Where a block is.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) pack: Arc<Pack>,
    /// Which record of the pack.
    pub(super) record: u32,
    pub(super) entry: Entry,
}

/// What the index holds for a block. Lengths take three bytes: a block is at
/// most 4 MiB; so does the number of a record: a pack has at most 64 Ki.
pub(super) fn encode_place(pack: u32, record: u32, entry: &Entry) -> Value {
    let mut value = [0; VALUE_LEN];
    value[..4].copy_from_slice(&pack.to_le_bytes());
    value[4..7].copy_from_slice(&record.to_le_bytes()[..3]);
    value[7..11].copy_from_slice(&entry.offset.to_le_bytes());
    value[11..14].copy_from_slice(&entry.stored_len.to_le_bytes()[..3]);
    value[14..17].copy_from_slice(&entry.len.to_le_bytes()[..3]);
    value[17] = entry.codec.tag() | entry.encoding.tag() << 4;
    value
}

/// The pack of a value.
pub(super) fn pack_of(value: &Value) -> u32 {
    u32::from_le_bytes([value[0], value[1], value[2], value[3]])
}

fn decode_place(hash: Hash, value: &Value) -> Option<(u32, Entry)> {
    let three = |at: usize| u32::from_le_bytes([value[at], value[at + 1], value[at + 2], 0]);
    let entry = Entry {
        hash,
        offset: u32::from_le_bytes([value[7], value[8], value[9], value[10]]),
        stored_len: three(11),
        len: three(14),
        codec: Codec::from_tag(value[17] & 0xf)?,
        encoding: Encoding::from_tag(value[17] >> 4)?,
    };
    Some((three(4), entry))
}

/// The places of a block: those that can be used, and those that are damaged.
#[derive(Debug, Default)]
pub(super) struct Places {
    pub(super) usable: Vec<Place>,
    pub(super) damaged: Vec<Place>,
    /// Whether the index named a pack that is not there.
    is_gone: bool,
}

impl Inner {
    /// Where a block is, if it is: the first place that can be used. A
    /// collection that is under way will not delete it there.
    pub(super) fn locate(&self, hash: &Hash) -> Result<Option<Place>, StoreError> {
        Ok(self.places(hash)?.usable.into_iter().next())
    }

    pub(super) fn places(&self, hash: &Hash) -> Result<Places, StoreError> {
        self.places_of(hash, self.index_values(hash)?)
    }

    /// The places of a block, of which the index said `values` a moment ago.
    fn places_of(&self, hash: &Hash, mut values: Vec<Value>) -> Result<Places, StoreError> {
        loop {
            let places = self.places_at(hash, &values);
            if !places.is_gone || !places.usable.is_empty() {
                return Ok(places);
            }
            // A collection may have moved the block meanwhile. The index knew
            // the new place before the old pack went: if it says the same as
            // before, there is none.
            let now = self.index_values(hash)?;
            if now == values {
                return Ok(places);
            }
            values = now;
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
            let Some((record, entry)) = decode_place(*hash, value) else { continue };
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

    /// What the index says; an index that is damaged is made anew.
    fn index_values(&self, hash: &Hash) -> Result<Vec<Value>, StoreError> {
        let mut values = Vec::new();
        for _ in 0..2 {
            let rebuilt = self.rebuilds.load(Ordering::SeqCst);
            match self.index.get(hash, &mut values) {
                Ok(()) => return Ok(values),
                Err(error @ (StoreError::Unusable { .. } | StoreError::Io { .. })) => {
                    tracing::error!(%error, "the index is damaged; making it anew");
                    self.rebuild_index_since(rebuilt)?;
                }
                Err(error) => return Err(error),
            }
        }
        self.index.get(hash, &mut values)?;
        Ok(values)
    }

    pub(super) fn get_encoded(&self, cid: &Cid) -> Result<Option<EncodedBlock>, StoreError> {
        // A collection may move a block while it is looked for: then it is
        // looked for again.
        for _ in 0..MOVES_MAX {
            let places = self.places(cid.hash())?;
            let mut damage = places
                .damaged
                .first()
                .map(|place| damaged(place, "it was found damaged before".into()));
            let mut has_moved = false;
            for place in &places.usable {
                match self.read(place) {
                    Ok(Some(block)) => return Ok(Some(block.read_as(cid.codec()))),
                    Ok(None) => has_moved = true,
                    Err(error @ StoreError::Damaged { .. }) => damage = Some(error),
                    Err(error) => return Err(error),
                }
            }
            if !has_moved {
                return damage.map_or(Ok(None), Err);
            }
        }
        Ok(None)
    }

    /// Reads a record; a damaged one is quarantined. `None`: its pack is gone.
    pub(super) fn read(&self, place: &Place) -> Result<Option<EncodedBlock>, StoreError> {
        let file = match self.packs.file(&place.pack) {
            Ok(file) => file,
            Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                self.lose(&place.pack);
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let reason = match read_record(&*file, &place.entry) {
            Ok(block) => {
                self.has_read(place);
                return Ok(Some(block));
            }
            Err(ReadError::Damaged(reason)) => reason,
            // A sector that cannot be read is damage of the blocks in it.
            Err(ReadError::Io(error)) => error.to_string(),
        };
        if self.packs.get(place.pack.number()).is_none() {
            // The collector has emptied it meanwhile.
            return Ok(None);
        }
        Err(self.quarantine(place, reason))
    }

    /// Content is read once, as a rule: see [`Inner::forget_cached`].
    fn has_read(&self, place: &Place) {
        let (pack, len) = (&place.pack, u64::from(place.entry.stored_len));
        if pack.read.fetch_add(len, Ordering::Relaxed) + len >= FORGET_AFTER {
            pack.read.store(0, Ordering::Relaxed);
            // What the system has read ahead is wanted next.
            self.forget_cached(pack, place.entry.end());
        }
    }

    pub(super) fn quarantine(&self, place: &Place, reason: String) -> StoreError {
        let error = damaged(place, reason);
        tracing::error!(%error, "a stored block is damaged; it counts as absent");
        let place = (place.pack.number(), place.record);
        if self.losing(|| self.quarantine.add(place)) {
            self.quarantine.save();
        }
        error
    }

    /// A pack's file has vanished without our doing.
    fn lose(&self, pack: &Pack) {
        // The collector takes a pack from the list before its file.
        if self.packs.get(pack.number()).is_some() {
            tracing::error!(
                pack = %pack.path.display(),
                "a pack is gone; its blocks count as absent"
            );
            self.losing(|| self.packs.forget(pack.number()));
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
        // Whoever looks has just asked the index when everything moves, twice.
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
        for (record, offset, len) in [(0, 0, 0), (0xff_ffff, u32::MAX, 4 << 20)] {
            let entry = Entry {
                hash: Hash::of(b"x"),
                offset,
                stored_len: len,
                len,
                codec: Codec::DagCbor,
                encoding: Encoding::Zstd,
            };
            let value = encode_place(7, record, &entry);
            assert_eq!(pack_of(&value), 7);
            assert_eq!(decode_place(entry.hash, &value), Some((record, entry)));
        }
    }
}

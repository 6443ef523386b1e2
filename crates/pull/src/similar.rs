//! Stored blocks that are probably similar to wanted blocks.
//!
//! Role: a file that was saved again is mostly unchanged. The backup server has the old content,
//! the source does not. So the backup server requests a block of a file with a similarity hint, a
//! sketch of the block that it has in its place ([`net::Sketch`]), and the source may answer with a
//! patch: a save in a long file costs some kilobytes, not the chunk around the change.
//!
//! Invariants: nothing depends on the hints. A block that is named as similar may be quite
//! different or missing: a patched block is stored only if its bytes have the wanted CID, and a
//! block that does not arrive as a patch is fetched complete. Hints describe only blocks that the
//! same source sent for the same path, so the source learns nothing that it could not restore.

use std::collections::HashMap;
use std::sync::Arc;

use net::{SimilarBlock, Sketch, Want};
use store::{BlockRead, StoreError, get_sound};
use types::{Cid, Codec, FileNode, NodeChild};

/// Maximum number of pairs at the same time. A node has at most 4,096 children, and those of a
/// batch are fetched before the next nodes are followed.
const PAIRS_MAX: usize = 64 * 1024;

/// Pairs of a wanted block and a stored block that is probably similar.
#[derive(Clone, Debug, Default)]
pub(crate) struct SimilarBlocks(HashMap<Cid, Cid>);

impl SimilarBlocks {
    /// Adds the stored block that is probably similar to `wanted`.
    pub(crate) fn add(&mut self, wanted: Cid, stored: Cid) {
        if wanted != stored && self.0.len() < PAIRS_MAX {
            self.0.insert(wanted, stored);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Pairs the children of a wanted node, which is stored by now, with the children of the node
    /// that is similar to it. `bytes` are those of the wanted node. Blocks the thread.
    ///
    /// # Errors
    ///
    /// Returns [`StoreError`] if the similar node cannot be read.
    pub(crate) fn follow(
        &mut self,
        store: &dyn BlockRead,
        node: &Cid,
        bytes: &[u8],
    ) -> Result<(), StoreError> {
        let Some(stored) = self.0.remove(node) else { return Ok(()) };
        // The caller reports a block that is not a node.
        let Ok(new) = FileNode::decode(bytes) else { return Ok(()) };
        let Some(old) = children(store, &stored)? else { return Ok(()) };
        for (wanted, stored) in pairs(new.children(), &old) {
            self.add(wanted, stored);
        }
        Ok(())
    }

    /// Removes the pairs of `wants` and returns them as similarity hints. Blocks the thread.
    ///
    /// # Errors
    ///
    /// Returns [`StoreError`] if a stored block cannot be read.
    pub(crate) fn take(
        &mut self,
        store: &Arc<dyn BlockRead>,
        wants: &[Want],
    ) -> Result<HashMap<Cid, Arc<SimilarBlock>>, StoreError> {
        let mut found = HashMap::new();
        for want in wants {
            let Some(mut stored) = self.of(want.cid) else { continue };
            // The file has shrunk to one chunk: compare with the first chunk of the old file.
            while want.cid.codec() == Codec::Raw && stored.codec() != Codec::Raw {
                let Some(below) = children(&**store, &stored)? else { break };
                stored = below.first().map_or(want.cid, |child| child.cid);
            }
            let Some(bytes) = get_sound(&**store, &stored)? else { continue };
            let Some(sketch) = Sketch::of(&bytes) else { continue };
            let store = store.clone();
            // Read again when needed: the blocks of all hints would need much memory.
            let base = move || get_sound(&*store, &stored).ok().flatten();
            found.insert(want.cid, Arc::new(SimilarBlock::new(sketch, base)));
        }
        Ok(found)
    }

    /// Returns the block that is similar to `wanted`. The pair of a node stays until its children
    /// are known.
    fn of(&mut self, wanted: Cid) -> Option<Cid> {
        match wanted.codec() {
            Codec::Raw => self.0.remove(&wanted),
            Codec::DagCbor | Codec::Json => {
                self.0.get(&wanted).copied().filter(|stored| stored.codec() == wanted.codec())
            }
        }
    }
}

/// Returns the children of a node. A file of one chunk has that chunk as its only child.
fn children(store: &dyn BlockRead, cid: &Cid) -> Result<Option<Vec<NodeChild>>, StoreError> {
    if cid.codec() == Codec::Raw {
        return Ok(store.len_of(cid)?.map(|len| vec![NodeChild { cid: *cid, len }]));
    }
    let node = get_sound(store, cid)?.and_then(|bytes| FileNode::decode(&bytes).ok());
    Ok(node.map(|node| node.children().to_vec()))
}

/// Pairs each child of `new` that `old` does not have with the child of `old` in its place: the
/// children between two common ones correspond to each other.
fn pairs(new: &[NodeChild], old: &[NodeChild]) -> Vec<(Cid, Cid)> {
    let mut places: HashMap<Cid, Vec<usize>> = HashMap::new();
    for (at, child) in old.iter().enumerate().rev() {
        places.entry(child.cid).or_default().push(at);
    }
    let (mut pairs, mut gap, mut from) = (Vec::new(), Vec::new(), 0);
    for child in new {
        // Its next position in `old` behind the last common child.
        let place = places.get_mut(&child.cid).and_then(|places| {
            while places.last().is_some_and(|at| *at < from) {
                places.pop();
            }
            places.last().copied()
        });
        match place {
            Some(at) => {
                close(&mut pairs, &mut gap, old.get(from..at).unwrap_or_default());
                from = at + 1;
            }
            // Only positions before the last common child: stored all the same.
            None if places.contains_key(&child.cid) => {}
            None => gap.push(*child),
        }
    }
    close(&mut pairs, &mut gap, old.get(from..).unwrap_or_default());
    pairs
}

/// Pairs the children between two common ones: each new child with the old child that contains the
/// same offset.
fn close(pairs: &mut Vec<(Cid, Cid)>, gap: &mut Vec<NodeChild>, old: &[NodeChild]) {
    let mut offset = 0;
    let (mut at, mut end) = (0, old.first().map_or(0, |child| child.len));
    for child in gap.drain(..) {
        while offset >= end && at + 1 < old.len() {
            at += 1;
            end += old[at].len;
        }
        if let Some(old) = old.get(at) {
            pairs.push((child.cid, old.cid));
        }
        offset += child.len;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;
    use store::{BlockWrite as _, MemStore};
    use types::{Block, EncodedBlock};

    use super::*;

    /// Returns a child with this content and length.
    fn child(name: &str, len: u64) -> NodeChild {
        NodeChild { cid: Cid::of(Codec::Raw, name.as_bytes()), len }
    }

    fn list(names: &str) -> Vec<NodeChild> {
        names.split_whitespace().map(|name| child(name, 10)).collect()
    }

    fn paired(new: &str, old: &str) -> Vec<(String, String)> {
        let names: Vec<&str> = new.split_whitespace().chain(old.split_whitespace()).collect();
        let name = |cid: Cid| {
            let is = |name: &&&str| Cid::of(Codec::Raw, name.as_bytes()) == cid;
            (*names.iter().find(is).unwrap()).to_owned()
        };
        let pairs = pairs(&list(new), &list(old));
        pairs.into_iter().map(|(new, old)| (name(new), name(old))).collect()
    }

    #[test]
    fn what_is_new_is_like_what_was_in_its_place() {
        let of = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs.iter().map(|(new, old)| ((*new).to_owned(), (*old).to_owned())).collect()
        };
        assert_eq!(paired("a x c", "a b c"), of(&[("x", "b")]));
        assert_eq!(paired("a b c", "a b c"), of(&[]));
        // One child split in two, and two merged into one.
        assert_eq!(paired("a x y c", "a b c"), of(&[("x", "b"), ("y", "b")]));
        assert_eq!(paired("a x d", "a b c d"), of(&[("x", "b")]));
        // At the ends.
        assert_eq!(paired("x b c", "a b c"), of(&[("x", "a")]));
        assert_eq!(paired("a b x y", "a b c"), of(&[("x", "c"), ("y", "c")]));
        // No old child in the gap.
        assert_eq!(paired("a x b", "a b"), of(&[]));
        assert_eq!(paired("x", ""), of(&[]));
        // Several gaps.
        assert_eq!(
            paired("a x c d y f z", "a b c d e f g"),
            of(&[("x", "b"), ("y", "e"), ("z", "g")])
        );
        // Repeated children, and another order.
        assert_eq!(paired("a a x a", "a a b a"), of(&[("x", "b")]));
        assert_eq!(paired("c x a", "a b c"), of(&[]));
    }

    #[test]
    fn lengths_tell_which_of_several() {
        let old = [child("a", 100), child("b", 100), child("c", 100)];
        let new = [child("x", 90), child("y", 115), child("z", 100)];
        let names: Vec<Cid> = pairs(&new, &old).into_iter().map(|(_, old)| old).collect();
        assert_eq!(names, [old[0].cid, old[0].cid, old[2].cid]);
    }

    #[test]
    fn what_is_gone_or_no_node_is_like_nothing() {
        let store = MemStore::new();
        let noise = |seed: u8| {
            let mut bytes = vec![0; 5000];
            blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
            Block::new(Codec::Raw, bytes).unwrap()
        };
        let (old, new, node) = (noise(1), noise(2), Cid::of(Codec::DagCbor, b"node"));
        let mut similar = SimilarBlocks::default();
        similar.add(new.cid(), old.cid());
        similar.add(node, old.cid());
        similar.add(old.cid(), old.cid());
        assert_eq!(similar.0.len(), 2);
        similar.follow(&store, &node, b"node").unwrap();
        let store = Arc::new(store);
        let readable: Arc<dyn BlockRead> = store.clone();
        assert!(similar.clone().take(&readable, &[new.cid().into()]).unwrap().is_empty());
        store.put(&[EncodedBlock::plain(old)]).unwrap();
        assert_eq!(similar.take(&readable, &[new.cid().into()]).unwrap().len(), 1);
        assert!(similar.is_empty());
    }

    proptest! {
        #[test]
        fn each_new_child_has_at_most_one_similar_child(
            new in prop::collection::vec((0_u8..20, 1_u64..100), 0..40),
            old in prop::collection::vec((0_u8..20, 1_u64..100), 0..40),
        ) {
            let of = |list: &[(u8, u64)]| -> Vec<NodeChild> {
                list.iter().map(|(name, len)| child(&name.to_string(), *len)).collect()
            };
            let (new, old) = (of(&new), of(&old));
            let pairs = pairs(&new, &old);
            prop_assert!(pairs.len() <= new.len());
            for (wanted, stored) in pairs {
                prop_assert!(new.iter().any(|child| child.cid == wanted));
                prop_assert!(old.iter().any(|child| child.cid == stored));
                prop_assert!(!old.iter().any(|child| child.cid == wanted));
            }
        }
    }
}

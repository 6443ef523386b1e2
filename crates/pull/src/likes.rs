//! What is here and likely to be like what is wanted.
//!
//! Role: a file that was saved again is for the most part what it was. B has
//! what it was; A does not. So for what is wanted of a file, B says what it has
//! in its place ([`net::Sketch`]), and A may answer with the difference: a save
//! in a long file costs some kilobytes, not the chunk around it.
//!
//! Invariants: nothing depends on it. What is named here as alike may be
//! anything, or gone: what comes is taken only where its bytes have the name
//! that was wanted, and what does not come so is asked for whole. Only what the
//! same source sent before for the same path is told of, so it learns nothing
//! that it could not restore.

use std::collections::HashMap;
use std::sync::Arc;

use net::{SimilarBlock, Sketch, Want};
use store::{BlockRead, StoreError, get_sound};
use types::{Cid, Codec, FileNode, NodeChild};

/// Pairs that are known at once. A node has at most 4,096 children, and those
/// of a batch are asked for before the next nodes are looked at.
const PAIRS_MAX: usize = 64 * 1024;

/// What is here in the place of what is wanted, by its name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Likes(HashMap<Cid, Cid>);

impl Likes {
    /// `here` is likely to be like `wanted`.
    pub(crate) fn add(&mut self, wanted: Cid, here: Cid) {
        if wanted != here && self.0.len() < PAIRS_MAX {
            self.0.insert(wanted, here);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A node that was wanted is here: what is below it is like what is below
    /// the one that it is like. `bytes` are its own. Blocks.
    ///
    /// # Errors
    ///
    /// Those of the disk.
    pub(crate) fn follow(
        &mut self,
        store: &dyn BlockRead,
        node: &Cid,
        bytes: &[u8],
    ) -> Result<(), StoreError> {
        let Some(here) = self.0.remove(node) else { return Ok(()) };
        // What is no node is somebody else's business.
        let Ok(new) = FileNode::decode(bytes) else { return Ok(()) };
        let Some(old) = children(store, &here)? else { return Ok(()) };
        for (wanted, here) in pairs(new.children(), &old) {
            self.add(wanted, here);
        }
        Ok(())
    }

    /// Takes out what is known of `wants`, as it is asked for. Blocks.
    ///
    /// # Errors
    ///
    /// Those of the disk.
    pub(crate) fn take(
        &mut self,
        store: Arc<dyn BlockRead>,
        wants: &[Want],
    ) -> Result<HashMap<Cid, Arc<SimilarBlock>>, StoreError> {
        let mut found = HashMap::new();
        for want in wants {
            let Some(mut here) = self.of(want.cid) else { continue };
            // A file that was longer: its front.
            while want.cid.codec() == Codec::Raw && here.codec() != Codec::Raw {
                let Some(below) = children(&*store, &here)? else { break };
                here = below.first().map_or(want.cid, |child| child.cid);
            }
            let Some(bytes) = get_sound(&*store, &here)? else { continue };
            let Some(sketch) = Sketch::of(&bytes) else { continue };
            let store = store.clone();
            // Read again when it is needed: what is under way would be much.
            let base = move || get_sound(&*store, &here).ok().flatten();
            found.insert(want.cid, Arc::new(SimilarBlock::new(sketch, base)));
        }
        Ok(found)
    }

    /// What is like it. That of a node is kept until what is below it is known.
    fn of(&mut self, wanted: Cid) -> Option<Cid> {
        match wanted.codec() {
            Codec::Raw => self.0.remove(&wanted),
            Codec::DagCbor | Codec::Json => {
                self.0.get(&wanted).copied().filter(|here| here.codec() == wanted.codec())
            }
        }
    }
}

/// What is below a node; a file of one chunk is that chunk.
fn children(store: &dyn BlockRead, cid: &Cid) -> Result<Option<Vec<NodeChild>>, StoreError> {
    if cid.codec() == Codec::Raw {
        return Ok(store.len_of(cid)?.map(|len| vec![NodeChild { cid: *cid, len }]));
    }
    let node = get_sound(store, cid)?.and_then(|bytes| FileNode::decode(&bytes).ok());
    Ok(node.map(|node| node.children().to_vec()))
}

/// Which of `old` each of `new` that is not among them is likely to be like:
/// between the children that both have, in their order, the others stand for
/// each other.
fn pairs(new: &[NodeChild], old: &[NodeChild]) -> Vec<(Cid, Cid)> {
    let mut places: HashMap<Cid, Vec<usize>> = HashMap::new();
    for (at, child) in old.iter().enumerate().rev() {
        places.entry(child.cid).or_default().push(at);
    }
    let (mut pairs, mut gap, mut from) = (Vec::new(), Vec::new(), 0);
    for child in new {
        // The next place of it that is not passed.
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
            // It was passed, or is before what was: it is here in any case.
            None if places.contains_key(&child.cid) => {}
            None => gap.push(*child),
        }
    }
    close(&mut pairs, &mut gap, old.get(from..).unwrap_or_default());
    pairs
}

/// Pairs what is between two children that both have: each new one with the old
/// one that its first byte would be in, were the stretches of one length.
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

    /// A child with this name and length.
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
        // Cut in two, and two made one.
        assert_eq!(paired("a x y c", "a b c"), of(&[("x", "b"), ("y", "b")]));
        assert_eq!(paired("a x d", "a b c d"), of(&[("x", "b")]));
        // At the ends.
        assert_eq!(paired("x b c", "a b c"), of(&[("x", "a")]));
        assert_eq!(paired("a b x y", "a b c"), of(&[("x", "c"), ("y", "c")]));
        // Nothing was there.
        assert_eq!(paired("a x b", "a b"), of(&[]));
        assert_eq!(paired("x", ""), of(&[]));
        // Many, far from each other.
        assert_eq!(
            paired("a x c d y f z", "a b c d e f g"),
            of(&[("x", "b"), ("y", "e"), ("z", "g")])
        );
        // The same twice, and out of order.
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
        let mut likes = Likes::default();
        likes.add(new.cid(), old.cid());
        likes.add(node, old.cid());
        likes.add(old.cid(), old.cid());
        assert_eq!(likes.0.len(), 2);
        likes.follow(&store, &node, b"node").unwrap();
        let store = Arc::new(store);
        assert!(likes.clone().take(store.clone(), &[new.cid().into()]).unwrap().is_empty());
        store.put(&[EncodedBlock::plain(old)]).unwrap();
        assert_eq!(likes.take(store.clone(), &[new.cid().into()]).unwrap().len(), 1);
        assert!(likes.is_empty());
    }

    proptest! {
        #[test]
        fn whatever_the_lists_each_new_child_has_at_most_one_like(
            new in prop::collection::vec((0_u8..20, 1_u64..100), 0..40),
            old in prop::collection::vec((0_u8..20, 1_u64..100), 0..40),
        ) {
            let of = |list: &[(u8, u64)]| -> Vec<NodeChild> {
                list.iter().map(|(name, len)| child(&name.to_string(), *len)).collect()
            };
            let (new, old) = (of(&new), of(&old));
            let pairs = pairs(&new, &old);
            prop_assert!(pairs.len() <= new.len());
            for (wanted, here) in pairs {
                prop_assert!(new.iter().any(|child| child.cid == wanted));
                prop_assert!(old.iter().any(|child| child.cid == here));
                prop_assert!(!old.iter().any(|child| child.cid == wanted));
            }
        }
    }
}

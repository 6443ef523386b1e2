//! Which peer may do what.
//!
//! Any peer may connect, identify itself and ask for addresses; all else
//! needs a purpose on this list. The list is replaced as a whole or changed
//! peer by peer while the node runs, and a peer that loses a purpose loses
//! the streams that rest on it.

use std::collections::HashMap;
use std::fmt;
use std::ops::BitOr;
use std::sync::Arc;

use libp2p::PeerId;
use tokio::sync::watch;

/// A set of things that a peer may do.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Purposes(u8);

impl Purposes {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// Fetch blocks from us.
    pub const BLOCKS: Self = Self(1);
    /// Tell us that it holds a snapshot.
    pub const RECEIPTS: Self = Self(2);
    /// Restore from the snapshots that we hold of it.
    pub const RESTORE: Self = Self(4);

    const NAMES: [(Self, &'static str); 3] =
        [(Self::BLOCKS, "blocks"), (Self::RECEIPTS, "receipts"), (Self::RESTORE, "restore")];

    /// Whether all of `wanted` is in it.
    pub const fn contains(self, wanted: Self) -> bool {
        self.0 & wanted.0 == wanted.0
    }

    /// Whether it is empty.
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }
}

impl BitOr for Purposes {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Debug for Purposes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = Self::NAMES.iter().filter(|(purpose, _)| self.contains(*purpose));
        f.debug_set().entries(names.map(|(_, name)| name)).finish()
    }
}

/// The list of peers and their purposes; clones share it.
#[derive(Clone, Debug)]
pub struct Access(Arc<watch::Sender<HashMap<PeerId, Purposes>>>);

impl Default for Access {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(HashMap::new())))
    }
}

impl Access {
    /// An empty list: nobody may do anything.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives a peer exactly these purposes.
    pub fn set(&self, peer: PeerId, purposes: Purposes) {
        self.0.send_if_modified(|list| {
            let before =
                if purposes.is_none() { list.remove(&peer) } else { list.insert(peer, purposes) };
            before.unwrap_or_default() != purposes
        });
    }

    /// Takes everything from a peer.
    pub fn remove(&self, peer: PeerId) {
        self.set(peer, Purposes::NONE);
    }

    /// Replaces the whole list, as after a change of the configuration.
    pub fn replace(&self, list: impl IntoIterator<Item = (PeerId, Purposes)>) {
        let list = list.into_iter().filter(|(_, purposes)| !purposes.is_none()).collect();
        self.0.send_if_modified(|old| {
            let changed = *old != list;
            *old = list;
            changed
        });
    }

    /// What a peer may do now.
    pub fn get(&self, peer: &PeerId) -> Purposes {
        self.0.borrow().get(peer).copied().unwrap_or_default()
    }

    /// Whether a peer may do all of `wanted` now.
    pub fn allows(&self, peer: &PeerId, wanted: Purposes) -> bool {
        self.get(peer).contains(wanted)
    }

    /// A copy of the list.
    pub fn list(&self) -> HashMap<PeerId, Purposes> {
        self.0.borrow().clone()
    }

    /// Waits until a peer may not do all of `wanted` any more; at once where
    /// it may not now.
    pub async fn revoked(&self, peer: &PeerId, wanted: Purposes) {
        let gone = |list: &HashMap<PeerId, Purposes>| {
            !list.get(peer).copied().unwrap_or_default().contains(wanted)
        };
        // `self` keeps the sender alive, so the wait cannot fail.
        let _ = self.0.subscribe().wait_for(gone).await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_purpose_is_had_only_where_it_was_given() {
        let (a, b) = (PeerId::random(), PeerId::random());
        let access = Access::new();
        access.set(a, Purposes::BLOCKS | Purposes::RECEIPTS);
        assert!(access.allows(&a, Purposes::BLOCKS));
        assert!(!access.allows(&a, Purposes::BLOCKS | Purposes::RESTORE));
        assert!(!access.allows(&b, Purposes::BLOCKS));
        assert_eq!(format!("{:?}", access.get(&a)), r#"{"blocks", "receipts"}"#);
        access.set(a, Purposes::RECEIPTS);
        assert!(!access.allows(&a, Purposes::BLOCKS));
        access.replace([(b, Purposes::BLOCKS), (a, Purposes::NONE)]);
        assert_eq!(access.list(), HashMap::from([(b, Purposes::BLOCKS)]));
        access.remove(b);
        assert!(access.list().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_loss_is_told_at_once_and_to_the_loser_alone() {
        let (a, b) = (PeerId::random(), PeerId::random());
        let access = Access::new();
        access.set(a, Purposes::BLOCKS);
        access.set(b, Purposes::BLOCKS);
        let watcher = access.clone();
        let lost = tokio::spawn(async move { watcher.revoked(&a, Purposes::BLOCKS).await });
        access.remove(b);
        access.set(a, Purposes::BLOCKS | Purposes::RESTORE);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!lost.is_finished());
        access.replace([]);
        lost.await.unwrap();
        access.revoked(&b, Purposes::BLOCKS).await;
    }
}

//! [`Access`]: the list of peers with their purposes.
//!
//! Any peer may connect, identify itself and query the DHT for addresses.
//! Everything else requires a purpose on this list. The list may change while the
//! node runs. A peer that loses a purpose loses the streams that require it.

use std::collections::HashMap;
use std::fmt;
use std::ops::BitOr;
use std::sync::Arc;

use libp2p::PeerId;
use tokio::sync::watch;

/// Set of actions that a peer may perform.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Purposes(u8);

impl Purposes {
    /// The empty set.
    pub const NONE: Self = Self(0);
    /// Fetch blocks from this node.
    pub const BLOCKS: Self = Self(1);
    /// Send receipts for snapshots of this node's folders.
    pub const RECEIPTS: Self = Self(2);
    /// Restore the snapshots of its own folders that this node stores.
    pub const RESTORE: Self = Self(4);

    const NAMES: [(Self, &'static str); 3] =
        [(Self::BLOCKS, "blocks"), (Self::RECEIPTS, "receipts"), (Self::RESTORE, "restore")];

    /// Reports whether the set contains all of `wanted`.
    pub const fn contains(self, wanted: Self) -> bool {
        self.0 & wanted.0 == wanted.0
    }

    /// Reports whether the set is empty.
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

/// List of peers with their purposes. Clones share the list.
#[derive(Clone, Debug)]
pub struct Access(Arc<watch::Sender<HashMap<PeerId, Purposes>>>);

impl Default for Access {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(HashMap::new())))
    }
}

impl Access {
    /// Creates an empty list.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the purposes of a peer.
    pub fn set(&self, peer: PeerId, purposes: Purposes) {
        self.0.send_if_modified(|list| {
            let before =
                if purposes.is_none() { list.remove(&peer) } else { list.insert(peer, purposes) };
            before.unwrap_or_default() != purposes
        });
    }

    /// Removes a peer from the list.
    pub fn remove(&self, peer: PeerId) {
        self.set(peer, Purposes::NONE);
    }

    /// Replaces the complete list, for example after a change of the configuration.
    pub fn replace(&self, list: impl IntoIterator<Item = (PeerId, Purposes)>) {
        let list = list.into_iter().filter(|(_, purposes)| !purposes.is_none()).collect();
        self.0.send_if_modified(|old| {
            let changed = *old != list;
            *old = list;
            changed
        });
    }

    /// Returns the current purposes of a peer.
    pub fn get(&self, peer: &PeerId) -> Purposes {
        self.0.borrow().get(peer).copied().unwrap_or_default()
    }

    /// Reports whether a peer currently has all purposes in `wanted`.
    pub fn allows(&self, peer: &PeerId, wanted: Purposes) -> bool {
        self.get(peer).contains(wanted)
    }

    /// Returns a copy of the list.
    pub fn list(&self) -> HashMap<PeerId, Purposes> {
        self.0.borrow().clone()
    }

    /// Waits until a peer does not have all purposes in `wanted`. Returns
    /// immediately if this is so already.
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

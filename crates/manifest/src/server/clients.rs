//! [`SeenClients`]: records which addresses requested the list of manifests and which
//! were refused. A user needs this to correct the whitelist.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use libp2p_identity::PeerId;
use parking_lot::Mutex;
use tokio::sync::watch;

/// Maximum number of recorded addresses. Refused addresses are removed first, and
/// among them the one that was silent longest.
const SEEN_CLIENTS_MAX: usize = 128;

/// Address that requested the list of manifests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenClient {
    /// Address of the client. An IPv4 address that came in over IPv6 is given as
    /// IPv4.
    pub address: IpAddr,
    /// Peer id that the client claims in [`crate::PEER_HEADER`]; unverified.
    pub peer: Option<PeerId>,
    /// True if the address was on the whitelist at the last request.
    pub is_allowed: bool,
    /// Number of requests that were answered.
    pub answered: u64,
    /// Number of requests that were refused.
    pub refused: u64,
    /// Time of the last request.
    pub last_at: Timestamp,
}

/// Addresses that requested the list of manifests since the instance started.
///
/// [`crate::ManifestServer`] records them, and the API shows them to the user. The
/// record is in memory and limited to 128 addresses; the refused address that was
/// silent longest is removed first. Clones share the record.
#[derive(Clone, Debug, Default)]
pub struct SeenClients(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    table: Mutex<HashMap<IpAddr, SeenClient>>,
    changed: watch::Sender<u64>,
}

impl SeenClients {
    /// Creates an empty record.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns all recorded clients, sorted by address.
    pub fn list(&self) -> Vec<SeenClient> {
        let mut all: Vec<_> = self.0.table.lock().values().cloned().collect();
        all.sort_by_key(|client| client.address);
        all
    }

    /// Subscribes to changes: a new address, an address that was allowed and is
    /// now refused or the reverse, or an address that claims another peer id. The
    /// value counts the changes.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }

    /// Records a request. Returns true if it is a change in the sense of
    /// [`SeenClients::watch`].
    pub(super) fn note(
        &self,
        address: IpAddr,
        peer: Option<PeerId>,
        is_allowed: bool,
        now: Timestamp,
    ) -> bool {
        let is_news = {
            let mut table = self.0.table.lock();
            if !table.contains_key(&address) && table.len() >= SEEN_CLIENTS_MAX {
                // Allowed clients stay, however many others send requests.
                let oldest =
                    table.values().min_by_key(|client| (client.is_allowed, client.last_at));
                if let Some(oldest) = oldest.map(|client| client.address) {
                    table.remove(&oldest);
                }
            }
            let mut is_news = false;
            let client = table.entry(address).or_insert_with(|| {
                is_news = true;
                SeenClient { address, peer, is_allowed, answered: 0, refused: 0, last_at: now }
            });
            is_news |= client.is_allowed != is_allowed;
            is_news |= peer.is_some() && client.peer != peer;
            client.is_allowed = is_allowed;
            client.peer = peer.or(client.peer);
            client.last_at = now;
            if is_allowed {
                client.answered += 1;
            } else {
                client.refused += 1;
            }
            is_news
        };
        if is_news {
            self.0.changed.send_modify(|version| *version += 1);
        }
        is_news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_bounded_and_keeps_those_who_may() {
        let clients = SeenClients::new();
        let at = |second| Timestamp::from_second(second).unwrap();
        let address = |n: u16| IpAddr::from([10, 0, (n >> 8) as u8, (n & 255) as u8]);
        let watch = clients.watch();
        assert!(clients.note(address(0), None, true, at(0)));
        for n in 1..1000 {
            clients.note(address(n), None, false, at(i64::from(n)));
        }
        let list = clients.list();
        assert_eq!(list.len(), SEEN_CLIENTS_MAX);
        assert!(list[0].is_allowed);
        assert_eq!(list.last().unwrap().address, address(999));
        assert!(watch.has_changed().unwrap());
    }

    #[test]
    fn only_news_are_told() {
        let clients = SeenClients::new();
        let address = IpAddr::from([192, 0, 2, 7]);
        let now = Timestamp::UNIX_EPOCH;
        let peer = PeerId::random();
        assert!(clients.note(address, None, false, now));
        assert!(!clients.note(address, None, false, now));
        assert!(clients.note(address, Some(peer), false, now));
        assert!(clients.note(address, None, true, now));
        assert!(!clients.note(address, Some(peer), true, now));
        let client = &clients.list()[0];
        assert_eq!((client.answered, client.refused, client.peer), (2, 3, Some(peer)));
    }
}

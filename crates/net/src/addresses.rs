//! Known addresses of peers and the order in which they are dialled.

use std::collections::{HashMap, VecDeque};

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};

use crate::error::{NetError, WrongPeer};
use crate::limits::{MAX_ADDRESSES_PER_PEER, MAX_KNOWN_PEERS};

/// Addresses that were configured, discovered or reported by peers. If the book is
/// full, the peer that was added first is removed.
#[derive(Debug, Default)]
pub(crate) struct AddressBook {
    peers: HashMap<PeerId, VecDeque<Multiaddr>>,
    order: VecDeque<PeerId>,
}

impl AddressBook {
    /// Adds an address in front of the other addresses of the peer.
    pub(crate) fn add(&mut self, peer: PeerId, address: Multiaddr) {
        if !self.peers.contains_key(&peer) {
            if self.order.len() >= MAX_KNOWN_PEERS
                && let Some(oldest) = self.order.pop_front()
            {
                self.peers.remove(&oldest);
            }
            self.order.push_back(peer);
        }
        let known = self.peers.entry(peer).or_default();
        known.retain(|old| *old != address);
        known.push_front(address);
        known.truncate(MAX_ADDRESSES_PER_PEER);
    }

    /// Returns the addresses of a peer, newest first.
    pub(crate) fn get(&self, peer: &PeerId) -> impl Iterator<Item = &Multiaddr> {
        self.peers.get(peer).into_iter().flatten()
    }
}

/// Returns the address without a final `/p2p/…`.
///
/// # Errors
///
/// Returns [`NetError::WrongPeer`] if the final part names another peer than
/// `expected`.
pub(crate) fn without_peer(
    mut address: Multiaddr,
    expected: PeerId,
) -> Result<Multiaddr, NetError> {
    match address.iter().last() {
        Some(Protocol::P2p(found)) if found == expected => {
            address.pop();
            Ok(address)
        }
        Some(Protocol::P2p(found)) => Err(WrongPeer::error(expected, found, address)),
        _ => Ok(address),
    }
}

/// Splits a multiaddr that ends with `/p2p/…` into the peer and the address in
/// front of it. Returns `None` for any other multiaddr.
pub fn split_peer(mut address: Multiaddr) -> Option<(PeerId, Multiaddr)> {
    match address.pop() {
        Some(Protocol::P2p(peer)) => Some((peer, address)),
        _ => None,
    }
}

/// Reports whether the address belongs to the public internet, judging from the
/// address alone.
pub(crate) fn is_public(address: &Multiaddr) -> bool {
    match address.iter().next() {
        Some(Protocol::Ip4(ip)) => {
            let [a, b, ..] = ip.octets();
            // 100.64.0.0/10 is used for address translation by providers.
            let is_shared = a == 100 && (64..128).contains(&b);
            let is_special = ip.is_unspecified() || ip.is_loopback() || ip.is_link_local();
            !(is_shared || is_special || ip.is_private() || ip.is_documentation() || a >= 224)
        }
        // Only 2000::/3 is allocated; 2001:db8::/32 is for documentation.
        Some(Protocol::Ip6(ip)) => {
            let [a, b, ..] = ip.segments();
            a & 0xe000 == 0x2000 && (a, b) != (0x2001, 0xdb8)
        }
        _ => false,
    }
}

/// Groups addresses into the rounds in which they are dialled: first all TCP
/// addresses at the same time, then, if all of them failed, the others. Within a
/// round the first connection that succeeds is used.
pub(crate) fn rounds(addresses: impl IntoIterator<Item = Multiaddr>) -> VecDeque<Vec<Multiaddr>> {
    let (mut tcp, mut other) = (Vec::new(), Vec::new());
    for address in addresses {
        let is_tcp = address.iter().any(|part| matches!(part, Protocol::Tcp(_)));
        let round = if is_tcp { &mut tcp } else { &mut other };
        if !round.contains(&address) && round.len() < MAX_ADDRESSES_PER_PEER {
            round.push(address);
        }
    }
    [tcp, other].into_iter().filter(|round| !round.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    #[test]
    fn tcp_is_tried_before_quic() {
        let (tcp, tcp6) = (address("/ip4/192.0.2.1/tcp/8070"), address("/dns6/b.example/tcp/1"));
        let quic = address("/ip4/192.0.2.1/udp/8090/quic-v1");
        let all = [quic.clone(), tcp.clone(), quic.clone(), tcp6.clone(), tcp.clone()];
        assert_eq!(rounds(all), [vec![tcp, tcp6], vec![quic.clone()]]);
        assert_eq!(rounds([quic.clone()]), [vec![quic]]);
        assert!(rounds([]).is_empty());
    }

    #[test]
    fn a_peer_at_the_end_has_to_be_the_right_one() {
        let (peer, other) = (PeerId::random(), PeerId::random());
        let plain = address("/dns4/localhost/tcp/1");
        let full = plain.clone().with(Protocol::P2p(peer));
        assert_eq!(without_peer(plain.clone(), peer).unwrap(), plain);
        assert_eq!(without_peer(full.clone(), peer).unwrap(), plain);
        assert!(matches!(
            without_peer(full.clone(), other),
            Err(NetError::WrongPeer(wrong)) if wrong.expected == other && wrong.found == peer
        ));
        assert_eq!(split_peer(full), Some((peer, plain.clone())));
        assert_eq!(split_peer(plain), None);
    }

    #[test]
    fn only_what_the_public_network_can_reach_is_public() {
        for public in ["/ip4/1.1.1.1/tcp/1", "/ip4/100.63.0.1/tcp/1", "/ip6/2a00::1/tcp/1"] {
            assert!(is_public(&address(public)), "{public}");
        }
        for own in [
            "/ip4/0.0.0.0/tcp/1",
            "/ip4/127.0.0.1/tcp/1",
            "/ip4/10.1.2.3/tcp/1",
            "/ip4/172.16.0.1/tcp/1",
            "/ip4/192.168.1.1/tcp/1",
            "/ip4/192.0.2.1/tcp/1",
            "/ip4/169.254.1.1/tcp/1",
            "/ip4/100.64.0.1/tcp/1",
            "/ip4/224.0.0.251/udp/1/quic-v1",
            "/ip6/::1/tcp/1",
            "/ip6/fe80::1/tcp/1",
            "/ip6/fd00::1/tcp/1",
            "/ip6/2001:db8::1/tcp/1",
            "/dns4/localhost/tcp/1",
        ] {
            assert!(!is_public(&address(own)), "{own}");
        }
    }

    #[test]
    fn the_book_is_bounded() {
        let mut book = AddressBook::default();
        let first = PeerId::random();
        for port in 1..100 {
            book.add(first, address(&format!("/ip4/192.0.2.1/tcp/{port}")));
        }
        assert_eq!(book.get(&first).count(), MAX_ADDRESSES_PER_PEER);
        assert_eq!(book.get(&first).next(), Some(&address("/ip4/192.0.2.1/tcp/99")));
        for _ in 0..MAX_KNOWN_PEERS {
            book.add(PeerId::random(), address("/ip4/192.0.2.1/tcp/1"));
        }
        assert_eq!(book.peers.len(), MAX_KNOWN_PEERS);
        assert_eq!(book.order.len(), MAX_KNOWN_PEERS);
        assert_eq!(book.get(&first).count(), 0);
    }
}

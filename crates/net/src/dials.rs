//! [`Dials`]: the connections that are being opened. There is one dial for each
//! peer, with any number of callers that wait for it.

use std::collections::{HashMap, VecDeque};
use std::fmt;

use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, DialError};
use libp2p::{Multiaddr, PeerId};
use tokio::sync::oneshot;

use crate::addresses::{rounds, split_peer};
use crate::error::{NetError, WrongPeer};
use crate::limits::MAX_WAITING_DIALS;
use crate::streams::OpenRequest;

/// Request that waits for a connection.
pub(crate) enum Waiter {
    /// A call of `Handle::connect`.
    Connect(oneshot::Sender<Result<(), NetError>>),
    /// A request for a stream.
    Open(OpenRequest),
}

impl Waiter {
    fn fail(self, error: NetError) {
        // The caller may have stopped waiting.
        match self {
            Self::Connect(reply) => drop(reply.send(Err(error))),
            Self::Open(open) => drop(open.reply.send(Err(error))),
        }
    }
}

/// A failed attempt.
struct Failure {
    address: Option<Multiaddr>,
    error: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            Some(address) => write!(f, "{address}: {}", self.error),
            None => f.write_str(&self.error),
        }
    }
}

struct Dial {
    /// The first address of the first caller: for a backup server, the configured one.
    preferred: Multiaddr,
    rounds: VecDeque<Vec<Multiaddr>>,
    failures: Vec<Failure>,
    wrong: Option<(PeerId, Multiaddr)>,
    waiters: Vec<Waiter>,
}

/// All dials in progress.
#[derive(Default)]
pub(crate) struct Dials {
    peers: HashMap<PeerId, Dial>,
    attempts: HashMap<ConnectionId, PeerId>,
    waiting: usize,
}

impl Dials {
    /// Adds a waiter. Returns the addresses to dial if this starts a new dial.
    pub(crate) fn start(
        &mut self,
        peer: PeerId,
        addresses: impl IntoIterator<Item = Multiaddr>,
        waiter: Waiter,
    ) -> Option<DialOpts> {
        if self.waiting >= MAX_WAITING_DIALS {
            waiter.fail(NetError::TooMany("requests for a connection"));
            return None;
        }
        if let Some(dial) = self.peers.get_mut(&peer) {
            self.waiting += 1;
            dial.waiters.push(waiter);
            // Addresses that only this waiter knows are tried in further rounds.
            let tried: Vec<Multiaddr> = dial.rounds.iter().flatten().cloned().collect();
            let new = addresses.into_iter().filter(|address| !tried.contains(address));
            dial.rounds.extend(rounds(new));
            dial.rounds.truncate(8);
            return None;
        }
        let mut addresses = addresses.into_iter().peekable();
        let Some(preferred) = addresses.peek().cloned().map(without_peer) else {
            waiter.fail(NetError::NoAddress(peer));
            return None;
        };
        self.waiting += 1;
        let dial = Dial {
            preferred,
            rounds: rounds(addresses),
            failures: Vec::new(),
            wrong: None,
            waiters: vec![waiter],
        };
        self.peers.insert(peer, dial);
        self.next_round(peer)
    }

    /// Returns the next addresses to dial. If there are none, fails the waiters.
    fn next_round(&mut self, peer: PeerId) -> Option<DialOpts> {
        let dial = self.peers.get_mut(&peer)?;
        if let Some(addresses) = dial.rounds.pop_front() {
            let options = DialOpts::peer_id(peer)
                .condition(PeerCondition::Always)
                .addresses(addresses)
                .build();
            self.attempts.insert(options.connection_id(), peer);
            return Some(options);
        }
        let dial = self.peers.remove(&peer)?;
        self.waiting -= dial.waiters.len();
        for failure in &dial.failures {
            tracing::debug!(%peer, %failure, "cannot connect");
        }
        for waiter in dial.waiters {
            waiter.fail(match &dial.wrong {
                Some((found, address)) => WrongPeer::error(peer, *found, address.clone()),
                None => {
                    NetError::Unreachable { peer, reason: summary(&dial.failures, &dial.preferred) }
                }
            });
        }
        None
    }

    /// Records a failed attempt. Returns the next addresses to dial, if any.
    pub(crate) fn failed(&mut self, attempt: ConnectionId, error: &DialError) -> Option<DialOpts> {
        let peer = self.attempts.remove(&attempt)?;
        if let Some(dial) = self.peers.get_mut(&peer) {
            match error {
                DialError::WrongPeerId { obtained, address } => {
                    dial.wrong = Some((*obtained, address.clone()));
                }
                DialError::Transport(errors) => {
                    dial.failures.extend(errors.iter().map(|(address, error)| Failure {
                        address: Some(without_peer(address.clone())),
                        error: root(error),
                    }));
                }
                other => dial.failures.push(Failure { address: None, error: root(other) }),
            }
        }
        self.next_round(peer)
    }

    /// Ends the dial of a peer that is now connected. Returns its waiters.
    pub(crate) fn connected(&mut self, attempt: ConnectionId, peer: PeerId) -> Vec<Waiter> {
        self.attempts.remove(&attempt);
        let waiters = self.peers.remove(&peer).map(|dial| dial.waiters).unwrap_or_default();
        self.waiting -= waiters.len();
        waiters
    }
}

/// Returns the message of the innermost cause, the only one that helps a user.
fn root(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string().trim_end_matches('.').to_owned()
}

/// Returns the failure at the preferred address (else the first failure) and the number of the
/// others. A peer may have many addresses, most of them in networks that this computer is not in.
fn summary(failures: &[Failure], preferred: &Multiaddr) -> String {
    let is_preferred = |failure: &&Failure| failure.address.as_ref() == Some(preferred);
    let Some(shown) = failures.iter().find(is_preferred).or(failures.first()) else {
        return "no attempt was made".to_owned();
    };
    match failures.len() - 1 {
        0 => shown.to_string(),
        1 => format!("{shown}; 1 other address failed too"),
        others => format!("{shown}; {others} other addresses failed too"),
    }
}

/// Returns the address without the peer id at its end.
fn without_peer(address: Multiaddr) -> Multiaddr {
    split_peer(address.clone()).map_or(address, |(_, plain)| plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_of_the_callers_address_stands_for_all() {
        let peer = PeerId::random();
        let address =
            |host: u8| -> Multiaddr { format!("/ip4/192.0.2.{host}/tcp/8070").parse().unwrap() };
        let mut dials = Dials::default();
        let (reply, mut failed) = oneshot::channel();
        let callers = address(7).with_p2p(peer).unwrap();
        let known = (1..4).map(address);
        let options =
            dials.start(peer, [callers].into_iter().chain(known), Waiter::Connect(reply)).unwrap();
        let refused = |at: Multiaddr| {
            let error = std::io::Error::other(format!("{at} refused."));
            (at, libp2p::TransportError::Other(error))
        };
        let all = [1, 2, 3, 7].map(|host| refused(address(host).with_p2p(peer).unwrap()));
        let error = DialError::Transport(all.into());
        assert!(dials.failed(options.connection_id(), &error).is_none());
        let text = failed.try_recv().unwrap().unwrap_err().to_string();
        assert_eq!(
            text,
            format!(
                "cannot connect to peer {peer}: /ip4/192.0.2.7/tcp/8070: \
                 /ip4/192.0.2.7/tcp/8070/p2p/{peer} refused; 3 other addresses failed too"
            )
        );
    }
}

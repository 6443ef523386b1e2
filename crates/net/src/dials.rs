//! [`Dials`]: the connections that are being opened. There is one dial for each
//! peer, with any number of callers that wait for it.

use std::collections::{HashMap, VecDeque};

use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, DialError};
use libp2p::{Multiaddr, PeerId};
use tokio::sync::oneshot;

use crate::addresses::rounds;
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

struct Dial {
    rounds: VecDeque<Vec<Multiaddr>>,
    errors: Vec<String>,
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
        let rounds = rounds(addresses);
        if rounds.is_empty() {
            waiter.fail(NetError::NoAddress(peer));
            return None;
        }
        self.waiting += 1;
        let dial = Dial { rounds, errors: Vec::new(), wrong: None, waiters: vec![waiter] };
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
        for waiter in dial.waiters {
            waiter.fail(match &dial.wrong {
                Some((found, address)) => WrongPeer::error(peer, *found, address.clone()),
                None => NetError::Unreachable { peer, reason: dial.errors.join("; ") },
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
                    let texts = errors.iter().map(|(at, error)| format!("{at}: {}", root(error)));
                    dial.errors.extend(texts);
                }
                other => dial.errors.push(root(other)),
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
    innermost.to_string()
}

//! Every bound on what peers can make this node hold or do, in one place.

use std::time::Duration;

/// TCP connect, security and Yamux together; a slow handshake ends here.
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Streams of one connection, both directions together. A few long-lived ones
/// are what our protocols use; the rest is for bursts of short ones. Yamux
/// closes the connection of a peer that opens more.
pub(crate) const MAX_STREAMS_PER_CONNECTION: usize = 128;

/// What one Yamux connection may have in flight towards us: 256 KiB for each
/// stream, which the protocol promises, and 32 MiB that it may add to busy
/// ones. That is the bandwidth-delay product of 2.5 Gbit/s at 100 ms.
pub(crate) const RECEIVE_WINDOW: usize = MAX_STREAMS_PER_CONNECTION * (256 << 10) + (32 << 20);

/// The length of the body of a Yamux frame that we send: with its header of 12
/// bytes it fills four TLS records.
pub(crate) const SEND_FRAME: usize = (64 << 10) - 12;

/// Streams that we negotiate at once on a connection; the others wait here, so
/// that the other side does not have to reset any.
pub(crate) const MAX_NEGOTIATING_STREAMS: usize = 32;

/// Streams that a peer may negotiate at once on a connection: twice what our
/// own kind does, for identify, ping and Kademlia. Those above are reset.
pub(crate) const MAX_NEGOTIATING_INBOUND: usize = 64;

/// Streams that we keep open at once on a connection; with as many of the
/// peer's and those of Kademlia, identify and ping there is room left below
/// [`MAX_STREAMS_PER_CONNECTION`].
pub(crate) const MAX_OUTBOUND_STREAMS: usize = 40;

/// Requests for a stream that wait for one connection.
pub(crate) const MAX_WAITING_OPENS: usize = 512;

/// From the request for a stream to its negotiation, on a live connection.
pub(crate) const OPEN_TIMEOUT: Duration = Duration::from_secs(15);

/// How long a peer may take to agree on the protocol of a stream.
pub(crate) const NEGOTIATION_TIMEOUT: Duration = Duration::from_secs(10);

/// Inbound streams of one protocol that wait to be taken by its owner. The
/// next one is reset.
pub(crate) const INBOUND_QUEUE: usize = 64;

/// A connection without any stream for this long is closed. A backup server
/// asks its source every 30 s by default, so their connection stays.
pub(crate) const IDLE_CONNECTION_TIMEOUT: Duration = Duration::from_secs(300);

/// Connections in their handshake. A socket that says nothing holds its place
/// for [`HANDSHAKE_TIMEOUT`], so there is room for many; with all the others
/// below they stay under the usual limit of 1024 open files.
pub(crate) const MAX_PENDING_INCOMING: u32 = 512;
/// Dials at once.
pub(crate) const MAX_PENDING_OUTGOING: u32 = 64;
/// Connections that others opened.
pub(crate) const MAX_ESTABLISHED_INCOMING: u32 = 160;
/// Of these, those of peers that may do nothing here but ask for addresses;
/// the rest is kept for the peers on the list.
pub(crate) const MAX_STRANGERS: usize = 128;
/// Connections that we opened.
pub(crate) const MAX_ESTABLISHED_OUTGOING: u32 = 96;
/// Connections with one peer: one over each transport in each direction, and
/// as many again while old ones time out.
pub(crate) const MAX_ESTABLISHED_PER_PEER: u32 = 8;

/// Commands that wait for the event loop.
pub(crate) const COMMAND_QUEUE: usize = 256;
/// Events that a slow listener may be behind before it misses some.
pub(crate) const EVENT_QUEUE: usize = 256;
/// Callers that wait for a connection to come about.
pub(crate) const MAX_WAITING_DIALS: usize = 512;
/// Kademlia queries of our own at once.
pub(crate) const MAX_QUERIES: usize = 64;

/// Peers whose addresses we remember, and addresses for each.
pub(crate) const MAX_KNOWN_PEERS: usize = 1024;
/// See [`MAX_KNOWN_PEERS`].
pub(crate) const MAX_ADDRESSES_PER_PEER: usize = 16;

/// Threads for disks, hashes and sinks. Each stream has at most two pieces of
/// work there at a time.
pub(crate) const MAX_BLOCKING_THREADS: usize = 32;

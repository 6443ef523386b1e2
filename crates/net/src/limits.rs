//! Limits on the memory and work that peers can cause in this node.

use std::time::Duration;

/// Time limit for TCP connect, security handshake and Yamux negotiation together.
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum number of streams on one connection, both directions together. Our
/// protocols use a few long-lived ones; the rest is for bursts of short ones. Yamux
/// closes the connection of a peer that opens more.
pub(crate) const MAX_STREAMS_PER_CONNECTION: usize = 128;

/// Maximum number of bytes in flight towards us on one Yamux connection: 256 KiB for
/// each stream, which the protocol requires, and 32 MiB that Yamux may add to the
/// windows of busy streams. 32 MiB is the bandwidth-delay product of 2.5 Gbit/s at
/// 100 ms.
pub(crate) const RECEIVE_WINDOW: usize = MAX_STREAMS_PER_CONNECTION * (256 << 10) + (32 << 20);

/// Length of the body of a Yamux frame that we send, in bytes. With its header of 12
/// bytes it fills four TLS records.
pub(crate) const SEND_FRAME: usize = (64 << 10) - 12;

/// Maximum number of outbound streams that are negotiated at the same time on a
/// connection. Further requests wait, so that the peer does not have to reset any.
pub(crate) const MAX_NEGOTIATING_STREAMS: usize = 32;

/// Maximum number of inbound streams that are negotiated at the same time on a
/// connection: twice the number above, to have room for identify, ping and
/// Kademlia. Further streams are reset.
pub(crate) const MAX_NEGOTIATING_INBOUND: usize = 64;

/// Maximum number of outbound streams that are open at the same time on a
/// connection. Together with as many inbound streams and those of Kademlia, identify
/// and ping they stay below [`MAX_STREAMS_PER_CONNECTION`].
pub(crate) const MAX_OUTBOUND_STREAMS: usize = 40;

/// Maximum number of requests for a stream that wait on one connection.
pub(crate) const MAX_WAITING_OPENS: usize = 512;

/// Time limit from the request for a stream to the end of its negotiation.
pub(crate) const OPEN_TIMEOUT: Duration = Duration::from_secs(15);

/// Time limit for a peer to agree on the protocol of a stream.
pub(crate) const NEGOTIATION_TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum number of inbound streams of one protocol that wait for their owner.
/// Further ones are reset.
pub(crate) const INBOUND_QUEUE: usize = 64;

/// Time after which a connection without streams is closed. A backup server polls
/// its source every 30 s by default, so their connection stays open.
pub(crate) const IDLE_CONNECTION_TIMEOUT: Duration = Duration::from_secs(300);

/// Maximum number of inbound connections in the handshake. A silent socket counts
/// for [`HANDSHAKE_TIMEOUT`], so many are allowed. Together with the limits below
/// they stay under the usual limit of 1024 open files.
pub(crate) const MAX_PENDING_INCOMING: u32 = 512;
/// Maximum number of outbound connections in the handshake.
pub(crate) const MAX_PENDING_OUTGOING: u32 = 64;
/// Maximum number of inbound connections.
pub(crate) const MAX_ESTABLISHED_INCOMING: u32 = 160;
/// Maximum number of inbound connections of strangers, that is, of peers without
/// any purpose. The rest is reserved for peers on the access list.
pub(crate) const MAX_STRANGERS: usize = 128;
/// Maximum number of connections of strangers that gave way to newer ones and are still closing.
pub(crate) const MAX_EVICTED_STRANGERS: usize = 16;
/// Maximum number of outbound connections.
pub(crate) const MAX_ESTABLISHED_OUTGOING: u32 = 96;
/// Maximum number of connections with one peer: one over each transport in each
/// direction, and as many again while old ones time out.
pub(crate) const MAX_ESTABLISHED_PER_PEER: u32 = 8;

/// Maximum number of commands that wait for the event loop.
pub(crate) const COMMAND_QUEUE: usize = 256;
/// Maximum number of events that are kept for a slow receiver.
pub(crate) const EVENT_QUEUE: usize = 256;
/// Maximum number of callers that wait for connections.
pub(crate) const MAX_WAITING_DIALS: usize = 512;
/// Maximum number of searches in the DHT at the same time.
pub(crate) const MAX_QUERIES: usize = 64;

/// Maximum number of peers whose addresses are remembered.
pub(crate) const MAX_KNOWN_PEERS: usize = 1024;
/// Maximum number of addresses that are remembered for a peer.
pub(crate) const MAX_ADDRESSES_PER_PEER: usize = 16;

/// Maximum number of threads for disks, hashing and sinks. Each stream uses at most
/// two of them at a time.
pub(crate) const MAX_BLOCKING_THREADS: usize = 32;

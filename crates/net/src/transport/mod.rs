//! How bytes travel between two nodes: TCP with TLS or Noise and Yamux, and
//! QUIC.
//!
//! Everything here keeps to libp2p's specifications, so any libp2p node can
//! talk to ours. What differs from the stock transports is invisible on the
//! wire: the order of the ciphers, the length of Yamux frames and how bytes
//! are buffered (docs/decisions/0002).

mod buffered;
mod muxer;
mod security;
mod tls;
mod verifier;

use libp2p::core::Transport as _;
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::Boxed;
use libp2p::core::upgrade::Version;
use libp2p::dns::{ResolverConfig, ResolverOpts};
use libp2p::identity::Keypair;
use libp2p::{PeerId, dns, quic, tcp};

use crate::error::NetError;
use crate::limits::{HANDSHAKE_TIMEOUT, MAX_STREAMS_PER_CONNECTION};

/// The node's transport: TCP and QUIC, with names resolved for both.
pub(crate) fn build(keypair: &Keypair) -> Result<Boxed<(PeerId, StreamMuxerBox)>, NetError> {
    let security = security::Config::new(keypair)?;
    let tcp = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true))
        .map(|stream, _| buffered::ReadAhead::new(stream))
        .upgrade(Version::V1Lazy)
        .authenticate(security)
        .multiplex(muxer::Config::default())
        .timeout(HANDSHAKE_TIMEOUT)
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
    let mut config = quic::Config::new(keypair);
    config.handshake_timeout = HANDSHAKE_TIMEOUT;
    #[expect(clippy::cast_possible_truncation, reason = "the limit is far below 2^32")]
    {
        config.max_concurrent_stream_limit = MAX_STREAMS_PER_CONNECTION as u32;
    }
    let quic = quic::tokio::Transport::new(config)
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
    let both = tcp.or_transport(quic).map(|either, _| either.into_inner()).boxed();
    // Without a resolver of the system's, names in the hosts file still work.
    Ok(dns::tokio::Transport::system(both).map(|dns| dns.boxed()).map_err(|error| {
        NetError::Setup { what: "name resolver", source: error.into() }
    })?)
}

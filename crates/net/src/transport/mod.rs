//! How bytes travel between two nodes: TCP with TLS or Noise and Yamux, and
//! QUIC.
//!
//! Everything here keeps to libp2p's specifications, so any libp2p node can
//! talk to ours. What differs from the stock transports is invisible on the
//! wire: the order of the ciphers, the length of Yamux frames and how bytes
//! are buffered (docs/decisions/0002).

mod coalesce;
mod muxer;
mod security;
mod tls;
mod tls_stream;
mod verifier;

use libp2p::core::Transport as _;
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::Boxed;
use libp2p::core::upgrade::Version;
use libp2p::identity::Keypair;
use libp2p::{PeerId, dns, quic, tcp};

use crate::error::NetError;
use crate::limits::{HANDSHAKE_TIMEOUT, MAX_STREAMS_PER_CONNECTION};

/// The node's transport: TCP and QUIC, with names resolved for both.
pub(crate) fn build(keypair: &Keypair) -> Result<Boxed<(PeerId, StreamMuxerBox)>, NetError> {
    let security = security::Config::new(keypair)?;
    match dns::tokio::Transport::system(tcp_and_quic(keypair, security.clone())) {
        Ok(with_names) => Ok(with_names.boxed()),
        Err(error) => {
            tracing::warn!(%error, "no name resolver: addresses with names cannot be used");
            Ok(tcp_and_quic(keypair, security))
        }
    }
}

fn tcp_and_quic(keypair: &Keypair, security: security::Config) -> Boxed<(PeerId, StreamMuxerBox)> {
    let tcp = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true))
        .upgrade(Version::V1Lazy)
        .authenticate(security)
        .multiplex(muxer::Config::default())
        .timeout(HANDSHAKE_TIMEOUT)
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
    let mut config = quic::Config::new(keypair);
    config.handshake_timeout = HANDSHAKE_TIMEOUT;
    config.max_concurrent_stream_limit =
        u32::try_from(MAX_STREAMS_PER_CONNECTION).expect("a small number");
    let quic = quic::tokio::Transport::new(config)
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
    tcp.or_transport(quic).map(|either, _| either.into_inner()).boxed()
}

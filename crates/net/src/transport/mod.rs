//! Transports of the node: TCP with TLS or Noise and Yamux, and QUIC.
//!
//! Everything here follows the libp2p specifications, so that any libp2p node can
//! connect. TCP connections use our own code instead of two upstream crates, because
//! those are slow. On the wire, our code differs in the order of the offered ciphers, the
//! offered key exchanges, the absence of session tickets and the length of Yamux frames.
//!
//! # Replaced upstream code
//!
//! * `tls.rs`, `tls_stream.rs` and `verifier.rs` replace the upgrade of `libp2p-tls`
//!   0.7.0 on rustls 0.23. Its cipher order is fixed, with ChaCha20 first, and its stream
//!   (`futures-rustls`) reads the socket 4 KiB at a time and copies decrypted bytes
//!   twice. Delete these files when `libp2p-tls` accepts a rustls configuration and its
//!   stream reads large buffers without these copies.
//! * `muxer.rs` replaces `libp2p-yamux` 0.48.0, which sends data frames of 16 KiB and does
//!   not let its user change that. Delete it when `libp2p-yamux` lets its user set the
//!   frame length and the receive window.
//! * `coalesce.rs` works below yamux 0.14.1, which writes the header and the body of a
//!   frame separately. Delete it when yamux passes both to one vectored write.
//!
//! Still used from upstream: certificates and their verification (`libp2p-tls`),
//! the Yamux protocol itself (`yamux`), Noise, QUIC, TCP and DNS.
//!
//! # Gain
//!
//! Measured between two processes on two cores (`docs/decisions/0002`): 1.66 GB/s of
//! raw bytes against 0.54 to 0.57 GB/s for stock libp2p 0.57, at 1.07 CPU seconds per GB
//! of both ends against 2.8 to 3.1. Of this, AES first, long frames and a single
//! thread save 0.6 CPU seconds per GB; keeping freed memory (`node.rs`) 0.8; coalescing,
//! together with not reading ahead of rustls, 0.2; and rustls without buffers 0.3.
//!
//! # Upkeep
//!
//! This code handles keys and certificates, so it must follow upstream changes. The
//! test `upstream_versions_are_reviewed` fails when one of the versions in
//! `Cargo.lock` changes. Then read the changes of that crate, adopt those that concern the
//! files above (for example new rules for certificates, cipher suites or windows), and
//! update the versions here and in the test. `tests/standard_peers.rs` and
//! `tests/interop_js.rs` check the transports against stock libp2p and js-libp2p.

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

/// Builds the transport of the node: TCP and QUIC, with DNS names for both.
pub(crate) fn build(keypair: &Keypair) -> Result<Boxed<(PeerId, StreamMuxerBox)>, NetError> {
    let security = security::Config::new(keypair)?;
    match dns::tokio::Transport::system(tcp_and_quic(keypair, security.clone())) {
        Ok(with_names) => Ok(with_names.boxed()),
        Err(error) => {
            tracing::warn!(%error, "no DNS resolver: addresses with DNS names cannot be used");
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

#[cfg(test)]
mod tests {
    /// Upstream crates that the code in this directory replaces or builds on, with the
    /// versions that it was last compared with. A final dot means any patch version.
    const REVIEWED: [(&str, &str); 5] = [
        ("libp2p", "0.57.1"),
        ("libp2p-tls", "0.7.0"),
        ("libp2p-yamux", "0.48.0"),
        ("rustls", "0.23."),
        ("yamux", "0.14.1"),
    ];

    /// Returns the versions of a package in the lock file.
    fn locked_versions(lock: &str, name: &str) -> Vec<String> {
        let head = format!("[[package]]\nname = \"{name}\"\nversion = \"");
        lock.match_indices(&head)
            .filter_map(|(at, _)| lock[at + head.len()..].split('"').next())
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn upstream_versions_are_reviewed() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.lock");
        let lock = std::fs::read_to_string(path).unwrap();
        for (name, reviewed) in REVIEWED {
            let locked = locked_versions(&lock, name);
            let is_reviewed = |version: &String| {
                version == reviewed || (reviewed.ends_with('.') && version.starts_with(reviewed))
            };
            assert!(
                locked.len() == 1 && locked.iter().all(is_reviewed),
                "{name} {locked:?} is not the reviewed version {reviewed}: compare its changes \
                 with crates/net/src/transport, then update the versions in mod.rs there"
            );
        }
    }
}

//! [`Behaviour`]: the libp2p protocols that run on every connection, with their
//! settings.

use std::num::NonZeroUsize;
use std::time::Duration;

use libp2p::connection_limits::{self, ConnectionLimits};
use libp2p::identity::Keypair;
use libp2p::kad::store::{MemoryStore, MemoryStoreConfig};
use libp2p::swarm::NetworkBehaviour;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::{StreamProtocol, identify, kad, mdns, ping};

use crate::config::NetConfig;
use crate::error::NetError;
use crate::limits::{
    MAX_ESTABLISHED_INCOMING, MAX_ESTABLISHED_OUTGOING, MAX_ESTABLISHED_PER_PEER, MAX_KNOWN_PEERS,
    MAX_PENDING_INCOMING, MAX_PENDING_OUTGOING,
};
use crate::streams;

/// Protocol version that the node reports in identify.
pub const PROTOCOL_VERSION: &str = "/archivist/1.0.0";

/// Program name and version that the node reports in identify.
pub const AGENT_VERSION: &str = concat!("archivist/", env!("CARGO_PKG_VERSION"));

/// Kademlia protocol of a DHT of our own, apart from the public IPFS DHT.
pub(crate) const KADEMLIA: StreamProtocol = StreamProtocol::new("/archivist/kad/1.0.0");

/// All behaviours of the node. `limits` comes first, so that the others never see
/// a connection that it denies.
#[derive(NetworkBehaviour)]
pub(crate) struct Behaviour {
    limits: connection_limits::Behaviour,
    pub(crate) streams: streams::Behaviour,
    pub(crate) kademlia: kad::Behaviour<MemoryStore>,
    pub(crate) mdns: Toggle<mdns::tokio::Behaviour>,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
}

impl Behaviour {
    pub(crate) fn new(
        config: &NetConfig,
        keypair: &Keypair,
        streams: streams::Behaviour,
    ) -> Result<Self, NetError> {
        let peer = keypair.public().to_peer_id();
        let limits = ConnectionLimits::default()
            .with_max_pending_incoming(Some(MAX_PENDING_INCOMING))
            .with_max_pending_outgoing(Some(MAX_PENDING_OUTGOING))
            .with_max_established_incoming(Some(MAX_ESTABLISHED_INCOMING))
            .with_max_established_outgoing(Some(MAX_ESTABLISHED_OUTGOING))
            .with_max_established_per_peer(Some(MAX_ESTABLISHED_PER_PEER));
        let identify = identify::Config::new(PROTOCOL_VERSION.into(), keypair.public())
            .with_agent_version(AGENT_VERSION.into())
            .with_cache_size(MAX_KNOWN_PEERS)
            .with_push_listen_addr_updates(true);
        let mdns = if config.mdns {
            let mdns = mdns::tokio::Behaviour::new(mdns::Config::default(), peer)
                .map_err(|error| NetError::Setup { what: "mDNS socket", source: error.into() })?;
            Some(mdns)
        } else {
            None
        };
        let mut kademlia = kad::Behaviour::with_config(peer, store(peer), kademlia_config());
        if let Some(server) = config.kademlia_server {
            kademlia.set_mode(Some(if server { kad::Mode::Server } else { kad::Mode::Client }));
        }
        Ok(Self {
            limits: connection_limits::Behaviour::new(limits),
            streams,
            kademlia,
            mdns: mdns.into(),
            identify: identify::Behaviour::new(identify),
            ping: ping::Behaviour::new(
                ping::Config::new()
                    .with_interval(Duration::from_secs(15))
                    .with_timeout(Duration::from_secs(20)),
            ),
        })
    }
}

/// Returns settings with which the DHT only finds peers and stores no records.
fn kademlia_config() -> kad::Config {
    let mut config = kad::Config::new(KADEMLIA);
    config
        .set_record_filtering(kad::StoreInserts::FilterBoth)
        .set_query_timeout(Duration::from_secs(30))
        .set_replication_interval(None)
        .set_publication_interval(None)
        .set_provider_publication_interval(None);
    config
}

fn store(peer: libp2p::PeerId) -> MemoryStore {
    let config = MemoryStoreConfig {
        max_records: 0,
        max_provided_keys: 0,
        max_providers_per_key: NonZeroUsize::MIN.get(),
        ..MemoryStoreConfig::default()
    };
    MemoryStore::with_config(peer, config)
}

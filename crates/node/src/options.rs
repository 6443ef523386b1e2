//! From the configuration to what an instance is started with.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;

use config::Config;
use net::NetConfig;
use store::StoreOptions;

use crate::app::AppOptions;
use crate::log_level::LogLevel;

impl AppOptions {
    /// What `config` says, for an instance with its data in `data_dir`.
    pub fn from_config(config: &Config, data_dir: &Path, log_level: LogLevel) -> Self {
        let node = &config.node;
        let listen = |port: u16| -> Vec<SocketAddr> {
            let usable = node.bind.iter().filter(|address| is_usable(**address));
            usable.map(|address| SocketAddr::new(*address, port)).collect()
        };
        let limit = |bytes: u64| (bytes != 0).then_some(bytes);
        Self {
            data_dir: data_dir.to_owned(),
            api: SocketAddr::new(Ipv4Addr::LOCALHOST.into(), node.api_port),
            require_token: node.api_require_token,
            net: NetConfig {
                tcp: listen(node.listen_port),
                quic: listen(node.discovery_port),
                announce: node.announce_addresses.clone(),
                bootstrap: node.bootstrap.clone(),
                mdns: node.mdns,
                upload_limit: config.sync.upload_limit.bytes_per_sec(),
                download_limit: config.backup_server.download_limit.bytes_per_sec(),
                ..NetConfig::default()
            },
            store: StoreOptions {
                max_storage: limit(node.max_storage.bytes()),
                disk_reserve: node.disk_reserve.bytes(),
                ..StoreOptions::default()
            },
            allowed_peers: config.served_peers().into_iter().collect(),
            log_level,
        }
    }
}

/// Whether this machine has the kind of address at all: `::` stands in the
/// defaults, and a machine without IPv6 is not an error.
fn is_usable(address: IpAddr) -> bool {
    if address != IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
        return true;
    }
    let has_ipv6 = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).is_ok();
    if !has_ipv6 {
        tracing::info!("this machine has no IPv6; `::` in [node] bind is left out");
    }
    has_ipv6
}

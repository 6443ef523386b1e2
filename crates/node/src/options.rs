//! From the configuration to what the parts of an instance are given, at the
//! start and when it changes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;

use config::Config;
use net::{Access, Handle, NetConfig, PeerId, Purposes};
use store::{PackStore, StoreOptions};
use tokio_util::sync::CancellationToken;

use crate::log_level::LogLevel;
use crate::settings::Settings;

/// Where the API listens: loopback, whatever else is configured.
pub(crate) fn api_address(config: &Config) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::LOCALHOST.into(), config.node.api_port)
}

/// The addresses of `[node] bind` that this machine has, with a port.
pub(crate) fn listen_addresses(config: &Config, port: u16) -> Vec<SocketAddr> {
    let usable = config.node.bind.iter().filter(|address| is_usable(**address));
    usable.map(|address| SocketAddr::new(*address, port)).collect()
}

/// What the network is started with.
pub(crate) fn net_config(config: &Config) -> NetConfig {
    let node = &config.node;
    NetConfig {
        tcp: listen_addresses(config, node.listen_port),
        quic: listen_addresses(config, node.discovery_port),
        announce: node.announce_addresses.clone(),
        bootstrap: node.bootstrap.clone(),
        mdns: node.mdns,
        upload_limit: config.sync.upload_limit.bytes_per_sec(),
        download_limit: config.backup_server.download_limit.bytes_per_sec(),
        ..NetConfig::default()
    }
}

/// What the store is opened with.
pub(crate) fn store_options(config: &Config) -> StoreOptions {
    StoreOptions {
        max_storage: config.node.max_storage.limit(),
        disk_reserve: config.node.disk_reserve.bytes(),
        ..StoreOptions::default()
    }
}

/// Who may do what here.
pub(crate) fn access_list(config: &Config) -> impl Iterator<Item = (PeerId, Purposes)> {
    config.served_peers().into_iter().map(|peer| (peer, Purposes::BLOCKS))
}

/// What changes while an instance runs.
pub(crate) struct Live {
    pub(crate) net: Handle,
    pub(crate) access: Access,
    pub(crate) store: Arc<PackStore>,
    pub(crate) log_level: LogLevel,
}

impl Live {
    /// Applies every change of the settings, until `stop`.
    pub(crate) async fn run(self, settings: Settings, stop: CancellationToken) {
        let mut changes = settings.subscribe();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                changed = changes.changed() => if changed.is_err() { return },
            }
            let config = changes.borrow_and_update().clone();
            self.apply(&config);
        }
    }

    fn apply(&self, config: &Config) {
        self.access.replace(access_list(config));
        self.net.set_upload_limit(config.sync.upload_limit.bytes_per_sec());
        self.net.set_download_limit(config.backup_server.download_limit.bytes_per_sec());
        self.store.set_limits(config.node.max_storage.limit(), config.node.disk_reserve.bytes());
        if let Err(error) = self.log_level.set(config.node.log_level.as_str()) {
            tracing::warn!(error, "the log level stays as it is");
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

//! Derives the options of each part of an instance from the configuration, at
//! the start and after a change.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use config::Config;
use jiff::Timestamp;
use net::{Access, Handle, NetConfig, PeerId, Purposes};
use store::{PackStore, StoreOptions};
use sync::{FolderSettings, HookSettings, SyncSettings};
use tokio_util::sync::CancellationToken;

use crate::log_level::LogLevel;
use crate::pairing;
use crate::rules::RulesFile;
use crate::settings::Settings;

/// Returns the addresses of `[node] bind` that this computer supports, with a
/// port.
pub fn listen_addresses(config: &Config, port: u16) -> Vec<SocketAddr> {
    let usable = config.node.bind.iter().filter(|address| is_usable(**address));
    usable.map(|address| SocketAddr::new(*address, port)).collect()
}

/// Returns the options of the network.
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
        protocols: vec![
            protocols::RECEIPT_PROTOCOL,
            protocols::UNSIGNED_RECEIPT_PROTOCOL,
            protocols::SNAPSHOTS_PROTOCOL,
            protocols::PATCH_PROTOCOL,
            pairing::PROTOCOL,
        ],
        ..NetConfig::default()
    }
}

/// Returns the options of the store.
pub(crate) fn store_options(config: &Config) -> StoreOptions {
    StoreOptions {
        max_storage: config.node.max_storage.limit(),
        disk_reserve: config.node.disk_reserve.bytes(),
        ..StoreOptions::default()
    }
}

/// Returns the peers that may connect, each with its purposes: a backup server
/// fetches blocks and sends receipts; a source fetches blocks and restores.
pub(crate) fn access_list(config: &Config) -> HashMap<PeerId, Purposes> {
    let allowed = config.node.allowed_peers.iter().copied();
    let backup_peer = config.sync.backup_peer_id();
    // Only the backup server may send receipts. If none is configured, every
    // peer that may fetch blocks can be one.
    let is_server = |peer| backup_peer.is_none_or(|server| server == peer);
    let sources = config.backup_server.source_peers.iter().map(|source| source.peer_id);
    let mut list = HashMap::new();
    let mut add = |peer, purposes| {
        let before = list.get(&peer).copied().unwrap_or_default();
        list.insert(peer, before | purposes);
    };
    for peer in allowed.chain(backup_peer) {
        add(peer, Purposes::BLOCKS);
        if is_server(peer) {
            add(peer, Purposes::RECEIPTS);
        }
    }
    sources.for_each(|peer| add(peer, Purposes::BLOCKS | Purposes::RESTORE));
    list
}

/// Returns the settings of the source side.
pub(crate) fn sync_settings(config: &Config) -> SyncSettings {
    let sync = &config.sync;
    let folders = sync.folders.iter().map(|folder| FolderSettings {
        id: folder.id.clone(),
        path: folder.path.as_path().to_owned(),
        name: folder.display_name(),
        exclude: folder.exclude.iter().map(|pattern| pattern.as_str().to_owned()).collect(),
        paused: folder.paused,
        one_file_system: folder.one_file_system,
        exclude_caches: folder.exclude_caches,
        hooks: hook_settings(sync, folder),
    });
    SyncSettings {
        folders: folders.collect(),
        manifest_update_threshold: sync.manifest_update_threshold,
        manifest_max_delay: Duration::from_millis(sync.manifest_max_delay_ms),
        rescan_interval: Duration::from_secs(sync.rescan_interval_secs),
    }
}

/// Returns the programs to run before and after a folder's manifest is made.
fn hook_settings(sync: &config::SyncConfig, folder: &config::FolderConfig) -> HookSettings {
    let arguments = |hook: &[config::Argument]| -> Vec<String> {
        hook.iter().map(|argument| argument.as_str().to_owned()).collect()
    };
    if folder.before_publish.is_empty() && folder.after_publish.is_empty() {
        // A change of the times concerns no such folder.
        return HookSettings::default();
    }
    HookSettings {
        before: arguments(&folder.before_publish),
        after: arguments(&folder.after_publish),
        timeout: Duration::from_secs(sync.hook_timeout_secs),
        interval: Duration::from_secs(sync.hook_interval_secs),
    }
}

/// The parts that the settings are applied to while the instance runs.
pub(crate) struct Live {
    pub(crate) net: Handle,
    pub(crate) access: Access,
    pub(crate) store: Arc<PackStore>,
    pub(crate) log_level: LogLevel,
    pub(crate) rules: RulesFile,
}

impl Live {
    /// Applies every change of the settings, until `stop`.
    pub(crate) async fn run(self, settings: Settings, stop: CancellationToken) {
        let mut changes = settings.subscribe();
        let mut before = changes.borrow_and_update().clone();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                changed = changes.changed() => if changed.is_err() { return },
            }
            let config = changes.borrow_and_update().clone();
            self.apply(&before, &config);
            note_rules(&self.rules, &config).await;
            before = config;
        }
    }

    fn apply(&self, before: &Config, config: &Config) {
        self.access.replace(access_list(config));
        self.net.set_upload_limit(config.sync.upload_limit.bytes_per_sec());
        self.net.set_download_limit(config.backup_server.download_limit.bytes_per_sec());
        self.store.set_limits(config.node.max_storage.limit(), config.node.disk_reserve.bytes());
        // The node API may have set another level, which stays until the
        // configuration changes.
        if before.node.log_level != config.node.log_level
            && let Err(error) = self.log_level.set(config.node.log_level.as_str())
        {
            tracing::warn!(error, "cannot change the log level");
        }
    }
}

/// Takes note of the rules of retention, so that the time until loosened ones take effect begins
/// with the change.
pub(crate) async fn note_rules(rules: &RulesFile, config: &Arc<Config>) {
    if config.backup_server.enabled {
        let (rules, config) = (rules.clone(), config.clone());
        let note = move || rules.in_force(&config.backup_server, Timestamp::now());
        // The panic hook has logged a panic.
        let _ = tokio::task::spawn_blocking(note).await;
    }
}

/// Reports whether this computer supports the address. The default contains
/// `::`, and a computer without IPv6 is not an error.
fn is_usable(address: IpAddr) -> bool {
    if address != IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
        return true;
    }
    let has_ipv6 = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).is_ok();
    if !has_ipv6 {
        tracing::info!("this computer has no IPv6; `::` in [node] bind is ignored");
    }
    has_ipv6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn receipts_are_those_of_the_backup_server_where_one_is_named() {
        let (server, other, source) = (PeerId::random(), PeerId::random(), PeerId::random());
        let mut config = Config::default();
        config.node.allowed_peers = vec![other];
        let url = "http://192.0.2.1:8085".parse().unwrap();
        config.backup_server.source_peers = vec![config::SourcePeer {
            name: "Desk".parse().unwrap(),
            manifest_server_url: url,
            peer_id: source,
            addresses: Vec::new(),
            quota: config::ByteSize::default(),
            folders_max: config::SourcePeer::FOLDERS_MAX_DEFAULT,
        }];
        let may = |config: &Config, peer, purpose| {
            let access = Access::new();
            access.replace(access_list(config));
            access.allows(&peer, purpose)
        };
        assert!(may(&config, other, Purposes::RECEIPTS));
        let address = format!("/ip4/192.0.2.1/tcp/8070/p2p/{server}");
        config.sync.backup_peer_address = Some(address.parse().unwrap());
        assert!(may(&config, server, Purposes::RECEIPTS | Purposes::BLOCKS));
        assert!(may(&config, other, Purposes::BLOCKS));
        assert!(!may(&config, other, Purposes::RECEIPTS));
        assert!(
            may(&config, source, Purposes::RESTORE) && !may(&config, source, Purposes::RECEIPTS)
        );
        // Both ways at once, it may do both.
        config.node.allowed_peers.push(server);
        config.backup_server.source_peers[0].peer_id = server;
        let all = Purposes::RECEIPTS | Purposes::BLOCKS | Purposes::RESTORE;
        assert!(may(&config, server, all));
    }
}

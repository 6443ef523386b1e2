//! Every setting: its type, default, range, purpose, and whether a running
//! instance applies a change.
//!
//! The `section!` declarations are the only place that states any of this. A
//! declaration reads
//!
//! ```text
//! /// Purpose of the key.
//! key: type = default, kind with its range, Live or NeedsRestart;
//! ```
//!
//! Add a setting here together with a test of its effect. Keys are looked up in
//! `keys.rs`.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use libp2p_identity::PeerId;
use multiaddr::{Multiaddr, Protocol};
use serde::{Deserialize, Serialize};

use crate::addresses::{ManifestUrl, Network, host_of, optional_address, peer_id_of};
use crate::age::Age;
use crate::schema::Apply::{Live, NeedsRestart};
use crate::schema::{FOLDERS_MAX_DEFAULT, KeySpec, Kind, Unit};
use crate::size::{ByteSize, Rate};
use crate::values::{Argument, FolderPath, LogLevel, Name, Pattern};
use types::FolderId;

/// Declares a table whose keys all have defaults.
macro_rules! section {
    (
        $(#[doc = $about:literal])*
        pub struct $section:ident {
            $(
                #[doc = $doc:literal]
                $(#[serde($serde:meta)])?
                $key:ident: $type:ty = $default:expr, $kind:expr, $apply:expr;
            )*
        }
    ) => {
        $(#[doc = $about])*
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $section {
            $(
                #[doc = $doc]
                $(#[serde($serde)])?
                pub $key: $type,
            )*
        }

        impl Default for $section {
            fn default() -> Self {
                Self { $($key: $default,)* }
            }
        }

        impl $section {
            pub(crate) const KEYS: &'static [KeySpec] = &[
                $(KeySpec {
                    name: stringify!($key),
                    doc: $doc,
                    kind: $kind,
                    apply: $apply,
                    required: false,
                },)*
            ];
        }
    };
}

section! {
    /// The complete configuration.
    pub struct Config {
        /// This instance: ports, peers, disk space, logging.
        node: NodeConfig = NodeConfig::default(), Kind::Table(NodeConfig::KEYS), Live;
        /// The source: the folders to back up, and when to publish changes.
        sync: SyncConfig = SyncConfig::default(), Kind::Table(SyncConfig::KEYS), Live;
        /// The server on the source from which backup servers fetch manifests.
        manifest_server: ManifestServerConfig = ManifestServerConfig::default(),
            Kind::Table(ManifestServerConfig::KEYS), Live;
        /// The backup server: the sources to back up, and the snapshots to keep.
        backup_server: BackupServerConfig = BackupServerConfig::default(),
            Kind::Table(BackupServerConfig::KEYS), Live;
    }
}

section! {
    /// This instance: ports, peers, disk space, logging.
    pub struct NodeConfig {
        /// TCP port for block transfer between peers (libp2p).
        listen_port: u16 = DEFAULT_LISTEN_PORT, Kind::Port, NeedsRestart;
        /// UDP port for peer discovery (libp2p over QUIC).
        discovery_port: u16 = 8090, Kind::Port, NeedsRestart;
        /// TCP port of the REST API and the web UI; reachable from this computer only.
        api_port: u16 = 8080, Kind::Port, NeedsRestart;
        /// Require the API token for all API requests, including read-only requests and metrics.
        api_require_token: bool = false, Kind::Bool, Live;
        /// IP addresses to listen on; the REST API always listens on loopback only.
        bind: Vec<IpAddr> = vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
            Kind::List { of: &Kind::IpAddr, min: 1, max: 64 }, NeedsRestart;
        /// Multiaddrs to announce to peers in addition to the detected ones.
        announce_addresses: Vec<Multiaddr> = Vec::new(), list(&Kind::Address), NeedsRestart;
        /// Peer ids that may fetch blocks, in addition to the backup server and the sources.
        allowed_peers: Vec<PeerId> = Vec::new(), list(&Kind::PeerId), Live;
        /// Multiaddrs of the peers used to enter the DHT and find other peers.
        bootstrap: Vec<Multiaddr> = Vec::new(), list(&Kind::PeerAddress), NeedsRestart;
        /// Discover peers on the local network with mDNS.
        mdns: bool = true, Kind::Bool, NeedsRestart;
        /// Maximum size of the block store; "0" means no limit other than disk_reserve.
        max_storage: ByteSize = ByteSize::from_bytes(0), SIZE, Live;
        /// Disk space that the block store leaves free.
        disk_reserve: ByteSize = ByteSize::from_bytes(1_000_000_000), SIZE, Live;
        /// Log level.
        log_level: LogLevel = LogLevel::Info, Kind::LogLevel, Live;
    }
}

section! {
    /// The source: the folders to back up, and when to publish changes.
    pub struct SyncConfig {
        /// Multiaddr of the backup server, including its peer id; triggers go to the same host.
        #[serde(with = "optional_address")]
        backup_peer_address: Option<Multiaddr> = None, Kind::PeerAddressOrNone, Live;
        /// TCP port on the backup server that receives triggers.
        backup_trigger_port: u16 = DEFAULT_TRIGGER_PORT,
            Kind::Number { min: 1, max: 65_535, unit: Unit::Port }, Live;
        /// Send the backup server a trigger after each new manifest.
        backup_auto_notify: bool = true, Kind::Bool, Live;
        /// Publish a manifest after this many changed files …
        manifest_update_threshold: u32 = 10, count(1, 1_000_000), Live;
        /// … or after this time without another change.
        manifest_max_delay_ms: u64 = 2_000,
            Kind::Number { min: 0, max: 600_000, unit: Unit::Milliseconds }, Live;
        /// Interval between complete scans of every folder, in case the watcher missed a change.
        rescan_interval_secs: u64 = 3_600, seconds(1, 7 * DAY), Live;
        /// Time after which a program in before_publish or after_publish is ended.
        hook_timeout_secs: u64 = 60, seconds(1, 3_600), Live;
        /// Minimum time between two runs of these programs; snapshots in between have no run.
        hook_interval_secs: u64 = 300, seconds(0, 7 * DAY), Live;
        /// Time until the trigger is sent again if the backup server does not confirm.
        manifest_retry_interval_secs: u64 = 300, seconds(1, DAY), Live;
        /// Number of repeated triggers before the missing confirmation is shown as an error.
        manifest_max_retries: u32 = 5, count(0, 100), Live;
        /// Maximum upload rate; "0" means no limit.
        upload_limit: Rate = Rate::from_bytes_per_sec(0), RATE, Live;
        /// The folders to back up.
        folders: Vec<FolderConfig> = Vec::new(),
            Kind::Tables { of: FolderConfig::KEYS, max: 1_000 }, Live;
    }
}

section! {
    /// The server on the source from which backup servers fetch manifests.
    pub struct ManifestServerConfig {
        /// Serve manifests to the whitelisted addresses; the server starts with the first folder.
        enabled: bool = true, Kind::Bool, Live;
        /// TCP port on which backup servers fetch manifests.
        port: u16 = 8085, Kind::Port, NeedsRestart;
        /// IP addresses or networks that may fetch manifests; own programs here always may.
        whitelisted_ips: Vec<Network> = Vec::new(), list(&Kind::Network), Live;
    }
}

section! {
    /// The backup server: the sources to back up, and the snapshots to keep.
    pub struct BackupServerConfig {
        /// Back up the sources in source_peers.
        enabled: bool = false, Kind::Bool, Live;
        /// Interval at which each source is polled for a new manifest.
        poll_interval_secs: u64 = 30, seconds(1, DAY), Live;
        /// Maximum number of folders pulled at the same time, over all sources.
        max_concurrent_downloads: u32 = 3, count(1, 64), Live;
        /// Number of times a failed pull is retried before it is reported as an error.
        max_retries: u32 = 3, count(0, 100), Live;
        /// TCP port that receives triggers from sources.
        trigger_port: u16 = DEFAULT_TRIGGER_PORT, Kind::Port, NeedsRestart;
        /// Maximum download rate; "0" means no limit.
        download_limit: Rate = Rate::from_bytes_per_sec(0), RATE, Live;
        /// The snapshots of a folder to keep: the newest, and one per hour, day, week and month.
        keep: Keep = Keep::default(), Kind::Table(Keep::KEYS), Live;
        /// Days after its arrival for which a snapshot cannot be removed by hand.
        lock_days: u32 = 7, count(0, 3_650), Live;
        /// Every stored block is read again within this many days, to find damage; 0 means never.
        scrub_days: u32 = 30, count(0, 3_650), Live;
        /// The sources to back up.
        source_peers: Vec<SourcePeer> = Vec::new(),
            Kind::Tables { of: SourcePeer::KEYS, max: 1_000 }, Live;
    }
}

section! {
    /// The snapshots of a folder to keep. A snapshot is kept if at least one
    /// rule keeps it.
    pub struct Keep {
        /// Age up to which snapshots are only thinned: all stay an hour, then some of each hour.
        within: Age = Age::from_days(7), Kind::Age { max: Age::from_days(3_650) }, Live;
        /// Number of newest snapshots to keep.
        last: u32 = 10, count(0, 100_000), Live;
        /// Number of hours for which the first and last snapshot of the hour are kept.
        hourly: u32 = 48, count(0, 100_000), Live;
        /// Number of days for which the first and last snapshot of the day are kept.
        daily: u32 = 30, count(0, 100_000), Live;
        /// Number of weeks for which the first and last snapshot of the week are kept.
        weekly: u32 = 12, count(0, 100_000), Live;
        /// Number of months for which the first and last snapshot of the month are kept.
        monthly: u32 = 24, count(0, 100_000), Live;
    }
}

/// A folder to back up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FolderConfig {
    /// Stable id of the folder.
    pub id: FolderId,
    /// Path of the folder.
    pub path: FolderPath,
    /// Display name; without it, the last component of the path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// Patterns of the entries that are not backed up.
    #[serde(default)]
    pub exclude: Vec<Pattern>,
    /// True if nothing is published until the folder is resumed.
    #[serde(default)]
    pub paused: bool,
    /// True if other file systems that are mounted in the folder, and btrfs subvolumes in it,
    /// are left out.
    #[serde(default = "default_true")]
    pub one_file_system: bool,
    /// True if the contents of directories with a `CACHEDIR.TAG` are left out.
    #[serde(default)]
    pub exclude_caches: bool,
    /// The program, with its arguments, that runs before a manifest is made; empty: none.
    #[serde(default)]
    pub before_publish: Vec<Argument>,
    /// The program, with its arguments, that runs after a manifest was made; empty: none.
    #[serde(default)]
    pub after_publish: Vec<Argument>,
}

fn default_true() -> bool {
    true
}

impl FolderConfig {
    /// Returns the name, or the last component of the path if there is none.
    pub fn display_name(&self) -> String {
        if let Some(name) = &self.name {
            return name.as_str().to_owned();
        }
        let path = self.path.as_path();
        path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
    }

    pub(crate) const KEYS: &'static [KeySpec] = &[
        item("id", "Stable id of the folder.", Kind::FolderId, true),
        item("path", "Path of the folder.", Kind::FolderPath, true),
        item(
            "name",
            "Display name; without it, the last component of the path.",
            Kind::Name,
            false,
        ),
        item(
            "exclude",
            "Patterns of entries not to back up, in .gitignore syntax.",
            list(&Kind::Pattern),
            false,
        ),
        item("paused", "Publish nothing until the folder is resumed.", Kind::Bool, false),
        item(
            "one_file_system",
            "Leave out other local file systems that are mounted in the folder, and btrfs subvolumes.",
            Kind::Bool,
            false,
        ),
        item(
            "exclude_caches",
            "Leave out the contents of directories with a CACHEDIR.TAG.",
            Kind::Bool,
            false,
        ),
        item(
            "before_publish",
            "Program to run before a snapshot is published, by its absolute path, with its arguments.",
            list(&Kind::Argument),
            false,
        ),
        item(
            "after_publish",
            "Program to run after a snapshot was published, also if that failed.",
            list(&Kind::Argument),
            false,
        ),
    ];
}

/// A source that this instance backs up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourcePeer {
    /// Display name.
    pub name: Name,
    /// URL of the source's manifest server.
    pub manifest_server_url: ManifestUrl,
    /// Peer id that must have signed the manifests.
    pub peer_id: PeerId,
    /// Multiaddrs to pull blocks from; see [`SourcePeer::dial_addresses`].
    #[serde(default)]
    pub addresses: Vec<Multiaddr>,
    /// Maximum disk space that the snapshots of the source may need here; 0 for no limit.
    #[serde(default)]
    pub quota: ByteSize,
    /// Maximum number of folders of the source.
    #[serde(default = "default_folders_max")]
    pub folders_max: u32,
}

fn default_folders_max() -> u32 {
    SourcePeer::FOLDERS_MAX_DEFAULT
}

impl SourcePeer {
    /// Default of [`SourcePeer::folders_max`].
    pub const FOLDERS_MAX_DEFAULT: u32 = FOLDERS_MAX_DEFAULT;

    pub(crate) const KEYS: &'static [KeySpec] = &[
        item("name", "Display name of the source.", Kind::Name, true),
        item("manifest_server_url", "URL of the source's manifest server.", Kind::Url, true),
        item(
            "peer_id",
            "Peer id of the source; manifests that it did not sign are rejected.",
            Kind::PeerId,
            true,
        ),
        item(
            "addresses",
            "Multiaddrs to pull blocks from; if empty, TCP port 8070 on the URL's host and discovered addresses.",
            list(&Kind::Address),
            false,
        ),
        item(
            "quota",
            "Disk space that the snapshots of the source may need here; \"0\" means no limit.",
            SIZE,
            false,
        ),
        item(
            "folders_max",
            "Maximum number of folders of the source; further ones are refused.",
            count(1, 1_000),
            false,
        ),
    ];
}

/// Default TCP port for block transfer.
pub const DEFAULT_LISTEN_PORT: u16 = 8070;
/// Default TCP port for triggers, the same on both sides.
const DEFAULT_TRIGGER_PORT: u16 = 8086;
const DAY: u64 = 86_400;

/// The minimum catches a number whose unit was forgotten.
const SIZE: Kind = Kind::Size { min: 64_000, max: 1_000_000_000_000_000_000 };
/// Below the minimum, no transfer would complete within its timeout.
const RATE: Kind = Kind::Rate { min: 1_000, max: 1_000_000_000_000 };

const fn list(of: &'static Kind) -> Kind {
    Kind::List { of, min: 0, max: Kind::LIST_LEN_MAX }
}

const fn count(min: u64, max: u64) -> Kind {
    Kind::Number { min, max, unit: Unit::Count }
}

const fn seconds(min: u64, max: u64) -> Kind {
    Kind::Number { min, max, unit: Unit::Seconds }
}

const fn item(name: &'static str, doc: &'static str, kind: Kind, required: bool) -> KeySpec {
    KeySpec { name, doc, kind, apply: Live, required }
}

impl Config {
    /// Returns every peer that may fetch blocks: the backup server, the sources
    /// and [`NodeConfig::allowed_peers`].
    pub fn served_peers(&self) -> BTreeSet<PeerId> {
        let backup = self.sync.backup_peer_id();
        let sources = self.backup_server.source_peers.iter().map(|source| source.peer_id);
        self.node.allowed_peers.iter().copied().chain(backup).chain(sources).collect()
    }

    /// Returns the folder with this id.
    pub fn folder(&self, id: &FolderId) -> Option<&FolderConfig> {
        self.sync.folders.iter().find(|folder| folder.id == *id)
    }

    /// Returns the source with this name.
    pub fn source(&self, name: &str) -> Option<&SourcePeer> {
        self.backup_server.source_peers.iter().find(|source| source.name.as_str() == name)
    }
}

impl SyncConfig {
    /// Returns the peer id of the backup server.
    pub fn backup_peer_id(&self) -> Option<PeerId> {
        self.backup_peer_address.as_ref().and_then(peer_id_of)
    }

    /// Returns the host that receives triggers, as written in a URL. `None` if
    /// there is no backup server, or if it is reached through a relay.
    pub fn trigger_host(&self) -> Option<String> {
        self.backup_peer_address.as_ref().and_then(host_of)
    }

    /// Returns [`SyncConfig::manifest_max_delay_ms`] as a duration.
    pub fn manifest_max_delay(&self) -> Duration {
        Duration::from_millis(self.manifest_max_delay_ms)
    }

    /// Returns [`SyncConfig::rescan_interval_secs`] as a duration.
    pub fn rescan_interval(&self) -> Duration {
        Duration::from_secs(self.rescan_interval_secs)
    }

    /// Returns [`SyncConfig::manifest_retry_interval_secs`] as a duration.
    pub fn manifest_retry_interval(&self) -> Duration {
        Duration::from_secs(self.manifest_retry_interval_secs)
    }
}

impl BackupServerConfig {
    /// Returns [`BackupServerConfig::poll_interval_secs`] as a duration.
    pub fn poll_interval(&self) -> Duration {
        Duration::from_secs(self.poll_interval_secs)
    }
}

impl Keep {
    /// Reports whether no rule keeps any snapshot.
    pub fn is_nothing(&self) -> bool {
        self.within == Age::ZERO
            && [self.last, self.hourly, self.daily, self.weekly, self.monthly]
                .iter()
                .all(|n| *n == 0)
    }
}

impl SourcePeer {
    /// Returns the multiaddrs to dial: [`SourcePeer::addresses`], or TCP port
    /// 8070 on the host of the URL if there are none. Each includes the peer id.
    pub fn dial_addresses(&self) -> Vec<Multiaddr> {
        let name_peer = |address: &Multiaddr| {
            if peer_id_of(address).is_some() {
                address.clone()
            } else {
                address.clone().with(Protocol::P2p(self.peer_id))
            }
        };
        if !self.addresses.is_empty() {
            return self.addresses.iter().map(name_peer).collect();
        }
        let host = match self.manifest_server_url.host() {
            url::Host::Ipv4(ip) => Protocol::Ip4(ip),
            url::Host::Ipv6(ip) => Protocol::Ip6(ip),
            url::Host::Domain(name) => Protocol::Dns(name.to_owned().into()),
        };
        vec![name_peer(&Multiaddr::from(host).with(Protocol::Tcp(DEFAULT_LISTEN_PORT)))]
    }
}

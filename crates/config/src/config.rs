//! Every setting: its type, its default, its range, what it is for, and
//! whether a running instance applies a change.
//!
//! The `section!` declarations are the only place that says any of this. A
//! line reads
//!
//! ```text
//! /// What it is for.
//! key: type = default, kind with its range, Live or NeedsRestart;
//! ```
//!
//! A setting lands here together with the test of its effect.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use libp2p_identity::PeerId;
use multiaddr::{Multiaddr, Protocol};
use serde::{Deserialize, Serialize};

use crate::addresses::{ManifestUrl, Network, host_of, optional_address, peer_id_of};
use crate::schema::Apply::{Live, NeedsRestart};
use crate::schema::{KeySpec, Kind, Unit};
use crate::size::{ByteSize, Rate};
use crate::values::{FolderPath, LogLevel, Name, Pattern};
use types::FolderId;

/// A table whose keys all have defaults.
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
    /// The whole configuration.
    pub struct Config {
        /// This instance: its ports, its peers, its disk.
        node: NodeConfig = NodeConfig::default(), Kind::Table(NodeConfig::KEYS), Live;
        /// The source: which folders are watched and published.
        sync: SyncConfig = SyncConfig::default(), Kind::Table(SyncConfig::KEYS), Live;
        /// The server of the source, which tells a backup server what there is to pull.
        manifest_server: ManifestServerConfig = ManifestServerConfig::default(),
            Kind::Table(ManifestServerConfig::KEYS), Live;
        /// The backup server: whom to pull from, and what to keep.
        backup_server: BackupServerConfig = BackupServerConfig::default(),
            Kind::Table(BackupServerConfig::KEYS), Live;
    }
}

/// The sections of the file.
pub(crate) const ROOT: &[KeySpec] = Config::KEYS;

section! {
    /// This instance: its ports, its peers, its disk.
    pub struct NodeConfig {
        /// TCP port for file transfer (libp2p).
        listen_port: u16 = DEFAULT_LISTEN_PORT, Kind::Port, NeedsRestart;
        /// UDP port for finding peers (libp2p over QUIC).
        discovery_port: u16 = 8090, Kind::Port, NeedsRestart;
        /// TCP port of the REST API and the web UI, on this machine alone.
        api_port: u16 = 8080, Kind::Port, NeedsRestart;
        /// Ask for the token wherever the API answers: for the node API, metrics and looks too.
        api_require_token: bool = false, Kind::Bool, Live;
        /// Addresses that the sockets listen on, all but the API's.
        bind: Vec<IpAddr> = vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
            Kind::List { of: &Kind::IpAddr, min: 1, max: 64 }, NeedsRestart;
        /// Multiaddrs to tell peers besides those that are found by themselves.
        announce_addresses: Vec<Multiaddr> = Vec::new(), list(&Kind::Address), NeedsRestart;
        /// Peer ids that are served besides the backup peer and the source peers.
        allowed_peers: Vec<PeerId> = Vec::new(), list(&Kind::PeerId), Live;
        /// Multiaddrs of peers through which others are found (DHT).
        bootstrap: Vec<Multiaddr> = Vec::new(), list(&Kind::PeerAddress), NeedsRestart;
        /// Find peers on the local network by themselves.
        mdns: bool = true, Kind::Bool, NeedsRestart;
        /// How much this instance may store; "0" goes up to the reserve of the disk.
        max_storage: ByteSize = ByteSize::from_bytes(0), SIZE, Live;
        /// How much always stays free on the disk.
        disk_reserve: ByteSize = ByteSize::from_bytes(1_000_000_000), SIZE, Live;
        /// How much is logged.
        log_level: LogLevel = LogLevel::Info, Kind::LogLevel, Live;
    }
}

section! {
    /// The source: which folders are watched and published.
    pub struct SyncConfig {
        /// Multiaddr of the backup server, with its peer id; its host also receives the trigger.
        #[serde(with = "optional_address")]
        backup_peer_address: Option<Multiaddr> = None, Kind::PeerAddressOrNone, Live;
        /// Port on the backup server that receives the trigger.
        backup_trigger_port: u16 = DEFAULT_TRIGGER_PORT,
            Kind::Number { min: 1, max: 65_535, unit: Unit::Port }, Live;
        /// Trigger the backup server after each new manifest.
        backup_auto_notify: bool = true, Kind::Bool, Live;
        /// Publish after this many changed files …
        manifest_update_threshold: u32 = 10, count(1, 1_000_000), Live;
        /// … or after this long without a further change.
        manifest_max_delay_ms: u64 = 2_000,
            Kind::Number { min: 0, max: 600_000, unit: Unit::Milliseconds }, Live;
        /// How often every folder is compared with the disk, whatever the watcher says.
        rescan_interval_secs: u64 = 3_600, seconds(1, 7 * DAY), Live;
        /// How long until the backup server is triggered again if it does not acknowledge.
        manifest_retry_interval_secs: u64 = 300, seconds(1, DAY), Live;
        /// How often it is triggered again before that is shown as an error.
        manifest_max_retries: u32 = 5, count(0, 100), Live;
        /// How fast this instance sends at most; "0" is without limit.
        upload_limit: Rate = Rate::from_bytes_per_sec(0), RATE, Live;
        /// The watched folders.
        folders: Vec<FolderConfig> = Vec::new(),
            Kind::Tables { of: FolderConfig::KEYS, max: 1_000 }, Live;
    }
}

section! {
    /// The server of the source, which tells a backup server what there is to
    /// pull.
    pub struct ManifestServerConfig {
        /// Tell the whitelisted addresses what there is to pull, once a folder exists.
        enabled: bool = true, Kind::Bool, Live;
        /// TCP port on which backup servers ask.
        port: u16 = 8085, Kind::Port, NeedsRestart;
        /// Addresses or networks that may ask; this machine always may.
        whitelisted_ips: Vec<Network> = Vec::new(), list(&Kind::Network), Live;
    }
}

section! {
    /// The backup server: whom to pull from, and what to keep.
    pub struct BackupServerConfig {
        /// Pull from the source peers.
        enabled: bool = false, Kind::Bool, Live;
        /// How often each source is asked for something new.
        poll_interval_secs: u64 = 30, seconds(1, DAY), Live;
        /// How many folders are pulled at once, of all sources together.
        max_concurrent_downloads: u32 = 3, count(1, 64), Live;
        /// How often a pull that failed is tried again before it is an error.
        max_retries: u32 = 3, count(0, 100), Live;
        /// TCP port on which sources say that there is something new.
        trigger_port: u16 = DEFAULT_TRIGGER_PORT, Kind::Port, NeedsRestart;
        /// How fast this instance receives at most; "0" is without limit.
        download_limit: Rate = Rate::from_bytes_per_sec(0), RATE, Live;
        /// Which snapshots of a folder are kept: the newest, one an hour, day, week, month.
        keep: Keep = Keep::default(), Kind::Table(Keep::KEYS), Live;
        /// The sources to pull from.
        source_peers: Vec<SourcePeer> = Vec::new(),
            Kind::Tables { of: SourcePeer::KEYS, max: 1_000 }, Live;
    }
}

section! {
    /// Which snapshots of a folder are kept. A snapshot that one of the rules
    /// keeps stays.
    pub struct Keep {
        /// How many of the newest snapshots are kept.
        last: u32 = 10, count(0, 100_000), Live;
        /// For how many hours the last snapshot of the hour is kept.
        hourly: u32 = 48, count(0, 100_000), Live;
        /// For how many days the last snapshot of the day is kept.
        daily: u32 = 30, count(0, 100_000), Live;
        /// For how many weeks the last snapshot of the week is kept.
        weekly: u32 = 12, count(0, 100_000), Live;
        /// For how many months the last snapshot of the month is kept.
        monthly: u32 = 24, count(0, 100_000), Live;
    }
}

/// A watched folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FolderConfig {
    /// The stable id.
    pub id: FolderId,
    /// Where the folder is.
    pub path: FolderPath,
    /// What people call it; the last part of the path where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// Patterns of what is left out.
    #[serde(default)]
    pub exclude: Vec<Pattern>,
    /// Whether nothing is published until it is resumed.
    #[serde(default)]
    pub paused: bool,
}

impl FolderConfig {
    /// What people call it: its name, or the last part of its path.
    pub fn display_name(&self) -> String {
        if let Some(name) = &self.name {
            return name.as_str().to_owned();
        }
        let path = self.path.as_path();
        path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
    }

    pub(crate) const KEYS: &'static [KeySpec] = &[
        item("id", "The stable id of the folder.", Kind::FolderId, true),
        item("path", "Where the folder is.", Kind::FolderPath, true),
        item(
            "name",
            "What people call it; without it, the last part of the path.",
            Kind::Name,
            false,
        ),
        item("exclude", "What is left out, in .gitignore syntax.", list(&Kind::Pattern), false),
        item("paused", "Publish nothing until it is resumed.", Kind::Bool, false),
    ];
}

/// A source that this instance pulls from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourcePeer {
    /// What people call it.
    pub name: Name,
    /// Where its manifests are asked for.
    pub manifest_server_url: ManifestUrl,
    /// Whose signature the manifests have to bear.
    pub peer_id: PeerId,
    /// Where blocks are pulled from; see [`SourcePeer::dial_addresses`].
    #[serde(default)]
    pub addresses: Vec<Multiaddr>,
}

impl SourcePeer {
    pub(crate) const KEYS: &'static [KeySpec] = &[
        item("name", "What people call the source.", Kind::Name, true),
        item(
            "manifest_server_url",
            "Where the source is asked what there is to pull.",
            Kind::Url,
            true,
        ),
        item(
            "peer_id",
            "The peer id of the source: nobody else's manifests are taken.",
            Kind::PeerId,
            true,
        ),
        item(
            "addresses",
            "Multiaddrs to pull from; without any, TCP 8070 on the URL's host and what discovery finds.",
            list(&Kind::Address),
            false,
        ),
    ];
}

/// The port for file transfer of an instance that says nothing else.
pub const DEFAULT_LISTEN_PORT: u16 = 8070;
/// The port of the trigger, the same on both sides.
const DEFAULT_TRIGGER_PORT: u16 = 8086;
const DAY: u64 = 86_400;

/// Below the smallest, a number without a unit was meant to have one.
const SIZE: Kind = Kind::Size { min: 64_000, max: 1_000_000_000_000_000_000 };
/// Below the smallest, nothing would arrive within any timeout.
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
    /// Every peer that blocks may be served to: the backup peer, the source
    /// peers and [`NodeConfig::allowed_peers`].
    pub fn served_peers(&self) -> BTreeSet<PeerId> {
        let backup = self.sync.backup_peer_id();
        let sources = self.backup_server.source_peers.iter().map(|source| source.peer_id);
        self.node.allowed_peers.iter().copied().chain(backup).chain(sources).collect()
    }

    /// The watched folder of that id.
    pub fn folder(&self, id: &FolderId) -> Option<&FolderConfig> {
        self.sync.folders.iter().find(|folder| folder.id == *id)
    }

    /// The source of that name.
    pub fn source(&self, name: &str) -> Option<&SourcePeer> {
        self.backup_server.source_peers.iter().find(|source| source.name.as_str() == name)
    }
}

impl SyncConfig {
    /// The backup server's peer id.
    pub fn backup_peer_id(&self) -> Option<PeerId> {
        self.backup_peer_address.as_ref().and_then(peer_id_of)
    }

    /// The host that receives the trigger, as a URL writes it. `None` where
    /// there is no backup server, or only a relay leads to it.
    pub fn trigger_host(&self) -> Option<String> {
        self.backup_peer_address.as_ref().and_then(host_of)
    }

    /// [`SyncConfig::manifest_max_delay_ms`].
    pub fn manifest_max_delay(&self) -> Duration {
        Duration::from_millis(self.manifest_max_delay_ms)
    }

    /// [`SyncConfig::rescan_interval_secs`].
    pub fn rescan_interval(&self) -> Duration {
        Duration::from_secs(self.rescan_interval_secs)
    }

    /// [`SyncConfig::manifest_retry_interval_secs`].
    pub fn manifest_retry_interval(&self) -> Duration {
        Duration::from_secs(self.manifest_retry_interval_secs)
    }
}

impl BackupServerConfig {
    /// [`BackupServerConfig::poll_interval_secs`].
    pub fn poll_interval(&self) -> Duration {
        Duration::from_secs(self.poll_interval_secs)
    }
}

impl Keep {
    /// Whether no rule keeps anything.
    pub fn is_nothing(&self) -> bool {
        [self.last, self.hourly, self.daily, self.weekly, self.monthly].iter().all(|n| *n == 0)
    }
}

impl SourcePeer {
    /// Where to dial it: [`SourcePeer::addresses`], or TCP 8070 on the host of
    /// the URL where there are none. Each names the peer.
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

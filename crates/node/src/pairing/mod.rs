//! Pairing: a code that A shows and B is given introduces both to each other,
//! and each writes what it has learnt into its own configuration.
//!
//! A code counts once, for ten minutes, and for a few tries; only its holder
//! gets an answer other than no. What B learns from A's answer, and A from B's
//! greeting, is who the other is (the channel proves that) and where it
//! listens (which harms nobody if it is wrong).

mod code;
mod wire;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use config::{Config, ConfigError, ManifestUrl, Name, SourcePeer, SourceUpdate};
use data_encoding::BASE32_NOPAD;
use jiff::Timestamp;
use multiaddr::Protocol;
use net::{Handle, Multiaddr, NetError, NetStream, PeerId};
use parking_lot::Mutex;
use subtle::ConstantTimeEq as _;
use tokio::sync::mpsc;

use self::code::{Code, SECRET_LEN, tcp_address};
use self::wire::{Hello, Reply, TIMEOUT};
use crate::settings::Settings;
use crate::tasks::Tasks;
use types::with_causes;

pub use self::code::CodeError;
pub use self::wire::PROTOCOL;

/// How long a code counts.
const VALID_FOR: Duration = Duration::from_secs(600);
/// Wrong secrets before the code does not count any more.
const TRIES_MAX: u32 = 5;
/// Greetings that are answered at once.
const GREETINGS_MAX: usize = 4;
/// Names are for people.
const NAME_LEN_MAX: usize = 60;

/// Why pairing did not work.
#[derive(Debug, thiserror::Error)]
pub enum PairError {
    /// What was typed.
    #[error(transparent)]
    Code(#[from] CodeError),
    /// The code of this very instance.
    #[error("this code was made here; enter it on the backup server")]
    Own,
    /// The other machine cannot be reached.
    #[error(
        "cannot reach the other machine at {addresses}: let TCP port {port} through its firewall"
    )]
    Unreachable {
        /// Where it was tried.
        addresses: String,
        /// The port there.
        port: u16,
        /// What happened.
        #[source]
        source: Box<NetError>,
    },
    /// It does not speak the protocol, or broke off.
    #[error("the other machine broke off; is the same version of archivist running there?")]
    Broken(#[source] std::io::Error),
    /// It says something of itself that cannot be written down here.
    #[error("the other machine has a name or an address that cannot be used: {0:?}")]
    Unusable(String),
    /// It says no.
    #[error("the other machine says: {0}")]
    Refused(String),
    /// The network of this instance.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The other machine cannot be connected to.
    #[error(
        "the backup server names no TCP address at which it listens: look at its [node] bind and \
         listen_port"
    )]
    Nowhere,
    /// The configuration here.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// What entering a code has set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// What the new source is called here.
    pub name: String,
    /// Who it is.
    pub peer: PeerId,
    /// Where it is asked what there is to pull.
    pub manifest_server_url: String,
    /// Where it listens.
    pub addresses: Vec<Multiaddr>,
    /// What was set on either side, in plain words.
    pub changes: Vec<String>,
}

/// How the code stands that was made last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// None was made.
    None,
    /// Nobody has entered it.
    Waiting {
        /// Until then it counts.
        until: Timestamp,
    },
    /// Somebody has entered it; what that means is being written down.
    Joining,
    /// It has served its purpose.
    Joined {
        /// Who has entered it.
        peer: PeerId,
        /// What was set here, in plain words.
        changes: Vec<String>,
    },
    /// Its time is over.
    Expired,
    /// It counts no more, and why, in plain words.
    Failed(String),
}

#[derive(Debug)]
enum State {
    None,
    Open { secret: [u8; SECRET_LEN], until: Timestamp, tries: u32 },
    Joining,
    Joined { peer: PeerId, changes: Vec<String> },
    Failed(String),
}

/// Pairs this instance. Clones share the code.
#[derive(Clone)]
pub struct Pairing {
    net: Handle,
    settings: Settings,
    state: Arc<Mutex<State>>,
}

impl std::fmt::Debug for Pairing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pairing")
    }
}

impl Pairing {
    /// No code counts yet.
    pub fn new(net: Handle, settings: Settings) -> Self {
        Self { net, settings, state: Arc::new(Mutex::new(State::None)) }
    }

    /// Makes a code; one that was made before does not count any more.
    pub fn open(&self) -> (String, Timestamp) {
        let secret: [u8; SECRET_LEN] = rand::random();
        let until = Timestamp::now() + VALID_FOR;
        let mut addresses = self.net.announce_addrs().to_vec();
        addresses.extend(self.net.listen_addrs());
        let code = Code::new(secret, self.net.peer_id(), &addresses);
        *self.state.lock() = State::Open { secret, until, tries: 0 };
        (code.to_string(), until)
    }

    /// How it stands.
    pub fn standing(&self) -> Standing {
        match &*self.state.lock() {
            State::None => Standing::None,
            State::Open { until, .. } if *until < Timestamp::now() => Standing::Expired,
            State::Open { until, .. } => Standing::Waiting { until: *until },
            State::Joining => Standing::Joining,
            State::Joined { peer, changes } => {
                Standing::Joined { peer: *peer, changes: changes.clone() }
            }
            State::Failed(reason) => Standing::Failed(reason.clone()),
        }
    }

    /// Answers those who were given the code, until the tasks are to end.
    pub async fn serve(self, mut streams: mpsc::Receiver<NetStream>, tasks: Tasks) {
        let stop = tasks.stop_token();
        let permits = Arc::new(tokio::sync::Semaphore::new(GREETINGS_MAX));
        loop {
            let stream = tokio::select! {
                () = stop.cancelled() => return,
                stream = streams.recv() => stream,
            };
            let Some(stream) = stream else { return };
            // Whoever comes when too many are there is turned away.
            let Ok(permit) = permits.clone().try_acquire_owned() else { continue };
            let (this, stop) = (self.clone(), stop.clone());
            tasks.spawn("pairing", async move {
                let _permit = permit;
                let peer = stream.peer();
                let greeting = tokio::time::timeout(TIMEOUT, this.greet(stream));
                tokio::select! {
                    greeted = greeting => match greeted {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => tracing::debug!(%peer, %error, "a pairing broke off"),
                        Err(_) => tracing::debug!(%peer, "a pairing took too long"),
                    },
                    () = stop.cancelled() => {}
                }
            });
        }
    }

    async fn greet(&self, mut stream: NetStream) -> std::io::Result<()> {
        let peer = stream.peer();
        let hello: Hello = wire::receive(&mut stream).await?;
        let observed = self.observed_ip(peer).await;
        let reply = if self.take(&hello.secret) {
            let this = self.clone();
            let entered =
                tokio::task::spawn_blocking(move || this.entered(peer, observed, &hello)).await;
            entered.unwrap_or_else(|panic| self.failed(panic.to_string()))
        } else {
            tracing::warn!(%peer, "a wrong pairing code was refused");
            Reply::Refused {
                reason: "this code does not count (any more); make a new one with `archivist pair`"
                    .into(),
            }
        };
        wire::send(&mut stream, &reply).await?;
        futures::AsyncWriteExt::close(&mut stream).await
    }

    /// Whether this is the secret; it does not count again.
    fn take(&self, given: &str) -> bool {
        let mut state = self.state.lock();
        let State::Open { secret, until, tries } = &mut *state else { return false };
        if *until < Timestamp::now() {
            return false;
        }
        let given = BASE32_NOPAD.decode(given.as_bytes()).unwrap_or_default();
        if bool::from(given.ct_eq(&secret[..])) {
            *state = State::Joining;
            return true;
        }
        *tries += 1;
        if *tries >= TRIES_MAX {
            *state = State::Failed("too many wrong codes were tried; make a new one".into());
        }
        false
    }

    /// Where the peer comes from.
    async fn observed_ip(&self, peer: PeerId) -> Option<IpAddr> {
        let peers = self.net.peers().await.ok()?;
        let addresses = peers.into_iter().find(|info| info.peer == peer)?.addresses;
        addresses.iter().find_map(ip_of)
    }

    /// The code was entered: notes the backup server, and how that went. Not
    /// cut short by a peer that has gone meanwhile.
    fn entered(&self, peer: PeerId, observed: Option<IpAddr>, hello: &Hello) -> Reply {
        let changes = match self.note_server(peer, observed, hello) {
            Ok(changes) => changes,
            Err(error) => return self.failed(with_causes(&error)),
        };
        tracing::info!(%peer, "paired: this is the backup server now");
        *self.state.lock() = State::Joined { peer, changes: changes.clone() };
        Reply::Paired {
            name: own_name(),
            addresses: self.net.listen_addrs(),
            manifest_port: self.settings.get().manifest_server.port,
            changes,
        }
    }

    /// Tells both sides why nothing came of it.
    fn failed(&self, reason: String) -> Reply {
        tracing::warn!(reason, "pairing failed");
        *self.state.lock() = State::Failed(format!("{reason}. Make a new code then"));
        Reply::Refused { reason }
    }

    /// A notes its backup server. Says what was set.
    fn note_server(
        &self,
        peer: PeerId,
        observed: Option<IpAddr>,
        hello: &Hello,
    ) -> Result<Vec<String>, PairError> {
        let listens: Vec<SocketAddr> = hello.addresses.iter().filter_map(tcp_address).collect();
        // Where it listens at the address that it came from; else where it
        // says that it does.
        let at_observed =
            observed.and_then(|ip| Some(SocketAddr::new(ip, listens.first()?.port())));
        let Some(address) = at_observed.or(listens.first().copied()) else {
            return Err(PairError::Nowhere);
        };
        let address = multiaddr_of(address).with(Protocol::P2p(peer)).to_string();
        let mut changes = Vec::new();
        self.settings.edit_from(|config, draft| {
            changes.clear();
            if config.sync.backup_peer_id().is_none_or(|known| known == peer) {
                draft.set("sync.backup_peer_address", &address)?;
                draft.set("sync.backup_trigger_port", &hello.trigger_port.to_string())?;
                changes.push(format!("the backup server is {address}"));
            } else {
                // A second one pulls by itself; the first is still triggered.
                draft.add_item("node.allowed_peers", &peer.to_string())?;
                changes.push(format!("{peer} may pull, besides the backup server"));
            }
            if let Some(ip) = observed.filter(|ip| needs_whitelist(config, *ip)) {
                draft.add_item("manifest_server.whitelisted_ips", &ip.to_string())?;
                changes.push(format!("{ip} may ask for manifests"));
            }
            Ok(())
        })?;
        Ok(changes)
    }

    /// Enters a code that another machine has shown: this instance becomes
    /// its backup server.
    ///
    /// # Errors
    ///
    /// [`PairError`]; nothing has changed here then.
    pub async fn join(&self, code: &str) -> Result<Joined, PairError> {
        let code: Code = code.parse()?;
        if code.peer == self.net.peer_id() {
            return Err(PairError::Own);
        }
        let addresses: Vec<Multiaddr> =
            code.addresses.iter().map(|address| multiaddr_of(*address)).collect();
        self.net.connect(code.peer, addresses, TIMEOUT).await.map_err(|source| {
            let tried: Vec<String> = code.addresses.iter().map(ToString::to_string).collect();
            PairError::Unreachable {
                addresses: tried.join(", "),
                port: code.addresses.first().map_or(0, SocketAddr::port),
                source: Box::new(source),
            }
        })?;
        let talk = self.talk(&code);
        let reply = tokio::time::timeout(TIMEOUT, talk)
            .await
            .map_err(|_| PairError::Broken(std::io::Error::from(std::io::ErrorKind::TimedOut)))??;
        let (name, addresses, manifest_port, changes) = match reply {
            Reply::Paired { name, addresses, manifest_port, changes } => {
                (name, addresses, manifest_port, changes)
            }
            Reply::Refused { reason } => return Err(PairError::Refused(printable(&reason, 400))),
        };
        let host = match self.observed_ip(code.peer).await {
            Some(ip) => ip,
            None => code.addresses.first().map_or(IpAddr::from([127, 0, 0, 1]), SocketAddr::ip),
        };
        let port = addresses
            .iter()
            .filter_map(tcp_address)
            .map(|address| address.port())
            .chain(code.addresses.iter().map(SocketAddr::port))
            .next();
        let url = format!("http://{}", SocketAddr::new(host, manifest_port));
        let this = self.clone();
        let (wanted, peer) = (printable(&name, NAME_LEN_MAX), code.peer);
        let noted = tokio::task::spawn_blocking(move || {
            this.note_source(&wanted, peer, &url, host, port).map(|name| (name, url))
        });
        let (name, url) =
            noted.await.map_err(|error| PairError::Broken(std::io::Error::other(error)))??;
        let mut all = vec![format!("here: {name:?} ({url}) is a source, and backups are enabled")];
        all.extend(changes.iter().map(|change| format!("there: {}", printable(change, 400))));
        Ok(Joined { name, peer: code.peer, manifest_server_url: url, addresses, changes: all })
    }

    async fn talk(&self, code: &Code) -> Result<Reply, PairError> {
        let mut stream = self.net.open(code.peer, PROTOCOL).await?;
        let config = self.settings.get();
        let hello = Hello {
            secret: BASE32_NOPAD.encode(&code.secret),
            name: own_name(),
            addresses: self.net.listen_addrs(),
            trigger_port: config.backup_server.trigger_port,
        };
        wire::send(&mut stream, &hello).await.map_err(PairError::Broken)?;
        wire::receive(&mut stream).await.map_err(PairError::Broken)
    }

    /// B notes a source; returns what it is called here.
    fn note_source(
        &self,
        wanted: &str,
        peer: PeerId,
        url: &str,
        host: IpAddr,
        port: Option<u16>,
    ) -> Result<String, PairError> {
        let url: ManifestUrl = url.parse().map_err(|_| PairError::Unusable(url.to_owned()))?;
        // The default port is found from the URL; another has to be said.
        let addresses: Vec<Multiaddr> = port
            .filter(|port| *port != config::DEFAULT_LISTEN_PORT)
            .map(|port| multiaddr_of(SocketAddr::new(host, port)))
            .into_iter()
            .collect();
        let mut noted: Option<Name> = None;
        self.settings.edit_from(|config, draft| {
            let known = config.backup_server.source_peers.iter().find(|one| one.peer_id == peer);
            noted = match known {
                Some(known) => Some(known.name.clone()),
                None => free_name(wanted, |name| config.source(name).is_some()).parse().ok(),
            };
            let Some(name) = &noted else { return Ok(()) };
            match known {
                Some(_) => draft.update_source(
                    name.as_str(),
                    &SourceUpdate {
                        manifest_server_url: Some(url.clone()),
                        addresses: Some(addresses.clone()),
                        ..SourceUpdate::default()
                    },
                )?,
                None => draft.add_source(&SourcePeer {
                    name: name.clone(),
                    manifest_server_url: url.clone(),
                    peer_id: peer,
                    addresses: addresses.clone(),
                })?,
            }
            draft.set("backup_server.enabled", "true")
        })?;
        let name = noted.ok_or_else(|| PairError::Unusable(wanted.to_owned()))?;
        Ok(name.as_str().to_owned())
    }
}

fn multiaddr_of(address: SocketAddr) -> Multiaddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) => Protocol::Ip4(ip),
        IpAddr::V6(ip) => Protocol::Ip6(ip),
    };
    Multiaddr::empty().with(ip).with(Protocol::Tcp(address.port()))
}

fn ip_of(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next()? {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => Some(IpAddr::from(ip).to_canonical()),
        _ => None,
    }
}

fn needs_whitelist(config: &Config, ip: IpAddr) -> bool {
    let known = &config.manifest_server.whitelisted_ips;
    !ip.is_loopback() && !known.iter().any(|network| network.contains(ip))
}

/// What this machine is called.
fn own_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if name.is_empty() { "archivist".to_owned() } else { name }
}

/// What another machine says, fit to be shown and written down.
fn printable(text: &str, len_max: usize) -> String {
    let clean: String = text.chars().filter(|c| !c.is_control()).take(len_max).collect();
    let clean = clean.trim();
    if clean.is_empty() { "another machine".to_owned() } else { clean.to_owned() }
}

fn free_name(wanted: &str, is_taken: impl Fn(&str) -> bool) -> String {
    if !is_taken(wanted) {
        return wanted.to_owned();
    }
    let mut number = 2_u32;
    loop {
        let name = format!("{wanted} ({number})");
        if !is_taken(&name) {
            return name;
        }
        number += 1;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use config::ConfigFile;
    use net::{Access, BlockAnswer, BlockProvider, Net, NetConfig};
    use types::Cid;

    use super::*;

    #[derive(Debug)]
    struct Nothing;

    impl BlockProvider for Nothing {
        fn read(&self, _: &PeerId, wanted: &[Cid], _: usize) -> Vec<BlockAnswer> {
            wanted.iter().map(|_| BlockAnswer::Missing).collect()
        }
    }

    async fn pairing(dir: &std::path::Path) -> (Pairing, Net) {
        let file = ConfigFile::new(dir.join("config.toml"));
        file.create().unwrap();
        let config = file.load().unwrap().config;
        let net_config =
            NetConfig { tcp: vec![([127, 0, 0, 1], 0).into()], ..NetConfig::default() };
        let keypair = net::Keypair::generate_secp256k1();
        let net = Net::start(net_config, keypair, Arc::new(Nothing), Access::new()).await.unwrap();
        (Pairing::new(net.handle(), Settings::new(file, config)), net)
    }

    /// A greeting with the secret of the code that was made last.
    fn hello(pairing: &Pairing, addresses: &[&str]) -> Hello {
        let State::Open { secret, .. } = &*pairing.state.lock() else { panic!("no code is open") };
        Hello {
            secret: BASE32_NOPAD.encode(&secret[..]),
            name: "B".into(),
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            trigger_port: 8086,
        }
    }

    #[tokio::test]
    async fn from_entering_to_the_end_it_is_told_how_it_stands() {
        let dir = tempfile::tempdir().unwrap();
        let (pairing, _net) = pairing(dir.path()).await;
        let peer = PeerId::random();
        let before = pairing.settings.get();
        pairing.open();
        let greeting = hello(&pairing, &["/ip4/192.0.2.1/udp/8090/quic-v1"]);
        assert!(pairing.take(&greeting.secret));
        // Whoever looks now sees that it goes on, and not that there is no code.
        assert_eq!(pairing.standing(), Standing::Joining);
        let reply = pairing.entered(peer, None, &greeting);
        let Reply::Refused { reason } = reply else { panic!("{reply:?}") };
        assert!(reason.contains("listens"), "{reason}");
        let Standing::Failed(told) = pairing.standing() else { panic!("it did not fail") };
        assert!(told.contains(&reason), "{told}");
        assert_eq!(pairing.settings.get(), before);

        pairing.open();
        let greeting = hello(&pairing, &["/ip4/192.0.2.1/tcp/8070"]);
        assert!(pairing.take(&greeting.secret) && !pairing.take(&greeting.secret));
        // The configuration cannot be written: both sides are told so.
        std::fs::write(dir.path().join("config.toml"), "nonsense").unwrap();
        let Reply::Refused { reason } = pairing.entered(peer, None, &greeting) else {
            panic!("it was written")
        };
        assert!(reason.contains("config.toml"), "{reason}");
        let Standing::Failed(told) = pairing.standing() else { panic!("it did not fail") };
        assert!(told.contains(&reason), "{told}");
    }
}

//! Pairing: the source A shows a code, a person enters it on the backup server
//! B, and each side adds the other one to its own configuration.
//!
//! A code is valid once, for ten minutes. Its secret has 80 bits, so it cannot be guessed, and
//! wrong secrets do not end it: otherwise a stranger could prevent pairing. They only slow down
//! the peer that sends them. Each side learns the peer id of the other one, which the channel
//! proves, and its addresses, which do no harm if they are wrong.

mod code;
mod wire;

use std::collections::{HashMap, VecDeque};
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
use tokio_util::sync::CancellationToken;

use self::code::{Code, SECRET_LEN, tcp_address};
use self::wire::{Hello, Reply, TIMEOUT};
use crate::settings::Settings;
use crate::tasks::Tasks;
use types::with_causes;

pub use self::code::CodeError;
pub use self::wire::PROTOCOL;

/// Time for which a code is valid.
const VALID_FOR: Duration = Duration::from_secs(600);
/// Time after which a first wrong secret is answered; each further one doubles it.
const WRONG_PAUSE: Duration = Duration::from_millis(250);
/// Maximum time after which a wrong secret is answered.
const WRONG_PAUSE_MAX: Duration = Duration::from_secs(8);
/// Maximum number of peers whose wrong secrets are counted.
const WRONG_PEERS_MAX: usize = 256;
/// Maximum number of peers that are answered at the same time. A further one takes the place of the
/// one that is being answered for the longest time.
const GREETINGS_MAX: usize = 16;
/// Maximum length of a host name, in characters.
const NAME_LEN_MAX: usize = 60;

/// Why pairing failed.
#[derive(Debug, thiserror::Error)]
pub enum PairError {
    /// The text is not a pairing code.
    #[error(transparent)]
    Code(#[from] CodeError),
    /// The code was made by this instance.
    #[error("this pairing code was made on this computer; enter it on the backup server")]
    Own,
    /// The other computer cannot be reached.
    #[error(
        "cannot connect to the other computer at {addresses}; open TCP port {port} in its firewall"
    )]
    Unreachable {
        /// The addresses that were tried.
        addresses: String,
        /// The port of the first address.
        port: u16,
        /// The error of the network.
        #[source]
        source: Box<NetError>,
    },
    /// The other computer closed the stream or sent something unexpected.
    #[error(
        "the other computer ended the pairing; check that it runs the same version of archivist"
    )]
    Broken(#[source] std::io::Error),
    /// The name or the address of the other computer is not valid here.
    #[error("the other computer has a name or an address that is not valid: {0:?}")]
    Unusable(String),
    /// The other computer refused, with this reason.
    #[error("the other computer refused the pairing: {0}")]
    Refused(String),
    /// The network of this instance failed.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The backup server has no TCP address.
    #[error("the backup server listens on no TCP address; check its [node] bind and listen_port")]
    Nowhere,
    /// The configuration of this instance cannot be changed.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// The result of entering a code on the backup server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// The name of the new source in this configuration.
    pub name: String,
    /// The peer id of the source.
    pub peer: PeerId,
    /// The URL of its manifest server.
    pub manifest_server_url: String,
    /// The addresses that it listens on.
    pub addresses: Vec<Multiaddr>,
    /// The changes on both sides, as sentences for people.
    pub changes: Vec<String>,
}

/// The state of the newest code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CodeState {
    /// No code was made.
    None,
    /// The code was not entered yet.
    Waiting {
        /// The time at which it expires.
        until: Timestamp,
    },
    /// The code was entered; the configuration is being changed.
    Joining,
    /// The code was entered and both sides are paired.
    Joined {
        /// The peer on which it was entered.
        peer: PeerId,
        /// The changes of this configuration, as sentences for people.
        changes: Vec<String>,
    },
    /// The code has expired.
    Expired,
    /// The code is no longer valid, for this reason.
    Failed(String),
}

#[derive(Debug)]
enum State {
    None,
    Open { secret: [u8; SECRET_LEN], until: Timestamp },
    Joining,
    Joined { peer: PeerId, changes: Vec<String> },
    Failed(String),
}

/// Pairs this instance with others. Clones share the code.
#[derive(Clone)]
pub struct Pairing {
    net: Handle,
    settings: Settings,
    state: Arc<Mutex<State>>,
    /// Number of wrong secrets since the newest code was made, by peer and by address.
    wrong: Arc<Mutex<HashMap<String, u32>>>,
}

impl std::fmt::Debug for Pairing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pairing")
    }
}

impl Pairing {
    /// Creates a value without a valid code.
    pub fn new(net: Handle, settings: Settings) -> Self {
        let state = Arc::new(Mutex::new(State::None));
        Self { net, settings, state, wrong: Arc::default() }
    }

    /// Makes a code, and returns it with its expiry time. An earlier code is no
    /// longer valid.
    pub fn open(&self) -> (String, Timestamp) {
        let secret: [u8; SECRET_LEN] = rand::random();
        let until = Timestamp::now() + VALID_FOR;
        let mut addresses = self.net.announce_addrs().to_vec();
        addresses.extend(self.net.listen_addrs());
        let code = Code::new(secret, self.net.peer_id(), &addresses);
        *self.state.lock() = State::Open { secret, until };
        self.wrong.lock().clear();
        (code.to_string(), until)
    }

    /// Returns the state of the newest code.
    pub fn code_state(&self) -> CodeState {
        match &*self.state.lock() {
            State::None => CodeState::None,
            State::Open { until, .. } if *until < Timestamp::now() => CodeState::Expired,
            State::Open { until, .. } => CodeState::Waiting { until: *until },
            State::Joining => CodeState::Joining,
            State::Joined { peer, changes } => {
                CodeState::Joined { peer: *peer, changes: changes.clone() }
            }
            State::Failed(reason) => CodeState::Failed(reason.clone()),
        }
    }

    /// Answers peers on which the code was entered, until the tasks must end.
    pub async fn serve(self, mut streams: mpsc::Receiver<NetStream>, tasks: Tasks) {
        let stop = tasks.stop_token();
        let mut running: VecDeque<(PeerId, CancellationToken)> = VecDeque::new();
        loop {
            let stream = tokio::select! {
                () = stop.cancelled() => return,
                stream = streams.recv() => stream,
            };
            let Some(stream) = stream else { return };
            let peer = stream.peer();
            running.retain(|(_, ended)| !ended.is_cancelled());
            // One for each peer, so that a peer that is slowed down cannot go around it.
            let same = running.iter().position(|(other, _)| *other == peer);
            let in_the_way = same.or_else(|| (running.len() >= GREETINGS_MAX).then_some(0));
            if let Some((_, ended)) = in_the_way.and_then(|at| running.remove(at)) {
                ended.cancel();
            }
            let ended = stop.child_token();
            running.push_back((peer, ended.clone()));
            let this = self.clone();
            tasks.spawn("pairing", async move {
                match tokio::time::timeout(TIMEOUT, this.greet(stream, &ended)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::debug!(%peer, %error, "a pairing was interrupted"),
                    Err(_) => tracing::debug!(%peer, "a pairing timed out"),
                }
                ended.cancel();
            });
        }
    }

    /// Answers a peer. Until it has shown the right secret, `ended` interrupts this.
    async fn greet(&self, mut stream: NetStream, ended: &CancellationToken) -> std::io::Result<()> {
        let peer = stream.peer();
        let received = ended.run_until_cancelled(wire::receive(&mut stream)).await;
        let Some(hello) = received else { return Ok(()) };
        let hello: Hello = hello?;
        let observed = self.observed_ip(peer).await;
        let reply = if self.use_secret(&hello.secret) {
            let this = self.clone();
            let added =
                tokio::task::spawn_blocking(move || this.add_backup_server(peer, observed, &hello))
                    .await;
            added.unwrap_or_else(|panic| self.failed(panic.to_string()))
        } else {
            let pause = self.count_wrong(peer, observed);
            tracing::warn!(%peer, "refused a wrong pairing code");
            if ended.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return Ok(());
            }
            Reply::Refused {
                reason: "the pairing code is not valid or has expired; make a new one with \
                         `archivist pair`"
                    .into(),
            }
        };
        wire::send(&mut stream, &reply).await?;
        futures::AsyncWriteExt::close(&mut stream).await
    }

    /// Reports whether this is the secret of the valid code, which is used up by
    /// that.
    fn use_secret(&self, given: &str) -> bool {
        let mut state = self.state.lock();
        let State::Open { secret, until } = &*state else { return false };
        if *until < Timestamp::now() {
            return false;
        }
        let given = BASE32_NOPAD.decode(given.as_bytes()).unwrap_or_default();
        if bool::from(given.ct_eq(&secret[..])) {
            *state = State::Joining;
            return true;
        }
        false
    }

    /// Counts a wrong secret, and returns the time after which it is answered.
    fn count_wrong(&self, peer: PeerId, observed: Option<IpAddr>) -> Duration {
        let mut wrong = self.wrong.lock();
        let senders = [Some(peer.to_string()), observed.map(|ip| ip.to_string())];
        let mut before = 0;
        for sender in senders.into_iter().flatten() {
            if wrong.len() >= WRONG_PEERS_MAX && !wrong.contains_key(&sender) {
                // A sender with so many peers is slowed down by its address.
                continue;
            }
            let count = wrong.entry(sender).or_default();
            before = before.max(*count);
            *count = count.saturating_add(1);
        }
        WRONG_PAUSE.saturating_mul(1 << before.min(16)).min(WRONG_PAUSE_MAX)
    }

    /// Returns the IP address that the peer is connected from.
    async fn observed_ip(&self, peer: PeerId) -> Option<IpAddr> {
        let peers = self.net.peers().await.ok()?;
        let addresses = peers.into_iter().find(|info| info.peer == peer)?.addresses;
        addresses.iter().find_map(ip_of)
    }

    /// Adds the backup server to the configuration after the code was entered
    /// on it. A peer that disconnects meanwhile does not interrupt this.
    fn add_backup_server(&self, peer: PeerId, observed: Option<IpAddr>, hello: &Hello) -> Reply {
        let changes = match self.configure_backup_server(peer, observed, hello) {
            Ok(changes) => changes,
            Err(error) => return self.failed(with_causes(&error)),
        };
        tracing::info!(%peer, "paired with a backup server");
        *self.state.lock() = State::Joined { peer, changes: changes.clone() };
        Reply::Paired {
            name: host_name(),
            addresses: self.net.listen_addrs(),
            manifest_port: self.settings.get().manifest_server.port,
            changes,
        }
    }

    /// Records why the pairing failed, for both sides.
    fn failed(&self, reason: String) -> Reply {
        tracing::warn!(reason, "pairing failed");
        *self.state.lock() = State::Failed(format!("{reason}. Make a new code to try again"));
        Reply::Refused { reason }
    }

    /// Writes the backup server into the configuration of the source. Returns
    /// the changes, as sentences for people.
    fn configure_backup_server(
        &self,
        peer: PeerId,
        observed: Option<IpAddr>,
        hello: &Hello,
    ) -> Result<Vec<String>, PairError> {
        let listens: Vec<SocketAddr> = hello.addresses.iter().filter_map(tcp_address).collect();
        // The address that it is connected from with its port is more reliable
        // than the addresses that it lists.
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
                // A second backup server polls; only the first is triggered.
                draft.add_item("node.allowed_peers", &peer.to_string())?;
                changes.push(format!("{peer} may fetch blocks, in addition to the backup server"));
            }
            if let Some(ip) = observed.filter(|ip| needs_whitelist(config, *ip)) {
                draft.add_item("manifest_server.whitelisted_ips", &ip.to_string())?;
                changes.push(format!("{ip} may request manifests"));
            }
            Ok(())
        })?;
        Ok(changes)
    }

    /// Enters a code that another computer has shown. This instance becomes its
    /// backup server.
    ///
    /// # Errors
    ///
    /// Returns [`PairError`] if the code is not valid, or if the other computer
    /// cannot be reached or refuses. The configuration is unchanged then.
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
            this.configure_source(&wanted, peer, &url, host, port).map(|name| (name, url))
        });
        let (name, url) =
            noted.await.map_err(|error| PairError::Broken(std::io::Error::other(error)))??;
        let mut all = vec![format!(
            "on this computer: {name:?} ({url}) is a source, and the backup server is enabled"
        )];
        all.extend(
            changes
                .iter()
                .map(|change| format!("on the other computer: {}", printable(change, 400))),
        );
        Ok(Joined { name, peer: code.peer, manifest_server_url: url, addresses, changes: all })
    }

    async fn talk(&self, code: &Code) -> Result<Reply, PairError> {
        let mut stream = self.net.open(code.peer, PROTOCOL).await?;
        let config = self.settings.get();
        let hello = Hello {
            secret: BASE32_NOPAD.encode(&code.secret),
            name: host_name(),
            addresses: self.net.listen_addrs(),
            trigger_port: config.backup_server.trigger_port,
        };
        wire::send(&mut stream, &hello).await.map_err(PairError::Broken)?;
        wire::receive(&mut stream).await.map_err(PairError::Broken)
    }

    /// Writes the source into the configuration of the backup server. Returns
    /// its name there.
    fn configure_source(
        &self,
        wanted: &str,
        peer: PeerId,
        url: &str,
        host: IpAddr,
        port: Option<u16>,
    ) -> Result<String, PairError> {
        let url: ManifestUrl = url.parse().map_err(|_| PairError::Unusable(url.to_owned()))?;
        // The default port needs no address: the host of the URL is used.
        let addresses: Vec<Multiaddr> = port
            .filter(|port| *port != config::DEFAULT_LISTEN_PORT)
            .map(|port| multiaddr_of(SocketAddr::new(host, port)))
            .into_iter()
            .collect();
        let mut used_name: Option<Name> = None;
        self.settings.edit_from(|config, draft| {
            let known = config.backup_server.source_peers.iter().find(|one| one.peer_id == peer);
            used_name = match known {
                Some(known) => Some(known.name.clone()),
                None => free_name(wanted, |name| config.source(name).is_some()).parse().ok(),
            };
            let Some(name) = &used_name else { return Ok(()) };
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
                    quota: config::ByteSize::default(),
                    folders_max: config::SourcePeer::FOLDERS_MAX_DEFAULT,
                })?,
            }
            draft.set("backup_server.enabled", "true")
        })?;
        let name = used_name.ok_or_else(|| PairError::Unusable(wanted.to_owned()))?;
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

/// Returns the host name of this computer.
fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if name.is_empty() { "archivist".to_owned() } else { name }
}

/// Returns a text of another computer without control characters and with a
/// limited length.
fn printable(text: &str, len_max: usize) -> String {
    let clean: String = text.chars().filter(|c| !c.is_control()).take(len_max).collect();
    let clean = clean.trim();
    if clean.is_empty() { "another computer".to_owned() } else { clean.to_owned() }
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
mod tests;

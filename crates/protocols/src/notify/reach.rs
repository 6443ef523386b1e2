//! Reaching the backup server: a connection over libp2p, and the trigger.

use std::fmt;
use std::time::Duration;

use config::{host_of, peer_id_of};
use futures::future::BoxFuture;
use net::{Handle, Multiaddr, NetError, PeerId};
use reqwest::StatusCode;
use url::Url;

/// A connection over libp2p has to be there within this.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// A connection to the trigger's port has to be there within this …
const HTTP_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// … and its answer within this, in all.
const HTTP_TIMEOUT: Duration = Duration::from_secs(10);

/// Why the trigger did not arrive. None of it is fatal: the backup server
/// also asks by itself.
#[derive(Debug, thiserror::Error)]
pub enum TriggerError {
    /// The HTTP client cannot be set up.
    #[error("the HTTP client cannot be set up")]
    Setup(#[source] reqwest::Error),
    /// There is no host to send it to.
    #[error("{0} has no host that a trigger could be sent to")]
    NoHost(Multiaddr),
    /// Nobody takes connections there.
    #[error(
        "no connection to {url}: check that the backup server runs there, that its [backup_server] \
         trigger_port is [sync] backup_trigger_port here, and that no firewall is in between"
    )]
    Connect {
        /// What was asked.
        url: Url,
        /// What the connection said.
        #[source]
        source: reqwest::Error,
    },
    /// It took too long.
    #[error("{url} did not answer within {after:?}")]
    Timeout {
        /// What was asked.
        url: Url,
        /// The limit that was passed.
        after: Duration,
    },
    /// The backup server does not take triggers from this machine.
    #[error(
        "{0} takes no trigger from here: on the backup server, manifest_server_url of this source \
         has to lead to the address that this machine has there"
    )]
    Forbidden(Url),
    /// What answers is no trigger of ours.
    #[error(
        "{url} answered with status {status}: another program seems to listen there; set [sync] \
         backup_trigger_port to the [backup_server] trigger_port of the backup server"
    )]
    Status {
        /// What was asked.
        url: Url,
        /// What it answered.
        status: u16,
    },
    /// The connection broke.
    #[error("the connection to {url} broke")]
    Broken {
        /// What was asked.
        url: Url,
        /// What the connection said.
        #[source]
        source: reqwest::Error,
    },
}

/// The two ways to a backup server: so that tests can have others.
pub(super) trait Reach: Send + Sync {
    /// Connects over libp2p.
    fn connect(&self, peer: PeerId, address: Multiaddr)
    -> BoxFuture<'static, Result<(), NetError>>;

    /// Sends the trigger to the host of `address`.
    fn trigger(
        &self,
        address: Multiaddr,
        port: u16,
    ) -> BoxFuture<'static, Result<(), TriggerError>>;
}

/// The ways over the network.
#[derive(Clone)]
pub(super) struct Network {
    net: Handle,
    http: reqwest::Client,
}

impl Network {
    pub(super) fn new(net: Handle) -> Result<Self, TriggerError> {
        let http = reqwest::Client::builder()
            .user_agent(concat!("archivist/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(HTTP_CONNECT_TIMEOUT)
            .pool_max_idle_per_host(1)
            .build()
            .map_err(TriggerError::Setup)?;
        Ok(Self { net, http })
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Network").finish_non_exhaustive()
    }
}

impl Reach for Network {
    fn connect(
        &self,
        peer: PeerId,
        address: Multiaddr,
    ) -> BoxFuture<'static, Result<(), NetError>> {
        let net = self.net.clone();
        Box::pin(async move { net.connect(peer, [address], CONNECT_TIMEOUT).await })
    }

    fn trigger(
        &self,
        address: Multiaddr,
        port: u16,
    ) -> BoxFuture<'static, Result<(), TriggerError>> {
        let http = self.http.clone();
        Box::pin(async move {
            let url = trigger_url(&address, port).ok_or(TriggerError::NoHost(address))?;
            match tokio::time::timeout(HTTP_TIMEOUT, post(&http, &url)).await {
                Ok(result) => result,
                Err(_) => Err(TriggerError::Timeout { url, after: HTTP_TIMEOUT }),
            }
        })
    }
}

async fn post(http: &reqwest::Client, url: &Url) -> Result<(), TriggerError> {
    let response = match http.post(url.clone()).send().await {
        Ok(response) => response,
        Err(source) => {
            let (url, source) = (url.clone(), source.without_url());
            return Err(match source.is_connect() {
                true => TriggerError::Connect { url, source },
                false => TriggerError::Broken { url, source },
            });
        }
    };
    match response.status() {
        StatusCode::ACCEPTED => Ok(()),
        StatusCode::FORBIDDEN => Err(TriggerError::Forbidden(url.clone())),
        status => Err(TriggerError::Status { url: url.clone(), status: status.as_u16() }),
    }
}

/// Where the trigger of the backup server at `address` is.
pub(super) fn trigger_url(address: &Multiaddr, port: u16) -> Option<Url> {
    let host = host_of(address)?;
    let url = Url::parse(&format!("http://{host}:{port}/trigger")).ok()?;
    // A name with a slash or an `@` in it would lead elsewhere.
    let is_so = url.path() == "/trigger"
        && url.query().is_none()
        && url.fragment().is_none()
        && url.username().is_empty()
        && url.password().is_none();
    is_so.then_some(url)
}

/// The peer that an address leads to.
pub(super) fn peer_of(address: &Multiaddr) -> Option<PeerId> {
    peer_id_of(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_host_has_a_trigger() {
        let peer = "/p2p/16Uiu2HAm5hPxT7s3TA2f4b4YjAPzS7yLRSgdj87ysDZ6NAXMiRuY";
        for (address, url) in [
            ("/ip4/192.0.2.10/tcp/8070", Some("http://192.0.2.10:8086/trigger")),
            ("/ip4/192.0.2.10/udp/8090/quic-v1", Some("http://192.0.2.10:8086/trigger")),
            ("/ip6/2001:db8::1/tcp/8070", Some("http://[2001:db8::1]:8086/trigger")),
            ("/dns/nas.example/tcp/8070", Some("http://nas.example:8086/trigger")),
            ("/dns4/nas.example/tcp/8070", Some("http://nas.example:8086/trigger")),
            ("/dns6/nas.example/tcp/8070", Some("http://nas.example:8086/trigger")),
            (&format!("/ip4/192.0.2.1/tcp/1{peer}/p2p-circuit"), None),
        ] {
            let address: Multiaddr = format!("{address}{peer}").parse().unwrap();
            let found = trigger_url(&address, 8086).map(|url| url.to_string());
            assert_eq!(found.as_deref(), url, "{address}");
            assert!(peer_of(&address).is_some());
        }
        // What is no host makes no URL, and no other one either.
        for name in ["evil@good", "user:word@good", "a b", "x/../y", "x/trigger?", "good#"] {
            let name = multiaddr::Protocol::Dns(name.into());
            let address = Multiaddr::empty().with(name);
            assert_eq!(trigger_url(&address, 8086), None, "{address}");
        }
    }
}

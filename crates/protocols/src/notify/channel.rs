//! The two ways to notify a backup server: a libp2p connection, and the HTTP trigger.

use std::fmt;
use std::time::Duration;

use config::{host_of, peer_id_of};
use futures::future::BoxFuture;
use net::{Handle, Multiaddr, NetError, PeerId};
use reqwest::StatusCode;
use url::Url;

/// Maximum time to connect over libp2p.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// Maximum time to connect to the trigger port.
const HTTP_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum time of the trigger request, including the connection.
const HTTP_TIMEOUT: Duration = Duration::from_secs(10);

/// Reason why a trigger was not delivered. None is fatal: the backup server also polls
/// automatically.
#[derive(Debug, thiserror::Error)]
pub enum TriggerError {
    /// The HTTP client cannot be created.
    #[error("cannot create the HTTP client")]
    Setup(#[source] reqwest::Error),
    /// The address names no host.
    #[error("{0} has no host to send the trigger to")]
    NoHost(Multiaddr),
    /// The connection to the trigger port failed.
    #[error(
        "cannot connect to {url}: check that the backup server runs there, that [sync] \
         backup_trigger_port here equals [backup_server] trigger_port there, and that no firewall \
         blocks the port"
    )]
    Connect {
        /// URL of the trigger.
        url: Url,
        /// Error of the connection.
        #[source]
        source: reqwest::Error,
    },
    /// The backup server did not answer in time.
    #[error("{url} did not answer within {after:?}")]
    Timeout {
        /// URL of the trigger.
        url: Url,
        /// The time limit.
        after: Duration,
    },
    /// The backup server does not accept triggers from this computer.
    #[error(
        "{0} refuses triggers from this computer: on the backup server, manifest_server_url of this \
         source must name the address from which this computer connects"
    )]
    Forbidden(Url),
    /// The answer is not that of a trigger server.
    #[error(
        "{url} answered with status {status}, as if another program listened there: set [sync] \
         backup_trigger_port to the [backup_server] trigger_port of the backup server"
    )]
    Status {
        /// URL of the trigger.
        url: Url,
        /// HTTP status of the answer.
        status: u16,
    },
    /// The connection failed during the request.
    #[error("the connection to {url} failed")]
    Broken {
        /// URL of the trigger.
        url: Url,
        /// Error of the connection.
        #[source]
        source: reqwest::Error,
    },
}

/// The two ways to a backup server, behind a trait for tests.
pub(super) trait Channel: Send + Sync {
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

/// The channel over the network.
#[derive(Clone)]
pub(super) struct NetworkChannel {
    net: Handle,
    http: reqwest::Client,
    #[cfg(feature = "sim")]
    simulated: Option<SimulatedTrigger>,
}

/// Function that takes the place of the HTTP connection in a simulation: it delivers a trigger,
/// and reports whether it was accepted.
#[cfg(feature = "sim")]
#[derive(Clone)]
pub struct SimulatedTrigger(
    /// The function.
    pub std::sync::Arc<dyn Fn() -> BoxFuture<'static, bool> + Send + Sync>,
);

impl NetworkChannel {
    pub(super) fn new(net: Handle) -> Result<Self, TriggerError> {
        let http = reqwest::Client::builder()
            .user_agent(concat!("archivist/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(HTTP_CONNECT_TIMEOUT)
            .pool_max_idle_per_host(1)
            .build()
            .map_err(TriggerError::Setup)?;
        Ok(Self {
            net,
            http,
            #[cfg(feature = "sim")]
            simulated: None,
        })
    }

    /// Returns a channel that delivers triggers with `trigger` instead of a network.
    #[cfg(feature = "sim")]
    pub(super) fn simulated(net: Handle, trigger: SimulatedTrigger) -> Result<Self, TriggerError> {
        Ok(Self { simulated: Some(trigger), ..Self::new(net)? })
    }
}

impl fmt::Debug for NetworkChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NetworkChannel").finish_non_exhaustive()
    }
}

impl Channel for NetworkChannel {
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
        #[cfg(feature = "sim")]
        if let Some(SimulatedTrigger(trigger)) = &self.simulated {
            let sent = trigger();
            return Box::pin(async move {
                let url = trigger_url(&address, port).ok_or(TriggerError::NoHost(address))?;
                match tokio::time::timeout(HTTP_TIMEOUT, sent).await {
                    Ok(true) => Ok(()),
                    _ => Err(TriggerError::Timeout { url, after: HTTP_TIMEOUT }),
                }
            });
        }
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

/// Returns the URL of the trigger of the backup server at `address`.
pub(super) fn trigger_url(address: &Multiaddr, port: u16) -> Option<Url> {
    let host = host_of(address)?;
    let url = Url::parse(&format!("http://{host}:{port}/trigger")).ok()?;
    // A name that contains a slash or an `@` would lead to another host or path.
    let is_plain = url.path() == "/trigger"
        && url.query().is_none()
        && url.fragment().is_none()
        && url.username().is_empty()
        && url.password().is_none();
    is_plain.then_some(url)
}

/// Returns the peer id at the end of an address.
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
        // A name that is no host name gives no URL, and not that of another host either.
        for name in ["evil@good", "user:word@good", "a b", "x/../y", "x/trigger?", "good#"] {
            let name = multiaddr::Protocol::Dns(name.into());
            let address = Multiaddr::empty().with(name);
            assert_eq!(trigger_url(&address, 8086), None, "{address}");
        }
    }

    #[test]
    fn fuzz_trigger_url() {
        let examples = ["/ip4/192.0.2.10/tcp/8070", "/dns4/nas.example/tcp/1", "/ip6/::1/tcp/2"];
        fuzzing::target!(&examples, |bytes: &[u8]| {
            let text = String::from_utf8_lossy(bytes);
            let name = Multiaddr::empty().with(multiaddr::Protocol::Dns(text.clone()));
            for address in [text.parse().ok(), Some(name)].into_iter().flatten() {
                peer_of(&address);
                if let Some(url) = trigger_url(&address, 8086) {
                    assert_eq!((url.port(), url.path()), (Some(8086), "/trigger"), "{address}");
                }
            }
        });
    }
}

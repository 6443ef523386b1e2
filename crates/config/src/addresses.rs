//! Network values: IP addresses and networks, URLs, multiaddrs.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use libp2p_identity::PeerId;
use multiaddr::{Multiaddr, Protocol};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use url::Url;

use crate::values::{ValueError, serde_as_text};

/// An IP address, or a network in CIDR notation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Network(IpNet);

impl Network {
    /// Reports whether `address` is in the network. An IPv4 address reported by
    /// an IPv6 socket (`::ffff:192.0.2.1`) is treated as the IPv4 address.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }
}

impl From<IpAddr> for Network {
    fn from(address: IpAddr) -> Self {
        Self(IpNet::from(address.to_canonical()))
    }
}

impl FromStr for Network {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        if text.is_empty() {
            return Err(ValueError::Empty);
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(address.into());
        }
        let network: IpNet = text.parse().map_err(|_| {
            let is_name =
                text.contains(|c: char| c.is_ascii_alphabetic()) && !text.contains([':', '/']);
            if is_name { ValueError::HostName } else { ValueError::Network }
        })?;
        // Mapped addresses are compared as IPv4, so this network would match
        // nothing.
        if let IpAddr::V6(v6) = network.addr()
            && let Some(v4) = v6.to_ipv4_mapped()
        {
            let bits = network.prefix_len().saturating_sub(96);
            return Err(ValueError::MappedIpv4(format!("{v4}/{bits}")));
        }
        Ok(Self(network))
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.prefix_len() == self.0.max_prefix_len() {
            fmt::Display::fmt(&self.0.addr(), f)
        } else {
            fmt::Display::fmt(&self.0, f)
        }
    }
}

serde_as_text!(Network);

/// URL of a manifest server: `http` or `https`, a host, and no user name, query
/// or fragment.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ManifestUrl(Url);

impl ManifestUrl {
    /// Returns the URL of a resource below this one, such as `manifests`.
    pub fn endpoint(&self, name: &str) -> Url {
        let mut url = self.0.clone();
        let path = format!("{}/{name}", url.path().trim_end_matches('/'));
        url.set_path(&path);
        url
    }

    /// Returns the host: a name or an IP address.
    pub fn host(&self) -> url::Host<&str> {
        self.0.host().expect("from_str rejects a URL without a host")
    }

    /// Returns the port, or the default port of the scheme.
    pub fn port(&self) -> u16 {
        self.0.port_or_known_default().unwrap_or(80)
    }
}

impl FromStr for ManifestUrl {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        if text.is_empty() {
            return Err(ValueError::Empty);
        }
        // The URL parser follows browsers: it accepts spaces, backslashes and
        // missing slashes, and changes their meaning.
        if text.chars().any(|c| c.is_control() || c.is_whitespace() || c == '\\') {
            return Err(ValueError::Url("spaces and backslashes are not allowed".to_owned()));
        }
        let lower = text.to_ascii_lowercase();
        let rest = lower.strip_prefix("http://").or_else(|| lower.strip_prefix("https://"));
        let Some(rest) = rest else { return Err(ValueError::UrlScheme) };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        if authority.is_empty() {
            return Err(ValueError::Url("the host is missing".to_owned()));
        }
        if !authority.starts_with('[') && authority.matches(':').count() > 1 {
            return Err(ValueError::UrlBrackets);
        }
        let mut url = Url::parse(text).map_err(|error| ValueError::Url(error.to_string()))?;
        if url.host().is_none() {
            return Err(ValueError::Url("the host is missing".to_owned()));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(ValueError::UrlPart("a user name"));
        }
        if url.query().is_some() {
            return Err(ValueError::UrlPart("a query (`?…`)"));
        }
        if url.fragment().is_some() {
            return Err(ValueError::UrlPart("a fragment (`#…`)"));
        }
        if url.port() == Some(0) {
            return Err(ValueError::PortZero);
        }
        let path = url.path().trim_end_matches('/').to_owned();
        url.set_path(&path);
        Ok(Self(url))
    }
}

impl fmt::Display for ManifestUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str().trim_end_matches('/'))
    }
}

serde_as_text!(ManifestUrl);

/// Returns the destination peer of a multiaddr: the last `/p2p` component,
/// unless it is the relay.
pub fn peer_id_of(address: &Multiaddr) -> Option<PeerId> {
    address.iter().fold(None, |peer, part| match part {
        Protocol::P2p(id) => Some(id),
        Protocol::P2pCircuit => None,
        _ => peer,
    })
}

/// Returns the host of a multiaddr as written in a URL: IPv6 in brackets.
/// `None` if a relay is in between, because the host is then the relay's.
pub fn host_of(address: &Multiaddr) -> Option<String> {
    if address.iter().any(|part| part == Protocol::P2pCircuit) {
        return None;
    }
    address.iter().find_map(|part| match part {
        Protocol::Ip4(ip) => Some(ip.to_string()),
        Protocol::Ip6(ip) => Some(format!("[{ip}]")),
        Protocol::Dns(name) | Protocol::Dns4(name) | Protocol::Dns6(name) => {
            Some(name.into_owned())
        }
        _ => None,
    })
}

/// The use of a multiaddr, which determines the required components.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AddressUse {
    /// Requires a host and a port.
    Reach,
    /// Requires a host, a port and a peer id.
    Peer,
}

/// Parses a multiaddr and checks that it can be dialed.
pub(crate) fn parse_address(text: &str, purpose: AddressUse) -> Result<Multiaddr, ValueError> {
    if text.is_empty() {
        return Err(ValueError::Empty);
    }
    let address: Multiaddr = text.parse().map_err(|_| ValueError::Multiaddr)?;
    let mut parts = address.iter().peekable();
    if matches!(parts.peek(), Some(Protocol::Ip6zone(_))) {
        parts.next();
    }
    let host = parts.next();
    match &host {
        Some(Protocol::Ip4(ip)) if ip.is_unspecified() => {
            return Err(ValueError::Unspecified(IpAddr::V4(*ip)));
        }
        Some(Protocol::Ip6(ip)) if ip.is_unspecified() => {
            return Err(ValueError::Unspecified(IpAddr::V6(*ip)));
        }
        Some(
            Protocol::Ip4(_)
            | Protocol::Ip6(_)
            | Protocol::Dns(_)
            | Protocol::Dns4(_)
            | Protocol::Dns6(_)
            | Protocol::Dnsaddr(_),
        ) => {}
        _ => return Err(ValueError::NoHost),
    }
    match parts.next() {
        Some(Protocol::Tcp(0) | Protocol::Udp(0)) => return Err(ValueError::PortZero),
        Some(Protocol::Tcp(_) | Protocol::Udp(_)) => {}
        // The DNS records of a dnsaddr contain the ports.
        _ if matches!(host, Some(Protocol::Dnsaddr(_))) => {}
        _ => return Err(ValueError::NoPort),
    }
    if purpose == AddressUse::Peer && peer_id_of(&address).is_none() {
        return Err(ValueError::NoPeerId);
    }
    Ok(address)
}

/// Serde for an optional multiaddr: `None` is the empty string.
pub(crate) mod optional_address {
    use super::{Deserialize, Deserializer, Multiaddr, Serializer};

    pub(crate) fn serialize<S: Serializer>(
        address: &Option<Multiaddr>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match address {
            Some(address) => serializer.collect_str(address),
            None => serializer.serialize_str(""),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Multiaddr>, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        if text.is_empty() {
            return Ok(None);
        }
        text.parse().map(Some).map_err(serde::de::Error::custom)
    }
}

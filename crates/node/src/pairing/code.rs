//! The pairing code: the peer id of the computer that shows it, the addresses
//! that this computer listens on, and a secret that is valid once.
//!
//! Format: one version byte; the secret; the length of the peer id and the peer
//! id; the number of addresses, each a kind, the address and a port; and the
//! first bytes of the BLAKE3 hash of everything before, so that a typing error
//! is found before any connection is tried. Written in base32 (RFC 4648)
//! without padding, in lower case; case, blanks and hyphens are ignored.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use data_encoding::BASE32_NOPAD;
use multiaddr::Protocol;
use net::{Multiaddr, PeerId};

const VERSION: u8 = 1;
/// Length of the secret in bytes: 80 bits are enough for a secret that expires
/// after minutes and after a few wrong tries.
pub(crate) const SECRET_LEN: usize = 10;
const CHECKSUM_LEN: usize = 3;
/// Maximum number of addresses: more make the code too long to be typed.
const ADDRESSES_MAX: usize = 4;
/// Maximum length of a text that is parsed, in bytes: more than any code
/// has.
const TEXT_LEN_MAX: usize = 1000;

/// The content of a pairing code.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Code {
    pub(crate) secret: [u8; SECRET_LEN],
    pub(crate) peer: PeerId,
    /// The TCP addresses that it listens on.
    pub(crate) addresses: Vec<SocketAddr>,
}

/// Why a text is not a pairing code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodeError {
    /// The text is incomplete or mistyped.
    #[error(
        "the pairing code is incomplete or mistyped; copy the complete code that `archivist pair` \
         printed on the other computer"
    )]
    Damaged,
    /// Another version of the program made the code.
    #[error(
        "the pairing code was made by another version of archivist; update the older of the two"
    )]
    Version,
}

impl Code {
    /// Creates a code with the few of `addresses` that another computer is most
    /// likely to reach.
    pub(crate) fn new(secret: [u8; SECRET_LEN], peer: PeerId, addresses: &[Multiaddr]) -> Self {
        let mut usable: Vec<SocketAddr> = addresses.iter().filter_map(tcp_address).collect();
        usable.sort_by_key(|address| (rank(address.ip()), *address));
        usable.dedup();
        usable.truncate(ADDRESSES_MAX);
        Self { secret, peer, addresses: usable }
    }
}

/// Returns the socket address of a multiaddr, if it is plain TCP.
pub(crate) fn tcp_address(address: &Multiaddr) -> Option<SocketAddr> {
    let mut parts = address.iter();
    let ip: IpAddr = match parts.next()? {
        Protocol::Ip4(ip) => ip.into(),
        Protocol::Ip6(ip) => ip.into(),
        _ => return None,
    };
    match (parts.next()?, parts.next()) {
        (Protocol::Tcp(port), None | Some(Protocol::P2p(_))) => Some(SocketAddr::new(ip, port)),
        _ => None,
    }
}

/// Returns the sort key of an address: addresses that other computers are
/// likely to reach come first.
fn rank(ip: IpAddr) -> u8 {
    match ip {
        _ if ip.is_loopback() => 3,
        IpAddr::V4(ip) if ip.is_link_local() => 2,
        // A link-local address is useless without the name of an interface.
        IpAddr::V6(ip) if ip.is_unicast_link_local() => 4,
        IpAddr::V4(_) => 0,
        IpAddr::V6(_) => 1,
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = vec![VERSION];
        bytes.extend(self.secret);
        let peer = self.peer.to_bytes();
        bytes.push(u8::try_from(peer.len()).map_err(|_| fmt::Error)?);
        bytes.extend(peer);
        bytes.push(u8::try_from(self.addresses.len()).map_err(|_| fmt::Error)?);
        for address in &self.addresses {
            match address.ip() {
                IpAddr::V4(ip) => {
                    bytes.push(4);
                    bytes.extend(ip.octets());
                }
                IpAddr::V6(ip) => {
                    bytes.push(6);
                    bytes.extend(ip.octets());
                }
            }
            bytes.extend(address.port().to_be_bytes());
        }
        let checksum = checksum(&bytes);
        bytes.extend(checksum);
        f.write_str(&BASE32_NOPAD.encode(&bytes).to_ascii_lowercase())
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The secret must not get into logs.
        f.debug_struct("Code")
            .field("peer", &self.peer)
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_LEN] {
    let mut first = [0; CHECKSUM_LEN];
    first.copy_from_slice(&types::Hash::of(bytes).as_bytes()[..CHECKSUM_LEN]);
    first
}

impl FromStr for Code {
    type Err = CodeError;

    fn from_str(text: &str) -> Result<Self, CodeError> {
        if text.len() > TEXT_LEN_MAX {
            return Err(CodeError::Damaged);
        }
        let text: String =
            text.chars().filter(|c| !c.is_whitespace() && *c != '-').collect::<String>();
        let bytes = BASE32_NOPAD
            .decode(text.to_ascii_uppercase().as_bytes())
            .map_err(|_| CodeError::Damaged)?;
        let (bytes, _) = bytes
            .split_last_chunk::<CHECKSUM_LEN>()
            .filter(|(bytes, sum)| checksum(bytes) == **sum)
            .ok_or(CodeError::Damaged)?;
        let mut reader = Reader(bytes);
        if reader.byte()? != VERSION {
            return Err(CodeError::Version);
        }
        let secret = reader.array()?;
        let len = usize::from(reader.byte()?);
        let peer = PeerId::from_bytes(reader.slice(len)?).map_err(|_| CodeError::Damaged)?;
        let count = reader.byte()?;
        let mut addresses = Vec::new();
        for _ in 0..count {
            let ip: IpAddr = match reader.byte()? {
                4 => Ipv4Addr::from(reader.array::<4>()?).into(),
                6 => Ipv6Addr::from(reader.array::<16>()?).into(),
                _ => return Err(CodeError::Version),
            };
            addresses.push(SocketAddr::new(ip, u16::from_be_bytes(reader.array()?)));
        }
        if !reader.0.is_empty() {
            return Err(CodeError::Version);
        }
        Ok(Self { secret, peer, addresses })
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn slice(&mut self, len: usize) -> Result<&'a [u8], CodeError> {
        let (slice, rest) = self.0.split_at_checked(len).ok_or(CodeError::Damaged)?;
        self.0 = rest;
        Ok(slice)
    }

    fn array<const LEN: usize>(&mut self) -> Result<[u8; LEN], CodeError> {
        let (array, rest) = self.0.split_first_chunk().ok_or(CodeError::Damaged)?;
        self.0 = rest;
        Ok(*array)
    }

    fn byte(&mut self) -> Result<u8, CodeError> {
        Ok(self.array::<1>()?[0])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn code() -> Code {
        let addresses = [
            "/ip6/fe80::1/tcp/8070",
            "/ip4/127.0.0.1/tcp/8070",
            "/ip4/192.0.2.10/udp/8090/quic-v1",
            "/ip6/2001:db8::1/tcp/8070",
            "/ip4/192.0.2.10/tcp/8070",
            "/dns4/example.com/tcp/8070",
        ];
        let addresses: Vec<Multiaddr> =
            addresses.iter().map(|text| text.parse().unwrap()).collect();
        Code::new([7; SECRET_LEN], PeerId::random(), &addresses)
    }

    #[test]
    fn it_reads_as_it_was_written_however_it_is_spaced() {
        let code = code();
        let addresses: Vec<String> = code.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(
            addresses,
            ["192.0.2.10:8070", "[2001:db8::1]:8070", "127.0.0.1:8070", "[fe80::1]:8070"]
        );
        let text = code.to_string();
        assert_eq!(text.parse(), Ok(code.clone()));
        let spaced: Vec<String> = text
            .to_uppercase()
            .as_bytes()
            .chunks(5)
            .map(|c| String::from_utf8_lossy(c).into())
            .collect();
        assert_eq!(spaced.join("-").parse(), Ok(code.clone()));
        assert_eq!(format!(" {}\n", spaced.join(" ")).parse(), Ok(code));
    }

    #[test]
    fn the_secret_is_in_no_debug_text() {
        let text = format!("{:?}", code());
        assert!(text.contains("addresses"), "{text}");
        assert!(!text.contains("secret") && !text.contains("[7, 7"), "{text}");
    }

    proptest! {
        #[test]
        fn a_slip_is_found(at in any::<prop::sample::Index>(), to in "[a-z2-7]") {
            let text = code().to_string();
            let at = at.index(text.len());
            let mut slipped = text.clone();
            slipped.replace_range(at..=at, &to);
            prop_assume!(slipped != text);
            prop_assert!(slipped.parse::<Code>().is_err());
            prop_assert!(text[..at].parse::<Code>().is_err());
        }

        #[test]
        fn no_text_breaks_it(text in "\\PC{0,300}") {
            let _ = text.parse::<Code>();
        }
    }

    #[test]
    fn fuzz_pairing_code() {
        let code = code();
        let example = code.to_string();
        fuzzing::target!(&[example], |bytes: &[u8]| {
            // As text that a user types, and as the bytes of a code with a valid checksum.
            let _ = String::from_utf8_lossy(bytes).parse::<Code>();
            let sealed = BASE32_NOPAD.encode(&[bytes, &checksum(bytes)].concat());
            if let Ok(found) = sealed.parse::<Code>() {
                assert_eq!(found.to_string().parse(), Ok(found));
            }
        });
    }
}

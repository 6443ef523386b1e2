//! `/archivist/pair/1.0.0`: the computer on which a code was entered introduces
//! itself to the computer that showed the code.
//!
//! Each side sends one message, then the stream is closed. A message is a length
//! (four bytes, big-endian) and as many bytes of JSON. The libp2p channel proves
//! the peer id of each side; the secret proves that a person wants to pair.

use std::io;
use std::time::Duration;

use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use net::{Multiaddr, StreamProtocol};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Name of the protocol.
pub const PROTOCOL: StreamProtocol = StreamProtocol::new("/archivist/pair/1.0.0");
/// Maximum length of a message in bytes.
const MESSAGE_LEN_MAX: usize = 16 * 1024;
/// Time within which both messages must be exchanged.
pub(super) const TIMEOUT: Duration = Duration::from_secs(20);

/// The message of the computer on which the code was entered, the future backup
/// server.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Hello {
    /// The secret of the code in base32.
    pub(super) secret: String,
    /// The host name.
    pub(super) name: String,
    /// The addresses that it listens on.
    pub(super) addresses: Vec<Multiaddr>,
    /// The port of its trigger.
    pub(super) trigger_port: u16,
}

/// The answer of the computer that showed the code.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub(super) enum Reply {
    /// The backup server is in its configuration now.
    Paired {
        /// The host name.
        name: String,
        /// The addresses that it listens on.
        addresses: Vec<Multiaddr>,
        /// The port of its manifest server.
        manifest_port: u16,
        /// The changes of its configuration, as sentences for people.
        changes: Vec<String>,
    },
    /// Nothing was changed.
    Refused {
        /// The reason, as a sentence for people.
        reason: String,
    },
}

pub(super) async fn send(
    stream: &mut (impl AsyncWrite + Unpin),
    message: &impl Serialize,
) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    let len = u32::try_from(bytes.len())
        .ok()
        .filter(|len| *len as usize <= MESSAGE_LEN_MAX)
        .ok_or(io::ErrorKind::InvalidInput)?;
    stream.write_all(&len.to_be_bytes()).await?;
    stream.write_all(&bytes).await?;
    stream.flush().await
}

pub(super) async fn receive<T: DeserializeOwned>(
    stream: &mut (impl AsyncRead + Unpin),
) -> io::Result<T> {
    let mut len = [0; 4];
    stream.read_exact(&mut len).await?;
    let len = u32::from_be_bytes(len) as usize;
    if len > MESSAGE_LEN_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the message is too long"));
    }
    let mut bytes = vec![0; len];
    stream.read_exact(&mut bytes).await?;
    Ok(serde_json::from_slice(&bytes)?)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    /// Passes the bytes that a peer sends to [`receive`].
    fn received<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
        let mut bytes = futures::io::Cursor::new(bytes);
        receive(&mut bytes).now_or_never().expect("a cursor never waits").ok()
    }

    fn sent(message: &impl Serialize) -> Vec<u8> {
        let mut bytes = futures::io::Cursor::new(Vec::new());
        send(&mut bytes, message).now_or_never().expect("a cursor never waits").unwrap();
        bytes.into_inner()
    }

    #[test]
    fn fuzz_pairing_messages() {
        let addresses: Vec<Multiaddr> = vec!["/ip4/192.0.2.10/tcp/8070".parse().unwrap()];
        let hello = Hello {
            secret: "ge3diobrgi2dcmzu".into(),
            name: "nas".into(),
            addresses: addresses.clone(),
            trigger_port: 8086,
        };
        let paired = Reply::Paired {
            name: "desktop".into(),
            addresses,
            manifest_port: 8085,
            changes: vec!["a change".into()],
        };
        let refused = Reply::Refused { reason: "the code has expired".into() };
        let examples = [sent(&hello), sent(&paired), sent(&refused)];
        assert!(received::<Hello>(&examples[0]).is_some());
        assert!(examples[1..].iter().all(|bytes| received::<Reply>(bytes).is_some()));
        fuzzing::target!(&examples, |bytes: &[u8]| {
            if let Some(hello) = received::<Hello>(bytes) {
                assert_eq!(received::<Hello>(&sent(&hello)).unwrap().name, hello.name);
            }
            received::<Reply>(bytes);
        });
    }
}

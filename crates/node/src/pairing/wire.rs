//! `/archivist/pair/1.0.0`: the machine that was given a code introduces
//! itself to the one that showed it.
//!
//! One message each way on a stream, then it is closed: a length (four bytes,
//! big-endian) and so many bytes of JSON. The channel is that of libp2p, so
//! each side knows whom it talks to; the secret shows that a person meant it.

use std::io;
use std::time::Duration;

use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use net::{Multiaddr, StreamProtocol};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The name of the protocol.
pub const PROTOCOL: StreamProtocol = StreamProtocol::new("/archivist/pair/1.0.0");
/// The longest message, in bytes.
const MESSAGE_LEN_MAX: usize = 16 * 1024;
/// A conversation may take this long.
pub(super) const TIMEOUT: Duration = Duration::from_secs(20);

/// What the machine says that was given the code: it is to be the backup
/// server.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Hello {
    /// The secret of the code, in base32.
    pub(super) secret: String,
    /// What the machine calls itself.
    pub(super) name: String,
    /// Where it listens.
    pub(super) addresses: Vec<Multiaddr>,
    /// The port of its trigger.
    pub(super) trigger_port: u16,
}

/// What the other answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub(super) enum Reply {
    /// It has noted the backup server.
    Paired {
        /// What the machine calls itself.
        name: String,
        /// Where it listens.
        addresses: Vec<Multiaddr>,
        /// The port of its manifest server.
        manifest_port: u16,
        /// What it has set, in plain words.
        changes: Vec<String>,
    },
    /// It has not, and why.
    Refused {
        /// In plain words.
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
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message that is too long"));
    }
    let mut bytes = vec![0; len];
    stream.read_exact(&mut bytes).await?;
    Ok(serde_json::from_slice(&bytes)?)
}

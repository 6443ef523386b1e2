//! A source lists its snapshots on the backup server, and restores through it.
//!
//! `/archivist/snapshots/1.0.0` (docs/formats/wire.md): one stream, one request, its answers. A
//! peer gets only its own snapshots, and only if it may restore. The blocks then travel by the
//! block protocol ([`RemoteBlocks`]).
//!
//! Invariants: the source accepts a snapshot only with its own signature, so a backup server cannot
//! present one that never existed; lists are bounded on both sides.

mod blocks;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use futures::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use net::{Handle, NetStream, PeerId, StreamProtocol};
use tokio::sync::mpsc;
use types::FolderId;

use self::wire::{Answer, Failure, Request};
use crate::blocking::blocking;
use crate::exchange::{self, ExchangeError, Limits, finish, frame, read_frame, write_frame};

pub use self::blocks::{RemoteBlocks, RemoteBlocksError};
pub use self::wire::RemoteSnapshot;

/// Name of the snapshot protocol.
pub const SNAPSHOTS_PROTOCOL: StreamProtocol = StreamProtocol::new("/archivist/snapshots/1.0.0");

/// Maximum length of a request, in bytes.
const REQUEST_LEN_MAX: usize = 4096;
/// Maximum length of the answer for one snapshot, in bytes: two texts of 8 KiB, in which each byte
/// may be escaped as six.
const ANSWER_LEN_MAX: usize = 128 << 10;
/// Maximum number of snapshots that are accepted from one list.
const LISTED_MAX: usize = 100_000;
/// Maximum memory use of the snapshots of one list, in bytes.
const LIST_LEN_MAX: usize = 64 << 20;
/// Approximate length of the pieces in which answers are sent, in bytes.
const PIECE_LEN: usize = 64 << 10;
/// Maximum time of an exchange on the client side, counted from the opened stream.
const ASK_TIMEOUT: Duration = Duration::from_secs(90);
/// Limits of the server side. A restoring client sends requests only occasionally.
const LIMITS: Limits = Limits { streams: 16, streams_per_peer: 4, time: Duration::from_secs(60) };

/// Reason why the snapshots on the backup server cannot be listed.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// The exchange failed.
    #[error(transparent)]
    Exchange(#[from] ExchangeError),
    /// The backup server does not allow this instance to restore.
    #[error(
        "the backup server does not allow this instance to restore: add it to source_peers on the \
         backup server, with the peer id of this instance"
    )]
    NotAllowed,
    /// The backup server could not read its snapshots.
    #[error("the backup server could not read its snapshots; its log has the reason")]
    Failed,
    /// The list exceeds the limits.
    #[error("the list of the backup server is too long: over {LISTED_MAX} snapshots or 64 MiB")]
    TooMany,
}

/// The snapshots that a backup server offers to one source, before they are sent. The source
/// receives them as a [`RemoteListing`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OfferedSnapshots {
    /// Sorted by folder, then in the backup server's order.
    pub snapshots: Vec<RemoteSnapshot>,
    /// Number of snapshots that are left out because the backup server cannot read their record.
    pub damaged: u64,
}

/// Function of the backup server that lists the snapshots of a source, or of one folder of the
/// source. Called on a thread that may block. [`serve_snapshots`] logs the error and sends none of
/// its text to the source.
pub type ListOffered =
    Arc<dyn Fn(&PeerId, Option<&FolderId>) -> Result<OfferedSnapshots, String> + Send + Sync>;

/// The snapshots of this instance on a backup server, as [`list_remote`] returns them: every one
/// has a valid signature of this instance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RemoteListing {
    /// Sorted by folder, then in the backup server's order.
    pub snapshots: Vec<RemoteSnapshot>,
    /// Number of snapshots that the backup server left out because it cannot read their record.
    pub damaged: u64,
    /// Number of snapshots that [`list_remote`] left out because this instance did not sign them.
    pub forged: u64,
}

/// Requests the list of this instance's snapshots from `peer`, for all folders or for one.
///
/// # Errors
///
/// Returns [`RemoteError`] if the exchange fails, `peer` refuses, or the list is too long.
pub async fn list_remote(
    handle: &Handle,
    peer: PeerId,
    folder: Option<FolderId>,
) -> Result<RemoteListing, RemoteError> {
    let request = Request::List { folder };
    let stream = handle.open(peer, SNAPSHOTS_PROTOCOL).await.map_err(ExchangeError::from)?;
    let listing = list_over(stream, handle.peer_id(), &request);
    let late = |_| RemoteError::from(ExchangeError::Timeout(ASK_TIMEOUT));
    tokio::time::timeout(ASK_TIMEOUT, listing).await.map_err(late)?
}

/// Sends the request and reads the answers until the last.
async fn list_over(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    own: PeerId,
    request: &Request,
) -> Result<RemoteListing, RemoteError> {
    // A peer that refuses us may close before it has read the request: its answer is still valid.
    let sent = write_frame(&mut stream, request, REQUEST_LEN_MAX).await;
    let mut stream = futures::io::BufReader::with_capacity(PIECE_LEN, stream);
    let mut listing = RemoteListing::default();
    let mut len = 0;
    loop {
        let answer: Answer = match read_frame(&mut stream, ANSWER_LEN_MAX).await {
            Ok(answer) => answer,
            Err(error) => return Err(sent.err().unwrap_or(error).into()),
        };
        match answer {
            Answer::Snapshot(snapshot) => {
                len += snapshot.cost();
                let count = listing.snapshots.len() as u64 + listing.forged;
                if count >= LISTED_MAX as u64 || len > LIST_LEN_MAX {
                    return Err(RemoteError::TooMany);
                }
                if snapshot.is_signed_by(&own) {
                    listing.snapshots.push(*snapshot);
                } else {
                    listing.forged += 1;
                }
            }
            Answer::End { damaged } => {
                listing.damaged = damaged;
                let _ = stream.close().await;
                return Ok(listing);
            }
            Answer::Failure(failure) => {
                return Err(match failure {
                    Failure::NotAllowed => RemoteError::NotAllowed,
                    Failure::Failed => RemoteError::Failed,
                });
            }
        }
    }
}

/// Answers the streams of [`SNAPSHOTS_PROTOCOL`] until `receiver` closes. Requests of peers that
/// are not `allowed` are not read.
pub async fn serve_snapshots(
    receiver: mpsc::Receiver<NetStream>,
    allowed: impl Fn(&PeerId) -> bool,
    list: ListOffered,
) {
    exchange::serve(receiver, LIMITS, allowed, |stream, is_allowed| {
        let peer = stream.peer();
        answer(stream, peer, is_allowed.then(|| list.clone()))
    })
    .await;
}

/// Answers one stream; `list` is `None` if the peer may not restore.
async fn answer(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    peer: PeerId,
    list: Option<ListOffered>,
) -> Result<(), ExchangeError> {
    let Some(list) = list else {
        tracing::debug!(%peer, "refused a list of snapshots: the peer may not restore");
        let answer = Answer::Failure(Failure::NotAllowed);
        write_frame(&mut stream, &answer, ANSWER_LEN_MAX).await?;
        return finish(&mut stream).await;
    };
    let Request::List { folder } = read_frame(&mut stream, REQUEST_LEN_MAX).await?;
    let listed = blocking(move || Ok::<_, ExchangeError>(list(&peer, folder.as_ref()))).await;
    let listed = listed.unwrap_or_else(|panicked| Err(panicked.to_string()));
    let (found, last) = match listed {
        Ok(offered) => (offered.snapshots, Answer::End { damaged: offered.damaged }),
        Err(error) => {
            tracing::warn!(%error, "cannot list the snapshots for a peer");
            (Vec::new(), Answer::Failure(Failure::Failed))
        }
    };
    let mut piece = Vec::new();
    for snapshot in found {
        // A record has shorter texts than this limit; skipping one does not affect the others.
        let snapshot = Answer::Snapshot(Box::new(snapshot));
        let Ok(bytes) = frame(&snapshot, ANSWER_LEN_MAX) else { continue };
        piece.extend(bytes);
        if piece.len() >= PIECE_LEN {
            stream.write_all(&piece).await?;
            piece.clear();
        }
    }
    piece.extend(frame(&last, ANSWER_LEN_MAX)?);
    stream.write_all(&piece).await?;
    finish(&mut stream).await
}

#[cfg(test)]
mod tests;

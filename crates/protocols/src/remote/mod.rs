//! A looks at what B holds of it, and restores through B.
//!
//! `/archivist/snapshots/1.0.0` (docs/formats/wire.md): one stream, one
//! question, its answers. A peer is told of its own snapshots alone, and only
//! where it may restore. The blocks then come by the block protocol
//! ([`RemoteBlocks`]).
//!
//! Invariants: what B says of a snapshot counts only with A's own signature,
//! so a backup server cannot pass off a state that never was; lists are
//! bounded on both sides.

mod blocks;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use futures::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use net::{Handle, NetStream, PeerId, StreamProtocol};
use tokio::sync::mpsc;
use types::FolderId;

use self::wire::{Answer, Failure, Question};
use crate::blocking::blocking;
use crate::exchange::{self, ExchangeError, Limits, finish, frame, read_frame, write_frame};

pub use self::blocks::{RemoteBlocks, RemoteBlocksError};
pub use self::wire::RemoteSnapshot;

/// The name of the protocol.
pub const SNAPSHOTS_PROTOCOL: StreamProtocol = StreamProtocol::new("/archivist/snapshots/1.0.0");

/// The longest question, in bytes.
const QUESTION_LEN_MAX: usize = 4096;
/// The longest answer about one snapshot, in bytes: two texts of 8 KiB, each
/// byte of which may be escaped by six.
const ANSWER_LEN_MAX: usize = 128 << 10;
/// Snapshots that are taken from a list.
const LISTED_MAX: usize = 100_000;
/// … and bytes of it.
const LIST_LEN_MAX: usize = 64 << 20;
/// Answers are sent in pieces of about so many bytes.
const PIECE_LEN: usize = 64 << 10;
/// The whole conversation, as the server sees it.
const SERVE_TIMEOUT: Duration = Duration::from_secs(60);
/// … and as the client does, from the open stream on.
const ASK_TIMEOUT: Duration = Duration::from_secs(90);
/// Who restores asks now and then.
const STREAMS_MAX: usize = 16;
/// See [`STREAMS_MAX`].
const STREAMS_PER_PEER_MAX: usize = 4;

/// Why B's snapshots cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// The conversation.
    #[error(transparent)]
    Exchange(#[from] ExchangeError),
    /// The backup server does not let this instance restore.
    #[error(
        "the backup server does not let this instance restore: it has to be one of its \
         source_peers, with the peer id of this instance"
    )]
    NotAllowed,
    /// The backup server could not look.
    #[error("the backup server could not read its snapshots; its log says why")]
    Failed,
    /// It says more than can be taken.
    #[error("the backup server lists more than {LISTED_MAX} snapshots")]
    TooMany,
}

/// The snapshots that a backup server offers to one source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OfferedSnapshots {
    /// Sorted by folder, then in the backup server's order.
    pub snapshots: Vec<RemoteSnapshot>,
    /// Number of records that the backup server cannot read.
    pub damaged: u64,
}

/// Lists the snapshots of a source, or of one folder of it. Called on a thread that may block;
/// the error is logged.
pub type ListOffered =
    Arc<dyn Fn(&PeerId, Option<&FolderId>) -> Result<OfferedSnapshots, String> + Send + Sync>;

/// What B holds of this instance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RemoteListing {
    /// By folder and B's order.
    pub snapshots: Vec<RemoteSnapshot>,
    /// How many records B cannot read.
    pub damaged: u64,
    /// How many were left out, since this instance has never signed them.
    pub forged: u64,
}

/// Asks `peer` for its snapshots of this instance, or of one folder of it.
///
/// # Errors
///
/// [`RemoteError`].
pub async fn list_remote(
    handle: &Handle,
    peer: PeerId,
    folder: Option<FolderId>,
) -> Result<RemoteListing, RemoteError> {
    ask(handle, peer, &Question::List { folder }).await
}

async fn ask(
    handle: &Handle,
    peer: PeerId,
    question: &Question,
) -> Result<RemoteListing, RemoteError> {
    let stream = handle.open(peer, SNAPSHOTS_PROTOCOL).await.map_err(ExchangeError::from)?;
    let asking = hear(stream, handle.peer_id(), question);
    let late = |_| RemoteError::from(ExchangeError::Timeout(ASK_TIMEOUT));
    tokio::time::timeout(ASK_TIMEOUT, asking).await.map_err(late)?
}

/// Asks, and takes the answers until the last.
async fn hear(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    own: PeerId,
    question: &Question,
) -> Result<RemoteListing, RemoteError> {
    // Who refuses us may have closed before it read ours: what it says counts.
    let sent = write_frame(&mut stream, question, QUESTION_LEN_MAX).await;
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

/// Takes the streams of [`SNAPSHOTS_PROTOCOL`] until the node stops. Questions
/// of peers that `allowed` does not name are not read.
pub async fn serve_snapshots(
    receiver: mpsc::Receiver<NetStream>,
    allowed: impl Fn(&PeerId) -> bool,
    list: ListOffered,
) {
    let limits = Limits {
        streams: STREAMS_MAX,
        streams_per_peer: STREAMS_PER_PEER_MAX,
        time: SERVE_TIMEOUT,
    };
    exchange::serve(receiver, limits, allowed, |stream, may| {
        let peer = stream.peer();
        answer(stream, peer, may.then(|| list.clone()))
    })
    .await;
}

/// Answers one stream; `None`: its peer may not restore.
async fn answer(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    peer: PeerId,
    list: Option<ListOffered>,
) -> Result<(), ExchangeError> {
    let Some(list) = list else {
        tracing::debug!(%peer, "refused: it asked for snapshots and may not restore");
        let answer = Answer::Failure(Failure::NotAllowed);
        write_frame(&mut stream, &answer, ANSWER_LEN_MAX).await?;
        return finish(&mut stream).await;
    };
    let Question::List { folder } = read_frame(&mut stream, QUESTION_LEN_MAX).await?;
    let listed = blocking(move || Ok::<_, ExchangeError>(list(&peer, folder.as_ref()))).await?;
    let (found, last) = match listed {
        Ok(offered) => (offered.snapshots, Answer::End { damaged: offered.damaged }),
        Err(error) => {
            tracing::warn!(%error, "the snapshots cannot be read for a peer");
            (Vec::new(), Answer::Failure(Failure::Failed))
        }
    };
    let mut piece = Vec::new();
    for snapshot in found {
        // Such a one could not have been made; the others are as good.
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

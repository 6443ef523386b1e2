//! Parts of a manifest as differences to those of the manifest before.
//!
//! `/archivist/patches/1.0.0` (docs/formats/wire.md): one stream, one question
//! about some blocks, each with the blocks that the asker has and that are
//! likely to be like it; the answers are differences. One edit in a folder of
//! a million files changes one segment of a thousand entries and the header:
//! 60 kB that B has but for a line. Where a directory has another name, the
//! answer says so, and the difference is to what is so renamed (`renames`).
//!
//! Invariants: nothing depends on it. What does not come so, for whatever
//! reason, is fetched whole; what comes is taken only where its bytes have the
//! name that was asked for. Only parts of manifests are answered.

mod renames;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use net::{Handle, NetStream, PeerId, StreamProtocol};
use serde::{Deserialize, Serialize};
use store::{BlockStore, StoreError, get_sound};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use types::{Block, Cid, Codec, EncodedBlock, MAX_BLOCK_LEN, delta};

use self::renames::Rename;
use crate::blocking::{Panicked, blocking};
use crate::exchange::{self, ExchangeError, Limits, finish, read_frame, write_frame};

/// The name of the protocol.
pub const PATCH_PROTOCOL: StreamProtocol = StreamProtocol::new("/archivist/patches/1.0.0");

/// Blocks in one question.
pub const PATCH_WANTS_MAX: usize = 64;
/// Bases of one block.
pub const PATCH_BASES_MAX: usize = 8;
/// The longest question, in bytes: so many names of 61 characters.
const QUESTION_LEN_MAX: usize = 64 << 10;
/// The whole conversation, as the server sees it.
const SERVE_TIMEOUT: Duration = Duration::from_secs(30);
/// … and as the client does, from the open stream on.
const ASK_TIMEOUT: Duration = Duration::from_secs(40);
/// Each holds the bases, what is renamed of them, the block and two differences, 4 MiB
/// each at most.
const STREAMS_MAX: usize = 4;
/// See [`STREAMS_MAX`].
const STREAMS_PER_PEER_MAX: usize = 2;
/// Differences that are applied at once, each on a thread, and each with its
/// bases, its block and what that is compressed to in memory.
const APPLIED_AT_ONCE: usize = 2;
/// A shorter difference is not worth looking for renames, in bytes.
const RENAMES_FROM: usize = 512;
/// How B keeps what came as a difference: as A keeps its own.
const LEVEL: i32 = 3;

/// A block that is wanted as a difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PatchWant {
    /// Its name.
    pub cid: Cid,
    /// What is here and likely to be like it, 1 to [`PATCH_BASES_MAX`].
    pub bases: Vec<Cid>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    patches: Vec<PatchWant>,
}

/// Why differences did not come.
#[derive(Debug, thiserror::Error)]
pub enum PatchError {
    /// The conversation, or the peer: asking for whole blocks is the way.
    #[error(transparent)]
    Exchange(#[from] ExchangeError),
    /// The store here.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The work panicked; the panic was logged.
    #[error(transparent)]
    Panicked(#[from] Panicked),
}

/// What came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Patched {
    /// Blocks that were made and put.
    pub blocks: u64,
    /// The bytes of their differences.
    pub bytes: u64,
}

/// Asks `peer` for differences, and puts the blocks that they make into
/// `store`. At most [`PATCH_WANTS_MAX`] wants; those that are not there afterwards
/// have to be fetched whole.
///
/// # Errors
///
/// [`PatchError`]; what came before stays.
pub async fn fetch_patches(
    handle: &Handle,
    peer: PeerId,
    store: &Arc<dyn BlockStore>,
    wants: Vec<PatchWant>,
) -> Result<Patched, PatchError> {
    let asking = async {
        let stream = handle.open(peer, PATCH_PROTOCOL).await.map_err(ExchangeError::from)?;
        ask(stream, store, wants).await
    };
    let late = |_| PatchError::from(ExchangeError::Timeout(ASK_TIMEOUT));
    tokio::time::timeout(ASK_TIMEOUT, asking).await.map_err(late)?
}

async fn ask(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    store: &Arc<dyn BlockStore>,
    wants: Vec<PatchWant>,
) -> Result<Patched, PatchError> {
    let question = Question { patches: wants };
    write_frame(&mut stream, &question, QUESTION_LEN_MAX).await?;
    let mut patched = Patched::default();
    // While some are applied the next ones come.
    let mut applying = VecDeque::with_capacity(APPLIED_AT_ONCE);
    for want in question.patches {
        let mut length = [0; 4];
        stream.read_exact(&mut length).await.map_err(ExchangeError::from)?;
        let len = u32::from_le_bytes(length) as usize;
        if len == 0 {
            continue;
        }
        if len > MAX_BLOCK_LEN {
            let error = ExchangeError::TooLong { len: len as u64, max: MAX_BLOCK_LEN };
            return Err(error.into());
        }
        let mut patch = vec![0; len];
        stream.read_exact(&mut patch).await.map_err(ExchangeError::from)?;
        if applying.len() == APPLIED_AT_ONCE {
            applied(applying.pop_front(), &mut patched).await?;
        }
        let store = store.clone();
        let apply = move || put(&*store, &want, &patch).map(|()| len);
        applying.push_back(tokio::task::spawn_blocking(apply));
    }
    while !applying.is_empty() {
        applied(applying.pop_front(), &mut patched).await?;
    }
    let _ = stream.close().await;
    Ok(patched)
}

/// Waits until a difference has been applied, and counts it.
async fn applied(
    work: Option<JoinHandle<Result<usize, PatchError>>>,
    patched: &mut Patched,
) -> Result<(), PatchError> {
    if let Some(work) = work {
        let len = work.await.map_err(|_| Panicked)??;
        patched.blocks += 1;
        patched.bytes += len as u64;
    }
    Ok(())
}

/// Makes the block of a difference, and puts it if it is the one.
fn put(store: &dyn BlockStore, want: &PatchWant, answer: &[u8]) -> Result<(), PatchError> {
    let wrong = |what: String| ExchangeError::Malformed(format!("the block {}: {what}", want.cid));
    let Some((renames, patch)) = renames::decode(answer) else {
        return Err(wrong("its difference is of another form".to_owned()).into());
    };
    let Some(mut prefix) = prefix(store, &want.bases)? else {
        return Err(wrong("its bases are gone".to_owned()).into());
    };
    if !renames.is_empty() {
        prefix = renames::apply(&prefix, &renames)
            .ok_or_else(|| wrong("what is renamed of its bases is too long".to_owned()))?;
    }
    let bytes = delta::apply(&prefix, patch).map_err(|error| wrong(error.to_string()))?;
    let block = Block::new(want.cid.codec(), bytes).map_err(|error| wrong(error.to_string()))?;
    if block.cid() != want.cid {
        return Err(wrong("its difference is one to something else".to_owned()).into());
    }
    store.put(&[EncodedBlock::compress(block, LEVEL)])?;
    Ok(())
}

/// The bases, where they are all here and not too many bytes.
fn prefix(store: &dyn BlockStore, bases: &[Cid]) -> Result<Option<Vec<u8>>, StoreError> {
    let (mut found, mut len) = (Vec::with_capacity(bases.len()), 0);
    for cid in bases {
        let Some(bytes) = part(store, cid)? else { return Ok(None) };
        len += bytes.len();
        if len > delta::BASES_LEN_MAX {
            return Ok(None);
        }
        found.push(bytes);
    }
    Ok(delta::prefix(&found))
}

/// A part of a manifest; one that is damaged is as good as missing, and so is
/// what is not of a manifest.
fn part(store: &dyn BlockStore, cid: &Cid) -> Result<Option<Bytes>, StoreError> {
    if cid.codec() != Codec::Json {
        return Ok(None);
    }
    get_sound(store, cid)
}

/// Takes the streams of [`PATCH_PROTOCOL`] until the node stops. Those of
/// peers that `allowed` does not name are closed unread: the block protocol
/// tells them why.
pub async fn serve_patches(
    receiver: mpsc::Receiver<NetStream>,
    allowed: impl Fn(&PeerId) -> bool,
    store: Arc<dyn BlockStore>,
) {
    let limits = Limits {
        streams: STREAMS_MAX,
        streams_per_peer: STREAMS_PER_PEER_MAX,
        time: SERVE_TIMEOUT,
    };
    exchange::serve(receiver, limits, allowed, |stream, may| {
        answer(stream, may.then(|| store.clone()))
    })
    .await;
}

/// Answers one stream; `None`: its peer may not have blocks.
async fn answer(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    store: Option<Arc<dyn BlockStore>>,
) -> Result<(), ExchangeError> {
    let Some(store) = store else {
        return finish(&mut stream).await;
    };
    let question: Question = read_frame(&mut stream, QUESTION_LEN_MAX).await?;
    let is_too_much = |want: &PatchWant| want.bases.len() > PATCH_BASES_MAX;
    if question.patches.len() > PATCH_WANTS_MAX || question.patches.iter().any(is_too_much) {
        return Err(ExchangeError::Malformed("it asks for too much at once".to_owned()));
    }
    for want in question.patches {
        let store = store.clone();
        // Where it cannot be had, the block protocol says why.
        let patch = blocking(move || patch(&*store, &want)).await.unwrap_or_else(|error| {
            tracing::debug!(%error, "a difference could not be made");
            Vec::new()
        });
        let len = u32::try_from(patch.len()).unwrap_or_default().to_le_bytes();
        stream.write_all(&len).await?;
        stream.write_all(&patch).await?;
    }
    stream.flush().await?;
    finish(&mut stream).await
}

/// The difference that is wanted; empty where there is none to be had.
fn patch(store: &dyn BlockStore, want: &PatchWant) -> Result<Vec<u8>, PatchError> {
    let Some(block) = part(store, &want.cid)? else { return Ok(Vec::new()) };
    let Some(prefix) = prefix(store, &want.bases)? else { return Ok(Vec::new()) };
    let plain = answer_of(&[], &prefix, &block)?;
    let patch = match renamed(&prefix, &block, plain.len())? {
        Some(renamed) if renamed.len() < plain.len() => renamed,
        _ => plain,
    };
    // Noise grows by a few bytes, and is not worth the detour.
    Ok(if patch.len() < block.len() { patch } else { Vec::new() })
}

/// The difference to what is renamed of the bases, where anything was renamed;
/// `plain` is the length of the one without that.
fn renamed(prefix: &[u8], block: &[u8], plain: usize) -> Result<Option<Vec<u8>>, ExchangeError> {
    if plain < RENAMES_FROM {
        return Ok(None);
    }
    let renames = renames::find(prefix, block);
    if renames.is_empty() {
        return Ok(None);
    }
    let renamed = renames::apply(prefix, &renames);
    renamed.map(|prefix| answer_of(&renames, &prefix, block)).transpose()
}

fn answer_of(renames: &[Rename], prefix: &[u8], block: &[u8]) -> Result<Vec<u8>, ExchangeError> {
    let mut answer = renames::encode(renames);
    answer.extend(delta::diff(prefix, block, delta::LEVEL_SMALL)?);
    Ok(answer)
}

#[cfg(test)]
mod tests;

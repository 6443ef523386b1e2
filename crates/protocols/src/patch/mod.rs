//! Parts of a manifest, sent as differences (patches) to the parts of an earlier manifest.
//!
//! `/archivist/patches/1.0.0` (docs/formats/wire.md): one stream, one request for some blocks, each
//! with similar blocks that the client has (its bases); the answers are patches. One edit in a
//! folder of a million files changes the header and one segment of a thousand entries: 60 kB, of
//! which the backup server lacks one line. If a directory was renamed, the answer says so, and the
//! patch applies to the bases after that renaming (`renames`).
//!
//! Invariants: nothing depends on this protocol. A block that does not arrive as a patch is fetched
//! complete; a patched block is stored only if its bytes have the requested CID. The server answers
//! only for parts of manifests.

mod renames;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use net::{Handle, NetStream, PeerId, StreamProtocol};
use serde::{Deserialize, Serialize};
use store::{BlockRead, BlockWrite, StoreError, get_sound};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use types::{Block, Cid, Codec, EncodedBlock, MAX_BLOCK_LEN, delta};

use self::renames::Rename;
use crate::blocking::{Panicked, blocking};
use crate::exchange::{self, ExchangeError, Limits, finish, read_frame, write_frame};

/// Name of the patch protocol.
pub const PATCH_PROTOCOL: StreamProtocol = StreamProtocol::new("/archivist/patches/1.0.0");

/// Maximum number of blocks in one request.
pub const PATCH_WANTS_MAX: usize = 64;
/// Maximum number of bases of one block.
pub const PATCH_BASES_MAX: usize = 8;
/// Maximum length of a request, in bytes: that many CIDs of 61 characters.
const REQUEST_LEN_MAX: usize = 64 << 10;
/// Maximum time of an exchange on the client side, including opening the stream.
const ASK_TIMEOUT: Duration = Duration::from_secs(40);
/// Limits of the server side. Each stream needs memory for the bases, the renamed bases, the block
/// and two patches, at most 4 MiB each.
const LIMITS: Limits = Limits { streams: 4, streams_per_peer: 2, time: Duration::from_secs(30) };
/// Maximum number of patches that are applied at the same time. Each occupies a thread, and memory
/// for its bases, its block and the compressed block.
const APPLIED_AT_ONCE: usize = 2;
/// Minimum length of a patch for which renames are searched, in bytes.
const RENAMES_FROM: usize = 512;
/// Compression level for storing a patched block, the same as on the source.
const LEVEL: i32 = 3;

/// Request for one block as a patch. The crate `pull` makes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PatchWant {
    /// CID of the block: the header or a segment of a manifest.
    pub cid: Cid,
    /// Blocks that the client has and that are probably similar to the requested one, 1 to
    /// [`PATCH_BASES_MAX`]. The server makes a patch only if it has them, too.
    pub bases: Vec<Cid>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    patches: Vec<PatchWant>,
}

/// Reason why patches were not received.
#[derive(Debug, thiserror::Error)]
pub enum PatchError {
    /// The exchange failed. The caller fetches the complete blocks instead.
    #[error(transparent)]
    Exchange(#[from] ExchangeError),
    /// The local store cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Applying a patch panicked.
    #[error(transparent)]
    Panicked(#[from] Panicked),
}

/// Result of [`fetch_patches`]: number and size of the received patches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Patched {
    /// Number of blocks that were made from patches and stored.
    pub blocks: u64,
    /// Total length of the patches of these blocks, in bytes.
    pub bytes: u64,
}

/// Requests patches from `peer` and stores the blocks that result. The peer refuses a request for
/// more than [`PATCH_WANTS_MAX`] blocks. The peer sends no patch of a block that it cannot read or
/// whose patch would not be shorter, so the caller must then fetch the blocks that are still
/// missing.
///
/// # Errors
///
/// Returns [`PatchError`] if the exchange or the local store fails. Blocks that were stored before
/// stay.
pub async fn fetch_patches(
    handle: &Handle,
    peer: PeerId,
    store: Arc<dyn BlockWrite>,
    wants: Vec<PatchWant>,
) -> Result<Patched, PatchError> {
    let asking = async {
        let stream = handle.open(peer, PATCH_PROTOCOL).await.map_err(ExchangeError::from)?;
        ask(stream, &store, wants).await
    };
    let late = |_| PatchError::from(ExchangeError::Timeout(ASK_TIMEOUT));
    tokio::time::timeout(ASK_TIMEOUT, asking).await.map_err(late)?
}

async fn ask(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    store: &Arc<dyn BlockWrite>,
    wants: Vec<PatchWant>,
) -> Result<Patched, PatchError> {
    let request = Request { patches: wants };
    write_frame(&mut stream, &request, REQUEST_LEN_MAX).await?;
    let mut patched = Patched::default();
    // The next patches are received while earlier ones are applied.
    let mut applying = VecDeque::with_capacity(APPLIED_AT_ONCE);
    for want in request.patches {
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
            finish_one(applying.pop_front(), &mut patched).await?;
        }
        let store = store.clone();
        let apply = move || put(&*store, &want, &patch).map(|()| len);
        applying.push_back(net::spawn_blocking(apply));
    }
    while !applying.is_empty() {
        finish_one(applying.pop_front(), &mut patched).await?;
    }
    let _ = stream.close().await;
    Ok(patched)
}

/// Waits until a patch has been applied, and counts it.
async fn finish_one(
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

/// Applies a patch, and stores the block if it has the requested CID.
fn put(store: &dyn BlockWrite, want: &PatchWant, answer: &[u8]) -> Result<(), PatchError> {
    let wrong =
        |reason: String| ExchangeError::Malformed(format!("patch for {}: {reason}", want.cid));
    let Some((renames, patch)) = renames::decode(answer) else {
        return Err(wrong("malformed answer".to_owned()).into());
    };
    let Some(mut prefix) = prefix(store, &want.bases)? else {
        return Err(wrong("a base is no longer stored".to_owned()).into());
    };
    if !renames.is_empty() {
        prefix = renames::apply(&prefix, &renames)
            .ok_or_else(|| wrong("the renamed bases are too long".to_owned()))?;
    }
    let bytes = delta::apply(&prefix, patch).map_err(|error| wrong(error.to_string()))?;
    let block = Block::new(want.cid.codec(), bytes).map_err(|error| wrong(error.to_string()))?;
    if block.cid() != want.cid {
        return Err(wrong("it results in another block".to_owned()).into());
    }
    store.put(&[EncodedBlock::compress(block, LEVEL)])?;
    Ok(())
}

/// Returns the concatenated bases, or `None` if one is missing or they are too long.
fn prefix(store: &dyn BlockRead, bases: &[Cid]) -> Result<Option<Vec<u8>>, StoreError> {
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

/// Returns the bytes of a part of a manifest, or `None` if it is missing, damaged or of another
/// kind.
fn part(store: &dyn BlockRead, cid: &Cid) -> Result<Option<Bytes>, StoreError> {
    if cid.codec() != Codec::Json {
        return Ok(None);
    }
    get_sound(store, cid)
}

/// Answers the streams of [`PATCH_PROTOCOL`] until `receiver` closes. Streams of peers that are not
/// `allowed` are closed unread: the block protocol reports the reason to them.
pub async fn serve_patches(
    receiver: mpsc::Receiver<NetStream>,
    allowed: impl Fn(&PeerId) -> bool,
    store: Arc<dyn BlockRead>,
) {
    exchange::serve(receiver, LIMITS, allowed, |stream, is_allowed| {
        answer(stream, is_allowed.then(|| store.clone()))
    })
    .await;
}

/// Answers one stream; `store` is `None` if the peer may not fetch blocks.
async fn answer(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    store: Option<Arc<dyn BlockRead>>,
) -> Result<(), ExchangeError> {
    let Some(store) = store else {
        return finish(&mut stream).await;
    };
    let request: Request = read_frame(&mut stream, REQUEST_LEN_MAX).await?;
    let is_too_much = |want: &PatchWant| want.bases.len() > PATCH_BASES_MAX;
    if request.patches.len() > PATCH_WANTS_MAX || request.patches.iter().any(is_too_much) {
        return Err(ExchangeError::Malformed("the request exceeds the limits".to_owned()));
    }
    for want in request.patches {
        let store = store.clone();
        // If the block cannot be read, the block protocol reports why.
        let patch = blocking(move || patch(&*store, &want)).await.unwrap_or_else(|error| {
            tracing::debug!(%error, "cannot make a patch");
            Vec::new()
        });
        let len = u32::try_from(patch.len()).unwrap_or_default().to_le_bytes();
        stream.write_all(&len).await?;
        stream.write_all(&patch).await?;
    }
    stream.flush().await?;
    finish(&mut stream).await
}

/// Returns the requested patch; empty if a block is missing or a patch would not be shorter.
fn patch(store: &dyn BlockRead, want: &PatchWant) -> Result<Vec<u8>, PatchError> {
    let Some(block) = part(store, &want.cid)? else { return Ok(Vec::new()) };
    let Some(prefix) = prefix(store, &want.bases)? else { return Ok(Vec::new()) };
    let plain = answer_of(&[], &prefix, &block)?;
    let patch = match renamed(&prefix, &block, plain.len())? {
        Some(renamed) if renamed.len() < plain.len() => renamed,
        _ => plain,
    };
    // Incompressible data grows by a few bytes: a patch would only cost time.
    Ok(if patch.len() < block.len() { patch } else { Vec::new() })
}

/// Returns the patch to the renamed bases, if any directory was renamed. `plain_len` is the length
/// of the patch without renames.
fn renamed(
    prefix: &[u8],
    block: &[u8],
    plain_len: usize,
) -> Result<Option<Vec<u8>>, ExchangeError> {
    if plain_len < RENAMES_FROM {
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

//! Reads the blocks of a batch of wants and compresses the replies.
//!
//! Runs on a blocking thread; `serving.rs` starts it and sends its result.

use bytes::Bytes;
use libp2p::PeerId;
use types::Cid;

use super::link_speed;
use super::sketch::Sketch;
use super::{BlockAnswer, BlockProvider};

/// Maximum number of bytes of blocks in one batch.
const BATCH_BYTES: usize = 1 << 20;

/// Requested block, with the sketch of a similar block of the client if there is one.
pub(super) type Wanted = (Cid, Option<Box<Sketch>>);

/// Reply to one want.
pub(super) enum Reply {
    Answer(BlockAnswer),
    /// The difference to the similar block.
    Patch(Bytes),
}

/// Result of reading a batch: the replies to a prefix of the wants, and the other wants.
pub(super) struct Batch {
    pub(super) replies: Vec<Reply>,
    pub(super) rest: Vec<Wanted>,
    /// Number of replies that are differences.
    pub(super) patches: usize,
}

/// Returns the length of the sketch of a want in bytes.
pub(super) fn sketch_len((_, sketch): &Wanted) -> usize {
    sketch.as_ref().map_or(0, |sketch| sketch.size())
}

/// Conditions that decide how the replies of a batch are compressed.
pub(super) struct Compression {
    /// True if nothing else is being sent.
    pub(super) is_idle: bool,
    /// True if the link is slower than the compressor.
    pub(super) is_slow: bool,
    /// True to send differences to similar blocks.
    pub(super) patches: bool,
}

/// Reads a batch and compresses the replies if that saves time. Blocks the thread.
///
/// # Errors
///
/// Returns the reason if the provider's answers are wrong.
pub(super) fn read_batch(
    provider: &dyn BlockProvider,
    peer: &PeerId,
    mut wanted: Vec<Wanted>,
    compression: &Compression,
) -> Result<Batch, &'static str> {
    let cids: Vec<Cid> = wanted.iter().map(|(cid, _)| *cid).collect();
    let answers = provider.read(peer, &cids, BATCH_BYTES);
    check(&cids, &answers)?;
    let rest = wanted.split_off(answers.len());
    let len: usize = answers.iter().map(payload_len).sum();
    let compresses =
        compression.is_slow || (compression.is_idle && len <= link_speed::SMALL_BATCH_LEN);
    let (mut replies, mut patches) = (Vec::with_capacity(answers.len()), 0);
    for (answer, (_, sketch)) in answers.into_iter().zip(wanted) {
        let sketch = sketch.filter(|_| compression.patches);
        replies.push(match sketch.and_then(|sketch| patch_for(&answer, &sketch)) {
            Some(patch) => {
                patches += 1;
                Reply::Patch(patch)
            }
            None if compresses => Reply::Answer(compressed(answer)),
            None => Reply::Answer(answer),
        });
    }
    Ok(Batch { replies, rest, patches })
}

/// Returns the difference between the block and the client's block, if it is shorter
/// than the payload.
fn patch_for(answer: &BlockAnswer, sketch: &Sketch) -> Option<Bytes> {
    let BlockAnswer::Block(block) = answer else { return None };
    // If memory runs out, the complete block is sent.
    let patch = sketch.diff(&block.decode().ok()?).ok()??;
    (patch.len() < block.payload().len()).then(|| patch.into())
}

fn payload_len(answer: &BlockAnswer) -> usize {
    match answer {
        BlockAnswer::Block(block) => block.payload().len(),
        BlockAnswer::Missing | BlockAnswer::Changed => 0,
    }
}

fn compressed(answer: BlockAnswer) -> BlockAnswer {
    match answer {
        BlockAnswer::Block(block) => {
            BlockAnswer::Block(block.packed(link_speed::COMPRESSION_LEVEL))
        }
        BlockAnswer::Missing | BlockAnswer::Changed => answer,
    }
}

/// Checks the answers of the provider. Sending wrong answers would make every client
/// treat this node as hostile.
fn check(wanted: &[Cid], answers: &[BlockAnswer]) -> Result<(), &'static str> {
    if answers.is_empty() {
        return Err("it returned no answer");
    }
    if answers.len() > wanted.len() {
        return Err("it returned more answers than requested");
    }
    let is_other = |cid: &Cid, answer: &BlockAnswer| match answer {
        BlockAnswer::Block(block) => block.cid() != *cid,
        BlockAnswer::Missing | BlockAnswer::Changed => false,
    };
    if wanted.iter().zip(answers).any(|(cid, answer)| is_other(cid, answer)) {
        return Err("it returned another block than requested");
    }
    Ok(())
}

//! Healing: fetches single blocks again, without following trees.
//!
//! The caller knows which blocks are damaged or missing. The blocks below a fetched
//! node are looked up, one level deep, so that a caller that heals the reported ones,
//! too, heals a complete tree without a verification.

use std::sync::Arc;

use net::PeerId;
use protocols::{SessionPool, blocking};
use store::BlockWrite;
use tokio_util::sync::CancellationToken;
use types::{Cid, Codec};

use crate::error::PullError;
use crate::progress::PullProgress;
use crate::puller::Puller;

/// Result of an attempt to heal blocks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HealReport {
    /// Blocks that are stored now, durably, each with the peer that sent it. `None` if
    /// the block was stored already.
    pub healed: Vec<(Cid, Option<PeerId>)>,
    /// Blocks that no peer has sent.
    pub missing: Vec<Cid>,
    /// Missing blocks to which healed nodes refer.
    pub below: Vec<Cid>,
    /// Peers that answered for all blocks that were missing when they were asked.
    pub answered: Vec<PeerId>,
    /// Peers that could not be asked, each with the error.
    pub failed: Vec<(PeerId, String)>,
}

/// Fetches blocks from peers, in the order of the list, until all are stored or all
/// peers were asked.
///
/// # Errors
///
/// Returns [`PullError::Store`] if the store cannot be read or written, and
/// [`PullError::Stopped`] if `stop` is cancelled. Peers that cannot be reached are part
/// of the report.
pub async fn heal(
    store: Arc<dyn BlockWrite>,
    pool: &SessionPool,
    peers: &[PeerId],
    cids: Vec<Cid>,
    stop: &CancellationToken,
) -> Result<HealReport, PullError> {
    let epoch = store.write_epoch();
    // A collection may run meanwhile, and the blocks may have no root.
    let pin = store.pin();
    pin.add(cids.iter().copied());
    let mut report = HealReport::default();
    let mut left = cids;
    let mut fetched = Vec::new();
    take_present(&store, &mut left, &mut fetched, None).await?;
    for peer in peers {
        if left.is_empty() {
            break;
        }
        let mut puller = Puller::new(
            store.clone(),
            pool.clone(),
            vec![*peer],
            Arc::new(PullProgress::default()),
        )
        .until(stop.clone());
        match puller.blocks(left.clone()).await {
            Ok(_) => report.answered.push(*peer),
            Err(error @ (PullError::Store(_) | PullError::Stopped | PullError::Panicked(_))) => {
                return Err(error);
            }
            // Blocks that arrived before the error are stored.
            Err(error) => report.failed.push((*peer, error.to_string())),
        }
        take_present(&store, &mut left, &mut fetched, Some(*peer)).await?;
    }
    report.missing = left;
    blocking(move || {
        store.commit(epoch)?;
        for (cid, _) in &fetched {
            if cid.codec() == Codec::Raw {
                continue;
            }
            let Some(bytes) = store.get(cid)? else { continue };
            for link in types::links(cid.codec(), &bytes).unwrap_or_default() {
                if !store.has(&link)? {
                    report.below.push(link);
                }
            }
        }
        report.healed = fetched;
        drop(pin);
        Ok(report)
    })
    .await
}

/// Moves the blocks that are stored from `left` to `fetched`.
async fn take_present(
    store: &Arc<dyn BlockWrite>,
    left: &mut Vec<Cid>,
    fetched: &mut Vec<(Cid, Option<PeerId>)>,
    from: Option<PeerId>,
) -> Result<(), PullError> {
    let (store, all) = (store.clone(), std::mem::take(left));
    let (present, absent) = blocking(move || {
        let (mut present, mut absent) = (Vec::new(), Vec::new());
        for cid in all {
            let list = if store.has(&cid)? { &mut present } else { &mut absent };
            list.push(cid);
        }
        Ok::<_, PullError>((present, absent))
    })
    .await?;
    fetched.extend(present.into_iter().map(|cid| (cid, from)));
    *left = absent;
    Ok(())
}

//! Restoring through the network: the source lists its snapshots on the backup server, fetches
//! the blocks of one, and writes its tree into a directory.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use net::{Handle, PeerId};
use protocols::{RemoteBlocks, RemoteSnapshot, SessionPool, list_remote};
use restore::{Blocks, BlocksError, RestoreOptions};
use tokio_util::sync::CancellationToken;
use types::{Cid, links, with_causes};

use crate::model::Model;
use crate::server::directory;

/// Maximum number of blocks that are requested together.
const BATCH_MAX: usize = 16;

/// The fetched blocks of a snapshot.
#[derive(Debug)]
struct Fetched(BTreeMap<Cid, Bytes>);

impl Blocks for Fetched {
    fn get(&self, wanted: &[Cid]) -> Result<Vec<Option<Bytes>>, BlocksError> {
        Ok(wanted.iter().map(|cid| self.0.get(cid).cloned()).collect())
    }
}

/// Lists the snapshots of this source on the backup server, and compares each with the model.
///
/// # Errors
///
/// Returns the reason why there is no list, which is not a fault.
pub(crate) async fn list(
    net: &Handle,
    server: PeerId,
    model: &Model,
) -> Result<Vec<RemoteSnapshot>, String> {
    let listing = list_remote(net, server, None).await.map_err(|error| with_causes(&error))?;
    if listing.forged > 0 {
        model.fail("the backup server lists a snapshot with another signature");
    }
    for snapshot in &listing.snapshots {
        let published = model.manifest(snapshot.sequence.0).map(|published| published.cid);
        if published != Some(snapshot.manifest_cid) {
            model.fail(format!("listed snapshot {} was never published", snapshot.sequence));
        }
    }
    Ok(listing.snapshots)
}

/// Restores a snapshot into the directory `target`, and compares it with the published tree.
///
/// # Errors
///
/// Returns the reason why it is not restored, which is not a fault while the network or a disk
/// fails.
pub(crate) async fn restore(
    net: &Handle,
    server: PeerId,
    model: &Model,
    snapshot: &RemoteSnapshot,
    target: &Path,
) -> Result<(), String> {
    let pool = SessionPool::new(net.clone());
    let runtime = tokio::runtime::Handle::current();
    let stop = CancellationToken::new();
    let _stopped = stop.clone().drop_guard();
    let remote = RemoteBlocks::new(pool, server, runtime, stop);
    let blocks: Arc<dyn Blocks> = Arc::new(fetch(&remote, snapshot.manifest_cid).await?);
    let options = RestoreOptions { workers: 1, ..RestoreOptions::default() };
    let progress = restore::Progress::default();
    let restored = restore::restore(&blocks, snapshot.manifest_cid, target, &options, &progress);
    let report = restored.map_err(|error| with_causes(&error))?;
    if !report.is_complete() {
        return Err(format!("restored in part: {:?}", report.failed));
    }
    let sequence = snapshot.sequence.0;
    let published = model.manifest(sequence).and_then(|published| published.tree);
    if published.is_some_and(|published| directory(target).as_ref() != Ok(&published)) {
        model.fail(format!("snapshot {sequence}, restored by the source, is another tree"));
    }
    Ok(())
}

/// Fetches a block and all blocks that it leads to.
async fn fetch(remote: &RemoteBlocks, root: Cid) -> Result<Fetched, String> {
    let (mut fetched, mut wanted) = (BTreeMap::new(), BTreeSet::from([root]));
    while !wanted.is_empty() {
        let batch: Vec<Cid> = wanted.iter().take(BATCH_MAX).copied().collect();
        let blocks = remote.read(&batch).await.map_err(|error| with_causes(&error))?;
        for (cid, block) in batch.into_iter().zip(blocks) {
            wanted.remove(&cid);
            let block = block.ok_or_else(|| format!("the backup server does not have {cid}"))?;
            let children = links(cid.codec(), &block).map_err(|error| with_causes(&error))?;
            fetched.insert(cid, block);
            wanted.extend(children.into_iter().filter(|child| !fetched.contains_key(child)));
        }
    }
    Ok(Fetched(fetched))
}

//! One attempt to pull a manifest: connect, wait for a slot, pull.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use multiaddr::Multiaddr;
use net::NetError;
use protocols::Panicked;
use pull::{ManifestJob, ManifestPullError};
use snapshots::Snapshot;

use crate::effects::Effects;
use crate::slots::Slots;

/// Maximum time for a stopped pull to finish its current batch. From a slow source, the batch could
/// need hours.
const STOP_GRACE: Duration = Duration::from_secs(10);

/// Result of an attempt.
pub(super) enum AttemptEnd {
    /// The connection to the source failed.
    NoConnection(NetError),
    /// The pull ended, with a snapshot or an error.
    Pulled(Box<Result<Snapshot, ManifestPullError>>),
}

/// Makes one attempt. It ends soon after the job's `stop`. An attempt that returns its slot to
/// others ends as if it had been stopped.
pub(super) async fn attempt(
    effects: Arc<dyn Effects>,
    slots: Slots,
    job: ManifestJob,
    addresses: Vec<Multiaddr>,
) -> AttemptEnd {
    let attempting = AssertUnwindSafe(try_once(effects, slots, job, addresses));
    let panicked = |_| AttemptEnd::Pulled(Box::new(Err(ManifestPullError::Panicked(Panicked))));
    attempting.catch_unwind().await.unwrap_or_else(panicked)
}

async fn try_once(
    effects: Arc<dyn Effects>,
    slots: Slots,
    job: ManifestJob,
    addresses: Vec<Multiaddr>,
) -> AttemptEnd {
    let stop = job.stop.clone();
    let stopped = || AttemptEnd::Pulled(Box::new(Err(ManifestPullError::Stopped)));
    let connecting = effects.connect(job.source, addresses);
    // Before the slot, so that unreachable sources do not occupy slots.
    let connected = tokio::select! {
        biased;
        () = stop.cancelled() => return stopped(),
        connected = connecting => connected,
    };
    if let Err(error) = connected {
        return AttemptEnd::NoConnection(error);
    }
    let slot = tokio::select! {
        biased;
        () = stop.cancelled() => None,
        slot = slots.acquire() => slot,
    };
    let Some(slot) = slot else { return stopped() };
    let pulling = effects.pull(job);
    tokio::pin!(pulling);
    tokio::select! {
        biased;
        result = &mut pulling => return AttemptEnd::Pulled(Box::new(result)),
        () = slot.slice_over() => stop.cancel(),
        () = stop.cancelled() => {}
    }
    match tokio::time::timeout(STOP_GRACE, pulling).await {
        Ok(result) => AttemptEnd::Pulled(Box::new(result)),
        // Aborted; the fetched blocks are in the store, so the next attempt continues.
        Err(_) => stopped(),
    }
}

//! One attempt at one manifest: a connection, a place, the pull.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use multiaddr::Multiaddr;
use net::NetError;
use protocols::Panicked;
use pull::{ManifestJob, ManifestPullError};
use snapshots::Snapshot;

use crate::slots::Slots;
use crate::world::World;

/// How long a pull that was told to stop may go on with what it had asked for:
/// from a slow source that may be hours.
const STOP_GRACE: Duration = Duration::from_secs(10);

/// How an attempt ended.
pub(super) enum End {
    /// There was no way to the source.
    NoConnection(NetError),
    /// It was pulled, or not.
    Pulled(Box<Result<Snapshot, ManifestPullError>>),
}

/// Makes one attempt. It ends soon after the job's `stop`; one that gives its
/// place to others ends as if it had been stopped.
pub(super) async fn attempt(
    world: Arc<dyn World>,
    slots: Slots,
    job: ManifestJob,
    addresses: Vec<Multiaddr>,
) -> End {
    let attempting = AssertUnwindSafe(try_once(world, slots, job, addresses));
    let panicked = |_| End::Pulled(Box::new(Err(ManifestPullError::Panicked(Panicked))));
    attempting.catch_unwind().await.unwrap_or_else(panicked)
}

async fn try_once(
    world: Arc<dyn World>,
    slots: Slots,
    job: ManifestJob,
    addresses: Vec<Multiaddr>,
) -> End {
    let stop = job.stop.clone();
    let stopped = || End::Pulled(Box::new(Err(ManifestPullError::Stopped)));
    let connecting = world.connect(job.source, addresses);
    // Before it takes a place: who is not there must not keep others waiting.
    let connected = tokio::select! {
        () = stop.cancelled() => return stopped(),
        connected = connecting => connected,
    };
    if let Err(error) = connected {
        return End::NoConnection(error);
    }
    let slot = tokio::select! {
        () = stop.cancelled() => None,
        slot = slots.take() => slot,
    };
    let Some(slot) = slot else { return stopped() };
    let pulling = world.pull(job);
    tokio::pin!(pulling);
    tokio::select! {
        result = &mut pulling => return End::Pulled(Box::new(result)),
        () = slot.is_over() => stop.cancel(),
        () = stop.cancelled() => {}
    }
    match tokio::time::timeout(STOP_GRACE, pulling).await {
        Ok(result) => End::Pulled(Box::new(result)),
        // Cut off; what came is in the store, and the next attempt finds it.
        Err(_) => stopped(),
    }
}

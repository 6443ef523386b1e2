//! How many pulls run at once, of all sources together.
//!
//! First come, first served. A pull that has had its slice while others wait
//! is told, so that it can give up its place and go to the end of the queue:
//! three slow sources must not keep the fourth from being backed up.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// How long a pull may go on while others wait for its place.
const SLICE: Duration = Duration::from_secs(30);

/// The places. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Slots(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    semaphore: Arc<Semaphore>,
    limit: Mutex<usize>,
    /// Places that are to go when they are free.
    surplus: AtomicUsize,
    waiting: watch::Sender<usize>,
}

/// A place; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Slot {
    permit: Option<OwnedSemaphorePermit>,
    shared: Arc<Shared>,
}

/// One who waits; dropping it ends that.
struct Waiting<'a>(&'a watch::Sender<usize>);

impl<'a> Waiting<'a> {
    fn new(waiting: &'a watch::Sender<usize>) -> Self {
        waiting.send_modify(|count| *count += 1);
        Self(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

impl Slots {
    /// So many places.
    pub(crate) fn new(limit: usize) -> Self {
        Self(Arc::new(Shared {
            semaphore: Arc::new(Semaphore::new(limit)),
            limit: Mutex::new(limit),
            surplus: AtomicUsize::new(0),
            waiting: watch::Sender::new(0),
        }))
    }

    /// Changes their number. Those that are taken above it go when they are
    /// given back.
    pub(crate) fn set(&self, limit: usize) {
        let mut current = self.0.limit.lock();
        if limit > *current {
            let mut more = limit - *current;
            while more > 0 && self.0.take_surplus() {
                more -= 1;
            }
            self.0.semaphore.add_permits(more);
        } else {
            let fewer = *current - limit;
            let forgotten = self.0.semaphore.forget_permits(fewer);
            self.0.surplus.fetch_add(fewer - forgotten, Ordering::SeqCst);
        }
        *current = limit;
    }

    /// Waits for a place.
    pub(crate) async fn take(&self) -> Option<Slot> {
        let _waiting = Waiting::new(&self.0.waiting);
        let permit = self.0.semaphore.clone().acquire_owned().await.ok()?;
        Some(Slot { permit: Some(permit), shared: self.0.clone() })
    }
}

impl Shared {
    fn take_surplus(&self) -> bool {
        let fewer = |surplus: usize| surplus.checked_sub(1);
        self.surplus.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fewer).is_ok()
    }
}

impl Slot {
    /// Waits until the slice is over and somebody waits.
    pub(crate) async fn is_over(&self) {
        tokio::time::sleep(SLICE).await;
        let mut waiting = self.shared.waiting.subscribe();
        // The sender is in `self`, so it cannot be gone.
        let _ = waiting.wait_for(|count| *count > 0).await;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if self.shared.take_surplus()
            && let Some(permit) = self.permit.take()
        {
            permit.forget();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_number_changes_while_places_are_taken() {
        let slots = Slots::new(2);
        let (one, two) = (slots.take().await.unwrap(), slots.take().await.unwrap());
        assert!(slots.take().now_or_never().is_none());
        slots.set(1);
        drop(one);
        assert!(slots.take().now_or_never().is_none());
        slots.set(2);
        let three = slots.take().now_or_never().flatten().unwrap();
        assert!(slots.take().now_or_never().is_none());
        slots.set(1);
        slots.set(2);
        drop((two, three));
        let all = (slots.take().now_or_never(), slots.take().now_or_never());
        assert!(all.0.is_some() && all.1.is_some());
        assert!(slots.take().now_or_never().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_slice_is_over_only_where_somebody_waits() {
        let slots = Slots::new(1);
        let slot = slots.take().await.unwrap();
        let long = Duration::from_secs(3600);
        assert!(tokio::time::timeout(long, slot.is_over()).await.is_err());
        let waiter = tokio::spawn({
            let slots = slots.clone();
            async move { slots.take().await }
        });
        tokio::time::timeout(long, slot.is_over()).await.unwrap();
        drop(slot);
        assert!(waiter.await.unwrap().is_some());
    }
}

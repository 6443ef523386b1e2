//! Limits the number of pulls that run at the same time, for all sources together.
//!
//! Slots are given in the order of the requests. When the time slice of a pull is over while others
//! wait, it is notified, so that it can return its slot and queue again: three slow sources must
//! not prevent the backup of a fourth.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// Time slice of a pull while others wait for a slot.
const SLICE: Duration = Duration::from_secs(30);

/// The slots. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Slots(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    semaphore: Arc<Semaphore>,
    limit: Mutex<usize>,
    /// Number of slots to remove when they are returned.
    surplus: AtomicUsize,
    waiting: watch::Sender<usize>,
}

/// A slot; dropping it returns it.
#[derive(Debug)]
pub(crate) struct Slot {
    permit: Option<OwnedSemaphorePermit>,
    shared: Arc<Shared>,
}

/// Counts a waiting caller until it is dropped.
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
    /// Creates `limit` slots.
    pub(crate) fn new(limit: usize) -> Self {
        Self(Arc::new(Shared {
            semaphore: Arc::new(Semaphore::new(limit)),
            limit: Mutex::new(limit),
            surplus: AtomicUsize::new(0),
            waiting: watch::Sender::new(0),
        }))
    }

    /// Changes the number of slots. Occupied slots above it are removed when they are returned.
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

    /// Waits for a slot.
    pub(crate) async fn acquire(&self) -> Option<Slot> {
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
    /// Waits until the time slice is over and another caller waits for a slot.
    pub(crate) async fn slice_over(&self) {
        tokio::time::sleep(SLICE).await;
        let mut waiting = self.shared.waiting.subscribe();
        // The sender is in `self`, so it is still open.
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
        let (one, two) = (slots.acquire().await.unwrap(), slots.acquire().await.unwrap());
        assert!(slots.acquire().now_or_never().is_none());
        slots.set(1);
        drop(one);
        assert!(slots.acquire().now_or_never().is_none());
        slots.set(2);
        let three = slots.acquire().now_or_never().flatten().unwrap();
        assert!(slots.acquire().now_or_never().is_none());
        slots.set(1);
        slots.set(2);
        drop((two, three));
        let all = (slots.acquire().now_or_never(), slots.acquire().now_or_never());
        assert!(all.0.is_some() && all.1.is_some());
        assert!(slots.acquire().now_or_never().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_slice_is_over_only_if_another_caller_waits() {
        let slots = Slots::new(1);
        let slot = slots.acquire().await.unwrap();
        let long = Duration::from_secs(3600);
        assert!(tokio::time::timeout(long, slot.slice_over()).await.is_err());
        let waiter = tokio::spawn({
            let slots = slots.clone();
            async move { slots.acquire().await }
        });
        tokio::time::timeout(long, slot.slice_over()).await.unwrap();
        drop(slot);
        assert!(waiter.await.unwrap().is_some());
    }
}

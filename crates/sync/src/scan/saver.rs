//! Makes what a scan found durable while the scan goes on.
//!
//! Looking at a disk and writing what was found both wait, for different
//! things, and neither needs the other's time: so a thread saves one batch
//! while the next is gathered. A scan that finds little never starts it.
//!
//! **Invariants.** Batches are saved one by one, in their order, and no more than
//! one waits. Of each, first what the rows name, then the rows. An error ends the
//! scan at the latest when the next batch is full; what was found after that is
//! found again.

use std::sync::Arc;
use std::thread::{Builder, Scope};

use crossbeam_channel::{Receiver, Sender, bounded};
use types::{FolderId, RelPath};

use crate::core::Core;
use crate::error::SyncError;
use crate::hash::Reading;
use crate::index::Batch;

use super::Scan;

/// Called when something was saved and the look goes on.
pub(crate) type OnSaved<'a> = &'a mut (dyn FnMut() -> Result<(), SyncError> + Send);

/// What saving takes.
#[derive(Clone)]
pub(super) struct Saving<'a> {
    pub(super) core: &'a Core,
    pub(super) folder: &'a FolderId,
    pub(super) reading: Arc<Reading>,
    pub(super) epoch: store::Epoch,
}

impl Saving<'_> {
    /// Saves a batch; the paths whose rows were others by then.
    pub(super) fn save(&self, batch: &Batch) -> Result<Vec<RelPath>, SyncError> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        if self.reading.put.take() {
            self.core.store.commit(self.epoch)?;
        }
        if self.reading.noted.take() {
            self.core.in_place.commit()?;
        }
        let applied = self.core.index.apply(self.folder, batch, self.core.clock.now())?;
        Ok(applied.conflicts)
    }
}

/// The thread, and what it has to do.
pub(super) struct Saver {
    batches: Sender<Batch>,
    results: Receiver<Result<Vec<RelPath>, SyncError>>,
    /// Whether the result of a batch has not been taken.
    is_open: bool,
}

impl Saver {
    /// `None` where the system has no thread to give; `on_saved` is left then.
    pub(super) fn start<'scope, 'a: 'scope>(
        scope: &'scope Scope<'scope, '_>,
        saving: Saving<'a>,
        on_saved: &mut Option<OnSaved<'a>>,
    ) -> Option<Self> {
        let (batches, to_do) = bounded::<Batch>(1);
        let (done, results) = bounded(1);
        // It is given to the thread once there is one.
        let (hand_over, taken) = bounded::<OnSaved<'a>>(1);
        let work = move || {
            let Ok(on_saved) = taken.recv() else { return };
            for batch in to_do {
                let saved = saving.save(&batch);
                drop(batch);
                let saved = saved.and_then(|conflicts| on_saved().map(|()| conflicts));
                if done.send(saved).is_err() {
                    return;
                }
            }
        };
        Builder::new().name("sync-save".to_owned()).spawn_scoped(scope, work).ok()?;
        // It waits for this.
        let _ = hand_over.send(on_saved.take()?);
        Some(Self { batches, results, is_open: false })
    }

    /// Hands over a batch, when the one before is saved; the conflicts of that.
    ///
    /// # Errors
    ///
    /// Those of saving the one before.
    pub(super) fn hand_over(&mut self, batch: Batch) -> Result<Vec<RelPath>, SyncError> {
        let conflicts = self.wait()?;
        // It fails only where the thread has panicked, which ends the scope.
        let _ = self.batches.send(batch);
        self.is_open = true;
        Ok(conflicts)
    }

    /// Waits until all that was handed over is saved.
    ///
    /// # Errors
    ///
    /// Those of saving it.
    pub(super) fn wait(&mut self) -> Result<Vec<RelPath>, SyncError> {
        if !std::mem::take(&mut self.is_open) {
            return Ok(Vec::new());
        }
        // The thread is gone only where it has panicked, which ends the scope.
        self.results.recv().unwrap_or_else(|_| Err(SyncError::Stopped))
    }
}

impl Scan<'_, '_> {
    /// Has what was found saved where that is much, or was found long ago.
    pub(super) fn flush_if_due(&mut self) -> Result<(), SyncError> {
        let is_full = self.batch.len() >= self.core.tuning.batch_rows;
        let is_old = || {
            self.batch_since.is_some_and(|since| {
                self.core.clock.elapsed().saturating_sub(since) >= self.order.batch_time
            })
        };
        if is_full || is_old() {
            self.save_meanwhile()?;
        }
        Ok(())
    }

    /// Has what was found made durable while the look goes on.
    fn save_meanwhile(&mut self) -> Result<(), SyncError> {
        if self.saver.is_none() {
            let saving = self.saving.clone();
            self.saver = Saver::start(self.scope, saving, &mut self.order.on_saved);
        }
        let Some(saver) = &mut self.saver else {
            self.flush()?;
            return self.order.on_saved.as_mut().map_or(Ok(()), |on_saved| on_saved());
        };
        self.batch_since = None;
        let conflicts = saver.hand_over(std::mem::take(&mut self.batch))?;
        self.look_again(conflicts);
        Ok(())
    }

    /// Waits until all is durable that is on the way to be.
    pub(super) fn wait_saved(&mut self) -> Result<(), SyncError> {
        if let Some(saver) = &mut self.saver {
            let conflicts = saver.wait()?;
            self.look_again(conflicts);
        }
        Ok(())
    }

    /// Makes what was found durable.
    pub(super) fn flush(&mut self) -> Result<(), SyncError> {
        self.wait_saved()?;
        self.batch_since = None;
        let conflicts = self.saving.save(&std::mem::take(&mut self.batch))?;
        self.look_again(conflicts);
        Ok(())
    }

    fn look_again(&mut self, conflicts: Vec<RelPath>) {
        let dirs = conflicts.into_iter().map(|path| path.parent().unwrap_or_else(RelPath::root));
        self.scanned.again.extend(dirs);
    }
}

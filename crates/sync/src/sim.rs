//! The source side without threads, for simulations: the caller runs the work of all
//! folders step by step, and decides which changes are hinted.
//!
//! Everything else is the same as in [`crate::SyncService`]: the index, the scan, the
//! reading of files, the publishing and the handle.

use std::time::Duration;

use types::{FolderId, RelPath};

use crate::error::SyncError;
use crate::folder::{Config, Task, Turn};
use crate::handle::SyncHandle;
use crate::service::{add_folder, open, times};
use crate::settings::SyncOptions;
use crate::watch::Hint;
use crate::watch::fake::FakeWatcher;

/// Maximum number of pieces of work in one step.
const TURNS_MAX: usize = 1000;

/// The source side, run step by step. The settings are those at the start.
pub struct SteppedSync {
    handle: SyncHandle,
    tasks: Vec<Task>,
    watcher: FakeWatcher,
}

impl std::fmt::Debug for SteppedSync {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SteppedSync").finish_non_exhaustive()
    }
}

impl SteppedSync {
    /// Opens the state and prepares the work on all folders. Use one hash thread in
    /// [`SyncOptions::tuning`]: a few small files are then read by the caller.
    ///
    /// # Errors
    ///
    /// Same as [`crate::SyncService::start`].
    pub fn start(options: SyncOptions) -> Result<Self, SyncError> {
        let (settings, tuning) = (options.settings.borrow().clone(), options.tuning.clone());
        let watcher = FakeWatcher::default();
        let handle = open(options, &|limit, sink| watcher.start(limit, sink))?;
        let mut tasks = Vec::new();
        for folder in &settings.folders {
            let config = Config { folder: folder.clone(), times: times(&settings, &tuning) };
            tasks.push(add_folder(&handle, folder, config)?.0);
        }
        Ok(Self { handle, tasks, watcher })
    }

    /// Returns a handle for the rest of the program.
    pub fn handle(&self) -> SyncHandle {
        self.handle.clone()
    }

    /// Does all work that is due, and returns the time of [`crate::Clock::elapsed`] at which
    /// the next work is due; `None` if it waits for a hint.
    pub fn step(&mut self) -> Option<Duration> {
        let mut next = None::<Duration>;
        for task in &mut self.tasks {
            for _ in 0..TURNS_MAX {
                match task.turn() {
                    Turn::Worked => {}
                    Turn::Waits(until) => {
                        next = [next, until].into_iter().flatten().min();
                        break;
                    }
                    Turn::Stopped => break,
                }
            }
        }
        next
    }

    /// Reports a change in a directory, as the watcher of the system does.
    pub fn hint(&self, folder: &FolderId, dir: RelPath) {
        if let Some(mailbox) = self.handle.folders.read().get(folder) {
            // A directory may be new, with content.
            self.watcher.send(mailbox.number, Hint::DirtyBelow(dir));
        }
    }
}

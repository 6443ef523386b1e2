//! Reports losses of blocks to the owner of the store, so that the blocks are
//! fetched again without a request.

use std::fmt;
use std::path::PathBuf;
use std::sync::OnceLock;

use crate::sync::Mutex;

/// Maximum number of lost packs that are listed.
const LOST_PACKS_MAX: usize = 1000;

/// The losses since the last call of [`super::PackStore::take_losses`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// True if a damaged block was found; see
    /// [`super::PackStore::damaged_blocks`].
    pub is_damage_found: bool,
    /// Packs whose file has vanished, or from which records were lost. Their blocks
    /// are not known.
    pub packs: Vec<PathBuf>,
}

/// See the module.
#[derive(Default)]
pub(super) struct LossReports {
    losses: Mutex<Losses>,
    hook: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl fmt::Debug for LossReports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LossReports").field(&*self.losses.lock()).finish()
    }
}

impl LossReports {
    /// Sets the function that is called after each loss. Only the first call has an
    /// effect.
    pub(super) fn set_hook(&self, hook: Box<dyn Fn() + Send + Sync>) {
        let _ = self.hook.set(hook);
    }

    pub(super) fn take(&self) -> Losses {
        std::mem::take(&mut *self.losses.lock())
    }

    pub(super) fn add_damage(&self) {
        self.losses.lock().is_damage_found = true;
        self.notify();
    }

    pub(super) fn add_pack(&self, path: PathBuf) {
        {
            let mut losses = self.losses.lock();
            if losses.packs.len() < LOST_PACKS_MAX {
                losses.packs.push(path);
            }
        }
        self.notify();
    }

    fn notify(&self) {
        if let Some(hook) = self.hook.get() {
            hook();
        }
    }
}

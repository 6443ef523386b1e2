//! A store that fails on demand, for tests of code that uses a store.

use std::fmt;
use std::sync::Arc;

use types::{Cid, EncodedBlock};

use crate::block_store::{
    BlockRead, BlockStore, BlockWrite, GcOptions, GcReport, Roots, RootsRead, StoreAdmin, Usage,
    WriteEpoch,
};
use crate::error::StoreError;
use crate::pins::Pin;
use crate::root_log::Root;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, Ordering};

/// A kind of call that can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// [`BlockWrite::put`]
    Put,
    /// [`BlockWrite::commit`]
    Commit,
    /// [`BlockRead::get_encoded`] and [`BlockRead::get`]
    Get,
    /// [`BlockRead::has`] and [`BlockRead::len_of`]
    Has,
    /// [`Roots::set_root`]
    SetRoot,
    /// [`Roots::remove_root`]
    RemoveRoot,
}

/// Creates the error of a call that must fail.
pub type MakeError = fn() -> StoreError;

/// An action that runs before a call. It may block, which delays the call.
pub type Action = Box<dyn FnOnce() + Send>;

/// Wraps a store. A chosen call fails, or an action runs before it.
pub struct FaultyStore {
    inner: Arc<dyn BlockStore>,
    fault: Mutex<Option<(Call, u64, MakeError)>>,
    action: Mutex<Option<(Call, u64, Action)>>,
    calls: AtomicU64,
}

impl fmt::Debug for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultyStore").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl FaultyStore {
    /// Wraps `inner`. No call fails yet.
    pub fn new(inner: Arc<dyn BlockStore>) -> Self {
        let (fault, action) = (Mutex::default(), Mutex::default());
        Self { inner, fault, action, calls: AtomicU64::new(0) }
    }

    /// Makes the `nth` call (from 0) of this kind from now on fail, once.
    pub fn fail(&self, call: Call, nth: u64, error: MakeError) {
        *self.fault.lock() = Some((call, nth, error));
    }

    /// Runs `action` once, before the `nth` call (from 0) of this kind from now
    /// on.
    pub fn before(&self, call: Call, nth: u64, action: Action) {
        *self.action.lock() = Some((call, nth, action));
    }

    /// Returns the number of calls so far.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    fn check(&self, call: Call) -> Result<(), StoreError> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let action = {
            let mut action = self.action.lock();
            match &mut *action {
                Some((of, 0, _)) if *of == call => action.take(),
                Some((of, left, _)) if *of == call => {
                    *left -= 1;
                    None
                }
                _ => None,
            }
        };
        if let Some((.., action)) = action {
            action();
        }
        let mut fault = self.fault.lock();
        if let Some((of, left, error)) = &mut *fault
            && *of == call
        {
            if *left == 0 {
                let error = error();
                *fault = None;
                return Err(error);
            }
            *left -= 1;
        }
        Ok(())
    }
}

impl BlockRead for FaultyStore {
    fn get_encoded(&self, cid: &Cid) -> Result<Option<EncodedBlock>, StoreError> {
        self.check(Call::Get)?;
        self.inner.get_encoded(cid)
    }

    fn has(&self, cid: &Cid) -> Result<bool, StoreError> {
        self.check(Call::Has)?;
        self.inner.has(cid)
    }

    fn len_of(&self, cid: &Cid) -> Result<Option<u64>, StoreError> {
        self.check(Call::Has)?;
        self.inner.len_of(cid)
    }

    fn loss_counter(&self) -> u64 {
        self.inner.loss_counter()
    }
}

impl BlockWrite for FaultyStore {
    fn write_epoch(&self) -> WriteEpoch {
        self.inner.write_epoch()
    }

    fn put(&self, blocks: &[EncodedBlock]) -> Result<(), StoreError> {
        self.check(Call::Put)?;
        self.inner.put(blocks)
    }

    fn commit(&self, epoch: WriteEpoch) -> Result<(), StoreError> {
        self.check(Call::Commit)?;
        self.inner.commit(epoch)
    }

    fn pin(&self) -> Pin {
        self.inner.pin()
    }
}

impl RootsRead for FaultyStore {
    fn root(&self, name: &str) -> Option<Root> {
        self.inner.root(name)
    }

    fn roots(&self, prefix: &str) -> Vec<(String, Root)> {
        self.inner.roots(prefix)
    }
}

impl Roots for FaultyStore {
    fn set_root(&self, name: &str, root: Root, epoch: WriteEpoch) -> Result<(), StoreError> {
        self.check(Call::SetRoot)?;
        self.inner.set_root(name, root, epoch)
    }

    fn remove_root(&self, name: &str) -> Result<bool, StoreError> {
        self.check(Call::RemoveRoot)?;
        self.inner.remove_root(name)
    }
}

impl StoreAdmin for FaultyStore {
    fn gc(&self, options: GcOptions) -> Result<GcReport, StoreError> {
        self.inner.gc(options)
    }

    fn usage(&self) -> Result<Usage, StoreError> {
        self.inner.usage()
    }

    fn reached_bytes(&self, prefixes: &[String]) -> Result<u64, StoreError> {
        self.inner.reached_bytes(prefixes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::missing_blocks;
    use crate::file_writer::FileWriter;
    use crate::mem_store::MemStore;

    #[test]
    fn a_file_whose_writing_fails_leaves_no_name_and_is_collected() {
        for nth in 0.. {
            let inner = Arc::new(MemStore::new());
            let store = Arc::new(FaultyStore::new(inner.clone()));
            store.fail(Call::Put, nth, || StoreError::Injected("put"));
            let mut writer = FileWriter::new(store.clone(), types::BlockScheme::plain());
            let result = (0..8)
                .try_for_each(|n| writer.write(&[n; 700_000]))
                .and_then(|()| writer.finish())
                .and_then(|file| {
                    let root = Root { cid: file.cid, partial: false };
                    file.batch.commit_root(&*store, "file", root)
                });
            if result.is_ok() {
                assert!(nth > 3, "the fault never happened");
                assert_eq!(missing_blocks(&*inner).unwrap(), []);
                break;
            }
            assert_eq!(inner.roots(""), []);
            inner.gc(GcOptions::EVERYTHING).unwrap();
            assert_eq!(inner.usage().unwrap().blocks, 0);
        }
    }
}

//! A watcher for tests: it delivers the hints that the test sends, and no others.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::sync::Arc;

use fstree::SourceTree;
use parking_lot::Mutex;
use types::RelPath;

use super::{Hint, HintSink, WatchResult, Watcher};
use crate::path_key::FolderNumber;

/// Called when a directory is watched, before the scan lists it.
type OnWatch = Box<dyn FnMut(&RelPath) + Send>;

#[derive(Default)]
struct State {
    sink: Option<HintSink>,
    watched: BTreeMap<FolderNumber, BTreeSet<RelPath>>,
    limit: Option<usize>,
    on_watch: Option<OnWatch>,
}

/// The fake, shared by the test and the service.
#[derive(Clone, Default)]
pub(crate) struct FakeWatcher(Arc<Mutex<State>>);

impl fmt::Debug for FakeWatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeWatcher").finish_non_exhaustive()
    }
}

impl FakeWatcher {
    /// Starts it, as [`super::start`] does with a real one.
    pub(crate) fn start(
        &self,
        limit: Option<usize>,
        sink: HintSink,
    ) -> io::Result<Box<dyn Watcher>> {
        let mut state = self.0.lock();
        state.limit = limit;
        state.sink = Some(sink);
        Ok(Box::new(self.clone()))
    }

    #[cfg(test)]
    /// Calls `on_watch` whenever a directory is watched.
    pub(crate) fn on_watch(&self, on_watch: impl FnMut(&RelPath) + Send + 'static) {
        self.0.lock().on_watch = Some(Box::new(on_watch));
    }

    /// Delivers a hint.
    pub(crate) fn send(&self, folder: FolderNumber, hint: Hint) {
        let state = self.0.lock();
        let sink = state.sink.as_ref().expect("the watcher was started");
        sink(folder, hint);
    }

    #[cfg(test)]
    /// Returns the watched directories of a folder, in order.
    pub(crate) fn dirs(&self, folder: FolderNumber) -> Vec<String> {
        let state = self.0.lock();
        let dirs = state.watched.get(&folder).into_iter().flatten();
        dirs.map(ToString::to_string).collect()
    }
}

impl Watcher for FakeWatcher {
    fn watch_dir(&self, folder: FolderNumber, _: &SourceTree, dir: &RelPath) -> WatchResult {
        let mut state = self.0.lock();
        if let Some(on_watch) = &mut state.on_watch {
            on_watch(dir);
        }
        let limit = state.limit.unwrap_or(usize::MAX);
        let count: usize = state.watched.values().map(BTreeSet::len).sum();
        let dirs = state.watched.entry(folder).or_default();
        if !dirs.contains(dir) && count >= limit {
            return WatchResult::LimitReached;
        }
        dirs.insert(dir.clone());
        WatchResult::Watched
    }

    fn unwatch_below(&self, folder: FolderNumber, dir: &RelPath) {
        if let Some(dirs) = self.0.lock().watched.get_mut(&folder) {
            dirs.retain(|watched| !watched.is_within(dir));
        }
    }

    fn watched(&self, folder: FolderNumber) -> u64 {
        self.0.lock().watched.get(&folder).map_or(0, BTreeSet::len) as u64
    }
}

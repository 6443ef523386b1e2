//! The index: maps hashes to places; of any size, in little memory.
//!
//! New entries go to a head in memory. A full head becomes a sorted run on
//! disk, and runs of similar size are merged, so that there are few runs and
//! every entry is written only a few times. (A B-tree fed with random hashes
//! writes 60 to 250 times the data: `docs/decisions/0001`.)
//!
//! The index is a cache. Its users check every place that it returns, and its
//! owner can derive all entries again; it does so when a run is damaged. The
//! owner keeps a catalog of the runs. A run that the catalog does not name is
//! removed at the next start.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use types::Hash;

use crate::error::{IoContext, StoreError};
use crate::run::{self, Merge, Run, Value};
use crate::sync::{Mutex, MutexGuard, RwLock};
use disk::Disk;

/// Number of entries at which a head is written to disk; about 10 MB of memory.
pub(crate) const HEAD_ENTRIES: usize = 64 * 1024;

/// A run is merged with the previous one unless that is more than this many times
/// as large.
const MERGE_RATIO: u64 = 4;

/// Number of values of one hash, the newest ones, that a merge keeps.
pub(crate) const VALUES_MAX: usize = 8;

type Head = HashMap<Hash, Vec<Value>>;

/// See the module.
#[derive(Debug)]
pub(crate) struct HashIndex {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    state: RwLock<State>,
    /// Locked while runs are written: there is one writer at a time.
    writing: Mutex<Writing>,
}

/// State of the writer of runs.
#[derive(Debug)]
struct Writing {
    next_id: u64,
    /// Runs written since the last change of the index. Runs that do not become
    /// part of it are removed.
    written: Vec<Arc<Run>>,
}

#[derive(Debug, Default)]
struct State {
    head: Head,
    head_entries: usize,
    /// A head that is being written to disk: still searched, no longer changed.
    frozen: Option<Arc<Head>>,
    /// Oldest first.
    runs: Vec<Arc<Run>>,
}

impl HashIndex {
    /// Opens the index that consists of these runs, oldest first.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        run_ids: &[u64],
    ) -> Result<Self, StoreError> {
        let runs = run_ids
            .iter()
            .map(|id| Run::open(&*disk, &dir, *id).map(Arc::new))
            .collect::<Result<Vec<_>, _>>()?;
        let index = Self {
            state: RwLock::new(State { runs, ..State::default() }),
            writing: Mutex::new(Writing { next_id: 1, written: Vec::new() }),
            disk,
            dir,
        };
        index.remove_strays(run_ids)?;
        Ok(index)
    }

    /// Removes the files of all other runs. Their ids are not used again.
    fn remove_strays(&self, run_ids: &[u64]) -> Result<(), StoreError> {
        let mut writing = self.writing.lock();
        for name in self.disk.list(&self.dir).context("list", &self.dir)? {
            let Some(id) = name.to_str().and_then(run::parse_name) else { continue };
            writing.next_id = writing.next_id.max(id + 1);
            if !run_ids.contains(&id) {
                let path = self.dir.join(name);
                self.disk.remove(&path).context("remove", &path)?;
            }
        }
        Ok(())
    }

    /// Adds entries and calls `then`. Nobody sees the entries before `then` has
    /// returned.
    pub(crate) fn insert(
        &self,
        entries: impl IntoIterator<Item = (Hash, Value)>,
        then: impl FnOnce(),
    ) {
        let mut state = self.state.write();
        for (hash, value) in entries {
            state.head.entry(hash).or_default().insert(0, value);
            state.head_entries += 1;
        }
        then();
    }

    /// Replaces the content of `found` with the values of `hash`, newest first.
    pub(crate) fn get(&self, hash: &Hash, found: &mut Vec<Value>) -> Result<(), StoreError> {
        found.clear();
        let runs = {
            let state = self.state.read();
            let heads = [Some(&state.head), state.frozen.as_deref()];
            for head in heads.into_iter().flatten() {
                found.extend(head.get(hash).into_iter().flatten());
            }
            if state.runs.is_empty() {
                return Ok(());
            }
            state.runs.clone()
        };
        for run in runs.iter().rev() {
            run.get(hash, found)?;
        }
        Ok(())
    }

    /// Returns the number of entries. Several may have the same hash.
    pub(crate) fn len(&self) -> u64 {
        let state = self.state.read();
        let frozen = state.frozen.as_ref().map_or(0, |head| head.values().map(Vec::len).sum());
        let runs: u64 = state.runs.iter().map(|run| run.len()).sum();
        (state.head_entries + frozen) as u64 + runs
    }

    /// Reports whether the head is full.
    pub(crate) fn is_flush_due(&self) -> bool {
        self.state.read().head_entries >= HEAD_ENTRIES
    }

    /// Writes the head to disk and merges runs, without the values for which
    /// `keep` is false: these would displace others, since a merge keeps only the
    /// newest values.
    ///
    /// `freeze` is called at the moment at which the head is cut off. `commit`
    /// receives its result and the new list of runs, oldest first, and makes that
    /// list the index, durably. If anything fails, the index is unchanged.
    pub(crate) fn flush<T>(
        &self,
        keep: impl Fn(&Value) -> bool,
        freeze: impl FnOnce() -> T,
        commit: impl FnOnce(T, &[u64]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut writing = self.writing.lock();
        let (mut runs, frozen, extra) = self.freeze(freeze);
        let result = self.write_out(&mut writing, &frozen, &mut runs, keep).and_then(|()| {
            self.disk.sync_dir(&self.dir).context("sync", &self.dir)?;
            commit(extra, &runs.iter().map(|run| run.id).collect::<Vec<_>>())
        });
        self.finish_change(&mut writing, result, runs)
    }

    /// Rewrites the index as one run, without the values for which `keep` is
    /// false. See [`HashIndex::flush`] for `freeze` and `commit`.
    pub(crate) fn retain<T>(
        &self,
        keep: impl Fn(&Value) -> bool,
        freeze: impl FnOnce() -> T,
        commit: impl FnOnce(T, &[u64]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut writing = self.writing.lock();
        let (old, frozen, extra) = self.freeze(freeze);
        let mut runs = Vec::new();
        let result = self.write_out(&mut writing, &frozen, &mut runs, &keep).and_then(|()| {
            let newest_first: Vec<_> = runs.iter().chain(old.iter().rev()).cloned().collect();
            let merged = self.merge(&mut writing, &newest_first, &keep)?;
            // The run of the head alone was an intermediate step.
            for run in std::mem::replace(&mut runs, vec![merged]) {
                let _ = self.disk.remove(run.path());
            }
            self.disk.sync_dir(&self.dir).context("sync", &self.dir)?;
            commit(extra, &runs.iter().map(|run| run.id).collect::<Vec<_>>())
        });
        self.finish_change(&mut writing, result, runs)
    }

    /// Cuts the head off, so that nothing is added to it any more, and calls
    /// `freeze` at that moment.
    fn freeze<T>(&self, freeze: impl FnOnce() -> T) -> (Vec<Arc<Run>>, Arc<Head>, T) {
        let mut state = self.state.write();
        let extra = freeze();
        let frozen = Arc::new(std::mem::take(&mut state.head));
        state.head_entries = 0;
        state.frozen = Some(frozen.clone());
        (state.runs.clone(), frozen, extra)
    }

    /// Makes `runs` the index if `result` is `Ok`, or else restores the frozen
    /// head. Removes the runs that are not part of the index.
    fn finish_change(
        &self,
        writing: &mut Writing,
        result: Result<(), StoreError>,
        runs: Vec<Arc<Run>>,
    ) -> Result<(), StoreError> {
        let mut state = self.state.write();
        let frozen = state.frozen.take();
        let mut obsolete = std::mem::take(&mut writing.written);
        if result.is_ok() {
            obsolete.extend(std::mem::replace(&mut state.runs, runs));
        } else {
            for (hash, values) in frozen.iter().flat_map(|head| head.iter()) {
                state.head_entries += values.len();
                state.head.entry(*hash).or_default().extend(values);
            }
        }
        obsolete.retain(|run| !state.runs.iter().any(|kept| kept.id == run.id));
        for run in obsolete {
            // Best effort: the next start removes the rest.
            let _ = self.disk.remove(run.path());
        }
        result
    }

    fn write_out(
        &self,
        writing: &mut Writing,
        head: &Head,
        runs: &mut Vec<Arc<Run>>,
        keep: impl Fn(&Value) -> bool,
    ) -> Result<(), StoreError> {
        if head.is_empty() {
            return Ok(());
        }
        let mut sorted: Vec<_> = head.iter().collect();
        sorted.sort_unstable_by_key(|(hash, _)| **hash);
        let entries = sorted
            .into_iter()
            .flat_map(|(hash, values)| values.iter().map(|value| (*hash, *value)))
            .filter(|(_, value)| keep(value))
            .map(Ok);
        runs.push(self.write_run(writing, entries)?);
        while let [.., older, newer] = runs.as_slice() {
            if older.len() > newer.len() * MERGE_RATIO {
                break;
            }
            let merged = self.merge(writing, &[newer.clone(), older.clone()], &keep)?;
            runs.truncate(runs.len() - 2);
            runs.push(merged);
        }
        Ok(())
    }

    /// Merges runs, newest first, into one.
    fn merge(
        &self,
        writing: &mut Writing,
        runs: &[Arc<Run>],
        keep: impl Fn(&Value) -> bool,
    ) -> Result<Arc<Run>, StoreError> {
        let mut last: Option<Hash> = None;
        let mut seen: Vec<Value> = Vec::new();
        let entries = Merge::new(runs.iter().map(|run| run.iter())).filter(|entry| {
            let Ok((hash, value)) = entry else { return true };
            if last != Some(*hash) {
                last = Some(*hash);
                seen.clear();
            }
            let wanted = keep(value) && seen.len() < VALUES_MAX && !seen.contains(value);
            if wanted {
                seen.push(*value);
            }
            wanted
        });
        self.write_run(writing, entries)
    }

    fn write_run(
        &self,
        writing: &mut Writing,
        entries: impl Iterator<Item = Result<(Hash, Value), StoreError>>,
    ) -> Result<Arc<Run>, StoreError> {
        let id = writing.next_id;
        writing.next_id += 1;
        let run = Arc::new(run::write(&*self.disk, &self.dir, id, entries)?);
        writing.written.push(run.clone());
        Ok(run)
    }

    /// Builds a new index beside the present one, which serves all lookups meanwhile.
    /// `fill` adds the entries, in the order in which they were inserted. Nothing may
    /// be inserted until the result was swapped in or dropped.
    pub(crate) fn rebuild(
        &self,
        fill: impl FnOnce(
            &mut dyn FnMut(Hash, Value) -> Result<(), StoreError>,
        ) -> Result<(), StoreError>,
    ) -> Result<RebuiltIndex<'_>, StoreError> {
        let mut writing = self.writing.lock();
        let (mut runs, mut head, mut count) = (Vec::new(), Head::default(), 0);
        let mut add = |hash, value| {
            head.entry(hash).or_default().insert(0, value);
            count += 1;
            if count >= HEAD_ENTRIES {
                count = 0;
                self.write_out(&mut writing, &std::mem::take(&mut head), &mut runs, |_| true)?;
            }
            Ok(())
        };
        let written = fill(&mut add)
            .and_then(|()| self.write_out(&mut writing, &head, &mut runs, |_| true))
            .and_then(|()| self.disk.sync_dir(&self.dir).context("sync", &self.dir));
        let rebuilt = RebuiltIndex { index: self, writing, runs };
        written.map(|()| rebuilt)
    }

    /// Blocks insertions until the result is dropped.
    #[cfg(test)]
    pub(crate) fn block_insertions(&self) -> impl Drop + '_ {
        self.state.read()
    }

    /// Returns the directory of the runs.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }
}

/// A new index that is complete and not in use yet; see [`HashIndex::rebuild`]. Its
/// files are removed if it is dropped.
#[derive(Debug)]
pub(crate) struct RebuiltIndex<'a> {
    index: &'a HashIndex,
    writing: MutexGuard<'a, Writing>,
    runs: Vec<Arc<Run>>,
}

impl RebuiltIndex<'_> {
    /// Returns the ids of the runs, oldest first.
    pub(crate) fn run_ids(&self) -> Vec<u64> {
        self.runs.iter().map(|run| run.id).collect()
    }

    /// Replaces the index.
    pub(crate) fn swap_in(mut self) {
        let runs = std::mem::take(&mut self.runs);
        let old =
            std::mem::replace(&mut *self.index.state.write(), State { runs, ..State::default() });
        self.writing.written.extend(old.runs);
    }
}

impl Drop for RebuiltIndex<'_> {
    fn drop(&mut self) {
        let state = self.index.state.read();
        for run in self.writing.written.drain(..) {
            if !state.runs.iter().any(|kept| kept.id == run.id) {
                // Best effort: the next start removes the rest.
                let _ = self.index.disk.remove(run.path());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::VALUE_LEN;
    use disk::sim::{Fault, SimDisk};

    fn value(number: u32) -> Value {
        let mut value = [0; VALUE_LEN];
        value[..4].copy_from_slice(&number.to_le_bytes());
        value
    }

    fn hash(number: u32) -> Hash {
        Hash::of(&number.to_le_bytes())
    }

    fn number(value: &Value) -> u32 {
        u32::from_le_bytes([value[0], value[1], value[2], value[3]])
    }

    fn open(disk: &SimDisk, runs: &[u64]) -> HashIndex {
        disk.create_dir(Path::new("/i")).unwrap();
        HashIndex::open(Arc::new(disk.clone()), "/i".into(), runs).unwrap()
    }

    fn get(index: &HashIndex, key: u32) -> Vec<u32> {
        let mut found = Vec::new();
        index.get(&hash(key), &mut found).unwrap();
        found.iter().map(number).collect()
    }

    fn flush(index: &HashIndex) -> Vec<u64> {
        let mut ids = Vec::new();
        index
            .flush(
                |_| true,
                || (),
                |(), runs| {
                    ids = runs.to_vec();
                    Ok(())
                },
            )
            .unwrap();
        ids
    }

    #[test]
    fn entries_survive_flushes_merges_and_a_restart() {
        let disk = SimDisk::new();
        let index = open(&disk, &[]);
        let mut runs = Vec::new();
        for batch in 0..20_u32 {
            let numbers = batch * 500..(batch + 1) * 500;
            index.insert(numbers.map(|n| (hash(n), value(n))), || ());
            runs = flush(&index);
            assert_eq!(disk.files().len(), runs.len(), "one file per run");
        }
        assert!(runs.len() <= 4, "{} runs for 20 flushes", runs.len());
        // The same key with another value: the newest value comes first.
        index.insert([(hash(7), value(70_007))], || ());
        assert_eq!(get(&index, 7), [70_007, 7]);
        runs = flush(&index);
        drop(index);
        let index = open(&disk, &runs);
        assert_eq!(index.len(), 10_001);
        assert_eq!(get(&index, 7), [70_007, 7]);
        for n in (8..10_000).step_by(13) {
            assert_eq!(get(&index, n), [n]);
        }
        assert_eq!(get(&index, 10_001), [] as [u32; 0]);
    }

    #[test]
    fn retain_drops_what_is_not_wanted() {
        let disk = SimDisk::new();
        let index = open(&disk, &[]);
        for batch in 0..3_u32 {
            index.insert((0..1000).map(|n| (hash(n), value(n + batch * 1000))), || ());
            flush(&index);
        }
        index.insert([(hash(5000), value(5000))], || ());
        let keep = |value: &Value| number(value) >= 1000;
        index
            .retain(
                keep,
                || (),
                |(), runs| {
                    assert_eq!(runs.len(), 1);
                    Ok(())
                },
            )
            .unwrap();
        assert_eq!(get(&index, 5), [2005, 1005]);
        assert_eq!(get(&index, 5000), [5000]);
        assert_eq!((index.len(), disk.files().len()), (2001, 1));
    }

    #[test]
    fn a_rebuilt_index_replaces_the_old_one_and_a_dropped_one_leaves_nothing() {
        let disk = SimDisk::new();
        let index = open(&disk, &[]);
        index.insert((0..1000).map(|n| (hash(n), value(n))), || ());
        flush(&index);
        index.insert([(hash(1000), value(1000))], || ());
        fn fill(index: &HashIndex) -> Result<RebuiltIndex<'_>, StoreError> {
            index.rebuild(|add| {
                (0..70_000).try_for_each(|n| {
                    // Lookups meanwhile find the old entries.
                    assert!(n % 10_000 > 0 || get(index, 7) == [7]);
                    add(hash(n % 40_000), value(n))
                })
            })
        }
        drop(fill(&index).unwrap());
        assert_eq!((get(&index, 1000), get(&index, 1001)), (vec![1000], vec![]));
        assert_eq!((index.len(), disk.files().len()), (1001, 1));
        // A failure at any step leaves the old index, and no file.
        for at in 0.. {
            disk.set_fault(disk.operations() + at, Fault::Fail(std::io::ErrorKind::StorageFull));
            let Err(_) = fill(&index) else { break };
            disk.clear_fault();
            assert_eq!((index.len(), disk.files().len()), (1001, 1), "failed at {at}");
        }
        disk.clear_fault();
        let rebuilt = fill(&index).unwrap();
        let runs = rebuilt.run_ids();
        rebuilt.swap_in();
        for index in [&index, &open(&disk, &runs)] {
            assert_eq!((get(index, 39_999), get(index, 1)), (vec![39_999], vec![40_001, 1]));
            assert_eq!((index.len(), disk.files().len()), (70_000, runs.len()));
        }
    }

    #[test]
    fn a_hash_with_many_values_keeps_the_newest() {
        let index = open(&SimDisk::new(), &[]);
        for n in 0..100 {
            index.insert([(hash(1), value(n))], || ());
            flush(&index);
        }
        assert_eq!(get(&index, 1)[..VALUES_MAX], [99, 98, 97, 96, 95, 94, 93, 92]);
        assert!(index.len() < 40, "{}", index.len());
    }

    #[test]
    fn a_flush_that_fails_at_any_step_loses_nothing() {
        for at in 0.. {
            let disk = SimDisk::new();
            let index = open(&disk, &[]);
            index.insert((0..100).map(|n| (hash(n), value(n))), || ());
            let first = flush(&index);
            index.insert((100..200).map(|n| (hash(n), value(n))), || ());
            let before = disk.operations();
            disk.set_fault(before + at, Fault::Fail(std::io::ErrorKind::StorageFull));
            let result = index.flush(|_| true, || (), |(), _| Ok(()));
            let done = disk.operations() <= before + at;
            disk.clear_fault();
            for n in 0..200 {
                assert_eq!(get(&index, n), [n], "failed at {at}");
            }
            if result.is_err() {
                // The catalog still names the first run.
                let reopened = open(&disk.crash(disk::sim::Power::Kept), &first);
                assert_eq!(get(&reopened, 50), [50]);
                flush(&index);
            }
            assert_eq!(get(&index, 150), [150]);
            if done {
                break;
            }
        }
    }
}

//! The model: the trees that the source had, what it published, and what the backup server
//! confirmed. A difference between the model and the program fails the seed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use net::PeerId;
use parking_lot::Mutex;
use protocols::Confirmation;
use types::{Cid, PublishedManifest};

use crate::log::Log;
use crate::tree::{Node, Tree};

/// A published manifest.
#[derive(Clone, Debug)]
pub(crate) struct Published {
    /// CID of the manifest.
    pub(crate) cid: Cid,
    /// The tree that it describes, by path; `None` if the source could not read its own
    /// manifest when it was published.
    pub(crate) tree: Option<BTreeMap<String, Node>>,
}

/// The model of one source and its snapshots. Clones share it.
#[derive(Clone)]
pub(crate) struct Model {
    /// Name of the source in the log.
    pub(crate) name: &'static str,
    /// Peer id of the source.
    pub(crate) source: PeerId,
    state: Arc<Mutex<State>>,
    log: Log,
}

struct State {
    tree: Tree,
    published: BTreeMap<u64, Published>,
    confirmed: BTreeMap<u64, Cid>,
    pruned: BTreeSet<u64>,
    failure: Option<String>,
}

impl Model {
    pub(crate) fn new(name: &'static str, source: PeerId, tree: Tree, log: Log) -> Self {
        let state = State {
            tree,
            published: BTreeMap::new(),
            confirmed: BTreeMap::new(),
            pruned: BTreeSet::new(),
            failure: None,
        };
        Self { name, source, state: Arc::new(Mutex::new(state)), log }
    }

    /// Uses the tree of the source.
    pub(crate) fn tree<T>(&self, work: impl FnOnce(&mut Tree) -> T) -> T {
        work(&mut self.state.lock().tree)
    }

    /// Fails the seed. The first failure is kept.
    pub(crate) fn fail(&self, text: impl Into<String>) {
        let text = text.into();
        self.log.line("FAULT", &text);
        self.state.lock().failure.get_or_insert(text);
    }

    /// Returns the first failure.
    pub(crate) fn failure(&self) -> Option<String> {
        self.state.lock().failure.clone()
    }

    /// Records that the source published a manifest. A number never stands for two manifests,
    /// and a lower number is published only if the same manifest was published before.
    pub(crate) fn published(
        &self,
        published: &PublishedManifest,
        tree: Result<BTreeMap<String, Node>, String>,
    ) {
        let (sequence, cid) = (published.sequence_number.0, published.manifest_cid);
        self.log.line(self.name, format_args!("published {sequence}"));
        let mut state = self.state.lock();
        match state.published.get_mut(&sequence) {
            Some(known) if known.cid == cid => {
                if known.tree.is_none() {
                    known.tree = tree.ok();
                }
            }
            Some(_) => {
                drop(state);
                self.fail(format!("manifest {sequence} was published with two contents"));
            }
            None => {
                let newest = state.published.last_key_value().map(|(newest, _)| *newest);
                let published = Published { cid, tree: tree.ok() };
                let forged = false_deletion(&state, &published);
                state.published.insert(sequence, published);
                drop(state);
                if let Some(path) = forged {
                    self.fail(format!("manifest {sequence} lacks {path}, which was never removed"));
                }
                if newest.is_some_and(|newest| newest > sequence) {
                    self.fail(format!("manifest {sequence} was published after a newer one"));
                }
            }
        }
    }

    /// Records the tree of a manifest that the source could not read when it was published.
    pub(crate) fn learn(&self, sequence: u64, tree: BTreeMap<String, Node>) {
        if let Some(published) = self.state.lock().published.get_mut(&sequence) {
            published.tree.get_or_insert(tree);
        }
    }

    /// Returns a published manifest.
    pub(crate) fn manifest(&self, sequence: u64) -> Option<Published> {
        self.state.lock().published.get(&sequence).cloned()
    }

    /// Checks the promise of the source: manifest `sequence` has everything that was saved
    /// before `covers_until`, except for the paths in `errors`.
    pub(crate) fn check_cover(
        &self,
        sequence: u64,
        covers_until: Timestamp,
        errors: &BTreeSet<String>,
    ) {
        let state = self.state.lock();
        let Some(tree) = state.published.get(&sequence).and_then(|m| m.tree.as_ref()) else {
            return;
        };
        let wrong = |path: &&String| {
            !errors.iter().any(|error| is_within(path, error))
                && !state.tree.had(path, tree.get(*path), covers_until)
        };
        let found = state.tree.paths().chain(tree.keys()).find(wrong).cloned();
        if let Some(path) = found {
            let has = format!("{:?}", tree.get(&path));
            drop(state);
            self.fail(format!(
                "manifest {sequence} covers {covers_until}, but has {path} as {has}"
            ));
        }
    }

    /// Records a receipt that arrived at the source.
    pub(crate) fn receipt(&self, receipt: &Confirmation) {
        let (sequence, cid) = (receipt.sequence.0, receipt.manifest_cid);
        self.log.line(self.name, format_args!("receipt for {sequence}"));
        let known = self.manifest(sequence).map(|known| known.cid);
        if known != Some(cid) {
            self.fail(format!("the receipt for {sequence} is for another manifest"));
        }
        self.state.lock().confirmed.insert(sequence, cid);
    }

    /// Records that retention on the backup server is about to remove snapshots.
    pub(crate) fn prunes(&self, sequences: impl IntoIterator<Item = u64>) {
        self.state.lock().pruned.extend(sequences);
    }

    /// Returns the confirmed manifests that must be on the backup server.
    pub(crate) fn owed(&self) -> BTreeMap<u64, Cid> {
        let state = self.state.lock();
        let is_owed = |(sequence, _): &(&u64, &Cid)| !state.pruned.contains(sequence);
        state.confirmed.iter().filter(is_owed).map(|(s, c)| (*s, *c)).collect()
    }

    /// Returns the newest confirmed sequence number.
    pub(crate) fn newest_confirmed(&self) -> Option<u64> {
        self.state.lock().confirmed.last_key_value().map(|(sequence, _)| *sequence)
    }

    /// Reports whether the manifest describes the current tree.
    pub(crate) fn is_current(&self, sequence: u64) -> bool {
        let state = self.state.lock();
        let tree = state.published.get(&sequence).and_then(|known| known.tree.as_ref());
        tree.is_some_and(|tree| tree == state.tree.now())
    }
}

/// Returns a path that the manifest before has, this one has not, and that was not removed in
/// between: a deletion that nobody made. A path is excepted whose content was overwritten, and
/// that is not in the newest confirmed manifest: the source cannot deliver that content, and the
/// backup server never had another one.
fn false_deletion(state: &State, published: &Published) -> Option<String> {
    let (_, before) = state.published.last_key_value()?;
    let (before, after) = (before.tree.as_ref()?, published.tree.as_ref()?);
    let confirmed = state.confirmed.last_key_value();
    let confirmed =
        confirmed.and_then(|(sequence, _)| state.published.get(sequence)?.tree.as_ref());
    let is_undeliverable = |path: &String, node: &Node| {
        state.tree.now().get(path) != Some(node)
            && confirmed.is_none_or(|confirmed| !confirmed.contains_key(path))
    };
    let is_false = |(path, node): &(&String, &Node)| {
        !after.contains_key(*path)
            && !state.tree.was_removed(path, node)
            && !is_undeliverable(path, node)
    };
    before.iter().find(is_false).map(|(path, _)| path.clone())
}

/// Reports whether `path` is `dir` or below it.
fn is_within(path: &str, dir: &str) -> bool {
    dir.is_empty()
        || path.strip_prefix(dir).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

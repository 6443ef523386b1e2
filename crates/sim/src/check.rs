//! Comparing stores with the model.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use ::disk::sim::{Power, SimDisk};
use snapshots::{Depth, Snapshot, SnapshotStore, SnapshotTree};
use store::{BlockRead, BlockStore, FileReader, PackStore, StoreOptions};
use types::{Cid, EntryKind, Hash, RelPath, with_causes};

use crate::model::Model;
use crate::tree::Node;

/// Directory of the store on each simulated disk.
pub(crate) const STORE_DIR: &str = "/data/store";

/// Returns the options of both stores: small packs, no thread.
pub(crate) fn store_options() -> StoreOptions {
    StoreOptions { max_storage: None, disk_reserve: 0, pack_len: 40_000, background: false }
}

/// Returns the tree that a manifest describes.
pub(crate) fn tree_of(
    store: Arc<dyn BlockRead>,
    manifest: Cid,
) -> Result<BTreeMap<String, Node>, String> {
    let tree = SnapshotTree::open(store, manifest).map_err(|error| with_causes(&error))?;
    let mut found = BTreeMap::new();
    let mut problem = None;
    let listed = tree.list(&RelPath::root(), Depth::All, |entry| {
        let node = match entry.kind {
            EntryKind::File { size, blake3, .. } => {
                Node::File { hash: blake3, len: size, mtime_ns: entry.metadata.mtime_ns }
            }
            EntryKind::Dir => Node::Dir,
            EntryKind::Symlink { target } => {
                Node::Link(String::from_utf8_lossy(&target).into_owned())
            }
            other => {
                problem = Some(format!("{} is {other:?}", entry.path));
                return ControlFlow::Break(());
            }
        };
        found.insert(entry.path.to_string(), node);
        ControlFlow::Continue(())
    });
    listed.map_err(|error| with_causes(&error))?;
    problem.map_or(Ok(found), Err)
}

/// Reads all files of a manifest, and compares each with its entry.
pub(crate) fn read_files(store: &Arc<dyn BlockRead>, manifest: Cid) -> Result<(), String> {
    let tree = SnapshotTree::open(store.clone(), manifest).map_err(|error| with_causes(&error))?;
    let mut files = Vec::new();
    let listed = tree.list(&RelPath::root(), Depth::All, |entry| {
        if let EntryKind::File { cid, size, blake3, .. } = entry.kind {
            files.push((entry.path, cid, size, blake3));
        }
        ControlFlow::Continue(())
    });
    listed.map_err(|error| with_causes(&error))?;
    for (path, cid, size, blake3) in files {
        let reader = FileReader::open(store.clone(), cid);
        let reader = reader.map_err(|error| format!("{path}: {}", with_causes(&error)))?;
        let mut reader = reader.ok_or_else(|| format!("{path}: its content is missing"))?;
        let mut bytes = Vec::new();
        while let Some(piece) =
            reader.read().map_err(|error| format!("{path}: {}", with_causes(&error)))?
        {
            bytes.extend_from_slice(&piece);
        }
        if bytes.len() as u64 != size || Hash::of(&bytes) != blake3 {
            return Err(format!("{path} has another content"));
        }
    }
    Ok(())
}

/// Compares the snapshots of a backup server with the models: each is complete and equal to
/// what its source published, they follow each other, and every confirmed one is there.
/// Reads all blocks of the confirmed snapshots.
pub(crate) fn snapshots(snapshots: &SnapshotStore, models: &[Model]) -> Result<(), String> {
    let missing = store::check::missing_blocks(&**snapshots.store());
    let missing = missing.map_err(|error| with_causes(&error))?;
    if !missing.is_empty() {
        return Err(format!("blocks are missing: {missing:?}"));
    }
    for model in models {
        of_source(snapshots, model).map_err(|error| format!("{}: {error}", model.name))?;
    }
    Ok(())
}

fn of_source(snapshots: &SnapshotStore, model: &Model) -> Result<(), String> {
    let listing = snapshots.list_of(&model.source, None).map_err(|error| with_causes(&error))?;
    if let Some(damaged) = listing.damaged.first() {
        return Err(format!("the record of {} cannot be read: {}", damaged.root, damaged.reason));
    }
    let mut last = 0;
    for snapshot in &listing.snapshots {
        let sequence = snapshot.record.sequence.0;
        if sequence <= last {
            return Err(format!("snapshot {sequence} follows {last}"));
        }
        last = sequence;
        one(snapshots.store(), snapshot, model)
            .map_err(|error| format!("snapshot {sequence}: {error}"))?;
    }
    let store: Arc<dyn BlockRead> = snapshots.store().clone();
    for (sequence, cid) in model.owed() {
        let is_there = listing
            .snapshots
            .iter()
            .any(|s| s.record.sequence.0 == sequence && s.record.manifest == cid);
        if !is_there {
            return Err(format!("snapshot {sequence} was confirmed and is not there"));
        }
        read_files(&store, cid).map_err(|error| format!("snapshot {sequence}: {error}"))?;
    }
    Ok(())
}

/// Compares one snapshot with the manifest that was published under its number.
fn one(store: &Arc<dyn BlockStore>, snapshot: &Snapshot, model: &Model) -> Result<(), String> {
    let published = model.manifest(snapshot.record.sequence.0);
    let published = published.ok_or("the source never published it")?;
    if published.cid != snapshot.record.manifest {
        return Err("it is another manifest than the published one".to_owned());
    }
    let tree = tree_of(store.clone(), published.cid)?;
    match published.tree {
        Some(known) if known != tree => Err("it is another tree than the published one".to_owned()),
        Some(_) => Ok(()),
        None => {
            model.learn(snapshot.record.sequence.0, tree);
            Ok(())
        }
    }
}

/// Checks what a power cut would leave of the backup server at this moment.
pub(crate) fn after_power_cut(
    disk: &SimDisk,
    power: Power,
    models: &[Model],
) -> Result<(), String> {
    let image = disk.crash(power);
    image.set_capacity(None);
    let opened = PackStore::open_on(Arc::new(image), Path::new(STORE_DIR), &store_options());
    let (store, report) = opened.map_err(|error| with_causes(&error))?;
    if report.roots_incomplete {
        return Err("records of roots are lost".to_owned());
    }
    snapshots(&SnapshotStore::new(Arc::new(store)), models)
}

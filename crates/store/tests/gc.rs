//! Garbage collection beside concurrent writers and with foreign blocks: it deletes
//! no block whose copy is not durable and good.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::convert::Infallible;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::thread;

use common::{DIR, chunk, open, options, store_tree, tree};
use disk::sim::{EIO, FaultRule, Op, Power, SimDisk};
use disk::{Call, ObservedDisk, Observer};
use parking_lot::Mutex;
use store::{
    BlockRead as _, BlockWrite as _, GcOptions, PackStore, Root, Roots as _, StoreAdmin as _,
    StoreError,
};
use types::{Block, BlockScheme, EncodedBlock, FileNodeBuilder, NodeChild};

type Hook = Box<dyn FnMut(&Path) + Send>;

/// Calls hooks when a file is created or read.
#[derive(Default)]
struct Hooks {
    on_create: Mutex<Option<Hook>>,
    on_read: Mutex<Option<Hook>>,
}

impl Observer for Hooks {
    fn before(&self, call: &Call<'_>) -> io::Result<()> {
        let hook = match call.op {
            Op::Create => &self.on_create,
            Op::Read => &self.on_read,
            _ => return Ok(()),
        };
        // Operations of the hook itself do not call it again.
        let taken = hook.lock().take();
        if let Some(mut taken) = taken {
            taken(call.path);
            *hook.lock() = Some(taken);
        }
        Ok(())
    }
}

/// Opens a store on a disk with hooks.
fn open_hooked(disk: &SimDisk) -> (Arc<PackStore>, ObservedDisk<Hooks>) {
    let hooked = ObservedDisk::over(Arc::new(disk.clone()), Hooks::default());
    let opened = PackStore::open_on(Arc::new(hooked.clone()), Path::new(DIR), &options());
    (Arc::new(opened.unwrap().0), hooked)
}

/// The pack that the collection filled first cannot be synced, and the commit of
/// another thread gets the error: the originals stay.
#[test]
fn an_original_stays_if_its_copy_is_lost_and_another_thread_got_the_error() {
    let disk = SimDisk::new();
    let (store, hooked) = open_hooked(&disk);
    // Two full packs and an open one, each with a dead block: the live blocks of
    // the last two emptied packs fill more than a pack.
    let kept: Vec<_> = (0..10).map(|seed| chunk(seed, 700)).collect();
    for (number, pair) in kept.chunks(2).enumerate() {
        let epoch = store.write_epoch();
        store.put(&[chunk(100 + number as u64, 100)]).unwrap();
        store.put(pair).unwrap();
        for block in pair {
            let root = Root { cid: block.cid(), partial: false };
            store.set_root(&block.cid().to_string(), root, epoch).unwrap();
        }
    }
    let assert_kept = |store: &PackStore, context: &str| {
        for block in &kept {
            let found = store.get(&block.cid()).unwrap();
            assert_eq!(found.as_ref(), Some(block.payload()), "{context}");
        }
    };
    let told = Arc::new(OnceLock::new());
    let mut made = 0;
    let (weak, failing, tell) = (Arc::downgrade(&store), disk.clone(), told.clone());
    *hooked.observer().on_create.lock() = Some(Box::new(move |path| {
        if path.extension().is_none_or(|extension| extension != "pack") {
            return;
        }
        made += 1;
        match made {
            1 => {
                failing.add_fault(FaultRule::new(Op::Sync, EIO).on(path.to_str().unwrap()));
            }
            2 => {
                let store = Weak::upgrade(&weak).unwrap();
                let committing = thread::spawn(move || store.commit(store.write_epoch()));
                tell.set(committing.join().unwrap()).unwrap();
            }
            _ => {}
        }
    }));
    let result = store.gc(GcOptions::EVERYTHING);
    *hooked.observer().on_create.lock() = None;
    disk.clear_fault_rules();
    assert!(matches!(told.get(), Some(Err(StoreError::LostWrites))), "{told:?}");
    assert!(matches!(result, Err(StoreError::LostWrites)), "{result:?}");
    for power in [Power::Dropped, Power::Torn] {
        let (store, _) = open(&disk.crash(power));
        assert_kept(&store, "after the power cut");
    }
    // The next collection succeeds.
    store.gc(GcOptions::EVERYTHING).unwrap();
    assert_eq!(store.usage().unwrap().blocks, 10);
    let (store, _) = open(&disk.crash(Power::Dropped));
    assert_kept(&store, "after the next collection");
}

const NAMED: u64 = 16;

/// Returns a node that names `child` [`NAMED`] times.
fn node_over(child: NodeChild) -> (NodeChild, EncodedBlock) {
    let mut builder = FileNodeBuilder::new(BlockScheme::plain());
    let mut emitted = Vec::new();
    let mut emit = |block: Block| {
        emitted.push(EncodedBlock::plain(block));
        Ok::<_, Infallible>(())
    };
    for _ in 0..NAMED {
        builder.push(child, &mut emit).unwrap();
    }
    let cid = builder.finish(&mut emit).unwrap().unwrap();
    assert_eq!(emitted.len(), 1);
    (NodeChild { cid, len: child.len * NAMED }, emitted.remove(0))
}

/// Nodes that are put while a collection marks, and that name each other many
/// times, are walked once each: otherwise a source could keep the collection busy
/// permanently.
#[test]
fn what_arrives_while_a_collection_marks_is_walked_once() {
    let disk = SimDisk::new();
    let (store, hooked) = open_hooked(&disk);
    store_tree(&store, "kept", &tree(&[1, 2])).unwrap();
    let leaf = chunk(7, 300);
    let mut blocks = vec![leaf.clone()];
    let mut top = NodeChild { cid: leaf.cid(), len: u64::from(leaf.len()) };
    for _ in 0..6 {
        let (above, block) = node_over(top);
        blocks.push(block);
        top = above;
    }
    // A pull in progress: its manifest is put while the other roots are walked.
    store.set_root("pull", Root { cid: top.cid, partial: true }, store.write_epoch()).unwrap();
    let reads = Arc::new(AtomicU64::new(0));
    let (weak, counted, new) = (Arc::downgrade(&store), reads.clone(), blocks.clone());
    *hooked.observer().on_read.lock() = Some(Box::new(move |_| {
        if counted.fetch_add(1, Ordering::SeqCst) == 0 {
            Weak::upgrade(&weak).unwrap().put(&new).unwrap();
        }
        assert!(counted.load(Ordering::SeqCst) < 1000, "the same is read again and again");
    }));
    store.gc(GcOptions::EVERYTHING).unwrap();
    *hooked.observer().on_read.lock() = None;
    assert!(reads.load(Ordering::SeqCst) > 6, "the nodes came before the walk ended");
    for block in &blocks {
        assert!(store.has(&block.cid()).unwrap());
    }
}

#[test]
fn the_space_that_roots_need_counts_each_block_once_and_follows_removals() {
    let disk = SimDisk::new();
    let (store, _) = open_hooked(&disk);
    store_tree(&store, "snapshot/a/1", &tree(&[1, 2, 3])).unwrap();
    let alone = store.reached_bytes(&["snapshot/a/".into()]).unwrap();
    store_tree(&store, "snapshot/b/1", &tree(&[1, 2, 3])).unwrap();
    store_tree(&store, "snapshot/a/2", &tree(&[1, 2, 3, 4])).unwrap();
    let reached = |prefix: &str| store.reached_bytes(&[prefix.to_owned()]).unwrap();
    // The second one needs a chunk and a node more.
    let both = reached("snapshot/a/");
    assert!(both > alone + 500 && both < alone * 2, "{alone} {both}");
    assert_eq!((reached("snapshot/b/"), reached("pull/")), (alone, 0));
    assert_eq!(store.reached_bytes(&["snapshot/a/".into(), "snapshot/b/".into()]).unwrap(), both);
    store.remove_root("snapshot/a/2").unwrap();
    assert_eq!(reached("snapshot/a/"), alone, "before the collection");
    store.gc(GcOptions::EVERYTHING).unwrap();
    assert_eq!(reached("snapshot/a/"), alone);
    // Blocks of an unfinished pull may be missing.
    let missing = Root { cid: chunk(99, 10).cid(), partial: true };
    store.set_root("pull/a", missing, store.write_epoch()).unwrap();
    assert_eq!(reached("pull/"), 0);
}

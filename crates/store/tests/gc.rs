//! Garbage collection beside concurrent writers and with foreign blocks: it deletes
//! no block whose copy is not durable and good.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::convert::Infallible;
use std::ffi::OsString;
use std::fmt;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::thread;

use common::{DIR, chunk, open, options, store_tree, tree};
use disk::sim::{Fault, Power, SimDisk};
use disk::{Disk, DiskFile, Space};
use parking_lot::Mutex;
use store::{
    BlockRead as _, BlockWrite as _, GcOptions, PackStore, Root, Roots as _, StoreAdmin as _,
    StoreError,
};
use types::{Block, BlockScheme, EncodedBlock, FileNodeBuilder, NodeChild};

type Hook = Box<dyn FnMut(&Path) + Send>;

/// A simulated disk that calls hooks when a file is created or read, and on which
/// the syncs of one file fail.
#[derive(Clone, Default)]
struct Hooked {
    disk: SimDisk,
    on_create: Arc<Mutex<Option<Hook>>>,
    on_read: Arc<Mutex<Option<Hook>>>,
    fails: Arc<Mutex<Option<PathBuf>>>,
}

struct HookedFile {
    on: Hooked,
    path: PathBuf,
    file: Box<dyn DiskFile>,
}

impl fmt::Debug for Hooked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.disk.fmt(f)
    }
}

impl fmt::Debug for HookedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.file.fmt(f)
    }
}

/// Calls a hook. Operations of the hook itself do not call it again.
fn call(hook: &Mutex<Option<Hook>>, path: &Path) {
    let taken = hook.lock().take();
    if let Some(mut taken) = taken {
        taken(path);
        *hook.lock() = Some(taken);
    }
}

impl Hooked {
    fn open_store(&self) -> Arc<PackStore> {
        let opened = PackStore::open_on(Arc::new(self.clone()), Path::new(DIR), &options());
        Arc::new(opened.unwrap().0)
    }

    fn wrap(&self, path: &Path, file: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        Box::new(HookedFile { on: self.clone(), path: path.to_owned(), file })
    }
}

impl Disk for Hooked {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.create_dir(path)
    }

    fn create_with_mode(&self, path: &Path, mode: u32) -> io::Result<Box<dyn DiskFile>> {
        call(&self.on_create, path);
        Ok(self.wrap(path, self.disk.create_with_mode(path, mode)?))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(self.wrap(path, self.disk.open(path)?))
    }

    fn open_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(self.wrap(path, self.disk.open_read(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename_new(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        self.disk.list(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.sync_dir(dir)
    }

    fn space(&self, dir: &Path) -> io::Result<Space> {
        self.disk.space(dir)
    }
}

impl DiskFile for HookedFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        call(&self.on.on_read, &self.path);
        self.file.read_at(buf, offset)
    }

    fn write_at(&self, parts: &[&[u8]], offset: u64) -> io::Result<()> {
        self.file.write_at(parts, offset)
    }

    fn sync(&self) -> io::Result<()> {
        if self.on.fails.lock().as_ref() == Some(&self.path) {
            let next = self.on.disk.operations();
            self.on.disk.set_fault(next, Fault::Fail(ErrorKind::Other));
        }
        self.file.sync()
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.file.truncate(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.file.allocate(len)
    }

    fn lock(&self) -> io::Result<()> {
        self.file.lock()
    }

    fn lock_shared(&self) -> io::Result<()> {
        self.file.lock_shared()
    }

    fn copy_permissions(&self, path: &Path) -> io::Result<()> {
        self.file.copy_permissions(path)
    }
}

/// The pack that the collection filled first cannot be synced, and the commit of
/// another thread gets the error: the originals stay.
#[test]
fn an_original_stays_where_another_thread_was_told_that_its_copy_is_lost() {
    let hooked = Hooked::default();
    let store = hooked.open_store();
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
    let (weak, fails, tell) = (Arc::downgrade(&store), hooked.fails.clone(), told.clone());
    *hooked.on_create.lock() = Some(Box::new(move |path| {
        if path.extension().is_none_or(|extension| extension != "pack") {
            return;
        }
        made += 1;
        match made {
            1 => *fails.lock() = Some(path.to_owned()),
            2 => {
                let store = Weak::upgrade(&weak).unwrap();
                let committing = thread::spawn(move || store.commit(store.write_epoch()));
                tell.set(committing.join().unwrap()).unwrap();
            }
            _ => {}
        }
    }));
    let result = store.gc(GcOptions::EVERYTHING);
    *hooked.on_create.lock() = None;
    *hooked.fails.lock() = None;
    assert!(matches!(told.get(), Some(Err(StoreError::LostWrites))), "{told:?}");
    assert!(matches!(result, Err(StoreError::LostWrites)), "{result:?}");
    for power in [Power::Dropped, Power::Torn] {
        let (store, _) = open(&hooked.disk.crash(power));
        assert_kept(&store, "after the power cut");
    }
    // The next collection succeeds.
    store.gc(GcOptions::EVERYTHING).unwrap();
    assert_eq!(store.usage().unwrap().blocks, 10);
    let (store, _) = open(&hooked.disk.crash(Power::Dropped));
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
    let hooked = Hooked::default();
    let store = hooked.open_store();
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
    *hooked.on_read.lock() = Some(Box::new(move |_| {
        if counted.fetch_add(1, Ordering::SeqCst) == 0 {
            Weak::upgrade(&weak).unwrap().put(&new).unwrap();
        }
        assert!(counted.load(Ordering::SeqCst) < 1000, "the same is read again and again");
    }));
    store.gc(GcOptions::EVERYTHING).unwrap();
    *hooked.on_read.lock() = None;
    assert!(reads.load(Ordering::SeqCst) > 6, "the nodes came before the walk ended");
    for block in &blocks {
        assert!(store.has(&block.cid()).unwrap());
    }
}

//! A store that is opened for reading only: every block and root is found, nothing
//! is written, and damage is reported.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use common::{DIR, chunk, files, filled, open, options, store_tree, tree, trees, write_and_remove};
use disk::sim::{Fault, Power, SimDisk};
use disk::{Disk as _, ReadOnlyDisk, read_file};
use store::check::missing_blocks;
use store::{
    BlockRead as _, BlockWrite as _, GcOptions, OpenReport, PackStore, ReadOnlyPackStore, Root,
    Roots as _, RootsRead as _, StoreAdmin as _, StoreError, StoreOptions,
};

/// A disk that refuses every write, and the store on it.
fn open_read_only(disk: &SimDisk) -> (ReadOnlyDisk, ReadOnlyPackStore, OpenReport) {
    let read_only = ReadOnlyDisk::new(Arc::new(disk.clone()));
    let opened = ReadOnlyPackStore::open_on(Arc::new(read_only.clone()), Path::new(DIR));
    let (store, report) = opened.unwrap();
    (read_only, store, report)
}

fn contents(disk: &SimDisk) -> BTreeMap<PathBuf, Vec<u8>> {
    let content = |path: PathBuf| {
        let bytes = read_file(disk, &path, u64::MAX).unwrap();
        (path, bytes)
    };
    disk.files().into_iter().map(content).collect()
}

/// Reads all blocks of all trees, and returns those that are absent or damaged.
/// Asserts that nothing was written.
fn read_all(disk: &SimDisk, context: &str) -> (OpenReport, Vec<String>) {
    let before = contents(disk);
    let operations = disk.operations();
    let (read_only, store, report) = open_read_only(disk);
    let mut bad = Vec::new();
    for (name, tree) in trees() {
        for block in &tree.blocks {
            let is_present = store.has(&block.cid()).unwrap();
            match store.get(&block.cid()) {
                Ok(Some(bytes)) => {
                    assert_eq!(bytes, block.decode().unwrap(), "{context}");
                    assert!(is_present, "{context}");
                    let len = store.len_of(&block.cid()).unwrap();
                    assert_eq!(len, Some(block.len().into()), "{context}");
                }
                Ok(None) | Err(StoreError::Damaged { .. }) => {
                    assert!(!store.has(&block.cid()).unwrap(), "{context}");
                    bad.push(name.clone());
                }
                Err(error) => panic!("{context}: {error}"),
            }
        }
    }
    assert!(!store.has(&chunk(99, 100).cid()).unwrap(), "{context}");
    drop(store);
    assert_eq!(read_only.take_attempts(), [], "{context}");
    assert_eq!(disk.operations(), operations, "{context}");
    assert!(contents(disk) == before, "{context}");
    (report, bad)
}

#[test]
fn everything_is_read_and_nothing_is_written() {
    let (report, bad) = read_all(&filled(), "a closed store");
    let open_packs = OpenReport { walked_packs: 2, ..OpenReport::default() };
    assert_eq!((report, bad), (open_packs, vec![]));

    // A process that was killed has not written its index.
    let disk = SimDisk::new();
    let (store, _) = open(&disk);
    for (name, tree) in trees() {
        store_tree(&store, &name, &tree).unwrap();
    }
    for power in [Power::Kept, Power::Dropped] {
        let (report, bad) = read_all(&disk.crash(power), "a killed process");
        assert!(report.walked_packs > 0 && report.damage.is_empty(), "{report:?}");
        assert_eq!(bad, Vec::<String>::new());
    }
    // The writer is still running.
    let (_, bad) = read_all(&disk, "beside a writer");
    assert_eq!(bad, Vec::<String>::new());
}

#[test]
fn roots_are_read() {
    let disk = filled();
    let (_, store, _) = open_read_only(&disk);
    for (name, tree) in trees() {
        assert_eq!(store.root(&name), Some(Root { cid: tree.root, partial: false }));
        assert_eq!(store.roots(&name), [(name, Root { cid: tree.root, partial: false })]);
    }
    assert_eq!(store.roots("").len(), trees().len());
    assert_eq!(store.root("e"), None);
}

/// The index is a cache: without it, or with a damaged one, everything is read.
#[test]
fn a_lost_or_damaged_index_is_made_in_memory() {
    for path in files(&filled(), "/index/") {
        for (change, what) in ["lost", "cut", "flipped at the start", "flipped at the end"]
            .into_iter()
            .enumerate()
            .map(|(number, what)| (number, format!("{} is {what}", path.display())))
        {
            let disk = filled();
            match change {
                0 => disk.lose(&path),
                1 => disk.damage(&path, |bytes| bytes.truncate(bytes.len() / 2)),
                2 => disk.damage(&path, |bytes| bytes[20] ^= 1),
                _ => disk.damage(&path, |bytes| *bytes.last_mut().unwrap() ^= 1),
            }
            let (report, bad) = read_all(&disk, &what);
            assert_eq!((report.damage, bad), (vec![], vec![]), "{what}");
        }
    }
    // The files that only a writer needs.
    for name in ["lock", "format", "quarantine", "settled", "ballast"] {
        let disk = filled();
        disk.lose(&Path::new(DIR).join(name));
        let (_, bad) = read_all(&disk, name);
        assert_eq!(bad, Vec::<String>::new());
    }
}

#[test]
fn damage_is_reported_and_stays() {
    for path in files(&filled(), "/packs/") {
        let disk = filled();
        disk.damage(&path, |bytes| bytes[100] ^= 1);
        let (_, bad) = read_all(&disk, "a flipped bit in a record");
        assert!(!bad.is_empty(), "{}", path.display());
        for len in [70, 64, 10, 0] {
            let disk = filled();
            disk.damage(&path, |bytes| bytes.truncate(len));
            let (report, bad) = read_all(&disk, "a cut pack");
            assert!(!report.damage.is_empty() && !bad.is_empty(), "{}, {len}", path.display());
        }
        let disk = filled();
        disk.damage(&path, |bytes| bytes[3] ^= 1);
        let (report, bad) = read_all(&disk, "a damaged header");
        assert!(!report.damage.is_empty() && bad.is_empty(), "{}: {bad:?}", path.display());
        let disk = filled();
        disk.lose(&path);
        let (report, bad) = read_all(&disk, "a lost pack");
        assert!(!report.lost_packs.is_empty() && !bad.is_empty(), "{}", path.display());
    }
}

#[test]
fn damaged_root_logs_are_reported_and_stay() {
    let logs = files(&filled(), "/roots/");
    assert_eq!(logs.len(), 2);
    for log in &logs {
        let disk = filled();
        disk.damage(log, |bytes| bytes[40] ^= 1);
        let (report, _) = read_all(&disk, "one damaged log");
        assert!(report.roots_repaired && !report.roots_incomplete, "{report:?}");
        assert_eq!(open_read_only(&disk).1.roots("").len(), trees().len());
        disk.lose(log);
        let (report, _) = read_all(&disk, "one lost log");
        assert!(report.roots_repaired && !report.roots_incomplete, "{report:?}");
    }
    let disk = filled();
    for log in &logs {
        disk.lose(log);
    }
    let (report, bad) = read_all(&disk, "no log");
    assert!(report.roots_incomplete && bad.is_empty(), "{report:?}");
    assert_eq!(files(&disk, "/roots/"), Vec::<PathBuf>::new());
}

#[test]
fn a_store_that_does_not_exist_is_not_created() {
    let disk = SimDisk::new();
    let error = ReadOnlyPackStore::open_on(Arc::new(disk.clone()), Path::new(DIR)).unwrap_err();
    assert!(matches!(error, StoreError::Io { .. }), "{error:?}");
    assert_eq!(disk.operations(), 0);
    // The writer died before the store had a file.
    disk.create_dir(Path::new(DIR)).unwrap();
    let (store, report) =
        ReadOnlyPackStore::open_on(Arc::new(disk.clone()), Path::new(DIR)).unwrap();
    assert_eq!((store.roots(""), report), (vec![], OpenReport::default()));
}

#[test]
fn readers_keep_a_writer_out_and_a_writer_keeps_no_reader_out() {
    let disk = filled();
    let readers = [(); 2].map(|()| open_read_only(&disk).1);
    assert!(readers.iter().all(|reader| !reader.may_be_written()));
    let refused = common::try_open(&disk).unwrap_err();
    assert!(matches!(refused, StoreError::Locked(_)), "{refused:?}");
    drop(readers);
    let (writer, _) = open(&disk);
    assert!(open_read_only(&disk).1.may_be_written());
    drop(writer);
}

/// Every block stays readable while a collection moves it from pack to pack, whether
/// or not its pack was read before.
#[test]
fn a_block_is_found_after_its_pack_was_replaced() {
    for was_read in [false, true] {
        let disk = SimDisk::new();
        let (writer, _) = open(&disk);
        let kept: Vec<_> = (0..6).map(|seed| chunk(seed, 700)).collect();
        for block in &kept {
            let epoch = writer.write_epoch();
            writer.put(&[chunk(100 + u64::from(block.len()), 300), block.clone()]).unwrap();
            let root = Root { cid: block.cid(), partial: false };
            writer.set_root(&block.cid().to_string(), root, epoch).unwrap();
        }
        let (_, reader, _) = open_read_only(&disk);
        if was_read {
            assert_eq!(missing_blocks(&reader).unwrap(), []);
        }
        let packs = files(&disk, "/packs/");
        writer.gc(GcOptions::EVERYTHING).unwrap();
        assert!(files(&disk, "/packs/") != packs, "a pack was replaced");
        for block in &kept {
            assert!(reader.has(&block.cid()).unwrap());
            assert_eq!(reader.get(&block.cid()).unwrap().as_ref(), Some(block.payload()));
        }
        assert_eq!(reader.loss_counter(), 0, "nothing is taken for damage");
    }
}

/// Readers that come and go beside writers and a collector find every block of every
/// root that is still set when they have looked.
#[test]
fn nothing_is_missing_beside_writers_and_a_collector() {
    let dir = tempfile::tempdir().unwrap();
    let options = StoreOptions { disk_reserve: 0, pack_len: 20_000, ..options() };
    let writer = Arc::new(PackStore::open(dir.path(), &options).unwrap().0);
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        let writers: Vec<_> = (0..2)
            .map(|number| {
                let writer = writer.clone();
                scope.spawn(move || write_and_remove(&writer, number, 40, (5, 40), tree))
            })
            .collect();
        scope.spawn(|| {
            while !is_done.load(Ordering::SeqCst) {
                writer.gc(GcOptions::EVERYTHING).unwrap();
            }
        });
        scope.spawn(|| {
            while !is_done.load(Ordering::SeqCst) {
                let (reader, report) = ReadOnlyPackStore::open(dir.path()).unwrap();
                assert!(!report.roots_incomplete, "{report:?}");
                // (A block that is not found gives the reader a new view, and so other roots.)
                let roots: BTreeMap<_, _> = reader.roots("").into_iter().collect();
                for block in missing_blocks(&reader).unwrap() {
                    for name in &block.roots {
                        // Only the blocks of a root that was replaced or removed
                        // meanwhile may have been collected.
                        let root = writer.root(name);
                        assert!(
                            root.is_none() || root.as_ref() != roots.get(name),
                            "{name} needs {block:?}"
                        );
                    }
                }
            }
        });
        let results: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
        is_done.store(true, Ordering::SeqCst);
        for result in results {
            result.unwrap();
        }
    });
}

/// An instance whose disk becomes read-only reads every block, whether its pack was
/// open, and reports every write.
#[test]
fn a_running_store_reads_on_when_its_disk_becomes_read_only() {
    let disk = ReadOnlyDisk::writable(Arc::new(filled()));
    let opened = PackStore::open_on(Arc::new(disk.clone()), Path::new(DIR), &options());
    let store = opened.unwrap().0;
    assert!(!store.is_read_only().unwrap());
    disk.make_read_only();
    assert!(store.is_read_only().unwrap());
    for (name, tree) in trees() {
        for block in &tree.blocks {
            assert_eq!(store.get(&block.cid()).unwrap(), Some(block.decode().unwrap()));
        }
        assert!(store.root(&name).is_some());
    }
    assert_eq!(disk.take_attempts(), []);
    let new = chunk(99, 500);
    let put =
        store.put(std::slice::from_ref(&new)).and_then(|()| store.commit(store.write_epoch()));
    assert!(matches!(put, Err(StoreError::Io { .. })), "{put:?}");
    let root = Root { cid: new.cid(), partial: false };
    assert!(store.set_root("new", root, store.write_epoch()).is_err());
    assert!(store.remove_root("a").is_err());
    assert!(store.root("a").is_some());
}

/// Something else has filled the disk to the last byte: the store opens, and gives room
/// for the files of a start without using up the reserve of the collection.
#[test]
fn a_store_on_a_full_disk_makes_room_for_a_start() {
    let disk = filled();
    assert_eq!(files(&disk, "ballast").len(), 1);
    disk.set_capacity(Some(disk.used()));
    let (store, report) = open(&disk);
    assert!(report.damage.is_empty(), "{report:?}");
    let write = |len: usize| {
        let file = disk.create(Path::new("/store/other")).unwrap();
        let written = file.write_at(&[&vec![1; len]], 0);
        drop(file);
        disk.remove(Path::new("/store/other")).unwrap();
        written
    };
    assert!(write(700).is_err());
    assert!(store.make_room(700).unwrap());
    write(700).unwrap();
    // Not all of it is given.
    assert!(!store.make_room(2000).unwrap());
    store.remove_root("b").unwrap();
    assert!(store.gc(GcOptions::EVERYTHING).unwrap().freed_bytes > 0);
    for (name, tree) in trees().iter().filter(|(name, _)| name != "b") {
        common::assert_whole(&store, tree, name);
    }
}

/// After an error of the disk, a file system may refuse every change without being
/// mounted read-only.
#[test]
fn a_refused_change_shows_that_the_store_is_read_only() {
    let disk = SimDisk::new();
    let (store, _) = open(&disk);
    let new = chunk(99, 500);
    disk.set_fault(disk.operations(), Fault::FailForever(ErrorKind::ReadOnlyFilesystem));
    assert!(!store.is_read_only().unwrap());
    assert!(store.put(std::slice::from_ref(&new)).is_err());
    assert!(store.is_read_only().unwrap());
    disk.clear_fault();
    store.put(std::slice::from_ref(&new)).unwrap();
    let root = Root { cid: new.cid(), partial: false };
    store.set_root("new", root, store.write_epoch()).unwrap();
    assert!(!store.is_read_only().unwrap());
}

//! The logs of roots: ordinary life, and what the tests of damage and of faults share.

mod damage;
mod faults;

use types::Codec;

use super::*;
use disk::sim::SimDisk;

fn disk() -> SimDisk {
    let disk = SimDisk::new();
    disk.create_dir(Path::new("/r")).unwrap();
    disk
}

fn try_open(disk: &SimDisk) -> Result<(RootLog, OpenedRoots), StoreError> {
    let is_new = !exists(disk, Path::new("/r"))?;
    RootLog::open(Arc::new(disk.clone()), "/r".into(), is_new)
}

fn open(disk: &SimDisk) -> (RootLog, Health) {
    let (log, opened) = try_open(disk).unwrap();
    (log, opened.health)
}

fn root(name: &str) -> Root {
    Root { cid: Cid::of(Codec::DagCbor, name.as_bytes()), partial: false }
}

fn names(log: &RootLog) -> Vec<String> {
    log.iter().map(|(name, _)| name.clone()).collect()
}

fn filled() -> SimDisk {
    let disk = disk();
    let (mut log, _) = open(&disk);
    for name in ["data/1", "data/2", "snap/1"] {
        log.set(name, root(name)).unwrap();
    }
    log.remove("data/1").unwrap();
    disk
}

/// Returns the bytes of every file, by name.
fn contents(disk: &SimDisk) -> Vec<(PathBuf, Vec<u8>)> {
    let read = |path: PathBuf| {
        let bytes = disk::read_file(disk, &path, 1 << 30).unwrap();
        (path, bytes)
    };
    disk.files().into_iter().map(read).collect()
}

#[test]
fn roots_survive_a_restart_and_list_by_prefix() {
    let disk = filled();
    let (log, health) = open(&disk);
    assert_eq!(health, Health::Clean);
    assert_eq!(names(&log), ["data/2", "snap/1"]);
    assert_eq!(log.get("snap/1"), Some(root("snap/1")));
    assert_eq!(log.with_prefix("data/"), [("data/2".to_owned(), root("data/2"))]);
    let partial = Root { partial: true, ..root("x") };
    let (mut log, _) = open(&disk);
    log.set("x", partial).unwrap();
    assert_eq!(open(&disk).0.get("x"), Some(partial));
}

#[test]
fn the_log_does_not_grow_with_changes() {
    let disk = disk();
    let (mut log, _) = open(&disk);
    for n in 0..5000 {
        log.set(&format!("r/{n}"), root("x")).unwrap();
        log.remove(&format!("r/{n}")).unwrap();
    }
    assert!(disk.used() < 600_000, "{} bytes", disk.used());
}

#[test]
fn bad_names_are_refused() {
    let (mut log, _) = open(&disk());
    for name in ["", "a\nb", "a\0b", &"x".repeat(513)] {
        assert!(matches!(log.set(name, root("x")), Err(StoreError::RootName(_))));
    }
}

#[test]
fn fuzz_root_log() {
    let roots = BTreeMap::from([("snap/1".to_owned(), root("snap/1"))]);
    let base = format::encode_base(7, &roots, false);
    let changes = [
        format::Change::Set("data/2".into(), root("data/2")),
        format::Change::Remove("snap/1".into()),
    ];
    let changes = (8..).zip(&changes).map(|(number, change)| format::encode_change(number, change));
    let long = [base.clone(), changes.flatten().collect()].concat();
    let known = ["snap/1", "data/2"];
    fuzzing::target!(&[base, long], |bytes: &[u8]| {
        let parsed = format::parse(bytes);
        assert!(parsed.end <= parsed.len);
        for (name, found) in &parsed.base {
            assert!(known.contains(&&**name) && *found == root(name), "a root from nowhere");
        }
        for change in parsed.changes.values() {
            match change {
                format::Change::Set(name, found) => assert_eq!(*found, root(name)),
                format::Change::Remove(name) => assert_eq!(name, "snap/1"),
            }
        }
    });
}

//! A disk that is really full: a small tmpfs. The store reports it, keeps its blocks,
//! and can be emptied and used again.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use common::noise;
use store::check::missing_blocks;
use store::{
    FileWriter, GcOptions, Limit, PackStore, Root, Roots as _, RootsRead as _, StoreAdmin as _,
    StoreError, StoreOptions,
};

/// Variables with the path of the small disk, and of the file that receives the name
/// of the test that ran on it.
const DIR_VARIABLE: &str = "ARCHIVIST_TEST_TMPFS";
const DONE_VARIABLE: &str = "ARCHIVIST_TEST_DONE";

/// Size of the small disk in MiB.
const DISK_MIB: u64 = 24;

/// Runs the body of the named test on a small tmpfs, by running this program again
/// in a mount namespace of its own. The body writes a file at its end: the exit code
/// does not show that it has run, because a program that finds no such test succeeds,
/// too.
fn in_tmpfs(test: &str, body: impl FnOnce(&Path)) {
    if let (Some(dir), Some(done)) =
        (std::env::var_os(DIR_VARIABLE), std::env::var_os(DONE_VARIABLE))
    {
        let disk = rustix::fs::statvfs(&dir).unwrap();
        assert_eq!(disk.f_blocks * disk.f_frsize, DISK_MIB << 20, "it is not on the small disk");
        body(Path::new(&dir));
        std::fs::write(done, test).unwrap();
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk");
    let done = dir.path().join("done");
    std::fs::create_dir(&disk).unwrap();
    let mount = format!("mount -t tmpfs -o size={DISK_MIB}m tmpfs '{}'", disk.display());
    let unshare = |flags: &str, script: &str| {
        let mut command = Command::new("unshare");
        command.args([flags, "sh", "-c", script]);
        command.env(DIR_VARIABLE, &disk).env(DONE_VARIABLE, &done);
        command.output().expect("`unshare` (util-linux) is needed to mount a small tmpfs")
    };
    // As root, or in a user namespace; root may lack the permission for the first.
    let flags = ["-m", "-rm"].into_iter().find(|flags| unshare(flags, &mount).status.success());
    let flags = flags.unwrap_or_else(|| {
        let said = unshare("-rm", &mount).stderr;
        panic!("needs root, or user namespaces: {}", String::from_utf8_lossy(&said))
    });
    let program = std::env::current_exe().unwrap();
    let script = format!("{mount} && exec '{}' --exact {test} --nocapture", program.display());
    let output = unshare(flags, &script);
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success(), "in the tmpfs:\n{said}");
    let ran = std::fs::read_to_string(&done).unwrap_or_default();
    assert_eq!(ran, test, "the test has not run to its end in the tmpfs:\n{said}");
}

fn open(dir: &Path, options: &StoreOptions) -> Arc<PackStore> {
    Arc::new(PackStore::open(&dir.join("store"), options).unwrap().0)
}

fn options() -> StoreOptions {
    StoreOptions { disk_reserve: 0, pack_len: 2 << 20, ..StoreOptions::default() }
}

fn write(store: &Arc<PackStore>, name: &str, seed: u64, len: usize) -> Result<(), StoreError> {
    let mut writer = FileWriter::new(store.clone(), types::BlockScheme::plain());
    writer.write(&noise(seed, len))?;
    let file = writer.finish()?;
    let root = Root { cid: file.cid, partial: false };
    file.batch.commit_root(&**store, name, root)
}

/// Writes until a write fails.
fn fill(store: &Arc<PackStore>, len: usize) -> (u64, StoreError) {
    for seed in 0.. {
        if let Err(error) = write(store, &format!("file/{seed:03}"), seed, len) {
            return (seed, error);
        }
    }
    unreachable!()
}

fn check_cycle(dir: &Path, options: &StoreOptions, expected: Limit, at_least: u64) {
    let store = open(dir, options);
    for round in 0..3 {
        let (count, error) = fill(&store, 700_000);
        assert!(
            matches!(&error, StoreError::Full { limit, .. } if *limit == expected),
            "round {round}: {error}"
        );
        assert!(count >= at_least, "round {round}: full after {count} files");
        assert_eq!(missing_blocks(&*store).unwrap(), []);
        assert_eq!(store.roots("file/").len() as u64, count);
        // First the blocks of the failed write are deleted, then half of the files.
        store.gc(GcOptions::EVERYTHING).unwrap();
        for seed in (0..count).step_by(2) {
            assert!(store.remove_root(&format!("file/{seed:03}")).unwrap());
        }
        let report = store.gc(GcOptions::EVERYTHING).unwrap();
        assert!(report.freed_bytes > count / 2 * 600_000, "{report:?}");
        assert_eq!(missing_blocks(&*store).unwrap(), []);
        for seed in (1..count).step_by(2) {
            assert!(store.remove_root(&format!("file/{seed:03}")).unwrap());
        }
        store.gc(GcOptions::EVERYTHING).unwrap();
        assert!(store.usage().unwrap().used_bytes < 3 << 20, "{:?}", store.usage());
    }
    drop(store);
    let store = open(dir, options);
    write(&store, "after", 999, 700_000).unwrap();
    assert_eq!(missing_blocks(&*store).unwrap(), []);
}

#[test]
fn the_disk_itself_is_full() {
    in_tmpfs("the_disk_itself_is_full", |dir| check_cycle(dir, &options(), Limit::Disk, 25));
}

#[test]
fn the_reserve_is_kept() {
    let options = StoreOptions { disk_reserve: 8 << 20, ..options() };
    in_tmpfs("the_reserve_is_kept", |dir| check_cycle(dir, &options, Limit::Reserve, 15));
}

#[test]
fn the_quota_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let options = StoreOptions { max_storage: Some(10 << 20), ..options() };
    check_cycle(dir.path(), &options, Limit::Quota, 10);
}

#[test]
fn a_full_disk_is_opened_read_and_emptied() {
    in_tmpfs("a_full_disk_is_opened_read_and_emptied", open_read_and_empty);
}

fn open_read_and_empty(dir: &Path) {
    let store = open(dir, &options());
    let (count, _) = fill(&store, 700_000);
    // Like a killed process: no destructor runs.
    std::mem::forget(store);
    let mut ballast = 0;
    while std::fs::write(dir.join(format!("ballast-{ballast}")), vec![1; 4096]).is_ok() {
        ballast += 1;
    }
    let copy = dir.join("store/lock");
    std::fs::remove_file(&copy).unwrap();
    let store = open(dir, &options());
    assert_eq!(store.roots("file/").len() as u64, count);
    assert_eq!(missing_blocks(&*store).unwrap(), []);
    for (name, _) in store.roots("") {
        assert!(store.remove_root(&name).unwrap());
    }
    let report = store.gc(GcOptions::default()).unwrap();
    assert!(report.freed_bytes > 15 << 20, "{report:?}");
    write(&store, "again", 1, 1_000_000).unwrap();
}

/// `in_tmpfs` fails if the named test does not exist.
#[test]
#[should_panic(expected = "has not run to its end")]
fn a_test_that_is_not_found_has_not_passed() {
    in_tmpfs("there_is_no_such_test", |_| ());
}

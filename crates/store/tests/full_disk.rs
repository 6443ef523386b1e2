//! A disk that really is full: a small tmpfs. The store says so, keeps what it
//! has, and can be emptied and used again.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use common::noise;
use store::{
    BlockStore, FileWriter, GcOptions, Limit, PackStore, Root, StoreError, StoreOptions,
    VerifyDepth,
};

const DIR_VARIABLE: &str = "ARCHIVIST_TEST_TMPFS";

/// Runs the named test of this program again, in a mount namespace of its own
/// with a tmpfs of 24 MiB. Returns false in the outer run.
fn in_tmpfs(test: &str) -> Option<std::path::PathBuf> {
    if let Ok(dir) = std::env::var(DIR_VARIABLE) {
        return Some(dir.into());
    }
    let dir = tempfile::tempdir().unwrap();
    let mount = format!(
        "mount -t tmpfs -o size=24m tmpfs '{0}' && \
         {DIR_VARIABLE}='{0}' exec '{1}' --exact {test} --nocapture",
        dir.path().display(),
        std::env::current_exe().unwrap().display(),
    );
    let flags = if rustix::process::geteuid().is_root() { "-m" } else { "-rm" };
    let output = Command::new("unshare").args([flags, "sh", "-c", &mount]).output();
    let output = output.expect("`unshare` (util-linux) is needed to mount a small tmpfs");
    assert!(
        output.status.success(),
        "in the tmpfs (needs root, or user namespaces):\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    None
}

fn open(dir: &Path, options: &StoreOptions) -> Arc<PackStore> {
    Arc::new(PackStore::open(&dir.join("store"), options).unwrap().0)
}

fn options() -> StoreOptions {
    StoreOptions { disk_reserve: 0, pack_len: 2 << 20, ..StoreOptions::default() }
}

fn write(store: &Arc<PackStore>, name: &str, seed: u64, len: usize) -> Result<(), StoreError> {
    let mut writer = FileWriter::new(store.clone());
    writer.write(&noise(seed, len))?;
    let file = writer.finish()?;
    let root = Root { cid: file.cid, partial: false };
    file.batch.commit_root(name, root)
}

/// Writes until something gives.
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
        assert!(store.verify(VerifyDepth::Full).unwrap().is_ok());
        assert_eq!(store.roots("file/").len() as u64, count);
        // What the failed write left goes first, then half of the files.
        store.gc(GcOptions::EVERYTHING).unwrap();
        for seed in (0..count).step_by(2) {
            assert!(store.remove_root(&format!("file/{seed:03}")).unwrap());
        }
        let report = store.gc(GcOptions::EVERYTHING).unwrap();
        assert!(report.freed_bytes > count / 2 * 600_000, "{report:?}");
        assert!(store.verify(VerifyDepth::Full).unwrap().is_ok());
        for seed in (1..count).step_by(2) {
            assert!(store.remove_root(&format!("file/{seed:03}")).unwrap());
        }
        store.gc(GcOptions::EVERYTHING).unwrap();
        assert!(store.usage().unwrap().used_bytes < 3 << 20, "{:?}", store.usage());
    }
    drop(store);
    let store = open(dir, options);
    write(&store, "after", 999, 700_000).unwrap();
    assert!(store.verify(VerifyDepth::Full).unwrap().is_ok());
}

#[test]
fn the_disk_itself_is_full() {
    let Some(dir) = in_tmpfs("the_disk_itself_is_full") else { return };
    check_cycle(&dir, &options(), Limit::Disk, 25);
}

#[test]
fn the_reserve_is_kept() {
    let Some(dir) = in_tmpfs("the_reserve_is_kept") else { return };
    let options = StoreOptions { disk_reserve: 8 << 20, ..options() };
    check_cycle(&dir, &options, Limit::Reserve, 15);
}

#[test]
fn the_quota_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let options = StoreOptions { max_storage: Some(10 << 20), ..options() };
    check_cycle(dir.path(), &options, Limit::Quota, 10);
}

#[test]
fn a_full_disk_is_opened_read_and_emptied() {
    let Some(dir) = in_tmpfs("a_full_disk_is_opened_read_and_emptied") else { return };
    let store = open(&dir, &options());
    let (count, _) = fill(&store, 700_000);
    // As a process that was killed leaves it: no destructor runs.
    std::mem::forget(store);
    let mut ballast = 0;
    while std::fs::write(dir.join(format!("ballast-{ballast}")), vec![1; 4096]).is_ok() {
        ballast += 1;
    }
    let copy = dir.join("store/lock");
    std::fs::remove_file(&copy).unwrap();
    let store = open(&dir, &options());
    assert_eq!(store.roots("file/").len() as u64, count);
    assert!(store.verify(VerifyDepth::Full).unwrap().is_ok());
    for (name, _) in store.roots("") {
        assert!(store.remove_root(&name).unwrap());
    }
    let report = store.gc(GcOptions::default()).unwrap();
    assert!(report.freed_bytes > 15 << 20, "{report:?}");
    write(&store, "again", 1, 1_000_000).unwrap();
}

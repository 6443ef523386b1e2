//! Deep and wide trees, and long files.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

mod common;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, Instant};

use common::{Dirs, awkward, both_ways, copy, path, symlink_to, walk};
use fstree::{
    CompareOptions, CreateFile, DestOptions, DestTree, FileContent, FileWriter as _, ReadError,
    Resolution, SourceTree, TreeReader as _, TreeWriter as _, Visit, WalkItem, WalkOptions,
    compare,
};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use types::{Metadata, RelPath};

/// Creates nested directories, and a file in every `every`th of them.
fn make_deep(dir: &Path, name: &str, levels: usize, every: usize) {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut at: OwnedFd = File::open(dir).unwrap().into();
    for level in 0..levels {
        if level % every == 0 {
            let create = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
            drop(rustix::fs::openat(&at, "z", create, Mode::RUSR | Mode::WUSR).unwrap());
        }
        rustix::fs::mkdirat(&at, name, Mode::RWXU).unwrap();
        at = rustix::fs::openat(&at, name, flags, Mode::empty()).unwrap();
    }
}

fn check_round_trip(dirs: &Dirs, options: &fstree::DestOptions) -> common::Report {
    let report = copy(&dirs.source(), &dirs.target(), options);
    assert!(report.is_clean(), "{:?}", (&report.read_errors, &report.errors, &report.not_set));
    let differences = compare(&dirs.source(), &dirs.target(), CompareOptions::default()).unwrap();
    assert!(differences.is_empty(), "{differences:#?}");
    report
}

/// Returns the number of bytes of a file in the page cache; `None` if that is unknown.
fn cached(file: &Path) -> Option<u64> {
    let mut fincore = std::process::Command::new("fincore");
    let said = fincore.args(["--bytes", "--noheadings", "--output", "RES"]).arg(file).output();
    String::from_utf8(said.ok()?.stdout).ok()?.trim().parse().ok()
}

#[test]
fn what_was_written_out_is_not_in_the_way_of_others() {
    const LEN: usize = 8 << 20;
    /// `TMPFS_MAGIC` of linux/magic.h: such files exist only in the page cache.
    const TMPFS: rustix::fs::FsWord = 0x0102_1994;
    let dirs = Dirs::new();
    let target = DestTree::open(&dirs.target(), DestOptions::default()).unwrap();
    let said = FileContent { size: 2 * LEN as u64, is_sparse: false };
    let made =
        target.create_file(&path("file"), said, &Metadata::default(), |_| Ok(false)).unwrap();
    let CreateFile::Write(mut sink) = made else { unreachable!() };
    let file = fs::read_dir(dirs.target()).unwrap().next().unwrap().unwrap().path();
    sink.write(&vec![1; LEN]).unwrap();
    let before = cached(&file);
    sink.write_out()();
    let after = cached(&file);
    // Bytes written after the request stay in the cache.
    let asked = sink.write_out();
    sink.write(&vec![2; LEN]).unwrap();
    asked();
    let at_end = cached(&file);
    sink.finish(&Metadata { mode: 0o600, ..Metadata::default() }).unwrap();
    let content = fs::read(dirs.target().join("file")).unwrap();
    assert!(content[..LEN].iter().all(|byte| *byte == 1));
    assert!(content[LEN..].iter().all(|byte| *byte == 2));
    let is_memory = rustix::fs::statfs(dirs.target()).unwrap().f_type == TMPFS;
    match (before, after, at_end) {
        (Some(before), Some(after), Some(at_end)) if !is_memory => {
            assert_eq!((before, after, at_end), (LEN as u64, 0, LEN as u64));
        }
        _ => println!("not tested: it takes fincore, and a disk"),
    }
}

#[test]
fn levels() {
    let [best, by_name] = both_ways();
    for (options, levels) in [(best, 2500), (by_name, 500)] {
        let dirs = Dirs::new();
        make_deep(&dirs.source(), "d", levels, 10);
        let report = check_round_trip(&dirs, &options);
        assert_eq!(report.made, levels + levels / 10);
    }
}

#[test]
fn as_many_levels_as_a_path_has_room_for() {
    const LEVELS: usize = types::MAX_PATH_LEN / 2;
    for options in both_ways() {
        let dirs = Dirs::new();
        // Creating them through the target would be slow, because each path is resolved
        // from the target.
        make_deep(&dirs.target(), "d", LEVELS - 3, 500);
        let target = DestTree::open(&dirs.target(), options.clone()).unwrap();
        let deep = |levels: usize| path(vec!["d"; levels].join("/"));
        let metadata = Metadata { mode: 0o700, ..Metadata::default() };
        for levels in LEVELS - 4..=LEVELS - 1 {
            target.create_dir(&deep(levels)).unwrap();
        }
        let file = deep(LEVELS - 1).join(b"f").unwrap();
        assert_eq!(file.as_bytes().len(), types::MAX_PATH_LEN - 1);
        target.create(&file, &symlink_to(b"to"), &metadata).unwrap();
        let (not_set, errors) =
            target.finish_dirs((LEVELS - 4..LEVELS).map(|levels| (deep(levels), metadata.clone())));
        assert!(not_set.is_empty() && errors.is_empty());
        let root = SourceTree::open_with(&dirs.target(), options.resolution).unwrap();
        let (found, errors) = walk(&root, WalkOptions::default());
        assert_eq!((found.len(), errors.len()), (LEVELS - 1 + LEVELS / 500 + 1 + 1, 0));
        assert!(found.iter().any(|found| found.path == file));
        assert_eq!(root.examine(&deep(LEVELS - 1)).unwrap().unwrap().stamp.mtime, (0, 0));
        assert!(root.examine(&file).unwrap().is_some());
        assert!(root.list(&deep(LEVELS - 2)).unwrap().count() == 1);
    }
}

#[test]
fn ten_thousand_levels_are_walked_as_far_as_a_path_goes() {
    let dirs = Dirs::new();
    make_deep(&dirs.source(), "d", 10_000, 1);
    let root = SourceTree::open(&dirs.source()).unwrap();
    let started = Instant::now();
    let (found, errors) = walk(&root, WalkOptions::default());
    let levels = types::MAX_PATH_LEN / 2;
    assert_eq!(found.len(), 2 * levels);
    // Neither name in the deepest directory can have a path.
    assert_eq!(errors.len(), 2);
    assert!(errors.iter().all(|error| matches!(error, ReadError::Name { .. })), "{errors:?}");
    assert!(errors.iter().all(|error| error.path().as_bytes().len() == 2 * levels - 1));
    assert!(started.elapsed() < Duration::from_secs(120), "{:?}", started.elapsed());
}

#[test]
fn levels_are_walked_name_by_name() {
    let dirs = Dirs::new();
    make_deep(&dirs.source(), "level", 1000, 1);
    let root = SourceTree::open_with(&dirs.source(), Resolution::ByName).unwrap();
    for open_dirs_max in [1, 16] {
        let options = WalkOptions { open_dirs_max, ..WalkOptions::default() };
        let (found, errors) = walk(&root, options);
        assert_eq!((found.len(), errors.len()), (2000, 0));
    }
}

#[test]
fn paths_longer_than_a_call_takes() {
    for options in both_ways() {
        let dirs = Dirs::new();
        make_deep(&dirs.source(), &"long name ".repeat(25), 60, 1);
        check_round_trip(&dirs, &options);
    }
}

#[test]
fn few_descriptors_are_enough() {
    let output = std::process::Command::new("sh")
        .args(["-c", "ulimit -n 40 && exec \"$0\" --exact levels --nocapture"])
        .arg(std::env::current_exe().unwrap())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
}

#[test]
fn a_directory_of_a_hundred_thousand_files() {
    let dirs = Dirs::new();
    let wide = dirs.source().join("wide");
    fs::create_dir(&wide).unwrap();
    for number in 0..100_000_u32 {
        File::create(wide.join(format!("{:08x}", number.wrapping_mul(2_654_435_761)))).unwrap();
    }
    let root = SourceTree::open(&dirs.source()).unwrap();
    let mut last = None;
    let mut count = 0;
    for item in root.walk(&RelPath::root(), WalkOptions::default(), |_, _| Visit::Descend).unwrap()
    {
        let WalkItem::Entry(found) = item else { panic!("{item:?}") };
        assert!(last.as_ref() < Some(&found.path));
        last = Some(found.path);
        count += 1;
    }
    assert_eq!(count, 100_001);
    let [options, _] = both_ways();
    check_round_trip(&dirs, &options);
}

fn allocated(file: &Path) -> u64 {
    fs::metadata(file).unwrap().blocks() * 512
}

#[test]
fn a_large_sparse_file_stays_sparse() {
    const LEN: u64 = 1 << 30;
    let dirs = Dirs::new();
    let file = File::create(dirs.source().join("sparse")).unwrap();
    file.set_len(LEN).unwrap();
    for at in [0, LEN / 3, LEN - 10] {
        file.write_all_at(b"0123456789", at).unwrap();
    }
    let [options, _] = both_ways();
    check_round_trip(&dirs, &options);
    assert!(allocated(&dirs.target().join("sparse")) < 1 << 20);
}

#[test]
fn every_time_that_the_file_system_keeps() {
    let dirs = Dirs::new();
    let mut state = 1_u64;
    for number in 0..300 {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // From 1901 to 2446, the range of ext4.
        let seconds = i64::try_from((state >> 20) % 17_179_869_184).unwrap() - 2_147_483_648;
        let name = dirs.source().join(number.to_string());
        fs::write(&name, b"").unwrap();
        awkward::set_mtime(&name, seconds, i64::try_from(state % 1_000_000_000).unwrap());
    }
    let [options, _] = both_ways();
    check_round_trip(&dirs, &options);
    let found = SourceTree::open(&dirs.target()).unwrap().examine(&path("7")).unwrap().unwrap();
    let metadata = fs::metadata(dirs.target().join("7")).unwrap();
    assert_eq!(found.stamp.mtime, (metadata.mtime(), metadata.mtime_nsec()));
}

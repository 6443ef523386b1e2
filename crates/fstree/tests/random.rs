//! Random trees, restored into empty directories and into other random trees.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};

use common::{Dirs, awkward, copy, owners_to_set};
use fstree::{
    CompareOptions, DestError, DestOptions, DifferenceKind, FileKind, Resolution, compare,
};
use proptest::prelude::*;
use rustix::fs::{CWD, FileType, Mode, mknodat};

#[derive(Clone, Debug)]
enum What {
    /// Runs of zeros and other bytes; true if the zeros are holes.
    File(Vec<(bool, usize)>, bool),
    Dir,
    Symlink(Vec<u8>),
    Fifo,
    HardLink(Vec<u8>),
}

#[derive(Clone, Debug)]
struct Node {
    path: Vec<Vec<u8>>,
    what: What,
    mode: u32,
    mtime: (i64, i64),
    xattrs: Vec<(u8, Vec<u8>)>,
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    // Only a few names, so that the trees overlap.
    prop::sample::select(vec![
        b"a".to_vec(),
        b"a-b".to_vec(),
        b"b".to_vec(),
        b"\xff".to_vec(),
        b"\n".to_vec(),
        b"-".to_vec(),
        vec![b'x'; 255],
    ])
}

fn node() -> impl Strategy<Value = Node> {
    let runs = prop::collection::vec((any::<bool>(), 1_usize..10_000), 0..5);
    let what = prop_oneof![
        4 => (runs, any::<bool>()).prop_map(|(runs, holes)| What::File(runs, holes)),
        4 => Just(What::Dir),
        1 => prop::collection::vec(1_u8.., 1..20).prop_map(What::Symlink),
        1 => Just(What::Fifo),
        2 => name().prop_map(What::HardLink),
    ];
    let mtime = (-2_000_000_000_i64..15_000_000_000, 0_i64..1_000_000_000);
    let xattrs = prop::collection::vec((0_u8..4, prop::collection::vec(any::<u8>(), 0..40)), 0..3);
    (prop::collection::vec(name(), 1..5), what, 0_u32..0o10000, mtime, xattrs)
        .prop_map(|(path, what, mode, mtime, xattrs)| Node { path, what, mode, mtime, xattrs })
}

fn path_of(dir: &Path, names: &[Vec<u8>]) -> PathBuf {
    names.iter().fold(dir.to_owned(), |path, name| path.join(OsStr::from_bytes(name)))
}

/// Creates all nodes that can be created.
fn make(dir: &Path, nodes: &[Node]) {
    let mut made = Vec::new();
    for node in nodes {
        let path = path_of(dir, &node.path);
        let done = match &node.what {
            What::Dir => fs::create_dir_all(&path).is_ok(),
            What::Symlink(target) => symlink(OsStr::from_bytes(target), &path).is_ok(),
            What::Fifo => mknodat(CWD, &path, FileType::Fifo, Mode::RWXU, 0).is_ok(),
            What::HardLink(to) => fs::hard_link(dir.join(OsStr::from_bytes(to)), &path).is_ok(),
            What::File(runs, holes) => make_file(&path, runs, *holes).is_some(),
        };
        if done {
            made.push((path, node));
        }
    }
    // Parents come last, because a change inside a directory changes its time.
    made.sort_by(|a, b| b.0.cmp(&a.0));
    for (path, node) in made {
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        if !metadata.is_symlink() {
            for (number, value) in &node.xattrs {
                if metadata.is_file() || metadata.is_dir() {
                    awkward::set_xattr(&path, &format!("user.{number}"), value);
                }
            }
            // The owner can make a file readable and restore its mode.
            let least = if metadata.is_dir() { 0o700 } else { 0o600 };
            common::set_mode(&path, node.mode | if common::is_root() { 0 } else { least });
        }
        awkward::set_mtime(&path, node.mtime.0, node.mtime.1);
    }
}

fn make_file(path: &Path, runs: &[(bool, usize)], holes: bool) -> Option<()> {
    let file = File::options().write(true).create_new(true).open(path).ok()?;
    let mut at = 0;
    for (is_zero, len) in runs {
        if !is_zero || !holes {
            let byte = if *is_zero { 0 } else { 0xa5 };
            file.write_all_at(&vec![byte; *len], at).unwrap();
        }
        at += *len as u64;
    }
    file.set_len(at).unwrap();
    Some(())
}

fn options(overwrite: bool, by_name: bool) -> DestOptions {
    let resolution = if by_name { Resolution::ByName } else { Resolution::Best };
    DestOptions { overwrite, resolution, owners: owners_to_set(), durable: false }
}

/// Holes shorter than a block of the file system are not compared.
const NO_HOLES: CompareOptions = CompareOptions { owners: true, xattrs: true, holes: false };

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 64,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_tree_comes_back(nodes in prop::collection::vec(node(), 0..25), by_name: bool) {
        let dirs = Dirs::new();
        make(&dirs.source(), &nodes);
        let report = copy(&dirs.source(), &dirs.target(), &options(false, by_name));
        prop_assert!(report.is_clean(), "{:#?}", report);
        let differences = compare(&dirs.source(), &dirs.target(), NO_HOLES).unwrap();
        prop_assert!(differences.is_empty(), "{:#?}", differences);
    }

    #[test]
    fn a_tree_over_another_gives_all_that_was_not_reported(
        source in prop::collection::vec(node(), 0..20),
        target in prop::collection::vec(node(), 0..20),
        by_name: bool,
    ) {
        let dirs = Dirs::new();
        make(&dirs.source(), &source);
        make(&dirs.target(), &target);
        let report = copy(&dirs.source(), &dirs.target(), &options(true, by_name));
        prop_assert!(report.read_errors.is_empty() && report.not_set.is_empty(), "{:#?}", report);
        let mut spoiled = Vec::new();
        for error in &report.errors {
            match error {
                DestError::InTheWay { path, found: FileKind::Dir } => spoiled.push(path.clone()),
                // A hard link whose first name could not be created.
                DestError::Changed { path } | DestError::NoParent { path, .. } => {
                    spoiled.push(path.clone());
                }
                error => prop_assert!(false, "{:?}", error),
            }
        }
        for difference in compare(&dirs.source(), &dirs.target(), NO_HOLES).unwrap() {
            let is_excused = match difference.kind {
                // A merge keeps the other entries of a directory, and its attributes.
                DifferenceKind::OnlyInSecond | DifferenceKind::Xattr(_) => true,
                DifferenceKind::HardLinks => {
                    let of_source = dirs.source().join(difference.path.as_path());
                    !spoiled.is_empty() || fs::symlink_metadata(of_source).is_err()
                }
                _ => spoiled.iter().any(|path| difference.path.is_within(path)),
            };
            prop_assert!(is_excused, "{:?} {:#?}", difference, report);
        }
    }

    #[test]
    fn without_overwriting_nothing_that_is_there_changes(
        source in prop::collection::vec(node(), 0..20),
        target in prop::collection::vec(node(), 0..20),
        by_name: bool,
    ) {
        let dirs = Dirs::new();
        let before = dirs.base().join("before");
        fs::create_dir(&before).unwrap();
        make(&dirs.source(), &source);
        make(&dirs.target(), &target);
        make(&before, &target);
        copy(&dirs.source(), &dirs.target(), &options(false, by_name));
        for difference in compare(&before, &dirs.target(), NO_HOLES).unwrap() {
            // An unchanged file may have another name.
            let is_new = matches!(difference.kind, DifferenceKind::OnlyInSecond | DifferenceKind::HardLinks);
            let at = dirs.target().join(difference.path.as_path());
            // Directories are merged, and get the metadata of the tree.
            let is_dir = fs::symlink_metadata(&at).is_ok_and(|metadata| metadata.is_dir());
            prop_assert!(is_new || is_dir, "{:?}", difference);
        }
    }
}

#[test]
fn any_tree_of_a_user_without_rights_comes_back() {
    // The other test is run again as another user.
    assert!(!common::is_root() || !common::is_unprivileged("any_tree_comes_back"));
}

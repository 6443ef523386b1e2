//! Existing entries: left unchanged, merged, recognized, or replaced.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::fs;
use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::Path;

use common::{Dirs, awkward, both_ways, copy, names, path, symlink_to};
use fstree::{
    CompareOptions, CreateFile, CreatedEntry, DestError, DestOptions, DestTree, FileContent,
    FileKind, FileWriter as _, RootError, TreeWriter as _, compare,
};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use types::{EntryKind, Metadata, RelPath};

const MTIME: i128 = 1_234_567_890_123_456_789;

fn metadata() -> Metadata {
    Metadata { mode: 0o640, mtime_ns: MTIME, ..Metadata::default() }
}

fn make_file(target: &DestTree, at: &RelPath, content: &[u8]) -> Result<CreatedEntry, DestError> {
    let said = FileContent { size: content.len() as u64, is_sparse: false };
    let verify = |file: &fs::File| {
        let mut found = Vec::new();
        (&*file).read_to_end(&mut found)?;
        Ok(found == content)
    };
    match target.create_file(at, said, &metadata(), verify)? {
        CreateFile::Existing(existing) => Ok(existing),
        CreateFile::Write(mut sink) => {
            sink.write(content)?;
            sink.finish(&metadata())
        }
    }
}

/// Creates an entry that can be in the way, by its name.
fn put(dir: &Path, what: &str) {
    let at = dir.join("x");
    match what {
        "file" => fs::write(at, b"mine").unwrap(),
        "empty dir" => fs::create_dir(at).unwrap(),
        "full dir" => fs::create_dir_all(at.join("mine")).unwrap(),
        "link" => symlink("y", at).unwrap(),
        "pipe" => mknodat(CWD, at, FileType::Fifo, Mode::RWXU, 0).unwrap(),
        "socket" => awkward::make_socket(&at),
        _ => unreachable!(),
    }
}

const THERE: [&str; 6] = ["file", "empty dir", "full dir", "link", "pipe", "socket"];
const WANTED: [&str; 5] = ["file", "dir", "link", "pipe", "second name"];

fn make(target: &DestTree, what: &str) -> Result<CreatedEntry, DestError> {
    let x = path("x");
    match what {
        "file" => make_file(target, &x, b"new"),
        "dir" => target.create_dir(&x),
        "link" => target.create(&x, &symlink_to(b"new"), &metadata()),
        "pipe" => target.create(&x, &EntryKind::Fifo, &metadata()),
        "second name" => {
            let made = make_file(target, &path("first"), b"first").unwrap();
            target.create_hard_link(&path("first"), made.identity, &x)
        }
        _ => unreachable!(),
    }
}

fn kind_of(dir: &Path) -> &'static str {
    use std::os::unix::fs::FileTypeExt;
    let Ok(metadata) = fs::symlink_metadata(dir.join("x")) else { return "nothing" };
    let file_type = metadata.file_type();
    if file_type.is_dir() {
        if names(&dir.join("x")).is_empty() { "empty dir" } else { "full dir" }
    } else if file_type.is_symlink() {
        "link"
    } else if file_type.is_fifo() {
        "pipe"
    } else if file_type.is_socket() {
        "socket"
    } else {
        "file"
    }
}

#[test]
fn without_overwriting_what_is_there_stays() {
    for options in both_ways() {
        for there in THERE {
            for wanted in WANTED {
                let dirs = Dirs::new();
                put(&dirs.target(), there);
                let target = DestTree::open(&dirs.target(), options.clone()).unwrap();
                let made = make(&target, wanted);
                let merges = wanted == "dir" && there.ends_with("dir");
                let is_same = wanted == "pipe" && there == "pipe";
                match &made {
                    Ok(made) => {
                        assert!((merges || is_same) && !made.is_new, "{there} {wanted}");
                    }
                    Err(DestError::InTheWay { path: at, .. }) => assert_eq!(*at, path("x")),
                    Err(error) => panic!("{there} {wanted}: {error:?}"),
                }
                assert_eq!(kind_of(&dirs.target()), there, "{wanted}");
                if there == "file" {
                    assert_eq!(fs::read(dirs.target().join("x")).unwrap(), b"mine");
                }
                if there == "link" {
                    assert_eq!(fs::read_link(dirs.target().join("x")).unwrap(), Path::new("y"));
                }
                assert_eq!(leftovers(&dirs.target()), 0);
            }
        }
    }
}

fn leftovers(dir: &Path) -> usize {
    names(dir).iter().filter(|name| fstree::is_temp_name(name.as_bytes())).count()
}

#[test]
fn with_overwriting_all_is_replaced_but_a_directory_with_something_in_it() {
    for options in both_ways() {
        for there in THERE {
            for wanted in WANTED {
                let dirs = Dirs::new();
                put(&dirs.target(), there);
                let options = DestOptions { overwrite: true, ..options.clone() };
                let target = DestTree::open(&dirs.target(), options).unwrap();
                let made = make(&target, wanted);
                if there == "full dir" && wanted != "dir" {
                    assert!(
                        matches!(&made, Err(DestError::InTheWay { found: FileKind::Dir, .. })),
                        "{wanted}: {made:?}"
                    );
                    assert_eq!(kind_of(&dirs.target()), "full dir");
                } else {
                    let made = made.unwrap_or_else(|error| panic!("{there} {wanted}: {error:?}"));
                    let merges = wanted == "dir" && there.ends_with("dir");
                    assert_eq!(made.is_new, !merges);
                    let expected = match wanted {
                        "dir" if there == "full dir" => "full dir",
                        "dir" => "empty dir",
                        "second name" => "file",
                        wanted => wanted,
                    };
                    assert_eq!(kind_of(&dirs.target()), expected, "{there} {wanted}");
                }
                assert_eq!(leftovers(&dirs.target()), 0);
            }
        }
    }
}

#[test]
fn an_interrupted_restore_goes_on_where_it_was() {
    let dirs = Dirs::new();
    awkward::make(&dirs.source());
    let [options, _] = both_ways();
    let report = copy(&dirs.source(), &dirs.target(), &options);
    assert!(report.is_clean(), "{report:#?}");
    // As after an interruption: a file and a directory are missing, and another directory
    // is not finished.
    fs::remove_file(dirs.target().join("contents/noise")).unwrap();
    fs::remove_dir_all(dirs.target().join("names")).unwrap();
    common::set_mode(&dirs.target().join("contents"), 0o700);
    let again = copy(&dirs.source(), &dirs.target(), &options);
    assert!(again.is_clean(), "{again:#?}");
    assert!(again.same > 50 && again.made > 30 && again.same + again.made == report.made);
    let differences = compare(&dirs.source(), &dirs.target(), CompareOptions::default()).unwrap();
    assert!(differences.is_empty(), "{differences:#?}");
}

#[test]
fn a_file_is_the_same_by_length_time_and_content() {
    let dirs = Dirs::new();
    let [options, _] = both_ways();
    let target = DestTree::open(&dirs.target(), options.clone()).unwrap();
    let file = dirs.target().join("file");
    assert!(make_file(&target, &path("file"), b"content").unwrap().is_new);
    assert!(!make_file(&target, &path("file"), b"content").unwrap().is_new);
    let in_the_way = |content: &[u8]| {
        matches!(
            make_file(&target, &path("file"), content),
            Err(DestError::InTheWay { found: FileKind::File, .. })
        )
    };
    assert!(in_the_way(b"Content") && in_the_way(b"other length"));
    // A different mode stays, unless overwriting is requested.
    common::set_mode(&file, 0o400);
    assert!(!make_file(&target, &path("file"), b"content").unwrap().is_new);
    assert_eq!(common::mode(&file), 0o400);
    awkward::set_mtime(&file, 1, 1);
    assert!(in_the_way(b"content"));
    drop(target);
    let target =
        DestTree::open(&dirs.target(), DestOptions { overwrite: true, ..options }).unwrap();
    assert!(make_file(&target, &path("file"), b"content").unwrap().is_new);
    common::set_mode(&file, 0o400);
    assert!(!make_file(&target, &path("file"), b"content").unwrap().is_new);
    assert_eq!(common::mode(&file), 0o640);
    // A file with a second name may be in use under that name.
    fs::hard_link(&file, dirs.target().join("another name")).unwrap();
    common::set_mode(&file, 0o400);
    assert!(make_file(&target, &path("file"), b"content").unwrap().is_new);
    assert_eq!(common::mode(&dirs.target().join("another name")), 0o400);
}

#[test]
fn content_of_another_length_than_was_said_is_refused() {
    let dirs = Dirs::new();
    let [options, _] = both_ways();
    let target = DestTree::open(&dirs.target(), options).unwrap();
    let sink = |is_sparse| {
        let said = FileContent { size: 100, is_sparse };
        match target.create_file(&path("file"), said, &Metadata::default(), |_| Ok(false)).unwrap()
        {
            CreateFile::Write(sink) => sink,
            CreateFile::Existing(_) => unreachable!(),
        }
    };
    for is_sparse in [false, true] {
        let mut long = sink(is_sparse);
        long.write(&[1; 99]).unwrap();
        for _ in 0..2 {
            let result = long.write(b"xx");
            assert!(matches!(result, Err(DestError::Size { expected: 100, found: 101, .. })));
        }
        let mut short = sink(is_sparse);
        short.write(&[1; 60]).unwrap();
        short.write(&[0; 39]).unwrap();
        assert!(matches!(
            short.finish(&metadata()),
            Err(DestError::Size { expected: 100, found: 99, .. })
        ));
        let mut whole = sink(is_sparse);
        whole.write(&[1; 20]).unwrap();
        whole.write(&[0; 30]).unwrap();
        whole.write(&[2; 50]).unwrap();
        drop(long);
        assert_eq!(names(&dirs.target()).len(), 1);
        whole.finish(&metadata()).unwrap();
        let content = fs::read(dirs.target().join("file")).unwrap();
        assert_eq!(content, [[1; 20].as_slice(), &[0; 30], &[2; 50]].concat());
        fs::remove_file(dirs.target().join("file")).unwrap();
    }
}

#[test]
fn a_full_directory_in_the_way_is_told_before_anything_is_written() {
    let dirs = Dirs::new();
    put(&dirs.target(), "full dir");
    let [options, _] = both_ways();
    let options = DestOptions { overwrite: true, ..options };
    let target = DestTree::open(&dirs.target(), options).unwrap();
    let said = FileContent { size: 1 << 40, is_sparse: false };
    let made = target.create_file(&path("x"), said, &Metadata::default(), |_| Ok(false));
    assert!(matches!(made, Err(DestError::InTheWay { found: FileKind::Dir, .. })));
    // A directory that appears later is kept, too.
    let CreateFile::Write(sink) = target
        .create_file(&path("y"), FileContent { size: 0, ..said }, &Metadata::default(), |_| {
            Ok(false)
        })
        .unwrap()
    else {
        panic!("there was none")
    };
    fs::create_dir_all(dirs.target().join("y/mine")).unwrap();
    assert!(matches!(
        sink.finish(&metadata()),
        Err(DestError::InTheWay { found: FileKind::Dir, .. })
    ));
    assert_eq!(names(&dirs.target()), ["x", "y"]);
}

#[test]
fn what_appears_while_a_file_is_written_stays() {
    let dirs = Dirs::new();
    let [options, _] = both_ways();
    let target = DestTree::open(&dirs.target(), options).unwrap();
    let said = FileContent { size: 0, is_sparse: false };
    let CreateFile::Write(sink) =
        target.create_file(&path("x"), said, &Metadata::default(), |_| Ok(false)).unwrap()
    else {
        panic!("there was none")
    };
    put(&dirs.target(), "file");
    assert!(matches!(
        sink.finish(&metadata()),
        Err(DestError::InTheWay { found: FileKind::File, .. })
    ));
    assert_eq!(fs::read(dirs.target().join("x")).unwrap(), b"mine");
    assert_eq!(names(&dirs.target()), ["x"]);
}

#[test]
fn a_target_is_used_by_one_run_at_a_time() {
    let dirs = Dirs::new();
    let open = || DestTree::open(&dirs.target(), DestOptions::default());
    let first = open().unwrap();
    assert!(matches!(open(), Err(RootError::InUse(_))));
    drop(first);
    assert!(open().is_ok());
    let none = DestTree::open(&dirs.base().join("none"), DestOptions::default());
    assert!(matches!(none, Err(RootError::Missing(_))));
    fs::write(dirs.base().join("file"), b"").unwrap();
    let file = DestTree::open(&dirs.base().join("file"), DestOptions::default());
    assert!(matches!(file, Err(RootError::NotADirectory(_))));
}

const KILLED: &str = "ARCHIVIST_TEST_KILLED";

#[test]
fn what_a_killed_run_left_is_removed_by_the_next_and_nothing_else_is() {
    let test = "what_a_killed_run_left_is_removed_by_the_next_and_nothing_else_is";
    if let Ok(dir) = std::env::var(KILLED) {
        let target = DestTree::open(Path::new(&dir), DestOptions::default()).unwrap();
        let said = FileContent { size: 10, is_sparse: false };
        target.create_dir(&path("dir")).unwrap();
        let sinks = ["file", "dir/file", "dir/other"].map(|name| {
            target.create_file(&path(name), said, &Metadata::default(), |_| Ok(false)).unwrap()
        });
        std::mem::forget(sinks);
        std::process::abort();
    }
    let dirs = Dirs::new();
    let foreign = format!(".archivist-tmp-{}", "0".repeat(40));
    fs::write(dirs.target().join(&foreign), b"of another target").unwrap();
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(KILLED, dirs.target())
        .output()
        .unwrap()
        .status;
    assert!(!status.success());
    assert_eq!((leftovers(&dirs.target()), leftovers(&dirs.target().join("dir"))), (2, 2));
    let target = DestTree::open(&dirs.target(), DestOptions::default()).unwrap();
    assert_eq!((leftovers(&dirs.target()), leftovers(&dirs.target().join("dir"))), (1, 2));
    // The temporary files of this run are not leftovers.
    let said = FileContent { size: 0, is_sparse: false };
    let sink =
        target.create_file(&path("dir/file"), said, &Metadata::default(), |_| Ok(false)).unwrap();
    target.create_dir(&path("dir")).unwrap();
    assert_eq!(leftovers(&dirs.target().join("dir")), 1, "its own is left");
    let CreateFile::Write(sink) = sink else { panic!("there was none") };
    sink.finish(&metadata()).unwrap();
    assert_eq!(names(&dirs.target()), [foreign.as_str(), "dir"]);
    assert_eq!(names(&dirs.target().join("dir")), ["file"]);
}

#[test]
fn directories_are_merged_and_filled_whatever_their_mode() {
    let test = "directories_are_merged_and_filled_whatever_their_mode";
    if !common::is_unprivileged(test) {
        return;
    }
    let dirs = Dirs::new();
    let inside = dirs.target().join("dir");
    fs::create_dir_all(inside.join("inner")).unwrap();
    fs::write(inside.join("mine"), b"mine").unwrap();
    common::set_mode(&inside.join("inner"), 0);
    common::set_mode(&inside, 0o555);
    let [options, _] = both_ways();
    let target = DestTree::open(&dirs.target(), options).unwrap();
    for dir in ["dir", "dir/inner"].map(path) {
        assert!(!target.create_dir(&dir).unwrap().is_new);
        make_file(&target, &dir.join(b"file").unwrap(), b"x").unwrap();
    }
    let own = Metadata {
        mode: 0o555,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        mtime_ns: 5,
        ..Metadata::default()
    };
    let (not_set, errors) =
        target.finish_dirs(["dir", "dir/inner"].map(|dir| (path(dir), own.clone())));
    assert!(not_set.is_empty() && errors.is_empty(), "{not_set:?} {errors:?}");
    assert_eq!(names(&inside), ["file", "inner", "mine"]);
    for dir in [&inside, &inside.join("inner")] {
        assert_eq!(common::mode(dir), 0o555);
    }
}

#[test]
fn what_this_user_may_not_do_is_said() {
    if !common::is_unprivileged("what_this_user_may_not_do_is_said") {
        return;
    }
    let dirs = Dirs::new();
    let options = DestOptions { owners: fstree::OwnerPolicy::Numbers, ..DestOptions::default() };
    let target = DestTree::open(&dirs.target(), options).unwrap();
    let foreign = Metadata {
        mode: 0o4755,
        uid: 0,
        gid: 0,
        mtime_ns: 7,
        xattrs: [
            (b"trusted.x".to_vec(), b"x".to_vec()),
            (b"user.x".to_vec(), b"x".to_vec()),
            (b"nonsense".to_vec(), b"x".to_vec()),
            (b"system.posix_acl_access".to_vec(), b"no ACL".to_vec()),
        ]
        .into(),
        ..Metadata::default()
    };
    let said = FileContent { size: 0, is_sparse: false };
    let CreateFile::Write(sink) =
        target.create_file(&path("file"), said, &Metadata::default(), |_| Ok(false)).unwrap()
    else {
        panic!("there was none")
    };
    let made = sink.finish(&foreign).unwrap();
    let what: Vec<_> = made.not_set.iter().map(|not_set| not_set.attribute.clone()).collect();
    let xattr = |name: &str| fstree::Attribute::Xattr(name.as_bytes().to_vec());
    assert_eq!(
        what,
        [
            fstree::Attribute::Owner,
            xattr("nonsense"),
            xattr("system.posix_acl_access"),
            xattr("trusted.x"),
            fstree::Attribute::Mode,
        ]
    );
    assert!(made.not_set.iter().all(|not_set| not_set.path == path("file")));
    // An ACL that is none keeps everybody out but the owner.
    assert_eq!(common::mode(&dirs.target().join("file")), 0o700);
    let device =
        target.create(&path("null"), &EntryKind::CharDevice { device: (1, 3) }, &metadata());
    assert!(matches!(device, Err(DestError::CannotCreate { kind: FileKind::CharDevice, .. })));
    fs::create_dir(dirs.target().join("closed")).unwrap();
    common::set_mode(&dirs.target().join("closed"), 0o500);
    let denied = make_file(&target, &path("closed/file"), b"x").unwrap_err();
    assert!(matches!(denied, DestError::Denied { .. }), "{denied:?}");
    assert_eq!(*denied.path(), path("closed/file"));
    let missing = make_file(&target, &path("none/file"), b"x").unwrap_err();
    assert!(matches!(missing, DestError::NoParent { .. }), "{missing:?}");
}

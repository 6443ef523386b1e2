//! A target with fewer features than the source: a memory stick.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::path::Path;

use common::poor::{FOLLOWED, PoorFs, Quirks};
use common::{Dirs, awkward, both_ways, copy, is_root, names, path, set_mode};
use fstree::{
    Attribute, CompareOptions, CreateFile, DestError, DestOptions, DestTree, DifferenceKind,
    FileContent, FileKind, FileWriter as _, SourceTree, TreeReader as _, TreeWriter as _, compare,
};
use types::Metadata;

/// Mounts such a file system; `None` if this computer or user cannot.
fn mount(at: &Path) -> Option<fuser::BackgroundSession> {
    mount_with(at, Quirks::default())
}

fn mount_with(at: &Path, quirks: Quirks) -> Option<fuser::BackgroundSession> {
    if !is_root() || !Path::new("/dev/fuse").exists() {
        println!("not tested: it takes root and /dev/fuse");
        return None;
    }
    let mut config = fuser::Config::default();
    config.mount_options = vec![fuser::MountOption::DefaultPermissions];
    Some(fuser::spawn_mount(PoorFs::new(quirks), at, &config).unwrap())
}

#[test]
fn names_that_are_one_to_the_file_system_are_told_and_nothing_is_lost() {
    let dirs = Dirs::new();
    let Some(_mounted) = mount(&dirs.target()) else { return };
    for name in ["Dir", "dir", "dir/Inner"] {
        fs::create_dir(dirs.source().join(name)).unwrap();
    }
    let contents = [
        ("Dir/a", "1"),
        ("README", "2"),
        ("Readme", "3"),
        ("dir/a", "4"),
        ("dir/b", "5"),
        ("É", "6"),
        ("é", "7"),
    ];
    for (name, content) in contents {
        fs::write(dirs.source().join(name), content).unwrap();
    }
    for overwrite in [false, true, true] {
        let [options, _] = both_ways();
        let report = copy(&dirs.source(), &dirs.target(), &DestOptions { overwrite, ..options });
        let (mut told, mut below) = (BTreeMap::new(), BTreeSet::new());
        for error in report.errors {
            match error {
                DestError::Collision { path, existing } => {
                    told.insert(path.to_string(), existing);
                }
                // Below the directory that could not be created.
                DestError::NoParent { path, .. } => _ = below.insert(path.to_string()),
                // The times of the file systems differ, so an existing file is not
                // recognized as the same.
                DestError::InTheWay { found: FileKind::File, .. } => {}
                error => panic!("{error:?}"),
            }
        }
        let expected = [("Readme", "README"), ("dir", "Dir"), ("é", "É")];
        let expected = expected.map(|(path, there)| (path.to_owned(), OsString::from(there)));
        assert_eq!(told, BTreeMap::from(expected));
        let expected = ["dir", "dir/Inner", "dir/a", "dir/b"].map(str::to_owned);
        assert_eq!(below, BTreeSet::from(expected));
        assert_eq!(names(&dirs.target()), ["Dir", "README", "É"]);
        assert_eq!(names(&dirs.target().join("Dir")), ["a"]);
        for (name, content) in [("README", "2"), ("É", "6"), ("Dir/a", "1")] {
            assert_eq!(fs::read(dirs.target().join(name)).unwrap(), content.as_bytes());
        }
    }
}

#[test]
fn the_awkward_tree_on_a_memory_stick() {
    let dirs = Dirs::new();
    let Some(_mounted) = mount(&dirs.target()) else { return };
    awkward::make(&dirs.source());
    let [options, _] = both_ways();
    let report = copy(&dirs.source(), &dirs.target(), &options);
    let mut refused: BTreeMap<&str, usize> = BTreeMap::new();
    for error in &report.errors {
        let why = match error {
            DestError::NameRefused { .. } => "name",
            DestError::Collision { .. } => "collision",
            DestError::CannotCreate { .. } => "kind",
            DestError::CannotLink { .. } => "second name",
            DestError::NoParent { .. } => "parent",
            error => panic!("{error:?}"),
        };
        *refused.entry(why).or_default() += 1;
    }
    assert!(["name", "collision", "kind", "second name"].iter().all(|why| refused[why] > 0));
    let what: BTreeSet<_> = report
        .not_set
        .iter()
        .map(|not_set| match &not_set.attribute {
            Attribute::Xattr(_) => Attribute::Xattr(Vec::new()),
            what => what.clone(),
        })
        .collect();
    assert_eq!(what.len(), 4, "{what:?}");
    // All created files have their content, and all other differences were reported.
    for difference in compare(&dirs.source(), &dirs.target(), CompareOptions::default()).unwrap() {
        let is = |path: &types::RelPath| *path == difference.path;
        let is_told = match difference.kind {
            DifferenceKind::OnlyInFirst | DifferenceKind::HardLinks | DifferenceKind::Holes => true,
            _ => report.not_set.iter().any(|not_set| is(&not_set.path)),
        };
        assert!(is_told, "{difference:?}");
    }
}

#[test]
fn without_a_rename_that_spares_what_is_there_it_is_spared() {
    let dirs = Dirs::new();
    let Some(_mounted) = mount(&dirs.target()) else { return };
    let target = DestTree::open(&dirs.target(), DestOptions::default()).unwrap();
    let said = FileContent { size: 1, is_sparse: false };
    let make = |name: &str| match target
        .create_file(&path(name), said, &Metadata::default(), |_| Ok(false))
        .unwrap()
    {
        CreateFile::Write(mut sink) => {
            sink.write(b"x").unwrap();
            sink
        }
        CreateFile::Existing(_) => unreachable!(),
    };
    let metadata = Metadata { mode: 0o644, ..Metadata::default() };
    let (first, second) = (make("file"), make("other"));
    fs::write(dirs.target().join("FILE"), b"mine").unwrap();
    assert!(matches!(first.finish(&metadata), Err(DestError::InTheWay { .. })));
    let made = second.finish(&metadata).unwrap();
    assert_eq!((made.is_new, made.not_set.len()), (true, 0));
    assert_eq!(fs::read(dirs.target().join("FILE")).unwrap(), b"mine");
    assert_eq!(names(&dirs.target()), ["FILE", "other"]);
}

#[test]
fn what_did_not_get_to_the_disk_is_told_whoever_wrote_it_out() {
    let dirs = Dirs::new();
    let Some(_mounted) = mount(&dirs.target()) else { return };
    let metadata = Metadata { mode: 0o644, ..Metadata::default() };
    // On FUSE each file is synced, even if that is not requested.
    for (durable, ahead) in [(false, true), (true, true), (true, false), (false, false)] {
        let options = DestOptions { durable, ..DestOptions::default() };
        let target = DestTree::open(&dirs.target(), options).unwrap();
        let make = |name: &str, content: &[u8]| {
            let said = FileContent { size: 8, is_sparse: false };
            let made =
                target.create_file(&path(name), said, &Metadata::default(), |_| Ok(false)).unwrap();
            let CreateFile::Write(mut sink) = made else { unreachable!() };
            sink.write(content).unwrap();
            assert_eq!(sink.written(), 4);
            if ahead {
                let asked = sink.write_out();
                std::thread::spawn(asked).join().unwrap();
            }
            sink.write(b"rest").unwrap();
            sink.finish(&metadata)
        };
        let error = make("bad", common::poor::LOST).unwrap_err();
        assert!(matches!(error, DestError::Io { .. }), "{error:?}");
        assert_eq!(names(&dirs.target()), [""; 0]);
        make("good", b"good").unwrap();
        assert_eq!(fs::read(dirs.target().join("good")).unwrap(), b"goodrest");
        fs::remove_file(dirs.target().join("good")).unwrap();
    }
}

#[test]
fn on_a_file_system_that_tells_case_nothing_collides() {
    let dirs = Dirs::new();
    for name in ["a", "A", "é", "É", "e\u{301}"] {
        fs::write(dirs.source().join(name), name).unwrap();
    }
    set_mode(&dirs.source().join("a"), 0o600);
    for overwrite in [false, true] {
        let [options, _] = both_ways();
        let report = copy(&dirs.source(), &dirs.target(), &DestOptions { overwrite, ..options });
        assert!(report.is_clean(), "{report:#?}");
    }
    assert_eq!(names(&dirs.target()).len(), 5);
}

#[test]
fn a_file_system_that_sets_only_both_times_keeps_the_mtime() {
    let dirs = Dirs::new();
    let quirks = Quirks { ignores_lone_mtime: true, ..Quirks::default() };
    let Some(_mounted) = mount_with(&dirs.target(), quirks) else { return };
    fs::write(dirs.source().join("file"), b"x").unwrap();
    awkward::set_mtime(&dirs.source().join("file"), 1_500_000_000, 0);
    set_mode(&dirs.source().join("file"), 0o644);
    let [options, _] = both_ways();
    let report = copy(&dirs.source(), &dirs.target(), &options);
    assert!(report.is_clean(), "{report:?}");
    let found = fs::metadata(dirs.target().join("file")).unwrap().modified().unwrap();
    assert_eq!(found, std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_500_000_000));
}

/// On sshfs, a new owner or time of a link is set on the file that it points to, which may be
/// outside the target.
#[test]
fn a_link_on_fuse_gets_no_metadata() {
    let dirs = Dirs::new();
    let quirks = Quirks { follows_links: true, ..Quirks::default() };
    let Some(_mounted) = mount_with(&dirs.target(), quirks) else { return };
    let link = dirs.source().join("link");
    std::os::unix::fs::symlink("precious", &link).unwrap();
    std::os::unix::fs::lchown(&link, Some(1234), Some(1235)).unwrap();
    awkward::set_mtime(&link, 1_500_000_000, 0);
    let [options, _] = both_ways();
    let report = copy(&dirs.source(), &dirs.target(), &options);
    assert!(report.errors.is_empty(), "{report:?}");
    assert_eq!(fs::read_link(dirs.target().join("link")).unwrap(), Path::new("precious"));
    let not_set: Vec<_> = report.not_set.iter().map(|not_set| &not_set.attribute).collect();
    assert_eq!(not_set, [&Attribute::Owner, &Attribute::Mtime]);
    let root = fs::metadata(dirs.target()).unwrap().modified().unwrap();
    assert_ne!(root, std::time::UNIX_EPOCH + std::time::Duration::from_secs(FOLLOWED));
    // The file system of this test would have noticed.
    awkward::set_mtime(&dirs.target().join("link"), 1_500_000_000, 0);
    let root = fs::metadata(dirs.target()).unwrap().modified().unwrap();
    assert_eq!(root, std::time::UNIX_EPOCH + std::time::Duration::from_secs(FOLLOWED));
}

/// fuse-overlayfs 1.10 loses file capabilities when it writes data that was written before they
/// were set.
#[test]
fn attributes_are_set_after_the_data_is_flushed() {
    let dirs = Dirs::new();
    let quirks = Quirks { loses_attributes: true, ..Quirks::default() };
    let Some(_mounted) = mount_with(&dirs.target(), quirks) else { return };
    fs::write(dirs.source().join("file"), b"x").unwrap();
    awkward::set_mtime(&dirs.source().join("file"), 1_500_000_000, 0);
    set_mode(&dirs.source().join("file"), 0o644);
    awkward::set_xattr(&dirs.source().join("file"), "user.note", b"important");
    let [options, _] = both_ways();
    let report = copy(&dirs.source(), &dirs.target(), &options);
    assert!(report.is_clean(), "{report:?}");
    let file = fs::File::open(dirs.target().join("file")).unwrap();
    file.sync_all().unwrap();
    let mut value = [0; 20];
    let len = rustix::fs::fgetxattr(&file, "user.note", &mut value).unwrap();
    assert_eq!(&value[..len], b"important");
}

#[test]
fn attributes_that_cannot_be_listed_are_no_error_of_the_entry() {
    let dirs = Dirs::new();
    let quirks = Quirks { lists_no_attributes: true, ..Quirks::default() };
    let Some(_mounted) = mount_with(&dirs.target(), quirks) else { return };
    fs::write(dirs.target().join("file"), b"content").unwrap();
    let tree = SourceTree::open(&dirs.target()).unwrap();
    let found = tree.examine(&path("file")).unwrap().unwrap();
    for read in [
        tree.xattrs(&found).unwrap(),
        tree.file_xattrs(&tree.open_file(&path("file")).unwrap()).unwrap(),
    ] {
        assert!(read.xattrs.is_empty() && read.unread.is_empty());
        let problem = read.problem().unwrap();
        assert!(problem.contains("cannot list the extended attributes"), "{problem}");
    }
    // Two trees cannot be compared without them.
    let differences = compare(&dirs.target(), &dirs.target(), CompareOptions::default()).unwrap();
    assert!(differences.iter().any(|found| matches!(found.kind, DifferenceKind::Unread(_))));
}

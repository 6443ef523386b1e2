//! The walk: its order, its limits, and its behavior while other processes change the
//! tree.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use common::{Dirs, awkward, path, set_mode, walk, while_racing, with_mount};
use fstree::{
    FileKind, FoundKind, ReadError, Resolution, RootError, SourceTree, TreeReader as _, Visit,
    WalkItem, WalkOptions, is_temp_name,
};
use rustix::fs::{CWD, FileType, Mode, RenameFlags, mknodat, renameat_with};
use types::RelPath;

const BOTH: [Resolution; 2] = [Resolution::Best, Resolution::ByName];

fn paths(root: &SourceTree, options: WalkOptions) -> Vec<RelPath> {
    let (found, errors) = walk(root, options);
    assert!(errors.is_empty(), "{errors:?}");
    found.into_iter().map(|found| found.path).collect()
}

fn paths_by_the_standard_library(dir: &Path, at: &RelPath, all: &mut Vec<RelPath>) {
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let path =
            at.join(std::os::unix::ffi::OsStrExt::as_bytes(entry.file_name().as_os_str())).unwrap();
        all.push(path.clone());
        if entry.file_type().unwrap().is_dir() {
            paths_by_the_standard_library(&entry.path(), &path, all);
        }
    }
}

#[test]
fn every_entry_comes_once_in_the_order_of_paths() {
    let dirs = Dirs::new();
    awkward::make(&dirs.source());
    if !common::is_root() {
        return;
    }
    for name in ["a", "a-b", "a/c", "a.txt", "a/c/d"] {
        fs::create_dir_all(dirs.source().join(name)).unwrap();
    }
    let mut expected = Vec::new();
    paths_by_the_standard_library(&dirs.source(), &RelPath::root(), &mut expected);
    expected.sort();
    for resolution in BOTH {
        let root = SourceTree::open_with(&dirs.source(), resolution).unwrap();
        for open_dirs_max in [0, 1, 2, 16] {
            let options = WalkOptions { open_dirs_max, ..WalkOptions::default() };
            assert_eq!(paths(&root, options), expected);
        }
    }
}

#[test]
fn the_caller_decides_where_the_walk_goes() {
    let dirs = Dirs::new();
    for name in ["keep/inner", "skip/inner", "record/inner"] {
        fs::create_dir_all(dirs.source().join(name)).unwrap();
    }
    fs::write(dirs.source().join("file"), b"").unwrap();
    let root = SourceTree::open(&dirs.source()).unwrap();
    let mut asked = Vec::new();
    let decide = |path: &RelPath, kind: FileKind| {
        asked.push((path.clone(), kind));
        match path.as_bytes() {
            b"skip" => Visit::Skip,
            b"record" => Visit::Record,
            _ => Visit::Descend,
        }
    };
    let found: Vec<_> = root
        .walk(&RelPath::root(), WalkOptions::default(), decide)
        .unwrap()
        .map(|item| match item {
            WalkItem::Entry(found) => found.path.to_string(),
            WalkItem::Error(error) => panic!("{error}"),
        })
        .collect();
    assert_eq!(found, ["file", "keep", "keep/inner", "record"]);
    assert_eq!(asked.len(), 5);
    assert!(asked.contains(&(path("file"), FileKind::File)));
    assert!(asked.contains(&(path("skip"), FileKind::Dir)));
}

#[test]
fn one_path_and_one_directory_are_looked_at_again() {
    let dirs = Dirs::new();
    fs::create_dir_all(dirs.source().join("a/b/c")).unwrap();
    fs::write(dirs.source().join("a/file"), b"12345").unwrap();
    symlink("b", dirs.source().join("a/link")).unwrap();
    for resolution in BOTH {
        let root = SourceTree::open_with(&dirs.source(), resolution).unwrap();
        let (all, _) = walk(&root, WalkOptions::default());
        for found in all {
            assert_eq!(root.examine(&found.path).unwrap().as_ref(), Some(&found));
        }
        for gone in ["none", "a/none", "none/at/all", "a/file/below", "a/link/c"] {
            assert_eq!(root.examine(&path(gone)).unwrap(), None, "{gone}");
        }
        let top = root.examine(&RelPath::root()).unwrap().unwrap();
        assert_eq!(top.stamp.identity(), root.identity());
        let list: Vec<_> = root.list(&path("a")).unwrap().collect();
        assert_eq!(list.len(), 3);
        assert!(root.list(&path("a/file")).is_err() && root.list(&path("a/link")).is_err());
        assert!(root.list(&path("none")).is_err());
        let below = root.walk(&path("a"), WalkOptions::default(), |_, _| Visit::Descend).unwrap();
        assert_eq!(below.count(), 4);
    }
}

#[test]
fn a_root_that_is_none_is_told_apart() {
    let dirs = Dirs::new();
    let at = |name: &str| dirs.base().join(name);
    fs::write(at("file"), b"").unwrap();
    symlink("source", at("link")).unwrap();
    symlink("nowhere", at("dangling")).unwrap();
    let open = |name: &str| SourceTree::open(&at(name));
    assert!(matches!(open("none"), Err(RootError::Missing(_))));
    assert!(matches!(open("dangling"), Err(RootError::Missing(_))));
    assert!(matches!(open("file"), Err(RootError::NotADirectory(_))));
    let root = open("link").unwrap();
    assert_eq!(root.identity(), open("source").unwrap().identity());
    root.check().unwrap();
    // The link leads elsewhere now; the open tree is still the same.
    fs::write(at("source/file"), b"").unwrap();
    fs::remove_file(at("link")).unwrap();
    symlink("target", at("link")).unwrap();
    assert!(matches!(root.check(), Err(RootError::Replaced(_))));
    assert_eq!(paths(&root, WalkOptions::default()), [path("file")]);
    fs::remove_file(at("link")).unwrap();
    assert!(matches!(root.check(), Err(RootError::Missing(_))));
}

#[test]
fn what_may_not_be_read_is_an_item_and_the_walk_goes_on() {
    if !common::is_unprivileged("what_may_not_be_read_is_an_item_and_the_walk_goes_on") {
        return;
    }
    let dirs = Dirs::new();
    for name in ["a", "closed", "not searchable", "z"] {
        fs::create_dir(dirs.source().join(name)).unwrap();
        fs::write(dirs.source().join(name).join("file"), b"x").unwrap();
    }
    fs::write(dirs.source().join("secret"), b"x").unwrap();
    awkward::set_xattr(&dirs.source().join("secret"), "user.x", b"x");
    set_mode(&dirs.source().join("secret"), 0);
    set_mode(&dirs.source().join("closed"), 0);
    set_mode(&dirs.source().join("not searchable"), 0o600);
    for resolution in BOTH {
        let root = SourceTree::open_with(&dirs.source(), resolution).unwrap();
        let (found, errors) = walk(&root, WalkOptions::default());
        let found: Vec<_> = found.iter().map(|found| found.path.to_string()).collect();
        let expected = ["a", "a/file", "closed", "not searchable", "secret", "z", "z/file"];
        assert_eq!(found, expected);
        let errors: Vec<_> = errors.iter().map(|error| error.path().to_string()).collect();
        assert_eq!(errors, ["closed", "not searchable/file"]);
        let secret = root.examine(&path("secret")).unwrap().unwrap();
        assert!(root.open_file(&path("secret")).is_err());
        let read = root.xattrs(&secret).unwrap();
        assert_eq!((read.xattrs.len(), read.unread.len()), (0, 1));
        assert!(root.examine(&path("closed/file")).is_err());
        assert!(root.list(&path("closed")).is_err());
    }
    set_mode(&dirs.source(), 0o000);
    assert!(
        SourceTree::open(&dirs.source()).is_ok_and(|root| root.list(&RelPath::root()).is_err())
    );
    set_mode(dirs.base(), 0o000);
    assert!(matches!(SourceTree::open(&dirs.source()), Err(RootError::Denied(_))));
}

#[test]
fn only_regular_files_are_opened_and_nothing_waits() {
    let dirs = Dirs::new();
    let source = dirs.source();
    mknodat(CWD, source.join("pipe"), FileType::Fifo, Mode::RWXU, 0).unwrap();
    awkward::make_socket(&source.join("socket"));
    symlink("file", source.join("link")).unwrap();
    symlink("/dev/zero", source.join("to a device")).unwrap();
    fs::create_dir(source.join("dir")).unwrap();
    fs::write(source.join("file"), b"content").unwrap();
    if common::is_root() {
        let device = rustix::fs::makedev(1, 5);
        mknodat(CWD, source.join("device"), FileType::CharacterDevice, Mode::RWXU, device).unwrap();
    }
    for resolution in BOTH {
        let root = SourceTree::open_with(&source, resolution).unwrap();
        for (found, _) in common::capture(&root, &mut common::Report::default()) {
            let opened = root.open_file(&found.path);
            match found.kind() {
                FileKind::File => {
                    let mut open = opened.unwrap();
                    assert_eq!(open.stamp, found.stamp);
                    let mut content = String::new();
                    open.file.read_to_string(&mut content).unwrap();
                    assert_eq!(content, "content");
                    assert!(root.is_unchanged(&open).unwrap());
                    assert!(root.file_xattrs(&open).unwrap().xattrs.is_empty());
                }
                _ => assert!(matches!(opened, Err(ReadError::NotRegular(_))), "{found:?}"),
            }
        }
    }
}

#[test]
fn a_file_that_is_written_to_is_known_to_be() {
    let dirs = Dirs::new();
    let file = dirs.source().join("file");
    fs::write(&file, b"one").unwrap();
    let root = SourceTree::open(&dirs.source()).unwrap();
    let found = root.examine(&path("file")).unwrap().unwrap();
    let open = root.open_file(&path("file")).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    awkward::set_xattr(&file, "user.new", b"x");
    assert!(!root.is_unchanged(&open).unwrap());
    assert!(matches!(root.xattrs(&found), Err(ReadError::Changed(_))));
}

#[test]
fn cache_directories_say_what_they_are() {
    let dirs = Dirs::new();
    let tag = b"Signature: 8a477f597d28d172789f06886806bc55\n# made by a test\n";
    let cases: [(&str, &[u8], bool); 4] = [
        ("good", tag, true),
        ("short", &tag[..42], false),
        ("wrong", b"Signature: 8a477f597d28d172789f06886806bc56", false),
        ("empty", b"", false),
    ];
    for (name, content, _) in cases {
        fs::create_dir(dirs.source().join(name)).unwrap();
        fs::write(dirs.source().join(name).join("CACHEDIR.TAG"), content).unwrap();
    }
    fs::create_dir(dirs.source().join("by a link")).unwrap();
    symlink("../good/CACHEDIR.TAG", dirs.source().join("by a link/CACHEDIR.TAG")).unwrap();
    let root = SourceTree::open(&dirs.source()).unwrap();
    for (name, _, expected) in cases {
        assert_eq!(root.is_cache_dir(&path(name)), expected, "{name}");
    }
    assert!(!root.is_cache_dir(&path("by a link")) && !root.is_cache_dir(&path("none")));
}

#[test]
fn hard_links_are_known_by_one_number_that_stays() {
    let dirs = Dirs::new();
    let at = |name: &str| dirs.source().join(name);
    fs::write(at("a"), b"").unwrap();
    fs::create_dir(at("dir")).unwrap();
    fs::hard_link(at("a"), at("dir/b")).unwrap();
    fs::write(at("alone"), b"").unwrap();
    fs::write(at("x"), b"").unwrap();
    fs::hard_link(at("x"), at("y")).unwrap();
    let root = SourceTree::open(&dirs.source()).unwrap();
    let id = |name: &str| root.examine(&path(name)).unwrap().unwrap().hard_link;
    assert!(id("a").is_some() && id("a") == id("dir/b") && id("x") == id("y"));
    assert_ne!(id("a"), id("x"));
    assert_eq!((id("alone"), id("dir")), (None, None));
    let again = SourceTree::open(&dirs.source()).unwrap();
    assert_eq!(again.examine(&path("a")).unwrap().unwrap().hard_link, id("a"));
}

#[test]
fn what_is_mounted_inside_is_told_and_can_be_left_out() {
    let test = "what_is_mounted_inside_is_told_and_can_be_left_out";
    let mount = "mkdir -p $DIR/in/mounted $DIR/in/bound $DIR/in/plain/inner $DIR/outside/inner && \
        mount -t tmpfs tmpfs $DIR/in/mounted && mkdir $DIR/in/mounted/inner && \
        mount --bind $DIR/outside $DIR/in/bound";
    let Some(dir) = with_mount(test, mount) else { return };
    for resolution in BOTH {
        let root = SourceTree::open_with(&dir.join("in"), resolution).unwrap();
        let across = paths(&root, WalkOptions::default());
        let all = ["bound", "bound/inner", "mounted", "mounted/inner", "plain", "plain/inner"];
        assert_eq!(across, all.map(path));
        let options = WalkOptions { one_file_system: true, ..WalkOptions::default() };
        let (found, errors) = walk(&root, options);
        assert!(errors.is_empty());
        let is_mount = |at: &str| FoundKind::Dir { is_mount_point: !at.starts_with("plain") };
        let found: Vec<_> = found.iter().map(|one| (one.path.clone(), &one.kind)).collect();
        let kinds = ["bound", "mounted", "plain", "plain/inner"].map(|at| (at, is_mount(at)));
        let kinds: Vec<_> = kinds.iter().map(|(at, kind)| (path(at), kind)).collect();
        assert_eq!(found, kinds);
        let examined = root.examine(&path("mounted")).unwrap().unwrap();
        assert_eq!(examined.kind, FoundKind::Dir { is_mount_point: true });
        // A walk does not start in a mount, and paths below a mount are recognized.
        let options = WalkOptions { one_file_system: true, ..WalkOptions::default() };
        let within = |at: &str| root.mount_on_the_way(&path(at)).unwrap();
        for at in ["mounted", "bound", "mounted/inner", "bound/inner"] {
            let started = root.walk(&path(at), options, |_: &RelPath, _| Visit::Descend);
            assert!(matches!(started, Err(ReadError::Mounted(_))), "{at}");
            let mount = at.strip_suffix("/inner").unwrap_or(at);
            assert_eq!(within(at), Some(path(mount)), "{at}");
            // A path that does not exist gives the same result.
            assert_eq!(within(&format!("{at}/none/of/it")), Some(path(mount)), "{at}");
        }
        for at in ["plain", "plain/inner", "plain/none", "none"] {
            assert_eq!(within(at), None, "{at}");
        }
        assert_eq!(root.mount_on_the_way(&RelPath::root()).unwrap(), None);
        // A walk starts in a mount that its caller names, as long as it is that mount.
        let mounts = ["mounted/inner", "bound"].map(|at| root.mount_points(&path(at)).unwrap());
        let [mounted, bound] = mounts.map(|mut mounts| mounts.pop().unwrap());
        assert_eq!((mounted.path, mounted.is_subvolume), (path("mounted"), false));
        assert_eq!(mounted.ground.file_system, "tmpfs");
        let start = |at: &str, id| {
            let options = WalkOptions { within: Some(id), ..options };
            Ok(root.walk(&path(at), options, |_: &RelPath, _| Visit::Descend)?.count())
        };
        assert_eq!(start("mounted", mounted.id).ok(), Some(1));
        assert_eq!(start("bound/inner", bound.id).ok(), Some(0));
        for (at, id) in [("mounted", bound.id), ("bound", mounted.id), ("plain", bound.id)] {
            assert!(matches!(start(at, id), Err(ReadError::Mounted(_))), "{at}");
        }
    }
}

#[test]
fn without_proc_files_and_directories_have_all_they_have() {
    let test = "without_proc_files_and_directories_have_all_they_have";
    // In a separate mount namespace, so that the rest of the system is not affected.
    let Some(dir) = with_mount(test, "mount -t tmpfs tmpfs /proc") else { return };
    let source = dir.join("source");
    fs::create_dir_all(source.join("dir")).unwrap();
    fs::create_dir(dir.join("target")).unwrap();
    fs::write(source.join("file"), b"content").unwrap();
    awkward::set_xattr(&source.join("file"), "user.x", b"on a file");
    awkward::set_xattr(&source.join("dir"), "user.x", b"on a directory");
    set_mode(&source.join("dir"), 0o555);
    symlink("file", source.join("link")).unwrap();
    let [options, _] = common::both_ways();
    let report = common::copy(&source, &dir.join("target"), &options);
    assert!(report.errors.is_empty() && report.not_set.is_empty(), "{report:#?}");
    assert!(
        matches!(&report.read_errors[..], [error] if *error.path() == path("link")),
        "{report:#?}"
    );
    let (found, errors) =
        walk(&SourceTree::open(&dir.join("target")).unwrap(), WalkOptions::default());
    assert_eq!((found.len(), errors.len()), (2, 0));
    let root = SourceTree::open(&dir.join("target")).unwrap();
    for found in found {
        assert_eq!(root.xattrs(&found).unwrap().xattrs.len(), 1, "{found:?}");
    }
}

#[test]
fn a_directory_that_becomes_a_link_is_never_followed() {
    let dirs = Dirs::new();
    let outside = dirs.base().join("outside");
    fs::create_dir_all(outside.join("b")).unwrap();
    fs::write(outside.join("secret"), b"secret").unwrap();
    fs::write(outside.join("b/secret"), b"secret").unwrap();
    fs::write(outside.join("file"), b"secret").unwrap();
    fs::create_dir_all(dirs.source().join("a/b")).unwrap();
    fs::write(dirs.source().join("a/file"), b"public").unwrap();
    fs::write(dirs.source().join("a/b/file"), b"public").unwrap();
    let (dir, link) = (dirs.source().join("a"), dirs.base().join("link"));
    symlink(&outside, &link).unwrap();
    let exchange = || renameat_with(CWD, &dir, CWD, &link, RenameFlags::EXCHANGE).unwrap();
    let (mut entered, mut refused) = (0, 0);
    while_racing(exchange, || {
        let until = Instant::now() + Duration::from_secs(2);
        while Instant::now() < until {
            for resolution in BOTH {
                let root = SourceTree::open_with(&dirs.source(), resolution).unwrap();
                let options = WalkOptions { open_dirs_max: 1, ..WalkOptions::default() };
                let (found, errors) = walk(&root, options);
                for found in found {
                    assert!(!found.path.to_string().contains("secret"), "{found:?}");
                    entered += usize::from(found.path == path("a/b/file"));
                }
                refused += errors.len();
                if let Ok(mut open) = root.open_file(&path("a/file")) {
                    let mut content = String::new();
                    open.file.read_to_string(&mut content).unwrap();
                    assert_eq!(content, "public");
                }
                assert!(root.open_file(&path("a/secret")).is_err());
                let examined = root.examine(&path("a/b/secret"));
                assert!(matches!(examined, Ok(None)), "{resolution:?} {examined:?}");
            }
        }
    });
    assert!(entered > 0 && refused > 0, "{entered} {refused}");
}

#[test]
fn files_that_become_pipes_are_never_waited_for() {
    let dirs = Dirs::new();
    let (file, pipe) = (dirs.source().join("file"), dirs.base().join("pipe"));
    fs::write(&file, b"x").unwrap();
    mknodat(CWD, &pipe, FileType::Fifo, Mode::RWXU, 0).unwrap();
    let exchange = || renameat_with(CWD, &file, CWD, &pipe, RenameFlags::EXCHANGE).unwrap();
    let (mut opened, mut refused) = (0, 0);
    while_racing(exchange, || {
        let root = SourceTree::open(&dirs.source()).unwrap();
        let until = Instant::now() + Duration::from_secs(1);
        while Instant::now() < until {
            match root.open_file(&path("file")) {
                Ok(open) => {
                    assert!(open.file.metadata().unwrap().is_file());
                    opened += 1;
                }
                Err(ReadError::NotRegular(_)) => refused += 1,
                Err(error) => panic!("{error}"),
            }
        }
    });
    assert!(opened > 0 && refused > 0, "{opened} {refused}");
}

#[test]
fn what_comes_and_goes_is_there_or_not() {
    let dirs = Dirs::new();
    let at = |name: String| dirs.source().join(name);
    for number in 0..50 {
        fs::create_dir(at(format!("stays-{number:02}"))).unwrap();
        fs::write(at(format!("stays-{number:02}/file")), b"x").unwrap();
    }
    let race = || {
        for number in 0..50 {
            let name = at(format!("stays-{number:02}/comes-and-goes"));
            File::create(&name).unwrap();
            fs::remove_file(&name).unwrap();
            fs::create_dir(&name).unwrap();
            fs::remove_dir(&name).unwrap();
            symlink("x", &name).unwrap();
            fs::remove_file(&name).unwrap();
        }
    };
    let mut rounds = 0;
    while_racing(race, || {
        let until = Instant::now() + Duration::from_secs(2);
        while Instant::now() < until {
            let root = SourceTree::open(&dirs.source()).unwrap();
            rounds += 1;
            let options = WalkOptions { open_dirs_max: 1, ..WalkOptions::default() };
            let (found, errors) = walk(&root, options);
            assert!(found.is_sorted_by(|a, b| a.path < b.path));
            let stays =
                found.iter().filter(|found| !found.path.to_string().ends_with("goes")).count();
            assert_eq!(stays, 100);
            // A directory may become a link between two calls.
            assert!(
                errors.iter().all(|error| matches!(error, ReadError::Changed(_))),
                "{errors:?}"
            );
        }
    });
}

#[test]
fn descriptors_are_few_and_memory_is_names() {
    let dirs = Dirs::new();
    let mut dir = dirs.source();
    for level in 0..100 {
        fs::write(dir.join("z"), b"").unwrap();
        dir.push(format!("level {level}"));
        fs::create_dir(&dir).unwrap();
    }
    let root = SourceTree::open(&dirs.source()).unwrap();
    for resolution in BOTH {
        let root_by = SourceTree::open_with(&dirs.source(), resolution).unwrap();
        let options = WalkOptions { open_dirs_max: 4, ..WalkOptions::default() };
        let mut count = 0;
        let own = |link: fs::DirEntry| {
            fs::read_link(link.path()).is_ok_and(|to| to.starts_with(dirs.source()))
        };
        for item in root_by.walk(&RelPath::root(), options, |_, _| Visit::Descend).unwrap() {
            assert!(matches!(item, WalkItem::Entry(_)));
            count += 1;
            let open = fs::read_dir("/proc/self/fd").unwrap().flatten().filter(|_| true);
            assert!(open.map(own).filter(|is_own| *is_own).count() <= 4 + 2);
        }
        assert_eq!(count, 200);
    }
    drop(root);
}

#[test]
fn names_of_unfinished_restores_are_known() {
    let seen: BTreeSet<bool> = [&b".archivist-tmp-"[..], b"file", b".archivist-tmp-zz"]
        .into_iter()
        .map(is_temp_name)
        .collect();
    assert_eq!(seen, BTreeSet::from([false]));
}

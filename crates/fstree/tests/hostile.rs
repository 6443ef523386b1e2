//! Another process that can write to the target tries to make the restore write
//! elsewhere.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::time::{Duration, Instant};

use common::{Dirs, both_ways, mode, names, path, set_mode, while_racing};
use fstree::{
    CreateFile, DestError, DestOptions, DestTree, FileContent, FileKind, FileWriter as _,
    TreeWriter as _,
};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use types::{EntryKind, Metadata, RelPath};

fn metadata() -> Metadata {
    Metadata {
        mode: 0o777,
        mtime_ns: 1_000_000_000,
        xattrs: [(b"user.evil".to_vec(), b"x".to_vec())].into(),
        ..Metadata::default()
    }
}

fn make_file(
    target: &DestTree,
    at: &RelPath,
    content: &[u8],
) -> Result<fstree::CreatedEntry, DestError> {
    let size = content.len() as u64;
    let said = FileContent { size, is_sparse: false };
    match target.create_file(at, said, &Metadata::default(), |_| Ok(false))? {
        CreateFile::Write(mut sink) => {
            sink.write(content)?;
            sink.finish(&metadata())
        }
        CreateFile::Existing(_) => unreachable!(),
    }
}

/// Makes all calls of a restore below one directory, and returns the number of
/// successful ones.
fn do_everything(target: &DestTree, dir: &RelPath, round: u64) -> usize {
    let at = |name: &str| dir.join(format!("{name}-{round}").as_bytes()).unwrap();
    let link = EntryKind::Symlink { target: b"x".to_vec() };
    let mut done = usize::from(target.create_dir(&at("dir")).is_ok());
    done += usize::from(target.create_dir(&at("dir").join(b"inner").unwrap()).is_ok());
    if let Ok(made) = make_file(target, &at("file"), b"content") {
        done += 1;
        let linked = target.create_hard_link(&at("file"), made.identity, &at("second"));
        done += usize::from(linked.is_ok());
    }
    for (name, kind) in [("link", &link), ("pipe", &EntryKind::Fifo)] {
        done += usize::from(target.create(&at(name), kind, &metadata()).is_ok());
    }
    done += usize::from(target.finish_dir(&at("dir"), &metadata()).is_ok());
    done += usize::from(target.finish_dir(dir, &metadata()).is_ok());
    done
}

/// A directory outside the target with a file in it, and all properties that must not
/// change.
#[derive(Debug, PartialEq, Eq)]
struct Outside {
    names: Vec<String>,
    content: Vec<u8>,
    of_dir: (u32, i64, i64),
    of_file: (u32, i64, u64),
    attributes: usize,
}

fn make_outside(dir: &Path) {
    fs::create_dir_all(dir.join("b/c")).unwrap();
    fs::write(dir.join("file"), b"untouched").unwrap();
    fs::write(dir.join("b/file"), b"untouched").unwrap();
    set_mode(dir, 0o750);
}

fn look(dir: &Path) -> Outside {
    let (of_dir, of_file) = (fs::metadata(dir).unwrap(), fs::metadata(dir.join("file")).unwrap());
    let mut all = names(dir);
    all.extend(names(&dir.join("b")));
    all.extend(names(&dir.join("b/c")));
    let mut list = vec![0; 1000];
    Outside {
        names: all,
        content: fs::read(dir.join("file")).unwrap(),
        of_dir: (of_dir.mode(), of_dir.mtime(), of_dir.ctime()),
        of_file: (of_file.mode(), of_file.mtime(), of_file.nlink()),
        attributes: rustix::fs::listxattr(dir, &mut list).unwrap(),
    }
}

#[test]
fn links_that_were_planted_before_lead_nowhere() {
    for options in both_ways() {
        for overwrite in [false, true] {
            let dirs = Dirs::new();
            let outside = dirs.base().join("outside");
            make_outside(&outside);
            let before = look(&outside);
            // Create a link at every level of the path.
            let target_dir = dirs.target();
            fs::create_dir_all(target_dir.join("a/b")).unwrap();
            let links = ["link", "a/link", "a/b/link"];
            for link in links {
                symlink(&outside, target_dir.join(link)).unwrap();
            }
            symlink(outside.join("file"), target_dir.join("to a file")).unwrap();
            symlink("..", target_dir.join("up")).unwrap();
            symlink("/", target_dir.join("to root")).unwrap();
            let options = DestOptions { overwrite, ..options.clone() };
            let target = DestTree::open(&target_dir, options).unwrap();
            for link in links {
                for below in [path(link), path(format!("{link}/b")), path(format!("{link}/b/c"))] {
                    assert_eq!(do_everything(&target, &below, 1), 0, "{below}");
                    let file = below.join(b"x").unwrap();
                    let error = make_file(&target, &file, b"x").unwrap_err();
                    assert!(matches!(error, DestError::NoParent { .. }), "{error:?}");
                }
            }
            for below in ["up/outside", "up/outside/b", "up/source", "to root"] {
                assert_eq!(do_everything(&target, &path(below), 1), 0, "{below}");
            }
            for link in ["link", "a/link", "a/b/link", "up", "to root"].map(path) {
                let made = target.create_dir(&link);
                if overwrite {
                    assert!(made.unwrap().is_new);
                    assert!(do_everything(&target, &link, 2) >= 6);
                } else {
                    assert!(
                        matches!(&made, Err(DestError::InTheWay { found: FileKind::Symlink, .. })),
                        "{made:?}"
                    );
                }
            }
            let made = make_file(&target, &path("to a file"), b"new");
            assert_eq!(made.is_ok(), overwrite);
            if overwrite {
                assert_eq!(fs::read(target_dir.join("to a file")).unwrap(), b"new");
                assert!(fs::symlink_metadata(target_dir.join("to a file")).unwrap().is_file());
            }
            assert_eq!(look(&outside), before);
            assert!(names(&dirs.source()).is_empty());
        }
    }
}

#[test]
fn a_directory_that_becomes_a_link_between_two_calls_leads_nowhere() {
    for options in both_ways() {
        let dirs = Dirs::new();
        let outside = dirs.base().join("outside");
        make_outside(&outside);
        let before = look(&outside);
        let (dir, link) = (dirs.target().join("a"), dirs.target().join("z"));
        fs::create_dir_all(dir.join("b/c")).unwrap();
        symlink(&outside, &link).unwrap();
        let options = DestOptions { overwrite: true, ..options };
        let target = DestTree::open(&dirs.target(), options).unwrap();
        let (mut done, mut round) = (0, 0);
        let exchange = || {
            renameat_with(CWD, &dir, CWD, &link, RenameFlags::EXCHANGE).unwrap();
            std::thread::yield_now();
        };
        while_racing(exchange, || {
            let until = Instant::now() + Duration::from_secs(3);
            while Instant::now() < until {
                round += 1;
                for at in ["a", "a/b", "a/b/c"] {
                    done += do_everything(&target, &path(at), round);
                }
            }
        });
        assert!(done > 100 && round > 10, "{done} of {round}");
        assert_eq!(look(&outside), before);
    }
}

#[test]
fn what_is_put_in_the_place_of_a_new_thing_gets_nothing() {
    // Another process replaces each new entry by a second name of a file that belongs to
    // another user, so that its owner, mode or content changes.
    for options in both_ways() {
        let dirs = Dirs::new();
        let victim = dirs.base().join("victim");
        fs::write(&victim, b"untouched").unwrap();
        set_mode(&victim, 0o600);
        let inside = dirs.target().join("a");
        fs::create_dir(&inside).unwrap();
        let before = fs::metadata(&victim).unwrap();
        let target = DestTree::open(&dirs.target(), options).unwrap();
        let race = || {
            for entry in fs::read_dir(&inside).into_iter().flatten().flatten() {
                if entry.file_name().to_string_lossy().contains("archivist-tmp") {
                    let spare = dirs.base().join("spare");
                    let _ = fs::hard_link(&victim, &spare);
                    let _ = fs::rename(&spare, entry.path());
                }
            }
        };
        while_racing(race, || {
            let until = Instant::now() + Duration::from_secs(2);
            let mut round = 0;
            while Instant::now() < until {
                round += 1;
                do_everything(&target, &path("a"), round);
            }
        });
        let after = fs::metadata(&victim).unwrap();
        assert_eq!(fs::read(&victim).unwrap(), b"untouched");
        assert_eq!((after.mode(), after.uid()), (before.mode(), before.uid()));
        assert_eq!((after.mtime(), after.mtime_nsec()), (before.mtime(), before.mtime_nsec()));
    }
}

#[test]
fn a_hard_link_is_made_to_the_file_that_was_made_and_no_other() {
    let dirs = Dirs::new();
    let [options, _] = both_ways();
    let target = DestTree::open(&dirs.target(), options).unwrap();
    let made = make_file(&target, &path("first"), b"mine").unwrap();
    fs::rename(dirs.target().join("first"), dirs.target().join("moved")).unwrap();
    let link = || target.create_hard_link(&path("first"), made.identity, &path("second"));
    assert!(matches!(link(), Err(DestError::Changed { .. })));
    fs::write(dirs.target().join("first"), b"another").unwrap();
    assert!(matches!(link(), Err(DestError::Changed { .. })));
    fs::remove_file(dirs.target().join("first")).unwrap();
    symlink("moved", dirs.target().join("first")).unwrap();
    assert!(matches!(link(), Err(DestError::Changed { .. })));
    assert_eq!(names(&dirs.target()), ["first", "moved"]);
    let moved = target.create_hard_link(&path("moved"), made.identity, &path("second")).unwrap();
    assert_eq!(moved.identity, made.identity);
    let again = target.create_hard_link(&path("moved"), made.identity, &path("second")).unwrap();
    assert!(!again.is_new);
}

#[test]
fn a_file_is_never_open_to_more_than_it_will_be() {
    let dirs = Dirs::new();
    let [options, _] = both_ways();
    let target = DestTree::open(&dirs.target(), options).unwrap();
    target.create_dir(&path("dir")).unwrap();
    assert_eq!(mode(&dirs.target().join("dir")), 0o700);
    let said = FileContent { size: 4, is_sparse: false };
    let CreateFile::Write(mut sink) =
        target.create_file(&path("dir/file"), said, &Metadata::default(), |_| Ok(false)).unwrap()
    else {
        panic!("there was none")
    };
    let inside = dirs.target().join("dir");
    let temp = names(&inside);
    assert!(temp.len() == 1 && fstree::is_temp_name(temp[0].as_bytes()));
    assert_eq!(mode(&inside.join(&temp[0])), 0o600);
    sink.write(b"data").unwrap();
    assert_eq!(mode(&inside.join(&temp[0])), 0o600);
    sink.finish(&Metadata { mode: 0o444, ..Metadata::default() }).unwrap();
    assert_eq!(mode(&inside.join("file")), 0o444);
    // The default ACL of a directory does not apply to restored entries.
    let rules = common::awkward::acl(7, 7, 7, 7, 7);
    common::awkward::set_xattr(&dirs.target(), "system.posix_acl_default", &rules);
    target.create_dir(&path("given")).unwrap();
    make_file(&target, &path("given/file"), b"x").unwrap();
    target.finish_dir(&path("given"), &Metadata { mode: 0o750, ..Metadata::default() }).unwrap();
    for at in ["given", "given/file"] {
        let mut list = vec![0; 1000];
        let len = rustix::fs::listxattr(dirs.target().join(at), &mut list).unwrap();
        assert!(!String::from_utf8_lossy(&list[..len]).contains("acl"), "{at}");
    }
    assert_eq!(mode(&dirs.target().join("given")), 0o750);
}

#[test]
fn rights_are_given_with_their_owner_or_not_at_all() {
    if !common::is_root() {
        return;
    }
    let dirs = Dirs::new();
    let mut capability = vec![0; 20];
    capability[..4].copy_from_slice(&0x0200_0000_u32.to_le_bytes());
    let foreign = Metadata {
        mode: 0o6755,
        uid: 1000,
        gid: 1000,
        xattrs: [(b"security.capability".to_vec(), capability)].into(),
        ..Metadata::default()
    };
    let make = |target: &DestTree, name: &str, metadata: &Metadata| {
        let said = FileContent { size: 0, is_sparse: false };
        match target.create_file(&path(name), said, &Metadata::default(), |_| Ok(false)).unwrap() {
            CreateFile::Write(sink) => sink.finish(metadata).unwrap(),
            CreateFile::Existing(_) => unreachable!(),
        }
    };
    // With the owner of this process, root: a setuid program of another user must not
    // become root's.
    let target = DestTree::open(&dirs.target(), DestOptions::default()).unwrap();
    let made = make(&target, "as root", &foreign);
    assert_eq!(mode(&dirs.target().join("as root")), 0o755);
    let what: Vec<_> = made.not_set.iter().map(|not_set| not_set.attribute.clone()).collect();
    assert_eq!(
        what,
        [
            fstree::Attribute::Owner,
            fstree::Attribute::Xattr(b"security.capability".to_vec()),
            fstree::Attribute::Mode,
        ]
    );
    // (The name of an owner decides if it exists here, otherwise the number.)
    {
        let dirs = Dirs::new();
        let owners = fstree::OwnerPolicy::for_this_process(true);
        let options = DestOptions { owners, ..DestOptions::default() };
        let target = DestTree::open(&dirs.target(), options).unwrap();
        let named = Metadata {
            user: Some("root".to_owned()),
            group: Some("no group has this name".to_owned()),
            ..foreign.clone()
        };
        let made = make(&target, "named", &named);
        assert!(made.not_set.is_empty(), "{:?}", made.not_set);
        let found = std::fs::metadata(dirs.target().join("named")).unwrap();
        use std::os::unix::fs::MetadataExt as _;
        assert_eq!((found.uid(), found.gid()), (0, 1000));
    }
    // A setuid program of root keeps the bit.
    let own = Metadata { mode: 0o4755, ..Metadata::default() };
    assert!(make(&target, "own", &own).not_set.is_empty());
    assert_eq!(mode(&dirs.target().join("own")), 0o4755);
    drop(target);
    let [options, _] = both_ways();
    let target = DestTree::open(&dirs.target(), options).unwrap();
    assert!(make(&target, "as its owner", &foreign).not_set.is_empty());
    let file = File::open(dirs.target().join("as its owner")).unwrap().metadata().unwrap();
    assert_eq!((file.mode() & 0o7777, file.uid(), file.gid()), (0o6755, 1000, 1000));
}

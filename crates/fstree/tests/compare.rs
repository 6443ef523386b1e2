//! A comparison finds every difference, and nothing else.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, chown, lchown, symlink};
use std::path::Path;

use common::{Dirs, awkward, both_ways, copy, set_mode};
use fstree::{CompareOptions, RootError, compare};

fn make(dir: &Path) {
    fs::write(dir.join("file"), b"content").unwrap();
    fs::create_dir(dir.join("dir")).unwrap();
    fs::write(dir.join("dir/inner"), b"x").unwrap();
    symlink("target", dir.join("link")).unwrap();
    fs::write(dir.join("first"), b"shared").unwrap();
    fs::hard_link(dir.join("first"), dir.join("second")).unwrap();
    fs::write(dir.join("alone"), b"shared").unwrap();
    let sparse = File::create(dir.join("sparse")).unwrap();
    sparse.set_len(10_000_000).unwrap();
    sparse.write_all_at(b"data", 5_000_000).unwrap();
    awkward::set_xattr(&dir.join("file"), "user.x", b"x");
    for name in ["file", "dir/inner", "first", "alone", "sparse", "link", "dir"] {
        awkward::set_mtime(&dir.join(name), 1_000_000_000, 1);
    }
}

/// Restores the time of a file, so that a change causes one difference only.
fn keeping_time(dir: &Path, name: &str, change: impl FnOnce(&Path)) {
    change(&dir.join(name));
    awkward::set_mtime(&dir.join(name), 1_000_000_000, 1);
    awkward::set_mtime(&dir.join("dir"), 1_000_000_000, 1);
}

type Change = fn(&Path);

#[test]
fn every_difference_is_found_and_is_the_only_one() {
    let changes: [(&str, &[&str], Change); 15] = [
        ("nothing", &[], |_| {}),
        ("a byte", &["file: Content { offset: 3 }"], |dir| {
            keeping_time(dir, "file", |file| fs::write(file, b"conTent").unwrap());
        }),
        ("a byte in a hole", &["sparse: Content { offset: 9000000 }"], |dir| {
            keeping_time(dir, "sparse", |file| {
                File::options()
                    .write(true)
                    .open(file)
                    .unwrap()
                    .write_all_at(b"x", 9_000_000)
                    .unwrap();
            });
        }),
        ("zeros in a hole", &[], |dir| {
            keeping_time(dir, "sparse", |file| {
                let file = File::options().write(true).open(file).unwrap();
                file.write_all_at(&[0; 50_000], 9_000_000).unwrap();
            });
        }),
        ("no hole", &["sparse: Holes"], |dir| {
            keeping_time(dir, "sparse", |file| {
                let content = fs::read(file).unwrap();
                fs::write(file, content).unwrap();
            });
        }),
        ("a length", &["file: Size { first: 7, second: 8 }"], |dir| {
            keeping_time(dir, "file", |file| fs::write(file, b"content ").unwrap());
        }),
        ("a mode", &["dir/inner: Mode { first: 420, second: 292 }"], |dir| {
            set_mode(&dir.join("dir/inner"), 0o444);
        }),
        (
            "a nanosecond",
            &["link: Mtime { first: 1000000000000000001, second: 1000000000000000002 }"],
            |dir| awkward::set_mtime(&dir.join("link"), 1_000_000_000, 2),
        ),
        ("an attribute's value", &["file: Xattr([117, 115, 101, 114, 46, 120])"], |dir| {
            awkward::set_xattr(&dir.join("file"), "user.x", b"y");
        }),
        ("an attribute more", &["dir: Xattr([117, 115, 101, 114, 46, 110])"], |dir| {
            awkward::set_xattr(&dir.join("dir"), "user.n", b"");
        }),
        ("a target", &["link: LinkTarget"], |dir| {
            keeping_time(dir, "link", |link| {
                fs::remove_file(link).unwrap();
                symlink("tarpit", link).unwrap();
            });
        }),
        ("a kind", &["link: Kind { first: Symlink, second: Dir }"], |dir| {
            keeping_time(dir, "link", |link| {
                fs::remove_file(link).unwrap();
                fs::create_dir(link).unwrap();
            });
        }),
        ("one less", &["dir/inner: OnlyInFirst"], |dir| {
            fs::remove_file(dir.join("dir/inner")).unwrap();
            awkward::set_mtime(&dir.join("dir"), 1_000_000_000, 1);
        }),
        ("one more", &["dir/more: OnlyInSecond"], |dir| {
            fs::write(dir.join("dir/more"), b"").unwrap();
            awkward::set_mtime(&dir.join("dir"), 1_000_000_000, 1);
        }),
        ("names", &["alone: HardLinks", "first: HardLinks", "second: HardLinks"], |dir| {
            fs::remove_file(dir.join("alone")).unwrap();
            fs::hard_link(dir.join("first"), dir.join("alone")).unwrap();
        }),
    ];
    for (name, expected, change) in changes {
        let dirs = Dirs::new();
        make(&dirs.source());
        let [options, _] = both_ways();
        assert!(copy(&dirs.source(), &dirs.target(), &options).is_clean());
        change(&dirs.target());
        let found = compare(&dirs.source(), &dirs.target(), CompareOptions::default()).unwrap();
        let found: Vec<_> =
            found.iter().map(|one| format!("{}: {:?}", one.path, one.kind)).collect();
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn owners_and_devices_differ_where_root_says_so() {
    if !common::is_root() {
        return;
    }
    let dirs = Dirs::new();
    make(&dirs.source());
    awkward::make(&dirs.source().join("dir"));
    let [options, _] = both_ways();
    assert!(copy(&dirs.source(), &dirs.target(), &options).is_clean());
    chown(dirs.target().join("file"), Some(7), None).unwrap();
    lchown(dirs.target().join("link"), None, Some(8)).unwrap();
    let device = dirs.target().join("dir/specials/char device");
    fs::remove_file(&device).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &device,
        rustix::fs::FileType::CharacterDevice,
        rustix::fs::Mode::RUSR,
        rustix::fs::makedev(1, 5),
    )
    .unwrap();
    let all = compare(&dirs.source(), &dirs.target(), CompareOptions::default()).unwrap();
    let text: Vec<_> = all.iter().map(|one| format!("{}: {:?}", one.path, one.kind)).collect();
    assert!(text.contains(&"file: Owner { first: (0, 0), second: (7, 0) }".into()), "{text:?}");
    assert!(text.contains(&"link: Owner { first: (0, 0), second: (0, 8) }".into()), "{text:?}");
    assert!(text.contains(&"dir/specials/char device: Device".into()), "{text:?}");
    let without = CompareOptions { owners: false, ..CompareOptions::default() };
    let fewer = compare(&dirs.source(), &dirs.target(), without).unwrap();
    assert_eq!(fewer.len(), all.len() - 2);
}

#[test]
fn a_tree_that_is_none_cannot_be_compared() {
    let dirs = Dirs::new();
    let none = compare(&dirs.source(), &dirs.base().join("none"), CompareOptions::default());
    assert!(matches!(none, Err(RootError::Missing(_))));
}

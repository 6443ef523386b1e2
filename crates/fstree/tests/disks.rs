//! File systems that are full, read-only, old, or have rare features.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{
    Dirs, awkward, both_ways, copy, is_root, mode, names, owners_to_set, path, symlink_to,
    with_mount,
};
use fstree::{
    Attribute, CompareOptions, CreateFile, CreatedEntry, DestError, DestOptions, DestTree,
    FileContent, FileWriter as _, SourceTree, TreeReader as _, TreeWriter as _, compare,
};
use types::{EntryKind, Metadata, RelPath, Retry};

fn make_file(target: &DestTree, at: &RelPath, content: &[u8]) -> Result<CreatedEntry, DestError> {
    let said = FileContent { size: content.len() as u64, is_sparse: false };
    match target.create_file(at, said, &Metadata::default(), |_| Ok(false))? {
        CreateFile::Write(mut sink) => {
            for part in content.chunks(10_000) {
                sink.write(part)?;
            }
            sink.finish(&Metadata { mode: 0o600, ..Metadata::default() })
        }
        CreateFile::Existing(_) => unreachable!(),
    }
}

#[test]
fn a_full_disk_is_told_and_nothing_is_left_behind() {
    let test = "a_full_disk_is_told_and_nothing_is_left_behind";
    let mount = "mount -t tmpfs -o size=2m tmpfs $DIR";
    let Some(dir) = with_mount(test, mount) else { return };
    let [options, _] = both_ways();
    let options = DestOptions { durable: true, ..options };
    let target = DestTree::open(&dir, options).unwrap();
    target.create_dir(&path("dir")).unwrap();
    target.sync().unwrap();
    for round in 0..3 {
        let mut made = 0;
        let error = loop {
            match make_file(&target, &path(format!("dir/{made:03}")), &[1; 100_000]) {
                Ok(_) => made += 1,
                Err(error) => break error,
            }
        };
        assert!((15..21).contains(&made), "round {round}: {made}");
        assert!(matches!(&error, DestError::Full { .. }), "{error:?}");
        assert_eq!(*error.path(), path(format!("dir/{made:03}")));
        assert_eq!(error.retry(), Retry::Temporary);
        assert_eq!(names(&dir.join("dir")).len(), made);
        for name in names(&dir.join("dir")) {
            assert_eq!(fs::read(dir.join("dir").join(&name)).unwrap(), [1; 100_000]);
            fs::remove_file(dir.join("dir").join(name)).unwrap();
        }
    }
}

#[test]
fn a_disk_without_inodes_is_full() {
    let test = "a_disk_without_inodes_is_full";
    let mount = "mount -t tmpfs -o nr_inodes=30 tmpfs $DIR";
    let Some(dir) = with_mount(test, mount) else { return };
    let target = DestTree::open(&dir, DestOptions::default()).unwrap();
    let metadata = Metadata::default();
    let mut errors = Vec::new();
    for number in 0..20 {
        let at = |name: &str| path(format!("{name}{number}"));
        errors.extend(make_file(&target, &at("file"), b"").err());
        errors.extend(target.create_dir(&at("dir")).err());
        errors.extend(target.create(&at("link"), &symlink_to(b"x"), &metadata).err());
        errors.extend(target.create(&at("pipe"), &EntryKind::Fifo, &metadata).err());
    }
    assert!(errors.len() >= 50, "{}", errors.len());
    assert!(errors.iter().all(|error| matches!(error, DestError::Full { .. })), "{errors:?}");
    assert_eq!(names(&dir).len() + errors.len(), 80);
}

#[test]
fn a_disk_that_cannot_be_written_to_is_told() {
    let test = "a_disk_that_cannot_be_written_to_is_told";
    let mount = "mount -t tmpfs tmpfs $DIR && mkdir $DIR/dir && touch $DIR/file && \
        mount -o remount,ro $DIR";
    let Some(dir) = with_mount(test, mount) else { return };
    let [options, _] = both_ways();
    let target = DestTree::open(&dir, DestOptions { overwrite: true, ..options }).unwrap();
    let metadata = Metadata { mode: 0o700, ..Metadata::default() };
    let errors = [
        make_file(&target, &path("dir/new"), b"x").unwrap_err(),
        make_file(&target, &path("file"), b"x").unwrap_err(),
        target.create_dir(&path("new")).unwrap_err(),
        target.create(&path("new"), &symlink_to(b"x"), &metadata).unwrap_err(),
        target.create(&path("dir/new"), &EntryKind::Fifo, &metadata).unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(error, DestError::ReadOnly { .. }), "{error:?}");
        assert_eq!(error.retry(), Retry::Permanent);
    }
    // An existing directory needs no write access.
    target.create_dir(&path("dir")).unwrap();
    let not_set = target.finish_dir(&path("dir"), &metadata).unwrap();
    assert!(!not_set.is_empty());
}

/// Creates an image with a file system, and returns the command that mounts it; `None`
/// if this computer or user cannot.
fn image(dir: &Path, arguments: &[&str]) -> Option<PathBuf> {
    if !is_root() || !Path::new("/dev/loop-control").exists() {
        return None;
    }
    let image = dir.join("image");
    fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
    let made = Command::new("mkfs.ext4").args(arguments).arg("-q").arg(&image).status();
    made.is_ok_and(|status| status.success()).then_some(image)
}

/// Runs a test again with `target` on such a file system, and `source` on one that
/// stores all metadata; `None` in the outer run, or if the file system cannot be
/// mounted.
fn with_image(test: &str, arguments: &[&str]) -> Option<PathBuf> {
    let dir = tempfile::tempdir().unwrap();
    if std::env::var_os("ARCHIVIST_TEST_AGAIN").is_some() {
        return with_mount(test, "");
    }
    match image(dir.path(), arguments) {
        Some(image) => {
            let image = image.display();
            let mount = format!(
                "mount -o loop '{image}' $DIR && mkdir $DIR/source $DIR/target && \
                mount -t tmpfs tmpfs $DIR/source"
            );
            with_mount(test, &mount)
        }
        None => {
            println!("not tested: it takes root, loop devices and mkfs.ext4");
            None
        }
    }
}

#[test]
fn times_that_the_disk_does_not_keep_are_told() {
    let test = "times_that_the_disk_does_not_keep_are_told";
    // Inodes of this size store times in whole seconds, until 2038.
    let Some(dir) = with_image(test, &["-I", "128"]) else { return };
    let (source, target) = (dir.join("source"), dir.join("target"));
    let times = [
        ("kept", 1_000_000_000, 0),
        ("nanoseconds", 1_000_000_000, 5),
        ("too late", 5_000_000_000, 0),
        ("too early", -5_000_000_000, 0),
    ];
    for (name, seconds, nanoseconds) in times {
        fs::write(source.join(name), b"").unwrap();
        awkward::set_mtime(&source.join(name), seconds, nanoseconds);
    }
    fs::create_dir(source.join("dir")).unwrap();
    awkward::set_mtime(&source.join("dir"), 7_000_000_000, 0);
    std::os::unix::fs::symlink("x", source.join("link")).unwrap();
    awkward::set_mtime(&source.join("link"), 7_000_000_000, 0);
    let [options, _] = both_ways();
    let report = copy(&source, &target, &options);
    assert!(report.errors.is_empty());
    let mut told: Vec<_> = report
        .not_set
        .iter()
        .map(|not_set| {
            assert_eq!(not_set.attribute, Attribute::Mtime);
            not_set.path.to_string()
        })
        .collect();
    told.sort();
    assert_eq!(told, ["dir", "link", "nanoseconds", "too early", "too late"]);
}

#[test]
fn a_disk_without_attributes_says_so_by_name() {
    let test = "a_disk_without_attributes_says_so_by_name";
    // Attributes are stored in the inode or in one block, so there is little space.
    let Some(dir) = with_image(test, &["-O", "^ea_inode"]) else { return };
    let (source, target) = (dir.join("source"), dir.join("target"));
    fs::write(source.join("file"), b"x").unwrap();
    awkward::set_xattr(&source.join("file"), "user.large", &[1; 60_000]);
    awkward::set_xattr(&source.join("file"), "user.small", b"x");
    let [options, _] = both_ways();
    let report = copy(&source, &target, &options);
    assert!(report.errors.is_empty());
    let what: Vec<_> = report.not_set.iter().map(|not_set| not_set.attribute.clone()).collect();
    assert_eq!(what, [Attribute::Xattr(b"user.large".to_vec())]);
}

/// The group bits of a file with an ACL are the mask of the ACL.
#[test]
fn a_file_whose_acl_cannot_be_set_is_open_to_nobody_else() {
    let test = "a_file_whose_acl_cannot_be_set_is_open_to_nobody_else";
    let mount = "mkdir $DIR/source $DIR/target && mount -t tmpfs tmpfs $DIR/source && \
        mount -t ramfs ramfs $DIR/target";
    let Some(dir) = with_mount(test, mount) else { return };
    let (source, target) = (dir.join("source"), dir.join("target"));
    fs::write(source.join("payroll"), b"private").unwrap();
    fs::create_dir(source.join("dir")).unwrap();
    for name in ["payroll", "dir"] {
        let acl = awkward::acl(6, 6, 0, 6, 0);
        awkward::set_xattr(&source.join(name), "system.posix_acl_access", &acl);
        assert_eq!(mode(&source.join(name)) & 0o777, 0o660, "{name}");
    }
    let [options, _] = both_ways();
    let report = copy(&source, &target, &options);
    assert!(report.errors.is_empty());
    for name in ["payroll", "dir"] {
        assert_eq!(mode(&target.join(name)) & 0o777, 0o600, "{name}");
        let told = report.not_set.iter().filter(|not_set| not_set.path == path(name));
        let told: Vec<_> = told.map(|not_set| not_set.attribute.clone()).collect();
        let acl = Attribute::Xattr(b"system.posix_acl_access".to_vec());
        assert_eq!(told, [acl, Attribute::Mode], "{name}");
    }
}

/// XFS shows the superuser a copy of each ACL as an attribute `trusted.SGI_ACL_FILE`.
#[test]
fn the_copy_of_an_acl_that_xfs_shows_is_neither_read_nor_set() {
    let test = "the_copy_of_an_acl_that_xfs_shows_is_neither_read_nor_set";
    let mount = "mount -t tmpfs tmpfs $DIR && mkdir $DIR/source $DIR/target";
    let Some(dir) = with_mount(test, mount) else { return };
    if !is_root() {
        println!("not tested: only root sets trusted attributes");
        return;
    }
    let (source, target) = (dir.join("source"), dir.join("target"));
    fs::write(source.join("file"), b"x").unwrap();
    awkward::set_xattr(&source.join("file"), "trusted.SGI_ACL_FILE", b"a fossil");
    awkward::set_xattr(&source.join("file"), "trusted.other", b"kept");
    let tree = SourceTree::open(&source).unwrap();
    let found = tree.examine(&path("file")).unwrap().unwrap();
    let read = tree.xattrs(&found).unwrap().xattrs;
    assert_eq!(read.keys().collect::<Vec<_>>(), [b"trusted.other"]);
    // A manifest of an earlier version, or of another program, has the copy.
    let target =
        DestTree::open(&target, DestOptions { owners: owners_to_set(), ..both_ways()[0].clone() });
    let mut metadata = found.metadata(&fstree::Owners::system(), read);
    metadata.xattrs.insert(b"trusted.SGI_ACL_FILE".to_vec(), b"a fossil".to_vec());
    let said = FileContent { size: 0, is_sparse: false };
    let made = target.unwrap().create_file(&path("file"), said, &metadata, |_| Ok(false));
    let CreateFile::Write(sink) = made.unwrap() else { unreachable!() };
    assert!(sink.finish(&metadata).unwrap().not_set.is_empty());
    let mut names = Vec::with_capacity(1000);
    let len =
        rustix::fs::listxattr(dir.join("target/file"), rustix::buffer::spare_capacity(&mut names));
    assert_eq!((len.unwrap(), &names[..]), (14, &b"trusted.other\0"[..]));
}

#[test]
fn the_awkward_tree_on_another_file_system() {
    let test = "the_awkward_tree_on_another_file_system";
    let Some(dir) = with_mount(test, "mount -t tmpfs -o size=200m tmpfs $DIR") else { return };
    let dirs = Dirs::within(&dir);
    awkward::make(&dirs.source());
    // Attributes that are too long for ext4.
    let file = dirs.source().join("attributes/file");
    awkward::set_xattr(&file, "user.largest", &[9; 65_536]);
    awkward::set_xattr(&file, "user.large", &[8; 60 << 10]);
    let [options, _] = both_ways();
    let report = copy(&dirs.source(), &dirs.target(), &options);
    assert!(report.is_clean(), "{report:#?}");
    let differences = compare(&dirs.source(), &dirs.target(), CompareOptions::default()).unwrap();
    assert!(differences.is_empty(), "{differences:#?}");
}

#[test]
fn attributes_over_the_limit_of_a_manifest_are_told() {
    let test = "attributes_over_the_limit_of_a_manifest_are_told";
    let Some(dir) = with_mount(test, "mount -t tmpfs -o size=200m tmpfs $DIR") else { return };
    let dirs = Dirs::within(&dir);
    fs::write(dirs.source().join("file"), b"x").unwrap();
    for number in 0..10 {
        awkward::set_xattr(&dirs.source().join("file"), &format!("user.{number}"), &[1; 60_000]);
    }
    let root = fstree::SourceTree::open(&dirs.source()).unwrap();
    let found = root.examine(&path("file")).unwrap().unwrap();
    let read = root.xattrs(&found).unwrap();
    assert_eq!((read.xattrs.len(), read.unread.len()), (8, 2));
    let len: usize = read.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
    assert!(len <= fstree::XATTRS_LEN_MAX);
}

//! After every kind of change, the manifest equals the folder.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::fs;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt as _;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use common::{Setup, noise};
use types::RelPath;

/// Returns a published folder of which no file has to be read again.
async fn calm_setup(make: impl Fn(&Setup)) -> Setup {
    let mut setup = Setup::stopped();
    make(&setup);
    setup.start();
    setup.calm().await;
    setup
}

/// Same as [`calm_setup`], with a service that works on request only.
async fn calm_setup_on_request(make: impl Fn(&Setup)) -> Setup {
    let mut setup = Setup::stopped();
    setup.work_on_request_only();
    make(&setup);
    setup.start();
    setup.calm().await;
    setup
}

#[tokio::test(flavor = "multi_thread")]
async fn files_change_grow_shrink_and_go() {
    let mut setup = calm_setup(|setup| {
        setup.clock.set_file_time(1);
        for number in 0..20 {
            setup.write(&format!("d{}/f{number}", number % 3), noise(number, 100_000));
        }
    })
    .await;
    // (Stopped, so that one scan finds all changes.)
    setup.stop().await;
    setup.write("d0/f0", "other");
    let mut file = fs::File::options().append(true).open(setup.path("d1/f1")).unwrap();
    file.write_all(b"more").unwrap();
    drop(file);
    fs::File::options().write(true).open(setup.path("d2/f2")).unwrap().set_len(10).unwrap();
    fs::remove_file(setup.path("d0/f3")).unwrap();
    fs::remove_dir_all(setup.path("d1")).unwrap();
    fs::set_permissions(setup.path("d2/f5"), PermissionsExt::from_mode(0o600)).unwrap();
    setup.start();
    let second = setup.sync().await;
    // Two files were written, one got another mode; those of `d1` are gone.
    assert_eq!(setup.files_read(), 3);
    setup.check(&second);
}

/// A write within the same tick of the file system's clock would leave the stamp of a file
/// unchanged: until that tick is over, every scan reads the file.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_changed_too_recently_is_read_by_every_scan() {
    let mut setup = Setup::stopped();
    setup.work_on_request_only();
    // Without a request, the file is not read once more during the test.
    setup.tuning.settle = Duration::from_secs(1800);
    setup.write("file", "content");
    // The tick of the last change is not over for an hour.
    setup.clock.set_file_time(-1);
    setup.start();
    let first = setup.sync().await;
    let read = setup.files_read();
    for scans in 1..=3 {
        assert_eq!(setup.sync().await, first, "the content is the same");
        assert_eq!(setup.files_read(), read + scans);
    }
    // After that tick, one scan reads the file, and later scans rely on its stamp.
    setup.clock.set_file_time(1);
    for _ in 0..3 {
        assert_eq!(setup.sync().await, first);
        assert_eq!(setup.files_read(), read + 4);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renamed_directory_is_not_read_again() {
    let setup = calm_setup_on_request(|setup| {
        for number in 0..50 {
            setup.write(&format!("old/sub/f{number}"), noise(number, 70_000));
        }
        setup.write("empty dir/empty", "");
        setup.write("single", "single");
    })
    .await;
    let (read, errors) = (setup.files_read(), setup.status().error_count);
    // After and before its old place in the order of paths.
    fs::rename(setup.path("old"), setup.path("zz")).unwrap();
    setup.check(&setup.sync().await);
    fs::rename(setup.path("zz"), setup.path("aa")).unwrap();
    setup.check(&setup.sync().await);
    assert_eq!(setup.files_read(), read);
    // A rename changes the ctime of the file itself, so it is read.
    fs::rename(setup.path("single"), setup.path("another")).unwrap();
    setup.check(&setup.sync().await);
    assert_eq!(setup.files_read(), read + 1);
    assert_eq!(setup.status().error_count, errors);
    assert!(setup.manifest(&setup.sync().await).0.held.is_none(), "nothing is lost by a rename");
}

/// A program can set the mtime back, and a rename or a link changes the ctime anyway.
#[tokio::test(flavor = "multi_thread")]
async fn a_save_with_the_old_mtime_and_a_new_name_is_found_before_it_is_claimed() {
    let setup = calm_setup_on_request(|setup| {
        setup.clock.set_file_time(1);
        for name in ["renamed", "linked", "dir/inside"] {
            setup.write(name, noise(1, 5000));
        }
    })
    .await;
    let save = |name: &str, byte: u8| {
        let path = setup.path(name);
        let modified = fs::metadata(&path).unwrap().modified().unwrap();
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.write_all_at(&[byte; 4], 0).unwrap();
        file.set_modified(modified).unwrap();
    };
    save("renamed", 1);
    fs::rename(setup.path("renamed"), setup.path("renamed2")).unwrap();
    save("linked", 2);
    fs::hard_link(setup.path("linked"), setup.path("linked2")).unwrap();
    save("dir/inside", 3);
    fs::rename(setup.path("dir"), setup.path("dir2")).unwrap();
    // The manifest that answers the request has them all.
    setup.check(&setup.sync().await);
}

/// Most file systems reuse the inode of a removed file for the next new file.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_file_with_the_inode_of_an_old_one_is_read() {
    let mut setup = calm_setup(|setup| setup.write("a", noise(1, 1000))).await;
    setup.stop().await;
    let old = fs::metadata(setup.path("a")).unwrap();
    fs::remove_file(setup.path("a")).unwrap();
    // (If no inode is reused, this test proves nothing; `is_renamed` has a test of its own.)
    for number in 0..20 {
        let name = format!("b{number}");
        setup.write(&name, noise(2, 1000));
        let file = fs::File::options().write(true).open(setup.path(&name)).unwrap();
        file.set_modified(old.modified().unwrap()).unwrap();
    }
    setup.start();
    setup.check(&setup.sync().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_files_change_places() {
    let setup = calm_setup_on_request(|setup| {
        setup.write("a", noise(1, 100_000));
        setup.write("b", noise(2, 100_000));
    })
    .await;
    let read = setup.files_read();
    fs::rename(setup.path("a"), setup.path("tmp")).unwrap();
    fs::rename(setup.path("b"), setup.path("a")).unwrap();
    fs::rename(setup.path("tmp"), setup.path("b")).unwrap();
    setup.check(&setup.sync().await);
    // The renames have changed the ctimes.
    assert_eq!(setup.files_read(), read + 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_become_entries_of_another_kind() {
    let setup = calm_setup(|setup| {
        setup.write("file", "file");
        setup.write("dir/inner/deep", "deep");
        setup.write("target", "target");
        symlink("target", setup.path("link")).unwrap();
    })
    .await;
    fs::remove_file(setup.path("file")).unwrap();
    setup.write("file/now/a", "directory");
    fs::remove_dir_all(setup.path("dir")).unwrap();
    setup.write("dir", "now a file");
    fs::remove_file(setup.path("link")).unwrap();
    setup.write("link", "now a file");
    setup.check(&setup.sync().await);
    fs::remove_dir_all(setup.path("file")).unwrap();
    symlink("dir", setup.path("file")).unwrap();
    fs::remove_file(setup.path("dir")).unwrap();
    symlink("elsewhere", setup.path("dir")).unwrap();
    fs::remove_file(setup.path("link")).unwrap();
    symlink("other", setup.path("link")).unwrap();
    let last = setup.sync().await;
    setup.check(&last);
    assert_eq!(setup.names(&last), ["dir", "file", "link", "target"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_way_of_saving_is_noticed() {
    let setup = calm_setup(|setup| {
        for name in ["renamed over", "truncated", "backed up"] {
            setup.write(name, format!("{name}: before"));
        }
    })
    .await;
    for round in 0..3 {
        setup.write(".tmp", format!("renamed over: {round}"));
        fs::rename(setup.path(".tmp"), setup.path("renamed over")).unwrap();
        setup.write("truncated", format!("truncated: {round}"));
        fs::rename(setup.path("backed up"), setup.path("backed up~")).unwrap();
        setup.write("backed up", format!("backed up: {round}"));
        let published = setup.sync().await;
        setup.check(&published);
        let names = ["backed up", "backed up~", "renamed over", "truncated"];
        assert_eq!(setup.names(&published), names);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_bytes() {
    let setup = Setup::new();
    let long = "x".repeat(255);
    let names: [&[u8]; 6] = [b"new\nline", b"\xff\xfe", b"a\\b", b" ", b"-rf *", long.as_bytes()];
    for name in names {
        let dir = setup.path("dir").join(Path::new(std::ffi::OsStr::from_bytes(name)));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(Path::new(std::ffi::OsStr::from_bytes(name))), name).unwrap();
    }
    let published = setup.sync().await;
    setup.check(&published);
    let path = RelPath::new(b"dir/\xff\xfe/\xff\xfe".to_vec()).unwrap();
    assert!(setup.entries(&published).contains_key(&path));
}

#[tokio::test(flavor = "multi_thread")]
async fn pipes_and_sockets_are_recorded_and_never_opened() {
    let setup = Setup::new();
    let mode = rustix::fs::Mode::RUSR;
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, setup.path("pipe"), fifo, mode, 0).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(setup.path("socket")).unwrap();
    // Opening a pipe without a writer would block.
    setup.check(&setup.sync().await);
    assert_eq!(setup.files_read(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn attributes_and_sparse_files_are_recorded() {
    let setup = Setup::new();
    setup.write("file", "content");
    let flags = rustix::fs::XattrFlags::empty();
    let set = rustix::fs::setxattr(setup.path("file"), c"user.colour", b"blue", flags);
    let file = fs::File::create(setup.path("sparse")).unwrap();
    file.set_len(50_000_000).unwrap();
    file.write_all_at(b"in the middle", 30_000_000).unwrap();
    fs::File::create(setup.path("hole")).unwrap().set_len(2_000_000).unwrap();
    let published = setup.sync().await;
    setup.check(&published);
    let entries = setup.entries(&published);
    if set.is_ok() {
        let xattrs = &entries[&RelPath::new("file").unwrap()].metadata.xattrs;
        assert_eq!(xattrs[&b"user.colour"[..]], b"blue");
    }
    let sparse = &entries[&RelPath::new("sparse").unwrap()].kind;
    let types::EntryKind::File { cid, is_sparse: true, .. } = sparse else { panic!("{sparse:?}") };
    // A write into a hole does not affect the zeros of the former version.
    file.write_all_at(&noise(1, 3_000_000), 0).unwrap();
    let content = setup.content(*cid).unwrap();
    assert!(content.len() == 50_000_000 && content[..30_000_000].iter().all(|byte| *byte == 0));
    setup.check(&setup.calm().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_requested_block_is_the_published_one_or_none() {
    let setup = calm_setup(|setup| setup.write("file", noise(7, 50_000))).await;
    let cid = types::Cid::of(types::Codec::Raw, &noise(7, 50_000));
    assert!(setup.handle().has(&cid).unwrap());
    assert_eq!(setup.content(cid).unwrap(), noise(7, 50_000));
    let sequence = setup.status().sequence;
    setup.write("file", noise(8, 50_000));
    assert!(matches!(setup.content(cid), Err(sync::InPlaceAnswer::Changed(_))));
    // The request has reported the change: the file is scanned and published.
    setup.until("the next manifest", |status| status.sequence > sequence).await;
    let cid = types::Cid::of(types::Codec::Raw, &noise(8, 50_000));
    assert_eq!(setup.content(cid).unwrap(), noise(8, 50_000));
    let unknown = types::Cid::of(types::Codec::Raw, b"unknown");
    assert_eq!(setup.content(unknown), Err(sync::InPlaceAnswer::Missing));
}

/// The copies in the store have a limit.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_too_large_is_not_copied() {
    let mut setup = Setup::stopped();
    setup.work_on_request_only();
    setup.tuning.spool_max = 5_999_999;
    setup.write("large", noise(100, 6_000_000));
    setup.start();
    setup.calm().await;
    let chunks = |at: &str| {
        let entries = setup.entries(setup.published().last().unwrap());
        let kind = entries[&RelPath::new(at).unwrap()].kind.clone();
        let types::EntryKind::File { cid, .. } = kind else { panic!("{at}") };
        let node = setup.store.get(&cid).unwrap().unwrap();
        types::links(cid.codec(), &node).unwrap()
    };
    for round in 1..6 {
        let old = chunks("large");
        assert!(old.len() > 3);
        setup.write("large", noise(100 + round, 6_000_000));
        for chunk in old {
            setup.content(chunk).unwrap_err();
        }
        setup.check(&setup.calm().await);
    }
    assert!(!setup.store.has(&chunks("large")[0]).unwrap());
}

/// Without the copy, a file that changes before each request for it would never reach a backup
/// server, and no manifest with it would be complete.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_overwritten_before_it_was_fetched_goes_to_the_store() {
    let setup = calm_setup_on_request(|setup| setup.write("hot", noise(0, 50_000))).await;
    let cid = |round| types::Cid::of(types::Codec::Raw, &noise(round, 50_000));
    assert!(!setup.store.has(&cid(0)).unwrap());
    setup.write("hot", noise(1, 50_000));
    assert!(setup.content(cid(0)).is_err());
    setup.calm().await;
    assert!(setup.store.has(&cid(1)).unwrap());
    setup.write("hot", noise(9, 50_000));
    assert_eq!(setup.content(cid(1)).unwrap(), noise(1, 50_000));
}

/// The same if a scan has found the next version before the request.
#[tokio::test(flavor = "multi_thread")]
async fn a_former_version_that_is_requested_too_late_makes_the_file_hot() {
    let setup = calm_setup_on_request(|setup| setup.write("hot", noise(0, 50_000))).await;
    let cid = |round| types::Cid::of(types::Codec::Raw, &noise(round, 50_000));
    setup.write("hot", noise(1, 50_000));
    setup.calm().await;
    assert!(setup.content(cid(0)).is_err());
    setup.write("hot", noise(2, 50_000));
    setup.calm().await;
    assert!(!setup.store.has(&cid(1)).unwrap() && setup.store.has(&cid(2)).unwrap());
}

/// A backup server that fetches a manifest with a busy log gets the log as it was then, also
/// after the log has grown and was scanned again.
#[tokio::test(flavor = "multi_thread")]
async fn the_former_version_of_a_file_that_grew_is_still_served() {
    let setup = calm_setup_on_request(|setup| {
        setup.write("log", noise(1, 3_000_000));
        setup.write("short", "a line\n");
    })
    .await;
    let cids = |published: &types::PublishedManifest| {
        let entries = setup.entries(published);
        ["log", "short"].map(|name| match entries[&RelPath::new(name).unwrap()].kind {
            types::EntryKind::File { cid, .. } => cid,
            _ => panic!("{name}"),
        })
    };
    let first = cids(setup.published().last().unwrap());
    for _ in 0..3 {
        for name in ["log", "short"] {
            let mut file = fs::File::options().append(true).open(setup.path(name)).unwrap();
            file.write_all(b"one more line\n").unwrap();
        }
        let before = cids(setup.published().last().unwrap());
        for _ in 0..2 {
            assert!(setup.content(first[0]).unwrap() == noise(1, 3_000_000));
            assert_eq!(setup.content(first[1]).unwrap(), b"a line\n");
            setup.content(before[0]).unwrap();
            setup.content(before[1]).unwrap();
            setup.calm().await;
        }
        assert_ne!(cids(setup.published().last().unwrap()), before);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sequences_grow_by_one_and_one_change_changes_one_segment() {
    let setup = calm_setup_on_request(|setup| {
        for number in 0..5000 {
            setup.write(&format!("d{}/f{number:05}", number % 50), number.to_string());
        }
    })
    .await;
    let mut last = setup.calm().await;
    let segments = |published: &types::PublishedManifest| -> Vec<_> {
        setup.manifest(published).0.segments.iter().map(|segment| segment.cid).collect()
    };
    assert!(segments(&last).len() > 2);
    for round in 0..3 {
        setup.write("d7/f00007", format!("round {round}"));
        let next = setup.sync().await;
        assert_eq!(next.sequence_number, last.sequence_number.next().unwrap());
        let before = segments(&last);
        let new = segments(&next).iter().filter(|cid| !before.contains(cid)).count();
        assert_eq!(new, 1);
        last = next;
    }
    setup.check(&last);
    let sequences: Vec<_> = setup.published().iter().map(|one| one.sequence_number.0).collect();
    assert!(sequences.windows(2).all(|pair| pair[0] < pair[1]), "{sequences:?}");
    // Only the roots of the last two manifests are kept.
    assert_eq!(setup.store.roots("manifest/docs/").len(), 2);
}

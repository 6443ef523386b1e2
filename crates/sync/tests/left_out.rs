//! Entries that are left out by a setting, and other file systems that are backed up with a
//! folder.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::mounts::{may_mount, mount, run};
use common::{Setup, id, noise};
use sync::{FolderStatus, LeftOut, LeftOutReason};
use types::{EntryKind, PublishedManifest, RelPath};

fn path(text: &str) -> RelPath {
    RelPath::new(text).unwrap()
}

/// Returns a service that enters mounts.
fn entering() -> Setup {
    let mut setup = Setup::stopped();
    set_one_file_system(&setup, false);
    setup.work_on_request_only();
    setup
}

/// Returns the same with a file, and with a tmpfs in a directory of this name.
fn entering_mount(name: &str) -> Setup {
    let setup = entering();
    setup.write("doc", "x");
    std::fs::create_dir(setup.path(name)).unwrap();
    mount(&setup.path(name));
    setup
}

/// Applies from the next start on.
fn set_one_file_system(setup: &Setup, one_file_system: bool) {
    setup.settings.send_modify(|settings| settings.folders[0].one_file_system = one_file_system);
}

fn errors(setup: &Setup) -> Vec<(String, String)> {
    let errors = &setup.status().errors;
    errors.iter().map(|error| (error.path.to_string(), error.what.clone())).collect()
}

fn is_error(setup: &Setup, at: &str, text: &str) -> bool {
    matches!(&errors(setup)[..], [(path, what)] if path == at && what.contains(text))
}

fn left_out(setup: &Setup) -> Vec<(String, LeftOutReason)> {
    let one = |one: &LeftOut| (one.path.to_string(), one.reason.clone());
    setup.status().left_out.iter().map(one).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_is_backed_up_and_an_unmount_deletes_nothing() {
    if !may_mount("a_mount_is_backed_up_and_an_unmount_deletes_nothing") {
        return;
    }
    let mut setup = entering_mount("disk");
    setup.write("disk/photos/a", noise(1, 100_000));
    setup.write("disk/photos/b", "b");
    std::fs::hard_link(setup.path("disk/photos/b"), setup.path("disk/c")).unwrap();
    std::fs::create_dir(setup.path("disk/inner")).unwrap();
    mount(&setup.path("disk/inner"));
    setup.write("disk/inner/d", "d");
    setup.start();
    let published = setup.calm().await;
    setup.check(&published);
    assert_eq!((errors(&setup), left_out(&setup)), (vec![], vec![]));
    let entries = setup.entries(&published);
    let group = |at: &str| entries[&path(at)].metadata.hard_link;
    assert!(group("disk/c").is_some() && group("disk/c") == group("disk/photos/b"));
    for at in ["disk/photos/a", "disk/inner/d"] {
        let EntryKind::File { cid, size, .. } = entries[&path(at)].kind else { panic!("{at}") };
        if size < 10 {
            assert_eq!(setup.content(cid).unwrap(), std::fs::read(setup.path(at)).unwrap());
        }
    }
    // A change, a rename and a deletion in the mount.
    setup.write("disk/photos/b", "changed");
    std::fs::rename(setup.path("disk/photos/a"), setup.path("disk/renamed")).unwrap();
    std::fs::remove_file(setup.path("disk/inner/d")).unwrap();
    setup.write("disk/inner/e", "e");
    let published = setup.calm().await;
    setup.check(&published);
    let names = setup.names(&published);
    // Unmounted, in a full scan, in a scan by hint, and after a restart.
    run("umount", &[], &setup.path("disk/inner"));
    run("umount", &[], &setup.path("disk"));
    assert_eq!(setup.names(&setup.sync().await), names);
    assert!(is_error(&setup, "disk", "not available"), "{:?}", errors(&setup));
    setup.write("new", "by a change beside it");
    setup.restart().await;
    let published = setup.sync().await;
    assert_eq!(setup.names(&published), [&names[..], &["new".to_owned()]].concat());
    // The mount point itself is gone, as after the removal of a USB disk.
    std::fs::remove_dir(setup.path("disk")).unwrap();
    let all = setup.names(&published);
    assert_eq!(setup.names(&setup.sync().await), all);
    assert!(is_error(&setup, "disk", "not available"), "{:?}", errors(&setup));
    // Another file system is mounted there.
    std::fs::create_dir(setup.path("disk")).unwrap();
    mount(&setup.path("disk"));
    setup.write("disk/other", "of another disk");
    assert_eq!(setup.names(&setup.sync().await), all);
    assert!(is_error(&setup, "disk", "than before"), "{:?}", errors(&setup));
    // The user confirms that this disk belongs there.
    setup.handle().confirm(&id("docs")).await.unwrap();
    let published = setup.sync().await;
    assert_eq!(setup.names(&published), ["disk", "disk/other", "doc", "new"]);
    assert_eq!(errors(&setup), []);
    setup.check(&published);
}

/// Nothing but the mount itself tells of it: nothing is saved in its parent directory.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_mount_is_noticed() {
    if !may_mount("a_new_mount_is_noticed") {
        return;
    }
    for one_file_system in [false, true] {
        let mut setup = Setup::stopped();
        set_one_file_system(&setup, one_file_system);
        setup.write("doc", "d");
        std::fs::create_dir_all(setup.path("sub/ram")).unwrap();
        setup.start();
        setup.calm().await;
        mount(&setup.path("sub/ram"));
        setup.write("sub/ram/t", "t");
        if one_file_system {
            let is_listed = |status: &sync::FolderStatus| !status.left_out.is_empty();
            setup.until("the mount", is_listed).await;
        } else {
            setup.until_published("sub/ram/t", b"t").await;
            // The same place again, without files in between.
            std::fs::remove_file(setup.path("sub/ram/t")).unwrap();
            let is_empty = |_: &sync::FolderStatus| {
                setup.names(setup.published().last().unwrap()) == ["doc", "sub", "sub/ram"]
            };
            setup.until("the removal", is_empty).await;
            run("umount", &[], &setup.path("sub/ram"));
            mount(&setup.path("sub/ram"));
            setup.write("sub/ram/again", "a");
            setup.until_published("sub/ram/again", b"a").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_that_is_left_out_later_is_removed_from_the_backup() {
    if !may_mount("a_mount_that_is_left_out_later_is_removed_from_the_backup") {
        return;
    }
    let mut setup = entering_mount("ram");
    setup.write("ram/t", "t");
    setup.start();
    assert_eq!(setup.names(&setup.sync().await), ["doc", "ram", "ram/t"]);
    setup.stop().await;
    set_one_file_system(&setup, true);
    setup.start();
    assert_eq!(setup.names(&setup.sync().await), ["doc", "ram"]);
    let expected = [("ram".to_owned(), LeftOutReason::Mount("tmpfs".to_owned()))];
    assert_eq!(left_out(&setup), expected);
    assert_eq!(errors(&setup), []);
    // The list is stored.
    setup.restart().await;
    assert_eq!(left_out(&setup), expected);
    // After the unmount, the directory is an ordinary one.
    run("umount", &[], &setup.path("ram"));
    setup.write("ram/below", "b");
    assert_eq!(setup.names(&setup.sync().await), ["doc", "ram", "ram/below"]);
    assert_eq!((errors(&setup), left_out(&setup)), (vec![], vec![]));
    // A mount that hides files of the backup is entered only if the user confirms it.
    setup.stop().await;
    set_one_file_system(&setup, false);
    setup.start();
    setup.sync().await;
    mount(&setup.path("ram"));
    setup.write("ram/t", "t");
    assert_eq!(setup.names(&setup.sync().await), ["doc", "ram", "ram/below"]);
    assert!(is_error(&setup, "ram", "hides"), "{:?}", errors(&setup));
    setup.handle().confirm(&id("docs")).await.unwrap();
    assert_eq!(setup.names(&setup.sync().await), ["doc", "ram", "ram/t"]);
    assert_eq!(errors(&setup), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn proc_is_never_entered_and_a_folder_of_its_own_is_not_listed() {
    if !may_mount("proc_is_never_entered_and_a_folder_of_its_own_is_not_listed") {
        return;
    }
    let mut setup = entering();
    for name in ["proc", "own", "bound"] {
        std::fs::create_dir(setup.path(name)).unwrap();
    }
    let outside = setup.dir.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("file"), "of the same disk").unwrap();
    run("mount", &["--bind", outside.to_str().unwrap()], &setup.path("bound"));
    run("mount", &["--bind", "/proc"], &setup.path("proc"));
    mount(&setup.path("own"));
    setup.write("own/file", "x");
    let own = common::folder("own", setup.path("own"));
    setup.settings.send_modify(|settings| settings.folders.push(own));
    setup.start();
    assert_eq!(setup.names(&setup.sync().await), ["bound", "bound/file", "own", "proc"]);
    let expected = [("proc".to_owned(), LeftOutReason::Remote("proc".to_owned()))];
    assert_eq!(left_out(&setup), expected);
    // An unmounted bind mount of the same file system.
    run("umount", &[], &setup.path("bound"));
    assert_eq!(setup.names(&setup.sync().await), ["bound", "bound/file", "own", "proc"]);
    assert!(is_error(&setup, "bound", "not available"), "{:?}", errors(&setup));
    run("mount", &["--bind", outside.to_str().unwrap()], &setup.path("bound"));
    std::fs::remove_file(outside.join("file")).unwrap();
    assert_eq!(setup.names(&setup.sync().await), ["bound", "own", "proc"]);
    assert_eq!(errors(&setup), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subvolume_is_entered_and_may_be_deleted() {
    let has_tools = ["btrfs", "mkfs.btrfs"].iter().all(|tool| {
        std::process::Command::new(tool)
            .arg("--version")
            .output()
            .is_ok_and(|out| out.status.success() && rustix::process::geteuid().is_root())
    });
    if !has_tools {
        eprintln!("skipped: needs root and btrfs-progs");
        return;
    }
    if !may_mount("a_subvolume_is_entered_and_may_be_deleted") {
        return;
    }
    let mut setup = entering();
    let image = setup.dir.path().join("image");
    std::fs::File::create(&image).unwrap().set_len(120 << 20).unwrap();
    run("mkfs.btrfs", &["-q"], &image);
    run("mount", &["-o", "loop", image.to_str().unwrap()], &setup.path(""));
    let root = setup.path("");
    let subvolume = |command: &str, name: &str| {
        run("btrfs", &["-q", "subvolume", command], &root.join(name));
    };
    setup.write("doc", "x");
    // Inode 257 in both, the first that btrfs gives.
    subvolume("create", "projects");
    setup.write("projects/thesis", "t");
    setup.start();
    let published = setup.calm().await;
    assert_eq!(setup.names(&published), ["doc", "projects", "projects/thesis"]);
    setup.check(&published);
    subvolume("delete", "projects");
    assert_eq!(setup.names(&setup.sync().await), ["doc"]);
    assert_eq!(errors(&setup), []);
    subvolume("create", "projects");
    setup.write("projects/thesis", "t");
    setup.stop().await;
    set_one_file_system(&setup, true);
    setup.start();
    assert_eq!(setup.names(&setup.sync().await), ["doc", "projects"]);
    assert_eq!(left_out(&setup), [("projects".to_owned(), LeftOutReason::Subvolume)]);
    setup.stop().await;
    run("umount", &[], &setup.path(""));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tagged_directory_is_backed_up_unless_caches_are_excluded() {
    let mut setup = Setup::stopped();
    setup.work_on_request_only();
    setup.write("work/CACHEDIR.TAG", "Signature: 8a477f597d28d172789f06886806bc55\n");
    setup.write("work/thesis", "t");
    setup.start();
    let all = ["work", "work/CACHEDIR.TAG", "work/thesis"];
    assert_eq!(setup.names(&setup.sync().await), all);
    assert_eq!(left_out(&setup), []);
    setup.stop().await;
    setup.settings.send_modify(|settings| settings.folders[0].exclude_caches = true);
    setup.start();
    assert_eq!(setup.names(&setup.sync().await), ["work"]);
    assert_eq!(left_out(&setup), [("work".to_owned(), LeftOutReason::Cache)]);
    std::fs::remove_file(setup.path("work/CACHEDIR.TAG")).unwrap();
    assert_eq!(setup.names(&setup.sync().await), ["work", "work/thesis"]);
    assert_eq!(left_out(&setup), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_change_while_the_service_runs() {
    let mut setup = Setup::stopped();
    setup.settings.send_modify(|settings| settings.folders[0].exclude_caches = true);
    setup.start();
    setup.write("keep", "keep");
    setup.write("node_modules/x/y", "y");
    setup.write("a.tmp", "tmp");
    setup.write("cache/CACHEDIR.TAG", "Signature: 8a477f597d28d172789f06886806bc55\n");
    setup.write("cache/big", noise(1, 1000));
    let first = setup.sync().await;
    assert_eq!(
        setup.names(&first),
        ["a.tmp", "cache", "keep", "node_modules", "node_modules/x", "node_modules/x/y"]
    );
    setup.settings.send_modify(|settings| {
        settings.folders[0].exclude = vec!["*.tmp".into(), "node_modules/".into()];
    });
    let is_after = |status: &FolderStatus, before: &PublishedManifest| {
        status.sequence > before.sequence_number && status.pending_changes == 0
    };
    setup.until("less", |status| status.files == 1 && is_after(status, &first)).await;
    let second = setup.sync().await;
    assert_eq!(setup.names(&second), ["cache", "keep"]);
    setup.write(".archivistignore", "keep\n");
    let third = setup.sync().await;
    assert_eq!(setup.names(&third), [".archivistignore", "cache"]);
    setup.settings.send_modify(|settings| settings.folders[0].exclude.clear());
    setup.until("more", |status| status.files == 3 && is_after(status, &third)).await;
}

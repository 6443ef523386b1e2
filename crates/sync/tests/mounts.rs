//! A file system that is mounted inside a folder hides files, and does not delete them from the
//! backup.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::mounts::{may_mount, mount, run};
use common::{Setup, noise};
use types::{Cid, Codec, RelPath};

/// Causes a hint for the directory `at` and waits for the next manifest; three times, since one
/// scan may lead to another. Returns the names in the last manifest.
async fn scan_by_hint(setup: &Setup, at: &str) -> Vec<String> {
    scans_by_hint(setup, at, 3).await
}

async fn scans_by_hint(setup: &Setup, at: &str, rounds: usize) -> Vec<String> {
    for round in 0..rounds {
        let before = setup.status().sequence;
        setup.write(&format!("{at}saved"), format!("{before} {round}"));
        setup.until("a manifest", |status| status.sequence > before).await;
    }
    setup.names(setup.published().last().unwrap())
}

fn errors(setup: &Setup) -> Vec<String> {
    setup.status().errors.iter().map(|error| error.path.to_string()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_disk_hides_is_kept() {
    if !may_mount("what_a_disk_hides_is_kept") {
        return;
    }
    let mut setup = Setup::stopped();
    setup.write("pictures/photos/a", noise(1, 1000));
    setup.write("pictures/photos/2026/b", noise(2, 200_000));
    setup.write("pictures/saved", "");
    setup.start();
    setup.calm().await;
    mount(&setup.path("pictures/photos"));
    // A file of the same name on the mounted file system.
    setup.write("pictures/photos/a", "another a");
    let names = [
        "pictures",
        "pictures/photos",
        "pictures/photos/2026",
        "pictures/photos/2026/b",
        "pictures/photos/a",
        "pictures/saved",
    ];
    assert_eq!(scan_by_hint(&setup, "pictures/").await, names);
    assert_eq!(errors(&setup), ["pictures/photos"]);
    // Requests for hidden files: one path does not exist, at the other is another file.
    for (seed, len) in [(1, 1000), (2, 200_000)] {
        let entries = setup.entries(setup.published().last().unwrap());
        let at = if seed == 1 { "pictures/photos/a" } else { "pictures/photos/2026/b" };
        let types::EntryKind::File { cid, .. } = entries[&RelPath::new(at).unwrap()].kind else {
            panic!("{at}");
        };
        if cid.codec() == Codec::Raw {
            assert_eq!(cid, Cid::of(Codec::Raw, &noise(seed, len)));
        }
        setup.content(cid).unwrap_err();
        assert_eq!(scan_by_hint(&setup, "pictures/").await, names);
    }
    // A full scan and a restart change nothing.
    assert_eq!(setup.names(&setup.sync().await), names);
    setup.restart().await;
    let published = setup.sync().await;
    assert_eq!(setup.names(&published), names);
    let entries = setup.entries(&published);
    let error = |at: &str| entries[&RelPath::new(at).unwrap()].error.clone();
    assert!(error("pictures/photos").is_some_and(|what| what.contains("mounted")));
    // After the unmount, the files are found unchanged.
    run("umount", &[], &setup.path("pictures/photos"));
    assert_eq!(scan_by_hint(&setup, "pictures/").await, names);
    assert_eq!(errors(&setup), [""; 0]);
    setup.check(&setup.sync().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_mounted_on_a_new_directory_is_not_backed_up() {
    if !may_mount("a_disk_mounted_on_a_new_directory_is_not_backed_up") {
        return;
    }
    let setup = Setup::new();
    setup.write("saved", "");
    setup.sync().await;
    // The mount follows the new directory so closely that the watcher sees both together.
    let disk = setup.dir.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    mount(&disk);
    std::fs::write(disk.join("large"), "of the disk").unwrap();
    std::fs::create_dir(setup.path("new")).unwrap();
    run("mount", &["--bind", disk.to_str().unwrap()], &setup.path("new"));
    assert_eq!(scan_by_hint(&setup, "").await, ["new", "saved"]);
    assert_eq!(setup.names(&setup.sync().await), ["new", "saved"]);
    assert_eq!(errors(&setup), [""; 0]);
    // The same if a directory with rows has the same path on the mounted file system.
    run("umount", &[], &setup.path("new"));
    setup.write("new/dir/file", "ours");
    assert_eq!(scan_by_hint(&setup, "").await, ["new", "new/dir", "new/dir/file", "saved"]);
    std::fs::create_dir(disk.join("dir")).unwrap();
    std::fs::write(disk.join("dir/file"), "of the disk").unwrap();
    run("mount", &["--bind", disk.to_str().unwrap()], &setup.path("new"));
    let cid = Cid::of(Codec::Raw, b"ours");
    setup.content(cid).unwrap_err();
    let names = ["new", "new/dir", "new/dir/file", "saved"];
    assert_eq!(scan_by_hint(&setup, "").await, names);
    let entries = setup.entries(setup.published().last().unwrap());
    let kind = &entries[&RelPath::new("new/dir/file").unwrap()].kind;
    assert!(matches!(kind, types::EntryKind::File { cid: now, .. } if *now == cid), "{kind:?}");
    assert_eq!(errors(&setup), ["new"]);
    run("umount", &[], &setup.path("new"));
    setup.check(&setup.sync().await);
}

/// The names of all attributes of a file may be longer than the system can list.
#[tokio::test(flavor = "multi_thread")]
async fn the_content_is_kept_if_the_attributes_cannot_be_listed() {
    if !may_mount("the_content_is_kept_if_the_attributes_cannot_be_listed") {
        return;
    }
    let mut setup = Setup::stopped();
    mount(&setup.path(""));
    setup.write("dir/file", "the content");
    setup.write("plain", "another file");
    for path in [setup.path("dir"), setup.path("dir/file")] {
        for number in 0..400 {
            let name = format!("trusted.{}{number:04}", "long ".repeat(40));
            rustix::fs::setxattr(&path, name, b"x", rustix::fs::XattrFlags::empty()).unwrap();
        }
        let mut names = vec![0; 1 << 20];
        let listed = rustix::fs::listxattr(&path, &mut names[..]);
        assert_eq!(listed, Err(rustix::io::Errno::TOOBIG));
    }
    setup.start();
    let published = setup.sync().await;
    assert_eq!(setup.names(&published), ["dir", "dir/file", "plain"]);
    assert_eq!(errors(&setup), ["dir", "dir/file"]);
    let entries = setup.entries(&published);
    let file = &entries[&RelPath::new("dir/file").unwrap()];
    let cid = Cid::of(Codec::Raw, b"the content");
    assert!(matches!(file.kind, types::EntryKind::File { cid: found, .. } if found == cid));
    for at in ["dir", "dir/file"] {
        let what = entries[&RelPath::new(at).unwrap()].error.clone().unwrap();
        assert!(what.contains("cannot list the extended attributes"), "{what}");
    }
    // The content is not read again, but the attributes are, as soon as they can be listed.
    let published = setup.calm().await;
    let read = setup.files_read();
    assert_eq!(setup.sync().await, published);
    assert_eq!(setup.files_read(), read);
}

/// The file system of a container, or of a live system. The first write into a directory of
/// its lower layer gives the directory another birth time.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_write_to_an_overlay_is_no_alarm_and_changes_below_are_not_claimed() {
    let test = "the_first_write_to_an_overlay_is_no_alarm_and_changes_below_are_not_claimed";
    if !may_mount(test) {
        return;
    }
    let mut setup = Setup::stopped();
    let layers = setup.dir.path().join("layers");
    std::fs::create_dir(&layers).unwrap();
    mount(&layers);
    for layer in ["lower/root", "upper", "work"] {
        std::fs::create_dir_all(layers.join(layer)).unwrap();
    }
    std::fs::write(layers.join("lower/root/old"), "old").unwrap();
    let at = setup.dir.path().join("overlay");
    std::fs::create_dir(&at).unwrap();
    let layer = |name: &str| layers.join(name).display().to_string();
    let layers = format!(
        "lowerdir={},upperdir={},workdir={}",
        layer("lower"),
        layer("upper"),
        layer("work")
    );
    run("mount", &["-t", "overlay", "overlay", "-o", &layers], &at);
    let root = at.join("root");
    setup.settings.send_modify(|settings| settings.folders[0].path = root.clone());
    // Scans beside the requested ones would move the time up to which the folder is covered.
    setup.tuning.unwatched_interval = std::time::Duration::from_hours(1);
    setup.start();
    setup.calm().await;
    let status = setup.status();
    assert_eq!(
        (status.watch.mode, &status.watch.file_system[..]),
        (sync::WatchMode::Polling, "overlay")
    );
    let covered = status.covers_until.unwrap();
    std::fs::write(root.join("new"), "first write").unwrap();
    setup.until_published("new", b"first write").await;
    let status = setup.status();
    assert!(!matches!(status.state, sync::FolderState::Alarm { .. }), "{:?}", status.state);
    // The manifest has the change that was reported; others may have passed by the mount.
    assert_eq!(status.covers_until, Some(covered));
    setup.sync().await;
    assert!(setup.status().covers_until.unwrap() > covered);
}

/// The directory below a mount is not watched while it is hidden.
#[tokio::test(flavor = "multi_thread")]
async fn a_save_after_an_unmount_is_noticed() {
    if !may_mount("a_save_after_an_unmount_is_noticed") {
        return;
    }
    let setup = Setup::new();
    setup.write("saved", "");
    std::fs::create_dir(setup.path("stick")).unwrap();
    setup.sync().await;
    // The first scan that sees a mount removes the watch of the directory below it.
    for (round, scans) in [1, 3, 1].into_iter().enumerate() {
        mount(&setup.path("stick"));
        // The scan of the directory that has the mount point sees the mount.
        scans_by_hint(&setup, "", scans).await;
        run("umount", &[], &setup.path("stick"));
        let (name, content) = (format!("stick/new{round}"), format!("after unmount {round}"));
        setup.write(&name, &content);
        setup.until_published(&name, content.as_bytes()).await;
    }
}

//! The manifests of a folder: the first one, after changes, after restarts.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::Duration;

use common::{Setup, noise};
use sync::Clock as _;

fn sample(setup: &Setup) {
    setup.write("a.txt", "hello");
    setup.write("empty", "");
    setup.write("dir/b", noise(1, 200_000));
    setup.write("dir/deep/c", noise(2, 3_000_000));
    std::fs::create_dir(setup.path("empty dir")).unwrap();
    symlink("../elsewhere", setup.path("dir/link")).unwrap();
    std::fs::hard_link(setup.path("a.txt"), setup.path("dir/again")).unwrap();
    std::fs::set_permissions(setup.path("a.txt"), PermissionsExt::from_mode(0o640)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_manifest_is_the_folder() {
    let mut setup = Setup::stopped();
    sample(&setup);
    setup.start();
    let published = setup.sync().await;
    assert_eq!(published.sequence_number.0, 1);
    setup.check(&published);
    let (header, _) = setup.manifest(&published);
    assert_eq!(header.previous, None);
    assert_eq!(header.folder_name, "docs");
    assert!(header.held.is_none());
    // Without a change, nothing is published and nothing is read.
    setup.calm().await;
    let read = setup.files_read();
    assert_eq!(setup.sync().await, published);
    assert_eq!(setup.files_read(), read);
    setup.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_reads_nothing_and_publishes_the_same_again() {
    let mut setup = Setup::stopped();
    sample(&setup);
    setup.start();
    let first = setup.calm().await;
    setup.restart().await;
    assert_eq!(setup.published(), [first.clone(), first.clone()]);
    assert_eq!(setup.sync().await, first);
    assert_eq!(setup.files_read(), 0);
    setup.check(&first);
    // Changes while the service is stopped are found.
    setup.stop().await;
    setup.write("a.txt", "hello again");
    setup.write("new", "new");
    std::fs::remove_dir_all(setup.path("dir/deep")).unwrap();
    setup.start();
    let second = setup.sync().await;
    assert_eq!(second.sequence_number.0, 2);
    setup.check(&second);
    let (header, _) = setup.manifest(&second);
    assert_eq!(header.previous, Some(first.manifest_cid));
    assert_eq!(header.stats.deleted_files, 2);
    setup.stop().await;
}

/// After a crash of the computer, the content of a file may be newer than its time stamps.
#[tokio::test(flavor = "multi_thread")]
async fn files_that_were_changed_shortly_before_a_crash_of_the_computer_are_read_again() {
    let mut setup = Setup::stopped();
    setup.work_on_request_only();
    sample(&setup);
    // The clock of the file system has ticked since.
    setup.clock.set_file_time(1);
    setup.start();
    let first = setup.sync().await;
    let index = setup.dir.path().join("data/sync/index.redb");
    let at_the_crash = std::fs::read(&index).unwrap();
    setup.stop().await;
    for (boot, is_crash) in [(1, true), (2, true), (3, false)] {
        if is_crash {
            std::fs::write(&index, &at_the_crash).unwrap();
        }
        setup.boot = boot;
        setup.start();
        assert_eq!(setup.sync().await, first);
        // A crash of the instance alone changes nothing, nor does an end before the reboot.
        let is_any_read = setup.files_read() > 0;
        assert_eq!(is_any_read, boot == 2, "{}", setup.files_read());
        setup.stop().await;
    }
}

/// `covers_until` covers only changes in the last manifest, not changes that were found later
/// or not yet.
#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_covers_what_was_saved_before_its_scan() {
    let mut setup = Setup::stopped();
    sample(&setup);
    setup.tuning.publish_interval_max = Duration::from_hours(1);
    setup.settings.send_modify(|settings| {
        settings.manifest_max_delay = Duration::from_hours(1);
        settings.manifest_update_threshold = 1000;
    });
    let begun = setup.clock.now();
    setup.start();
    setup.calm().await;
    let first = setup.status();
    assert!(first.covers_until >= Some(begun), "{first:?}");
    assert!(first.covers_until < Some(setup.clock.now()));
    // Found after a hint, and in no manifest.
    setup.clock.advance_hours(1);
    let saved = setup.clock.now();
    setup.write("a.txt", "changed");
    // (Two changes, if a scan runs between the two steps of the write.)
    setup.until("the change", |status| status.pending_changes > 0).await;
    let waiting = setup.status();
    assert!(waiting.covers_until.is_some() && waiting.covers_until < Some(saved), "{waiting:?}");
    setup.sync().await;
    assert!(setup.status().covers_until >= Some(saved));
    // Before the first scan since the start, nothing is covered.
    setup.stop().await;
    setup.write("a.txt", "changed while it was off");
    let id = common::id("docs");
    setup.settings.send_modify(|settings| settings.folders[0].paused = true);
    setup.start();
    assert_eq!(setup.handle().folder(&id).unwrap().covers_until, None);
    setup.stop().await;
}

/// If some directories are not watched, only a full scan covers them.
#[tokio::test(flavor = "multi_thread")]
async fn a_hint_covers_the_rest_only_if_everything_is_watched() {
    for (limit, is_covered) in [(None, true), (Some(1), false)] {
        let mut setup = Setup::stopped();
        sample(&setup);
        setup.tuning.watch_limit = limit;
        setup.tuning.unwatched_interval = Duration::from_hours(1);
        setup.start();
        let before = setup.calm().await;
        setup.clock.advance_hours(1);
        let saved = setup.clock.now();
        setup.write("a.txt", "changed");
        setup.until("the manifest", |now| now.sequence > before.sequence_number).await;
        setup.until("the rest", |now| now.pending_changes == 0).await;
        let status = setup.status();
        let half = jiff::SignedDuration::from_mins(30);
        assert_eq!(
            status.covers_until > Some(saved.checked_sub(half).unwrap()),
            is_covered,
            "{status:?}"
        );
        setup.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_with_a_status_accepts_requests() {
    let mut setup = Setup::new();
    let (handle, runtime) = (setup.handle(), tokio::runtime::Handle::current());
    let path = setup.dir.path().join("added");
    std::fs::create_dir(&path).unwrap();
    for number in 0..300 {
        let added = common::folder(&format!("folder{number}"), path.clone());
        let request = || {
            let (handle, runtime, id) = (handle.clone(), runtime.clone(), added.id.clone());
            // A paused folder answers immediately.
            std::thread::spawn(move || {
                while handle.folder(&id).is_none() {
                    std::thread::yield_now();
                }
                runtime.block_on(handle.scan_now(&id))
            })
        };
        // More threads than cores: the thread that adds the folder may be interrupted at any
        // point.
        let requests: Vec<_> = (0..8).map(|_| request()).collect();
        setup.settings.send_modify(|settings| {
            settings.folders.truncate(1);
            settings.folders.push(sync::FolderSettings { paused: true, ..added });
        });
        for request in requests {
            let answer =
                tokio::task::spawn_blocking(move || request.join().unwrap()).await.unwrap();
            assert!(matches!(answer, Err(sync::SyncError::Paused(_))), "{number}: {answer:?}");
        }
    }
    setup.stop().await;
}

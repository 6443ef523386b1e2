//! A folder becomes manifests: first, after changes, after restarts.

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
    // Nothing has changed: nothing is published, and nothing is read.
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
    // What changes while it is off is found.
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

/// What is said to be covered is in the last manifest: never what was only
/// found, or saved since.
#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_covers_what_was_there_when_the_look_began() {
    let mut setup = Setup::stopped();
    sample(&setup);
    setup.tuning.unrest_max = Duration::from_hours(1);
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
    // Found by the watcher, and in no manifest.
    setup.clock.advance_hours(1);
    let saved = setup.clock.now();
    setup.write("a.txt", "changed");
    // (Two, if it is found between its two steps: it is cut off, then written.)
    setup.until("the change", |status| status.pending_changes > 0).await;
    let waiting = setup.status();
    assert!(waiting.covers_until.is_some() && waiting.covers_until < Some(saved), "{waiting:?}");
    setup.sync().await;
    assert!(setup.status().covers_until >= Some(saved));
    // What nobody has looked at since the start is not covered.
    setup.stop().await;
    setup.write("a.txt", "changed while it was off");
    let id = common::id("docs");
    setup.settings.send_modify(|settings| settings.folders[0].paused = true);
    setup.start();
    assert_eq!(setup.handle().folder(&id).unwrap().covers_until, None);
    setup.stop().await;
}

/// Where not everything is watched, only a look at everything counts.
#[tokio::test(flavor = "multi_thread")]
async fn a_hint_covers_the_rest_only_where_all_is_watched() {
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
async fn a_folder_that_is_shown_can_be_asked_for() {
    let mut setup = Setup::new();
    let (handle, runtime) = (setup.handle(), tokio::runtime::Handle::current());
    let path = setup.dir.path().join("added");
    std::fs::create_dir(&path).unwrap();
    for number in 0..300 {
        let added = common::folder(&format!("folder{number}"), path.clone());
        let ask = || {
            let (handle, runtime, id) = (handle.clone(), runtime.clone(), added.id.clone());
            // Paused, it answers at once, one way or the other.
            std::thread::spawn(move || {
                while handle.folder(&id).is_none() {
                    std::thread::yield_now();
                }
                runtime.block_on(handle.scan_now(&id))
            })
        };
        // More of them than cores: whoever adds it may lose its core at any point.
        let asking: Vec<_> = (0..8).map(|_| ask()).collect();
        setup.settings.send_modify(|settings| {
            settings.folders.truncate(1);
            settings.folders.push(sync::FolderSettings { paused: true, ..added });
        });
        for asked in asking {
            let answer = tokio::task::spawn_blocking(move || asked.join().unwrap()).await.unwrap();
            assert!(matches!(answer, Err(sync::SyncError::Paused(_))), "{number}: {answer:?}");
        }
    }
    setup.stop().await;
}

//! Failures are reported, keep the last readable content, and never become deletions.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use common::{Setup, folder, id, noise};
use sync::{AlarmKind, FolderState, FolderStatus, SyncError};
use types::RelPath;

fn path(text: &str) -> RelPath {
    RelPath::new(text).unwrap()
}

fn chmod(path: impl AsRef<std::path::Path>, mode: u32) {
    fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

fn alarm(state: &FolderState) -> Option<AlarmKind> {
    match state {
        FolderState::Alarm { kind, .. } => Some(*kind),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_that_goes_is_an_alarm_and_no_deletion() {
    let setup = Setup::new();
    setup.write("a", "a");
    let first = setup.sync().await;
    let published = setup.published();
    fs::rename(setup.path(""), setup.dir.path().join("away")).unwrap();
    let error = setup.handle().scan_now(&id("docs")).await.unwrap_err();
    assert!(matches!(error, SyncError::Alarm { .. }), "{error:?}");
    assert_eq!(alarm(&setup.status().state), Some(AlarmKind::RootGone));
    let error = setup.handle().confirm(&id("docs")).await.unwrap_err();
    assert!(matches!(error, SyncError::Alarm { .. }), "{error:?}");
    // The root comes back, and the alarm ends automatically.
    fs::rename(setup.dir.path().join("away"), setup.path("")).unwrap();
    setup.until("the end of the alarm", |status| alarm(&status.state).is_none()).await;
    assert_eq!(setup.sync().await, first);
    assert_eq!(setup.published(), published);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_root_is_an_alarm_until_it_is_confirmed() {
    let mut setup = Setup::new();
    setup.write("dir/a", "a");
    let first = setup.sync().await;
    fs::remove_dir_all(setup.path("dir")).unwrap();
    setup.handle().scan_now(&id("docs")).await.unwrap_err();
    assert_eq!(alarm(&setup.status().state), Some(AlarmKind::RootEmpty));
    // The alarm survives a restart.
    setup.restart().await;
    setup.handle().scan_now(&id("docs")).await.unwrap_err();
    assert_eq!(setup.status().sequence, first.sequence_number);
    setup.handle().confirm(&id("docs")).await.unwrap();
    assert_eq!(setup.status().state, FolderState::Idle);
    let second = setup.sync().await;
    assert_eq!(second.file_count, 0);
    setup.check(&second);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_root_is_an_alarm_until_it_is_confirmed() {
    let setup = Setup::new();
    setup.write("a", "a");
    let first = setup.sync().await;
    fs::rename(setup.path(""), setup.dir.path().join("away")).unwrap();
    fs::create_dir(setup.path("")).unwrap();
    setup.write("b", "another disk");
    setup.handle().scan_now(&id("docs")).await.unwrap_err();
    assert_eq!(alarm(&setup.status().state), Some(AlarmKind::RootReplaced));
    assert_eq!(setup.status().sequence, first.sequence_number);
    setup.handle().confirm(&id("docs")).await.unwrap();
    let second = setup.sync().await;
    assert_eq!(setup.names(&second), ["b"]);
    setup.check(&second);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_deletion_of_most_files_awaits_confirmation() {
    let mut setup = Setup::stopped();
    for number in 0..120 {
        setup.write(&format!("f{number}"), number.to_string());
    }
    setup.start();
    let first = setup.calm().await;
    // (Stopped, so that one scan finds all changes.)
    setup.stop().await;
    for number in 0..50 {
        fs::remove_file(setup.path(format!("f{number}"))).unwrap();
    }
    setup.start();
    // Less than half of the files.
    assert!(setup.manifest(&setup.sync().await).0.held.is_none());
    setup.stop().await;
    for number in 50..80 {
        setup.write(&format!("f{number}"), "encrypted");
    }
    for number in 80..110 {
        fs::remove_file(setup.path(format!("f{number}"))).unwrap();
    }
    setup.start();
    let held = setup.sync().await;
    setup.check(&held);
    assert!(setup.manifest(&held).0.held.is_some());
    assert!(setup.status().awaiting_confirmation.is_some());
    // Later manifests are marked, too, even after a restart.
    setup.restart().await;
    setup.write("f119", "a small change");
    let held = setup.sync().await;
    assert!(setup.manifest(&held).0.held.is_some());
    setup.handle().confirm(&id("docs")).await.unwrap();
    assert!(setup.status().awaiting_confirmation.is_none());
    let last = setup.sync().await;
    assert!(setup.manifest(&last).0.held.is_none());
    assert!(last.sequence_number.0 > held.sequence_number.0 && first.sequence_number.0 == 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn losses_over_a_day_are_added_up() {
    let setup = Setup::new();
    for number in 0..100 {
        setup.write(&format!("f{number}"), number.to_string());
    }
    setup.calm().await;
    setup.clock.advance_hours(30);
    let mut held = None;
    for number in 0..70 {
        setup.write(&format!("f{number}"), "encrypted");
        if number % 5 == 4 {
            let published = setup.sync().await;
            held = setup.manifest(&published).0.held;
            assert_eq!(held.is_some(), number >= 50, "{number}: {held:?}");
        }
    }
    assert!(held.is_some());
}

/// Starts a service whose threads respect permissions, even if root runs the tests.
fn start_without_privileges(setup: &mut Setup) {
    use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut sets = capabilities(None).unwrap();
            sets.effective.remove(CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH);
            set_capabilities(None, sets).unwrap();
            setup.start();
        });
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreadable_file_or_directory_keeps_its_last_readable_content() {
    let mut setup = Setup::stopped();
    setup.work_on_request_only();
    start_without_privileges(&mut setup);
    setup.write("dir/inner/a", "a");
    setup.write("file", "good");
    setup.calm().await;
    setup.write("file", "better");
    chmod(setup.path("file"), 0);
    chmod(setup.path("dir"), 0);
    let published = setup.sync().await;
    let names = setup.names(&published);
    assert_eq!(names, ["dir", "dir/inner", "dir/inner/a", "file"]);
    assert_eq!(setup.status().error_count, 2, "{:?}", setup.status().errors);
    assert_eq!(setup.handle().errors(&id("docs")).unwrap().len(), 2);
    let entries = setup.entries(&published);
    assert!(entries[&path("file")].error.is_some() && entries[&path("dir")].error.is_some());
    // A new unreadable file is on the error list and in no manifest, until it is removed.
    setup.write("new", "x");
    chmod(setup.path("new"), 0);
    assert_eq!(setup.names(&setup.sync().await), names);
    assert_eq!(setup.status().error_count, 3);
    fs::remove_file(setup.path("new")).unwrap();
    chmod(setup.path("file"), 0o644);
    chmod(setup.path("dir"), 0o755);
    setup.check(&setup.sync().await);
    assert_eq!(setup.status().error_count, 0);
}

/// The unpublished content of a file is lost, and the file cannot be read again: all other files
/// are still published.
/// A scan of the directory above finds the same name, and does not list the directory.
#[tokio::test(flavor = "multi_thread")]
async fn an_unreadable_directory_stays_on_the_error_list_while_it_is_unreadable() {
    let mut setup = Setup::stopped();
    setup.write("private/file", "content");
    chmod(setup.path("private"), 0);
    start_without_privileges(&mut setup);
    setup.calm().await;
    let errors = |status: &FolderStatus| {
        status.errors.iter().map(|error| error.path.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(errors(&setup.status()), ["private"]);
    let since = setup.status().errors[0].since;
    for round in 0..3 {
        let before = setup.status().sequence;
        setup.write("saved", format!("round {round}"));
        setup.until("a manifest", |status| status.sequence > before).await;
        assert_eq!(errors(&setup.status()), ["private"], "round {round}");
    }
    assert_eq!(setup.status().errors[0].since, since);
    // The event of the new mode is one for the directory above, too.
    chmod(setup.path("private"), 0o755);
    setup.until("the end of the error", |status| status.error_count == 0).await;
    setup.until_published("private/file", b"content").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_content_that_cannot_be_read_again_stops_nothing() {
    use store::{Call, FaultyStore, GcOptions, MemStore, StoreAdmin as _, StoreError};
    let store = std::sync::Arc::new(FaultyStore::new(std::sync::Arc::new(MemStore::new())));
    let mut setup = Setup::on(store.clone());
    setup.work_on_request_only();
    setup.start();
    setup.write("a", noise(1, 500_000));
    setup.sync().await;
    setup.write("b", noise(2, 500_000));
    store.fail(Call::SetRoot, 0, || StoreError::Injected("a fault"));
    setup.handle().scan_now(&id("docs")).await.unwrap_err();
    setup.stop().await;
    assert!(store.gc(GcOptions::EVERYTHING).unwrap().deleted_blocks > 0);
    chmod(setup.path("b"), 0);
    start_without_privileges(&mut setup);
    setup.write("c", "c");
    assert_eq!(setup.names(&setup.sync().await), ["a", "c"]);
    let errors = setup.status().errors.clone();
    assert!(errors.len() == 1 && errors[0].path == path("b"), "{errors:?}");
    assert_eq!(setup.names(&setup.sync().await), ["a", "c"]);
    assert_eq!(setup.status().error_count, 1);
    chmod(setup.path("b"), 0o644);
    setup.check(&setup.sync().await);
    assert_eq!(setup.status().error_count, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreadable_ignore_file_causes_one_full_scan() {
    let mut setup = Setup::stopped();
    start_without_privileges(&mut setup);
    for number in 0..300 {
        setup.write(&format!("d{}/{number}", number % 10), "");
    }
    setup.write(".archivistignore", "d0/");
    chmod(setup.path(".archivistignore"), 0);
    setup.calm().await;
    for round in 0..3 {
        let before = setup.status().sequence;
        setup.write("saved", format!("round {round}"));
        setup.until("a manifest", |status| status.sequence > before).await;
        let entries = setup.status().progress.entries;
        assert!(entries < 50, "round {round}: {entries} entries were scanned");
    }
    // The error of a new file ends when the file is removed, without a full scan.
    assert_eq!(setup.status().error_count, 1);
    setup.write("d1/new", "x");
    chmod(setup.path("d1/new"), 0);
    setup.until("the error", |status| status.error_count == 2).await;
    fs::remove_file(setup.path("d1/new")).unwrap();
    setup.until("its end", |status| status.error_count == 1).await;
    chmod(setup.path(".archivistignore"), 0o644);
    setup.until("the rules", |status| status.error_count == 0 && status.files == 272).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn folders_come_go_pause_and_are_forgotten() {
    let setup = Setup::new();
    setup.write("a", "a");
    let first = setup.sync().await;
    let other = setup.dir.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("b"), "b").unwrap();
    setup.settings.send_modify(|settings| settings.folders.push(folder("other", other.clone())));
    let end = std::time::Instant::now() + Duration::from_secs(30);
    while setup.handle().folder(&id("other")).is_none() {
        assert!(std::time::Instant::now() < end);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let published = setup.handle().scan_now(&id("other")).await.unwrap();
    setup.check_tree(&published, &other, &[]);
    assert_eq!(published.sequence_number.0, 1);
    let error = setup.handle().forget(&id("other")).unwrap_err();
    assert!(matches!(error, SyncError::StillConfigured(_)));
    setup.settings.send_modify(|settings| settings.folders[0].paused = true);
    setup.until("the pause", |status| status.state == FolderState::Paused).await;
    let error = setup.handle().scan_now(&id("docs")).await.unwrap_err();
    assert!(matches!(error, SyncError::Paused(_)));
    setup.write("while paused", "x");
    setup.settings.send_modify(|settings| {
        settings.folders[0].paused = false;
        settings.folders.pop();
    });
    setup.until("the change", |status| status.sequence > first.sequence_number).await;
    while setup.handle().folder(&id("other")).is_some() {
        assert!(std::time::Instant::now() < end);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(*setup.recorder.1.lock(), [id("other")]);
    assert!(!setup.store.roots("manifest/other/").is_empty());
    setup.handle().forget(&id("other")).unwrap();
    assert!(setup.store.roots("manifest/other/").is_empty());
    let error = setup.handle().scan_now(&id("other")).await.unwrap_err();
    assert!(matches!(error, SyncError::UnknownFolder(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_name_of_the_folder_is_published() {
    let setup = Setup::new();
    setup.write("a", "a");
    let first = setup.sync().await;
    setup.settings.send_modify(|settings| settings.folders[0].name = "Papers".to_owned());
    setup.until("the name", |status| status.sequence > first.sequence_number).await;
    assert_eq!(setup.sync().await.folder_name, "Papers");
    let (header, _) = setup.manifest(&setup.sync().await);
    assert_eq!(header.folder_name, "Papers");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_pattern_is_named_and_nothing_is_published() {
    let setup = Setup::new();
    setup.write("a", "a");
    let first = setup.sync().await;
    setup.settings.send_modify(|settings| settings.folders[0].exclude = vec!["a[".to_owned()]);
    setup.until("the error", |status| matches!(status.state, FolderState::Error { .. })).await;
    let error = setup.handle().scan_now(&id("docs")).await.unwrap_err();
    assert!(matches!(error, SyncError::Refused { .. }), "{error:?}");
    assert_eq!(setup.status().sequence, first.sequence_number);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_directories_of_the_instance_are_excluded() {
    let mut setup = Setup::stopped();
    // The folder is the directory that the data is in.
    let root = setup.dir.path().to_owned();
    setup.settings.send_modify(|settings| settings.folders[0].path.clone_from(&root));
    setup.write("a", "a");
    setup.start();
    let published = setup.sync().await;
    assert_eq!(setup.names(&published), ["docs", "docs/a"]);
    assert_eq!(setup.calm().await.sequence_number.0, published.sequence_number.0);
    // The data directory itself cannot be a folder.
    let data = root.join("data");
    setup.settings.send_modify(|settings| {
        settings.folders = vec![folder("own", data.join("sync"))];
    });
    let end = std::time::Instant::now() + Duration::from_secs(30);
    let is_refused = || {
        let status = setup.handle().folder(&id("own"));
        status.is_some_and(|status| matches!(status.state, FolderState::Error { .. }))
    };
    while !is_refused() {
        assert!(std::time::Instant::now() < end);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(setup.handle().scan_now(&id("own")).await.is_err());
    setup.stop().await;
}

/// The snapshot that is confirmed for every folder.
#[derive(Debug, Default)]
struct Confirmed(parking_lot::Mutex<Option<sync::Receipt>>);

impl sync::Confirmations for Confirmed {
    fn newest(&self, _: &types::FolderId) -> Option<sync::Receipt> {
        *self.0.lock()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_shows_what_is_confirmed_and_nothing_else() {
    let mut setup = Setup::stopped();
    let confirmed = std::sync::Arc::new(Confirmed::default());
    let options = sync::SyncOptions { confirmations: confirmed.clone(), ..setup.options() };
    setup.service = Some(sync::SyncService::start(options).unwrap());
    setup.write("a", "a");
    let first = setup.sync().await;
    assert_eq!(setup.status().receipt, None);
    let receipt = sync::Receipt {
        sequence: first.sequence_number,
        manifest_cid: first.manifest_cid,
        at: "2026-11-22T10:30:00Z".parse().unwrap(),
    };
    let show = |receipt| {
        *confirmed.0.lock() = Some(receipt);
        setup.handle().receipt_changed(&id("docs"));
        setup.handle().receipt_changed(&id("none"));
        setup.status().receipt
    };
    assert_eq!(show(receipt), Some(receipt));
    // Another manifest with this number, or one that was not published, is not confirmed.
    let other = types::Cid::of(types::Codec::DagCbor, b"other");
    assert_eq!(show(sync::Receipt { manifest_cid: other, ..receipt }), None);
    let next = first.sequence_number.next().unwrap();
    assert_eq!(show(sync::Receipt { sequence: next, manifest_cid: other, ..receipt }), None);
    // A later manifest leaves the earlier one confirmed.
    assert_eq!(show(receipt), Some(receipt));
    setup.write("b", "b");
    setup.sync().await;
    assert_eq!(setup.status().receipt, Some(receipt));
    setup.stop().await;
}

/// A publisher that panics at the second manifest.
#[derive(Debug, Default)]
struct Panicking(std::sync::atomic::AtomicU64);

impl sync::Publisher for Panicking {
    fn publish(&self, _: types::PublishedManifest) {
        let before = self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        assert!(before == 0, "the publisher fails");
    }

    fn withdraw(&self, _: &types::FolderId) {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_of_a_folders_thread_is_reported() {
    let setup = Setup::stopped();
    setup.write("a", "a");
    let options = sync::SyncOptions {
        publisher: std::sync::Arc::new(Panicking::default()),
        ..setup.options()
    };
    let service = sync::SyncService::start(options).unwrap();
    let failed = service.failed();
    service.handle().scan_now(&id("docs")).await.unwrap();
    setup.write("a", "b");
    let error = service.handle().scan_now(&id("docs")).await.unwrap_err();
    assert!(matches!(error, SyncError::Stopped), "{error:?}");
    match failed.await {
        SyncError::Panicked { folder, text } => {
            assert_eq!(folder, id("docs"));
            assert!(text.contains("the publisher fails"), "{text}");
        }
        error => panic!("{error:?}"),
    }
    // A later request ends with an error instead of waiting.
    let error = service.handle().scan_now(&id("docs")).await.unwrap_err();
    assert!(matches!(error, SyncError::Stopped), "{error:?}");
    service.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_cannot_be_forgotten_while_it_is_added() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let setup = Setup::new();
    setup.write("a", "a");
    setup.sync().await;
    let (handle, is_over) = (setup.handle(), std::sync::Arc::new(AtomicBool::new(false)));
    let (of_thread, over) = (handle.clone(), is_over.clone());
    let forgetting = std::thread::spawn(move || {
        while !over.load(Ordering::Relaxed) {
            let _ = of_thread.forget(&id("docs"));
        }
    });
    let docs = setup.settings.borrow().folders.clone();
    let end = std::time::Instant::now() + Duration::from_secs(60);
    let mut scanned = Ok(());
    for _ in 0..40 {
        setup.settings.send_modify(|settings| settings.folders.clear());
        while handle.folder(&id("docs")).is_some() && std::time::Instant::now() < end {
            tokio::task::yield_now().await;
        }
        setup.settings.send_modify(|settings| settings.folders.clone_from(&docs));
        let is_there = || matches!(handle.forget(&id("docs")), Err(SyncError::StillConfigured(_)));
        while !is_there() && std::time::Instant::now() < end {
            tokio::task::yield_now().await;
        }
        scanned = handle.scan_now(&id("docs")).await.map(|_| ());
        if scanned.is_err() {
            break;
        }
    }
    is_over.store(true, Ordering::Relaxed);
    forgetting.join().unwrap();
    scanned.unwrap();
}

/// A publisher that blocks while the test wants it to.
#[derive(Debug, Default)]
struct Hanging {
    hangs: parking_lot::Mutex<bool>,
    is_hanging: std::sync::atomic::AtomicBool,
    changed: parking_lot::Condvar,
    published: parking_lot::Mutex<Vec<types::FolderId>>,
    withdrawn: parking_lot::Mutex<Vec<types::FolderId>>,
}

impl Hanging {
    fn set(&self, hangs: bool) {
        *self.hangs.lock() = hangs;
        self.changed.notify_all();
    }
}

impl sync::Publisher for Hanging {
    fn publish(&self, published: types::PublishedManifest) {
        if published.folder_id == id("docs") {
            let mut hangs = self.hangs.lock();
            self.changed.wait_while(&mut hangs, |hangs| {
                self.is_hanging.store(*hangs, std::sync::atomic::Ordering::Release);
                *hangs
            });
        }
        self.published.lock().push(published.folder_id);
    }

    fn withdraw(&self, folder: &types::FolderId) {
        self.withdrawn.lock().push(folder.clone());
    }
}

/// The publisher blocks like a file system that does not answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_hangs_delays_no_other_folder_and_no_shutdown() {
    let setup = Setup::stopped();
    setup.write("a", "a");
    let other = setup.dir.path().join("other");
    fs::create_dir(&other).unwrap();
    let publisher = std::sync::Arc::new(Hanging::default());
    let options = sync::SyncOptions { publisher: publisher.clone(), ..setup.options() };
    let service = sync::SyncService::start(options).unwrap();
    let handle = service.handle();
    handle.scan_now(&id("docs")).await.unwrap();
    publisher.set(true);
    setup.write("a", "b");
    let until = async |what: &str, is_so: &dyn Fn() -> bool| {
        let end = std::time::Instant::now() + Duration::from_secs(30);
        while !is_so() {
            assert!(std::time::Instant::now() < end, "{what} has not come");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let is_hanging = || publisher.is_hanging.load(std::sync::atomic::Ordering::Acquire);
    until("the manifest", &is_hanging).await;
    let docs = setup.settings.borrow().folders[0].clone();
    setup.settings.send_modify(|settings| settings.folders = vec![folder("other", other)]);
    until("the other folder", &|| publisher.published.lock().contains(&id("other"))).await;
    // Its thread still exists, so the folder is neither forgotten nor started a second time.
    let error = handle.forget(&id("docs")).unwrap_err();
    assert!(matches!(error, SyncError::StillConfigured(_)), "{error:?}");
    setup.settings.send_modify(|settings| settings.folders.push(docs.clone()));
    setup.settings.send_modify(|settings| settings.folders[0].name = "Other".to_owned());
    let name = || handle.folder(&id("other")).map(|status| status.name.clone());
    until("the name", &|| name().as_deref() == Some("Other")).await;
    assert!(publisher.withdrawn.lock().is_empty());
    // When the thread continues, it ends, and the folder is started again as configured.
    publisher.set(false);
    until("the end", &|| *publisher.withdrawn.lock() == [id("docs")]).await;
    until("the folder", &|| handle.folder(&id("docs")).is_some()).await;
    handle.scan_now(&id("docs")).await.unwrap();
    // The shutdown does not wait for it either.
    publisher.set(true);
    setup.write("a", "c");
    until("the manifest", &is_hanging).await;
    tokio::time::timeout(Duration::from_secs(30), service.shutdown()).await.unwrap();
    publisher.set(false);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_services_cannot_share_one_state() {
    let setup = Setup::new();
    let error = sync::SyncService::start(setup.options()).unwrap_err();
    assert!(matches!(error, SyncError::Locked(_)), "{error:?}");
}

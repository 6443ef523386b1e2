//! The process dies, the power is cut, the disk fails: at every moment. Manifests that a backup
//! server may have seen stay valid, and the next manifest equals the folder.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use common::{Setup, id, noise};
use disk::Disk;
use disk::sim::{Fault, Power, SimDisk};
use store::{Call, FaultyStore, MemStore, PackStore, StoreError, StoreOptions};
use sync::SyncService;
use types::{Cid, PublishedManifest, SequenceNumber};

fn pack_store(disk: &SimDisk) -> Result<Arc<PackStore>, StoreError> {
    let options = StoreOptions {
        disk_reserve: 0,
        pack_len: 1 << 20,
        background: false,
        ..StoreOptions::default()
    };
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    Ok(Arc::new(PackStore::open_on(disk, Path::new("/store"), &options)?.0))
}

/// Starts a service whose state and store are on `disk`; the folder is on a real disk. Returns
/// false if the service does not start.
fn start(setup: &mut Setup, disk: &SimDisk) -> bool {
    let Ok(store) = pack_store(disk) else { return false };
    setup.store = store;
    let mut options = setup.options();
    options.disk = Arc::new(disk.clone());
    options.data_dir = "/data".into();
    match SyncService::start(options) {
        Ok(service) => {
            setup.service = Some(service);
            true
        }
        Err(_) => false,
    }
}

/// Changes the folder, differently in each step.
fn change(setup: &Setup, step: u32) {
    match step {
        0 => {
            setup.write("small", "small");
            setup.write("d/large", noise(1, 400_000));
        }
        1 => {
            setup.write("small", "changed");
            setup.write("d/new", noise(2, 300_000));
        }
        _ => {
            std::fs::rename(setup.path("d"), setup.path("e")).unwrap();
            std::fs::remove_file(setup.path("small")).unwrap();
        }
    }
}

const STEPS: u32 = 3;

/// Checks that no sequence number was used for two manifests.
fn check_numbers(seen: &mut BTreeMap<SequenceNumber, Cid>, published: &[PublishedManifest]) {
    for one in published {
        let before = seen.insert(one.sequence_number, one.manifest_cid);
        assert!(
            before.is_none_or(|before| before == one.manifest_cid),
            "two manifests under {}",
            one.sequence_number
        );
    }
}

async fn die_at(at: u64, power: Power) -> bool {
    let mut setup = Setup::stopped();
    setup.tuning.hash_threads = 1;
    let disk = SimDisk::new();
    disk.set_fault(at, Fault::Die);
    let mut seen = BTreeMap::new();
    if start(&mut setup, &disk) {
        for step in 0..STEPS {
            change(&setup, step);
            if setup.handle().scan_now(&id("docs")).await.is_err() {
                break;
            }
        }
        setup.stop().await;
    }
    let has_died = disk.is_dead();
    check_numbers(&mut seen, &setup.published());
    let last = seen.keys().next_back().copied();
    let image = disk.crash(power);
    setup.recorder.0.lock().clear();
    assert!(
        start(&mut setup, &image),
        "the service does not start after a crash at {at}, {power:?}"
    );
    let published = setup.sync().await;
    setup.check(&published);
    check_numbers(&mut seen, &setup.published());
    assert!(Some(published.sequence_number) >= last, "{at}, {power:?}: the numbers went back");
    // The roots of old manifests are removed.
    let roots = setup.store.roots("manifest/docs/");
    assert!(roots.len() <= 2, "{at}: {roots:?}");
    setup.stop().await;
    has_died
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_moment_is_survived() {
    let powers = [Power::Kept, Power::Dropped, Power::Torn, Power::Reordered(7)];
    let mut at = 0;
    // Every third operation, with the kinds of crash in turn.
    while die_at(at, powers[usize::try_from(at / 3 % 4).unwrap()]).await {
        at += 3;
    }
    assert!(at > 60, "only {at} moments");
}

/// Rows are written while threads add locations of blocks. No row may become durable before the
/// locations that it needs.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_while_several_threads_read_loses_no_location() {
    const FILES: u64 = 400;
    let mut at = 5;
    let mut moments = 0;
    loop {
        let mut setup = Setup::stopped();
        (setup.tuning.hash_threads, setup.tuning.batch_rows) = (4, 64);
        // Manifests are made during the scan, too.
        setup.tuning.first_scan_interval = std::time::Duration::ZERO;
        for number in 0..FILES {
            let len = if number % 40 == 0 { 300_000 } else { 500 };
            setup.write(&format!("f{number:03}"), noise(number, len));
        }
        let disk = SimDisk::new();
        disk.set_fault(at, Fault::Die);
        if start(&mut setup, &disk) {
            let _ = setup.handle().scan_now(&id("docs")).await;
            setup.stop().await;
        }
        let has_died = disk.is_dead();
        let image = disk.crash(Power::Dropped);
        assert!(start(&mut setup, &image), "the service does not start after a crash at {at}");
        setup.check(&setup.sync().await);
        setup.stop().await;
        if !has_died {
            break;
        }
        (at, moments) = (at + 11, moments + 1);
    }
    assert!(moments > 5, "only {moments} moments");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fails_once_is_survived_without_a_restart() {
    let mut failures = 0;
    for at in (0..).step_by(7) {
        let mut setup = Setup::stopped();
        setup.work_on_request_only();
        setup.tuning.hash_threads = 1;
        let disk = SimDisk::new();
        assert!(start(&mut setup, &disk));
        change(&setup, 0);
        setup.sync().await;
        let operations = disk.operations();
        disk.set_fault(operations + at, Fault::Fail(ErrorKind::Other));
        let mut seen = BTreeMap::new();
        for step in 1..STEPS {
            change(&setup, step);
            failures += u32::from(setup.handle().scan_now(&id("docs")).await.is_err());
        }
        let is_over = disk.operations() <= operations + at;
        disk.clear_fault();
        let published = setup.sync().await;
        setup.check(&published);
        check_numbers(&mut seen, &setup.published());
        setup.stop().await;
        if is_over {
            break;
        }
    }
    assert!(failures > 3, "only {failures} faults were noticed");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_step_of_publishing_may_fail() {
    for call in [Call::Put, Call::Commit, Call::SetRoot, Call::RemoveRoot, Call::Has] {
        for nth in 0..3 {
            let faulty = Arc::new(FaultyStore::new(Arc::new(MemStore::new())));
            let mut setup = Setup::on(faulty.clone());
            setup.start();
            setup.write("a", noise(1, 500_000));
            setup.sync().await;
            faulty.fail(call, nth, || StoreError::Injected("a fault"));
            for round in 2..5 {
                setup.write("a", noise(round, 500_000));
                let _ = setup.handle().scan_now(&id("docs")).await;
            }
            // The fault may not have occurred yet.
            let _ = setup.handle().scan_now(&id("docs")).await;
            let published = setup.sync().await;
            setup.check(&published);
            check_numbers(&mut BTreeMap::new(), &setup.published());
            setup.restart().await;
            let again = setup.sync().await;
            assert_eq!(again, published, "{call:?} {nth}");
            setup.check(&again);
            setup.stop().await;
        }
    }
}

/// If the copy of a file that changes too often does not fit into the store, all other files
/// are still backed up.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_does_not_fit_affects_only_its_file() {
    use store::{BlockRead as _, Limit};
    let store = Arc::new(FaultyStore::new(Arc::new(MemStore::new())));
    let mut setup = Setup::on(store.clone());
    setup.work_on_request_only();
    setup.start();
    setup.write("hot", noise(0, 50_000));
    setup.calm().await;
    let cid = |round| Cid::of(types::Codec::Raw, &noise(round, 50_000));
    setup.write("hot", noise(3, 50_000));
    setup.content(cid(0)).unwrap_err();
    setup.calm().await;
    assert!(store.has(&cid(3)).unwrap());
    let full = || StoreError::Full { limit: Limit::Disk, needed: 0 };
    store.fail(Call::Put, 0, full);
    setup.write("hot", noise(4, 50_000));
    setup.write("other", "other");
    let published = setup.sync().await;
    assert_eq!(setup.names(&published), ["hot", "other"]);
    let errors = &setup.status().errors;
    assert_eq!(errors.len(), 1);
    assert!(errors[0].path.to_string() == "hot" && errors[0].what.contains("copied"), "{errors:?}");
    // Its last content is still served; with enough space, the file is copied again.
    assert_eq!(setup.content(cid(3)).unwrap(), noise(3, 50_000));
    setup.check(&setup.sync().await);
    assert_eq!(setup.status().error_count, 0);
    assert!(store.has(&cid(4)).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_loss_of_the_file_index_sequence_numbers_continue() {
    let mut setup = Setup::new();
    setup.write("a", "a");
    setup.sync().await;
    setup.write("a", "b");
    let before = setup.sync().await;
    setup.stop().await;
    std::fs::remove_dir_all(setup.dir.path().join("data/sync")).unwrap();
    setup.start();
    let after = setup.sync().await;
    assert_eq!(after.sequence_number, before.sequence_number.next().unwrap());
    assert_eq!(setup.manifest(&after).0.previous, Some(before.manifest_cid));
    setup.check(&after);
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_locations_of_blocks_are_found_again() {
    let mut setup = Setup::new();
    setup.write("a", noise(1, 300_000));
    setup.write("b", "b");
    let before = setup.calm().await;
    for is_removed in [false, true] {
        setup.stop().await;
        let locations = setup.dir.path().join("data/sync/in-place");
        if is_removed {
            std::fs::remove_dir_all(locations).unwrap();
        } else {
            std::fs::write(locations.join("in-place"), "damaged").unwrap();
        }
        setup.start();
        let after = setup.sync().await;
        assert_eq!(after, before);
        assert!(setup.files_read() >= 2);
        setup.check(&after);
        setup.calm().await;
    }
    setup.restart().await;
    setup.check(&setup.sync().await);
    assert_eq!(setup.files_read(), 0, "the files are read again only once");
}

/// A row that became durable without the locations of its blocks is noticed before a manifest
/// names it.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_without_its_locations_is_read_again() {
    let store = Arc::new(FaultyStore::new(Arc::new(MemStore::new())));
    let mut setup = Setup::on(store.clone());
    setup.work_on_request_only();
    // So that each file is read once, even if the scan at the start precedes the requested
    // one.
    setup.clock.set_file_time(1);
    setup.start();
    setup.write("a", noise(1, 1000));
    setup.calm().await;
    setup.stop().await;
    let locations = setup.dir.path().join("data/sync/in-place");
    let before: Vec<_> = std::fs::read_dir(&locations)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect();
    setup.start();
    setup.write("b", noise(2, 1000));
    setup.write("c", noise(3, 500_000));
    store.fail(Call::SetRoot, 0, || StoreError::Injected("a fault"));
    setup.handle().scan_now(&id("docs")).await.unwrap_err();
    setup.stop().await;
    std::fs::remove_dir_all(&locations).unwrap();
    std::fs::create_dir(&locations).unwrap();
    for (path, content) in before {
        std::fs::write(path, content).unwrap();
    }
    setup.start();
    setup.check(&setup.sync().await);
    assert_eq!(setup.files_read(), 2);
}

/// Rows are durable before their manifest. If a collection has deleted nodes that only such rows
/// name, the files are read again before the manifest is made.
#[tokio::test(flavor = "multi_thread")]
async fn collected_content_is_read_again_before_it_is_published() {
    let store = Arc::new(FaultyStore::new(Arc::new(MemStore::new())));
    let mut setup = Setup::on(store.clone());
    setup.work_on_request_only();
    setup.start();
    setup.write("a", noise(1, 500_000));
    setup.sync().await;
    setup.write("b", noise(2, 500_000));
    store.fail(Call::SetRoot, 0, || StoreError::Injected("a fault"));
    setup.handle().scan_now(&id("docs")).await.unwrap_err();
    setup.stop().await;
    // A collection while the service is stopped.
    use store::StoreAdmin as _;
    assert!(store.gc(store::GcOptions::EVERYTHING).unwrap().deleted_blocks > 0);
    setup.start();
    let published = setup.sync().await;
    setup.check(&published);
}

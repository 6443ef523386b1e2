//! Pulls that are replaced, fail, are retried, confirmed and stopped.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_newer_manifest_takes_the_place_of_one_that_is_being_pulled() {
    let fake = Fake::new();
    *fake.pull_time.lock() = Duration::from_secs(100);
    fake.publish(1);
    let running = run(&fake);
    running.pass(10.0).await;
    let status = running.status();
    assert_eq!(status.state, SourceState::Pulling);
    assert_eq!(status.pulls[0].sequence.0, 1);
    fake.publish(2);
    running.pass(SOON).await;
    assert_eq!(fake.pulled(), [1, 2]);
    // An older manifest does not replace it.
    fake.publish(1);
    running.pass(10.0).await;
    assert_eq!(fake.pulled(), [1, 2]);
    assert_eq!(running.registry.totals().failed_attempts, 0);
    running.pass(100.0).await;
    assert_eq!(running.registry.totals().committed, 1);
    assert_eq!(running.state(), SourceState::Refused, "the offer is old now");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_folder_that_changes_all_the_time_is_backed_up_and_confirmed() {
    let fake = Fake::new();
    *fake.pull_time.lock() = Duration::from_secs(5);
    fake.publish(1);
    let running = run(&fake);
    for sequence in 2..60 {
        running.pass(1.0).await;
        fake.publish(sequence);
    }
    let committed = running.registry.totals().committed;
    assert!((6..12).contains(&committed), "{committed}");
    let told = fake.receipts.lock().len() as u64;
    assert!(told + 1 >= committed, "{told} of {committed}");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn changed_files_are_no_failure_and_the_next_manifest_follows_at_once() {
    let fake = Fake::new();
    fake.fail_pulls(|| Some(ManifestPullError::Changed { count: 2 }));
    fake.publish(1);
    let running = run(&fake);
    running.pass(600.0).await;
    let tries = fake.pulled().len();
    assert!((10..30).contains(&tries), "{tries}");
    let status = running.status();
    assert_ne!(status.state, SourceState::Failed);
    assert!(status.errors[0].contains("changed"), "{status:?}");
    assert_eq!(running.registry.totals().failed_attempts, 0);
    *fake.pull_error.lock() = None;
    fake.publish(2);
    running.pass(SOON).await;
    assert_eq!(fake.pulled().last(), Some(&2));
    assert_eq!(running.status().errors, Vec::<String>::new());
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_bad_manifest_is_tried_once_and_the_next_one_again() {
    let fake = Fake::new();
    let cid = Cid::of(Codec::Json, b"x");
    let source = types::ManifestError::Rule("an empty segment");
    fake.fail_pulls(move || Some(ManifestPullError::Unsound { cid, source: source.clone() }));
    fake.publish(1);
    let running = run(&fake);
    running.pass(2000.0).await;
    running.hint.notify_one();
    running.pass(10.0).await;
    assert_eq!(fake.pulled(), [1]);
    let status = running.status();
    assert_eq!(status.state, SourceState::Refused);
    assert!(status.folders[0].refused.as_ref().unwrap().contains("empty segment"));
    *fake.pull_error.lock() = None;
    fake.publish(2);
    running.pass(SOON).await;
    assert_eq!(fake.pulled(), [1, 2]);
    assert_eq!(running.state(), SourceState::Idle);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_is_shown_and_retried_without_end() {
    let fake = Fake::new();
    fake.fail_pulls(|| Some(StoreError::Full { limit: Limit::Quota, needed: 5 }.into()));
    fake.publish(1);
    let running = run(&fake);
    running.pass(3.0).await;
    assert!(running.status().errors[0].contains("max_storage"));
    assert_ne!(running.state(), SourceState::Failed);
    running.pass(100.0).await;
    let status = running.status();
    assert_eq!(status.state, SourceState::Failed);
    assert!(status.folders[0].failures > 3);
    running.pass(10_000.0).await;
    let gaps: Vec<_> = fake.pulls.lock().windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
    assert!(gaps.len() > 30);
    assert!(gaps.iter().all(|gap| *gap <= Duration::from_secs(301)));
    // A newer manifest does not free space.
    let before = fake.pulled().len();
    fake.publish(2);
    running.pass(SOON).await;
    assert_eq!(fake.pulled().len(), before);
    *fake.pull_error.lock() = None;
    running.hint.notify_one();
    running.pass(SOON).await;
    assert_eq!(fake.pulled().last(), Some(&2));
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_source_that_is_dead_or_slow_delays_no_other() {
    let slots = Slots::new(1);
    let dead = Fake::new();
    *dead.no_connection.lock() = true;
    dead.publish(1);
    let hanging = Fake::new();
    *hanging.delay.lock() = Duration::from_secs(1_000_000);
    let good = Fake::new();
    let dir = || tempfile::tempdir().unwrap();
    let tasks = [&dead, &hanging, &good].map(|fake| run_with(fake, &slots, dir()));
    tasks[2].pass(1.0).await;
    good.publish(1);
    tasks[2].pass(SOON).await;
    assert_eq!(good.pulled(), [1]);
    // A pull of hours returns its slot while others wait.
    let slow = Fake::new();
    *slow.pull_time.lock() = Duration::from_secs(4000);
    *slow.ignores_stop.lock() = true;
    slow.publish(1);
    let slow_task = run_with(&slow, &slots, dir());
    slow_task.pass(1.0).await;
    good.publish(2);
    slow_task.pass(41.0).await;
    assert_eq!(good.pulled(), [1, 2]);
    slow_task.pass(5000.0).await;
    assert_eq!(slow_task.registry.totals().committed, 1, "and continues");
    assert!(dead.pulled().is_empty());
    assert!(tasks[0].status().errors[0].contains("no connection"));
    for task in tasks {
        task.stop().await;
    }
    slow_task.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_receipt_is_sent_until_it_is_accepted_and_again_on_a_new_connection() {
    let fake = Fake::new();
    *fake.loses_receipts.lock() = true;
    fake.publish(1);
    let running = run(&fake);
    running.pass(60.0).await;
    let tries = fake.receipts.lock().len();
    assert!((3..10).contains(&tries), "{tries}");
    assert_eq!(running.state(), SourceState::Idle);
    *fake.loses_receipts.lock() = false;
    running.pass(120.0).await;
    let tries = fake.receipts.lock().len();
    running.pass(1000.0).await;
    assert_eq!(fake.receipts.lock().len(), tries, "no more after it was accepted");
    running.requests.send(Request::Connected).await.unwrap();
    running.pass(SOON).await;
    assert_eq!(fake.receipts.lock().len(), tries + 1);
    // No receipt is sent for a folder that is no longer offered.
    fake.show([]);
    running.pass(SOON).await;
    running.requests.send(Request::Connected).await.unwrap();
    running.pass(SOON).await;
    assert_eq!(fake.receipts.lock().len(), tries + 1);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_receipt_that_the_source_could_not_store_is_sent_again_soon_and_shown() {
    let fake = Fake::new();
    for (answer, text) in [
        (ReceiptAnswer::Failed, "cannot store the receipt"),
        (ReceiptAnswer::ChainBroken, "interrupted"),
        (ReceiptAnswer::Unsupported, "update it"),
    ] {
        *fake.receipt_answer.lock() = answer;
        fake.publish(1);
        let running = run(&fake);
        let before = fake.receipts.lock().len();
        running.pass(60.0).await;
        let tries = fake.receipts.lock().len() - before;
        assert!((3..10).contains(&tries), "{tries}");
        let errors = running.status().errors.clone();
        assert!(errors.iter().any(|error| error.contains(text)), "{errors:?}");
        let is_confirmed = || {
            let folder = &running.status().folders[0];
            folder.processed.as_ref().is_some_and(|processed| processed.is_confirmed)
        };
        assert!(!is_confirmed());
        *fake.receipt_answer.lock() = ReceiptAnswer::Ok;
        running.pass(120.0).await;
        assert!(is_confirmed());
        assert_eq!(running.status().errors, Vec::<String>::new());
        running.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn snapshots_that_others_add_count_for_the_next_decision() {
    let fake = Fake::new();
    fake.publish(3);
    let running = run(&fake);
    running.pass(SOON).await;
    assert_eq!(fake.pulled(), [3]);
    // A recovery has found a later snapshot: an older manifest is refused from then on.
    let later = fake.offer("docs", 5, "5");
    let snapshot = snapshot_of(fake.keypair.public().to_peer_id(), &later);
    *fake.stored.lock() = [("docs".parse().unwrap(), vec![snapshot].into())].into();
    running.requests.send(Request::SnapshotsChanged).await.unwrap();
    running.pass(SOON).await;
    fake.publish(4);
    running.pass(SOON).await;
    assert_eq!(fake.pulled(), [3]);
    assert_eq!(running.state(), SourceState::Refused);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_task_ends_soon_whatever_it_is_doing() {
    let fake = Fake::new();
    *fake.pull_time.lock() = Duration::from_secs(4000);
    *fake.loses_receipts.lock() = true;
    let many: Vec<_> = (0..50).map(|n| fake.offer(&format!("f{n}"), 1, &format!("{n}"))).collect();
    fake.show(many);
    let running = run(&fake);
    running.pass(1.0).await;
    // Limited, independent of the number of folders.
    assert_eq!(running.status().pulls.len(), ATTEMPTS_MAX);
    assert_eq!(fake.pulled().len(), 3);
    let before = Instant::now();
    running.stop().await;
    assert!(before.elapsed() <= Duration::from_secs(2));
    // A panic in a pull does not end the task.
    let fake = Fake::new();
    fake.fail_pulls(|| panic!("on purpose"));
    fake.publish(1);
    let running = run(&fake);
    running.pass(10.0).await;
    assert!(running.status().errors[0].contains("panicked"));
    assert!(fake.pulled().len() > 1);
    running.stop().await;
}

/// Disabled and enabled again, while the old task still ends its pull.
#[tokio::test(start_paused = true)]
async fn a_source_never_has_two_tasks() {
    let fake = Fake::new();
    *fake.ignores_stop.lock() = true;
    *fake.pull_time.lock() = Duration::from_secs(3600);
    fake.publish(1);
    let on = BackupSettings {
        enabled: true,
        poll_interval: Duration::from_secs(30),
        max_concurrent_downloads: 3,
        max_retries: 3,
        sources: vec![source_of(&fake)],
    };
    let off = BackupSettings { enabled: false, ..on.clone() };
    let (settings, receiver) = watch::channel(on.clone());
    let dir = tempfile::tempdir().unwrap();
    let mut manager = Manager {
        effects: Arc::new(fake.clone()),
        slots: Slots::new(3),
        common: watch::Sender::new(on.common()),
        registry: StatusRegistry::new(),
        acceptances: Arc::new(OfferFile::accepted(Arc::new(disk::RealDisk), dir.path()).unwrap()),
        set_backs: Arc::new(OfferFile::set_back(Arc::new(disk::RealDisk), dir.path()).unwrap()),
        clock: SystemClock::shared(),
        links: Links::default(),
        settings: receiver,
        running: BTreeMap::new(),
        ending: Vec::new(),
        tasks: JoinSet::new(),
        stop: CancellationToken::new(),
        failed: watch::channel(None).0,
    };
    manager.apply();
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(*fake.pulling.lock(), (1, 1));
    for settings_now in [&off, &on, &off, &off, &on] {
        settings.send_replace(settings_now.clone());
        manager.apply();
    }
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(fake.pulls.lock().len(), 2, "the new task pulls");
    assert_eq!(*fake.pulling.lock(), (1, 1), "two tasks pulled at once");
    assert_eq!(manager.ending.len(), 2);
    manager.apply();
    assert_eq!(manager.ending.len(), 0, "ended tasks are forgotten");
}

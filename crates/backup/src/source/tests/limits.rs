//! The quota of a source, and its maximum number of folders.

use super::*;

fn run_limited(fake: &Arc<Fake>, change: impl FnOnce(&mut SourcePeer)) -> Running {
    let mut source = source_of(fake);
    change(&mut source);
    run_source(fake, source, &Slots::new(3), tempfile::tempdir().unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_source_over_its_quota_is_not_pulled_until_there_is_room() {
    let fake = Fake::new();
    *fake.used.lock() = (100_000, 0);
    fake.publish(1);
    let running = run_limited(&fake, |source| source.quota = "100KB".parse().unwrap());
    running.pass(500.0).await;
    assert_eq!(fake.pulled(), [0; 0]);
    let status = running.status();
    let error = status.folders[0].error.clone().unwrap();
    assert!(error.contains("quota"), "{error}");
    assert_eq!(fake.used.lock().1, 1, "it is not measured for each attempt");
    // A removal makes room, and the next attempt is immediate.
    fake.used.lock().0 = 99_999;
    running.requests.send(Request::SnapshotsChanged).await.unwrap();
    running.pass(SOON).await;
    assert_eq!(fake.pulled(), [1]);
    assert_eq!(running.state(), SourceState::Idle);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn room_that_pruning_makes_is_found_after_some_time() {
    let fake = Fake::new();
    *fake.used.lock() = (100_000, 0);
    fake.publish(1);
    let running = run_limited(&fake, |source| source.quota = "100KB".parse().unwrap());
    running.pass(300.0).await;
    fake.used.lock().0 = 5;
    running.pass(1000.0).await;
    assert_eq!(fake.pulled(), [1]);
    assert_eq!(fake.used.lock().1, 2);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn without_a_quota_nothing_is_measured() {
    let fake = Fake::new();
    *fake.used.lock() = (u64::MAX, 0);
    fake.publish(1);
    let running = run(&fake);
    running.pass(SOON).await;
    assert_eq!((fake.pulled().len(), fake.used.lock().1), (1, 0));
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn folders_beyond_the_maximum_are_refused_and_the_others_go_on() {
    let fake = Fake::new();
    let offers = |number: u64| {
        let ids = ["a", "b", "c"];
        ids.map(|id| fake.offer(id, number, &format!("{id} {number}")))
    };
    fake.show(offers(1));
    let running = run_limited(&fake, |source| source.folders_max = 2);
    running.pass(5.0).await;
    assert_eq!(fake.pulled(), [1, 1]);
    let status = running.status();
    assert_eq!((status.state, status.folders.len()), (SourceState::Refused, 2));
    assert!(status.errors[0].contains("folders_max"), "{:?}", status.errors);
    fake.show(offers(2));
    running.pass(5.0).await;
    assert_eq!(fake.pulled(), [1, 1, 2, 2]);
    running.stop().await;
}

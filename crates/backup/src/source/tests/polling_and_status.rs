//! The times of polls, and the resulting status.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_source_whose_answers_are_repeated_is_reported() {
    let fake = Fake::new();
    fake.publish(1);
    let running = run(&fake);
    running.pass(SOON).await;
    assert_eq!(running.state(), SourceState::Idle);
    *fake.age.lock() = AnswerAge::Unknown;
    *fake.has_long_polls.lock() = false;
    running.pass(75.0).await;
    let status = running.status();
    assert_eq!(status.state, SourceState::Failed);
    assert!(status.errors[0].contains("its answers are old"), "{status:?}");
    *fake.age.lock() = AnswerAge::Now;
    running.pass(40.0).await;
    assert!(running.status().errors.is_empty());
    assert_eq!(running.state(), SourceState::Idle);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_new_manifest_is_pulled_at_once_and_confirmed() {
    let fake = Fake::new();
    let running = run(&fake);
    running.pass(100.0).await;
    // Long polls of one interval each, and no others.
    assert_eq!(fake.poll_times().len(), 5);
    assert_eq!(running.state(), SourceState::Idle);
    for sequence in [1, 2, 5] {
        let before = Instant::now();
        fake.publish(sequence);
        running.pass(SOON).await;
        let (at, pulled) = *fake.pulls.lock().last().unwrap();
        assert_eq!(pulled, sequence);
        assert!(at - before < Duration::from_millis(60), "{:?}", at - before);
        running.pass(20.0).await;
    }
    assert_eq!(*fake.receipts.lock(), [1, 2, 5]);
    let status = running.status();
    assert!(status.folders[0].processed.as_ref().unwrap().is_confirmed);
    assert_eq!((status.pulls.len(), status.errors.len()), (0, 0));
    assert_eq!(running.registry.totals().committed, 3);
    assert!(status.long_poll);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_source_that_cannot_hold_is_poll_times_the_interval_which_can_change() {
    let fake = Fake::new();
    *fake.has_long_polls.lock() = false;
    let running = run(&fake);
    running.pass(300.0).await;
    let asked = fake.poll_times();
    assert!((10..20).contains(&asked.len()), "{}", asked.len());
    running.common.send_modify(|common| common.poll_interval = Duration::from_secs(5));
    let before = asked.len();
    running.pass(100.0).await;
    assert!((18..=22).contains(&(fake.poll_times().len() - before)));
    fake.publish(1);
    running.pass(6.0).await;
    assert_eq!(fake.pulled(), [1]);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_source_that_is_away_is_asked_less_and_less_shown_and_found_again() {
    let fake = Fake::new();
    fake.fail_polls(timeout);
    let running = run(&fake);
    running.pass(0.5).await;
    assert_eq!(running.state(), SourceState::Starting);
    assert_eq!(running.status().errors.len(), 1, "the first failure is shown");
    running.pass(30.0).await;
    let status = running.status();
    assert_eq!(status.state, SourceState::Failed);
    assert!(status.detail.as_ref().unwrap().contains("did not answer"), "{status:?}");
    running.pass(20_000.0).await;
    let asked = fake.poll_times();
    let gaps: Vec<_> = asked.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps.iter().all(|gap| *gap <= Duration::from_secs(301)), "{gaps:?}");
    assert!(gaps.iter().skip(10).all(|gap| *gap >= Duration::from_secs(200)), "{gaps:?}");
    *fake.poll_error.lock() = None;
    fake.publish(1);
    // A hint ends the waiting time.
    running.hint.notify_one();
    running.pass(SOON).await;
    assert_eq!(fake.pulled(), [1]);
    assert_eq!(running.state(), SourceState::Idle);
    assert_eq!(running.status().poll_failures, 0);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_no_manifest_server_is_an_error_that_is_shown() {
    let html = || ClientError::ContentType { url: url(), found: "text/html".into() };
    let redirect = || ClientError::Redirect { url: url(), target: "https://evil.example".into() };
    for (error, what) in [(html as fn() -> ClientError, "web page"), (redirect, "redirect")] {
        let fake = Fake::new();
        fake.publish(1);
        fake.fail_polls(error);
        let running = run(&fake);
        running.pass(60.0).await;
        let status = running.status();
        assert_eq!(status.state, SourceState::Failed);
        assert!(status.errors[0].contains(what), "{status:?}");
        assert!(fake.pulled().is_empty());
        *fake.poll_error.lock() = None;
        running.pass(300.0).await;
        assert_eq!(fake.pulled(), [1]);
        running.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn triggers_coalesce_to_one_that_runs_and_one_that_waits() {
    let fake = Fake::new();
    let running = run(&fake);
    running.pass(5.0).await;
    let before = fake.poll_times().len();
    *fake.delay.lock() = Duration::from_secs(1);
    for _ in 0..100 {
        running.hint.notify_one();
        tokio::task::yield_now().await;
    }
    running.pass(0.5).await;
    // The long poll was replaced by a short one; the other hints wait.
    assert_eq!(fake.polls.lock().len() - before, 1);
    running.pass(2.0).await;
    let asked = fake.polls.lock().split_off(before);
    let waits: Vec<_> = asked.iter().map(|(_, request)| request.wait.as_secs()).collect();
    assert_eq!(waits, [0, 0, 30]);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_triggers_does_not_become_a_flood_of_polls() {
    let fake = Fake::new();
    let running = run(&fake);
    running.pass(1.0).await;
    let before = fake.poll_times().len();
    for _ in 0..10_000 {
        running.hint.notify_one();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let asked = fake.poll_times().len() - before;
    assert!((100..=210).contains(&asked), "{asked} in ten seconds");
    running.stop().await;
}

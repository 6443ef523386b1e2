//! Offers that are refused, and offers that the user must accept.

use super::*;

#[tokio::test(start_paused = true)]
async fn another_peer_is_refused_whole() {
    let fake = Fake::new();
    let right = fake.keypair.public().to_peer_id();
    let stranger = PeerId::random();
    fake.change(|discovery| discovery.peer = stranger);
    fake.publish(1);
    let running = run(&fake);
    running.pass(50.0).await;
    let status = running.status();
    assert_eq!(status.state, SourceState::Refused);
    assert!(status.errors[0].contains(&stranger.to_string()));
    assert!(status.can_be_accepted);
    assert!(fake.pulled().is_empty());
    // The caller accepts the peer in the configuration, which this test does not change.
    let accepted = running.accept().await.unwrap();
    assert_eq!((accepted.peer_id, accepted.folders.len()), (Some(stranger), 0));
    running.pass(50.0).await;
    assert!(fake.pulled().is_empty());
    fake.change(|discovery| discovery.peer = right);
    running.pass(SOON).await;
    assert_eq!(fake.pulled(), [1]);
    assert_eq!(running.state(), SourceState::Idle);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_not_signed_is_refused_and_hides_no_other_folder() {
    let fake = Fake::new();
    let mut forged = fake.offer("docs", 3, "docs 3");
    forged.published.manifest_cid = Cid::of(Codec::DagCbor, b"another");
    let mut twice = fake.offer("twice", 1, "one");
    twice.published.folder_name = "x".into();
    fake.show([
        forged,
        fake.offer("music", 7, "music 7"),
        twice.clone(),
        fake.offer("twice", 2, "two"),
    ]);
    let running = run(&fake);
    running.pass(5.0).await;
    assert_eq!(fake.pulled(), [7]);
    let status = running.status();
    assert_eq!(status.state, SourceState::Refused);
    assert!(status.errors.iter().any(|error| error.contains("did not sign")), "{status:?}");
    assert!(!status.can_be_accepted);
    assert!(matches!(running.accept().await, Err(AcceptError::Nothing)));
    // A refused offer creates no folder.
    assert_eq!(status.folders.len(), 1);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_source_that_goes_back_is_refused_until_it_is_accepted() {
    let (fake, old) = fake_with_two();
    // Somebody may repeat old answers.
    *fake.age.lock() = AnswerAge::Unknown;
    let running = run(&fake);
    // A replayed answer; another manifest with the same number; a lower number.
    for (offer, can_be_accepted) in [
        (old, false),
        (fake.offer("docs", 42, "not the same"), true),
        (fake.offer("docs", 5, "docs 5 again"), true),
    ] {
        fake.show([offer]);
        running.pass(1.0).await;
        let status = running.status();
        assert_eq!(status.state, SourceState::Refused);
        assert_eq!(status.can_be_accepted, can_be_accepted, "{status:?}");
        assert_eq!(status.folders[0].processed.as_ref().unwrap().sequence.0, 42);
    }
    assert!(fake.pulled().is_empty());
    assert!(fake.receipts.lock().is_empty());
    fake.fail_pulls(|| Some(StoreError::LostWrites.into()));
    let accepted = running.accept().await.unwrap();
    assert_eq!(accepted.folders[0].sequence.0, 5);
    running.pass(SOON).await;
    assert_eq!(fake.pulled(), [5]);
    // The acceptance survives a restart …
    let dir = running.stop().await;
    *fake.pull_error.lock() = None;
    let running = run_with(&fake, &Slots::new(1), dir);
    running.pass(SOON).await;
    assert_eq!(fake.pulled(), [5, 5]);
    assert_eq!(running.state(), SourceState::Idle);
    assert_eq!(*fake.receipts.lock(), [5]);
    // … and applies only once.
    fake.show([fake.offer("docs", 7, "docs 7")]);
    running.pass(1.0).await;
    fake.show([fake.offer("docs", 6, "docs 6")]);
    running.pass(1.0).await;
    assert_eq!(fake.pulled(), [5, 5, 7]);
    assert_eq!(running.state(), SourceState::Refused);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_source_that_was_set_back_stays_refused_however_far_it_gets() {
    let (fake, old) = fake_with_two();
    *fake.receipt_answer.lock() = ReceiptAnswer::Refused;
    let mut running = run(&fake);
    // It offers the older one again, in an answer that is proved to be new.
    fake.show([old]);
    running.pass(1.0).await;
    assert!(running.status().can_be_accepted);
    assert!(fake.receipts.lock().contains(&42), "the source is told what is stored");
    for sequence in [42, 43, 44, 99] {
        fake.show([fake.offer("docs", sequence, &format!("another {sequence}"))]);
        running.pass(1.0).await;
        let status = running.status();
        assert_eq!(status.state, SourceState::Refused, "{sequence}");
        assert!(status.can_be_accepted && !status.errors.is_empty());
        if sequence == 43 {
            let dir = running.stop().await;
            running = run_with(&fake, &Slots::new(1), dir);
        }
    }
    assert!(fake.pulled().is_empty());
    let accepted = running.accept().await.unwrap();
    assert_eq!(accepted.folders[0].sequence.0, 99);
    running.pass(SOON).await;
    fake.show([fake.offer("docs", 100, "another 100")]);
    running.pass(SOON).await;
    assert_eq!(fake.pulled(), [99, 100]);
    assert_eq!(running.state(), SourceState::Idle);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_accepted_manifest_that_is_stored_is_not_pulled_again() {
    let (fake, old) = fake_with_two();
    let running = run(&fake);
    fake.show([old]);
    running.pass(1.0).await;
    running.accept().await.unwrap();
    running.pass(SOON).await;
    assert_eq!(running.state(), SourceState::Idle);
    assert!(fake.pulled().is_empty());
    fake.show([fake.offer("docs", 42, "another 42")]);
    running.pass(SOON).await;
    assert_eq!(fake.pulled(), [42]);
    running.stop().await;
}

/// The source was set back and has gone on while the backup server was away.
#[tokio::test(start_paused = true)]
async fn a_source_without_a_receipt_that_it_had_is_refused() {
    let fake = Fake::new();
    let peer = fake.keypair.public().to_peer_id();
    let new = fake.offer("docs", 42, "docs 42");
    let snapshots = vec![snapshot_of(peer, &new)];
    *fake.stored.lock() = BTreeMap::from([("docs".parse().unwrap(), snapshots.into())]);
    *fake.confirmed.lock() = vec![confirmation_of(&new, 1)];
    *fake.confirmed_is_stored.lock() = true;
    let offer = |sequence: u64, confirmed: Option<u64>| {
        let offer = fake.offer("docs", sequence, &format!("docs {sequence}"));
        Offer { confirmed: confirmed.map(SequenceNumber), ..offer }
    };
    fake.show([offer(50, Some(40))]);
    let running = run(&fake);
    running.pass(SOON).await;
    assert_eq!(running.state(), SourceState::Refused);
    assert!(running.status().can_be_accepted && fake.pulled().is_empty());
    // The receipt that tells it so gives it the newest one again.
    fake.show([offer(51, Some(42))]);
    running.pass(SOON).await;
    assert!(fake.pulled().is_empty());
    assert_eq!(running.state(), SourceState::Refused);
    running.accept().await.unwrap();
    running.pass(SOON).await;
    assert_eq!(fake.pulled(), [51]);
    running.stop().await;
    // It has the receipt, or a later one; it has lost all receipts; it does not say; or the
    // answer may be an old one.
    for (confirmed, age) in [
        (Some(42), AnswerAge::Now),
        (Some(43), AnswerAge::Now),
        (Some(0), AnswerAge::Now),
        (None, AnswerAge::Now),
        (Some(40), AnswerAge::Unknown),
    ] {
        let before = fake.pulled().len();
        fake.show([offer(50, confirmed)]);
        *fake.age.lock() = age;
        let running = run(&fake);
        running.pass(SOON).await;
        assert_eq!(fake.pulled().len(), before + 1, "{confirmed:?} {age:?}");
        running.stop().await;
    }
    // The receipt arrives while the answer is on its way.
    *fake.age.lock() = AnswerAge::Now;
    *fake.confirmed_is_stored.lock() = false;
    let before = fake.pulled().len();
    fake.show([offer(50, Some(40))]);
    let running = run(&fake);
    running.pass(SOON).await;
    assert_eq!(fake.pulled().len(), before + 1);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_manifest_that_follows_another_one_is_a_set_back() {
    let fake = Fake::new();
    let peer = fake.keypair.public().to_peer_id();
    let new = fake.offer("docs", 42, "docs 42");
    *fake.stored.lock() =
        BTreeMap::from([("docs".parse().unwrap(), vec![snapshot_of(peer, &new)].into())]);
    let [previous, taken] = [b"a", b"b"].map(|bytes| Cid::of(Codec::DagCbor, bytes));
    fake.fail_pulls(move || Some(ManifestPullError::SetBack { previous, taken }));
    fake.show([fake.offer("docs", 43, "docs 43")]);
    let running = run(&fake);
    running.pass(SOON).await;
    *fake.pull_error.lock() = None;
    fake.show([fake.offer("docs", 44, "docs 44")]);
    running.pass(SOON).await;
    assert_eq!(fake.pulled(), [43], "44 is not pulled");
    assert_eq!(running.state(), SourceState::Refused);
    assert!(running.status().can_be_accepted);
    running.stop().await;
}

/// Returns a source of which snapshots 41 and 42 are stored, and its offer of the older one.
fn fake_with_two() -> (Arc<Fake>, Offer) {
    let fake = Fake::new();
    let peer = fake.keypair.public().to_peer_id();
    let (old, new) = (fake.offer("docs", 41, "docs 41"), fake.offer("docs", 42, "docs 42"));
    let snapshots = vec![snapshot_of(peer, &old), snapshot_of(peer, &new)];
    *fake.stored.lock() = BTreeMap::from([("docs".parse().unwrap(), snapshots.into())]);
    (fake, old)
}

/// Returns the content of the receipt for an offer, whose snapshot was received at this time.
fn confirmation_of(offer: &Offer, second: i64) -> Confirmation {
    let published = &offer.published;
    Confirmation {
        folder_id: published.folder_id.clone(),
        sequence: published.sequence_number,
        manifest_cid: published.manifest_cid,
        manifest_signature: offer.signature.clone(),
        received_at: Timestamp::from_second(second).unwrap(),
    }
}

/// The roots are lost, and the source offers an older state than the backup server has
/// confirmed.
#[tokio::test(start_paused = true)]
async fn a_source_cannot_be_set_back_while_snapshots_are_lost() {
    let fake = Fake::new();
    let peer = fake.keypair.public().to_peer_id();
    let (old, last) = (fake.offer("docs", 40, "docs 40"), fake.offer("docs", 42, "docs 42"));
    *fake.confirmed.lock() = vec![confirmation_of(&last, 100)];
    // Without any snapshot, and with an older one.
    for stored in [vec![], vec![snapshot_of(peer, &old)]] {
        *fake.stored.lock() = BTreeMap::from([("docs".parse().unwrap(), stored.into())]);
        let running = run(&fake);
        for offer in
            [old.clone(), fake.offer("docs", 41, "docs 41"), fake.offer("docs", 42, "not the same")]
        {
            fake.show([offer]);
            running.pass(1.0).await;
            let status = running.status();
            assert_eq!(status.state, SourceState::Refused);
            assert!(status.errors[0].contains("42"), "{status:?}");
            assert!(status.can_be_accepted, "{status:?}");
        }
        running.stop().await;
    }
    assert!(fake.pulled().is_empty());
    // The confirmed manifest itself is pulled again, and a later one follows.
    let running = run(&fake);
    fake.show([last.clone()]);
    running.pass(1.0).await;
    fake.show([fake.offer("docs", 43, "docs 43")]);
    running.pass(1.0).await;
    assert_eq!(fake.pulled(), [42, 43]);
    assert_eq!(running.state(), SourceState::Idle);
    running.stop().await;
    // The user can accept the older state.
    fake.show([fake.offer("docs", 41, "docs 41")]);
    let running = run(&fake);
    running.pass(1.0).await;
    let accepted = running.accept().await.unwrap();
    assert_eq!(accepted.folders[0].sequence.0, 41);
    running.pass(SOON).await;
    fake.show([fake.offer("docs", 42, "another 42")]);
    running.pass(1.0).await;
    assert_eq!(fake.pulled(), [42, 43, 41, 42]);
    // The snapshots are recovered.
    fake.show([old.clone()]);
    running.pass(1.0).await;
    running.stop().await;
    let running = run(&fake);
    *fake.stored.lock() = BTreeMap::from([(
        "docs".parse().unwrap(),
        vec![snapshot_of(peer, &old), snapshot_of(peer, &last)].into(),
    )]);
    running.requests.send(Request::SnapshotsChanged).await.unwrap();
    fake.show([last]);
    running.pass(1.0).await;
    assert_eq!(fake.pulled(), [42, 43, 41, 42], "it is not lost");
    assert_eq!(running.state(), SourceState::Idle);
    running.stop().await;
}

/// After an accepted reset of the source, its receipts may still name a higher number.
#[tokio::test(start_paused = true)]
async fn a_receipt_from_before_an_accepted_reset_refuses_nothing() {
    let fake = Fake::new();
    let peer = fake.keypair.public().to_peer_id();
    let before = fake.offer("docs", 42, "docs 42");
    *fake.confirmed.lock() = vec![confirmation_of(&before, -100)];
    let snapshots =
        vec![snapshot_of(peer, &before), snapshot_of(peer, &fake.offer("docs", 5, "5"))];
    *fake.stored.lock() = BTreeMap::from([("docs".parse().unwrap(), snapshots.into())]);
    let running = run(&fake);
    fake.show([fake.offer("docs", 6, "docs 6")]);
    running.pass(1.0).await;
    assert_eq!(fake.pulled(), [6]);
    assert_eq!(running.state(), SourceState::Idle);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_that_was_removed_by_hand_is_not_pulled_again_and_sets_nothing_back() {
    let fake = Fake::new();
    let peer = fake.keypair.public().to_peer_id();
    let offers = [40, 41, 42].map(|number| fake.offer("docs", number, &format!("docs {number}")));
    *fake.confirmed.lock() = vec![confirmation_of(&offers[2], 0)];
    let stored = StoredFolder {
        snapshots: vec![snapshot_of(peer, &offers[1])],
        removed: Some(snapshot_of(peer, &offers[2])),
    };
    let without_any = StoredFolder { snapshots: Vec::new(), ..stored.clone() };
    for stored in [stored, without_any] {
        *fake.stored.lock() = BTreeMap::from([("docs".parse().unwrap(), stored)]);
        let running = run(&fake);
        fake.show([offers[2].clone()]);
        running.pass(SOON).await;
        assert_eq!(running.state(), SourceState::Idle);
        for old in &offers[..2] {
            fake.show([old.clone()]);
            running.pass(SOON).await;
            assert_eq!(running.state(), SourceState::Refused);
        }
        assert_eq!(fake.pulled(), [0; 0]);
        assert_eq!(*fake.receipts.lock(), [0; 0], "nothing is confirmed");
        running.stop().await;
    }
    let running = run(&fake);
    fake.show([fake.offer("docs", 43, "docs 43")]);
    running.pass(SOON).await;
    assert_eq!(fake.pulled(), [43]);
    running.stop().await;
}

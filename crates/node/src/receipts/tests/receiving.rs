//! Receipts that arrive: right ones, wrong ones, and those that do not continue the chain.

use super::*;

#[test]
fn a_receipt_is_checked_stored_and_shown() {
    let source = Source::new(3);
    let receipts = source.open();
    let chain = source.chain(3);
    assert_eq!(source.receive(&receipts, &chain[0]), ReceiptAnswer::Ok);
    assert_eq!(confirmed(&receipts), Some(1));
    // The same one again, also after a restart.
    let shown = receipts.newest(&docs()).unwrap();
    assert_eq!(source.receive(&receipts, &chain[0]), ReceiptAnswer::Ok);
    let receipts = source.open();
    assert_eq!(shown.manifest_cid, cid("docs", 1));
    assert_eq!(source.receive(&receipts, &chain[0]), ReceiptAnswer::Ok);
    assert_eq!(receipts.newest(&docs()), Some(shown), "the time of the first arrival");
    assert_eq!(source.receive(&receipts, &chain[1]), ReceiptAnswer::Ok);
    assert_eq!(source.receive(&receipts, &chain[2]), ReceiptAnswer::Ok);
    assert_eq!(confirmed(&receipts), Some(3));
    let status = receipts.chains();
    assert_eq!((status.len(), status[0].count, status[0].problems.len()), (1, 3, 0));
    assert_eq!(status[0].newest.as_ref().unwrap().signed, chain[2]);
    assert_eq!(source.content(&source.disk).iter().filter(|byte| **byte == b'\n').count(), 3);
}

/// The three branches: the folder does not exist, the manifest was never published, the receipt
/// is of a published manifest.
#[test]
fn a_receipt_for_something_that_was_never_published_is_refused() {
    let source = Source::new(2);
    let receipts = source.open();
    let unknown = signed_receipt(&source.server, &source.key, "none", (1, cid("none", 1)), None);
    assert_eq!(source.receive(&receipts, &unknown), ReceiptAnswer::UnknownFolder);
    assert!(receipts.problems().is_empty());
    let future = source.sign(3, None);
    assert_eq!(source.receive(&receipts, &future), ReceiptAnswer::Refused);
    // It has the signature of this source: this computer was set back, or is a copy.
    let problem = receipts.problems().pop().unwrap();
    assert!(problem.message.contains("has snapshot 3, signed by this computer"), "{problem:?}");
    assert!(problem.action.contains("archivist source accept"), "{problem:?}");
    let other = |sequence| {
        let manifest = (sequence, cid("another", sequence));
        signed_receipt(&source.server, &source.key, "docs", manifest, None)
    };
    assert_eq!(source.receive(&receipts, &other(2)), ReceiptAnswer::Refused);
    // An earlier manifest is known by its signature, and nobody else can make that.
    let stranger = Keypair::generate_secp256k1();
    let forged = {
        let mut content = source.sign(1, None).receipt().clone();
        let (folder, number) = (docs(), SequenceNumber(1));
        content.confirmation.manifest_cid = cid("another", 1);
        content.confirmation.manifest_signature =
            manifest::sign(&stranger, &folder, number, &cid("another", 1)).unwrap();
        content.sign(&source.server).unwrap()
    };
    assert_eq!(source.receive(&receipts, &forged), ReceiptAnswer::Refused);
    assert_eq!(confirmed(&receipts), None);
    assert_eq!(source.disk.files(), Vec::<PathBuf>::new());
    assert_eq!(source.receive(&receipts, &source.sign(1, None)), ReceiptAnswer::Ok);
    assert_eq!(confirmed(&receipts), Some(1));
    assert!(receipts.problems().is_empty());
}

#[test]
fn the_journal_names_each_refusal_once_until_a_receipt_is_accepted() {
    let source = Source::new(2);
    let receipts = source.open();
    let journal = Journal::default();
    receipts.report_to(journal.clone());
    let chain = source.chain(3);
    let answers = |signed: &SignedReceipt, answer| {
        assert_eq!(source.receive(&receipts, signed), answer);
        journal.entries().len()
    };
    assert_eq!(answers(&chain[2], ReceiptAnswer::Refused), 1);
    assert_eq!(answers(&chain[2], ReceiptAnswer::Refused), 1, "the same again");
    let entry = &journal.entries()[0];
    let expected = format!(
        "A receipt of backup server {} for snapshot 3 of name of docs was not accepted: this source \
         has not published the manifest.",
        source.peer()
    );
    assert_eq!((&entry.message, entry.folder.as_deref()), (&expected, Some("name of docs")));
    // Another reason, and another folder.
    source.disk.set_fault(source.disk.operations(), Fault::Fail(io::ErrorKind::StorageFull));
    assert_eq!(answers(&chain[0], ReceiptAnswer::Failed), 2);
    assert!(journal.entries()[1].message.contains("it cannot be stored: cannot"));
    let unknown = signed_receipt(&source.server, &source.key, "none", (1, cid("none", 1)), None);
    assert_eq!(answers(&unknown, ReceiptAnswer::UnknownFolder), 3);
    assert_eq!(answers(&chain[0], ReceiptAnswer::Ok), 3);
    assert_eq!(answers(&chain[2], ReceiptAnswer::Refused), 4, "after an accepted one");
}

#[test]
fn a_receipt_of_another_key_server_or_source_is_refused() {
    let source = Source::new(2);
    let receipts = source.open();
    let stranger = Keypair::generate_secp256k1();
    let good = source.sign(1, None);
    // The right receipt, but from another peer, and a receipt of that peer for itself.
    let other = stranger.public().to_peer_id();
    assert_eq!(receipts.receive(other, &good), ReceiptAnswer::Refused);
    let of_other = signed_receipt(&stranger, &source.key, "docs", (1, cid("docs", 1)), None);
    assert_eq!(source.receive(&receipts, &of_other), ReceiptAnswer::Refused);
    // For another source.
    let of_source = signed_receipt(&source.server, &stranger, "docs", (1, cid("docs", 1)), None);
    assert_eq!(source.receive(&receipts, &of_source), ReceiptAnswer::Refused);
    // A signature of another receipt.
    let mut encoded = good.encode();
    encoded.signature = source.sign(2, None).encode().signature;
    let forged = SignedReceipt::parse(encoded).unwrap();
    assert_eq!(source.receive(&receipts, &forged), ReceiptAnswer::Refused);
    assert_eq!(source.disk.files(), Vec::<PathBuf>::new());
    // Each backup server has a chain of its own.
    assert_eq!(source.receive(&receipts, &good), ReceiptAnswer::Ok);
    assert_eq!(receipts.receive(other, &of_other), ReceiptAnswer::Ok);
    assert_eq!(problems(&receipts), "");
    assert_eq!(receipts.chains().len(), 2);
}

#[test]
fn an_old_receipt_again_changes_nothing() {
    let source = Source::new(5);
    let receipts = source.open();
    let chain = source.chain(5);
    for signed in &chain {
        assert_eq!(source.receive(&receipts, signed), ReceiptAnswer::Ok);
    }
    let before = source.content(&source.disk);
    for signed in &chain {
        assert_eq!(source.receive(&receipts, signed), ReceiptAnswer::Ok);
    }
    // A new receipt for a manifest that is confirmed already has no effect.
    let nothing_new = source.sign(4, chain.last());
    assert_eq!(source.receive(&receipts, &nothing_new), ReceiptAnswer::Refused);
    let nothing_new = source.sign(5, chain.last());
    assert_eq!(source.receive(&receipts, &nothing_new), ReceiptAnswer::Refused);
    assert_eq!(source.content(&source.disk), before);
    assert_eq!((confirmed(&receipts), problems(&receipts).as_str()), (Some(5), ""));
}

#[test]
fn a_restarted_chain_a_gap_and_a_fork_are_stored_and_reported_until_they_are_accepted() {
    let source = Source::new(9);
    let chain = source.chain(5);
    let fork = source.sign(6, Some(&chain[2]));
    let gap = {
        let before = source.sign(6, Some(&chain[4]));
        source.sign(7, Some(&before))
    };
    let restart = source.sign(5, None);
    for (odd, text) in [
        (&fork, "receipt 4 comes after receipt 5"),
        (&gap, "receipt 7 does not continue receipt 5"),
        (&restart, "receipt 1 comes after receipt 5"),
    ] {
        source.disk.lose(&source.path());
        let receipts = source.open();
        for signed in &chain {
            assert_eq!(source.receive(&receipts, signed), ReceiptAnswer::Ok);
        }
        assert_eq!(source.receive(&receipts, odd), ReceiptAnswer::Ok);
        assert!(problems(&receipts).contains(text), "{}", problems(&receipts));
        assert_eq!(confirmed(&receipts), Some(odd.confirmation().sequence.0));
        // The next one continues, and the problem stays, also after a restart.
        let next = source.sign(8, Some(odd));
        assert_eq!(source.receive(&receipts, &next), ReceiptAnswer::Ok);
        let receipts = source.open();
        assert!(problems(&receipts).contains(text), "{}", problems(&receipts));
        assert_eq!(confirmed(&receipts), Some(8));
        assert_eq!(receipts.accept(Some(&"other".parse().unwrap())).unwrap(), 0);
        assert_eq!(receipts.accept(Some(&docs())).unwrap(), 1);
        assert_eq!(problems(&receipts), "");
        assert_eq!(receipts.accept(None).unwrap(), 0);
        let receipts = source.open();
        assert_eq!((problems(&receipts).as_str(), receipts.chains()[0].count), ("", 7));
        assert_eq!(source.receive(&receipts, &source.sign(9, Some(&next))), ReceiptAnswer::Ok);
        assert_eq!(problems(&receipts), "");
    }
}

#[test]
fn a_source_that_lost_its_receipts_says_so() {
    let source = Source::new(5);
    let chain = source.chain(5);
    let receipts = source.open();
    assert_eq!(source.receive(&receipts, &chain[4]), ReceiptAnswer::Ok);
    assert!(problems(&receipts).contains("the receipts before receipt 5 are missing"));
    assert_eq!(confirmed(&receipts), Some(5));
}

#[test]
fn a_backup_server_cannot_fill_the_disk_with_chains() {
    let source = Source::new(3);
    let receipts = source.open();
    let mut answers = BTreeMap::new();
    for second in 0..40 {
        let mut content = source.sign(3, None).receipt().clone();
        content.confirmation.received_at = Timestamp::from_second(second).unwrap();
        let signed = content.sign(&source.server).unwrap();
        let answer = source.receive(&receipts, &signed);
        *answers.entry(format!("{answer:?}")).or_insert(0) += 1;
    }
    // The first starts the chain; 16 interruptions follow.
    assert_eq!(answers, BTreeMap::from([("ChainBroken".into(), 23), ("Ok".into(), 17)]));
    assert!(problems(&receipts).contains("and 15 more"), "{}", problems(&receipts));
    receipts.accept(None).unwrap();
    assert_eq!(source.receive(&receipts, &source.sign(2, None)), ReceiptAnswer::Ok);
}

#[test]
fn a_source_whose_numbers_went_back_gets_receipts_again() {
    let source = Source::new(9);
    let receipts = source.open();
    let first = source.sign(9, None);
    assert_eq!(source.receive(&receipts, &first), ReceiptAnswer::Ok);
    // Its state was lost. A receipt in the chain stays there, and is not confirmed any more.
    source.publish("docs", 2);
    let again = source.open();
    assert_eq!(source.receive(&again, &first), ReceiptAnswer::Ok);
    assert!(again.confirmed().borrow().is_empty());
    // The backup server has accepted the lower numbers.
    assert_eq!(source.receive(&receipts, &source.sign(2, Some(&first))), ReceiptAnswer::Ok);
    assert_eq!((confirmed(&receipts), problems(&receipts).as_str()), (Some(2), ""));
    assert_eq!(confirmed(&source.open()), Some(2));
}

#[test]
fn two_receipts_at_the_same_time_are_stored_one_after_the_other() {
    let source = Source::new(2);
    let receipts = source.open();
    let chain = source.chain(2);
    for signed in &chain {
        let answers: Vec<_> = std::thread::scope(|scope| {
            let receive = || source.receive(&receipts, signed);
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(receive)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(answers, [ReceiptAnswer::Ok; 8]);
    }
    assert_eq!((receipts.chains()[0].count, problems(&receipts).as_str()), (2, ""));
    assert_eq!(source.open().chains()[0].count, 2);
}

#[test]
fn a_receipt_that_cannot_be_stored_confirms_nothing() {
    let source = Source::new(2);
    let receipts = source.open();
    let chain = source.chain(2);
    assert_eq!(source.receive(&receipts, &chain[0]), ReceiptAnswer::Ok);
    source.disk.set_fault(0, Fault::FailForever(io::ErrorKind::StorageFull));
    assert_eq!(source.receive(&receipts, &chain[1]), ReceiptAnswer::Failed);
    assert!(problems(&receipts).contains("cannot be stored"), "{}", problems(&receipts));
    assert_eq!(confirmed(&receipts), Some(1));
    source.disk.clear_fault();
    assert_eq!(source.receive(&receipts, &chain[1]), ReceiptAnswer::Ok);
    assert_eq!((confirmed(&receipts), problems(&receipts).as_str()), (Some(2), ""));
}

#[test]
fn a_backup_server_without_signatures_is_named_until_it_signs() {
    let source = Source::new(1);
    let receipts = source.open();
    receipts.unsigned(source.peer());
    assert!(problems(&receipts).contains("without a signature"), "{}", problems(&receipts));
    assert_eq!(source.receive(&receipts, &source.sign(1, None)), ReceiptAnswer::Ok);
    assert_eq!(problems(&receipts), "");
}

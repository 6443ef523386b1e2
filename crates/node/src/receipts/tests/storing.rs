//! The files of the chains: crashes, failed writes, and damage.

use disk::sim::{EACCES, EIO, EMFILE, FaultRule};

use super::super::chain_file::{ChainState, Lines};
use super::*;

fn powers(at: u64) -> impl Iterator<Item = Power> {
    let fixed = [Power::Kept, Power::Dropped, Power::Torn];
    fixed.into_iter().chain((0..8).map(move |seed| Power::Reordered(at * 8 + seed)))
}

#[test]
fn a_crash_at_any_write_loses_no_answered_receipt() {
    let source = Source::new(4);
    let chain = source.chain(4);
    let mut crashes = 0;
    for fault in [Fault::Die, Fault::Fail(io::ErrorKind::Other)] {
        for at in 0.. {
            let disk = SimDisk::new();
            disk.create_dir(Path::new(DATA)).unwrap();
            let receipts = source.open_on(&disk);
            disk.set_fault(disk.operations() + at, fault);
            let first = disk.operations();
            let mut stored = 0;
            for signed in &chain[..3] {
                if source.receive(&receipts, signed) != ReceiptAnswer::Ok {
                    break;
                }
                stored += 1;
            }
            let is_done = disk.operations() <= first + at;
            assert!(is_done == (stored == 3), "{fault:?} at {at}: {stored}");
            if !is_done && fault != Fault::Die {
                // The process continues: the backup server sends the receipt again.
                assert_eq!(source.receive(&receipts, &chain[stored]), ReceiptAnswer::Ok);
                stored += 1;
            }
            for power in powers(at) {
                let disk = disk.crash(power);
                let receipts = source.open_on(&disk);
                assert_eq!(problems(&receipts), "", "{fault:?} at {at}, {power:?}");
                let found = confirmed(&receipts).unwrap_or(0);
                let is_right = found == stored as u64 || found == stored as u64 + 1;
                assert!(is_right, "{fault:?} at {at}, {power:?}: {found} of {stored}");
                // Everything that is sent again is stored, and the chain continues.
                for signed in &chain[stored..] {
                    assert_eq!(source.receive(&receipts, signed), ReceiptAnswer::Ok);
                }
                assert_eq!(problems(&receipts), "", "{fault:?} at {at}, {power:?}");
                let receipts = source.open_on(&disk.crash(Power::Dropped));
                assert_eq!(receipts.chains()[0].count, 4, "{fault:?} at {at}, {power:?}");
                assert_eq!((confirmed(&receipts), problems(&receipts).as_str()), (Some(4), ""));
                crashes += 1;
            }
            if is_done {
                break;
            }
        }
    }
    assert!(crashes > 100, "{crashes}");
}

#[test]
fn after_a_failed_sync_the_page_cache_is_not_believed() {
    let source = Source::new(1);
    let chain = source.chain(1);
    let receipts = source.open();
    // Syncs that do nothing, like the one after a failed one.
    source.disk.ignore_syncs(true, false);
    assert_eq!(source.receive(&receipts, &chain[0]), ReceiptAnswer::Ok);
    // A process that starts then finds the receipt in the page cache only.
    source.disk.ignore_syncs(false, false);
    let disk = source.disk.crash(Power::Kept);
    let receipts = source.open_on(&disk);
    let first = disk.operations();
    assert_eq!(source.receive(&receipts, &chain[0]), ReceiptAnswer::Ok);
    assert!(disk.operations() > first + 1, "the line is written and synced again");
    assert_eq!(confirmed(&source.open_on(&disk.crash(Power::Dropped))), Some(1));
}

#[test]
fn damage_is_reported_and_never_overwritten() {
    let source = Source::new(6);
    let chain = source.chain(6);
    let receipts = source.open();
    for signed in &chain[..5] {
        assert_eq!(source.receive(&receipts, signed), ReceiptAnswer::Ok);
    }
    drop(receipts);
    let good = source.content(&source.disk);
    let lines: Vec<&[u8]> = good.split_inclusive(|byte| *byte == b'\n').collect();
    let without = |line: usize| [&lines[..line], &lines[line + 1..]].concat().concat();
    let flipped = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        bytes
    };
    let start = |line: usize| lines[..line].iter().map(|line| line.len()).sum::<usize>();
    let all_damaged: Vec<u8> = lines.iter().flat_map(|line| [b"x", *line].concat()).collect();
    assert!(all_damaged.len() < 8000, "short enough for an interrupted write");
    for (damaged, text) in [
        (all_damaged, "line 1 is damaged"),
        (flipped(start(4)), "line 5 is damaged"),
        ([&good[..], b"x\n"].concat(), "line 6 is damaged"),
        ([&flipped(start(4))[..], b"x"].concat(), "line 5 is damaged"),
        (flipped(start(2)), "line 3 is damaged"),
        (flipped(start(1) - 1), "line 1 is damaged"),
        (without(0), "the receipts before receipt 2 are missing"),
        (without(2), "receipt 4 does not continue receipt 2"),
        (vec![0; 100_000], "line 1 is damaged"),
        ([&good[..], &[b'x'; 20_000]].concat(), "line 6 is damaged"),
        ([&good[..], lines[1]].concat(), "receipt 2 comes after receipt 5"),
    ] {
        source.disk.damage(&source.path(), |bytes| bytes.clone_from(&damaged));
        let receipts = source.open();
        assert!(problems(&receipts).contains(text), "{text}: {}", problems(&receipts));
        // The next receipt is appended; nothing is removed.
        let answer = source.receive(&receipts, &chain[5]);
        assert_eq!(answer, ReceiptAnswer::Ok, "{text}");
        let after = source.content(&source.disk);
        // Only a short last line without its end is set aside.
        let kept = damaged.strip_suffix(b"\nx").unwrap_or(&damaged).len();
        assert_eq!(after[..kept], damaged[..kept], "{text}");
        let reported = problems(&receipts);
        let receipts = source.open();
        assert_eq!(problems(&receipts), reported);
        assert!(reported.contains(text), "{text}: {reported}");
        assert_eq!(confirmed(&receipts), Some(6), "{text}");
        assert!(receipts.accept(None).unwrap() > 0);
        assert_eq!(problems(&source.open()), "", "{text}");
    }
}

#[test]
fn a_line_of_a_later_version_is_kept_and_is_no_damage() {
    let source = Source::new(3);
    let chain = source.chain(3);
    let receipts = source.open();
    for signed in &chain[..2] {
        assert_eq!(source.receive(&receipts, signed), ReceiptAnswer::Ok);
    }
    let good = String::from_utf8(source.content(&source.disk)).unwrap();
    let (first, last) = good.split_at(good.find('\n').unwrap() + 1);
    let of_version = |version: u64| {
        let (old, new) = ("archivist_receipt\\\":1,", format!("archivist_receipt\\\":{version},"));
        assert!(last.contains(old), "{last}");
        last.replace(old, &new)
    };
    for (line, text) in [
        ("{\"seen_at\":\"2026-11-22T10:00:00Z\"}\n".to_owned(), "newer version"),
        (last.replace("{\"receipt\"", "{\"seen\":[1],\"receipt\""), "newer version"),
        (of_version(2), "newer version"),
        (of_version(0), "is damaged"),
        (last.replace("\"signature\"", "\"signatvre\""), "is damaged"),
        ("{}\n".to_owned(), "is damaged"),
    ] {
        let content = format!("{first}{line}");
        source.disk.damage(&source.path(), |bytes| *bytes = content.clone().into_bytes());
        let receipts = source.open();
        let found = receipts.problems();
        assert!(found.len() == 1 && found[0].message.contains(text), "{line}: {found:?}");
        assert_eq!(found[0].action.contains("update"), text == "newer version", "{found:?}");
        assert_eq!(confirmed(&receipts), Some(1), "{line}");
        // The next receipt need not follow the one before the line.
        assert_eq!(source.receive(&receipts, &chain[2]), ReceiptAnswer::Ok);
        assert!(source.content(&source.disk).starts_with(content.as_bytes()), "{line}");
        assert_eq!(receipts.problems(), found);
        assert_eq!(source.open().problems(), found);
    }
}

#[test]
fn an_incomplete_line_without_a_free_name_for_its_copy_is_not_removed() {
    let source = Source::new(2);
    let chain = source.chain(2);
    assert_eq!(source.receive(&source.open(), &chain[0]), ReceiptAnswer::Ok);
    source.disk.damage(&source.path(), |bytes| bytes.extend(b"{\"receipt"));
    let before = source.content(&source.disk);
    let copy = |number: u32| PathBuf::from(format!("{}.damaged-{number}", source.path().display()));
    for number in 1..=9 {
        source.disk.create(&copy(number)).unwrap();
    }
    let receipts = source.open();
    assert_eq!(source.receive(&receipts, &chain[1]), ReceiptAnswer::Failed);
    assert_eq!(source.content(&source.disk), before);
    assert!(problems(&receipts).contains(".damaged-9 away"), "{}", problems(&receipts));
    for number in 1..=9 {
        source.disk.lose(&copy(number));
    }
    assert_eq!(source.receive(&receipts, &chain[1]), ReceiptAnswer::Ok);
    assert_eq!((confirmed(&receipts), problems(&receipts).as_str()), (Some(2), ""));
    assert_eq!(disk::read_file(&source.disk, &copy(1), 1000).unwrap(), b"{\"receipt");
}

#[test]
fn lines_that_another_program_added_are_not_removed() {
    let source = Source::new(4);
    let chain = source.chain(4);
    let receipts = source.open();
    for signed in &chain[..2] {
        assert_eq!(source.receive(&receipts, signed), ReceiptAnswer::Ok);
    }
    for (added, text) in [(&b"x\n"[..], "line 3 is damaged"), (b"y\n", "(and 1 more)")] {
        source.disk.damage(&source.path(), |bytes| bytes.extend_from_slice(added));
        let before = source.content(&source.disk);
        let next = &chain[usize::try_from(confirmed(&receipts).unwrap()).unwrap()];
        assert_eq!(source.receive(&receipts, next), ReceiptAnswer::Failed);
        assert_eq!(source.content(&source.disk), before);
        assert!(problems(&receipts).contains("has changed"), "{}", problems(&receipts));
        // The file is read again.
        assert_eq!(source.receive(&receipts, next), ReceiptAnswer::Ok);
        assert!(source.content(&source.disk).starts_with(&before));
        assert!(problems(&receipts).contains(text), "{}", problems(&receipts));
    }
    // Lines that were removed are not made up with zeros.
    source.disk.damage(&source.path(), |bytes| bytes.truncate(100));
    let before = source.content(&source.disk);
    assert!(receipts.accept(None).is_err());
    assert_eq!(source.content(&source.disk), before);
}

#[test]
fn an_incomplete_last_line_is_set_aside_and_sent_again() {
    let source = Source::new(2);
    let chain = source.chain(2);
    let receipts = source.open();
    for signed in &chain {
        assert_eq!(source.receive(&receipts, signed), ReceiptAnswer::Ok);
    }
    let good = source.content(&source.disk);
    let second = good.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    for cut in [second + 1, second + 100, good.len() - 1] {
        let tail = good[second..cut].to_vec();
        source.disk.damage(&source.path(), |bytes| *bytes = good[..cut].to_vec());
        let receipts = source.open();
        assert_eq!((confirmed(&receipts), problems(&receipts).as_str()), (Some(1), ""));
        assert_eq!(source.receive(&receipts, &chain[1]), ReceiptAnswer::Ok);
        assert_eq!(source.open().chains()[0].count, 2);
        let aside: Vec<_> =
            source.disk.files().into_iter().filter(|path| *path != source.path()).collect();
        let [aside] = &aside[..] else { panic!("{aside:?}") };
        assert!(aside.to_string_lossy().ends_with("docs.jsonl.damaged-1"), "{aside:?}");
        assert_eq!(disk::read_file(&source.disk, aside, 1 << 20).unwrap(), tail);
        source.disk.lose(aside);
    }
}

#[test]
fn a_long_incomplete_end_is_removed_completely() {
    let source = Source::new(2);
    let chain = source.chain(2);
    assert_eq!(source.receive(&source.open(), &chain[0]), ReceiptAnswer::Ok);
    source.disk.damage(&source.path(), |bytes| bytes.extend([b'x'; 8000]));
    assert_eq!(source.receive(&source.open(), &chain[1]), ReceiptAnswer::Ok);
    let receipts = source.open();
    assert_eq!((receipts.chains()[0].count, problems(&receipts).as_str()), (2, ""));
    assert!(source.content(&source.disk).ends_with(b"}\n"));
}

#[test]
fn a_failed_read_is_neither_absence_nor_damage() {
    let mut failures = 0;
    for error in [EIO, EACCES, EMFILE] {
        for at in 0.. {
            let source = Source::new(4);
            let chain = source.chain(4);
            let receipts = source.open();
            for signed in &chain[..3] {
                assert_eq!(source.receive(&receipts, signed), ReceiptAnswer::Ok);
            }
            let before = source.content(&source.disk);
            let armed =
                source.disk.add_fault(FaultRule::reads(error).on("/receipts").after(at).times(1));
            let own = source.key.public().to_peer_id();
            let opened = Receipts::open(
                Arc::new(source.disk.clone()),
                Path::new(DATA),
                own,
                SystemClock::shared(),
            );
            let mut answers = Vec::new();
            if let Ok(receipts) = &opened {
                receipts.connect(source.folders.clone(), BTreeMap::new());
                assert!(matches!(confirmed(receipts), None | Some(3)));
                let is_problem = !problems(receipts).is_empty();
                assert_eq!(is_problem, confirmed(receipts).is_none(), "{}", problems(receipts));
                // A replay, and the next one.
                answers.push(source.receive(receipts, &chain[0]));
                answers.push(source.receive(receipts, &chain[3]));
                let is_right = |answer: &ReceiptAnswer| {
                    matches!(answer, ReceiptAnswer::Ok | ReceiptAnswer::Failed)
                };
                assert!(answers.iter().all(is_right), "{error:?} at {at}: {answers:?}");
            }
            let is_done = armed.failures() == 0;
            failures += armed.failures();
            source.disk.clear_fault_rules();
            assert!(source.content(&source.disk).starts_with(&before), "{error:?} at {at}");
            let receipts = source.open();
            assert_eq!(source.receive(&receipts, &chain[3]), ReceiptAnswer::Ok);
            assert_eq!((receipts.chains()[0].count, problems(&receipts).as_str()), (4, ""));
            if is_done {
                break;
            }
        }
    }
    assert!(failures > 15, "{failures}");
}

#[test]
fn a_first_receipt_that_cannot_be_stored_is_reported() {
    let source = Source::new(1);
    let receipts = source.open();
    source.disk.add_fault(FaultRule::reads(EACCES).on("/receipts"));
    assert_eq!(source.receive(&receipts, &source.sign(1, None)), ReceiptAnswer::Failed);
    assert!(problems(&receipts).contains("cannot be read"), "{}", problems(&receipts));
    assert_eq!(confirmed(&receipts), None);
    source.disk.clear_fault_rules();
    assert_eq!(source.receive(&receipts, &source.sign(1, None)), ReceiptAnswer::Ok);
    assert_eq!((confirmed(&receipts), problems(&receipts).as_str()), (Some(1), ""));
}

#[test]
fn fuzz_chain() {
    let source = Source::new(3);
    let receipts = source.open();
    for signed in source.chain(3) {
        assert_eq!(source.receive(&receipts, &signed), ReceiptAnswer::Ok);
    }
    let own = source.key.public().to_peer_id();
    let id = ChainId { backup_server: source.peer(), folder: docs() };
    fuzzing::target!(&[source.content(&source.disk)], |bytes: &[u8]| {
        let mut state = ChainState::default();
        let mut end = 0;
        for line in Lines::new(bytes, &id, Some(&own)) {
            let line = line.unwrap();
            assert!(line.start == end && line.end > end);
            end = line.end;
            state.add(&line);
        }
        assert_eq!(end, bytes.len() as u64);
        assert!(state.first_open.is_some() == (state.open > 0));
    });
}

#[test]
fn a_signature_that_is_damaged_confirms_nothing_until_the_receipt_arrives_again() {
    let source = Source::new(1);
    let signed = source.sign(1, None);
    assert_eq!(source.receive(&source.open(), &signed), ReceiptAnswer::Ok);
    let other = source.sign(1, Some(&signed)).encode().signature;
    let content = String::from_utf8(source.content(&source.disk)).unwrap();
    let damaged = content.replace(&signed.encode().signature, &other);
    assert_ne!(content, damaged);
    source.disk.damage(&source.path(), |bytes| *bytes = damaged.into_bytes());
    let receipts = source.open();
    assert_eq!(confirmed(&receipts), None);
    assert!(problems(&receipts).contains("signature of receipt 1"), "{}", problems(&receipts));
    assert_eq!(source.receive(&receipts, &signed), ReceiptAnswer::Ok);
    for receipts in [receipts, source.open()] {
        assert_eq!((confirmed(&receipts), problems(&receipts).as_str()), (Some(1), ""));
    }
}

#[test]
fn a_file_that_cannot_be_read_is_kept_and_read_later() {
    let dir = tempfile::tempdir().unwrap();
    let source = Source::new(2);
    let chain = source.chain(2);
    let own = source.key.public().to_peer_id();
    let open = || {
        let receipts =
            Receipts::open(Arc::new(disk::RealDisk), dir.path(), own, SystemClock::shared())
                .unwrap();
        receipts.connect(source.folders.clone(), BTreeMap::new());
        receipts
    };
    assert_eq!(source.receive(&open(), &chain[0]), ReceiptAnswer::Ok);
    let path = dir.path().join(DIR).join(format!("{}.docs.jsonl", source.peer()));
    let content = std::fs::read(&path).unwrap();
    // A directory in its place cannot be opened as a file, not even by root.
    std::fs::rename(&path, dir.path().join("away")).unwrap();
    std::fs::create_dir(&path).unwrap();
    let receipts = open();
    assert_eq!(confirmed(&receipts), None);
    assert!(problems(&receipts).contains("cannot be read"), "{}", problems(&receipts));
    assert_eq!(source.receive(&receipts, &chain[1]), ReceiptAnswer::Failed);
    std::fs::remove_dir(&path).unwrap();
    std::fs::rename(dir.path().join("away"), &path).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), content);
    assert_eq!(source.receive(&receipts, &chain[1]), ReceiptAnswer::Ok);
    assert_eq!((confirmed(&receipts), problems(&receipts).as_str()), (Some(2), ""));
    let listed = read_receipts(dir.path(), Some(&own), |_| true).unwrap();
    assert_eq!((listed.len(), listed[0].receipts.len(), listed[0].open), (1, 2, 0));
    assert!(listed[0].receipts.iter().all(|receipt| receipt.problem.is_none()));
    // The signature of another receipt.
    let lines = std::fs::read_to_string(&path).unwrap();
    let [mut first, second] = [0, 1].map(|number| -> serde_json::Value {
        serde_json::from_str(lines.lines().nth(number).unwrap()).unwrap()
    });
    first["signature"] = second["signature"].clone();
    std::fs::write(&path, format!("{first}\n{second}\n")).unwrap();
    let listed = read_receipts(dir.path(), Some(&own), |_| true).unwrap();
    let problems: Vec<_> = listed[0].receipts.iter().map(|receipt| &receipt.problem).collect();
    assert_eq!(problems, [&Some(Interruption::Unsigned { number: 1 }), &None]);
    assert_eq!(listed[0].damage, [Interruption::Unsigned { number: 1 }]);
    // The receipt that was sent again replaces the one with a damaged signature.
    let good = lines.lines().next().unwrap();
    std::fs::write(&path, format!("{first}\n{good}\n")).unwrap();
    let listed = read_receipts(dir.path(), Some(&own), |_| true).unwrap();
    assert_eq!(listed[0].damage, [Interruption::Unsigned { number: 1 }]);
    // A line that is there twice, and a last line without its end.
    std::fs::write(&path, format!("{good}\n{lines}{good}")).unwrap();
    let listed = read_receipts(dir.path(), Some(&own), |_| true).unwrap();
    let repeated = Interruption::Repeated { line: 2, number: 1 };
    let problems: Vec<_> = listed[0].receipts.iter().map(|receipt| &receipt.problem).collect();
    assert_eq!(problems, [&None, &Some(repeated.clone()), &None]);
    assert_eq!(listed[0].damage, [repeated, Interruption::Cut { line: 4 }]);
    std::fs::write(&path, lines).unwrap();
    assert_eq!(read_receipts(dir.path(), Some(&own), |_| false).unwrap().len(), 0);
    // One short line, damaged, is damage for the list, too. The rest of a line without an end may
    // be an interrupted write: it is reported, and interrupts nothing.
    let mut content = content;
    content[0] = b'x';
    for (content, open) in [(&content[..], 1), (&content[..content.len() - 1], 0)] {
        std::fs::write(&path, content).unwrap();
        let listed = read_receipts(dir.path(), Some(&own), |_| true).unwrap();
        let [listed] = &listed[..] else { panic!("{listed:?}") };
        assert_eq!((listed.receipts.len(), listed.damage.len(), listed.open), (0, 1, open));
    }
}

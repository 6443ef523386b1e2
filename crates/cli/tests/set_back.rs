//! The logs of the roots are set back: both are older copies, or their last records are zeros. The
//! logs do not show that; the receipts that this backup server has signed do.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::kept::{Thing, commit, confirm};
use common::{Home, eventually, noise, run};
use serde_json::Value;

const FOLDER: &str = "folder docs";

fn logs(home: &Path) -> [PathBuf; 2] {
    ["a.log", "b.log"].map(|log| home.join("data/store/roots").join(log))
}

fn listed(home: &Home) -> usize {
    run(home.path(), ["snapshots", "--json"]).json().as_array().unwrap().len()
}

/// Creates a home with the snapshots 1 to 3 of a folder, which are confirmed. Returns the logs of
/// the roots as they were after the first one.
fn kept() -> (Home, [Vec<u8>; 2]) {
    let home = Home::new("");
    home.init();
    let mut older = Default::default();
    for sequence in 1..=3 {
        let files = [(&b"a.txt"[..], Thing::File(noise(sequence, 100_000)))];
        let at = format!("2026-11-2{sequence}T10:00:00Z");
        let snapshot = commit(home.path(), "docs", sequence, &at, &files);
        confirm(home.path(), &snapshot);
        if sequence == 1 {
            older = logs(home.path()).map(|log| fs::read(log).unwrap());
        }
    }
    for command in ["snapshots", "verify", "recover", "prune"] {
        assert_eq!(run(home.path(), [command]).code, Some(0), "{command}");
    }
    assert_eq!(listed(&home), 3);
    (home, older)
}

fn set_back(home: &Home, older: &[Vec<u8>; 2]) {
    for (log, bytes) in logs(home.path()).iter().zip(older) {
        fs::write(log, bytes).unwrap();
    }
}

/// Overwrites the last record of both logs by zeros, as a file system after a power cut.
fn zero_last_record(home: &Home) {
    for log in logs(home.path()) {
        let mut bytes = fs::read(&log).unwrap();
        let last = bytes.windows(4).rposition(|bytes| bytes == b"RTR1").unwrap();
        bytes[last..].fill(0);
        fs::write(&log, bytes).unwrap();
    }
}

#[track_caller]
fn assert_held(home: &Home, sequence: u64) {
    let ran = run(home.path(), ["prune"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let snapshot = format!("snapshot {sequence} of {FOLDER}");
    for part in [&snapshot, "`archivist recover`", "--accept-roots", "--discard"] {
        assert!(ran.err.contains(part), "{part}: {ran:?}");
    }
}

/// Holds for both losses, and for the two ways to collect with a command.
#[test]
fn nothing_is_collected_while_a_confirmed_snapshot_is_not_listed() {
    for is_zeroed in [false, true] {
        let (home, older) = kept();
        if is_zeroed {
            zero_last_record(&home);
        } else {
            set_back(&home, &older);
        }
        let lost = if is_zeroed { 1 } else { 2 };
        // Readers say so, and change nothing.
        let ran = run(home.path(), ["snapshots"]);
        assert_eq!(ran.code, Some(4), "{ran:?}");
        assert!(ran.err.contains("snapshot 3 of folder docs"), "{ran:?}");
        assert_eq!(run(home.path(), ["verify"]).code, Some(4));
        let ran = run(home.path(), ["recover"]);
        assert_eq!(ran.code, Some(4), "{ran:?}");
        assert!(ran.out.contains(&format!("{lost} snapshot")), "{ran:?}");

        assert_held(&home, 3);
        let daemon = home.start();
        assert_held(&home, 3);
        let notices = daemon.v1("/status")["notices"].to_string();
        assert!(notices.contains("list of snapshots is incomplete"), "{notices}");
        // A newer snapshot does not hide that older ones are lost.
        daemon.terminate();
        let files = [(&b"a.txt"[..], Thing::File(noise(4, 100_000)))];
        confirm(home.path(), &commit(home.path(), "docs", 4, "2026-11-24T10:00:00Z", &files));
        assert_eq!(run(home.path(), ["prune"]).code, Some(1));
        assert_eq!(run(home.path(), ["prune", "--accept-roots"]).code, Some(1));

        let ran = run(home.path(), ["recover", "--yes"]);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        assert_eq!(listed(&home), 4);
        let ran = run(home.path(), ["prune", "--accept-roots"]);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        for command in ["snapshots", "verify", "recover", "prune"] {
            let ran = run(home.path(), [command]);
            assert_eq!(ran.code, Some(0), "{command}: {ran:?}");
        }
    }
}

#[test]
fn an_automatic_collection_is_held_too() {
    let (home, older) = kept();
    set_back(&home, &older);
    let daemon = home.start();
    let packs = home.path().join("data/store/packs");
    let len = || -> u64 {
        fs::read_dir(&packs).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).sum()
    };
    let cid = daemon.upload(noise(9, 300_000));
    let before = len();
    let url = daemon.url(&format!("/data/{cid}"));
    assert_eq!(daemon.http().delete(url).send().unwrap().status(), 204);
    eventually("the collection is refused", || {
        let notices = daemon.v1("/status")["notices"].to_string();
        notices.contains("cannot free space") && notices.contains("snapshot 3 of folder docs")
    });
    assert!(len() >= before);
    daemon.terminate();
    assert_eq!(run(home.path(), ["recover", "--yes"]).code, Some(0));
    assert_eq!(listed(&home), 3);
    assert_eq!(run(home.path(), ["verify", "--full"]).code, Some(4), "not accepted yet");
}

#[test]
fn snapshots_that_are_gone_can_be_given_up_for_good() {
    let (home, older) = kept();
    set_back(&home, &older);
    assert_held(&home, 3);
    // The owner gives up the snapshots 2 and 3.
    let ran = run(home.path(), ["prune", "--accept-roots", "--discard"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let ok = |commands: &[&str]| {
        for command in commands {
            let ran = run(home.path(), [command]);
            assert_eq!(ran.code, Some(0), "{command}: {ran:?}");
        }
    };
    ok(&["snapshots", "verify", "recover", "prune"]);
    let daemon = home.start();
    ok(&["prune", "verify"]);
    let notices = daemon.v1("/status")["notices"].to_string();
    assert!(!notices.contains("incomplete"), "{notices}");
    daemon.terminate();
    assert_eq!(listed(&home), 1);
    // The source backs up the same state again. Lost a second time, it is missed again.
    let older = logs(home.path()).map(|log| fs::read(log).unwrap());
    let files = [(&b"a.txt"[..], Thing::File(noise(3, 100_000)))];
    confirm(home.path(), &commit(home.path(), "docs", 3, "2026-11-25T10:00:00Z", &files));
    ok(&["prune"]);
    set_back(&home, &older);
    assert_held(&home, 3);
}

/// Without the packs, nothing is found; `recover` names what is missing.
#[test]
fn recover_names_confirmed_snapshots_that_it_does_not_find() {
    let (home, older) = kept();
    set_back(&home, &older);
    let moved = run(home.path(), ["recover", "--json"]).json();
    assert_eq!(moved["complete"], true, "{moved}");
    // The packs are older copies, too: nothing is left of the snapshots 2 and 3.
    let other = kept_one();
    fs::remove_dir_all(home.path().join("data/store/packs")).unwrap();
    for part in ["packs", "pack-list", "index", "roots"] {
        copy(&other.path().join("data/store").join(part), &home.path().join("data/store"));
    }
    let ran = run(home.path(), ["recover"]);
    assert_eq!(ran.code, Some(4), "{ran:?}");
    assert!(ran.err.contains("has confirmed snapshot 3 of folder docs"), "{ran:?}");
    assert_held(&home, 3);
    let ran = run(home.path(), ["prune", "--accept-roots"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.err.contains("has confirmed snapshot 3 of folder docs"), "{ran:?}");
    let ran = run(home.path(), ["prune", "--accept-roots", "--discard"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(run(home.path(), ["prune"]).code, Some(0));
    assert_eq!(run(home.path(), ["recover"]).code, Some(0));
}

fn kept_one() -> Home {
    let home = Home::new("");
    home.init();
    let files = [(&b"a.txt"[..], Thing::File(noise(1, 100_000)))];
    commit(home.path(), "docs", 1, "2026-11-21T10:00:00Z", &files);
    home
}

fn copy(from: &Path, to: &Path) {
    let to = to.join(from.file_name().unwrap());
    if from.is_dir() {
        fs::create_dir_all(&to).unwrap();
        for file in fs::read_dir(from).unwrap() {
            copy(&file.unwrap().path(), &to);
        }
    } else if from.exists() {
        fs::copy(from, to).unwrap();
    }
}

/// Retention removes snapshots that were confirmed, also those of a source that is not in the
/// configuration any more, and never holds a collection.
#[test]
fn retention_never_holds_a_collection() {
    let home = Home::new(
        "[backup_server]\nkeep = { within = \"0\", last = 1, hourly = 0, daily = 0, weekly = 0, monthly = 0 }\n",
    );
    home.init();
    for sequence in 1..=12 {
        let files = [(&b"a.txt"[..], Thing::File(noise(sequence, 10_000)))];
        let at = format!("2026-10-{:02}T10:00:00Z", sequence + 10);
        let snapshot = commit(home.path(), "docs", sequence, &at, &files);
        confirm(home.path(), &snapshot);
        if sequence % 3 == 0 {
            let ran = run(home.path(), ["prune", "--json"]);
            assert_eq!(ran.code, Some(0), "{ran:?}");
            assert_eq!(ran.json()["not_collected"], Value::Null);
            assert_eq!(listed(&home), 1);
        }
    }
    // The source was reset, and accepted: its numbers start again.
    let files = [(&b"a.txt"[..], Thing::File(noise(20, 10_000)))];
    commit(home.path(), "docs", 1, "2026-10-25T10:00:00Z", &files);
    let daemon = home.start();
    assert_eq!(run(home.path(), ["prune"]).code, Some(0));
    daemon.terminate();
    assert_eq!(listed(&home), 1);
}

/// The logs were set back to a state before a prune: snapshots that were removed are listed again,
/// with their records, and their files are gone. Only `--discard` removes them.
#[test]
fn a_snapshot_that_was_removed_before_does_not_hold_the_collection_for_good() {
    let keep =
        "keep = { within = \"0\", last = 1, hourly = 0, daily = 0, weekly = 0, monthly = 0 }";
    let home = Home::new(&format!("[backup_server]\n{keep}\n"));
    home.init();
    let commit_at = |sequence: u64, files: &[(&[u8], Thing)]| {
        let at = format!("2026-10-1{sequence}T10:00:00Z");
        confirm(home.path(), &commit(home.path(), "docs", sequence, &at, files));
    };
    commit_at(1, &[(b"a.txt", Thing::File(noise(1, 600_000)))]);
    let older = logs(home.path()).map(|log| fs::read(log).unwrap());
    // Its nodes fill the pack of nodes, which is kept, with the record of the first snapshot.
    let names: Vec<String> = (0..3000).map(|number| format!("{number:05}")).collect();
    let small = |name: &String| Thing::File(noise(name.parse::<u64>().unwrap() + 9, 33));
    let files: Vec<_> = names.iter().map(|name| (name.as_bytes(), small(name))).collect();
    commit_at(2, &files);
    assert_eq!(run(home.path(), ["prune"]).code, Some(0));
    assert_eq!(listed(&home), 1);
    set_back(&home, &older);
    assert_eq!(run(home.path(), ["recover", "--yes"]).code, Some(0));
    assert_eq!(listed(&home), 2);
    let ran = run(home.path(), ["prune", "--accept-roots"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.err.contains("1 snapshot is incomplete"), "{ran:?}");
    let ran = run(home.path(), ["prune", "--accept-roots", "--discard"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.out.contains("it had been removed"), "{ran:?}");
    assert_eq!(listed(&home), 1);
    for command in ["snapshots", "verify", "recover", "prune"] {
        let ran = run(home.path(), [command]);
        assert_eq!(ran.code, Some(0), "{command}: {ran:?}");
    }
}

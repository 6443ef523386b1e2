//! `archivist recover` without a running instance, as its owner uses it after the logs of roots
//! are gone.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::kept::{PEER, Thing, commit, open};
use common::{Home, noise, run};
use serde_json::{Value, json};
use snapshots::SnapshotStore;
use store::Root;
use types::{Cid, Codec};

/// Creates a home with three snapshots.
fn kept() -> (Home, Vec<String>) {
    let home = Home::new("");
    home.init();
    let first: [(&[u8], Thing); 1] = [(b"a.txt", Thing::File(b"old".to_vec()))];
    let second: [(&[u8], Thing); 2] =
        [(b"a.txt", Thing::File(b"new".to_vec())), (b"big", Thing::File(noise(1, 2_000_000)))];
    let ids = [
        commit(home.path(), "docs", 1, "2026-11-22T10:00:00Z", &first),
        commit(home.path(), "docs", 2, "2026-11-22T11:00:00Z", &second),
        commit(home.path(), "pics", 1, "2026-11-22T10:30:00Z", &first),
    ];
    (home, ids.iter().map(|snapshot| snapshot.id.to_string()).collect())
}

fn lose_roots(home: &Path) {
    for log in ["a.log", "b.log"] {
        fs::remove_file(home.join("data/store/roots").join(log)).unwrap();
    }
}

fn listed(home: &Home) -> Value {
    run(home.path(), ["snapshots", "--json"]).json()
}

fn states(report: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let found = report["snapshots"].as_array().unwrap();
    found.iter().map(|one| (text(&one["id"]), text(&one["state"]))).collect()
}

fn with(ids: &[String], state: [&str; 3]) -> Vec<(String, String)> {
    ids.iter().cloned().zip(state.map(str::to_owned)).collect()
}

#[test]
fn lost_roots_are_found_shown_and_set_on_request() {
    let (home, ids) = kept();
    let before = listed(&home);
    let ran = run(home.path(), ["recover"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.out.contains("nothing is lost: 3 listed snapshots found"), "{ran:?}");

    lose_roots(home.path());
    assert_eq!(listed(&home), json!([]));
    let report = run(home.path(), ["recover", "--json"]).json();
    assert_eq!(states(&report), with(&ids, ["lost"; 3]));
    assert_eq!((&report["complete"], &report["recovered"]), (&json!(true), &json!(0)));
    assert_eq!(listed(&home), json!([]), "nothing is changed without --yes");
    let ran = run(home.path(), ["recover"]);
    assert_eq!(ran.code, Some(4), "{ran:?}");
    assert!(ran.out.contains("3 snapshots and data items stored but not listed"), "{ran:?}");
    assert!(ids.iter().all(|id| ran.out.contains(id)), "{ran:?}");

    let one = run(home.path(), ["recover", &ids[1][..6], "--yes", "--json"]).json();
    assert_eq!(states(&one), with(&ids, ["lost", "recovered", "lost"]));
    assert_eq!(listed(&home).as_array().unwrap().len(), 1);
    let ran = run(home.path(), ["recover", "--yes"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.out.contains("2 snapshots and data items listed again"), "{ran:?}");
    assert_eq!(listed(&home), before);
    assert_eq!(run(home.path(), ["recover"]).code, Some(0));
    // Nothing is damaged, but the owner has not accepted the list yet.
    let verified = run(home.path(), ["verify", "--full"]);
    assert_eq!(verified.code, Some(4), "{verified:?}");
    assert!(verified.err.contains("the list of snapshots is incomplete"), "{verified:?}");
    assert!(verified.out.contains("checked 3 snapshots"), "{verified:?}");
}

#[test]
fn a_removed_snapshot_is_set_only_by_its_name() {
    let (home, ids) = kept();
    let snapshots = SnapshotStore::new(open(home.path()));
    let first = snapshots.list().unwrap().snapshots.remove(0);
    snapshots.remove(&first).unwrap();
    drop(snapshots);
    let left = listed(&home);
    lose_roots(home.path());
    let report = run(home.path(), ["recover", "--yes", "--json"]).json();
    assert_eq!(states(&report), with(&ids, ["removed", "recovered", "recovered"]));
    assert_eq!(listed(&home), left);
    let ran = run(home.path(), ["recover", &ids[0], "--yes"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(listed(&home).as_array().unwrap().len(), 3);
}

#[test]
fn a_name_that_selects_nothing_is_refused_and_nothing_is_set() {
    let (home, ids) = kept();
    lose_roots(home.path());
    for (name, part) in [("ffffffffff", "no snapshot"), (&ids[0][..3], "no snapshot")] {
        let ran = run(home.path(), ["recover", &ids[1], name, "--yes"]);
        assert_eq!(ran.code, Some(1), "{ran:?}");
        assert!(ran.err.contains(part) && ran.err.contains(name), "{ran:?}");
    }
    assert_eq!(listed(&home), json!([]));
}

fn packs(home: &Path, kind: &str) -> Vec<PathBuf> {
    let files = fs::read_dir(home.join("data/store/packs")).unwrap();
    let files = files.map(|file| file.unwrap().path());
    files.filter(|file| file.file_name().unwrap().to_str().unwrap().starts_with(kind)).collect()
}

#[test]
fn a_snapshot_with_a_missing_block_is_reported() {
    let (home, ids) = kept();
    lose_roots(home.path());
    for pack in packs(home.path(), "d-") {
        fs::remove_file(pack).unwrap();
    }
    let report = run(home.path(), ["recover", "--yes", "--json"]).json();
    assert_eq!(states(&report), with(&ids, ["incomplete"; 3]));
    assert_eq!(listed(&home), json!([]));
    let ran = run(home.path(), ["recover", &ids[0], "--yes"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.err.contains("is incomplete"), "{ran:?}");
}

#[test]
fn an_instance_that_was_never_started_has_nothing_to_recover() {
    let home = Home::new("");
    home.init();
    let ran = run(home.path(), ["recover"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.out.contains("nothing is lost"), "{ran:?}");
}

/// Runs commands that read the list of snapshots, without and with JSON, and checks their exit
/// codes, and that they report damage: with this text each.
fn assert_reported(home: &Home, expected: [(&str, i32, [&str; 2]); 3]) {
    for (command, code, parts) in expected {
        for (json, part) in [false, true].into_iter().zip(parts) {
            let mut arguments = vec![command];
            arguments.extend(json.then_some("--json"));
            let ran = run(home.path(), arguments);
            assert_eq!(ran.code, Some(code), "{command}: {ran:?}");
            let is_said = ran.err.contains(part) || ran.out.contains(part);
            assert!(is_said, "{command}, {part:?}: {ran:?}");
        }
    }
}

/// Without roots, and without records of listed snapshots, no command that reads the list
/// succeeds as if nothing had happened, with and without a running instance.
#[test]
fn a_list_with_gaps_is_reported_by_every_command_that_reads_it() {
    let (home, _) = kept();
    for command in ["snapshots", "verify", "recover"] {
        assert_eq!(run(home.path(), [command]).code, Some(0), "{command}");
    }
    let roots = home.path().join("data/store/roots");
    let saved: Vec<_> = ["a.log", "b.log"].map(|log| fs::read(roots.join(log)).unwrap()).into();
    lose_roots(home.path());
    let incomplete = "the list of snapshots is incomplete";
    let lost = [
        ("snapshots", 4, [incomplete; 2]),
        ("verify", 4, [incomplete; 2]),
        ("recover", 4, ["stored but not listed", "\"lost\""]),
    ];
    assert_reported(&home, lost);
    let daemon = home.start();
    assert_reported(&home, lost);
    let notices = daemon.v1("/status")["notices"].to_string();
    assert!(notices.contains(incomplete), "{notices}");
    daemon.terminate();

    // The roots are back, and the records of the listed snapshots are gone.
    for (log, bytes) in ["a.log", "b.log"].iter().zip(saved) {
        fs::write(roots.join(log), bytes).unwrap();
    }
    for pack in packs(home.path(), "m-") {
        fs::remove_file(pack).unwrap();
    }
    let gone = [
        ("snapshots", 4, ["the record is missing"; 2]),
        ("verify", 1, ["the record is missing"; 2]),
        ("recover", 4, ["has no record"; 2]),
    ];
    assert_reported(&home, gone);
    let daemon = home.start();
    assert_reported(&home, gone);
    daemon.terminate();
}

/// With the roots and a pack of nodes gone, a search finds nothing. That does not mean that
/// nothing was there, also for a store that is too small for an index on disk.
#[test]
fn roots_are_not_accepted_while_a_pack_is_missing() {
    let (home, _) = kept();
    let accept = |more: &[&str]| run(home.path(), [&["prune", "--accept-roots"], more].concat());
    lose_roots(home.path());
    fs::remove_dir_all(home.path().join("data/store/index")).unwrap();
    let nodes = packs(home.path(), "m-");
    for pack in &nodes {
        fs::rename(pack, pack.with_extension("away")).unwrap();
    }
    let data = packs(home.path(), "d-");
    assert!(!data.is_empty() && !nodes.is_empty());
    for _ in 0..2 {
        let daemon = home.start();
        let ran = accept(&[]);
        assert_eq!(ran.code, Some(1), "{ran:?}");
        assert!(ran.err.contains("is missing") && ran.err.contains("--discard"), "{ran:?}");
        let ran = run(home.path(), ["recover"]);
        assert_eq!(ran.code, Some(4), "{ran:?}");
        assert!(ran.err.contains("is missing"), "{ran:?}");
        daemon.terminate();
        assert_eq!(packs(home.path(), "d-"), data);
    }
    // The pack is back, and everything is recovered.
    for pack in &nodes {
        fs::rename(pack.with_extension("away"), pack).unwrap();
    }
    let ran = run(home.path(), ["recover", "--yes"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let daemon = home.start();
    let ran = accept(&[]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    daemon.terminate();
    assert_eq!(listed(&home).as_array().unwrap().len(), 3);

    // The owner can go on without the pack.
    lose_roots(home.path());
    for pack in packs(home.path(), "m-") {
        fs::remove_file(pack).unwrap();
    }
    let daemon = home.start();
    assert_eq!(accept(&[]).code, Some(1));
    let ran = accept(&["--discard"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    daemon.terminate();
    assert_eq!(run(home.path(), ["snapshots"]).code, Some(0));
    assert!(packs(home.path(), "d-").is_empty());
}

#[test]
fn roots_are_accepted_without_an_instance_only_if_nothing_is_lost() {
    let (home, ids) = kept();
    lose_roots(home.path());
    let ran = run(home.path(), ["prune"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    // Three snapshots are in the packs and not in the list.
    let ran = run(home.path(), ["prune", "--accept-roots"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    for part in ["3 snapshots are stored but not listed", "recover --yes", "--discard"] {
        assert!(ran.err.contains(part), "{part}: {ran:?}");
    }
    assert_eq!(run(home.path(), ["recover", "--yes"]).code, Some(0));
    let before = listed(&home);
    // The receipts that were signed are read, too.
    let issued = home.path().join("data/issued-receipts");
    fs::create_dir(&issued).unwrap();
    fs::write(issued.join(format!("{PEER}.docs.json")), "damaged").unwrap();
    let ran = run(home.path(), ["prune", "--accept-roots"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.err.contains("docs.json is damaged"), "{ran:?}");
    fs::remove_dir_all(&issued).unwrap();
    let ran = run(home.path(), ["prune", "--accept-roots", "--json"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(ran.json()["not_collected"], Value::Null);
    assert_eq!(listed(&home), before);
    assert_eq!(run(home.path(), ["verify", "--full"]).code, Some(0));
    // The roots are complete again: space is freed without a confirmation.
    assert_eq!(run(home.path(), ["prune"]).code, Some(0));

    // The owner can discard what is not listed.
    lose_roots(home.path());
    assert_eq!(run(home.path(), ["recover", &ids[2], "--yes"]).code, Some(0));
    let ran = run(home.path(), ["prune", "--accept-roots", "--discard", "--json"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(listed(&home).as_array().unwrap().len(), 1);
    let found = run(home.path(), ["recover", "--json"]).json();
    assert_eq!(states(&found), [(ids[2].clone(), "known".to_owned())]);
}

/// A listed snapshot whose record is gone stops every collection, and cannot be restored. Only
/// `--discard` removes it, and says so.
#[test]
fn a_listed_snapshot_without_a_record_can_be_discarded() {
    let (home, ids) = kept();
    let snapshots = SnapshotStore::new(open(home.path()));
    let store = snapshots.store();
    let gone = Root { cid: Cid::of(Codec::DagCbor, b"gone"), partial: false };
    let name = snapshots::root_name(&PEER.parse().unwrap(), &"docs".parse().unwrap(), 9);
    store.set_root(&name, gone, store.write_epoch()).unwrap();
    drop(snapshots);
    assert_eq!(run(home.path(), ["prune"]).code, Some(1));
    let ran = run(home.path(), ["recover"]);
    assert_eq!(ran.code, Some(4), "{ran:?}");
    let ran = run(home.path(), ["prune", "--accept-roots"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    for part in ["1 snapshot is incomplete", "--repair", "no record", "--discard` removes"] {
        assert!(ran.err.contains(part), "{part}: {ran:?}");
    }
    for is_running in [false, true] {
        let daemon = is_running.then(|| home.start());
        let ran = run(home.path(), ["prune", "--accept-roots", "--discard"]);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        let said = format!("discarded: {name}: the record is missing");
        assert_eq!(ran.out.contains(&said), !is_running, "{ran:?}");
        assert_eq!(run(home.path(), ["verify"]).code, Some(0));
        drop(daemon);
    }
    assert_eq!(run(home.path(), ["recover"]).code, Some(0));
    assert_eq!(listed(&home).as_array().unwrap().len(), ids.len());
}

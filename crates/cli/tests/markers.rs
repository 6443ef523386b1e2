//! A store that is missing, another store and a lost identity stop the start, and
//! nothing is created in their place.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::path::Path;

use common::kept::{PEER, Thing, commit, confirm};
use common::{Home, Ran, run};

/// A home with a snapshot whose instance has run once.
fn used() -> Home {
    let home = Home::new("");
    home.init();
    let things: [(&[u8], Thing); 1] = [(b"a.txt", Thing::File(b"new".to_vec()))];
    commit(home.path(), "docs", 1, "2026-11-22T10:00:00Z", &things);
    assert_eq!(home.start().terminate().0, Some(0));
    home
}

/// Runs a command that must fail, and returns its message.
fn refused(home: &Home, arguments: &[&str]) -> String {
    let Ran { code, err, .. } = run(home.path(), arguments);
    assert_eq!(code, Some(1), "{arguments:?}: {err}");
    err
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_store_without_a_marker_gets_one() {
    let home = used();
    let marker = |dir: &str| std::fs::read(home.path().join(dir).join("marker.json")).unwrap();
    assert_eq!(marker("data"), marker("data/store"));
    let before = marker("data");
    assert_eq!(home.start().terminate().0, Some(0));
    assert_eq!(marker("data"), before);
}

/// Nothing was created in the directory of the store, and the store that was moved away is used
/// again.
fn assert_empty_and_put_back(home: &Home, elsewhere: &Path) {
    let store = home.path().join("data/store");
    assert_eq!(names(&store), [""; 0]);
    std::fs::remove_dir(&store).unwrap();
    std::fs::rename(elsewhere, &store).unwrap();
    assert_eq!(home.start().terminate().0, Some(0));
    assert_eq!(run(home.path(), ["snapshots", "--json"]).json().as_array().unwrap().len(), 1);
}

/// The disk of the store is not mounted: there is an empty directory, or none.
#[test]
fn a_missing_store_stops_the_start_and_is_not_replaced() {
    let home = used();
    let (store, elsewhere) = (home.path().join("data/store"), home.path().join("elsewhere"));
    std::fs::rename(&store, &elsewhere).unwrap();
    for exists in [false, true] {
        if exists {
            std::fs::create_dir(&store).unwrap();
        }
        let said = refused(&home, &["daemon"]);
        assert!(said.contains("is missing") && said.contains("mounted"), "{said}");
        for command in ["snapshots", "verify", "prune", "recover"] {
            let said = refused(&home, &[command]);
            assert!(said.contains("is missing"), "{command}: {said}");
        }
        assert_eq!(store.exists(), exists);
    }
    assert_empty_and_put_back(&home, &elsewhere);
}

/// The first start after an update from a version without markers.
#[test]
fn a_missing_store_of_an_instance_without_markers_is_not_replaced() {
    let home = used();
    let (store, elsewhere) = (home.path().join("data/store"), home.path().join("elsewhere"));
    std::fs::rename(&store, &elsewhere).unwrap();
    std::fs::remove_file(home.path().join("data/marker.json")).unwrap();
    std::fs::remove_file(elsewhere.join("marker.json")).unwrap();
    std::fs::create_dir(&store).unwrap();
    for command in ["daemon", "init", "snapshots", "verify", "prune", "recover"] {
        let said = refused(&home, &[command]);
        assert!(said.contains("is missing") && said.contains("mounted"), "{command}: {said}");
    }
    assert_empty_and_put_back(&home, &elsewhere);
}

/// The marker is all that is left of the store, or something else is in its place.
#[test]
fn a_store_without_content_is_not_taken_for_a_new_one() {
    let home = used();
    let (store, elsewhere) = (home.path().join("data/store"), home.path().join("elsewhere"));
    std::fs::rename(&store, &elsewhere).unwrap();
    let commands = ["daemon", "init", "snapshots", "verify", "recover", "prune", "ls"];
    std::fs::create_dir(&store).unwrap();
    for left in [&["marker.json"][..], &["marker.json", "format"]] {
        for name in left {
            std::fs::copy(elsewhere.join(name), store.join(name)).unwrap();
        }
        for command in commands {
            let arguments = [command, "abcd"];
            let count = if command == "ls" { 2 } else { 1 };
            let said = refused(&home, &arguments[..count]);
            assert!(said.contains("has lost its content"), "{command}: {said}");
        }
        let mut left = left.to_vec();
        left.sort_unstable();
        assert_eq!(names(&store), left);
    }
    std::fs::remove_dir_all(&store).unwrap();
    std::fs::write(&store, "").unwrap();
    for command in &commands[..6] {
        let said = refused(&home, &[command]);
        assert!(said.contains("is not a directory"), "{command}: {said}");
    }
    std::fs::remove_file(&store).unwrap();
    std::fs::create_dir(&store).unwrap();
    assert_empty_and_put_back(&home, &elsewhere);
}

/// The confirmed snapshots of the old store are not missed in the new one.
#[test]
fn a_store_that_is_lost_for_good_is_replaced_on_request() {
    let home = Home::new("");
    home.init();
    let things: [(&[u8], Thing); 1] = [(b"a.txt", Thing::File(b"new".to_vec()))];
    let at = "2026-11-22T10:00:00Z";
    confirm(home.path(), &commit(home.path(), "docs", 1, at, &things));
    assert_eq!(home.start().terminate().0, Some(0));
    let peer_id = home.peer_id();
    let store = home.path().join("data/store");
    for dir in ["packs", "roots", "index", "pack-list"] {
        let path = store.join(dir);
        if path.is_dir() {
            std::fs::remove_dir_all(path).unwrap();
        } else {
            std::fs::remove_file(path).unwrap();
        }
    }
    refused(&home, &["init"]);
    let accepted = run(home.path(), ["init", "--accept-store", "--json"]);
    assert_eq!(accepted.json()["peer_id"], peer_id, "{accepted:?}");
    assert_eq!(run(home.path(), ["snapshots", "--json"]).json().as_array().unwrap().len(), 0);
    assert_eq!(home.start().terminate().0, Some(0));
    assert_eq!(run(home.path(), ["snapshots", "--json"]).json().as_array().unwrap().len(), 0);
    assert_eq!(run(home.path(), ["prune"]).code, Some(0));
}

#[test]
fn another_store_stops_the_start() {
    let [home, other] = [used(), used()];
    let store = home.path().join("data/store");
    std::fs::rename(&store, home.path().join("own")).unwrap();
    std::fs::rename(other.path().join("data/store"), &store).unwrap();
    let said = refused(&home, &["daemon"]);
    assert!(said.contains("another store"), "{said}");
    for command in ["snapshots", "verify", "recover", "prune"] {
        let said = refused(&home, &[command]);
        assert!(said.contains("another store"), "{command}: {said}");
    }
    // Restoring is harmless, and the warning is printed.
    let target = home.path().join("target");
    let restore = ["restore", "--folder", "docs", "--target", target.to_str().unwrap()];
    let restored = run(home.path(), restore);
    assert_eq!(restored.code, Some(0), "{restored:?}");
    assert!(restored.err.contains("another store"), "{restored:?}");
    assert_eq!(names(&target), ["a.txt"]);
    // Without the marker of the data directory, as from an older backup of it.
    std::fs::remove_file(home.path().join("data/marker.json")).unwrap();
    for command in [&["daemon"][..], &["prune"], &["recover", "--yes"]] {
        let said = refused(&home, command);
        assert!(said.contains("belongs to the instance"), "{command:?}: {said}");
    }
}

#[test]
fn a_lost_identity_stops_the_start() {
    let home = used();
    let peer_id = home.peer_id();
    let (key, aside) = (home.path().join("data/identity.key"), home.path().join("key"));
    std::fs::rename(&key, &aside).unwrap();
    for command in ["daemon", "init"] {
        let said = refused(&home, &[command]);
        assert!(said.contains("identity.key is missing"), "{command}: {said}");
        assert!(!key.exists(), "{command}");
    }
    // Reading needs no identity.
    assert_eq!(run(home.path(), ["snapshots"]).code, Some(0));
    // Another identity is refused, too.
    let other = Home::new("");
    other.init();
    std::fs::copy(other.path().join("data/identity.key"), &key).unwrap();
    let said = refused(&home, &["daemon"]);
    assert!(said.contains(&peer_id) && said.contains(&other.peer_id()), "{said}");
    std::fs::rename(&aside, &key).unwrap();
    assert_eq!(home.start().terminate().0, Some(0));
    std::fs::remove_file(&key).unwrap();
    let accepted = run(home.path(), ["init", "--accept-store", "--json"]);
    assert_ne!(accepted.json()["peer_id"], peer_id, "{accepted:?}");
    assert_eq!(home.start().terminate().0, Some(0));
}

#[test]
fn an_empty_data_directory_is_not_filled_if_the_instance_was_used() {
    let home = Home::new(&format!(
        "[[backup_server.source_peers]]\nname = \"Desk\"\n\
         manifest_server_url = \"http://192.0.2.10:8085\"\npeer_id = \"{PEER}\"\n"
    ));
    let data = home.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let said = refused(&home, &["daemon"]);
    assert!(said.contains("is empty") && said.contains("mounted"), "{said}");
    assert_eq!(names(&data), [""; 0]);
    home.init();
    assert_eq!(home.start().terminate().0, Some(0));
}

#[test]
fn a_running_instance_is_not_changed() {
    let home = Home::new("");
    let daemon = home.start();
    let said = refused(&home, &["init", "--accept-store"]);
    assert!(said.contains("is running"), "{said}");
    assert_eq!(home.init()["peer_id"], daemon.v1("/status")["peer_id"]);
}

//! `archivist init` and `archivist daemon` as a user runs them.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use common::kept::{Thing, commit, open};
use common::{Home, archivist, free_port};
use snapshots::{SnapshotRecord, SnapshotStore};
use types::{Cid, Codec};

#[test]
fn init_makes_what_is_missing_and_changes_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let run = || archivist(dir.path()).args(["init", "--json"]).output().unwrap();
    let first = run();
    assert!(first.status.success());
    let told: serde_json::Value = serde_json::from_slice(&first.stdout).unwrap();
    assert!(told["peer_id"].as_str().unwrap().starts_with("16Uiu2HA"));
    let config = dir.path().join("config.toml");
    assert_eq!(told["config"], config.to_str().unwrap());
    assert_eq!(told["data"], dir.path().join("data").to_str().unwrap());
    let key = dir.path().join("data/identity.key");
    assert_eq!(std::fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    std::fs::write(&config, "# mine\n[node]\nmdns = false\n").unwrap();
    let second = run();
    assert_eq!(second.stdout, first.stdout);
    assert_eq!(std::fs::read_to_string(&config).unwrap(), "# mine\n[node]\nmdns = false\n");
}

#[test]
fn an_invalid_configuration_stops_everything_and_stays_as_it_is() {
    let home = Home::new("");
    let text = "[node]\nlisten_prt = 8070\n";
    std::fs::write(home.config(), text).unwrap();
    for command in ["init", "daemon"] {
        let output = archivist(home.path()).arg(command).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{command}");
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains("config.toml") && error.contains("listen_prt"), "{error}");
        assert!(error.contains("listen_port"), "it says what was meant: {error}");
    }
    assert_eq!(std::fs::read_to_string(home.config()).unwrap(), text);
}

#[test]
fn wrong_usage_is_two() {
    let dir = tempfile::tempdir().unwrap();
    for arguments in [&["nonsense"][..], &["init", "--nonsense"], &[]] {
        let output = archivist(dir.path()).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn a_daemon_ends_within_five_seconds_and_starts_again_as_the_same() {
    let home = Home::new("");
    let peer = home.peer_id();
    let daemon = home.start();
    assert_eq!(daemon.json("/peerid")["id"], *peer);
    let cid = daemon.upload("kept over a restart");
    let (code, took) = daemon.terminate();
    assert_eq!(code, Some(0));
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert!(!home.path().join("data/running.json").exists());
    let daemon = home.start();
    assert_eq!(daemon.json("/peerid")["id"], *peer);
    assert_eq!(daemon.get(&format!("/data/{cid}")).text().unwrap(), "kept over a restart");
}

#[test]
fn what_is_removed_while_nothing_runs_is_forgotten_and_what_is_merely_absent_is_not() {
    let port = format!("[manifest_server]\nport = {}\n", free_port());
    let home = Home::new(&port);
    let dir = tempfile::tempdir().unwrap();
    let daemon = home.start();
    let manifest_of = |name: &str| {
        let path = dir.path().join(name);
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("f"), name).unwrap();
        assert!(home.run(&["folder", "add", path.to_str().unwrap()]).status.success());
        let registered = home.run_json(&["sync", name, "--json"]);
        registered[0]["manifest_cid"].as_str().unwrap().to_owned()
    };
    let absent = manifest_of("absent");
    let with_one = std::fs::read_to_string(home.config()).unwrap();
    let removed = manifest_of("removed");
    let with_both = std::fs::read_to_string(home.config()).unwrap();
    assert_eq!(daemon.terminate().0, Some(0));

    // One folder is removed by the command; the other is only missing from the file for a while.
    assert!(home.run(&["folder", "remove", "removed"]).status.success());
    assert_eq!(std::fs::read_to_string(home.config()).unwrap(), with_one);
    home.configure(&port);
    let daemon = home.start();
    let is_there = |cid: &str| home.run(&["manifest", "show", cid]).status.success();
    let gone = (0..500).any(|_| {
        std::thread::sleep(Duration::from_millis(20));
        !is_there(&removed)
    });
    assert!(gone, "{}", daemon.log());
    assert!(is_there(&absent));
    let noted = home.path().join("data/removed-folders");
    let settled = (0..500).any(|_| {
        std::thread::sleep(Duration::from_millis(20));
        !noted.exists()
    });
    assert!(settled);
    assert_eq!(daemon.terminate().0, Some(0));

    // A removal that was recorded but not carried out has no effect.
    std::fs::write(home.config(), &with_both).unwrap();
    let ids: Vec<String> = with_both
        .lines()
        .filter_map(|line| Some(line.strip_prefix("id = \"")?.strip_suffix('"')?.to_owned()))
        .collect();
    std::fs::write(&noted, format!("{}\n", ids[0])).unwrap();
    let daemon = home.start();
    let settled = (0..500).any(|_| {
        std::thread::sleep(Duration::from_millis(20));
        !noted.exists()
    });
    assert!(settled && is_there(&absent), "{}", daemon.log());
}

#[test]
fn what_was_acknowledged_survives_kill_9() {
    let home = Home::new("");
    for round in 0..5 {
        let daemon = home.start();
        let cids: Vec<String> = (0..20).map(|n| daemon.upload(format!("{round} {n}"))).collect();
        daemon.kill();
        let daemon = home.start();
        for (n, cid) in cids.iter().enumerate() {
            let content = daemon.get(&format!("/data/{cid}")).text().unwrap();
            assert_eq!(content, format!("{round} {n}"));
        }
        assert_eq!(daemon.json("/data")["content"].as_array().unwrap().len(), 20 * (round + 1));
    }
}

#[test]
fn a_second_daemon_on_the_same_data_and_a_taken_port_are_plain_errors() {
    let home = Home::new("");
    let daemon = home.start();
    // With the port of the first, as in every real configuration, and with another one.
    let text = std::fs::read_to_string(home.config()).unwrap();
    let running = std::fs::read(home.path().join("data/running.json")).unwrap();
    let pid = &serde_json::from_slice::<serde_json::Value>(&running).unwrap()["pid"];
    let port = daemon.api().rsplit(':').next().unwrap().to_owned();
    for port in ["0", &port] {
        let text = text.replace("api_port = 0", &format!("api_port = {port}"));
        std::fs::write(home.config(), text).unwrap();
        let second = archivist(home.path()).arg("daemon").output().unwrap();
        assert_eq!(second.status.code(), Some(1));
        let error = String::from_utf8(second.stderr).unwrap();
        let expected = format!("process {pid}, API {}; stop that", daemon.api());
        assert!(error.contains("is already running") && error.contains(&expected), "{error}");
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    for key in ["listen_port", "api_port"] {
        let other = Home::new("");
        let text = std::fs::read_to_string(other.config()).unwrap();
        let text = text.replace(&format!("{key} = 0"), &format!("{key} = {port}"));
        std::fs::write(other.config(), text).unwrap();
        let output = archivist(other.path()).arg("daemon").output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{key}");
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains(&port.to_string()) && error.contains("in use"), "{key}: {error}");
    }
}

/// The versions of a file are in the backup server's order, independent of the source's sequence
/// numbers. An unreadable snapshot hides none of them.
#[test]
fn the_versions_of_a_file_come_in_order_and_past_what_is_damaged() {
    let home = Home::new("");
    home.init();
    let at = |hour: u32| format!("2026-11-22T{hour:02}:00:00Z");
    let commit_file = |sequence: u64, hour: u32, content: &str| {
        let things: [(&[u8], Thing); 1] = [(b"f", Thing::File(content.into()))];
        commit(home.path(), "docs", sequence, &at(hour), &things)
    };
    commit_file(40, 8, "old");
    let middle = commit_file(41, 9, "middle");
    let store = open(home.path());
    let snapshots = SnapshotStore::new(store.clone());
    let nowhere = Cid::of(Codec::DagCbor, b"nowhere");
    let order = snapshots.next_order();
    let broken = SnapshotRecord { manifest: nowhere, order, ..middle.record };
    snapshots.commit(broken, store.write_epoch()).unwrap();
    drop((snapshots, store));
    // The source lost its state and was accepted again.
    commit_file(1, 11, "the newest");
    let daemon = home.start();
    let token = std::fs::read_to_string(home.path().join("data/api-token")).unwrap();
    let ask = |path: &str| {
        let url = format!("http://{}/api/v1/file-versions?folder=docs&path={path}", daemon.api());
        daemon.http().get(url).bearer_auth(token.trim()).send().unwrap()
    };
    let versions: serde_json::Value = ask("f").json().unwrap();
    let sizes: Vec<_> = versions
        .as_array()
        .unwrap()
        .iter()
        .map(|version| version["entry"]["size_bytes"].as_u64().unwrap())
        .collect();
    assert_eq!(sizes, [10, 6, 3], "{versions}");
    // With an unreadable snapshot, "no versions" would not be certain.
    assert!(!ask("g").status().is_success());
}

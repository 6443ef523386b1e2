//! Two computers are paired with a code and then back up, following the README.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::fs;

use common::{Home, assert_same, eventually, free_port};
use serde_json::Value;

/// A home as `archivist init` creates it, with its own ports.
fn fresh() -> Home {
    let home = Home::new("");
    fs::remove_file(home.config()).unwrap();
    home.init();
    for (key, value) in [
        ("node.bind", "[\"127.0.0.1\"]".to_owned()),
        ("node.mdns", "false".to_owned()),
        ("node.disk_reserve", "0".to_owned()),
        ("node.listen_port", free_port().to_string()),
        ("node.discovery_port", free_port().to_string()),
        ("node.api_port", "0".to_owned()),
        ("manifest_server.port", free_port().to_string()),
        ("backup_server.trigger_port", free_port().to_string()),
        ("sync.manifest_max_delay_ms", "100".to_owned()),
    ] {
        let done = home.run(&["config", "set", key, &value]);
        assert!(done.status.success(), "{key}: {}", String::from_utf8_lossy(&done.stderr));
    }
    home
}

fn output(home: &Home, arguments: &[&str]) -> (Option<i32>, String) {
    let done = home.run(arguments);
    let text = [done.stdout, done.stderr].concat();
    (done.status.code(), String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn from_nothing_to_a_restored_file_in_a_few_commands() {
    let (a, b) = (fresh(), fresh());
    let (running_a, running_b) = (a.start(), b.start());
    let code: Value = a.run_json(&["pair", "--json"]);
    let code = code["code"].as_str().unwrap().to_owned();
    // The code is refused on A itself, and with a typing error.
    let (exit, text) = output(&a, &["pair", &code]);
    assert!(exit == Some(1) && text.contains("backup server"), "{text}");
    let (exit, text) = output(&b, &["pair", &code[..code.len() - 1]]);
    assert!(exit == Some(1) && text.contains("incomplete or mistyped"), "{text}");
    // Upper case and groups are accepted.
    let spaced: Vec<String> = code
        .to_uppercase()
        .as_bytes()
        .chunks(6)
        .map(|part| String::from_utf8_lossy(part).into())
        .collect();
    let joined = b.run_json(&["pair", &spaced.join("-"), "--json"]);
    assert_eq!(joined["peer_id"], a.peer_id());
    // The code works once.
    let third = fresh();
    let running_third = third.start();
    let (exit, text) = output(&third, &["pair", &code]);
    assert!(exit == Some(1) && text.contains("not valid or has expired"), "{text}");
    assert_eq!(third.run_json(&["source", "list", "--json"]), serde_json::json!([]));
    drop(running_third);

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("Documents");
    fs::create_dir(&path).unwrap();
    fs::write(path.join("letter.txt"), "Dear all").unwrap();
    fs::write(path.join("cache.tmp"), "x").unwrap();
    let added = output(&a, &["folder", "add", path.to_str().unwrap(), "--exclude", "*.tmp"]);
    assert_eq!(added.0, Some(0), "{}", added.1);
    let backed_up = output(&a, &["backup-now", "--wait", "60"]);
    assert_eq!(backed_up.0, Some(0), "{}", backed_up.1);
    let status = a.run_json(&["status", "--json"]);
    let shown = &status["folders"][0];
    assert_eq!(shown["name"], "Documents");
    assert_eq!(shown["files"], 1);
    assert_eq!(shown["backed_up_sequence"], shown["sequence"]);
    assert!(shown["errors"].as_array().unwrap().is_empty());
    for key in ["id", "path", "state", "manifest_cid", "bytes", "pending_changes", "backed_up_at"] {
        assert!(!shown[key].is_null(), "{key}");
    }
    let sources = b.run_json(&["source", "list", "--json"]);
    assert_eq!(sources[0]["peer_id"], a.peer_id());
    let target = folder.path().join("back");
    let restored =
        output(&b, &["restore", "--folder", "Documents", "--target", target.to_str().unwrap()]);
    assert_eq!(restored.0, Some(0), "{}", restored.1);
    assert_eq!(fs::read_to_string(target.join("letter.txt")).unwrap(), "Dear all");
    assert!(!target.join("cache.tmp").exists());

    // The pairing, the ids and the sequence numbers survive a restart.
    running_a.kill();
    running_b.kill();
    fs::remove_file(path.join("cache.tmp")).unwrap();
    let (running_a, _running_b) = (a.start(), b.start());
    fs::write(path.join("letter.txt"), "Dear all,").unwrap();
    eventually("it is there", || {
        let now = running_a.v1("/folders")[0].clone();
        now["sequence"].as_u64() > shown["sequence"].as_u64()
            && now["backed_up_sequence"] == now["sequence"]
    });
    fs::remove_dir_all(&target).unwrap();
    assert_eq!(
        output(&b, &["restore", "--folder", "Documents", "--target", target.to_str().unwrap()]).0,
        Some(0)
    );
    assert_same(&path, &target);
    // Existing files are not replaced without --overwrite.
    fs::write(target.join("letter.txt"), "mine").unwrap();
    let again =
        output(&b, &["restore", "--folder", "Documents", "--target", target.to_str().unwrap()]);
    assert!(again.0 == Some(1) && again.1.contains("letter.txt"), "{}", again.1);
    assert_eq!(fs::read_to_string(target.join("letter.txt")).unwrap(), "mine");
    // A removed folder is no longer listed; its snapshots on B are kept.
    let id = shown["id"].as_str().unwrap();
    assert_eq!(output(&a, &["folder", "remove", id]).0, Some(0));
    assert_eq!(a.run_json(&["status", "--json"])["folders"], serde_json::json!([]));
    assert!(!b.run_json(&["snapshots", "--json"]).as_array().unwrap().is_empty());
}

#[test]
fn wrong_codes_do_not_use_a_code_up() {
    let (a, b, stranger) = (fresh(), fresh(), fresh());
    let (running_a, _running_b, _running_stranger) = (a.start(), b.start(), stranger.start());
    let first: Value = a.run_json(&["pair", "--json"]);
    // A new code replaces the old one, which is no longer valid.
    let second: Value = a.run_json(&["pair", "--json"]);
    for _ in 0..3 {
        let (exit, text) = output(&stranger, &["pair", first["code"].as_str().unwrap()]);
        assert!(exit == Some(1) && text.contains("not valid or has expired"), "{text}");
    }
    let text = fs::read_to_string(a.config()).unwrap();
    assert!(!text.contains(&stranger.peer_id()), "nothing was set");
    assert_eq!(running_a.v1("/pairing")["state"], "waiting");
    // From the same address as the wrong ones.
    let (exit, text) = output(&b, &["pair", second["code"].as_str().unwrap()]);
    assert_eq!(exit, Some(0), "{text}");
    assert!(fs::read_to_string(a.config()).unwrap().contains(&b.peer_id()));
}

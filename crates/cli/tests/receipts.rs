//! The signed receipts of a backup server: listed, exported, verified by a script that knows
//! nothing of Archivist, and continued after each side lost its part of the chain.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

mod common;

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use common::{Daemon, Two, eventually};
use net::{Access, Net, NetConfig};
use protocols::{OfferedSnapshots, SNAPSHOTS_PROTOCOL, UNSIGNED_RECEIPT_PROTOCOL};
use serde_json::Value;
use store::MemStore;
use testkit::{PATIENCE, Provider};

/// Runs the script of `packaging` on an export. Returns whether it finds the export right, and its
/// output; `None` if there is no Python here.
fn verify(export: &Value) -> Option<(bool, String)> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging/verify-receipts.py");
    let spawned =
        Command::new("python3").arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let Ok(mut running) = spawned else {
        eprintln!("left out: python3 is missing");
        return None;
    };
    running.stdin.take().unwrap().write_all(export.to_string().as_bytes()).unwrap();
    let output = running.wait_with_output().unwrap();
    Some((output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned()))
}

/// Backs up another state of the folder.
fn back_up(two: &Two, content: &str) {
    fs::write(two.path().join("file.txt"), content).unwrap();
    two.backed_up();
}

fn notices(a: &Daemon) -> String {
    a.v1("/status")["notices"].to_string()
}

/// Returns the one file of a chain of receipts. An instance that was ended while it wrote the file
/// leaves another one beside it.
fn chain_file(home: &Path, dir: &str) -> PathBuf {
    let files = fs::read_dir(home.join("data").join(dir)).unwrap();
    let mut files: Vec<_> = files.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension != "new"));
    assert_eq!(files.len(), 1, "{files:?}");
    files.remove(0)
}

#[test]
fn the_chain_is_a_proof_without_the_program() {
    let two = Two::new();
    let (a, b) = (two.a.start(), two.b.start());
    for number in 0..3 {
        back_up(&two, &number.to_string());
    }
    let receipts = two.a.run_json(&["receipts", "--json"]);
    let rows = receipts.as_array().unwrap();
    assert!(rows.len() >= 3, "{receipts:#}");
    let newest = rows.last().unwrap();
    let folder = a.v1("/folders")[0].clone();
    assert_eq!(newest["sequence"], folder["backed_up_sequence"]);
    assert_eq!(newest["manifest_cid"], folder["manifest_cid"]);
    assert_eq!(newest["backup_server"], two.b.peer_id());
    assert_eq!(newest["folder_name"], "Documents");
    assert_eq!(newest["number"].as_u64().unwrap(), rows.len() as u64);
    assert_eq!(newest["previous"], rows[rows.len() - 2]["hash"]);
    assert_eq!(a.v1("/receipts")[0]["newest"]["number"], newest["number"]);
    let metrics = a.http().get(format!("http://{}/metrics", a.api())).send().unwrap();
    let metrics = metrics.text().unwrap();
    let arrived: jiff::Timestamp = newest["arrived_at"].as_str().unwrap().parse().unwrap();
    for (name, value) in [
        ("receipts", rows.len().to_string()),
        ("receipt_last_seconds", arrived.as_second().to_string()),
        ("receipt_problems", "0".to_owned()),
    ] {
        let labels = format!("folder=\"{}\",backup_server=\"{}\"", common::FOLDER, two.b.peer_id());
        let line = format!("archivist_{name}{{{labels}}} {value}\n");
        assert!(metrics.contains(&line), "{line}{metrics}");
    }
    // The API exports the same.
    let token = fs::read_to_string(two.a.path().join("data/api-token")).unwrap();
    let url = format!("http://{}/api/v1/receipts/export", a.api());
    let exported = a.http().get(url).bearer_auth(token.trim()).send().unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&exported.bytes().unwrap()).unwrap(), receipts);
    assert_eq!(two.b.run_json(&["receipts", "--json"]), serde_json::json!([]));
    // By name, by id, and another folder; the table; without an instance.
    for folder in ["Documents", common::FOLDER] {
        assert_eq!(two.a.run_json(&["receipts", "--folder", folder, "--json"]), receipts);
    }
    for arguments in [&["receipts", "--folder", "x"][..], &["receipts", "accept", "--folder", "x"]]
    {
        let refused = two.a.run(arguments);
        assert_eq!(refused.status.code(), Some(1), "{arguments:?}");
        let text = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(text.contains("no folder is called \"x\"; known folders: Documents"), "{text}");
    }
    let table = two.a.run(&["receipts"]);
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    assert!(table.contains(newest["manifest_cid"].as_str().unwrap()), "{table}");
    assert_eq!(two.a.run(&["receipts", "accept"]).status.code(), Some(0));
    drop((a, b));
    assert_eq!(two.a.run_json(&["receipts", "--json"]), receipts);
    receipts_without_the_key(&two, &receipts);
    let empty = common::Home::new("");
    assert_eq!(empty.run(&["receipts"]).status.code(), Some(1), "no data directory");
    fs::create_dir(empty.path().join("data")).unwrap();
    assert_eq!(empty.run_json(&["receipts", "--json"]), serde_json::json!([]));
    assert_eq!(fs::read_dir(empty.path().join("data")).unwrap().count(), 0);
    assert_eq!(two.a.run(&["receipts", "accept"]).status.code(), Some(3));

    let Some((is_right, text)) = verify(&receipts) else { return };
    assert!(is_right && text.contains("0 problems"), "{text}");
    // Every change of an export is found.
    let changed = |change: fn(&mut Vec<Value>)| {
        let mut rows = rows.clone();
        change(&mut rows);
        verify(&Value::Array(rows)).unwrap()
    };
    for (name, (is_right, text)) in [
        ("a receipt is missing", changed(|rows| drop(rows.remove(1)))),
        ("the first is missing", changed(|rows| drop(rows.remove(0)))),
        ("two are exchanged", changed(|rows| rows.swap(0, 1))),
        (
            "the text is changed",
            changed(|rows| {
                let text =
                    rows[1]["receipt"].as_str().unwrap().replace("\"sequence\":", "\"sequence\":9");
                rows[1]["receipt"] = text.into();
            }),
        ),
        (
            "the signature is of another receipt",
            changed(|rows| rows[1]["signature"] = rows[0]["signature"].clone()),
        ),
    ] {
        assert!(!is_right && !text.contains("0 problems"), "{name}: {text}");
    }
}

/// The receipts are listed without the key of the source, with a damaged key, and with another one.
fn receipts_without_the_key(two: &Two, receipts: &Value) {
    let (key, peer_id) = (two.a.path().join("data/identity.key"), two.a.peer_id());
    let good = fs::read(&key).unwrap();
    let other = fs::read(two.b.path().join("data/identity.key")).unwrap();
    for (content, code, expected) in [
        (None, 0, "identity.key is missing"),
        (Some(&b"x"[..]), 0, "is not a secp256k1 libp2p key"),
        (Some(&other[..]), 1, "identity.key was replaced"),
    ] {
        fs::remove_file(&key).unwrap();
        if let Some(content) = content {
            fs::write(&key, content).unwrap();
        }
        let listed = two.a.run(&["receipts", "--json"]);
        let text = String::from_utf8_lossy(&listed.stderr).into_owned();
        assert_eq!(listed.status.code(), Some(code), "{text}");
        assert!(text.contains(expected) && text.contains(&peer_id), "{text}");
        assert_eq!(serde_json::from_slice::<Value>(&listed.stdout).unwrap(), *receipts);
        assert_eq!(fs::read(&key).ok().as_deref(), content);
        if content.is_none() {
            fs::write(&key, "").unwrap();
        }
    }
    fs::write(&key, good).unwrap();
}

#[test]
fn a_chain_that_either_side_lost_is_reported_until_it_is_accepted() {
    let two = Two::new();
    let (a, b) = (two.a.start(), two.b.start());
    back_up(&two, "1");
    back_up(&two, "2");
    assert!(!notices(&a).contains("receipts"), "{}", notices(&a));
    // B loses what it signed.
    b.terminate();
    fs::remove_file(chain_file(two.b.path(), "issued-receipts")).unwrap();
    let b = two.b.start();
    back_up(&two, "3");
    eventually("the interruption is reported", || notices(&a).contains("is interrupted"));
    let listed = two.a.run(&["receipts"]);
    assert_eq!(listed.status.code(), Some(1));
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(text.contains("the chain was restarted"), "{text}");
    assert!(two.a.run(&["receipts", "accept", "--folder", "Documents"]).status.success());
    assert!(!notices(&a).contains("is interrupted"));
    assert!(two.a.run(&["receipts"]).status.success());
    // The script, which trusts nobody's acceptance, still shows it.
    let export = two.a.run_json(&["receipts", "--json"]);
    if let Some((is_right, text)) = verify(&export) {
        assert!(!is_right && text.contains("does not follow"), "{text}");
    }
    // A loses its receipts: nothing is confirmed until B has sent the newest one again.
    a.terminate();
    b.terminate();
    fs::remove_file(chain_file(two.a.path(), "receipts")).unwrap();
    let a = two.a.start();
    assert!(a.v1("/folders")[0]["backed_up_sequence"].is_null());
    let _b = two.b.start();
    two.eventually_same(&a);
    eventually("the missing receipts are reported", || notices(&a).contains("are missing"));
    assert!(two.a.run(&["receipts", "accept"]).status.success());
    assert!(!notices(&a).contains("are missing"));
}

/// A backup server of which nothing but its key is left.
#[test]
fn a_backup_server_that_hides_what_it_confirmed_is_named() {
    let two = Two::new();
    let (a, b) = (two.a.start(), two.b.start());
    back_up(&two, "1");
    b.terminate();
    assert!(!notices(&a).contains("does not list"));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let key = net::identity::load_or_create(&two.b.path().join("data/identity.key")).unwrap();
    let peer = two.a.peer_id().parse().unwrap();
    let addresses: Vec<net::Multiaddr> =
        a.addresses().iter().map(|address| address.parse().unwrap()).collect();
    let connected = runtime.block_on(async {
        let config = NetConfig {
            tcp: vec!["127.0.0.1:0".parse().unwrap()],
            protocols: vec![SNAPSHOTS_PROTOCOL, UNSIGNED_RECEIPT_PROTOCOL],
            ..NetConfig::default()
        };
        let provider = Arc::new(Provider(Arc::new(MemStore::new())));
        let fake = Net::start(config, key, provider, Access::new()).await.unwrap();
        let streams = fake.accept(&SNAPSHOTS_PROTOCOL).unwrap();
        let nothing = Arc::new(|_: &_, _: Option<&_>| Ok(OfferedSnapshots::default()));
        tokio::spawn(protocols::serve_snapshots(streams, |_| true, nothing));
        fake.handle().connect(peer, addresses, PATIENCE).await.unwrap();
        // It also sends a receipt of an earlier version.
        let stream = fake.handle().open(peer, UNSIGNED_RECEIPT_PROTOCOL).await.unwrap();
        (fake, stream)
    });
    eventually("the missing snapshot is reported", || notices(&a).contains("does not list"));
    eventually("the old version is reported", || notices(&a).contains("without a signature"));
    // The proof is still there.
    assert!(!two.a.run_json(&["receipts", "--json"]).as_array().unwrap().is_empty());
    drop(connected);
    runtime.shutdown_background();
    // The real one is back.
    let _b = two.b.start();
    back_up(&two, "2");
    eventually("the problems are gone", || {
        let notices = notices(&a);
        !notices.contains("does not list") && !notices.contains("without a signature")
    });
}

//! The commands against a fake instance: their requests, their output and their exit codes.

#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "../common/mod.rs"]
mod common;
mod restores;

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::sync::atomic::{AtomicU64, Ordering};

use common::fake::{Fake, Request};
use common::{Home, run};
use serde_json::{Value, json};

const CID: &str = "bafkr4igxjga67jykbseaxdmmdgc5a5o3zp3htom2l6mrjznk7fvyggu6eq";
const PEER: &str = "16Uiu2HAm5hPxT7s3TA2f4b4YjAPzS7yLRSgdj87ysDZ6NAXMiRuY";
const TIME: &str = "2026-11-22T10:30:05.5Z";

fn folder(id: &str, name: &str) -> Value {
    json!({
        "id": id, "name": name, "path": "/home/me/docs", "state": "idle", "detail": null,
        "sequence": 42, "manifest_cid": CID, "files": 3, "dirs": 1, "bytes": 5_000_000,
        "pending_changes": 2, "backed_up_sequence": 41, "backed_up_at": TIME,
        "last_scan": TIME, "watched_dirs": 1, "dirs_to_watch": 1, "held": null,
        "errors": [{ "path": "a\u{1b}[31mb", "error": "Permission denied", "since": TIME }],
        "error_count": 3,
        "left_out": [{ "path": "ram", "kind": "mount",
            "reason": "another file system (tmpfs) is mounted there" }]
    })
}

fn source(name: &str) -> Value {
    json!({
        "name": name, "peer_id": PEER, "manifest_server_url": "http://192.0.2.10:8085",
        "state": "pulling", "detail": null, "last_poll": TIME, "errors": ["no route"],
        "pulls": [{
            "folder_id": "docs", "folder_name": "Documents", "sequence": 43, "files_done": 1,
            "files_total": 3, "bytes_done": 1024, "bytes_total": 2048, "started_at": TIME
        }]
    })
}

fn snapshot(id: &str, sequence: u64, received_at: &str) -> Value {
    json!({
        "id": id, "source": "Desk", "source_peer_id": PEER, "folder_id": "docs",
        "folder_name": "Documents", "sequence": sequence, "created_at": TIME,
        "received_at": received_at, "files": 3, "bytes": 5_000_000, "manifest_cid": CID,
        "held": null, "is_part": false
    })
}

fn status() -> Value {
    json!({
        "peer_id": PEER, "addresses": ["/ip4/192.0.2.1/tcp/8070"], "version": "1.2.3",
        "data": "/data", "folders": [folder("docs", "Documents")], "sources": [source("Desk")],
        "storage": { "blocks": 7, "used_bytes": 5_368_709_120_u64, "max_bytes": null,
            "available_bytes": 1024 },
        "notices": [{ "level": "error", "message": "a peer \u{202e}is refused", "action": "allow it" }],
        "of_a_later_version": true
    })
}

fn registered() -> Value {
    json!([{ "folder_id": "docs", "folder_name": "Documents", "sequence": 42,
        "manifest_cid": CID, "backed_up_sequence": null }])
}

fn not_found(request: &Request) -> (u16, Value) {
    (404, json!({ "message": format!("nothing at {}", request.call) }))
}

/// Creates a home with a fake instance that answers these calls.
fn fake(answers: &[(&'static str, Value)]) -> (Home, Fake) {
    let home = Home::new("");
    let answers = answers.to_vec();
    let fake = Fake::start(home.path(), move |request| {
        let found = answers.iter().find(|(call, _)| *call == request.call);
        found.map_or_else(|| not_found(request), |(_, answer)| (200, answer.clone()))
    });
    (home, fake)
}

#[test]
fn who_took_the_port_of_a_killed_instance_gets_no_token() {
    let (home, mut fake) = fake(&[("GET /status", status())]);
    assert_eq!(run(home.path(), ["status"]).code, Some(0));
    let before = fake.calls().len();
    fake.usurp();
    for command in ["status", "sync", "backup-now", "peers", "pair"] {
        let ran = run(home.path(), [command]);
        assert_eq!(ran.code, Some(3), "{command}: {ran:?}");
    }
    assert_eq!(fake.calls().len(), before);
}

#[test]
fn status_is_that_of_the_contract() {
    let (home, _fake) = fake(&[("GET /status", status())]);
    let json = run(home.path(), ["status", "--json"]).json();
    assert_eq!(json, status(), "as it came, with what this program does not know");
    let shown = run(home.path(), ["status"]);
    assert_eq!(shown.code, Some(0), "{shown:?}");
    for part in [
        PEER,
        "5.0 GiB in 7 blocks",
        "error: a peer \\u{202e}is refused",
        "allow it",
        "Documents",
        "4.8 MiB",
        "41 at 2026-11-22 10:30:05",
        "a\\u{1b}[31mb: Permission denied",
        "2 more errors",
        "pulling Documents 43: 1 of 3 files, 1.0 KiB of 2.0 KiB",
        "no route",
    ] {
        assert!(shown.out.contains(part), "{part}: {}", shown.out);
    }
    assert!(!shown.out.contains(['\u{1b}', '\u{202e}']), "{:?}", shown.out);
}

#[test]
fn what_an_instance_refuses_is_said_in_its_words() {
    let home = Home::new("");
    let fake = Fake::start(home.path(), |request| match request.call.as_str() {
        "GET /status" => (500, json!({ "message": "the disk\u{1b}[2J is on fire" })),
        "GET /peers" => (200, json!({ "not": "a list" })),
        "POST /prune" => (409, json!("no object")),
        _ => (403, Value::Null),
    });
    let ran = run(home.path(), ["status"]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(1), ""));
    assert!(ran.err.contains("the disk\\u{1b}[2J is on fire"), "{ran:?}");
    assert!(run(home.path(), ["peers"]).err.contains("cannot understand the response"));
    assert_eq!(run(home.path(), ["prune"]).code, Some(1));
    assert_eq!(run(home.path(), ["ui"]).code, Some(1));
    // The token belongs to another instance.
    std::fs::write(home.path().join("data/api-token"), "f".repeat(64)).unwrap();
    let ran = run(home.path(), ["status"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.contains("no token"), "{ran:?}");
    std::fs::remove_file(home.path().join("data/api-token")).unwrap();
    let ran = run(home.path(), ["status"]);
    assert!(ran.err.contains("api-token"), "{ran:?}");
    assert_eq!(fake.calls().len(), 4);
}

#[test]
fn folders_go_through_the_instance() {
    let (home, fake) = fake(&[
        ("GET /folders", json!([folder("docs", "Documents"), folder("pics", "Pictures")])),
        ("POST /folders", folder("new", "New")),
        ("DELETE /folders/docs", Value::Null),
        ("POST /folders/pics/pause", folder("pics", "Pictures")),
        ("POST /folders/pics/resume", folder("pics", "Pictures")),
        ("POST /folders/docs/confirm", folder("docs", "Documents")),
        ("PATCH /folders/docs", folder("docs", "Documents")),
    ]);
    let files = tempfile::tempdir().unwrap();
    let path = files.path().to_str().unwrap();
    let ran = run(home.path(), ["folder", "add", path, "--name", "New", "--exclude", "*.o"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.out.contains("new"), "{ran:?}");
    let sent = fake.request("POST /folders").body;
    assert_eq!(sent, json!({ "path": path, "name": "New", "exclude": ["*.o"] }));
    assert!(ran.out.contains("ram: not backed up: another file system (tmpfs)"), "{ran:?}");
    let ran =
        run(home.path(), ["folder", "set", "docs", "--one-file-system=false", "--exclude-caches"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let sent = fake.request("PATCH /folders/docs").body;
    assert_eq!(sent, json!({ "one_file_system": false, "exclude_caches": true }));
    assert_eq!(run(home.path(), ["folder", "set", "docs"]).code, Some(1));
    let list = run(home.path(), ["folder", "list", "--json"]).json();
    assert_eq!(list[1], folder("pics", "Pictures"));
    for arguments in [
        ["folder", "remove", "docs"],
        ["folder", "pause", "Pictures"],
        ["folder", "resume", "pics"],
        ["folder", "confirm", "Documents"],
    ] {
        let ran = run(home.path(), arguments);
        assert_eq!(ran.code, Some(0), "{ran:?}");
    }
    let ran = run(home.path(), ["folder", "remove", "../status"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.contains("known folders: Documents, Pictures"), "{ran:?}");
    assert!(fake.calls().iter().all(|call| !call.contains("..")));
    // Only the instance changes the configuration file.
    assert!(!std::fs::read_to_string(home.config()).unwrap().contains(path));
}

#[test]
fn sync_and_backup_now_ask_for_what_was_meant() {
    let report = json!({ "folders": registered(), "steps": [
        { "name": "register", "ok": true, "detail": "sequence 42" },
        { "name": "connect", "ok": true },
    ] });
    let (home, fake) = fake(&[("POST /sync", registered()), ("POST /backup-now", report.clone())]);
    assert_eq!(run(home.path(), ["sync", "--json"]).json(), registered());
    assert_eq!(fake.request("POST /sync").body, json!({ "folder": null }));
    assert!(run(home.path(), ["sync", "Documents"]).out.contains("42"));
    assert_eq!(fake.requests().last().unwrap().body, json!({ "folder": "Documents" }));
    let sent = |arguments: &[&str]| {
        let ran = run(home.path(), arguments);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        let body = fake.requests().last().unwrap().body.clone();
        (body["folder"].clone(), body["wait_secs"].clone())
    };
    assert_eq!(sent(&["backup-now"]), (Value::Null, Value::Null));
    assert_eq!(sent(&["backup-now", "docs", "--wait", "60"]), (json!("docs"), json!(60)));
    assert_eq!(sent(&["backup-now", "--wait", "docs"]), (json!("docs"), json!(86400)));
    assert_eq!(sent(&["backup-now", "--wait"]), (Value::Null, json!(86400)));
    assert_eq!(run(home.path(), ["backup-now", "--json"]).json()["steps"][0]["name"], "register");
}

#[test]
fn a_backup_that_was_not_made_is_a_failure() {
    let report = json!({ "folders": [], "steps": [
        { "name": "register", "ok": true, "detail": null },
        { "name": "trigger", "ok": false, "detail": "refused\u{1b}[0m: pair the two" },
    ] });
    let (home, _fake) = fake(&[("POST /backup-now", report)]);
    let ran = run(home.path(), ["backup-now"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.out.contains("trigger: refused\\u{1b}[0m: pair the two"), "{ran:?}");
    let ran = run(home.path(), ["backup-now", "--json"]);
    assert_eq!((ran.code, ran.err.as_str()), (Some(1), ""));
    assert_eq!(ran.json()["steps"][1]["ok"], false);
    // A confirmed snapshot is a success, even if the notification failed.
    for (is_acknowledged, code) in [(true, 0), (false, 1)] {
        let report = json!({ "folders": [], "steps": [
            { "name": "trigger", "ok": false },
            { "name": "acknowledge", "ok": is_acknowledged },
        ] });
        let (home, _fake) = fake(&[("POST /backup-now", report)]);
        assert_eq!(run(home.path(), ["backup-now", "--wait"]).code, Some(code));
    }
    // If the newest state was not registered, the confirmation is about an older one.
    let report = json!({ "folders": [], "steps": [
        { "name": "register", "ok": false, "detail": "Documents: it is gone" },
        { "name": "connect", "ok": true },
        { "name": "trigger", "ok": true },
        { "name": "acknowledge", "ok": true },
    ] });
    let (home, _fake) = fake(&[("POST /backup-now", report)]);
    let ran = run(home.path(), ["backup-now", "--wait"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.err.contains("register failed") && ran.out.contains("it is gone"), "{ran:?}");
}

#[test]
fn pairing_prints_the_code_alone_and_enters_it_as_it_is() {
    let joined = json!({ "name": "Desk", "peer_id": PEER,
        "manifest_server_url": "http://192.0.2.10:8085", "needs_restart": ["node.bind"] });
    let polls = AtomicU64::new(0);
    let home = Home::new("");
    let fake = Fake::start(home.path(), move |request| match request.call.as_str() {
        "POST /pairing" => (200, json!({ "code": "1234-ABCD", "expires_at": TIME })),
        "POST /pairing/join" => (200, joined.clone()),
        "GET /pairing" => match polls.fetch_add(1, Ordering::SeqCst) {
            0 => (200, json!({ "state": "waiting", "expires_at": TIME })),
            1 => (200, json!({ "state": "joining" })),
            2 => (200, json!({ "state": "joined", "peer_id": PEER })),
            _ => (200, json!({ "state": "expired" })),
        },
        _ => not_found(request),
    });
    let ran = run(home.path(), ["pair"]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), "1234-ABCD\n"));
    assert!(ran.err.contains("archivist pair 1234-ABCD"), "{ran:?}");
    assert_eq!(run(home.path(), ["pair", "--json"]).json()["expires_at"], TIME);
    assert_eq!(run(home.path(), ["pair", "--wait"]).code, Some(0));
    assert_eq!(run(home.path(), ["pair", "--wait"]).code, Some(1));
    let ran = run(home.path(), ["pair", "1234-abcd"]);
    assert_eq!(ran.code, Some(0));
    assert!(ran.out.contains(PEER) && ran.err.contains("node.bind"), "{ran:?}");
    assert_eq!(fake.request("POST /pairing/join").body, json!({ "code": "1234-abcd" }));
}

#[test]
fn snapshots_have_the_fields_of_the_contract() {
    let listed = ("GET /snapshots", json!([snapshot("aabbccddee", 42, TIME)]));
    let (home, fake) = fake(&[listed, ("GET /status", status())]);
    let ran = run(home.path(), ["snapshots", "--source", "My Desk", "--folder", "a&b=ü", "--json"]);
    let one = &ran.json()[0];
    for field in [
        "id",
        "source",
        "folder_id",
        "folder_name",
        "sequence",
        "created_at",
        "received_at",
        "files",
        "bytes",
        "manifest_cid",
    ] {
        assert!(!one[field].is_null(), "{field}");
    }
    assert_eq!(fake.requests()[0].query, "source=My%20Desk&folder=a%26b%3D%C3%BC");
    run(home.path(), ["snapshots", "--from-backup-server"]);
    assert_eq!(fake.requests().last().unwrap().query, "from_backup_server=true");
    let shown = run(home.path(), ["snapshots"]).out;
    assert!(shown.contains("aabbccddee") && shown.contains("2026-11-22 10:30:05"), "{shown}");
}

fn entry(number: u64) -> Value {
    let path = format!("f{number:05}");
    json!({ "path": path, "path_base64": null, "type": "file", "size_bytes": 1, "cid": CID,
        "target": null, "mode": 0o644, "mtime_ns": "1700000000123456789", "error": null })
}

#[test]
fn a_long_listing_comes_page_by_page() {
    let home = Home::new("");
    let fake = Fake::start(home.path(), |request| {
        let value = |key: &str| {
            let pairs = request.query.split('&').filter_map(|pair| pair.split_once('='));
            pairs.into_iter().find(|(name, _)| *name == key).map(|(_, value)| value.to_owned())
        };
        let limit: u64 = value("limit").unwrap().parse().unwrap();
        let first = value("after").map_or(0, |after| after[1..].parse::<u64>().unwrap() + 1);
        (200, (first..2500.min(first + limit)).map(entry).collect())
    });
    let ran = run(home.path(), ["ls", "aabb", "--json"]);
    let all = ran.json();
    assert_eq!(all.as_array().unwrap().len(), 2500);
    assert_eq!((&all[0], &all[2499]), (&entry(0), &entry(2499)));
    assert_eq!(fake.calls(), ["GET /snapshots/aabb/entries"; 3]);
    let shown = run(home.path(), ["ls", "aabb"]).out;
    assert_eq!(shown.lines().count(), 2500);
    assert_eq!(
        shown.lines().next().unwrap(),
        "-rw-r--r--         1 B  2023-11-14 22:13:20  f00000"
    );
}

#[test]
fn an_instance_that_never_ends_a_listing_is_not_asked_for_ever() {
    let home = Home::new("");
    let fake = Fake::start(home.path(), |_| (200, (0..1000).map(entry).collect()));
    let ran = run(home.path(), ["ls", "aabb"]);
    assert_eq!(ran.code, Some(1), "{:?}", ran.err);
    assert_eq!(fake.calls().len(), 2);
}

#[test]
fn names_that_attack_a_terminal_are_escaped_and_json_has_them_in_full() {
    let hostile = json!([
        { "path": "red\u{1b}[31m\nrm -rf \u{202e}txt", "path_base64": null, "type": "symlink",
          "size_bytes": null, "cid": null, "target": "\u{9b}2J\n", "mode": 0o777, "mtime_ns": "0",
          "error": "bad\u{7}" },
        { "path": "x\u{fffd}", "path_base64": "eP8=", "type": "dir", "size_bytes": null,
          "cid": null, "target": null, "mode": 0o755, "mtime_ns": "-1", "error": null },
    ]);
    let (home, fake) = fake(&[
        (
            "GET /snapshots",
            json!([
                snapshot("00000000aa", 2, TIME),
                snapshot("00000000bb", 1, "2026-11-22T10:30:06Z")
            ]),
        ),
        ("GET /snapshots/00000000bb/entries", hostile.clone()),
    ]);
    let ran = run(home.path(), ["ls", "latest", "-R"]);
    assert_eq!(ran.out.lines().count(), 2, "{:?}", ran.out);
    let is_plain = |char: char| char == '\n' || !(char.is_control() || char == '\u{202e}');
    assert!(ran.out.chars().all(is_plain), "{:?}", ran.out);
    assert!(ran.out.contains("\\u{1b}[31m\\u{a}rm -rf \\u{202e}txt"), "{}", ran.out);
    assert!(ran.out.contains("x\\xff"), "{}", ran.out);
    assert!(fake.requests().last().unwrap().query.contains("recursive=true"));
    assert_eq!(run(home.path(), ["ls", "latest", "--json"]).json(), hostile);
    let odd = OsString::from_vec(b"a/\xff".to_vec());
    run(home.path(), ["ls".into(), "latest".into(), odd]);
    assert!(fake.requests().last().unwrap().query.starts_with("path_base64=YS%2F%2F&"));
}

#[test]
fn a_check_is_followed_to_its_end_and_damage_is_a_failure() {
    let sound =
        json!({ "checked": 2, "blocks": 9, "read_bytes": 2048, "problems": [], "repaired": 1 });
    let damaged = json!({ "checked": 2, "blocks": 8, "read_bytes": 0, "repaired": 0, "newer": [],
        "roots_incomplete": false, "problems": [
        { "cid": CID, "reason": "it is damaged\u{1b}", "concerns": ["aabbccddee"] }] });
    let job = |state: &str, result: &Value| {
        json!({ "id": 3, "kind": "verify", "state": state, "progress_done": 1,
            "progress_total": 2, "result": result, "error": "disk gone" })
    };
    let running = job("running", &Value::Null);
    let answers = |end: Value| [("POST /verify", running.clone()), ("GET /jobs/3", end)];
    let (home, served) = fake(&answers(job("done", &sound)));
    let ran = run(home.path(), ["verify", "--full", "--repair"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.out.contains("2.0 KiB read and hashed") && ran.out.contains("1 block was pulled"));
    assert_eq!(served.request("POST /verify").body, json!({ "full": true, "repair": true }));
    let (home, _served) = fake(&answers(job("done", &damaged)));
    let ran = run(home.path(), ["verify"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.out.contains(CID) && ran.out.contains("aabbccddee"), "{ran:?}");
    assert!(ran.out.contains("it is damaged\\u{1b}") && ran.err.contains("--repair"), "{ran:?}");
    assert_eq!(run(home.path(), ["verify", "--json"]).json(), damaged);
    let (home, _served) = fake(&answers(job("failed", &Value::Null)));
    let ran = run(home.path(), ["verify"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.contains("disk gone"), "{ran:?}");
}

#[test]
fn prune_says_what_goes_and_why_not() {
    let decision = |id: &str| json!({ "snapshot": id, "folder_name": "Documents", "received_at": TIME, "reasons": [] });
    let report = json!({ "dry_run": true, "kept": [decision("a"), decision("b")],
        "removed": [decision("gone")], "holds": ["Music of Desk: the clock is behind"],
        "freed_bytes": 0 });
    let (home, fake) = fake(&[("POST /prune", report.clone())]);
    let ran = run(home.path(), ["prune", "--dry-run"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    // The folder that is not pruned is named first: the others are.
    for part in ["gone", "1 snapshot would be removed, 2 kept", "\nnot pruned: Music of Desk: the"]
    {
        assert!(ran.out.contains(part), "{part}: {ran:?}");
    }
    let asked =
        json!({ "accept_roots": false, "discard": false, "dry_run": true, "recompress": false });
    assert_eq!(fake.request("POST /prune").body, asked);
    assert_eq!(run(home.path(), ["prune", "--discard"]).code, Some(2));
    assert_eq!(run(home.path(), ["prune", "--accept-roots", "--dry-run"]).code, Some(2));
    let told = run(home.path(), ["prune", "--json"]).json();
    assert_eq!(told["not_collected"], Value::Null);
    assert_eq!((&told["removed"], &told["holds"]), (&report["removed"], &report["holds"]));
}

#[test]
fn recover_shows_what_was_found_and_that_there_may_be_more() {
    let snapshot = |id: &str, state: &str, detail: Value| {
        json!({ "id": id, "source": "Desk\u{1b}", "source_peer_id": "x", "folder_id": "docs",
            "folder_name": "Documents", "sequence": 7, "created_at": TIME, "received_at": TIME,
            "files": 3, "bytes": 2048, "manifest_cid": CID, "held": null, "is_part": false,
            "state": state,
            "detail": detail })
    };
    let report = |complete: bool, recovered: u64| {
        json!({ "complete": complete, "recovered": recovered,
            "snapshots": [snapshot("aaaaaaaaaa", "known", Value::Null),
                snapshot("bbbbbbbbbb", "lost", Value::Null),
                snapshot("cccccccccc", "incomplete", json!("a block is missing\u{1b}")),
                snapshot("dddddddddd", "removed", Value::Null)],
            "items": [{ "cid": CID, "filename": "letter.txt", "mimetype": null, "bytes": 5,
                "state": "lost", "detail": null }],
            "unusable": [{ "cid": CID, "reason": "forged\u{1b}" }], "manifests": [CID],
            "problems": if complete { json!([]) } else { json!(["m-00000001.pack: EIO\u{1b}"]) } })
    };
    let (home, fake) = self::fake(&[("POST /recover", report(true, 0))]);
    let ran = run(home.path(), ["recover"]);
    assert_eq!(ran.code, Some(4), "{ran:?}");
    for part in [
        "bbbbbbbbbb",
        "cccccccccc",
        "incomplete: a block is missing\\u{1b}",
        "removed",
        "letter.txt",
        "forged\\u{1b}",
        "has no snapshot record",
        "2 snapshots and data items stored but not listed",
        "archivist recover --yes",
    ] {
        assert!(ran.out.contains(part), "{part}: {ran:?}");
    }
    assert!(!ran.out.contains("aaaaaaaaaa"), "known ones are not shown: {ran:?}");
    assert_eq!(fake.request("POST /recover").body, json!({ "yes": false, "only": [] }));

    let (home, fake) = self::fake(&[("POST /recover", report(false, 1))]);
    let ran = run(home.path(), ["recover", "bbbb", "--yes"]);
    assert_eq!(ran.code, Some(4), "{ran:?}");
    assert!(ran.out.contains("1 snapshot or data item listed again"), "{ran:?}");
    assert!(ran.err.contains("EIO\\u{1b}") && ran.err.contains("there may be more"), "{ran:?}");
    assert_eq!(fake.request("POST /recover").body, json!({ "yes": true, "only": ["bbbb"] }));
    let ran = run(home.path(), ["recover", "--json"]);
    assert_eq!((ran.code, ran.json()), (Some(4), report(false, 1)));
}

#[test]
fn a_prune_tells_what_it_has_compressed() {
    let done = json!({ "packs": 2, "before_bytes": 4 << 20, "after_bytes": 1 << 20,
        "problems": ["the disk is full\u{1b}"] });
    let report = json!({ "dry_run": false, "kept": [], "removed": [], "discarded": [], "holds": [],
        "freed_bytes": 0, "recompressed": done });
    let (home, fake) = fake(&[("POST /prune", report.clone())]);
    let ran = run(home.path(), ["prune", "--recompress"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    for part in ["2 packs compressed: 4.0 MiB before, 1.0 MiB after", "the disk is full\\u{1b}"] {
        assert!(ran.out.contains(part), "{part}: {ran:?}");
    }
    assert_eq!(fake.request("POST /prune").body["recompress"], true);
    assert_eq!(run(home.path(), ["prune", "--recompress", "--dry-run"]).code, Some(2));
}

#[test]
fn a_prune_that_frees_nothing_is_a_failure() {
    let report = json!({ "dry_run": false, "kept": [], "removed": [], "discarded": [], "holds": [],
        "freed_bytes": 0, "not_collected": "a block is gone\u{1b}", "recompressed": null });
    let (home, _fake) = fake(&[("POST /prune", report.clone())]);
    let ran = run(home.path(), ["prune"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.err.contains("no space could be freed: a block is gone\\u{1b}"), "{ran:?}");
    let ran = run(home.path(), ["prune", "--json"]);
    assert_eq!((ran.code, ran.json()), (Some(1), report));
}

#[test]
fn sources_peers_and_the_link_of_the_ui() {
    let peer = json!({ "peer_id": PEER, "name": null, "addresses": ["/ip4/192.0.2.1/tcp/1"],
        "direction": "inbound", "rtt_ms": 1.25, "agent": "evil\u{1b}]0;x\u{7}", "is_allowed": false,
        "connected_since": TIME });
    let (home, fake) = fake(&[
        ("GET /sources", json!([source("My Desk/2")])),
        ("POST /sources/My%20Desk%2F2/accept", source("My Desk/2")),
        ("GET /peers", json!([peer])),
        ("POST /connect", peer.clone()),
        ("POST /ui/link", json!({ "url": "http://127.0.0.1:8080/#t=1" })),
    ]);
    assert_eq!(run(home.path(), ["source", "list", "--json"]).json()[0], source("My Desk/2"));
    assert!(run(home.path(), ["source", "list"]).out.contains("no route"));
    for (detail, times) in [("no route", 1), ("starting", 2)] {
        let mut failed = source("Desk");
        failed["detail"] = json!(detail);
        failed["errors"] = json!(["Documents: no route to 192.0.2.10"]);
        failed["pulls"] = json!([]);
        let (home, _fake) = self::fake(&[("GET /sources", json!([failed]))]);
        let shown = run(home.path(), ["source", "list"]).out;
        assert_eq!(shown.matches("\nDesk: ").count(), times, "{shown}");
        // A notice is not repeated below it.
        let mut status = status();
        status["sources"] = json!([failed]);
        status["notices"] = json!([{ "level": "error", "action": null,
            "message": "Desk: Documents: no route to 192.0.2.10" }]);
        let (home, _fake) = self::fake(&[("GET /status", status)]);
        let shown = run(home.path(), ["status"]).out;
        assert_eq!(shown.matches("no route").count(), 1, "{shown}");
    }
    assert_eq!(run(home.path(), ["source", "accept", "My Desk/2"]).code, Some(0));
    assert_eq!(run(home.path(), ["source", "accept", "nobody"]).code, Some(1));
    let shown = run(home.path(), ["peers"]).out;
    assert!(shown.contains("1.2 ms") && shown.contains("evil\\u{1b}]0;x\\u{7}"), "{shown}");
    assert_eq!(run(home.path(), ["peers", "--json"]).json(), json!([peer]));
    assert_eq!(run(home.path(), ["connect", "/ip4/192.0.2.1/tcp/1"]).code, Some(0));
    assert_eq!(fake.request("POST /connect").body, json!({ "address": "/ip4/192.0.2.1/tcp/1" }));
    assert_eq!(run(home.path(), ["ui"]).out, "http://127.0.0.1:8080/#t=1\n");
}

#[test]
fn a_setting_of_a_running_instance_is_its_to_change() {
    let changed = json!({ "applied": false, "needs_restart": ["node.listen_port"] });
    let (home, fake) = fake(&[("POST /config", changed.clone())]);
    let before = std::fs::read_to_string(home.config()).unwrap();
    let ran = run(home.path(), ["config", "set", "node.listen_port", "9000"]);
    assert_eq!(ran.code, Some(0));
    assert!(ran.err.contains("restart") && ran.err.contains("node.listen_port"), "{ran:?}");
    let sent = fake.request("POST /config").body;
    assert_eq!(sent, json!({ "key": "node.listen_port", "value": "9000" }));
    assert_eq!(run(home.path(), ["config", "unset", "node.mdns", "--json"]).json(), changed);
    assert_eq!(fake.requests()[1].body, json!({ "key": "node.mdns", "value": null }));
    assert_eq!(std::fs::read_to_string(home.config()).unwrap(), before);
}

#[test]
fn a_manifest_is_printed_as_it_comes() {
    let document = json!({ "version": "2", "files": [{ "path": "a" }] });
    let (home, fake) = fake(&[(
        "GET /manifests/bafkr4igxjga67jykbseaxdmmdgc5a5o3zp3htom2l6mrjznk7fvyggu6eq",
        document.clone(),
    )]);
    assert_eq!(run(home.path(), ["manifest", "show", CID]).json(), document);
    assert_eq!(fake.calls().len(), 1);
}

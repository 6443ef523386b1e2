//! Restores and lists of snapshots, from this computer and from the backup server.

use super::*;

fn restore_report(state: &str, more: &Value) -> Value {
    let mut report = json!({
        "id": 7, "state": state, "snapshot": "aabbccddee", "entries_done": 3, "entries_total": 4,
        "bytes_done": 1536, "bytes_total": 2048, "in_the_way": [], "not_set": [], "failed": [],
        "error": null
    });
    report.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    report
}

#[test]
fn a_restore_is_followed_to_its_end() {
    let home = Home::new("");
    let asked = AtomicU64::new(0);
    let fake = Fake::start(home.path(), move |request| match request.call.as_str() {
        "POST /restores" => (200, restore_report("running", &json!({}))),
        "GET /restores/7" if asked.fetch_add(1, Ordering::SeqCst) < 2 => {
            (200, restore_report("running", &json!({})))
        }
        "GET /restores/7" => (200, restore_report("done", &json!({}))),
        _ => not_found(request),
    });
    let target = home.path().join("back");
    let arguments = [
        "restore".into(),
        "--folder".into(),
        "Documents".into(),
        "--at".into(),
        "2026-11-22 10:30".into(),
        "--path".into(),
        "/letters/".into(),
        "--path".into(),
        OsString::from_vec(b"odd\xff".to_vec()),
        "--overwrite".into(),
        "--target".into(),
        target.clone().into_os_string(),
    ];
    let ran = run(home.path(), &arguments);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.out.contains("restored 3 entries, 1.5 KiB, of snapshot aabbccddee"), "{ran:?}");
    assert_eq!(
        fake.request("POST /restores").body,
        json!({
            "snapshot": null, "folder": "Documents", "at": "2026-11-22T10:30:59.999999999Z",
            "paths": ["letters"], "paths_base64": ["b2Rk/w=="], "target": target,
            "target_base64": null, "overwrite": true, "from_backup_server": false
        })
    );
    assert_eq!(fake.calls().len(), 4);
}

/// Everything was restored, but something differs: the exit code is 4, and the reason is said.
#[test]
fn a_restore_that_differs_ends_with_4() {
    let cases = [
        (json!({ "not_set": ["a: owner: not permitted"] }), "could not be set: a: owner"),
        (json!({ "is_part": true }), "only a part of the folder"),
    ];
    for (more, says) in cases {
        let home = Home::new("");
        let report = restore_report("done", &more);
        let _fake = Fake::start(home.path(), move |_| (200, report.clone()));
        let ran = run(home.path(), ["restore", "aabb", "--numeric-owner", "--target", "x"]);
        assert_eq!(ran.code, Some(4), "{ran:?}");
        assert!(ran.err.contains(says) && !ran.err.contains("archivist:"), "{ran:?}");
        let ran = run(home.path(), ["restore", "aabb", "--target", "x", "--json"]);
        assert_eq!(ran.code, Some(4), "{ran:?}");
    }
    // An incomplete restore is a failure.
    let home = Home::new("");
    let more = json!({ "owners_not_set": 3, "failed": ["a: input/output error"] });
    let report = restore_report("failed", &more);
    let _fake = Fake::start(home.path(), move |_| (200, report.clone()));
    assert_eq!(run(home.path(), ["restore", "aabb", "--target", "x"]).code, Some(1));
    // Another user than root does not ask for owners, and is told that they differ.
    let home = Home::new("");
    let report = restore_report("done", &json!({ "owners_not_set": 3 }));
    let _fake = Fake::start(home.path(), move |_| (200, report.clone()));
    let ran = run(home.path(), ["restore", "--target", "x"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.err.contains("owners of 3 entries were not set"), "{ran:?}");
    // A newer snapshot that was passed over is named.
    let home = Home::new("");
    let more = json!({ "passed_over": "snapshot ccdd is newer, and was passed over: much lost" });
    let report = restore_report("done", &more);
    let _fake = Fake::start(home.path(), move |_| (200, report.clone()));
    let ran = run(home.path(), ["restore", "--target", "x"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.err.contains("ccdd is newer"), "{ran:?}");
}

fn start_restore(home: &Home) -> std::process::Child {
    common::archivist(home.path())
        .args(["restore", "aabb", "--target", "x"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn a_restore_is_cancelled_by_an_interrupt() {
    let home = Home::new("");
    let fake = Fake::start(home.path(), |request| match request.call.as_str() {
        "DELETE /restores/7" => (200, restore_report("cancelled", &json!({}))),
        _ => (200, restore_report("running", &json!({}))),
    });
    let child = start_restore(&home);
    // Once it polls the progress, it handles signals.
    common::eventually("it asks", || fake.calls().iter().any(|call| call == "GET /restores/7"));
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("stopped"), "{error}");
    assert_eq!(fake.calls().last().unwrap(), "DELETE /restores/7");
}

#[test]
fn an_instance_that_dies_meanwhile_is_none() {
    let home = Home::new("");
    let fake = Fake::start(home.path(), |_| (200, restore_report("running", &json!({}))));
    let child = start_restore(&home);
    common::eventually("it asks", || fake.calls().len() > 1);
    drop(fake);
    let output = child.wait_with_output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    // Its connection breaks, or it cannot open a new one.
    assert!(matches!(output.status.code(), Some(1 | 3)), "{error}");
    assert!(error.contains("instance"), "{error}");
}

#[test]
fn a_restore_that_is_not_whole_is_a_failure() {
    let cases = [
        (restore_report("done", &json!({ "in_the_way": ["a\u{1b}b"] })), "a\\u{1b}b"),
        (restore_report("done", &json!({ "failed": ["x: block is missing"] })), "block is missing"),
        (restore_report("done", &json!({ "not_found": ["nowhere"] })), "nowhere"),
        (restore_report("failed", &json!({ "error": "no snapshot fits" })), "no snapshot fits"),
        (
            restore_report("failed", &json!({ "error": "not all", "failed": ["f: gone"] })),
            "f: gone",
        ),
        (restore_report("cancelled", &json!({})), "cancelled"),
    ];
    for (report, says) in cases {
        let (home, _fake) = fake(&[("POST /restores", report.clone())]);
        let ran = run(home.path(), ["restore", "aabb", "--target", "x"]);
        assert_eq!(ran.code, Some(1), "{ran:?}");
        assert!(ran.err.contains(says), "{ran:?}");
        let ran = run(home.path(), ["restore", "aabb", "--target", "x", "--json"]);
        assert_eq!((ran.code, ran.json()["state"].clone()), (Some(1), report["state"].clone()));
    }
}

#[test]
fn a_machine_without_snapshots_restores_through_its_backup_server() {
    let answers = [
        ("GET /snapshots", json!([snapshot("aabbccddee", 42, TIME)])),
        ("POST /restores", restore_report("done", &json!({}))),
    ];
    let (home, fake) = fake(&answers);
    let through = |arguments: &[&str]| {
        let all = ["restore", "--target", "x"].iter().chain(arguments);
        assert_eq!(run(home.path(), all).code, Some(0));
        let sent = fake.requests().into_iter().rfind(|one| one.call == "POST /restores").unwrap();
        sent.body["from_backup_server"].as_bool().unwrap()
    };
    assert!(!through(&["--folder", "Pictures"]), "there is no backup server to ask");
    assert!(through(&["--from-backup-server"]));
    home.configure(&format!(
        "[sync]\nbackup_peer_address = \"/ip4/192.0.2.1/tcp/8070/p2p/{PEER}\"\n"
    ));
    assert!(through(&["--folder", "Pictures"]));
    assert!(!through(&["--folder", "Documents"]), "it is here");
    assert!(!through(&["AABB"]));
    assert!(through(&["bbaa"]));
}

#[test]
fn a_machine_without_snapshots_lists_those_of_its_backup_server() {
    let home = Home::new("");
    let theirs = json!([snapshot("aabbccddee", 42, TIME)]);
    let answer = theirs.clone();
    let _fake = Fake::start(home.path(), move |request| {
        if request.call == "GET /status" {
            return (200, status());
        }
        let is_remote = request.query.contains("from_backup_server=true");
        (200, if is_remote { answer.clone() } else { json!([]) })
    });
    assert_eq!(run(home.path(), ["snapshots", "--json"]).json(), json!([]));
    home.configure(&format!(
        "[sync]\nbackup_peer_address = \"/ip4/192.0.2.1/tcp/8070/p2p/{PEER}\"\n"
    ));
    assert_eq!(run(home.path(), ["snapshots", "--json"]).json(), theirs);
}

#[test]
fn a_name_that_nothing_has_is_an_error_and_not_an_empty_list() {
    let home = Home::new("");
    let files = tempfile::tempdir().unwrap();
    let docs = files.path().join("docs");
    std::fs::create_dir(&docs).unwrap();
    assert_eq!(run(home.path(), ["folder", "add", docs.to_str().unwrap()]).code, Some(0));
    let _fake = Fake::start(home.path(), |request| {
        if request.call == "GET /status" {
            return (200, status());
        }
        let is_filtered = request.query.contains('=');
        (200, if is_filtered { json!([]) } else { json!([snapshot("aabbccddee", 42, TIME)]) })
    });
    // A folder that has no snapshot yet.
    let ran = run(home.path(), ["snapshots", "--folder", "docs"]);
    assert_eq!((ran.code, ran.err.trim()), (Some(0), "no snapshots found"), "{ran:?}");
    for (option, name, says) in [
        ("--folder", "dcos", "no folder is called \"dcos\"; known folders: Documents, docs"),
        ("--source", "Deks", "no source is called \"Deks\"; known sources: Desk"),
    ] {
        for more in [&[][..], &["--json"]] {
            let ran = run(home.path(), [&["snapshots", option, name][..], more].concat());
            assert_eq!((ran.code, ran.out.as_str()), (Some(1), ""), "{ran:?}");
            assert!(ran.err.contains(says), "{ran:?}");
        }
    }
}

#[test]
fn what_only_the_backup_server_holds_is_listed_from_there() {
    let home = Home::new("");
    let (own, theirs) = ([snapshot("aabbccddee", 42, TIME)], [snapshot("ffeeddccbb", 43, TIME)]);
    let fake = Fake::start(home.path(), move |request| {
        let is_remote = request.query.contains("from_backup_server=true");
        match request.call.as_str() {
            "GET /snapshots" => (200, if is_remote { json!(theirs) } else { json!(own) }),
            call if call.ends_with("/entries") => (200, json!([])),
            _ => not_found(request),
        }
    });
    let asked = |arguments: &[&str]| {
        let ran = run(home.path(), [&["ls"][..], arguments].concat());
        assert_eq!(ran.code, Some(0), "{ran:?}");
        let last = fake.requests().last().unwrap().clone();
        (last.call, last.query.contains("from_backup_server=true"))
    };
    let entries = |id: &str| format!("GET /snapshots/{id}/entries");
    assert_eq!(asked(&["ffee"]), (entries("ffee"), false), "there is no backup server to ask");
    assert_eq!(asked(&["ffee", "--from-backup-server"]), (entries("ffee"), true));
    let latest = asked(&["latest", "--from-backup-server"]);
    assert_eq!(latest, (entries("ffeeddccbb"), true));
    home.configure(&format!(
        "[sync]\nbackup_peer_address = \"/ip4/192.0.2.1/tcp/8070/p2p/{PEER}\"\n"
    ));
    assert_eq!(asked(&["FFEE"]), (entries("ffee"), true));
    assert_eq!(asked(&["aabb"]), (entries("aabb"), false));
    assert_eq!(asked(&["latest"]), (entries("aabbccddee"), false));
    // Without a running instance the error says so, instead of "no snapshots".
    drop(fake);
    for command in [&["snapshots"][..], &["ls", "latest"], &["ls", "ffee"]] {
        let ran = run(home.path(), command);
        assert_eq!(ran.code, Some(3), "{command:?}: {ran:?}");
    }
}

//! The commands without a running instance: usage, exit codes, settings, folders, completions and
//! manual pages.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::os::unix::ffi::OsStringExt as _;

use common::{Home, run};
use serde_json::{Value, json};

#[test]
fn the_help_names_every_exit_code() {
    let help = run(Home::new("").path(), ["--help"]).out;
    let codes = help.split_once("Exit codes: ").unwrap().1;
    let codes = codes.split_whitespace().collect::<Vec<_>>().join(" ");
    let listed: Vec<&str> = codes.split(", ").filter_map(|code| code.get(..2)).collect();
    assert_eq!(listed[..4], ["0 ", "1 ", "2 ", "3 "], "{codes}");
    assert!(codes.contains("4 done, but not everything could be set or read"), "{codes}");
}

#[test]
fn wrong_usage_is_two_and_says_what_is_right() {
    let home = Home::new("");
    let cases: &[&[&str]] = &[
        &["folder"],
        &["folder", "add"],
        &["folder", "nonsense"],
        &["pair", "code", "--wait"],
        &["restore"],
        &["restore", "abcd", "--at", "2026-01-01", "--target", "x"],
        &["restore", "--target", ""],
        &["restore", "--target", "x", "--at", "soon"],
        &["restore", "--target", "x", "--path", "a/../b"],
        &["ls"],
        &["ls", "abcd", "../x"],
        &["manifest", "show"],
        &["manifest", "show", "no-cid"],
        &["config", "set", "node.mdns"],
        &["backup-now", "docs", "--wait", "soon"],
        &["source", "accept"],
        &["completions", "nonsense"],
        &["status", "--nonsense"],
    ];
    for arguments in cases {
        let ran = run(home.path(), *arguments);
        assert_eq!(ran.code, Some(2), "{arguments:?}: {ran:?}");
        assert!(ran.out.is_empty(), "{ran:?}");
        assert!(ran.err.contains("help"), "{ran:?}");
    }
}

#[test]
fn what_needs_an_instance_ends_with_three_where_none_runs() {
    let home = Home::new("");
    home.init();
    let cases: &[&[&str]] = &[
        &["status"],
        &["status", "--json"],
        &["sync"],
        &["backup-now"],
        &["backup-now", "--wait"],
        &["pair"],
        &["pair", "1234"],
        &["folder", "confirm", "docs"],
        &["verify", "--repair"],
        &["source", "accept", "x"],
        &["ui"],
        &["peers"],
        &["connect", "/ip4/127.0.0.1/tcp/1"],
        &["restore", "--target", "x", "--from-backup-server"],
    ];
    let check = || {
        for arguments in cases {
            let ran = run(home.path(), *arguments);
            assert_eq!(ran.code, Some(3), "{arguments:?}: {ran:?}");
            assert!(ran.out.is_empty(), "{ran:?}");
            assert!(ran.err.contains("archivist daemon"), "it says what to do: {ran:?}");
        }
    };
    check();
    // A killed instance leaves its `running.json` behind, but nothing listens on its port.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let running = json!({ "api": port, "pid": 1 });
    std::fs::write(home.path().join("data/running.json"), running.to_string()).unwrap();
    check();
    std::fs::write(home.path().join("data/running.json"), "{ torn").unwrap();
    check();
    // A source needs a running instance to reach its backup server.
    let peer = "16Uiu2HAm5hPxT7s3TA2f4b4YjAPzS7yLRSgdj87ysDZ6NAXMiRuY";
    let address = format!("/ip4/192.0.2.1/tcp/8070/p2p/{peer}");
    assert_eq!(
        run(home.path(), ["config", "set", "sync.backup_peer_address", &address]).code,
        Some(0)
    );
    let ran = run(home.path(), ["restore", "--target", "x"]);
    assert_eq!(ran.code, Some(3), "{ran:?}");
}

#[test]
fn settings_are_read_and_changed_without_an_instance() {
    let home = Home::new("");
    let get = |key: &str| run(home.path(), ["config", "get", key]);
    assert_eq!(get("node.log_level").out, "info\n");
    let set = |key: &str, value: &str| run(home.path(), ["config", "set", key, value]);
    std::fs::write(home.config(), "# mine\n[node]\nmdns = false # quiet\n").unwrap();
    assert_eq!(set("node.log_level", "debug").code, Some(0));
    assert_eq!(get("node.log_level").out, "debug\n");
    let text = std::fs::read_to_string(home.config()).unwrap();
    assert!(text.starts_with("# mine\n[node]\nmdns = false # quiet\n"), "{text}");
    // A value that is not valid changes nothing, and the error explains why.
    for (key, value, says) in [
        ("node.listen_port", "70000", "65535"),
        ("node.log_lvel", "debug", "node.log_level"),
        ("node.max_storage", "-5", "allowed"),
        ("sync.folders", "x", "folder"),
    ] {
        let ran = set(key, value);
        assert_eq!(ran.code, Some(1), "{ran:?}");
        assert!(ran.err.contains(says), "{ran:?}");
    }
    assert_eq!(std::fs::read_to_string(home.config()).unwrap(), text);
    assert_eq!(get("nonsense.key").code, Some(1));
    let json = run(home.path(), ["config", "get", "node.mdns", "--json"]).json();
    assert_eq!(json, json!({ "key": "node.mdns", "value": false, "is_given": true }));
    assert_eq!(run(home.path(), ["config", "unset", "node.mdns"]).code, Some(0));
    assert_eq!(get("node.mdns").out, "true\n");
    let all = run(home.path(), ["config", "get", "--json"]).json();
    let all = all.as_array().unwrap();
    let level = all.iter().find(|one| one["key"] == "node.log_level").unwrap();
    assert_eq!((&level["value"], &level["is_given"]), (&json!("debug"), &json!(true)));
    assert!(run(home.path(), ["config", "get"]).out.contains("backup_server.keep.last"));
}

#[test]
fn folders_are_added_and_removed_without_an_instance() {
    let home = Home::new("");
    let files = tempfile::tempdir().unwrap();
    let docs = files.path().join("docs");
    std::fs::create_dir(&docs).unwrap();
    let path = docs.to_str().unwrap();
    let arguments =
        ["folder", "add", path, "--name", "Docs", "--exclude", "*.tmp", "--exclude", "x/"];
    let added = run(home.path(), arguments.into_iter().chain(["--json"])).json();
    assert_eq!((&added["name"], &added["path"]), (&json!("Docs"), &json!(path)));
    assert_eq!(added["exclude"], json!(["*.tmp", "x/"]));
    let id = added["id"].as_str().unwrap();
    let list = || run(home.path(), ["folder", "list", "--json"]).json();
    assert_eq!(list(), json!([added]));
    assert!(run(home.path(), ["folder", "list"]).out.contains(id));
    // The same folder cannot be added twice.
    assert_eq!(run(home.path(), arguments).code, Some(1));
    assert_eq!(run(home.path(), ["folder", "pause", "Docs"]).code, Some(0));
    assert_eq!(list()[0]["state"], "paused");
    assert_eq!(run(home.path(), ["folder", "resume", id]).code, Some(0));
    assert_eq!(list()[0]["state"], "stopped");
    assert_eq!(run(home.path(), ["folder", "remove", "nonsense"]).code, Some(1));
    assert_eq!(run(home.path(), ["folder", "remove", id]).code, Some(0));
    assert_eq!(list(), json!([]));
    assert!(docs.is_dir());
    // A folder in another one is refused, unless the outer one leaves it out.
    let outer = files.path().to_str().unwrap();
    let tag = "Signature: 8a477f597d28d172789f06886806bc55";
    std::fs::write(docs.join("CACHEDIR.TAG"), tag).unwrap();
    let added = run(home.path(), ["folder", "add", outer, "--name", "Outer", "--json"]).json();
    assert_eq!(added["one_file_system"], json!(true));
    let ran = run(home.path(), arguments);
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.contains(path) && ran.err.contains("two folders"), "{ran:?}");
    let set = ["folder", "set", "Outer", "--exclude-caches", "--one-file-system=false"];
    assert_eq!(run(home.path(), set).code, Some(0));
    let both = |name: &str| list()[0][name].clone();
    assert_eq!((both("exclude_caches"), both("one_file_system")), (json!(true), json!(false)));
    assert_eq!(run(home.path(), arguments).code, Some(0));
    assert_eq!(run(home.path(), ["folder", "remove", "Docs"]).code, Some(0));
    assert_eq!(run(home.path(), ["folder", "remove", "Outer"]).code, Some(0));
    // One message, which does not claim that the folder is watched already.
    let ran = run(home.path(), arguments);
    let id = list()[0]["id"].as_str().unwrap().to_owned();
    let expected =
        format!("Docs is added; start `archivist daemon` to back it up (folder id {id})\n");
    assert_eq!((ran.out, ran.err), (expected, String::new()));
}

#[test]
fn a_folder_has_to_be_a_directory_that_is_there() {
    let home = Home::new("");
    let files = tempfile::tempdir().unwrap();
    let file = files.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let odd = files.path().join(std::ffi::OsString::from_vec(b"odd\xff".to_vec()));
    std::fs::create_dir(&odd).unwrap();
    let missing = files.path().join("missing");
    for (path, says) in [(&file, "not a directory"), (&missing, "cannot find"), (&odd, "UTF-8")] {
        let ran = run(home.path(), ["folder".as_ref(), "add".as_ref(), path.as_os_str()]);
        assert_eq!(ran.code, Some(1), "{ran:?}");
        assert!(ran.err.contains(says), "{ran:?}");
    }
    assert_eq!(run(home.path(), ["folder", "list", "--json"]).json(), json!([]));
    // A relative path means the directory that the command was started in.
    let output = common::archivist(home.path())
        .args(["folder", "add", "../file/../odd-not", "--json"])
        .current_dir(files.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    std::fs::create_dir(files.path().join("a")).unwrap();
    for given in ["./a", "a/../a"] {
        let output = common::archivist(home.path())
            .args(["folder", "add", given, "--json"])
            .current_dir(files.path())
            .output()
            .unwrap();
        let added: Value = serde_json::from_slice(&output.stdout).unwrap();
        let wanted = files.path().join("a").canonicalize().unwrap();
        assert_eq!(added["path"], wanted.to_str().unwrap());
        let id = added["id"].as_str().unwrap();
        assert_eq!(run(home.path(), ["folder", "remove", id]).code, Some(0));
    }
}

#[test]
fn sources_are_listed_as_configured() {
    let peer = "16Uiu2HAm5hPxT7s3TA2f4b4YjAPzS7yLRSgdj87ysDZ6NAXMiRuY";
    let home = Home::new(&format!(
        "[[backup_server.source_peers]]\nname = \"Desk\"\n\
         manifest_server_url = \"http://192.0.2.10:8085\"\npeer_id = \"{peer}\"\n"
    ));
    let list = run(home.path(), ["source", "list", "--json"]).json();
    assert_eq!((&list[0]["name"], &list[0]["peer_id"]), (&json!("Desk"), &json!(peer)));
    assert!(run(home.path(), ["source", "list"]).out.contains("http://192.0.2.10:8085"));
}

#[test]
fn completions_and_manual_pages_are_of_every_command() {
    let home = Home::new("");
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ran = run(home.path(), ["completions", shell]);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        assert!(ran.out.contains("backup-now") && ran.out.contains("folder"), "{shell}");
    }
    let man = home.path().join("new/man1");
    let ran = run(home.path(), ["man".as_ref(), man.as_os_str()]);
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
    for page in ["archivist", "archivist-restore", "archivist-folder-add", "archivist-config-set"] {
        let text = std::fs::read_to_string(man.join(format!("{page}.1"))).unwrap();
        assert!(text.contains(".SH NAME") && text.contains("Example"), "{page}");
    }
}

#[test]
fn a_reader_that_has_enough_is_no_error() {
    let home = Home::new("");
    let mut child = common::archivist(home.path())
        .args(["completions", "bash"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}

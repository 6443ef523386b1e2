//! Listing, verifying and restoring without a running instance: the commands open the store
//! themselves.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::Path;

use common::kept::{PEER, Thing, commit, commit_held, open};
use common::{Home, noise, run};
use serde_json::{Value, json};

const HOSTILE: &[u8] = b"red\x1b[31m\n\xff";

/// Creates a home with three snapshots: two of `docs`, one of `pics`.
fn kept() -> (Home, [String; 3]) {
    let home = Home::new(&format!(
        "[[backup_server.source_peers]]\nname = \"Desk\"\n\
         manifest_server_url = \"http://192.0.2.10:8085\"\npeer_id = \"{PEER}\"\n"
    ));
    home.init();
    let first: [(&[u8], Thing); 2] =
        [(b"a.txt", Thing::File(b"old".to_vec())), (b"gone", Thing::File(b"later".to_vec()))];
    let second: [(&[u8], Thing); 6] = [
        (b"a.txt", Thing::File(b"new".to_vec())),
        (b"big", Thing::File(noise(1, 3_000_000))),
        (b"dir", Thing::Dir),
        (b"dir/empty", Thing::File(Vec::new())),
        (b"dir/link", Thing::Link("../a.txt")),
        (HOSTILE, Thing::File(b"odd".to_vec())),
    ];
    let third: [(&[u8], Thing); 1] = [(b"p.jpg", Thing::File(b"picture".to_vec()))];
    let path = home.path();
    let ids = [
        commit(path, "docs", 1, "2026-11-22T10:00:00.5Z", &first),
        commit(path, "docs", 2, "2026-11-22T11:00:00Z", &second),
        commit(path, "pics", 1, "2026-11-22T10:30:00Z", &third),
    ]
    .map(|snapshot| snapshot.id.to_string());
    (home, ids)
}

fn restore<'a>(
    home: &Home,
    target: &'a Path,
    more: impl IntoIterator<Item = &'a OsStr>,
) -> common::Ran {
    let fixed = [OsStr::new("restore"), OsStr::new("--target"), target.as_os_str()];
    run(home.path(), fixed.into_iter().chain(more))
}

fn words<'a>(words: &[&'a str]) -> Vec<&'a OsStr> {
    words.iter().map(|word| OsStr::new(*word)).collect()
}

#[test]
fn snapshots_are_listed_with_the_fields_of_the_contract() {
    let (home, ids) = kept();
    let all = run(home.path(), ["snapshots", "--json"]).json();
    let listed: Vec<&str> =
        all.as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap()).collect();
    assert_eq!(listed, ids);
    let second = &all[1];
    assert_eq!(
        (&second["source"], &second["folder_id"], &second["folder_name"], &second["sequence"]),
        (&json!("Desk"), &json!("docs"), &json!("The docs"), &json!(2))
    );
    assert_eq!((&second["files"], &second["bytes"]), (&json!(5), &json!(3_000_006)));
    assert_eq!(second["received_at"], "2026-11-22T11:00:00Z");
    assert!(second["created_at"].is_string() && second["manifest_cid"].is_string());
    for (filter, number) in [
        (["--folder", "docs"], 2),
        (["--folder", "The pics"], 1),
        (["--source", "Desk"], 3),
        (["--source", PEER], 3),
    ] {
        let ran = run(home.path(), ["snapshots", "--json"].iter().chain(&filter));
        assert_eq!(ran.json().as_array().unwrap().len(), number, "{filter:?}");
    }
    for (filter, says) in [
        (["--source", "Other"], "no source is called \"Other\"; known sources: Desk"),
        (["--folder", "dcos"], "no folder is called \"dcos\"; known folders: The docs, The pics"),
    ] {
        let ran = run(home.path(), ["snapshots", "--json"].iter().chain(&filter));
        assert!(ran.code == Some(1) && ran.err.contains(says), "{ran:?}");
    }
    let shown = run(home.path(), ["snapshots"]).out;
    assert!(shown.contains("2026-11-22 11:00:00") && shown.contains("2.9 MiB"), "{shown}");
}

#[test]
fn a_home_without_a_store_has_no_snapshots_and_a_wrong_home_is_an_error() {
    let home = Home::new("");
    home.init();
    let ran = run(home.path(), ["snapshots", "--json"]);
    assert_eq!((ran.code, ran.json()), (Some(0), json!([])));
    assert_eq!(run(home.path(), ["verify"]).code, Some(0));
    for arguments in [&["ls", "latest"][..], &["restore", "--target", "x"]] {
        assert_eq!(run(home.path(), arguments).code, Some(1));
    }
    assert!(!home.path().join("data/store").exists(), "looking makes nothing");
    let ran = run(&home.path().join("nowhere"), ["snapshots"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.contains("--home"), "{ran:?}");
    assert!(!home.path().join("nowhere").exists());
}

#[test]
fn a_snapshot_is_listed_by_directory_and_whole() {
    let (home, ids) = kept();
    let paths = |arguments: &[&str]| -> Vec<String> {
        let all = ["ls", "--json"].iter().chain(arguments);
        let json = run(home.path(), all).json();
        json.as_array().unwrap().iter().map(|one| one["path"].as_str().unwrap().into()).collect()
    };
    let odd = "red\u{1b}[31m\n\u{fffd}";
    assert_eq!(paths(&[&ids[1]]), ["a.txt", "big", "dir", odd]);
    assert_eq!(paths(&[&ids[1][..4], "dir"]), ["dir/empty", "dir/link"]);
    assert_eq!(paths(&["latest", "/dir/"]), ["dir/empty", "dir/link"]);
    assert_eq!(paths(&["latest", "a.txt"]), ["a.txt"]);
    assert_eq!(paths(&["latest", "-R"]).len(), 6);
    assert_eq!(paths(&[&ids[0], "-R"]), ["a.txt", "gone"]);
    let json = run(home.path(), ["ls", "latest", "--json"]).json();
    assert_eq!(json[3]["path_base64"], base64(HOSTILE));
    assert_eq!((&json[0]["size_bytes"], &json[0]["type"]), (&json!(3), &json!("file")));
    let shown = run(home.path(), ["ls", "latest", "-R"]).out;
    assert_eq!(shown.lines().count(), 6, "{shown:?}");
    assert!(shown.contains("red\\u{1b}[31m\\u{a}\\xff"), "{shown:?}");
    assert!(shown.contains("-rw-r-----") && shown.contains("dir/link -> ../a.txt"), "{shown:?}");
    let odd = [OsString::from("ls"), "latest".into(), OsString::from_vec(HOSTILE.to_vec())];
    assert_eq!(run(home.path(), odd).out.lines().count(), 1);
    for arguments in [["ls", "ffff0000"], ["ls", "xyz!"]] {
        assert_eq!(run(home.path(), arguments).code, Some(1));
    }
    assert_eq!(run(home.path(), ["ls", "latest", "nowhere"]).code, Some(1));
}

fn base64(bytes: &[u8]) -> String {
    api::to_text(bytes).1.unwrap()
}

#[test]
fn a_folder_comes_back_as_it_was() {
    let (home, ids) = kept();
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("new/back");
    let ran = restore(&home, &target, words(&["--folder", "The docs", "--json"]));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!((&ran.json()["snapshot"], &ran.json()["state"]), (&json!(ids[1]), &json!("done")));
    assert_eq!(ran.json()["entries_done"], 6);
    assert_eq!(std::fs::read(target.join("a.txt")).unwrap(), b"new");
    assert_eq!(std::fs::read(target.join("big")).unwrap(), noise(1, 3_000_000));
    assert_eq!(std::fs::read(target.join(OsStr::from_bytes(HOSTILE))).unwrap(), b"odd");
    assert_eq!(std::fs::read_link(target.join("dir/link")).unwrap(), Path::new("../a.txt"));
    let metadata = std::fs::metadata(target.join("dir/empty")).unwrap();
    assert_eq!((metadata.len(), metadata.permissions().mode() & 0o7777), (0, 0o640));
    let mtime = metadata.modified().unwrap().duration_since(std::time::UNIX_EPOCH).unwrap();
    assert_eq!(mtime.as_nanos(), 1_700_000_000_123_456_789);
    assert!(!target.join("gone").exists());
    // A second run finds everything in place, which is no failure.
    let ran = restore(&home, &target, words(&[&ids[1]]));
    assert_eq!(ran.code, Some(0), "{ran:?}");
}

#[test]
fn an_older_state_comes_back_by_id_and_by_time() {
    let (home, ids) = kept();
    let dir = tempfile::tempdir().unwrap();
    let cases: [&[&str]; 5] = [
        &[&ids[0]],
        &[&ids[0][..5]],
        &["--folder", "docs", "--at", "2026-11-22 10:59"],
        &["--folder", "docs", "--at", "2026-11-22 10:00:00"],
        &["--folder", "docs", "--at", "2026-11-22T10:00:00.5Z"],
    ];
    for (number, arguments) in cases.into_iter().enumerate() {
        let target = dir.path().join(number.to_string());
        let ran = restore(&home, &target, words(arguments));
        assert_eq!(ran.code, Some(0), "{arguments:?}: {ran:?}");
        assert_eq!(std::fs::read(target.join("a.txt")).unwrap(), b"old");
        assert_eq!(std::fs::read(target.join("gone")).unwrap(), b"later");
    }
    let target = dir.path().join("none");
    for (arguments, says) in [
        (&["--folder", "docs", "--at", "2026-11-22T09:59:59Z"][..], "no such snapshot"),
        (&[][..], "more than one folder"),
        (&["--folder", "music"][..], "music"),
    ] {
        let ran = restore(&home, &target, words(arguments));
        assert_eq!(ran.code, Some(1), "{ran:?}");
        assert!(ran.err.contains(says), "{ran:?}");
    }
    assert!(!target.exists());
}

#[test]
fn what_is_there_is_overwritten_only_when_it_is_asked_for() {
    let (home, ids) = kept();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.txt"), "mine").unwrap();
    std::fs::write(dir.path().join("other"), "mine too").unwrap();
    let ran = restore(&home, dir.path(), words(&[&ids[1]]));
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.err.contains("a.txt") && ran.err.contains("--overwrite"), "{ran:?}");
    assert_eq!(std::fs::read(dir.path().join("a.txt")).unwrap(), b"mine");
    assert_eq!(std::fs::read(dir.path().join("big")).unwrap().len(), 3_000_000);
    let ran = restore(&home, dir.path(), words(&[&ids[1], "--overwrite"]));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(std::fs::read(dir.path().join("a.txt")).unwrap(), b"new");
    assert_eq!(std::fs::read(dir.path().join("other")).unwrap(), b"mine too");
}

#[test]
fn parts_come_back_by_paths_of_any_bytes() {
    let (home, ids) = kept();
    let dir = tempfile::tempdir().unwrap();
    let mut arguments = words(&[&ids[1], "--path", "dir/empty", "--path"]);
    arguments.push(OsStr::from_bytes(HOSTILE));
    let ran = restore(&home, dir.path(), arguments.iter().copied());
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let mut names: Vec<_> =
        std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, [OsStr::new("dir"), OsStr::from_bytes(HOSTILE)]);
    assert!(dir.path().join("dir/empty").exists() && !dir.path().join("dir/link").exists());
    let ran = restore(&home, dir.path(), words(&[&ids[1], "--path", "no\u{202e}where"]));
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.contains("not in the snapshot: no\\u{202e}where"), "{ran:?}");
}

/// Inverts a byte in the middle of the pack that contains the large file.
fn damage(home: &Home) {
    let packs = home.path().join("data/store/packs");
    let mut turned = 0;
    for entry in std::fs::read_dir(packs).unwrap() {
        let path = entry.unwrap().path();
        let len = std::fs::metadata(&path).unwrap().len();
        if len < 2_000_000 {
            continue;
        }
        let file = std::fs::File::options().read(true).write(true).open(&path).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, len / 2).unwrap();
        file.write_all_at(&[!byte[0]], len / 2).unwrap();
        turned += 1;
    }
    assert_eq!(turned, 1);
}

#[test]
fn damage_is_found_named_and_costs_only_what_it_hit() {
    let (home, ids) = kept();
    for arguments in [&["verify"][..], &["verify", "--full"]] {
        let ran = run(home.path(), arguments);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        assert!(ran.out.contains("checked 3"), "{ran:?}");
    }
    damage(&home);
    let ran = run(home.path(), ["verify", "--full", "--json"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let problems = ran.json()["problems"].clone();
    assert_eq!(problems.as_array().unwrap().len(), 1, "{problems}");
    assert_eq!(problems[0]["concerns"], json!([ids[1], "big"]));
    let ran = run(home.path(), ["verify", "--full"]);
    assert!(ran.out.contains(&ids[1]) && ran.err.contains("--repair"), "{ran:?}");
    // The other snapshots are restored completely, and this one except for the damaged file.
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(restore(&home, &dir.path().join("1"), words(&[&ids[0]])).code, Some(0));
    let ran = restore(&home, &dir.path().join("2"), words(&[&ids[1]]));
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.err.contains("could not be restored: big"), "{ran:?}");
    assert_eq!(std::fs::read(dir.path().join("2/a.txt")).unwrap(), b"new");
    assert!(!dir.path().join("2/big").exists());
}

#[test]
fn a_restore_that_is_not_whole_has_failed_here_as_it_has_in_an_instance() {
    let (home, ids) = kept();
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("target");
    let more = [ids[1].as_str(), "--path", "a.txt", "--path", "nowhere", "--json"];
    let ran = restore(&home, &target, words(&more));
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let report = ran.json();
    assert_eq!((&report["state"], &report["not_found"]), (&json!("failed"), &json!(["nowhere"])));
    assert!(report["error"].is_string(), "{report}");
    assert_eq!(std::fs::read(target.join("a.txt")).unwrap(), b"new");
}

#[test]
fn a_store_that_is_in_use_is_read_beside_its_writer() {
    let (home, _) = kept();
    let open = open(home.path());
    assert_eq!(run(home.path(), ["snapshots", "--json"]).json().as_array().unwrap().len(), 3);
    assert_eq!(run(home.path(), ["verify", "--full"]).code, Some(0));
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("target");
    assert_eq!(restore(&home, &target, words(&["--folder", "docs"])).code, Some(0));
    assert_eq!(std::fs::read(target.join("a.txt")).unwrap(), b"new");
    drop(open);
}

#[test]
fn a_manifest_is_printed_whole() {
    let (home, _) = kept();
    let all = run(home.path(), ["snapshots", "--json"]).json();
    let cid = all[1]["manifest_cid"].as_str().unwrap();
    let manifest = run(home.path(), ["manifest", "show", cid]).json();
    assert_eq!((&manifest["version"], &manifest["folder_id"]), (&json!("2"), &json!("docs")));
    assert_eq!(manifest["files"].as_array().unwrap().len(), 6);
    assert_eq!(manifest["files"][0]["path"], "a.txt");
    let other = "bafkr4igxjga67jykbseaxdmmdgc5a5o3zp3htom2l6mrjznk7fvyggu6eq";
    let ran = run(home.path(), ["manifest", "show", other]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(1), ""), "{ran:?}");
}

#[test]
fn stored_data_is_compressed_without_an_instance() {
    let home = Home::new("");
    home.init();
    // More than an eighth of a pack: a smaller open pack is not recompressed.
    let text: Vec<u8> = (0..3_000_000_u32).flat_map(|n| format!("{n}\n").into_bytes()).collect();
    let id = commit(
        home.path(),
        "docs",
        1,
        "2026-11-22T10:00:00Z",
        &[(b"text", Thing::File(text.clone()))],
    );
    let report = run(home.path(), ["prune", "--json"]).json();
    assert_eq!(report["recompressed"], Value::Null);
    let ran = run(home.path(), ["prune", "--recompress", "--json"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let done = ran.json()["recompressed"].clone();
    assert_eq!((&done["packs"], &done["problems"]), (&json!(1), &json!([])), "{done}");
    let [before, after] = ["before_bytes", "after_bytes"].map(|name| done[name].as_u64().unwrap());
    assert!(before > text.len() as u64 && after < before / 2, "{done}");
    let ran = run(home.path(), ["prune", "--recompress"]);
    assert!(ran.out.contains("0 packs compressed"), "{ran:?}");
    let target = home.path().join("target");
    let id = id.id.to_string();
    let ran = run(home.path(), ["restore", &id, "--target", target.to_str().unwrap()]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(std::fs::read(target.join("text")).unwrap() == text);
}

#[test]
fn a_suspicious_snapshot_is_passed_over_until_the_owner_has_decided() {
    let (home, [_, before, _]) = kept();
    let files: [(&[u8], Thing); 1] = [(b"a.locked", Thing::File(noise(7, 900)))];
    let time = "2026-11-22T12:00:00Z";
    let after = commit_held(home.path(), "docs", 3, time, &files, Some("all was rewritten"));
    let chosen = |name: &str| {
        let target = home.path().join(name);
        let ran = restore(&home, &target, words(&["--folder", "docs", "--json"]));
        ran.json()["snapshot"].as_str().unwrap().to_owned()
    };
    assert_eq!(chosen("before"), before);
    let refused = run(home.path(), ["snapshots", "confirm", "../prune"]);
    assert!(refused.code == Some(2) && refused.err.contains("not the id"), "{refused:?}");
    let unknown = run(home.path(), ["snapshots", "confirm", "ffffffffff"]);
    assert!(unknown.code == Some(1) && unknown.err.contains("ffffffffff"), "{unknown:?}");
    assert_eq!(chosen("still before"), before);
    let id = after.id.to_string();
    let decided = run(home.path(), ["snapshots", "confirm", &id[..6]]);
    assert!(decided.code == Some(0) && decided.out.contains(&id), "{decided:?}");
    assert_eq!(chosen("after"), id);
}

#[test]
fn the_owner_removes_snapshots_with_a_typed_confirmation() {
    use std::io::Write as _;
    let (home, [_, second, pics]) = kept();
    // Received a moment ago, so it is locked.
    let now = jiff::Timestamp::now().to_string();
    let locked = commit(home.path(), "docs", 3, &now, &[(b"x", Thing::File(b"x".to_vec()))]);
    let locked = locked.id.to_string();
    let remove = |arguments: &[&str], typed: &str| {
        let mut command = common::archivist(home.path());
        command.args(["snapshots", "remove"]).args(arguments);
        let pipe = std::process::Stdio::piped;
        command.stdin(pipe()).stdout(pipe()).stderr(pipe());
        let mut child = command.spawn().unwrap();
        let _ = child.stdin.take().unwrap().write_all(typed.as_bytes());
        let output = child.wait_with_output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let left = || run(home.path(), ["snapshots", "--json"]).json().as_array().unwrap().len();
    for typed in ["", "yes\n", &format!("{pics}\n")] {
        let (code, err) = remove(&[&second], typed);
        assert!(code == Some(1) && err.contains("not confirmed"), "{err}");
    }
    // The beginning of every id is the empty text.
    for arguments in [vec!["ffffffffff", "--yes"], vec!["../prune", "--yes"], vec!["", "--yes"]] {
        assert_ne!(remove(&arguments, "").0, Some(0));
    }
    let (code, err) = remove(&[&locked, "--yes", "--newest"], "");
    assert!(code == Some(1) && err.contains("lock_days"), "{err}");
    assert_eq!(left(), 4);
    let (code, err) = remove(&[&second[..6]], &format!("{second}\n"));
    assert_eq!((code, left()), (Some(0), 3), "{err}");
    // The newest one of a folder.
    let (code, err) = remove(&[&pics, "--yes"], "");
    assert!(code == Some(1) && err.contains("--newest"), "{err}");
    let (code, err) = remove(&[&pics], &format!("{pics}\nno\n"));
    assert!(code == Some(1) && err.contains("newest snapshot of the folder"), "{err}");
    let (code, err) = remove(&[&pics], &format!("{pics}\nyes\n"));
    assert_eq!((code, left()), (Some(0), 2), "{err}");
    let store = snapshots::SnapshotStore::new(open(home.path()));
    let peer = PEER.parse().unwrap();
    assert_eq!(store.removed_newest(&peer, None).unwrap()[0].id.to_string(), pics);
}

//! Golden homes: the data of a source and of its backup server as an earlier version of the program
//! wrote them. They are opened, listed, verified, restored, pruned and continued.
//!
//! A golden home is made once and never edited: `docs/formats/changes.md` says when a new one is
//! added, and how. The trees that were backed up are made by [`make_tree`], so a restore is
//! compared with every entry that it must have.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use common::{FOLDER, Home, Two, assert_same, free_port, run};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, XattrFlags, setxattr, utimensat};
use serde_json::{Value, json};

/// The golden homes, oldest first.
const ALL: [&str; 3] = ["1", "2", "3"];
/// The golden homes without markers of the data directory and the store.
const WITHOUT_MARKERS: [&str; 1] = ["1"];
/// The content of the data item.
const LETTER: &str = "a letter that was uploaded to the backup server";

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn expected(name: &str) -> Value {
    let text = fs::read(golden(name).join("expected.json")).unwrap();
    serde_json::from_slice(&text).unwrap()
}

/// Asserts that `found` has every expected value. Objects may have more fields: a later version adds
/// some.
fn assert_has(found: &Value, expected: &Value, name: &str) {
    match (found, expected) {
        (Value::Object(found), Value::Object(expected)) => {
            for (field, value) in expected {
                assert_has(
                    found.get(field).unwrap_or(&Value::Null),
                    value,
                    &format!("{name}.{field}"),
                );
            }
        }
        (Value::Array(found), Value::Array(expected)) => {
            assert_eq!(found.len(), expected.len(), "{name}: {found:#?}");
            for (number, (found, expected)) in found.iter().zip(expected).enumerate() {
                assert_has(found, expected, &format!("{name}.{number}"));
            }
        }
        _ => assert_eq!(found, expected, "{name}"),
    }
}

/// Returns these fields of an object, or of each object in a list.
fn fields(value: &Value, names: &[&str]) -> Value {
    match value {
        Value::Array(all) => all.iter().map(|one| fields(one, names)).collect(),
        one => names.iter().map(|name| ((*name).to_owned(), one[*name].clone())).collect(),
    }
}

/// Copies a directory, writable for the user alone.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    fs::set_permissions(to, fs::Permissions::from_mode(0o700)).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
            fs::set_permissions(&target, fs::Permissions::from_mode(0o600)).unwrap();
        }
    }
}

/// Returns a home with a copy of the golden data. `more` is added to the configuration.
fn home(name: &str, side: &str, more: &str) -> Home {
    let home = Home::new(more);
    copy(&golden(name).join(side).join("data"), &home.path().join("data"));
    home
}

/// Returns the home of the backup server, which keeps the last `keep` snapshots.
fn server(name: &str, keep: u32) -> Home {
    let source = expected(name)["source_peer_id"].as_str().unwrap().to_owned();
    let more = format!(
        "[backup_server]\nenabled = true\ntrigger_port = {}\nkeep = {{ within = \"0\", \
         last = {keep}, hourly = 0, daily = 0, weekly = 0, monthly = 0 }}\n\
         [[backup_server.source_peers]]\nname = \"My Desktop\"\n\
         manifest_server_url = \"http://127.0.0.1:{}\"\npeer_id = \"{source}\"\n",
        free_port(),
        free_port(),
    );
    home(name, "server", &more)
}

fn set_mtime(path: &Path, seconds: i64, nanoseconds: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Makes the tree that the golden homes have backed up, in its first or its second state. Never
/// changed: a new golden home with other entries has a function of its own.
fn make_tree(dir: &Path, state: u32) {
    let at = |name: &str| dir.join(name);
    for name in ["dir/inner", "empty", "links"] {
        fs::create_dir_all(at(name)).unwrap();
    }
    let lines = |count: u32| (0..count).map(|n| format!("{n}: line {n} of the text\n")).collect();
    let text: String = lines(5000);
    fs::write(at("text of several chunks"), &text).unwrap();
    fs::write(at("changed"), if state == 1 { &text[..9000] } else { &text[100..9000] }).unwrap();
    if state == 1 {
        fs::write(at("removed later"), "only in the first state").unwrap();
    } else {
        fs::write(at("added later"), "only in the second state").unwrap();
    }
    fs::write(at("no content"), "").unwrap();
    fs::write(dir.join(OsStr::from_bytes(b"not UTF-8 \xff\xfe")), "bytes").unwrap();
    fs::write(at("dir/inner/\u{e9}t\u{e9} \u{2603} \"quoted\"\n"), "unicode").unwrap();
    let sparse = File::create(at("sparse")).unwrap();
    sparse.set_len(100_000).unwrap();
    sparse.write_all_at(b"data", 0).unwrap();
    sparse.write_all_at(b"more data", 90_000).unwrap();
    for mode in [0o400, 0o640, 0o755, 0o777] {
        let path = at(&format!("mode {mode:o}"));
        fs::write(&path, "content").unwrap();
        set_mode(&path, mode);
    }
    let with_xattrs = at("attributes");
    fs::write(&with_xattrs, "x").unwrap();
    for (name, value) in [("user.text", &b"value"[..]), ("user.bytes", &[0, 255, 10])] {
        setxattr(&with_xattrs, name, value, XattrFlags::empty()).unwrap();
    }
    symlink("../no content", at("links/relative")).unwrap();
    symlink(OsStr::from_bytes(b"dangling/\xff"), at("links/dangling")).unwrap();
    fs::hard_link(at("no content"), at("links/another name")).unwrap();
    set_mode(&at("dir/inner"), 0o750);
    set_mode(&at("empty"), 0o1777);
    set_mode(dir, 0o755);
    // The times last, from the inside to the outside.
    let mut all = paths_below(dir);
    all.push(dir.to_owned());
    for (n, path) in (1_i64..).zip(&all) {
        set_mtime(path, 1_700_000_000 + n, 123_456_000 + n);
    }
    // The names of one file have one time.
    set_mtime(&at("no content"), -1, 999_999_999);
}

/// Returns the paths below a directory, contents before their directory, in a fixed order.
fn paths_below(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().flat_map(|path| below_and_itself(&path)).collect()
}

fn below_and_itself(path: &Path) -> Vec<PathBuf> {
    let mut paths = match path.symlink_metadata().unwrap().is_dir() {
        true => paths_below(path),
        false => Vec::new(),
    };
    paths.push(path.to_owned());
    paths
}

/// Returns the markers of the data directory and of the store, if there are any.
fn markers(data: &Path) -> [Option<Value>; 2] {
    [data.join("marker.json"), data.join("store/marker.json")].map(|path| {
        let text = fs::read(path).ok()?;
        Some(serde_json::from_slice(&text).unwrap())
    })
}

/// Asserts that a start has kept the markers, or has written them if there were none.
fn assert_marked(home: &Home, name: &str, side: &str) {
    let before = markers(&golden(name).join(side).join("data"));
    let after = markers(&home.path().join("data"));
    let [data, store] = after.clone().map(Option::unwrap);
    assert_eq!((&data["store"], &data["peer_id"]), (&store["store"], &store["peer_id"]));
    assert_eq!(data["peer_id"], json!(home.peer_id()), "{name}");
    if WITHOUT_MARKERS.contains(&name) {
        assert_eq!(before, [None, None], "{name}");
    } else {
        assert_eq!(before, after, "{name}");
    }
}

/// Restores the snapshots that have a known tree, and compares them with it.
fn assert_restores(home: &Home, snapshots: &[Value]) {
    let dir = tempfile::tempdir().unwrap();
    for snapshot in snapshots {
        let (id, state) = (snapshot["id"].as_str().unwrap(), snapshot["state"].as_u64().unwrap());
        let [wanted, target] = ["wanted", "restored"].map(|part| dir.path().join(part).join(id));
        fs::create_dir_all(&wanted).unwrap();
        make_tree(&wanted, u32::try_from(state).unwrap());
        let ran = run(home.path(), ["restore", id, "--target", target.to_str().unwrap()]);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        assert_same(&wanted, &target);
    }
}

/// Checks that no snapshot is restored into the store.
fn assert_store_is_no_target(home: &Home, snapshots: &Value) {
    let (id, store) = (snapshots[0]["id"].as_str().unwrap(), home.path().join("data/store/new"));
    let ran = run(home.path(), ["restore", id, "--target", store.to_str().unwrap(), "--overwrite"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.err.contains("where this program keeps its data"), "{ran:?}");
    assert!(!store.exists());
}

#[test]
fn a_golden_backup_server_is_listed_verified_and_restored() {
    for name in ALL {
        let (home, expected) = (server(name, 1000), expected(name));
        let listed = run(home.path(), ["snapshots", "--json"]);
        assert_has(&listed.json(), &expected["snapshots"], name);
        assert_restores(&home, expected["trees"].as_array().unwrap());
        assert_store_is_no_target(&home, &listed.json());
        let verified = run(home.path(), ["verify", "--full", "--json"]);
        assert_eq!((verified.code, verified.json()["problems"].clone()), (Some(0), json!([])));
        let found = run(home.path(), ["recover", "--json"]).json();
        let states = found["snapshots"].as_array().unwrap().iter().map(|one| one["state"].clone());
        assert!(states.into_iter().all(|state| state == "known"), "{name}: {found:#}");
        assert_eq!(
            (&found["complete"], &found["items"][0]["cid"]),
            (&json!(true), &expected["item"])
        );
    }
}

#[test]
fn a_golden_backup_server_is_continued_and_pruned() {
    for name in ALL {
        let (home, expected) = (server(name, 1), expected(name));
        let daemon = home.start();
        assert_marked(&home, name, "server");
        let item = format!("/data/{}", expected["item"].as_str().unwrap());
        assert_eq!(daemon.get(&item).text().unwrap(), LETTER, "{name}");
        assert_store_is_no_target(&home, &home.run_json(&["snapshots", "--json"]));
        let pruned = home.run_json(&["prune", "--json"]);
        assert_eq!(pruned["not_collected"], Value::Null, "{name}: {pruned:#}");
        let compressed = home.run_json(&["prune", "--recompress", "--json"]);
        assert_eq!(compressed["not_collected"], Value::Null, "{name}: {compressed:#}");
        assert_eq!(daemon.get(&item).text().unwrap(), LETTER, "{name}");
        assert_eq!(daemon.terminate().0, Some(0));
        let listed = run(home.path(), ["snapshots", "--json"]).json();
        let last = expected["snapshots"].as_array().unwrap().last().unwrap();
        assert_has(&listed, &json!([last]), name);
        assert_eq!(run(home.path(), ["verify", "--full"]).code, Some(0), "{name}");
        assert_restores(&home, &expected["trees"].as_array().unwrap()[1..]);
    }
}

#[test]
fn a_golden_source_continues_with_its_index_and_receipts() {
    for name in ALL {
        let expected = expected(name);
        let dir = tempfile::tempdir().unwrap();
        let more = format!(
            "[[sync.folders]]\nid = \"{FOLDER}\"\npath = {:?}\nname = \"Documents\"\n\
             [manifest_server]\nport = {}\n",
            dir.path(),
            free_port(),
        );
        let home = home(name, "source", &more);
        assert_eq!(json!(home.peer_id()), expected["source_peer_id"], "{name}");
        let daemon = home.start();
        assert_marked(&home, name, "source");
        let folder = daemon.v1("/folders")[0].clone();
        // The directory is another one, and empty: that is never a deletion of everything.
        assert_has(&folder, &expected["folder"], name);
        let receipts = home.run_json(&["receipts", "--json"]);
        assert_has(&receipts, &expected["receipts"], name);
        assert_eq!(daemon.terminate().0, Some(0));
    }
}

/// Makes the golden home that [`ALL`] names last, if it does not exist yet.
#[test]
#[ignore = "makes a new golden home; see docs/formats/changes.md"]
fn make_golden_home() {
    let dir = golden(ALL[ALL.len() - 1]);
    assert!(!dir.exists(), "{} exists; a golden home is never made again", dir.display());
    let two = Two::new();
    // Slower than 40 MB/s: blocks are compressed for the transfer.
    let config = fs::read_to_string(two.a.config()).unwrap();
    fs::write(two.a.config(), config.replace("[sync]\n", "[sync]\nupload_limit = \"1MB/s\"\n"))
        .unwrap();
    make_tree(&two.path(), 1);
    let (a, b) = (two.a.start(), two.b.start());
    let newest = |a: &common::Daemon| {
        two.backed_up();
        two.eventually_same(a);
        let listed = two.b.run_json(&["snapshots", "--json"]);
        listed.as_array().unwrap().last().unwrap()["id"].clone()
    };
    let first = newest(&a);
    assert_eq!(a.terminate().0, Some(0));
    for path in fs::read_dir(two.path()).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.unwrap();
    }
    make_tree(&two.path(), 2);
    let a = two.a.start();
    let second = newest(&a);
    let letter = b.http().post(b.url("/data")).header("content-type", "text/plain");
    let letter = letter.header("content-disposition", "attachment; filename=\"letter.txt\"");
    let item = letter.body(LETTER).send().unwrap().text().unwrap();
    let of_snapshot = [
        "id",
        "folder_id",
        "folder_name",
        "sequence",
        "created_at",
        "received_at",
        "files",
        "bytes",
        "manifest_cid",
    ];
    let of_receipt = ["number", "previous", "hash", "receipt", "signature", "problem"];
    let of_folder = ["sequence", "backed_up_sequence", "manifest_cid"];
    let expected = json!({
        "source_peer_id": two.a.peer_id(),
        "snapshots": fields(&two.b.run_json(&["snapshots", "--json"]), &of_snapshot),
        "trees": [{ "id": first, "state": 1 }, { "id": second, "state": 2 }],
        "item": item,
        "folder": fields(&a.v1("/folders")[0], &of_folder),
        "receipts": fields(&two.a.run_json(&["receipts", "--json"]), &of_receipt),
    });
    assert_eq!((a.terminate().0, b.terminate().0), (Some(0), Some(0)));
    for (home, side, parts) in [
        (&two.a, "source", &["identity.key", "marker.json", "store", "sync", "receipts"][..]),
        (&two.b, "server", &["identity.key", "marker.json", "store", "issued-receipts"][..]),
    ] {
        for part in parts {
            let (from, to) = (home.path().join("data").join(part), dir.join(side).join("data"));
            if from.is_dir() {
                copy(&from, &to.join(part));
            } else {
                fs::create_dir_all(&to).unwrap();
                fs::copy(&from, to.join(part)).unwrap();
            }
        }
    }
    let text = serde_json::to_string_pretty(&expected).unwrap() + "\n";
    fs::write(dir.join("expected.json"), text).unwrap();
}

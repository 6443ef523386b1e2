//! Two real processes, a source and its backup server, from a saved file to a restored one.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

mod common;

use std::fs;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

use common::{Two, assert_same, eventually, noise};
use serde_json::Value;

fn get(url: &str) -> (u16, String) {
    let http = reqwest::blocking::Client::builder().no_proxy().build().unwrap();
    let answer = http.get(url).send().unwrap();
    (answer.status().as_u16(), answer.text().unwrap())
}

fn state(two: &Two) -> Value {
    let text = fs::read(two.b.path().join("data/backup-daemon-state.json")).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

/// The seven steps of the project's original requirements.
#[test]
fn the_seven_steps() {
    let two = Two::new();
    let a = two.a.start();
    // The list exists before the first manifest: it is empty, or contains that manifest.
    let manifests = format!("http://127.0.0.1:{}/manifests", two.manifest_port);
    assert_eq!(get(&manifests).0, 200);
    for number in 0..12 {
        fs::write(two.path().join(format!("{number}.txt")), format!("file {number}")).unwrap();
    }
    // 1. Machine A syncs files and generates a manifest.
    let registered = two.a.run_json(&["sync", "--json"]);
    let cid = registered[0]["manifest_cid"].as_str().unwrap().to_owned();
    // 2. and 3. It is registered, and exposed over HTTP.
    let (status, text) = get(&manifests);
    assert_eq!(status, 200);
    let told: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(told["peerId"], two.a.peer_id());
    let manifest = &told["manifests"][0];
    assert_eq!(manifest["folderId"], common::FOLDER);
    assert_eq!(manifest["folderName"], "Documents");
    assert_eq!(manifest["manifestCid"], cid);
    assert_eq!(manifest["fileCount"], 12);
    assert!(manifest["signature"].is_string() && manifest["updatedAt"].is_string());
    assert_eq!(get(&format!("http://127.0.0.1:{}/health", two.manifest_port)).0, 200);
    // 4. and 5. Machine B polls, and discovers it.
    let b = two.b.start();
    // 6. It downloads the manifest and the files over P2P …
    two.eventually_same(&a);
    let snapshots = two.b.run_json(&["snapshots", "--json"]);
    let newest = snapshots.as_array().unwrap().last().unwrap();
    assert_eq!(newest["manifest_cid"], cid);
    assert_eq!(
        (newest["files"].as_u64(), newest["folder_id"].as_str()),
        (Some(12), Some("documents"))
    );
    // … the manifest's CIDs work in the node's API, on both sides …
    let whole = two.b.run_json(&["manifest", "show", &cid]);
    let files = whole["files"].as_array().unwrap();
    let file = files.iter().find(|file| file["path"] == "7.txt").unwrap();
    let path = format!("/data/{}", file["cid"].as_str().unwrap());
    assert_eq!(b.get(&path).text().unwrap(), "file 7");
    assert_eq!(a.get(&path).text().unwrap(), "file 7");
    assert_eq!(a.get(&format!("/data/{cid}")).status(), 200);
    // 7. … and it marks the manifest as processed.
    eventually("the state file says so", || state(&two).to_string().contains(&cid));
    two.assert_restores("restored");
    // On A, through B.
    let target = two.beside("through");
    let restored = two.a.run(&[
        "restore",
        "--from-backup-server",
        "--folder",
        common::FOLDER,
        "--target",
        target.to_str().unwrap(),
    ]);
    assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
    assert_same(&two.path(), &target);
    assert_eq!((a.terminate().0, b.terminate().0), (Some(0), Some(0)));
    // And with no instance running.
    two.assert_restores("offline");
}

#[test]
fn whoever_is_off_catches_up() {
    let two = Two::new();
    let file = two.path().join("file");
    // B before A.
    let b = two.b.start();
    fs::write(&file, "1").unwrap();
    let a = two.a.start();
    two.eventually_same(&a);
    // A is off while it changes.
    let before = a.v1("/folders")[0]["sequence"].as_u64().unwrap();
    assert_eq!(a.terminate().0, Some(0));
    fs::write(&file, "22").unwrap();
    fs::create_dir(two.path().join("new")).unwrap();
    let a = two.a.start();
    eventually("A has seen it", || a.v1("/folders")[0]["sequence"].as_u64() > Some(before));
    two.eventually_same(&a);
    two.assert_restores("a-was-off");
    // B is off.
    assert_eq!(b.terminate().0, Some(0));
    fs::write(&file, "333").unwrap();
    let registered = two.a.run_json(&["sync", "--json"]);
    let sequence = registered[0]["sequence"].as_u64().unwrap();
    let b = two.b.start();
    eventually("B has it", || a.v1("/folders")[0]["backed_up_sequence"] == sequence);
    two.assert_restores("b-was-off");
    // Both are off; A starts first.
    a.kill();
    b.kill();
    fs::write(&file, "4444").unwrap();
    let a = two.a.start();
    two.a.run_json(&["sync", "--json"]);
    let _b = two.b.start();
    two.eventually_same(&a);
    two.assert_restores("both-were-off");
}

#[test]
fn what_people_do_with_files() {
    let two = Two::new();
    let (a, _b) = (two.a.start(), two.b.start());
    let at = |name: &str| two.path().join(name);
    for name in ["one", "two", "three", "four"] {
        fs::write(at(name), noise(name.len() as u64, 100_000)).unwrap();
    }
    fs::create_dir_all(at("dir/sub")).unwrap();
    for number in 0..200 {
        fs::write(at(&format!("dir/sub/{number}")), number.to_string()).unwrap();
    }
    two.backed_up();
    two.assert_restores("before");
    // A directory is renamed; two files are swapped; a file becomes a
    // directory, a directory a link, a link a file.
    fs::rename(at("dir"), at("renamed")).unwrap();
    fs::rename(at("one"), at("tmp")).unwrap();
    fs::rename(at("two"), at("one")).unwrap();
    fs::rename(at("tmp"), at("two")).unwrap();
    fs::remove_file(at("three")).unwrap();
    fs::create_dir(at("three")).unwrap();
    fs::write(at("three/inside"), "a directory now").unwrap();
    fs::remove_file(at("four")).unwrap();
    symlink("one", at("four")).unwrap();
    two.backed_up();
    two.assert_restores("swapped");
    fs::remove_dir_all(at("three")).unwrap();
    symlink("renamed", at("three")).unwrap();
    fs::remove_file(at("four")).unwrap();
    fs::write(at("four"), "a file again").unwrap();
    // Three ways in which editors save: temporary file and rename; backup and new file; truncate
    // and write.
    fs::write(at(".one.swp"), "saved").unwrap();
    fs::rename(at(".one.swp"), at("one")).unwrap();
    fs::rename(at("two"), at("two~")).unwrap();
    fs::write(at("two"), "saved").unwrap();
    fs::write(at("renamed/sub/7"), "truncated").unwrap();
    two.eventually_same(&a);
    two.backed_up();
    two.assert_restores("edited");
    // 20 rapid saves: the last one must be backed up.
    for number in 0..20 {
        fs::write(at("often"), format!("save {number}")).unwrap();
    }
    eventually("the last one is in", || {
        let target = two.beside("often");
        let _ = fs::remove_dir_all(&target);
        let arguments = ["restore", "--folder", common::FOLDER, "--path", "often", "--target"];
        let done = two.b.run(&[&arguments[..], &[target.to_str().unwrap()]].concat());
        done.status.success() && fs::read(target.join("often")).is_ok_and(|t| t == b"save 19")
    });
}

/// Stops the writing thread when the scope ends, even by a panic.
struct Stop<'a>(&'a std::sync::atomic::AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}

#[test]
fn a_file_that_is_appended_to_all_the_time_is_a_prefix_of_itself() {
    let two = Two::new();
    // Before the first scan, so that the first snapshot contains it.
    fs::write(two.path().join("still"), "still").unwrap();
    let (_a, _b) = (two.a.start(), two.b.start());
    let log = two.path().join("log");
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        // A failure ends the writing as well, and with it the test.
        let _stop = Stop(&stop);
        scope.spawn(|| {
            let mut file = fs::File::create(&log).unwrap();
            let mut number = 0_u64;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                writeln!(file, "line {number}").unwrap();
                number += 1;
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        });
        let target = two.beside("log");
        eventually("still is backed up", || {
            let snapshots = two.b.run_json(&["snapshots", "--json"]);
            !snapshots.as_array().unwrap().is_empty()
        });
        let done = two.b.run(&[
            "restore",
            "--folder",
            common::FOLDER,
            "--target",
            target.to_str().unwrap(),
        ]);
        assert!(done.status.success());
        assert_eq!(fs::read(target.join("still")).unwrap(), b"still");
        if let Ok(restored) = fs::read(target.join("log")) {
            let now = fs::read(&log).unwrap();
            assert!(now.starts_with(&restored), "it never had this state");
        }
    });
    two.backed_up();
    two.assert_restores("whole");
}

#[test]
fn a_checkout_of_a_large_tree() {
    let two = Two::new();
    let git = |arguments: &[&str]| {
        let output = Command::new("git")
            .args(["-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false"])
            .args(arguments)
            .current_dir(two.path())
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    git(&["init", "-q", "-b", "main"]);
    for number in 0..1500 {
        let dir = two.path().join(format!("src/{}", number % 30));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(format!("{number}.rs")), format!("// {number}\n").repeat(20)).unwrap();
    }
    git(&["add", "."]);
    git(&["commit", "-q", "-m", "one"]);
    git(&["checkout", "-q", "-b", "other"]);
    for number in (0..1500).step_by(2) {
        let path = two.path().join(format!("src/{}/{number}.rs", number % 30));
        if number % 3 == 0 {
            fs::remove_file(path).unwrap();
        } else {
            fs::write(path, format!("// other {number}\n")).unwrap();
        }
    }
    git(&["add", "-A"]);
    git(&["commit", "-q", "-m", "two"]);
    let (_a, _b) = (two.a.start(), two.b.start());
    two.backed_up();
    two.assert_restores("other");
    git(&["checkout", "-q", "main"]);
    two.backed_up();
    two.assert_restores("main");
    git(&["checkout", "-q", "other"]);
    git(&["gc", "-q"]);
    two.backed_up();
    two.assert_restores("other-again");
}

/// Names, types, modes and times that programs often handle wrongly.
fn awkward(dir: &Path) {
    let name = |bytes: &[u8]| dir.join(std::ffi::OsStr::from_bytes(bytes));
    for bytes in [
        &b"a\nb"[..],
        b"-rf",
        b"\xff\xfe invalid",
        b"*?[",
        b" ",
        b"...",
        b"\x01\x7f",
        "\u{202e}gpj".as_bytes(),
        &[b'x'; 255],
    ] {
        fs::write(name(bytes), bytes).unwrap();
    }
    symlink(".", dir.join("cycle")).unwrap();
    symlink("no/such/place", dir.join("dangling")).unwrap();
    symlink("/etc/passwd", dir.join("outside")).unwrap();
    fs::create_dir_all(dir.join("empty/emptier")).unwrap();
    fs::write(dir.join("setuid"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(dir.join("setuid"), fs::Permissions::from_mode(0o4755)).unwrap();
    fs::write(dir.join("read-only"), "r").unwrap();
    fs::set_permissions(dir.join("read-only"), fs::Permissions::from_mode(0o400)).unwrap();
    fs::hard_link(dir.join("read-only"), dir.join("empty/linked")).unwrap();
    let sparse = fs::File::create(dir.join("sparse")).unwrap();
    sparse.set_len(3_000_000_000).unwrap();
    let at_end = b"the end";
    std::os::unix::fs::FileExt::write_all_at(&sparse, at_end, 3_000_000_000 - 7).unwrap();
    let run = |program: &str, arguments: &[&str]| {
        let status = Command::new(program).args(arguments).current_dir(dir).status();
        status.is_ok_and(|status| status.success())
    };
    assert!(run("mkfifo", &["pipe"]));
    for (file, seconds) in [("long ago", -5_000_000_000_i64), ("far ahead", 4_000_000_000)] {
        fs::write(dir.join(file), file).unwrap();
        let time = if seconds < 0 {
            std::time::UNIX_EPOCH - std::time::Duration::new(seconds.unsigned_abs(), 5)
        } else {
            std::time::UNIX_EPOCH + std::time::Duration::new(seconds.unsigned_abs(), 123_456_789)
        };
        fs::File::options().write(true).open(dir.join(file)).unwrap().set_modified(time).unwrap();
    }
    fs::create_dir(dir.join("closed")).unwrap();
    fs::write(dir.join("closed/inside"), "x").unwrap();
    fs::set_permissions(dir.join("closed"), fs::Permissions::from_mode(0o2750)).unwrap();
}

#[test]
fn the_awkward_tree() {
    let two = Two::new();
    awkward(&two.path());
    let (_a, _b) = (two.a.start(), two.b.start());
    two.backed_up();
    two.assert_restores("awkward");
    // The list escapes unsafe characters for terminals; JSON contains them unchanged.
    let snapshots = two.b.run_json(&["snapshots", "--json"]);
    let id = snapshots[0]["id"].as_str().unwrap();
    let listed = two.b.run(&["ls", id]);
    assert!(listed.status.success());
    let text = String::from_utf8(listed.stdout).unwrap();
    assert!(!text.contains(['\u{202e}', '\u{1}']), "{text:?}");
    let verified = two.b.run_json(&["verify", "--full", "--json"]);
    assert_eq!(verified["problems"].as_array().unwrap().len(), 0);
}

#[test]
fn a_source_that_is_somebody_else_is_refused_and_shown() {
    let two = Two::new();
    fs::write(two.path().join("file"), "x").unwrap();
    let other = common::Home::new("");
    let text = fs::read_to_string(two.b.config()).unwrap();
    fs::write(two.b.config(), text.replace(&two.a.peer_id(), &other.peer_id())).unwrap();
    let (_a, b) = (two.a.start(), two.b.start());
    two.a.run_json(&["sync", "--json"]);
    eventually("it is refused", || {
        let source = b.v1("/sources")[0].clone();
        source["state"] == "refused" || source["state"] == "failed"
    });
    let source = b.v1("/sources")[0].clone();
    assert!(source["errors"].to_string().contains(&two.a.peer_id()), "{source:#}");
    assert_eq!(two.b.run_json(&["snapshots", "--json"]), serde_json::json!([]));
}

#[test]
fn a_flood_of_triggers_harms_nobody() {
    // B polls only once an hour.
    let two = Two::with(100, 3600);
    fs::write(two.path().join("file"), "x").unwrap();
    let (a, b) = (two.a.start(), two.b.start());
    two.eventually_same(&a);
    let url = format!("http://127.0.0.1:{}/trigger", two.trigger_port);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let http = reqwest::blocking::Client::builder().no_proxy().build().unwrap();
                for _ in 0..250 {
                    let answer = http.post(&url).body("x").send().unwrap();
                    assert_eq!(answer.status(), 202);
                    assert_eq!(answer.text().unwrap(), r#"{"status":"accepted"}"#);
                }
            });
        }
    });
    fs::write(two.path().join("file"), "y").unwrap();
    two.backed_up();
    two.assert_restores("flooded");
    assert_eq!((a.terminate().0, b.terminate().0), (Some(0), Some(0)));
}

#[test]
fn an_empty_root_is_an_alarm_and_much_deletion_is_held() {
    let two = Two::new();
    for number in 0..120 {
        fs::write(two.path().join(number.to_string()), "x").unwrap();
    }
    let (a, _b) = (two.a.start(), two.b.start());
    let first = two.backed_up();
    // All files are deleted: nothing is published.
    let away = two.beside("away");
    fs::rename(two.path(), &away).unwrap();
    fs::create_dir(two.path()).unwrap();
    eventually("there is an alarm", || {
        let _ = two.a.run(&["sync"]);
        a.v1("/folders")[0]["state"] == "alarm"
    });
    assert_eq!(a.v1("/folders")[0]["sequence"], first["sequence"]);
    fs::remove_dir(two.path()).unwrap();
    fs::rename(&away, two.path()).unwrap();
    eventually("it is over", || a.v1("/folders")[0]["state"] == "idle");
    // Most files are deleted: the manifest is published and marked as held.
    for number in 0..100 {
        fs::remove_file(two.path().join(number.to_string())).unwrap();
    }
    two.backed_up();
    assert!(a.v1("/folders")[0]["held"].is_string());
    two.assert_restores("held");
    // Without an id, the snapshot before the suspicious one is restored.
    let target = two.beside("before the deletion");
    let arguments = ["restore", "--folder", common::FOLDER, "--target", target.to_str().unwrap()];
    let output = two.b.run(&arguments);
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("was passed over"), "{output:?}");
    assert_eq!(fs::read_dir(&target).unwrap().count(), 120);
    // The owner of the backup server decides about the snapshots there.
    let notices = || two.b.run_json(&["status", "--json"])["notices"].to_string();
    assert!(notices().contains("archivist snapshots confirm"), "{}", notices());
    let newest =
        two.b.run_json(&["snapshots", "--json"]).as_array().unwrap().last().unwrap().clone();
    let id = newest["id"].as_str().unwrap();
    let confirmed = two.b.run_json(&["snapshots", "confirm", id, "--json"]);
    assert_eq!((&confirmed["id"], &confirmed["held"]), (&newest["id"], &Value::Null));
    assert!(!notices().contains("snapshots confirm"), "{}", notices());
    let target = two.beside("after the decision");
    let arguments = ["restore", "--folder", common::FOLDER, "--target", target.to_str().unwrap()];
    assert!(two.b.run(&arguments).status.success());
    assert_eq!(fs::read_dir(&target).unwrap().count(), 20);
    assert!(two.a.run(&["folder", "confirm", common::FOLDER]).status.success());
    eventually("it is not held", || a.v1("/folders")[0]["held"].is_null());
}

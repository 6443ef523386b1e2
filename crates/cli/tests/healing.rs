//! Damage on a running backup server is found and healed without a request.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use common::{Daemon, Home, Two, eventually, eventually_or, noise};
use serde_json::Value;

fn packs(home: &Home) -> Vec<PathBuf> {
    let all = fs::read_dir(home.path().join("data/store/packs")).unwrap();
    all.map(|entry| entry.unwrap().path()).collect()
}

/// Flips a bit of every stored copy of these bytes.
fn damage(home: &Home, content: &[u8]) {
    let mut flipped = 0;
    for path in packs(home) {
        let pack = fs::read(&path).unwrap();
        if let Some(at) = pack.windows(content.len()).position(|window| window == content) {
            let file = fs::File::options().write(true).open(&path).unwrap();
            file.write_all_at(&[pack[at] ^ 1], at as u64).unwrap();
            flipped += 1;
        }
    }
    assert_eq!(flipped, 1);
}

/// Makes every pack overdue.
fn outdate(home: &Home) {
    let line = |path: PathBuf| {
        let header = fs::read(path).unwrap();
        let number = u32::from_le_bytes(header[12..16].try_into().unwrap());
        let uuid = u128::from_be_bytes(header[16..32].try_into().unwrap());
        format!("{number} {uuid:032x} scrubbed 0\n")
    };
    let lines: String = packs(home).into_iter().map(line).collect();
    fs::write(home.path().join("data/store/scrub"), lines).unwrap();
}

fn integrity(daemon: &Daemon) -> Value {
    daemon.v1("/status")["integrity"].clone()
}

fn until_healed(daemon: &Daemon, count: u64) {
    let healing = || integrity(daemon)["healing"].clone();
    eventually_or(
        "everything is healed",
        || healing()["outstanding"] == 0 && healing()["healed"].as_u64() >= Some(count),
        || format!("{:#}\n{}", healing(), daemon.log()),
    );
}

fn text(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn damage_is_found_and_healed_without_a_request() {
    let two = Two::new();
    let config = fs::read_to_string(two.b.config()).unwrap();
    let off = config.replace("[backup_server]\n", "[backup_server]\nscrub_days = 0\n");
    fs::write(two.b.config(), off).unwrap();
    let (first, second) = (noise(1, 300_000), noise(2, 300_000));
    fs::write(two.path().join("first"), &first).unwrap();
    fs::write(two.path().join("second"), &second).unwrap();
    let (a, b) = (two.a.start(), two.b.start());
    two.eventually_same(&a);
    assert_eq!(b.terminate().0, Some(0));
    outdate(&two.b);
    let b = two.b.start();
    // The scrub is off: nobody reads the block.
    damage(&two.b, &first[150_000..150_064]);
    assert_eq!(integrity(&b)["scrub"]["blocks_checked"], 0);
    let set = two.b.run(&["config", "set", "backup_server.scrub_days", "30"]);
    assert!(set.status.success(), "{}", text(&set));
    until_healed(&b, 1);
    let is_done = || {
        let scrub = integrity(&b)["scrub"].clone();
        scrub["never_scrubbed"] == 0 && scrub["scrubbed_bytes"] == scrub["bytes"]
    };
    eventually("the pass is complete", is_done);
    two.assert_restores("scrubbed");
    let metrics = b.http().get(format!("http://{}/metrics", b.api())).send().unwrap();
    let metrics = metrics.text().unwrap();
    for line in ["blocks_damaged_total 1", "blocks_healed_total 1", "blocks_outstanding 0"] {
        assert!(metrics.contains(&format!("archivist_{line}\n")), "{metrics}");
    }
    let status = text(&two.b.run(&["status"]));
    assert!(status.contains("1 block found, 1 healed, 0 outstanding"), "{status}");
    let token = fs::read_to_string(two.b.path().join("data/api-token")).unwrap();
    let journal = b.http().get(format!("http://{}/api/v1/journal", b.api()));
    let journal = journal.bearer_auth(token.trim()).send().unwrap().text().unwrap();
    assert!(journal.contains("is damaged or missing, and is fetched again"), "{journal}");
    assert!(journal.contains("was fetched again from My Desktop"), "{journal}");

    // The source is off. The damage is an alarm that names the file …
    a.kill();
    damage(&two.b, &second[150_000..150_064]);
    let verified = two.b.run(&["verify", "--full"]);
    assert_eq!(verified.status.code(), Some(1), "{}", text(&verified));
    let alarm = || {
        let notices = b.v1("/status")["notices"].to_string();
        notices.contains("1 stored block is damaged or missing") && notices.contains("second")
    };
    eventually("there is an alarm", alarm);
    assert_eq!(integrity(&b)["last_verification"]["problems"], 1);
    // … also after a restart …
    assert_eq!(b.terminate().0, Some(0));
    let b = two.b.start();
    let last = integrity(&b)["last_verification"].clone();
    assert_eq!((&last["problems"], &last["is_full"]), (&Value::from(1), &Value::from(true)));
    eventually("the alarm is back", alarm_of(&b));
    // … and ends when the source is back.
    let _a = two.a.start();
    until_healed(&b, 2);
    eventually("the alarm has ended", || !alarm_of(&b)());
    let verified = two.b.run(&["verify", "--full"]);
    assert!(verified.status.success(), "{}", text(&verified));
    assert_eq!(integrity(&b)["last_verification"]["problems"], 0);
    two.assert_restores("healed");
}

fn alarm_of(daemon: &Daemon) -> impl Fn() -> bool + '_ {
    || daemon.v1("/status")["notices"].to_string().contains("is damaged or missing")
}

#[test]
fn verify_repairs_data_items() {
    let two = Two::new();
    let (a, b) = (two.a.start(), two.b.start());
    let content = noise(3, 400_000);
    let cid = a.upload(content.clone());
    assert_eq!(b.upload(content.clone()), cid);
    damage(&two.b, &content[150_000..150_064]);
    let verified = two.b.run(&["verify", "--full", "--repair"]);
    assert!(verified.status.success(), "{}\n{}", text(&verified), b.log());
    assert!(text(&verified).contains("1 block was pulled again"), "{}", text(&verified));
    assert_eq!(b.get(&format!("/data/{cid}")).bytes().unwrap(), content);
}

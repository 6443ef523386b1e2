//! Both sides are killed at random moments, many times. The result is the same as without.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use common::{Two, noise};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// Default number of kills. `ARCHIVIST_KILLS` overrides it.
const KILLS: u32 = 20;

/// Changes files in the folder, as a user does.
fn work(two: &Two, random: &mut StdRng) {
    for _ in 0..random.random_range(1..20) {
        let dir = two.path().join(random.random_range(0..5_u32).to_string());
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join(random.random_range(0..20_u32).to_string());
        match random.random_range(0..10_u32) {
            0 => drop(fs::remove_file(&path)),
            1 => drop(fs::rename(&path, dir.join(random.random_range(0..20_u32).to_string()))),
            2 => fs::write(&path, noise(random.random(), 3_000_000)).unwrap(),
            _ => {
                let len = random.random_range(0..20_000);
                fs::write(&path, noise(random.random(), len)).unwrap();
            }
        }
    }
}

#[test]
fn killed_at_any_moment_nothing_is_lost() {
    let kills = std::env::var("ARCHIVIST_KILLS").ok().and_then(|text| text.parse().ok());
    let kills = kills.unwrap_or(KILLS);
    let seed = std::env::var("ARCHIVIST_SEED").ok().and_then(|text| text.parse().ok());
    let seed: u64 = seed.unwrap_or_else(rand::random);
    println!("ARCHIVIST_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let two = Two::new();
    let (mut a, mut b) = (two.a.start(), two.b.start());
    let mut held = BTreeSet::new();
    for kill in 0..kills {
        work(&two, &mut random);
        std::thread::sleep(Duration::from_millis(random.random_range(0..400)));
        // Snapshots that B confirmed before the kill must exist after it.
        let acknowledged = a.v1("/folders")[0]["backed_up_sequence"].as_u64();
        if random.random() {
            a.kill();
            work(&two, &mut random);
            a = two.a.start();
        } else {
            b.kill();
            b = two.b.start();
        }
        let snapshots = two.b.run_json(&["snapshots", "--json"]);
        let now: BTreeSet<u64> = snapshots
            .as_array()
            .unwrap()
            .iter()
            .map(|snapshot| snapshot["sequence"].as_u64().unwrap())
            .collect();
        assert!(now.is_superset(&held), "kill {kill}: {held:?} became {now:?}");
        if let Some(acknowledged) = acknowledged {
            assert!(now.contains(&acknowledged), "kill {kill}: {acknowledged} is not in {now:?}");
        }
        held = now;
    }
    two.backed_up();
    two.assert_restores("at the end");
    // Every intermediate snapshot is complete.
    let verified = two.b.run_json(&["verify", "--full", "--json"]);
    assert_eq!(verified["problems"].as_array().unwrap().len(), 0, "{verified:#}");
    // Every receipt follows the one before it, whatever was killed while it was sent.
    let receipts = two.a.run_json(&["receipts", "--json"]);
    let receipts = receipts.as_array().unwrap();
    assert_eq!(receipts.last().unwrap()["number"].as_u64(), Some(receipts.len() as u64));
    assert!(held.len() > kills as usize / 20, "hardly anything was backed up on the way");
    drop((a, b));
}

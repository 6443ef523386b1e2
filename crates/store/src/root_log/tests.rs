//! The logs of roots with damage, crashes and a full disk.

use std::io::ErrorKind;

use types::Codec;

use super::*;
use disk::sim::{Fault, Power, SimDisk};

fn disk() -> SimDisk {
    let disk = SimDisk::new();
    disk.create_dir(Path::new("/r")).unwrap();
    disk
}

fn open(disk: &SimDisk) -> (RootLog, Health) {
    let is_new = !exists(disk, Path::new("/r"));
    RootLog::open(Arc::new(disk.clone()), "/r".into(), is_new).unwrap()
}

fn root(name: &str) -> Root {
    Root { cid: Cid::of(Codec::DagCbor, name.as_bytes()), partial: false }
}

fn names(log: &RootLog) -> Vec<String> {
    log.iter().map(|(name, _)| name.clone()).collect()
}

fn filled() -> SimDisk {
    let disk = disk();
    let (mut log, _) = open(&disk);
    for name in ["data/1", "data/2", "snap/1"] {
        log.set(name, root(name)).unwrap();
    }
    log.remove("data/1").unwrap();
    disk
}

#[test]
fn roots_survive_a_restart_and_list_by_prefix() {
    let disk = filled();
    let (log, health) = open(&disk);
    assert_eq!(health, Health::Clean);
    assert_eq!(names(&log), ["data/2", "snap/1"]);
    assert_eq!(log.get("snap/1"), Some(root("snap/1")));
    assert_eq!(log.with_prefix("data/"), [("data/2".to_owned(), root("data/2"))]);
    let partial = Root { partial: true, ..root("x") };
    let (mut log, _) = open(&disk);
    log.set("x", partial).unwrap();
    assert_eq!(open(&disk).0.get("x"), Some(partial));
}

#[test]
fn damage_of_one_log_is_healed_from_the_other() {
    let len = 2000;
    for log in ["/r/a.log", "/r/b.log"] {
        let path = Path::new(log);
        for at in 0..len {
            let disk = filled();
            disk.damage(path, |bytes| bytes[at] ^= 1 << (at % 8));
            let (log, health) = open(&disk);
            assert_eq!(names(&log), ["data/2", "snap/1"], "flip at {at}");
            assert_ne!(health, Health::Incomplete, "flip at {at}");
            assert_eq!(open(&disk).1, Health::Clean);
        }
        for keep in [0, 1, 31, 32, 50, 100, 200] {
            let disk = filled();
            disk.damage(path, |bytes| bytes.truncate(keep));
            let (log, health) = open(&disk);
            assert_eq!(names(&log), ["data/2", "snap/1"], "cut at {keep}");
            assert_eq!(health, Health::Repaired);
        }
        let disk = filled();
        disk.lose(path);
        let (log, health) = open(&disk);
        assert_eq!((names(&log).len(), health), (2, Health::Repaired));
    }
}

#[test]
fn records_lost_in_both_are_noticed_and_nothing_is_dropped() {
    let disk = filled();
    let (mut log, _) = open(&disk);
    for name in ["data/5", "data/6", "data/7"] {
        log.set(name, root(name)).unwrap();
    }
    for log in ["/r/a.log", "/r/b.log"] {
        disk.damage(Path::new(log), |bytes| {
            let at = bytes.windows(6).position(|w| w == b"data/6").unwrap();
            bytes[at] ^= 1;
        });
    }
    let (log, health) = open(&disk);
    assert_eq!(health, Health::Incomplete);
    assert!(log.is_incomplete());
    assert_eq!(names(&log), ["data/2", "data/5", "data/7", "snap/1"]);
    for log in ["/r/a.log", "/r/b.log"] {
        disk.lose(Path::new(log));
    }
    let (log, health) = RootLog::open(Arc::new(disk.clone()), "/r".into(), false).unwrap();
    assert_eq!((names(&log).len(), health), (0, Health::Incomplete));
}

#[test]
fn a_newest_root_that_is_lost_in_both_is_noticed() {
    // The loss of the last record leaves no gap in the numbers.
    let spoil = |disk: &SimDisk, path: &str| {
        disk.damage(Path::new(path), |bytes| {
            let at = bytes.windows(8).rposition(|w| w == b"snap/new").unwrap();
            bytes[at] ^= 1;
        });
    };
    for lost in [None, Some("/r/a.log"), Some("/r/b.log")] {
        let disk = filled();
        let (mut log, _) = open(&disk);
        log.set("snap/new", root("snap/new")).unwrap();
        for path in ["/r/a.log", "/r/b.log"] {
            if lost == Some(path) {
                disk.lose(Path::new(path));
            } else {
                spoil(&disk, path);
            }
        }
        let (log, health) = open(&disk);
        assert_eq!(health, Health::Incomplete, "lost: {lost:?}");
        assert_eq!(names(&log), ["data/2", "snap/1"]);
    }
}

#[test]
fn that_records_were_lost_is_known_until_it_is_accepted() {
    let lose_one = |disk: &SimDisk| {
        for path in ["/r/a.log", "/r/b.log"] {
            disk.damage(Path::new(path), |bytes| {
                let at = bytes.windows(6).position(|w| w == b"snap/1").unwrap();
                bytes[at] ^= 1;
            });
        }
    };
    let disk = filled();
    lose_one(&disk);
    // The logs are rewritten when they are opened, and when they have grown.
    for round in 0..3 {
        let (mut log, health) = open(&disk);
        assert_eq!(health, Health::Incomplete, "opened for the {round}th time");
        log.set(&format!("later/{round}"), root("later")).unwrap();
    }
    // Damage to one log does not hide it.
    for path in ["/r/a.log", "/r/b.log"] {
        for at in (0..1000).step_by(5) {
            let image = disk.crash(Power::Kept);
            image.damage(Path::new(path), |bytes| bytes[at] ^= 1 << (at % 8));
            assert_eq!(open(&image).1, Health::Incomplete, "flip at {at} of {path}");
        }
    }
    // Accepting is one durable step.
    for at in 0.. {
        let image = disk.crash(Power::Kept);
        let (mut log, _) = open(&image);
        let start = image.operations();
        image.set_fault(start + at, Fault::Die);
        let is_done = log.accept().is_ok();
        for power in [Power::Kept, Power::Dropped, Power::Torn, Power::Reordered(7)] {
            let (log, health) = open(&image.crash(power));
            assert_eq!(log.iter().count(), 4, "death at {at}, {power:?}");
            assert!(!is_done || health == Health::Clean, "death at {at}, {power:?}");
        }
        if is_done {
            break;
        }
    }
}

#[test]
fn what_was_acknowledged_survives_death_and_failure_at_every_step() {
    let faults = [Fault::Die, Fault::Fail(ErrorKind::Other), Fault::Fail(ErrorKind::StorageFull)];
    let powers = [
        Power::Kept,
        Power::Dropped,
        Power::Torn,
        Power::Reordered(1),
        Power::Reordered(2),
        Power::Reordered(3),
    ];
    for fault in faults {
        for at in 0.. {
            let disk = filled();
            let start = disk.operations();
            disk.set_fault(start + at, fault);
            let mut acknowledged = vec![];
            let opened = RootLog::open(Arc::new(disk.clone()), "/r".into(), false);
            let mut removed = false;
            if let Ok((mut log, _)) = opened {
                for name in ["new/1", "new/2", "new/3"] {
                    if log.set(name, root(name)).is_ok() {
                        acknowledged.push(name);
                    }
                }
                removed = log.remove("snap/1").is_ok();
            }
            for power in powers {
                let (log, health) = open(&disk.crash(power));
                let names = names(&log);
                assert_ne!(health, Health::Incomplete, "{fault:?} at {at}, {power:?}");
                assert!(names.contains(&"data/2".to_owned()));
                for name in &acknowledged {
                    assert_eq!(log.get(name), Some(root(name)), "{fault:?} at {at}, {power:?}");
                }
                assert!(!removed || log.get("snap/1").is_none());
            }
            if disk.operations() <= start + at {
                break;
            }
        }
    }
}

#[test]
fn a_root_can_be_removed_when_the_disk_is_full() {
    let disk = filled();
    let (mut log, _) = open(&disk);
    disk.set_capacity(Some(disk.used()));
    let mut added = 0;
    while log.set(&format!("fill/{added:0300}"), root("x")).is_ok() {
        added += 1;
        assert!(added < 10_000, "the disk is never full");
    }
    assert!(log.remove("data/2").unwrap());
    assert!(log.remove("fill/0").is_ok());
    let (log, health) = open(&disk.crash(Power::Dropped));
    assert_eq!((log.get("data/2"), health), (None, Health::Clean));
    assert_eq!(log.iter().count(), 1 + added);
}

#[test]
fn the_log_does_not_grow_with_changes() {
    let disk = disk();
    let (mut log, _) = open(&disk);
    for n in 0..5000 {
        log.set(&format!("r/{n}"), root("x")).unwrap();
        log.remove(&format!("r/{n}")).unwrap();
    }
    assert!(disk.used() < 600_000, "{} bytes", disk.used());
}

#[test]
fn bad_names_are_refused() {
    let (mut log, _) = open(&disk());
    for name in ["", "a\nb", "a\0b", &"x".repeat(513)] {
        assert!(matches!(log.set(name, root("x")), Err(StoreError::RootName(_))));
    }
}

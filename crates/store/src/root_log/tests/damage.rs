//! Logs that are damaged, lost or cannot be read.

use std::io::ErrorKind;

use super::*;
use disk::sim::{DiskError, EACCES, EIO, EMFILE, Fault, FaultRule, Op, Power};

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
    assert!(exists(&disk, Path::new("/r")).unwrap(), "the damaged logs were kept");
    let (log, health) = open(&disk);
    assert_eq!((names(&log).len(), health), (0, Health::Incomplete));
}

/// A loss that only others have noticed is known after a restart, and after a power cut at any
/// write of it; on a full disk, until the store is closed.
#[test]
fn a_reported_loss_is_known_until_it_is_accepted() {
    let mut at = 0;
    loop {
        let disk = filled();
        let (mut log, _) = open(&disk);
        let before = names(&log);
        disk.set_fault(disk.operations() + at, Fault::Die);
        let is_written = log.mark_incomplete().is_ok();
        assert!(log.is_incomplete());
        for power in [Power::Kept, Power::Dropped, Power::Torn] {
            let (log, health) = open(&disk.crash(power));
            assert_eq!(names(&log), before, "{at}, {power:?}");
            assert!(!is_written || health == Health::Incomplete, "{at}, {power:?}");
        }
        if is_written {
            break;
        }
        at += 1;
    }
    assert!(at > 3, "{at}");
    let disk = filled();
    let (mut log, _) = open(&disk);
    disk.set_capacity(Some(disk.used()));
    log.mark_incomplete().unwrap();
    assert!(log.is_incomplete());
    // Roots can be removed all the same.
    assert!(log.remove("snap/1").unwrap());
    disk.set_capacity(None);
    log.mark_incomplete().unwrap();
    log.accept().unwrap();
    assert_eq!((open(&disk).1, names(&log)), (Health::Clean, vec!["data/2".to_owned()]));
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
fn damaged_logs_are_kept_beside_those_that_replace_them() {
    let kept = |disk: &SimDisk| {
        let files = contents(disk).into_iter();
        let kept = files.filter(|(path, _)| path.to_string_lossy().contains("damaged"));
        kept.collect::<Vec<_>>()
    };
    // Damage in one log, found twice.
    let disk = filled();
    let mut originals = Vec::new();
    for round in 1..3 {
        disk.damage(Path::new("/r/b.log"), |bytes| {
            bytes[40] ^= 1;
            originals.push(bytes.clone());
        });
        assert_eq!(open(&disk).1, Health::Repaired);
        let kept = kept(&disk.crash(Power::Dropped));
        assert_eq!(kept.len(), round);
        for (number, (path, bytes)) in kept.iter().enumerate() {
            assert_eq!(*path, PathBuf::from(format!("/r/b.log.damaged-{}", number + 1)));
            assert_eq!(*bytes, originals[number]);
        }
    }
    // A torn end, which a crash leaves, is no damage.
    let disk = filled();
    disk.damage(Path::new("/r/b.log"), |bytes| {
        let end = bytes.iter().rposition(|byte| *byte != 0).unwrap();
        bytes[end] ^= 1;
    });
    assert_eq!(open(&disk).1, Health::Repaired);
    assert_eq!(kept(&disk), []);
    // Damage in both: both are kept, and once only.
    let disk = filled();
    for path in ["/r/a.log", "/r/b.log"] {
        disk.damage(Path::new(path), |bytes| bytes[40] ^= 1);
    }
    for _ in 0..3 {
        assert_eq!(open(&disk).1, Health::Incomplete);
        assert_eq!(kept(&disk).len(), 2);
    }
    // If they cannot be kept, they are not replaced.
    let disk = filled();
    for path in ["/r/a.log", "/r/b.log"] {
        disk.damage(Path::new(path), |bytes| bytes[40] ^= 1);
    }
    let before = contents(&disk);
    disk.set_capacity(Some(disk.used()));
    assert_eq!(open(&disk).1, Health::Incomplete);
    assert_eq!(contents(&disk), before);
}

const UNREADABLE: [(Op, DiskError); 5] = [
    (Op::Open, EACCES),
    (Op::Open, EMFILE),
    (Op::Len, EIO),
    (Op::Read, EIO),
    (Op::Read, DiskError::Kind(ErrorKind::OutOfMemory)),
];

#[test]
fn logs_that_cannot_be_read_stop_the_opening_and_are_unchanged() {
    for (op, error) in UNREADABLE {
        let disk = filled();
        let before = contents(&disk);
        disk.add_fault(FaultRule::new(op, error).on(".log"));
        let refused = try_open(&disk).unwrap_err();
        assert!(
            matches!(&refused, StoreError::RootsUnreadable { path, .. } if path.ends_with("a.log"))
        );
        let text = refused.to_string();
        assert!(text.contains("/r/a.log") && text.contains("nothing was changed"), "{text}");
        disk.clear_fault_rules();
        assert_eq!(contents(&disk), before, "{op:?} failed");
        let (log, health) = open(&disk);
        assert_eq!((names(&log).len(), health), (2, Health::Clean));
    }
    // So does a directory that cannot be listed: its logs may exist.
    let disk = filled();
    disk.add_fault(FaultRule::new(Op::List, EIO));
    assert!(matches!(try_open(&disk), Err(StoreError::Io { .. })));
}

#[test]
fn one_unreadable_log_beside_a_damaged_or_absent_one_stops_the_opening() {
    for (unreadable, other) in [("/r/a.log", "/r/b.log"), ("/r/b.log", "/r/a.log")] {
        for is_lost in [false, true] {
            let disk = filled();
            if is_lost {
                disk.lose(Path::new(other));
            } else {
                disk.damage(Path::new(other), |bytes| bytes[60] ^= 1);
            }
            let before: Vec<_> = disk.files();
            disk.add_fault(FaultRule::new(Op::Open, EACCES).on(unreadable));
            assert!(matches!(try_open(&disk), Err(StoreError::RootsUnreadable { .. })));
            assert_eq!(disk.files(), before);
            disk.clear_fault_rules();
            assert_eq!((names(&open(&disk).0).len(), open(&disk).1), (2, Health::Clean));
        }
    }
}

#[test]
fn one_unreadable_log_is_left_alone_until_a_change_moves_it_aside() {
    for unreadable in ["/r/a.log", "/r/b.log"] {
        for (op, error) in UNREADABLE {
            let disk = filled();
            let before = contents(&disk);
            disk.add_fault(FaultRule::new(op, error).on(unreadable));
            let (mut log, opened) = try_open(&disk).unwrap();
            assert_eq!((names(&log).len(), opened.health), (2, Health::Clean));
            assert!(opened.unreadable.unwrap().contains(unreadable));
            disk.clear_fault_rules();
            assert_eq!(contents(&disk), before, "opening changes nothing");
            // A restart in between, with both logs readable, is one like any other.
            assert_eq!(open(&disk.crash(Power::Kept)).1, Health::Clean);

            // The file is still unreadable when the first change is made.
            disk.add_fault(FaultRule::new(op, error).on(unreadable));
            log.set("new", root("new")).unwrap();
            disk.clear_fault_rules();
            let aside = PathBuf::from(format!("{unreadable}.damaged-1"));
            let kept = contents(&disk).into_iter().find(|(path, _)| *path == aside);
            let old = before.iter().find(|(path, _)| path == Path::new(unreadable));
            assert_eq!(kept.unwrap().1, old.unwrap().1);
            // Both logs have every root: either can be lost after that.
            for lost in ["/r/a.log", "/r/b.log"] {
                let image = disk.crash(Power::Dropped);
                assert_eq!(open(&image).1, Health::Clean);
                image.lose(Path::new(lost));
                let (log, health) = open(&image);
                assert_eq!(names(&log), ["data/2", "new", "snap/1"]);
                assert_eq!(health, Health::Repaired);
            }
        }
    }
}

#[test]
fn moving_an_unreadable_log_aside_survives_death_at_every_step() {
    for at in 0.. {
        let disk = filled();
        // The logs have the same roots and other bytes.
        disk.damage(Path::new("/r/a.log"), |bytes| bytes.extend_from_slice(&[0; 100]));
        let original = contents(&disk)[0].1.clone();
        disk.add_fault(FaultRule::new(Op::Open, EACCES).on("/r/a.log"));
        let (mut log, _) = try_open(&disk).unwrap();
        let start = disk.operations();
        disk.set_fault(start + at, Fault::Die);
        let is_set = log.set("new", root("new")).is_ok();
        let powers = [Power::Kept, Power::Dropped, Power::Torn];
        for power in powers.into_iter().chain((0..8).map(Power::Reordered)) {
            let image = disk.crash(power);
            let is_kept = contents(&image).iter().any(|(_, bytes)| *bytes == original);
            assert!(is_kept, "death at {at}, {power:?}: the unreadable log is lost");
            let (log, health) = open(&image);
            assert_ne!(health, Health::Incomplete, "death at {at}, {power:?}");
            assert!(log.get("data/2").is_some() && log.get("snap/1").is_some());
            assert!(!is_set || log.get("new").is_some(), "death at {at}, {power:?}");
        }
        if is_set {
            break;
        }
    }
}

#[test]
fn a_log_that_is_too_long_is_not_dropped() {
    let disk = filled();
    let before = contents(&disk);
    let len = before[0].1.len() as u64;
    let error = Loaded::read(&disk, Path::new("/r"), len - 1).unwrap_err();
    assert!(
        matches!(&error, StoreError::RootsUnreadable { reason, .. } if reason.contains("limit"))
    );
    assert_eq!(Loaded::read(&disk, Path::new("/r"), len).unwrap().health, Health::Clean);
    assert_eq!(contents(&disk), before);
}

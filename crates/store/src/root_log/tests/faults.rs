//! Death, failures and a full disk while the roots change.

use std::io::ErrorKind;

use super::*;
use disk::sim::{EIO, Fault, FaultRule, Op, Power};

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

/// A removal that failed may have reached one log, so that setting the same root again
/// must write.
#[test]
fn a_root_that_is_set_after_a_failed_removal_stays() {
    let mut failures = 0;
    for at in 0.. {
        let disk = filled();
        let (mut log, _) = open(&disk);
        disk.set_fault(disk.operations() + at, Fault::Fail(ErrorKind::Other));
        let removed = log.remove("data/2");
        disk.clear_fault();
        if removed.is_ok() {
            break;
        }
        failures += 1;
        log.set("data/2", root("data/2")).unwrap();
        let (log, _) = open(&disk.crash(Power::Dropped));
        assert_eq!(log.get("data/2"), Some(root("data/2")), "fault at {at}");
    }
    assert_eq!(failures, 4, "two writes and two syncs");
}

/// A root that could not be set must not come back: a collection has deleted its
/// blocks.
#[test]
fn a_root_whose_setting_failed_is_gone_for_good_once_that_is_settled() {
    for at in 0..4 {
        for by_removal in [false, true] {
            let disk = filled();
            let (mut log, _) = open(&disk);
            disk.set_fault(disk.operations() + at, Fault::Fail(ErrorKind::Other));
            assert!(log.set("new", root("new")).is_err());
            disk.clear_fault();
            if by_removal {
                assert!(!log.remove("new").unwrap());
            } else {
                log.settle().unwrap();
            }
            for power in [Power::Kept, Power::Dropped] {
                let (log, health) = open(&disk.crash(power));
                assert_eq!(names(&log), ["data/2", "snap/1"], "fault at {at}, {power:?}");
                assert_eq!(health, Health::Clean);
            }
        }
    }
}

/// The page cache of a log still has what a failed sync did not write.
#[test]
fn a_log_whose_sync_failed_before_a_restart_is_written_again() {
    let mut clean = 0;
    for failed in ["/r/a.log", "/r/b.log"] {
        let disk = filled();
        let (mut log, _) = open(&disk);
        disk.add_fault(FaultRule::new(Op::Sync, EIO).on(failed).times(1));
        assert!(log.set("new", root("new")).is_err());
        // The process is started again; the computer keeps running.
        let disk = disk.crash(Power::Kept);
        let (mut log, health) = open(&disk);
        clean += u32::from(health == Health::Clean);
        log.set("new", root("new")).unwrap();
        for lost in ["/r/a.log", "/r/b.log"] {
            let image = disk.crash(Power::Dropped);
            image.lose(Path::new(lost));
            let (log, health) = open(&image);
            assert_eq!(log.get("new"), Some(root("new")), "{failed} not synced, {lost} lost");
            assert_eq!(health, Health::Repaired);
        }
    }
    assert_eq!(clean, 1, "after the failed sync of b.log, both look equal");
}

#[test]
fn every_root_can_be_removed_on_a_full_disk() {
    for is_reopened in [false, true] {
        let disk = disk();
        let (mut log, _) = open(&disk);
        for n in 0..1500 {
            log.set(&format!("snapshot/{n:04}"), root("x")).unwrap();
        }
        if is_reopened {
            log = open(&disk).0;
        }
        disk.set_capacity(Some(disk.used()));
        for n in 0..1500 {
            let removed = log.remove(&format!("snapshot/{n:04}"));
            assert!(removed.is_ok_and(|existed| existed), "removal {n}");
        }
        let (log, health) = open(&disk.crash(Power::Dropped));
        assert_eq!((log.iter().count(), health), (0, Health::Clean));
    }
}

/// With space for one new log and not for the second, the logs are a new one and an
/// old one. Each has every root.
#[test]
fn a_compaction_that_finds_no_space_leaves_both_logs_complete() {
    for failing in ["/r/a.log.new", "/r/b.log.new"] {
        let disk = disk();
        let (mut log, _) = open(&disk);
        for n in 0..500 {
            log.set(&format!("snapshot/{n:04}"), root("x")).unwrap();
        }
        while log.records <= 1000 + 4 * log.roots.len() {
            log.set("toggled", root("x")).unwrap();
            log.remove("toggled").unwrap();
        }
        let armed = disk.add_fault(FaultRule::new(Op::Write, ErrorKind::StorageFull).on(failing));
        for n in 0..10 {
            assert!(log.remove(&format!("snapshot/{n:04}")).unwrap());
        }
        assert_eq!(armed.failures(), 1, "no rewrite is tried again before the logs have doubled");
        let [first, second] = log.logs.as_ref().unwrap().each_ref().map(|log| log.end);
        assert_eq!(first < second, failing == "/r/b.log.new");
        for lost in [None, Some("/r/a.log"), Some("/r/b.log")] {
            let image = disk.crash(Power::Dropped);
            if let Some(lost) = lost {
                image.lose(Path::new(lost));
            }
            let (log, health) = open(&image);
            assert_eq!(log.iter().count(), 490, "{failing}, {lost:?} lost");
            assert_ne!(health, Health::Incomplete, "{failing}, {lost:?} lost");
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

/// A process that died had not synced a change. The next one cannot rewrite the logs, because
/// the disk is full, but uses the change.
#[test]
fn a_change_that_is_used_after_a_restart_on_a_full_disk_survives_a_power_cut() {
    for at in 0.. {
        let disk = filled();
        let (mut log, _) = open(&disk);
        disk.set_fault(disk.operations() + at, Fault::Die);
        let is_set = log.set("snap/2", root("snap/2")).is_ok();
        let image = disk.crash(Power::Kept);
        image.set_capacity(Some(image.used()));
        let used = names(&open(&image).0);
        assert_eq!(names(&open(&image.crash(Power::Dropped)).0), used, "death at {at}");
        if is_set {
            assert!(at > 3);
            return;
        }
    }
}

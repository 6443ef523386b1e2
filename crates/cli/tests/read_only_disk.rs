//! The disk of a running backup server turns read-only: everything can still be restored, the
//! status says so, and backups continue when the disk is writable again.
//!
//! The disks are loop devices, so the tests need root. ext4 is made read-only as a fault of the
//! disk does it (`mount -o remount,abort`): the kernel refuses `remount,ro` while a file is open
//! for writing, and never makes an aborted ext4 writable again. btrfs can do both: a subvolume is
//! set read-only and back while its files are open.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

mod common;

use std::path::{Path, PathBuf};

use common::mount::{NO_DISK, may_mount, sh};
use common::{Daemon, Home, Two, assert_same, eventually, eventually_or, noise};

/// A source, and a backup server whose home is on a disk of its own.
struct Fixture {
    two: Two,
    a: Daemon,
    dir: tempfile::TempDir,
}

impl Fixture {
    /// Moves the home of the backup server to a disk that `mkfs` makes. Returns `None` if this
    /// computer cannot mount it.
    fn new(mkfs: &str) -> Option<Self> {
        let (two, dir) = (Two::new(), tempfile::tempdir().unwrap());
        let [image, kept] = ["image", "kept"].map(|name| dir.path().join(name));
        let script = format!("cp -a \"$1/.\" \"$3\"; truncate -s 200M \"$2\"; {mkfs} \"$2\"");
        std::fs::create_dir(&kept).unwrap();
        sh(&script, &[two.b.path(), &image, &kept]).unwrap();
        if let Err(error) = sh("mount -o loop \"$2\" \"$1\"", &[two.b.path(), &image]) {
            eprintln!("{NO_DISK}: {error}");
            return None;
        }
        // A file system that turns read-only loses what is not synced.
        sh("cp -a \"$2/.\" \"$1\"; sync -f \"$1\"", &[two.b.path(), &kept]).unwrap();
        let a = two.a.start();
        Some(Self { two, a, dir })
    }

    /// Backs up two files.
    fn back_up(&self) {
        std::fs::write(self.two.path().join("small"), "text").unwrap();
        std::fs::write(self.two.path().join("big"), noise(1, 3_000_000)).unwrap();
        self.two.backed_up();
        self.two.eventually_same(&self.a);
    }

    /// Returns a copy of the folder.
    fn copy(&self, name: &str) -> PathBuf {
        let copy = self.dir.path().join(name);
        std::fs::create_dir(&copy).unwrap();
        sh("cp -a \"$1/.\" \"$2\"", &[&self.two.path(), &copy]).unwrap();
        copy
    }

    /// Restores a snapshot and compares it with `wanted`. `name` is that of a new directory.
    fn restore(&self, home: &Home, id: &str, wanted: &Path, name: &str, more: &[&str]) {
        let target = self.dir.path().join(name);
        let arguments = ["restore", id, "--target", target.to_str().unwrap(), "--json"];
        let report = home.run_json(&[&arguments, more].concat());
        assert_eq!(report["state"], "done", "{report:#}");
        assert_same(wanted, &target);
    }

    /// Asserts that a snapshot is listed, and restored on both sides.
    fn assert_restorable(&self, id: &str, wanted: &Path, name: &str) {
        assert_eq!(self.newest(), id);
        let listed = self.two.b.run_json(&["ls", id, "--json"]);
        assert!(listed.to_string().contains("small"), "{listed:#}");
        self.restore(&self.two.b, id, wanted, &format!("{name} B"), &[]);
        self.restore(&self.two.a, id, wanted, &format!("{name} A"), &["--from-backup-server"]);
    }

    fn newest(&self) -> String {
        let listed = self.two.b.run_json(&["snapshots", "--json"]);
        listed.as_array().unwrap().last().unwrap()["id"].as_str().unwrap().to_owned()
    }

    /// Changes a file, and waits until the backup server reports that it cannot write.
    fn fail_to_back_up(&self, b: &Daemon) {
        std::fs::write(self.two.path().join("later"), noise(2, 400_000)).unwrap();
        let is_reported = || notices(b).contains("read-only");
        eventually_or("the status says so", is_reported, || format!("{:#}", b.v1("/status")));
        let status = self.two.b.run(&["status"]);
        let text = String::from_utf8_lossy(&status.stdout).into_owned();
        assert!(text.contains("read-only") && text.contains("can still be restored"), "{text}");
        let folder = self.a.v1("/folders")[0].clone();
        assert_ne!(folder["backed_up_sequence"], folder["sequence"], "{folder:#}");
    }
}

fn notices(daemon: &Daemon) -> String {
    daemon.v1("/status")["notices"].to_string()
}

fn assert_no_panic(daemon: &Daemon) {
    let log = daemon.log();
    assert!(!log.contains("panicked"), "{log}");
}

#[test]
fn a_disk_that_turned_read_only_is_restored_from() {
    let programs = ["unshare", "mkfs.ext4", "e2fsck"];
    if !may_mount("a_disk_that_turned_read_only_is_restored_from", &programs) {
        return;
    }
    let Some(fixture) = Fixture::new("mkfs.ext4 -q -F") else { return };
    let two = &fixture.two;
    let b = two.b.start();
    fixture.back_up();
    let (id, wanted) = (fixture.newest(), fixture.copy("wanted"));
    sh("mount -o remount,abort \"$1\"", &[two.b.path()]).unwrap();
    let written = std::fs::write(two.b.path().join("new"), "");
    assert_eq!(written.unwrap_err().kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    fixture.fail_to_back_up(&b);
    fixture.assert_restorable(&id, &wanted, "read-only");
    let verified = two.b.run_json(&["verify", "--full", "--json"]);
    assert_eq!(verified["problems"], serde_json::json!([]), "{verified:#}");
    assert_no_panic(&b);
    b.terminate();
    // Without an instance, too.
    fixture.restore(&two.b, &id, &wanted, "without an instance", &[]);
    let image = fixture.dir.path().join("image");
    let repair = "umount \"$1\"; e2fsck -fy \"$2\" || test $? -le 1; mount -o loop \"$2\" \"$1\"";
    sh(repair, &[two.b.path(), &image]).unwrap();
    let b = two.b.start();
    two.backed_up();
    two.eventually_same(&fixture.a);
    assert!(!notices(&b).contains("read-only"), "{}", notices(&b));
    two.assert_restores("repaired");
    fixture.restore(&two.b, &id, &wanted, "the first after the repair", &[]);
    assert_no_panic(&b);
}

#[test]
fn backups_continue_on_a_disk_that_is_writable_again() {
    let programs = ["unshare", "mkfs.btrfs", "btrfs"];
    if !may_mount("backups_continue_on_a_disk_that_is_writable_again", &programs) {
        return;
    }
    let Some(fixture) = Fixture::new("mkfs.btrfs -q -f") else { return };
    let two = &fixture.two;
    let b = two.b.start();
    fixture.back_up();
    // btrfs lets a process write to the files that it has open. A new process has no pack open.
    assert_eq!(b.terminate().0, Some(0));
    let b = two.b.start();
    let (id, wanted) = (fixture.newest(), fixture.copy("wanted"));
    sh("btrfs property set -ts \"$1\" ro true", &[two.b.path()]).unwrap();
    let written = std::fs::write(two.b.path().join("new"), "");
    assert_eq!(written.unwrap_err().kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    fixture.fail_to_back_up(&b);
    fixture.assert_restorable(&id, &wanted, "read-only");
    sh("btrfs property set -ts \"$1\" ro false", &[two.b.path()]).unwrap();
    // Without a restart, and without a request.
    two.eventually_same(&fixture.a);
    eventually("the notice is gone", || !notices(&b).contains("read-only"));
    two.assert_restores("writable again");
    assert_no_panic(&b);
    assert_no_panic(&fixture.a);
    assert_eq!(b.terminate().0, Some(0));
}

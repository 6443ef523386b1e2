//! The main job on real file systems, with the outcome that docs/grounds.md promises: changes
//! are noticed, an unmounted disk is an alarm and no deletion, after a remount each file keeps
//! its own content, and restores equal the folder.
//!
//! The tests mount, so they need root. A file system whose programs are not installed is left
//! out, with a message.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

mod common;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use common::mount::{NO_DISK, may_mount, sh};
use common::{Daemon, FOLDER, Two, eventually, eventually_or};

/// Number of files of one length and one mtime, which only their content tells apart.
const ALIKE: usize = 40;

/// Number of restores until one equals the folder, and the pause between two. A folder that is
/// polled is scanned every minute.
const ATTEMPTS: u32 = 600;
const PAUSE: Duration = Duration::from_millis(200);

/// A file system, and the part of docs/grounds.md that concerns it.
struct Ground {
    /// The type that the status shows.
    name: &'static str,
    /// The programs that the scripts need.
    programs: &'static [&'static str],
    /// Shell script that prepares the file system, once. `$2` is a directory.
    make: &'static str,
    /// Shell script that mounts the file system on `$1`.
    mount: &'static str,
    /// True if a remount has the same files.
    keeps: bool,
    /// True if the folder is also scanned every minute.
    is_polled: bool,
    /// True if the ctime is real: a change is noticed even if length and mtime are the old ones.
    has_ctime: bool,
    /// True if permissions, symbolic links and names are those of Unix.
    is_unix: bool,
    /// True if the attributes of a file can be listed.
    has_attributes: bool,
}

const NATIVE: Ground = Ground {
    name: "",
    programs: &[],
    make: "",
    mount: "",
    keeps: true,
    is_polled: false,
    has_ctime: true,
    is_unix: true,
    has_attributes: true,
};
const FUSE: Ground = Ground { is_polled: true, ..NATIVE };

/// A mounted file system: unmounted at the end, so that its FUSE program ends, too.
struct Mounted<'a> {
    ground: &'a Ground,
    on: PathBuf,
    work: PathBuf,
}

impl<'a> Mounted<'a> {
    /// Prepares the file system and mounts it. Returns `None` if this computer cannot mount it.
    fn new(ground: &'a Ground, on: PathBuf, work: &Path) -> Option<Self> {
        let mounted = Self { ground, on, work: work.to_owned() };
        if let Err(error) = sh(ground.make, &mounted.arguments()).and_then(|()| mounted.mount()) {
            eprintln!("{NO_DISK}: {}: {error}", ground.name);
            return None;
        }
        Some(mounted)
    }

    fn arguments(&self) -> [&Path; 2] {
        [&self.on, &self.work]
    }

    fn mount(&self) -> Result<(), String> {
        sh(self.ground.mount, &self.arguments())
    }

    fn unmount(&self) {
        // The instance may have a file open for a moment.
        eventually("the file system can be unmounted", || {
            sh("umount \"$1\" 2>/dev/null", &self.arguments()).is_ok()
        });
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = sh("umount -l \"$1\" 2>/dev/null", &self.arguments());
    }
}

/// Writes a file with a fixed mtime.
fn write_at(path: &Path, content: &str, second: u64) {
    std::fs::write(path, content).unwrap();
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(second);
    std::fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
}

/// Restores the newest snapshot until it equals the folder.
fn eventually_restored(two: &Two, ground: &Ground, name: &str) {
    let mut last = Vec::new();
    for attempt in 0..ATTEMPTS {
        let target = two.beside(&format!("{name} {attempt}"));
        let arguments = ["restore", "--folder", FOLDER, "--target", target.to_str().unwrap()];
        let restored = two.b.run(&arguments);
        last = if restored.status.success() {
            let xattrs = ground.has_attributes;
            let options = fstree::CompareOptions { xattrs, ..Default::default() };
            let found = fstree::compare(&two.path(), &target, options).unwrap();
            found.iter().map(|found| format!("{found:?}")).collect()
        } else {
            vec![String::from_utf8_lossy(&restored.stderr).into_owned()]
        };
        if last.is_empty() {
            return;
        }
        let _ = std::fs::remove_dir_all(&target);
        std::thread::sleep(PAUSE);
    }
    panic!("{name}: the restore never equals the folder: {last:#?}");
}

fn folder(a: &Daemon) -> serde_json::Value {
    a.v1("/folders")[0].clone()
}

/// Backs up a folder on a file system, with changes before and after a remount.
fn holds(test: &str, ground: &Ground) {
    let programs = [&["unshare"], ground.programs].concat();
    if !may_mount(test, &programs) {
        return;
    }
    let (two, work) = (Two::new(), tempfile::tempdir().unwrap());
    let Some(mounted) = Mounted::new(ground, two.path(), work.path()) else { return };
    let at = |name: &str| two.path().join(name);
    std::fs::create_dir(at("alike")).unwrap();
    for number in 0..ALIKE {
        write_at(
            &at(&format!("alike/{number:02}")),
            &format!("content {number:02}"),
            1_700_000_000,
        );
    }
    std::fs::create_dir_all(at("deep/er")).unwrap();
    std::fs::write(at("deep/er/big"), common::noise(1, 700_000)).unwrap();
    if ground.is_unix {
        std::os::unix::fs::symlink("big", at("deep/er/link")).unwrap();
    }
    let (a, b) = (two.a.start(), two.b.start());
    eventually_restored(&two, ground, "first");
    let status = folder(&a);
    assert_eq!(status["is_polled"], ground.is_polled, "{status:#}");
    assert!(status["file_system"].as_str().unwrap().contains(ground.name), "{status:#}");

    // Noticed without a request.
    std::fs::write(at("new"), "new").unwrap();
    std::fs::rename(at("deep/er"), at("moved")).unwrap();
    std::fs::remove_file(at("alike/00")).unwrap();
    if ground.has_ctime {
        write_at(&at("alike/01"), "CONTENT 01", 1_700_000_000);
    }
    if ground.is_unix {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o640);
        std::fs::set_permissions(at("alike/02"), mode).unwrap();
    }
    eventually_restored(&two, ground, "changed");

    if ground.keeps {
        let before = folder(&a)["sequence"].clone();
        mounted.unmount();
        eventually_or(
            "the unmounted disk is an alarm",
            || folder(&a)["state"] == "alarm",
            || format!("{:#}", folder(&a)),
        );
        assert_eq!(folder(&a)["sequence"], before, "an unmounted disk is no deletion");
        mounted.mount().unwrap();
        two.backed_up();
        eventually_restored(&two, ground, "mounted again");
        std::fs::write(at("alike/03"), "another, longer content").unwrap();
        std::fs::rename(at("alike/04"), at("alike/renamed")).unwrap();
        std::fs::create_dir(at("after")).unwrap();
        std::fs::write(at("after/remount"), "noticed, too").unwrap();
        eventually_restored(&two, ground, "changed after the remount");
    }
    for daemon in [&a, &b] {
        assert!(!daemon.log().contains("panicked"), "{}", daemon.log());
    }
    assert_eq!(a.terminate().0, Some(0));
    mounted.unmount();
}

#[test]
fn ext4() {
    let make = "truncate -s 100M \"$2/image\"; mkfs.ext4 -q -F \"$2/image\"";
    let mount = "mount -o loop \"$2/image\" \"$1\"";
    holds("ext4", &Ground { name: "ext4", programs: &["mkfs.ext4"], make, mount, ..NATIVE });
}

#[test]
fn xfs() {
    let make = "truncate -s 300M \"$2/image\"; mkfs.xfs -q -f \"$2/image\"";
    let mount = "mount -o loop \"$2/image\" \"$1\"";
    holds("xfs", &Ground { name: "xfs", programs: &["mkfs.xfs"], make, mount, ..NATIVE });
}

#[test]
fn btrfs() {
    let make = "truncate -s 200M \"$2/image\"; mkfs.btrfs -q -f \"$2/image\"";
    let mount = "mount -o loop \"$2/image\" \"$1\"";
    holds("btrfs", &Ground { name: "btrfs", programs: &["mkfs.btrfs"], make, mount, ..NATIVE });
}

#[test]
fn tmpfs() {
    let mount = "mount -t tmpfs none \"$1\"";
    holds("tmpfs", &Ground { name: "tmpfs", mount, keeps: false, ..NATIVE });
}

#[test]
fn overlay() {
    // The layers are on a disk of their own: an overlay accepts no other overlay as upper layer.
    let make = "mount -t tmpfs none \"$2\"; mkdir \"$2/lower\" \"$2/upper\" \"$2/work\"; \
                echo below > \"$2/lower/below\"";
    let mount = "mount -t overlay overlay \
                 -o \"lowerdir=$2/lower,upperdir=$2/upper,workdir=$2/work\" \"$1\"";
    holds("overlay", &Ground { name: "overlay", make, mount, is_polled: true, ..NATIVE });
}

#[test]
fn sshfs() {
    // The program is started directly; no SSH server is needed.
    let make = "mkdir \"$2/real\"; printf '#!/bin/sh\\nexec /usr/lib/openssh/sftp-server\\n' \
                > \"$2/ssh\"; chmod +x \"$2/ssh\"; test -x /usr/lib/openssh/sftp-server";
    let mount = "sshfs -o \"ssh_command=$2/ssh\" \"host:$2/real\" \"$1\"";
    let programs = &["sshfs"];
    holds("sshfs", &Ground { name: "sshfs", programs, make, mount, has_ctime: false, ..FUSE });
}

#[test]
fn bindfs() {
    let (make, mount) = ("mkdir \"$2/real\"", "bindfs \"$2/real\" \"$1\"");
    holds("bindfs", &Ground { name: "fuse", programs: &["bindfs"], make, mount, ..FUSE });
}

#[test]
fn mergerfs() {
    let make = "mkdir \"$2/one\" \"$2/two\"";
    let mount = "mergerfs \"$2/one:$2/two\" \"$1\"";
    holds("mergerfs", &Ground { name: "mergerfs", programs: &["mergerfs"], make, mount, ..FUSE });
}

#[test]
fn gocryptfs() {
    let make = "mkdir \"$2/cipher\"; \
                gocryptfs -q -init -scryptn 10 -extpass \"echo test\" \"$2/cipher\"";
    let mount = "gocryptfs -q -extpass \"echo test\" \"$2/cipher\" \"$1\"";
    let programs = &["gocryptfs"];
    holds("gocryptfs", &Ground { name: "gocryptfs", programs, make, mount, ..FUSE });
}

#[test]
fn ntfs_3g() {
    let make = "truncate -s 100M \"$2/image\"; mkfs.ntfs -q -Q -F \"$2/image\" >/dev/null";
    let mount = "ntfs-3g \"$2/image\" \"$1\"";
    let programs = &["ntfs-3g", "mkfs.ntfs"];
    let ground = Ground { name: "fuse", programs, make, mount, ..FUSE };
    holds("ntfs_3g", &Ground { is_unix: false, ..ground });
}

#[test]
fn exfat_fuse() {
    let make = "truncate -s 100M \"$2/image\"; mkfs.exfat \"$2/image\" >/dev/null";
    let mount = "mount -t exfat-fuse -o loop \"$2/image\" \"$1\" 2>/dev/null";
    let programs = &["mount.exfat-fuse", "mkfs.exfat"];
    let ground = Ground { name: "fuse", programs, make, mount, has_ctime: false, ..FUSE };
    holds("exfat_fuse", &Ground { is_unix: false, ..ground });
}

#[test]
fn rclone() {
    let make = "mkdir \"$2/real\"";
    let mount = "rclone mount --daemon --config /dev/null --cache-dir \"$2/cache\" \
                 --vfs-cache-mode writes \":local:$2/real\" \"$1\" </dev/null >/dev/null 2>&1";
    let programs = &["rclone"];
    let ground = Ground { name: "rclone", programs, make, mount, has_ctime: false, ..FUSE };
    // Each file is on the error list, since its attributes cannot be listed (EIO); its content
    // is backed up.
    holds("rclone", &Ground { is_unix: false, has_attributes: false, ..ground });
}

/// Number of blocks of a file that a program rewrites all the time, and their length.
const BLOCKS: usize = 400;
const BLOCK_LEN: usize = 64 << 10;

/// Writes the number of its pass into one block after the other, again and again.
fn rewrite(path: &Path, is_over: &AtomicBool) {
    let file = std::fs::File::create(path).unwrap();
    for pass in 1_u64.. {
        for block in 0..BLOCKS {
            let at = (block * BLOCK_LEN) as u64;
            let bytes = pass.to_le_bytes().repeat(BLOCK_LEN / 8);
            std::os::unix::fs::FileExt::write_all_at(&file, &bytes, at).unwrap();
            if is_over.load(Ordering::Relaxed) {
                return;
            }
        }
    }
}

/// Returns the passes that are found in a file, in the order of the blocks.
fn passes(content: &[u8]) -> Vec<u64> {
    let (words, _) = content.as_chunks::<8>();
    let mut passes: Vec<_> = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
    passes.dedup();
    passes
}

/// A file that a program never stops writing is backed up as it was at one instant, from a
/// clone. The data directory is on the same disk.
fn holds_at_one_instant(test: &str, ground: &Ground) {
    let programs = [&["unshare"], ground.programs].concat();
    if !may_mount(test, &programs) {
        return;
    }
    let (two, work) = (Two::new(), tempfile::tempdir().unwrap());
    let disk = work.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    let Some(_mounted) = Mounted::new(ground, disk.clone(), work.path()) else { return };
    let bind = "cp -a \"$2/.\" \"$1/home\"; mkdir \"$1/docs\"; mount --bind \"$1/home\" \"$2\"; \
                mount --bind \"$1/docs\" \"$3\"";
    sh(bind, &[&disk, two.a.path(), &two.path()]).unwrap();
    let is_over = AtomicBool::new(false);
    let image = two.path().join("image");
    std::thread::scope(|scope| {
        scope.spawn(|| rewrite(&image, &is_over));
        let _over = SetAtEnd(&is_over);
        let (a, _b) = (two.a.start(), two.b.start());
        let is_backed_up = || {
            let target = two.beside("restored");
            let _ = std::fs::remove_dir_all(&target);
            let arguments = ["restore", "--folder", FOLDER, "--target", target.to_str().unwrap()];
            two.b.run(&arguments);
            let Ok(content) = std::fs::read(target.join("image")) else { return false };
            let passes = passes(&content);
            // A part of one pass, after which the file has the blocks of the pass before.
            let is_one_instant = match passes[..] {
                [_] => true,
                [now, before] => now == before + 1,
                _ => false,
            };
            assert!(is_one_instant, "{passes:?}");
            content.len() == BLOCKS * BLOCK_LEN && passes[0] > 1
        };
        eventually_or("the file is backed up", is_backed_up, || format!("{:#}", folder(&a)));
        assert_eq!(folder(&a)["error_count"], 0, "{:#}", folder(&a));
    });
    let unbind = "umount -l \"$1\"; umount -l \"$2\"";
    sh(unbind, &[two.a.path(), &two.path()]).unwrap();
}

/// Sets a flag when it is dropped, also by a failed test.
struct SetAtEnd<'a>(&'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_file_that_keeps_changing_on_btrfs() {
    let make = "truncate -s 1G \"$2/image\"; mkfs.btrfs -q -f \"$2/image\"";
    let mount = "mount -o loop \"$2/image\" \"$1\"";
    let ground = Ground { name: "btrfs", programs: &["mkfs.btrfs"], make, mount, ..NATIVE };
    holds_at_one_instant("a_file_that_keeps_changing_on_btrfs", &ground);
}

#[test]
fn a_file_that_keeps_changing_on_xfs() {
    let make = "truncate -s 1G \"$2/image\"; mkfs.xfs -q -f -m reflink=1 \"$2/image\"";
    let mount = "mount -o loop \"$2/image\" \"$1\"";
    let ground = Ground { name: "xfs", programs: &["mkfs.xfs"], make, mount, ..NATIVE };
    holds_at_one_instant("a_file_that_keeps_changing_on_xfs", &ground);
}

//! Commands that read leave no trace: on a copy of the home that may only be read, on a
//! read-only file system, and beside a running instance of another user.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

mod common;

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::kept::{Thing, commit};
use common::{Home, archivist, noise};

/// A user without any permission of its own.
const NOBODY: u32 = 65534;

/// Creates a home with a snapshot, and returns the id of the snapshot.
fn kept() -> (Home, String) {
    let home = Home::new("");
    home.init();
    let things: [(&[u8], Thing); 2] =
        [(b"a.txt", Thing::File(b"new".to_vec())), (b"big", Thing::File(noise(1, 3_000_000)))];
    let id = commit(home.path(), "docs", 1, "2026-11-22T10:00:00Z", &things).id.to_string();
    (home, id)
}

/// The metadata and the content of everything below a directory.
type State = BTreeMap<PathBuf, (u32, u32, u32, u64, i64, i64, Vec<u8>)>;

/// Returns everything below a directory, the content of a directory after it.
fn walk(dir: &Path) -> Vec<PathBuf> {
    let mut found = vec![dir.to_owned()];
    if std::fs::symlink_metadata(dir).unwrap().is_dir() {
        for entry in std::fs::read_dir(dir).unwrap() {
            found.extend(walk(&entry.unwrap().path()));
        }
    }
    found
}

fn state(dir: &Path) -> State {
    let entry = |path: PathBuf| {
        let stat = std::fs::symlink_metadata(&path).unwrap();
        let content = if stat.is_file() { std::fs::read(&path).unwrap() } else { Vec::new() };
        let (mode, uid, gid, inode) = (stat.mode(), stat.uid(), stat.gid(), stat.ino());
        (path, (mode, uid, gid, inode, stat.mtime_nsec(), stat.ctime_nsec(), content))
    };
    walk(dir).into_iter().map(entry).collect()
}

/// Sets the permissions of everything below a directory.
fn set_modes(dir: &Path, of_dirs: u32, of_files: u32) {
    for path in walk(dir).iter().rev() {
        let mode = if path.is_dir() { of_dirs } else { of_files };
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Runs all commands that read, each prepared by `prepare`, and asserts that they
/// find the snapshot.
fn assert_readable(home: &Path, id: &str, prepare: impl Fn(&mut Command)) {
    let out = tempfile::tempdir().unwrap();
    std::fs::set_permissions(out.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let run = |arguments: &[&str]| {
        let mut command = archivist(home);
        command.args(arguments);
        prepare(&mut command);
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?}: {said}");
        (String::from_utf8_lossy(&output.stdout).into_owned(), said)
    };
    let (listed, said) = run(&["snapshots", "--json"]);
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    assert_eq!((listed[0]["id"].as_str(), said.as_str()), (Some(id), ""));
    let manifest = listed[0]["manifest_cid"].as_str().unwrap();
    assert!(run(&["ls", id]).0.contains("a.txt"));
    assert!(run(&["manifest", "show", manifest]).0.contains("a.txt"));
    run(&["verify"]);
    run(&["verify", "--full"]);
    let target = out.path().join("target");
    run(&["restore", id, "--target", target.to_str().unwrap()]);
    assert_eq!(std::fs::read(target.join("a.txt")).unwrap(), b"new");
    assert_eq!(std::fs::read(target.join("big")).unwrap(), noise(1, 3_000_000));
}

#[test]
fn commands_that_read_leave_no_trace() {
    let (home, id) = kept();
    // Without the index, which a reader must not write.
    for with_index in [true, false] {
        if !with_index {
            std::fs::remove_dir_all(home.path().join("data/store/index")).unwrap();
        }
        let before = state(home.path());
        assert_readable(home.path(), &id, |_| {});
        assert!(state(home.path()) == before, "with the index: {with_index}");
    }
}

#[test]
fn a_copy_that_may_only_be_read_is_read() {
    let (home, id) = kept();
    set_modes(home.path(), 0o555, 0o444);
    let before = state(home.path());
    assert_readable(home.path(), &id, |command| {
        if is_root() {
            command.gid(NOBODY).uid(NOBODY);
        }
    });
    assert!(state(home.path()) == before);
    // So that the directory can be removed.
    for path in walk(home.path()).iter().filter(|path| path.is_dir()) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
}

/// The reader has permission to read the store of a running instance, but not its
/// token.
#[test]
fn a_store_is_read_beside_an_instance_of_another_user() {
    if !is_root() {
        eprintln!("left out: only root can start programs as another user");
        return;
    }
    let (home, id) = kept();
    let daemon = home.start();
    let store = home.path().join("data/store");
    set_modes(&store, 0o755, 0o644);
    let readable = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(home.path(), readable.clone()).unwrap();
    std::fs::set_permissions(home.path().join("data"), readable).unwrap();
    let config = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(home.config(), config).unwrap();
    assert_readable(home.path(), &id, |command| {
        command.gid(NOBODY).uid(NOBODY);
    });
    drop(daemon);
}

/// A mount namespace in which the home is read-only.
#[test]
fn a_read_only_file_system_is_read() {
    let (home, id) = kept();
    let path = home.path().to_str().unwrap().to_owned();
    let script = "mount --bind \"$0\" \"$0\" && mount -o remount,ro,bind \"$0\" && exec \"$@\"";
    let is_usable = |flags: &str| {
        let mut command = Command::new("unshare");
        command.args([flags, "sh", "-c", script, &path, "true"]);
        command.output().is_ok_and(|output| output.status.success())
    };
    let Some(flags) = ["-m", "-rm"].into_iter().find(|flags| is_usable(flags)) else {
        eprintln!("left out: needs root or user namespaces, and `unshare` (util-linux)");
        return;
    };
    let before = state(home.path());
    assert_readable(home.path(), &id, |command| {
        let mut wrapped = Command::new("unshare");
        wrapped.args([flags, "sh", "-c", script, &path]).arg(command.get_program());
        wrapped.args(command.get_args()).env_remove("ARCHIVIST_HOME");
        *command = wrapped;
    });
    assert!(state(home.path()) == before);
}

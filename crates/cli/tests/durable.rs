//! A restore that ends without an error has everything on the disk. `strace` shows the
//! system calls and makes them fail.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

mod common;

use std::path::Path;
use std::process::Command;

use common::kept::{Thing, commit};
use common::{Home, archivist};

/// Restores into `target` under `strace` with these options. `None` if that is not
/// possible here.
fn restore(home: &Home, target: &Path, options: &[&str]) -> Option<std::process::Output> {
    let may_trace = Command::new("strace").args(["-qq", "true"]).output();
    if !may_trace.is_ok_and(|output| output.status.success()) {
        eprintln!("left out: needs `strace`, and permission to trace");
        return None;
    }
    let program = archivist(home.path());
    let mut command = Command::new("strace");
    command.args(["-f", "-y", "-qq"]).args(options);
    command.arg(program.get_program()).args(program.get_args());
    command.args(["restore", "--target"]).arg(target);
    Some(command.env_remove("ARCHIVIST_HOME").output().unwrap())
}

fn kept() -> Home {
    let home = Home::new("");
    home.init();
    let things: [(&[u8], Thing); 2] =
        [(b"a.txt", Thing::File(b"new".to_vec())), (b"b.txt", Thing::File(b"more".to_vec()))];
    commit(home.path(), "docs", 1, "2026-11-22T10:00:00Z", &things);
    home
}

#[test]
fn what_is_restored_is_synced_after_the_last_write() {
    let home = kept();
    let dir = tempfile::tempdir().unwrap();
    let (target, trace) = (dir.path().join("target"), dir.path().join("trace"));
    let calls = "trace=syncfs,write,pwrite64,pwritev,copy_file_range,rename,renameat2,linkat";
    let options = ["-o", trace.to_str().unwrap(), "-e", calls];
    let Some(output) = restore(&home, &target, &options) else { return };
    assert!(output.status.success(), "{output:?}");
    let trace = std::fs::read_to_string(trace).unwrap();
    let target = target.to_str().unwrap();
    let lines: Vec<&str> = trace.lines().collect();
    let last = |is: &dyn Fn(&str) -> bool| lines.iter().rposition(|line| is(line));
    let synced = last(&|line| line.contains("syncfs(") && line.contains(target));
    let changed = last(&|line| !line.contains("syncfs(") && line.contains(target)).unwrap();
    assert!(synced.is_some_and(|synced| synced > changed), "{trace}");
}

#[test]
fn a_failed_sync_is_reported() {
    let home = kept();
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("target");
    let trace = dir.path().join("trace");
    let options =
        ["-o", trace.to_str().unwrap(), "-e", "trace=syncfs", "-e", "inject=syncfs:error=EIO"];
    let Some(output) = restore(&home, &target, &options) else { return };
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("may not be on the disk"), "{said}");
    assert_eq!(std::fs::read(target.join("a.txt")).unwrap(), b"new");
}

//! Tests that mount file systems: each runs again in a mount namespace, which unmounts
//! everything at its end.

use std::process::Command;

/// Set in the inner run of a test.
const AGAIN: &str = "ARCHIVIST_TEST_MAY_MOUNT";

/// Reports whether this is the inner run of a test, which may mount.
pub fn may_mount() -> bool {
    std::env::var_os(AGAIN).is_some()
}

/// Runs a test of this program again, as its inner run, and returns what it printed to standard
/// error. Another user than root is root in a namespace of its own, which may mount tmpfs.
pub fn run_again(test: &str) -> String {
    let flags = if rustix::process::geteuid().is_root() { "-m" } else { "-rm" };
    let mut command = Command::new("unshare");
    command.arg(flags).arg(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]).env(AGAIN, "1");
    let output = command.output().expect("`unshare` (util-linux) is needed to mount disks");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{test}, run again:\n{out}{err}");
    assert!(out.contains("1 passed"), "{test} was not run again:\n{out}{err}");
    err
}

//! Mounting file systems in a test.

use std::path::Path;
use std::process::Command;

const AGAIN: &str = "ARCHIVIST_TEST_MAY_MOUNT";

/// Runs the test again in a namespace in which it may mount; false in the outer run.
pub(crate) fn may_mount(test: &str) -> bool {
    if std::env::var_os(AGAIN).is_some() {
        return true;
    }
    let flags = if rustix::process::geteuid().is_root() { "-m" } else { "-rm" };
    let program = std::env::current_exe().unwrap();
    let mut command = Command::new("unshare");
    command.arg(flags).arg(program).args(["--exact", test, "--nocapture"]).env(AGAIN, "1");
    let output = command.output().expect("`unshare` (util-linux) is needed to mount disks");
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{test}, run again:\n{out}{err}");
    assert!(out.contains("1 passed"), "{test} was not run again:\n{out}{err}");
    false
}

pub(crate) fn run(program: &str, arguments: &[&str], dir: &Path) {
    let status = Command::new(program).args(arguments).arg(dir).status().unwrap();
    assert!(status.success(), "{program} {arguments:?} {}", dir.display());
}

pub(crate) fn mount(dir: &Path) {
    run("mount", &["-t", "tmpfs", "tmpfs"], dir);
}

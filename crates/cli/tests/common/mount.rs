//! Mounts for tests: each test that mounts runs again in a mount namespace.

use std::path::Path;
use std::process::Command;

/// Set in the inner run of a test, which may mount.
const AGAIN: &str = "ARCHIVIST_TEST_MAY_MOUNT";

/// Runs the test again in a mount namespace, which unmounts everything at its end. Returns true
/// in the inner run.
pub fn may_mount(test: &str, programs: &[&str]) -> bool {
    if std::env::var_os(AGAIN).is_some() {
        return true;
    }
    let is_missing = |program: &&&str| Command::new(program).arg("--version").output().is_err();
    if let Some(missing) = programs.iter().find(is_missing) {
        eprintln!("left out: {test}: {missing} is missing");
        return false;
    }
    if !rustix::process::geteuid().is_root() {
        eprintln!("left out: {test}: only root can mount a disk");
        return false;
    }
    let mut command = Command::new("unshare");
    command.arg("-m").arg(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]).env(AGAIN, "1");
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{test}, run again:\n{out}{err}");
    assert!(out.contains("1 passed"), "{test} was not run again:\n{out}{err}");
    if err.contains(NO_DISK) {
        eprintln!("left out: {test}: {err}");
    }
    false
}

/// Beginning of the message that this computer cannot mount such a disk.
pub const NO_DISK: &str = "cannot mount a loop device";

/// Runs a shell script with arguments.
pub fn sh(script: &str, arguments: &[&Path]) -> Result<(), String> {
    let output = Command::new("sh").args(["-ec", script, "sh"]).args(arguments).output().unwrap();
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{script}: {}", String::from_utf8_lossy(&output.stderr)))
}

//! Mounts for tests: each test that mounts runs again in a mount namespace.

use std::path::Path;
use std::process::Command;

/// Runs the test again in a mount namespace, which unmounts everything at its end. Returns true
/// in the inner run.
pub fn may_mount(test: &str, programs: &[&str]) -> bool {
    if testkit::mounts::may_mount() {
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
    let err = testkit::mounts::run_again(test);
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

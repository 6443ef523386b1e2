//! Mounting file systems in a test.

use std::path::Path;
use std::process::Command;

/// Runs the test again in a namespace in which it may mount; false in the outer run.
pub(crate) fn may_mount(test: &str) -> bool {
    testkit::mounts::may_mount() || {
        testkit::mounts::run_again(test);
        false
    }
}

pub(crate) fn run(program: &str, arguments: &[&str], dir: &Path) {
    let status = Command::new(program).args(arguments).arg(dir).status().unwrap();
    assert!(status.success(), "{program} {arguments:?} {}", dir.display());
}

pub(crate) fn mount(dir: &Path) {
    run("mount", &["-t", "tmpfs", "tmpfs"], dir);
}

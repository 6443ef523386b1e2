//! The programs that the tests need: finds those that are missing, and installs
//! them on machines that run tests.

use std::io::IsTerminal as _;
use std::path::Path;

use anyhow::{Result, bail};

use crate::shell::{self, has};
use crate::{deny, web};

/// The extent of a test run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// All checks and tests.
    All,
    /// The checks and tests that need nothing but cargo.
    Fast,
}

/// A program that the tests run.
struct Tool {
    name: &'static str,
    why: &'static str,
    /// The Debian packages that contain it, separated by spaces.
    packages: &'static str,
    /// The oldest version that works, if older ones are known to fail.
    since: Option<(u32, u32)>,
}

impl Tool {
    fn is_installed(&self) -> bool {
        match self.since {
            None => has(self.name),
            Some(since) => shell::version(self.name).is_some_and(|version| version >= since),
        }
    }

    fn description(&self) -> String {
        let since = self.since.map_or(String::new(), |(a, b)| format!(" {a}.{b} or later"));
        format!("`{}`{since}, which {}", self.name, self.why)
    }
}

fn tools(scope: Scope) -> Vec<Tool> {
    let tool = |name, why, packages| Tool { name, why, packages, since: None };
    let mut tools = vec![
        tool("git", "lists the files", "git"),
        tool("cc", "builds zstd and BLAKE3", "gcc libc6-dev"),
    ];
    if scope == Scope::All {
        tools.extend([
            Tool {
                // Vite and Vitest require it.
                since: Some((20, 19)),
                ..tool("node", "runs the tests against js-libp2p, the SDK and the UI", "nodejs")
            },
            tool("npm", "installs the packages of those tests", "npm"),
            Tool {
                since: Some((3, 11)),
                ..tool("python3", "tests the harness of the benchmarks", "python3")
            },
            tool("unshare", "mounts the small disk of the full-disk tests", "util-linux"),
        ]);
    }
    tools
}

/// Installs missing programs if nobody has to be asked, and returns the checks
/// that must be left out because an optional program (the browser, cargo-deny)
/// is missing.
///
/// # Errors
///
/// Names every required program that is missing.
pub(crate) fn check(scope: Scope) -> Result<Vec<String>> {
    let missing = || tools(scope).into_iter().filter(|tool| !tool.is_installed());
    let lacks_browser = || scope == Scope::All && !web::has_browser();
    let lacks_deny = || scope == Scope::All && !deny::is_installed();
    let may_install = may_install(
        std::env::var_os("CI").is_some_and(|ci| !ci.is_empty() && ci != "false"),
        is_root(),
        std::io::stdin().is_terminal(),
    );
    if may_install && has("apt-get") {
        let packages: Vec<&str> = missing().flat_map(|tool| tool.packages.split(' ')).collect();
        install_packages(&packages);
        // In a call of its own: a missing browser package must not keep the
        // other packages from being installed.
        install_packages(if lacks_browser() { &["chromium"] } else { &[] });
    }
    if may_install && lacks_deny() {
        deny::install();
    }
    let descriptions: Vec<String> = missing().map(|tool| tool.description()).collect();
    if !descriptions.is_empty() {
        let packages: Vec<&str> = missing().map(|tool| tool.packages).collect();
        bail!(
            "these programs are missing: {}. On Debian: apt-get install {}",
            descriptions.join("; "),
            packages.join(" ")
        );
    }
    let mut left_out = Vec::new();
    if lacks_browser() {
        left_out.push(format!(
            "the tests of the UI in a browser, because {} does not exist (set CHROMIUM, or: \
             apt-get install chromium)",
            web::browser().display()
        ));
    }
    if lacks_deny() {
        left_out.push(format!(
            "the check of the dependencies, because cargo-deny is not installed ({})",
            deny::INSTALL
        ));
    }
    Ok(left_out)
}

/// Returns true if packages may be installed without asking: on a machine that
/// runs tests, never for a person at a terminal.
fn may_install(is_ci: bool, is_root: bool, has_terminal: bool) -> bool {
    is_root && (is_ci || !has_terminal)
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// Tries to install Debian packages. The caller checks which programs exist
/// afterwards.
fn install_packages(packages: &[&str]) {
    if packages.is_empty() {
        return;
    }
    println!("missing: {}", packages.join(" "));
    let options = ["-qq", "-y", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=60"];
    let install: Vec<&str> =
        std::iter::once("install").chain(options).chain(packages.iter().copied()).collect();
    let dir = Path::new("/");
    if shell::run(dir, "apt-get", &install).is_err() {
        // The package lists may be old or absent.
        let updated = shell::run(dir, "apt-get", &["update", "-qq"]);
        if let Err(error) = updated.and_then(|()| shell::run(dir, "apt-get", &install)) {
            println!("cannot install {}: {error:#}", packages.join(" "));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_installed_behind_the_back_of_a_person() {
        assert!(may_install(true, true, true));
        assert!(may_install(false, true, false));
        assert!(!may_install(false, true, true));
        assert!(!may_install(true, false, false));
        assert!(!may_install(false, false, false));
    }

    #[test]
    fn a_tool_that_is_too_old_is_missing() {
        let git = |since| Tool { name: "git", why: "lists the files", packages: "git", since };
        assert!(git(None).is_installed());
        assert!(git(Some((1, 0))).is_installed());
        assert!(!git(Some((999, 0))).is_installed());
        assert!(git(Some((999, 0))).description().contains("`git` 999.0 or later"));
        let none = Tool { name: "no-such-program-anywhere", ..git(None) };
        assert!(!none.is_installed());
        assert!(!Tool { since: Some((0, 0)), ..none }.is_installed());
    }
}

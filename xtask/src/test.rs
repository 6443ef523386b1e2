//! `cargo xtask test`: everything that has to pass.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::shell::{self, files, has, root};
use crate::{bench, tidy, web};

/// How much to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// All of it.
    All,
    /// What needs nothing but cargo.
    Fast,
}

/// Runs it; the first failure ends it. What had to be left out is said last.
pub(crate) fn run(scope: Scope) -> Result<()> {
    let started = Instant::now();
    let root = root();
    let left_out = check_tools(scope)?;
    run_cargo(&root, &["fmt", "--all", "--check"])?;
    tidy::run()?;
    let clippy = ["clippy", "--workspace", "--all-targets", "--keep-going"];
    run_cargo(&root, &[&clippy[..], &["--", "--deny", "warnings"]].concat())?;
    if scope == Scope::All {
        for dir in npm_projects()? {
            install_npm(&dir)?;
        }
        // The program takes in what is built.
        web::check()?;
        web::build_ui()?;
    }
    // This builds the programs too: those that tests start, and the one that
    // the browser's do.
    let mut arguments = vec!["test", "--workspace", "--no-fail-fast"];
    if scope == Scope::Fast {
        arguments.extend(["--lib", "--bins"]);
    }
    run_cargo(&root, &arguments)?;
    if scope == Scope::All {
        if web::has_browser() {
            web::browser_tests()?;
        }
        bench::peers::test()?;
        documentation(&root)?;
    }
    println!("{}", verdict(&left_out, started.elapsed().as_secs()));
    Ok(())
}

/// The last line: nobody may take a part for the whole.
fn verdict(left_out: &[String], seconds: u64) -> String {
    if left_out.is_empty() {
        return format!("all passed in {seconds} s");
    }
    format!("PASSED, BUT LEFT OUT: {} ({seconds} s)", left_out.join("; "))
}

/// Kills both sides of a backup again and again, and compares what comes out.
pub(crate) fn soak(kills: &str) -> Result<()> {
    println!("$ ARCHIVIST_KILLS={kills} cargo test --release -p cli --test kill -- --nocapture");
    let status = std::process::Command::new(std::env::var("CARGO").unwrap_or("cargo".into()))
        .args(["test", "--release", "-p", "cli", "--test", "kill", "--", "--nocapture"])
        .env("ARCHIVIST_KILLS", kills)
        .current_dir(root())
        .status()
        .context("cannot run cargo test")?;
    if !status.success() {
        bail!("something was lost; ARCHIVIST_SEED above repeats it");
    }
    Ok(())
}

fn run_cargo(root: &Path, arguments: &[&str]) -> Result<()> {
    shell::run(root, &std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()), arguments)
}

/// A program that is needed.
struct Tool {
    name: &'static str,
    why: &'static str,
    /// Debian's packages that have it.
    packages: &'static str,
    /// The oldest version that does, where that is known.
    since: Option<(u32, u32)>,
}

impl Tool {
    fn is_there(&self) -> bool {
        match self.since {
            None => has(self.name),
            Some(since) => shell::version(self.name).is_some_and(|version| version >= since),
        }
    }

    fn described(&self) -> String {
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
                // What Vite and Vitest ask for.
                since: Some((20, 19)),
                ..tool("node", "runs the tests against js-libp2p, the SDK and the UI", "nodejs")
            },
            tool("npm", "installs what those tests need", "npm"),
            Tool {
                since: Some((3, 11)),
                ..tool("python3", "tests the harness of the benchmarks", "python3")
            },
            tool("unshare", "mounts the small disk of the full-disk tests", "util-linux"),
        ]);
    }
    tools
}

/// Says all that is missing at once, after it was installed where nobody has
/// to be asked. Without a browser, the tests in it are left out: the answer
/// is what that comes to.
fn check_tools(scope: Scope) -> Result<Vec<String>> {
    let lacking = || tools(scope).into_iter().filter(|tool| !tool.is_there());
    let wants_browser = || scope == Scope::All && !web::has_browser();
    let may = may_install(
        std::env::var_os("CI").is_some_and(|ci| !ci.is_empty() && ci != "false"),
        is_root(),
        std::io::stdin().is_terminal(),
    );
    if may && has("apt-get") {
        let packages: Vec<&str> = lacking().flat_map(|tool| tool.packages.split(' ')).collect();
        install_packages(&packages);
        // By itself: where there is none, the others are there all the same.
        install_packages(if wants_browser() { &["chromium"] } else { &[] });
    }
    let missing: Vec<String> = lacking().map(|tool| tool.described()).collect();
    if !missing.is_empty() {
        let packages: Vec<&str> = lacking().map(|tool| tool.packages).collect();
        bail!(
            "these programs are missing: {}. On Debian: apt-get install {}",
            missing.join("; "),
            packages.join(" ")
        );
    }
    Ok(wants_browser()
        .then(|| {
            format!(
                "the tests of the UI in a browser, since there is no {} (set CHROMIUM, or: \
                 apt-get install chromium)",
                web::browser().display()
            )
        })
        .into_iter()
        .collect())
}

/// Whether packages may be installed without asking: for a machine that runs
/// tests, never for a person at a terminal.
fn may_install(is_ci: bool, is_root: bool, has_terminal: bool) -> bool {
    is_root && (is_ci || !has_terminal)
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// Tries to install packages; whether it worked is to be looked at.
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
        // The lists may be old, or not there at all.
        let updated = shell::run(dir, "apt-get", &["update", "-qq"]);
        if let Err(error) = updated.and_then(|()| shell::run(dir, "apt-get", &install)) {
            println!("they could not be installed: {error:#}");
        }
    }
}

/// The directories with a package-lock.json.
fn npm_projects() -> Result<Vec<PathBuf>> {
    let locks = files()?.into_iter().filter(|path| path.ends_with("package-lock.json"));
    Ok(locks.filter_map(|path| path.parent().map(|dir| root().join(dir))).collect())
}

/// Installs exactly what the lock file names, unless that is there already.
pub(crate) fn install_npm(dir: &Path) -> Result<()> {
    let lock = std::fs::read(dir.join("package-lock.json"))
        .with_context(|| format!("cannot read the lock file in {}", dir.display()))?;
    let stamp = dir.join("node_modules/.installed-lock");
    if std::fs::read(&stamp).is_ok_and(|installed| installed == lock) {
        return Ok(());
    }
    shell::run(dir, "npm", &["ci", "--no-audit", "--no-fund"])?;
    std::fs::write(&stamp, lock).with_context(|| format!("cannot write {}", stamp.display()))
}

fn documentation(root: &Path) -> Result<()> {
    // Headers name private modules: whoever reads the source follows them.
    let flags = "--deny=warnings --allow=rustdoc::private_intra_doc_links";
    println!("$ RUSTDOCFLAGS='{flags}' cargo doc --workspace --no-deps");
    let status = std::process::Command::new(std::env::var("CARGO").unwrap_or("cargo".into()))
        .args(["doc", "--workspace", "--no-deps", "--quiet", "--keep-going"])
        .env("RUSTDOCFLAGS", flags)
        .current_dir(root)
        .status()
        .context("cannot run cargo doc")?;
    if !status.success() {
        bail!("the documentation has warnings");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_left_out_is_the_last_word() {
        assert_eq!(verdict(&[], 7), "all passed in 7 s");
        let said = verdict(&["the browser".into(), "the rest".into()], 7);
        assert_eq!(said, "PASSED, BUT LEFT OUT: the browser; the rest (7 s)");
        assert!(!said.contains("all passed"));
    }

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
        assert!(git(None).is_there());
        assert!(git(Some((1, 0))).is_there());
        assert!(!git(Some((999, 0))).is_there());
        assert!(git(Some((999, 0))).described().contains("`git` 999.0 or later"));
        let none = Tool { name: "no-such-program-anywhere", ..git(None) };
        assert!(!none.is_there());
        assert!(!Tool { since: Some((0, 0)), ..none }.is_there());
    }
}

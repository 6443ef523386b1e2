//! The rules about the source itself, checked by machine.

mod circles;
mod parsers;
mod threats;
mod words;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use self::circles::SourceFile;
use self::parsers::Parsers;
use self::threats::Tests;
use crate::shell::{files, root};

/// Maximum length of a source line, in characters.
const LINE_MAX: usize = 100;
/// Maximum number of lines of a source file. A longer file contains two ideas.
const FILE_LINES_MAX: usize = 600;
/// Maximum size of a file in the repository, in bytes.
const FILE_LEN_MAX: u64 = 1 << 20;
/// Directory of the golden homes.
const GOLDEN: &str = "crates/cli/tests/golden";

/// The page that names the files to change for each kind of addition.
const GUIDE: &str = "docs/how-to-add.md";

/// Words that mark unfinished work.
const BANNED: [&str; 4] = ["FIXME", "XXX", "TODO", "for now"];

/// The crates of the workspace that each crate uses, exactly.
const ARROWS: &[(&str, &[&str])] = &[
    ("types", &[]),
    ("disk", &[]),
    ("store", &["types", "disk"]),
    ("net", &["types", "disk"]),
    ("fstree", &["types"]),
    ("config", &["types", "disk"]),
    ("manifest", &["types", "config"]),
    ("api", &["types"]),
    ("restore", &["types", "store", "fstree"]),
    ("sync", &["types", "disk", "store", "fstree"]),
    ("protocols", &["types", "config", "store", "net", "manifest"]),
    ("snapshots", &["types", "config", "store", "net", "manifest"]),
    ("pull", &["types", "store", "net", "manifest", "protocols", "snapshots"]),
    ("backup", &["types", "disk", "config", "net", "manifest", "protocols", "snapshots", "pull"]),
    (
        "node",
        &[
            "types",
            "disk",
            "config",
            "store",
            "net",
            "manifest",
            "api",
            "restore",
            "sync",
            "protocols",
            "snapshots",
            "pull",
            "backup",
        ],
    ),
    (
        "server",
        &[
            "types",
            "config",
            "store",
            "net",
            "manifest",
            "api",
            "restore",
            "sync",
            "protocols",
            "snapshots",
            "backup",
            "node",
        ],
    ),
    (
        "cli",
        &[
            "types",
            "config",
            "store",
            "fstree",
            "api",
            "restore",
            "snapshots",
            "backup",
            "node",
            "server",
        ],
    ),
    // Its source is that of `store`.
    ("schedules", &["types", "disk"]),
    ("testkit", &["types", "config", "store", "net", "manifest", "protocols", "snapshots"]),
    (
        "sim",
        &[
            "types",
            "disk",
            "config",
            "store",
            "net",
            "manifest",
            "fstree",
            "restore",
            "sync",
            "protocols",
            "snapshots",
            "backup",
            "node",
        ],
    ),
];

/// Locks, atomics, threads and channels that crate `schedules` cannot replace.
const UNCONTROLLED: [&str; 7] = [
    "parking_lot",
    "crossbeam_channel",
    "std::thread",
    "std::sync::atomic",
    "std::sync::Mutex",
    "std::sync::RwLock",
    "std::sync::mpsc",
];

/// Checks every file of the repository and prints all problems.
pub(crate) fn run() -> Result<()> {
    let mut problems = Vec::new();
    let mut crates: BTreeMap<PathBuf, Vec<SourceFile>> = BTreeMap::new();
    let mut parsers = Parsers::default();
    let mut tests = Tests::default();
    for path in files()? {
        let full = root().join(&path);
        let Ok(metadata) = full.symlink_metadata() else { continue };
        if !metadata.is_file() {
            continue;
        }
        let is_lock = path.ends_with("Cargo.lock") || path.ends_with("package-lock.json");
        if metadata.len() > FILE_LEN_MAX {
            problems.push(format!("{}: over 1 MiB", path.display()));
        }
        // Written by the program, and never edited.
        if path.starts_with(GOLDEN) {
            continue;
        }
        let content = std::fs::read(&full).with_context(|| format!("cannot read {path:?}"))?;
        let Ok(text) = String::from_utf8(content) else { continue };
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("rs") => check_rust(&path, &text, &mut problems),
            Some("toml") if path.ends_with("Cargo.toml") => {
                check_arrows(&path, &text, &mut problems);
                check_purpose(&path, &text, &mut problems);
            }
            _ if is_lock => check_lock(&path, &text, &mut problems),
            _ => {}
        }
        parsers.add(&path, &text);
        tests.add(&path, &text);
        if !path.starts_with("xtask/src/tidy") {
            words::check(&path, &text, &mut problems);
        }
        if !is_lock && text.lines().any(|line| line.ends_with([' ', '\t'])) {
            problems.push(format!("{}: white space at the end of a line", path.display()));
        }
        if !text.is_empty() && !text.ends_with('\n') {
            problems.push(format!("{}: no newline at the end", path.display()));
        }
        if let Some(src) = source_directory(&path) {
            crates.entry(src).or_default().push(SourceFile { path, text });
        }
    }
    let guide = std::fs::read_to_string(root().join(GUIDE))
        .with_context(|| format!("cannot read {GUIDE}"))?;
    for name in named_files(&guide).filter(|name| !root().join(name).exists()) {
        problems.push(format!("{GUIDE}: {name} does not exist"));
    }
    let page = std::fs::read_to_string(root().join(parsers::PAGE))
        .with_context(|| format!("cannot read {}", parsers::PAGE))?;
    parsers.check(&page, &mut problems);
    for name in Parsers::listed_files(&page).filter(|name| !root().join(name).exists()) {
        problems.push(format!("{}: {name} does not exist", parsers::PAGE));
    }
    let threats = std::fs::read_to_string(root().join(threats::PAGE))
        .with_context(|| format!("cannot read {}", threats::PAGE))?;
    tests.check(&threats, &mut problems);
    for (src, files) in &crates {
        problems.extend(circles::find(src, files));
    }
    for problem in &problems {
        eprintln!("tidy: {problem}");
    }
    if problems.is_empty() {
        println!("tidy: no problems");
        Ok(())
    } else {
        bail!("tidy found {} problems", problems.len())
    }
}

/// Returns the paths in a document: the words in backticks that contain a slash.
fn named_files(document: &str) -> impl Iterator<Item = &str> {
    let quoted = document.split('`').skip(1).step_by(2);
    quoted.filter(|text| text.contains('/') && !text.contains(char::is_whitespace))
}

/// Returns the `src` directory of the crate that a Rust file belongs to.
fn source_directory(path: &Path) -> Option<PathBuf> {
    let is_rust = path.extension().is_some_and(|extension| extension == "rs");
    let src = path.ancestors().filter(|dir| dir.ends_with("src")).last()?;
    is_rust.then(|| src.to_owned())
}

fn check_rust(path: &Path, text: &str, problems: &mut Vec<String>) {
    let is_test = path.components().any(|part| part.as_os_str() == "tests")
        || path.file_name().is_some_and(|name| name == "tests.rs");
    if !is_test && text.lines().count() > FILE_LINES_MAX {
        problems.push(format!("{}: over {FILE_LINES_MAX} lines", path.display()));
    }
    if !text.starts_with("//!") {
        problems.push(format!("{}: does not begin by saying what it is", path.display()));
    }
    check_writes(path, text, problems);
    check_primitives(path, text, problems);
    // This file contains the words as data.
    let is_own = path.ends_with("xtask/src/tidy/mod.rs");
    for (number, line) in text.lines().enumerate() {
        let number = number + 1;
        // Neither string literals nor the inside of macros in tests can always be
        // wrapped.
        if !is_test && line.chars().count() > LINE_MAX && !line.contains('"') {
            problems.push(format!("{}:{number}: over {LINE_MAX} characters", path.display()));
        }
        for word in BANNED {
            if line.contains(word) && !is_own {
                problems.push(format!("{}:{number}: {word:?}", path.display()));
            }
        }
        if !is_test && !is_own && line.contains("allow(dead_code") {
            problems.push(format!(
                "{}:{number}: unused code must be removed, not allowed",
                path.display()
            ));
        }
    }
}

/// Crates, and parts of crates, that write files with other means than crate `disk`:
/// those of users, and those of tests.
const OTHER_WRITERS: [&str; 6] = [
    "crates/disk/",
    "crates/fstree/",
    "crates/testkit/",
    "crates/sim/",
    "xtask/",
    "crates/cli/src/commands/demo/",
];

/// Checks that files are written with `disk::write_atomic` or `disk::DiskFile`. Its tests
/// lose the power at every operation; other ways to write a file would forget a sync.
fn check_writes(path: &Path, text: &str, problems: &mut Vec<String>) {
    let name = path.to_string_lossy();
    let is_product = name.starts_with("crates/")
        && name.contains("/src/")
        && !name.contains("/tests/")
        && !name.ends_with("tests.rs");
    if !is_product || OTHER_WRITERS.iter().any(|other| name.starts_with(other)) {
        return;
    }
    let product = text.lines().take_while(|line| !line.starts_with("#[cfg(test)]")).enumerate();
    for (number, line) in product {
        for call in ["fs::write(", "fs::rename(", "File::create(", "File::create_new("] {
            if line.contains(call) {
                problems.push(format!(
                    "{name}:{}: `{call}`: use `disk::write_atomic`, which syncs",
                    number + 1
                ));
            }
        }
    }
}

/// Checks that the store has all locks and threads from its module `sync`: a lock that the
/// scheduler of crate `schedules` does not know would block all threads.
fn check_primitives(path: &Path, text: &str, problems: &mut Vec<String>) {
    let name = path.to_string_lossy();
    if !name.starts_with("crates/store/src/") || name.starts_with("crates/store/src/sync") {
        return;
    }
    let product = text.lines().take_while(|line| !line.starts_with("#[cfg(test)]")).enumerate();
    for (number, line) in product {
        for primitive in UNCONTROLLED.iter().filter(|primitive| line.contains(*primitive)) {
            problems.push(format!("{name}:{}: {primitive}: use `crate::sync`", number + 1));
        }
    }
}

/// Checks that a crate uses exactly the crates that the table gives it.
fn check_arrows(path: &Path, text: &str, problems: &mut Vec<String>) {
    let Some(name) = path.parent().and_then(|dir| dir.file_name()).and_then(|name| name.to_str())
    else {
        return;
    };
    let Some((_, allowed)) = ARROWS.iter().find(|(from, _)| *from == name) else { return };
    let mut unused: Vec<&str> = allowed.to_vec();
    let dependencies = text.split("[dependencies]").nth(1).unwrap_or_default();
    for line in dependencies.lines().take_while(|line| !line.starts_with('[')) {
        let used = line.split([' ', '.', '=']).next().unwrap_or_default();
        if ARROWS.iter().any(|(to, _)| *to == used) && !allowed.contains(&used) {
            problems.push(format!("{}: {name} must not use {used}", path.display()));
        }
        unused.retain(|allowed| *allowed != used);
    }
    for one in unused {
        problems
            .push(format!("{}: {name} does not use {one}, which the table lists", path.display()));
    }
}

/// Checks that a crate states its purpose in one line. A purpose with an "and" is two.
fn check_purpose(path: &Path, text: &str, problems: &mut Vec<String>) {
    if !text.lines().any(|line| line == "[package]") {
        return;
    }
    let purpose = text.lines().find_map(|line| line.strip_prefix("description = \""));
    match purpose {
        None => problems.push(format!("{}: no description", path.display())),
        Some(purpose) if purpose.split_whitespace().any(|word| word == "and") => {
            problems.push(format!("{}: the description has an \"and\"", path.display()));
        }
        Some(_) => {}
    }
}

/// Checks that lock files name public registries only.
fn check_lock(path: &Path, text: &str, problems: &mut Vec<String>) {
    let public =
        ["https://registry.npmjs.org/", "registry+https://github.com/rust-lang/crates.io-index"];
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        let source =
            line.strip_prefix("\"resolved\": \"").or_else(|| line.strip_prefix("source = \""));
        if let Some(source) = source
            && !public.iter().any(|prefix| source.starts_with(prefix))
        {
            problems.push(format!("{}:{}: not a public registry", path.display(), number + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrows(name: &str, dependencies: &str) -> Vec<String> {
        let mut problems = Vec::new();
        let text = format!("[package]\n[dependencies]\n{dependencies}[lints]\nnode.x = 1\n");
        check_arrows(Path::new(&format!("crates/{name}/Cargo.toml")), &text, &mut problems);
        problems
    }

    #[test]
    fn a_crate_uses_what_the_table_says_and_nothing_else() {
        let all = "store.workspace = true\ntypes.workspace = true\nfstree = { path = \"..\" }\n";
        assert!(arrows("restore", all).is_empty());
        let more = arrows("restore", &format!("{all}backup.workspace = true\n"));
        assert!(more.len() == 1 && more[0].contains("must not use backup"), "{more:?}");
        let less = arrows("restore", "types.workspace = true\nfstree.workspace = true\n");
        assert!(less.len() == 1 && less[0].contains("does not use store"), "{less:?}");
        // The table may not allow what an invariant forbids.
        assert!(!arrows("backup", "restore.workspace = true\n").is_empty());
    }

    #[test]
    fn a_crate_has_one_purpose() {
        let found = |text: &str| {
            let mut problems = Vec::new();
            check_purpose(Path::new("crates/store/Cargo.toml"), text, &mut problems);
            problems.len()
        };
        assert_eq!(found("[package]\ndescription = \"Blocks on a disk\"\n"), 0);
        assert_eq!(found("[package]\ndescription = \"Blocks and roots\"\n"), 1);
        assert_eq!(found("[package]\nname = \"store\"\n"), 1);
        assert_eq!(found("[workspace]\n"), 0);
    }

    #[test]
    fn documents_name_files_in_backticks() {
        let text = "1. `a/b.rs`: a field, `npm run api` in `web`, `x` and `docs/`\n";
        assert_eq!(named_files(text).collect::<Vec<_>>(), ["a/b.rs", "docs/"]);
    }

    #[test]
    fn a_file_that_is_written_without_a_sync_is_found() {
        let found = |path: &str, text: &str| {
            let mut problems = Vec::new();
            check_writes(Path::new(path), text, &mut problems);
            problems.len()
        };
        let write = "fn f() {\n    std::fs::write(path, text)?;\n    fs::rename(new, path)\n}\n";
        assert_eq!(found("crates/node/src/token.rs", write), 2);
        assert_eq!(found("crates/node/src/token.rs", &format!("#[cfg(test)]\n{write}")), 0);
        for other in
            ["crates/node/tests/a.rs", "crates/disk/src/real.rs", "crates/sync/src/tests.rs"]
        {
            assert_eq!(found(other, write), 0, "{other}");
        }
    }

    #[test]
    fn the_store_has_no_lock_that_its_scheduler_does_not_know() {
        let found = |path: &str, text: &str| {
            let mut problems = Vec::new();
            check_primitives(Path::new(path), text, &mut problems);
            problems.len()
        };
        let lock =
            "use parking_lot::Mutex;\nuse std::sync::Arc;\nuse std::sync::atomic::AtomicU64;\n";
        assert_eq!(found("crates/store/src/pins.rs", lock), 2);
        assert_eq!(found("crates/store/src/pins.rs", &format!("#[cfg(test)]\n{lock}")), 0);
        for other in ["crates/store/src/sync.rs", "crates/store/tests/gc.rs", "crates/net/src/a.rs"]
        {
            assert_eq!(found(other, lock), 0, "{other}");
        }
    }

    #[test]
    fn what_is_not_finished_is_found() {
        let mut problems = Vec::new();
        let text = "//! A file.\n// TODO\n#[allow(dead_code)]\nfn f() {}\n";
        check_rust(Path::new("crates/types/src/x.rs"), text, &mut problems);
        assert_eq!(problems.len(), 2, "{problems:?}");
        // In no other file of that name either.
        problems.clear();
        check_rust(Path::new("crates/types/src/tidy/mod.rs"), text, &mut problems);
        assert_eq!(problems.len(), 2, "{problems:?}");
        problems.clear();
        check_rust(Path::new("xtask/src/tidy/mod.rs"), text, &mut problems);
        assert!(problems.is_empty(), "{problems:?}");
    }
}

//! The list of parsers in docs/testing.md is complete: each file that parses bytes or
//! text is in it, and each fuzz target.

use std::collections::BTreeSet;
use std::path::Path;

/// The page with the list.
pub(super) const PAGE: &str = "docs/testing.md";
/// Heading of the list.
const HEADING: &str = "\n## Parsers\n";

/// Calls by which a file shows that it parses something.
const CALLS: [&str; 11] = [
    "::from_slice(",
    "::from_slice::<",
    "serde_json::from_str",
    "toml::from_str",
    "str::from_utf8(",
    "String::from_utf8(",
    "from_str_radix",
    "::from_le_bytes",
    "::from_be_bytes",
    "FromStr for",
    "from_reader(",
];
/// Parts of the repository without parsers of the product.
const WITHOUT: [&str; 6] = [
    "crates/disk/src/sim/",
    "crates/fuzzing/",
    "crates/net/src/sim/",
    "crates/sim/",
    "crates/testkit/",
    "crates/cli/src/commands/demo/",
];

/// The parsers and fuzz targets that were found in the source.
#[derive(Default)]
pub(super) struct Parsers {
    /// Paths below `crates` of the files that parse something.
    files: BTreeSet<String>,
    targets: BTreeSet<String>,
}

impl Parsers {
    /// Notes the parsers and targets in a file.
    pub(super) fn add(&mut self, path: &Path, text: &str) {
        let path = path.to_string_lossy();
        let Some(name) = path.strip_prefix("crates/").filter(|name| name.ends_with(".rs")) else {
            return;
        };
        if WITHOUT.iter().any(|other| path.starts_with(other)) {
            return;
        }
        for line in text.lines() {
            if let Some(target) = line.trim().strip_prefix("fn fuzz_") {
                let end = target.find('(').unwrap_or(target.len());
                self.targets.insert(format!("fuzz_{}", &target[..end]));
            }
        }
        let is_product = name.contains("/src/") && !name.contains("/tests");
        let mut product = text.lines().take_while(|line| !line.starts_with("#[cfg(test)]"));
        let parses = |line: &str| {
            !line.trim_start().starts_with("//") && CALLS.iter().any(|call| line.contains(call))
        };
        if is_product && product.any(parses) {
            self.files.insert(name.to_owned());
        }
    }

    /// Compares them with the page.
    pub(super) fn check(&self, page: &str, problems: &mut Vec<String>) {
        let Some((_, list)) = page.split_once(HEADING) else {
            problems.push(format!("{PAGE}: no section {:?}", HEADING.trim()));
            return;
        };
        let list = list.split("\n## ").next().unwrap_or_default();
        let listed: BTreeSet<&str> = list.split('`').skip(1).step_by(2).collect();
        for name in self.files.iter().filter(|name| !listed.contains(name.as_str())) {
            problems.push(format!("{PAGE}: crates/{name} parses something and is not listed"));
        }
        for target in self.targets.iter().filter(|target| !listed.contains(target.as_str())) {
            problems.push(format!("{PAGE}: the target {target} is not listed"));
        }
        let is_known = |name: &str| self.targets.contains(name);
        for name in listed.iter().filter(|name| name.starts_with("fuzz_") && !is_known(name)) {
            problems.push(format!("{PAGE}: there is no target {name}"));
        }
    }

    /// Returns the listed files of the page, relative to the root of the repository.
    pub(super) fn listed_files(page: &str) -> impl Iterator<Item = String> + '_ {
        let list = page.split_once(HEADING).map_or("", |(_, list)| list);
        let list = list.split("\n## ").next().unwrap_or_default();
        let names = list.split('`').skip(1).step_by(2).filter(|name| name.ends_with(".rs"));
        names.map(|name| format!("crates/{name}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parser_or_a_target_that_is_not_listed_is_found() {
        let mut parsers = Parsers::default();
        let parser = "fn parse() {\n    serde_json::from_slice(bytes)\n}\n";
        let tests = "#[cfg(test)]\nmod tests {\n    #[test]\n    fn fuzz_x() {\n";
        parsers.add(Path::new("crates/node/src/x.rs"), &format!("{parser}{tests}"));
        parsers.add(Path::new("crates/node/src/y.rs"), &format!("{tests}{parser}"));
        parsers.add(Path::new("crates/node/tests/z.rs"), parser);
        parsers.add(Path::new("crates/sim/src/z.rs"), parser);
        parsers.add(Path::new("xtask/src/z.rs"), parser);
        let found = |page: &str| {
            let mut problems = Vec::new();
            parsers.check(page, &mut problems);
            problems.len()
        };
        assert_eq!(found("# Testing\n"), 1);
        assert_eq!(found("# Testing\n\n## Parsers\n\n## Other\n`fuzz_x` `node/src/x.rs`"), 2);
        let page = "# Testing\n\n## Parsers\n\n| x | `node/src/x.rs` | `fuzz_x` |\n";
        assert_eq!(found(page), 0);
        assert_eq!(found(&format!("{page}`fuzz_gone`")), 1);
        assert_eq!(Parsers::listed_files(page).collect::<Vec<_>>(), ["crates/node/src/x.rs"]);
    }
}

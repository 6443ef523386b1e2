//! Each sentence of the threat model names a test that exists.

use std::collections::BTreeSet;
use std::path::Path;

/// The page with the threat model.
pub(super) const PAGE: &str = "docs/threat-model.md";

/// The names of all tests of the repository.
#[derive(Default)]
pub(super) struct Tests(BTreeSet<String>);

impl Tests {
    /// Adds the tests in a file: functions with an attribute that ends in `test`, and its lines.
    pub(super) fn add(&mut self, path: &Path, text: &str) {
        if path.extension().is_none_or(|extension| extension != "rs") {
            return;
        }
        let mut is_test = false;
        for line in text.lines().map(str::trim) {
            if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
                is_test = true;
            } else if let Some((_, name)) = line.split_once("fn ") {
                if is_test {
                    self.0.extend(name.split_once('(').map(|(name, _)| name.to_owned()));
                }
                is_test = false;
            }
        }
    }

    /// Checks that each item of a list in the page names a test, and only tests that exist.
    pub(super) fn check(&self, page: &str, problems: &mut Vec<String>) {
        let mut items: Vec<String> = Vec::new();
        let mut is_item = false;
        for line in page.lines() {
            if let Some(item) = line.strip_prefix("- ") {
                items.push(item.to_owned());
                is_item = true;
            } else if line.trim().is_empty() || !line.starts_with(' ') {
                is_item = false;
            } else if let Some(item) = items.last_mut().filter(|_| is_item) {
                item.push(' ');
                item.push_str(line.trim());
            }
        }
        if items.is_empty() {
            problems.push(format!("{PAGE}: no list"));
        }
        for item in items {
            let Some((_, tests)) = item.strip_suffix(')').and_then(|item| item.rsplit_once(" (`"))
            else {
                problems.push(format!("{PAGE}: no test behind: {item}"));
                continue;
            };
            for test in tests.split(", ").map(|test| test.trim_matches('`')) {
                if !self.0.contains(test) {
                    problems.push(format!("{PAGE}: there is no test {test}"));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_needs_a_test_that_exists() {
        let mut tests = Tests::default();
        let text = "#[test]\nfn first() {}\n#[tokio::test(start_paused = true)]\n#[ignore]\n\
                    async fn second() {}\nfn third() {}\n";
        tests.add(Path::new("crates/a/src/lib.rs"), text);
        let problems = |page: &str| {
            let mut problems = Vec::new();
            tests.check(page, &mut problems);
            problems
        };
        assert!(problems("Text.\n\n- Cannot (ever) read.\n  (`first`, `second`)\n").is_empty());
        for (page, count) in [
            ("Text.\n", 1),
            ("- Cannot read.\n\n(`first`)\n", 1),
            ("- Cannot read. (`third`)\n", 1),
            ("- Cannot read. (`first`, `fourth`)\n- Cannot write (much).\n", 2),
        ] {
            assert_eq!(problems(page).len(), count, "{page}");
        }
    }
}

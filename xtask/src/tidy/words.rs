//! Finds wordings that readers have to read twice, in comments, messages and
//! documents.
//!
//! The rules are those of CONTRIBUTING.md, "Language". Only wordings that are
//! wrong wherever they stand are listed here, so that no exception list is
//! needed; the rest is for reviewers.

use std::path::Path;

/// Words that begin no sentence: the subject of a sentence is a named thing.
const STARTS: &[&str] =
    &["What ", "Whatever ", "Whether ", "Those ", "That which ", "Whoever ", "Where it "];

/// Wordings with the plain ones to use instead.
const PHRASES: &[(&str, &str)] = &[
    ("begun again", "run again"),
    ("for ever", "permanently"),
    ("to the letter", "exactly"),
    ("has it whole", "has confirmed it"),
    ("asked after", "requested"),
    ("what came of it", "the result"),
    ("hears of", "learns about"),
    ("Those of the disk", "the variants, by name"),
    ("anew", "again"),
    ("by itself", "automatically"),
    ("counts at once", "applies immediately"),
    ("is otherwise", "has changed"),
    ("not everything that was asked for", "a sentence that names the thing"),
];

/// Reports each such wording in a source file or a document.
pub(crate) fn check(path: &Path, text: &str, problems: &mut Vec<String>) {
    let mut previous_ends = true;
    for (number, line) in text.lines().enumerate() {
        let number = number + 1;
        let Some(prose) = prose_of(path, line) else {
            previous_ends = true;
            continue;
        };
        if previous_ends && let Some(start) = STARTS.iter().find(|start| prose.starts_with(**start))
        {
            problems.push(format!(
                "{}:{number}: a sentence begins with {:?}: name its subject",
                path.display(),
                start.trim()
            ));
        }
        previous_ends = prose.is_empty() || prose.ends_with(['.', ':', '!', '?']);
        for (phrase, plain) in PHRASES {
            if contains_words(prose, phrase) {
                problems.push(format!("{}:{number}: {phrase:?}: write {plain:?}", path.display()));
            }
        }
    }
}

/// Returns true if `text` contains `phrase` between word boundaries.
fn contains_words(text: &str, phrase: &str) -> bool {
    text.match_indices(phrase).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + phrase.len()..].chars().next();
        let is_letter = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        !is_letter(before) && !is_letter(after)
    })
}

/// Returns the part of a line that is written for people: a comment or a text
/// in a source file, every line of a document.
fn prose_of<'a>(path: &Path, line: &'a str) -> Option<&'a str> {
    let trimmed = line.trim();
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("md") => {
            // A question as a heading or in a table is fine: "What happens if …".
            if trimmed.starts_with(['#', '|']) {
                return None;
            }
            Some(trimmed.trim_start_matches(['*', '-', '>', ' ']))
        }
        Some("rs" | "ts" | "tsx") => {
            for marker in ["///", "//!", "//", "/**", "*"] {
                if let Some(comment) = trimmed.strip_prefix(marker) {
                    return Some(comment.trim());
                }
            }
            None
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(name: &str, text: &str) -> usize {
        let mut problems = Vec::new();
        check(Path::new(name), text, &mut problems);
        problems.len()
    }

    #[test]
    fn a_sentence_without_a_subject_is_found() {
        assert_eq!(found("a.rs", "/// What there is of the folder.\n"), 1);
        assert_eq!(found("a.rs", "/// Reads the folder.\n/// Whoever asks is told.\n"), 1);
        assert_eq!(found("a.md", "* Those of the disk.\n"), 2);
        assert_eq!(found("a.rs", "// It is begun again.\n"), 1);
    }

    #[test]
    fn plain_sentences_and_code_are_not() {
        assert_eq!(found("a.rs", "/// Returns whether the pack exists, and tells\n"), 0);
        // The second line of a sentence.
        assert_eq!(found("a.rs", "/// Reports the number of bytes, no matter\n/// Whether\n"), 0);
        assert_eq!(found("a.rs", "let text = \"What \";\n"), 0);
        assert_eq!(found("a.md", "## What happens if the power fails?\n"), 0);
        assert_eq!(found("a.rs", "// It is renewed: a new anewly made word.\n"), 0);
    }
}

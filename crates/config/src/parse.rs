//! Parses a configuration text into a [`Config`], or lists every problem.
//!
//! Three passes, each over the complete text, so that one list of messages is
//! enough to correct a file: the syntax; every key and value on its own, against
//! the key table (`check.rs`); then the rules that relate several keys
//! (`conflicts.rs`). A pass runs only if the previous one found nothing, because
//! it would report consequences of the same mistake.

use serde::Deserialize;
use toml::de::{DeTable, Deserializer};

use crate::check::{Check, clip};
use crate::config::Config;
use crate::conflicts::check_conflicts;
use crate::error::{Fault, Place, Problem};

/// Maximum number of reported syntax errors: later ones are mostly
/// consequences of the first.
const SYNTAX_ERRORS_MAX: usize = 5;

/// Parses a configuration.
pub(crate) fn parse(text: &str) -> Result<Config, Vec<Problem>> {
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        return Err(syntax_problems(text, errors));
    }
    let mut check = Check::new(text);
    check.table(Config::KEYS, "", table.get_ref(), 0..0);
    check.finish()?;

    let config = match Config::deserialize(Deserializer::from(table.clone())) {
        Ok(config) => config,
        Err(error) => {
            let place = Place::of(text, error.span().unwrap_or(0..0).start);
            let fault = Fault::Refused(error.message().to_owned());
            return Err(vec![Problem { place, key: String::new(), fault }]);
        }
    };
    let mut check = Check::new(text);
    check_conflicts(&mut check, &config, table.get_ref());
    check.finish()?;
    Ok(config)
}

/// Reports at most one syntax error per line, because the others on that line
/// are mostly consequences of the first.
fn syntax_problems(text: &str, mut errors: Vec<toml::de::Error>) -> Vec<Problem> {
    let start = |error: &toml::de::Error| error.span().map_or(0, |span| span.start);
    errors.sort_by_key(start);
    let mut problems: Vec<Problem> = Vec::new();
    let mut line_end = None;
    for error in errors {
        let at = start(&error).min(text.len());
        if line_end.is_some_and(|end| at <= end) {
            continue;
        }
        line_end = Some(text[at..].find('\n').map_or(text.len(), |newline| at + newline));
        let found = error.span().and_then(|span| text.get(span)).map(clip).unwrap_or_default();
        let message = match error.message() {
            "duplicate key" => format!("`{found}` is defined twice"),
            message if message.starts_with("string values must be quoted") => {
                "a string must be in quotes".to_owned()
            }
            message => message.trim_end_matches(", expected nothing").to_owned(),
        };
        let fault = Fault::Syntax(message);
        problems.push(Problem { place: Place::of(text, at), key: String::new(), fault });
        if problems.len() == SYNTAX_ERRORS_MAX {
            break;
        }
    }
    problems
}

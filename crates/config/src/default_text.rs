//! The file that a new instance gets: every key, commented, with its default.

use crate::config::{Config, FolderConfig, ROOT, SourcePeer};
use crate::schema::{Apply, KeySpec, Kind, Unit};

const HEAD: &str = "\
# The settings of Archivist.
#
# Every key is shown with its default, as a comment. To change one, write it
# without the `#`, or let `archivist config set KEY VALUE` do it: it leaves the
# rest of this file as it is. A change of a key marked (restart) takes effect at
# the next start, of any other at once. docs/config.md says more.
";

impl Config {
    /// A commented file that says nothing: every key with its default and what
    /// it is for.
    pub fn default_text() -> String {
        let defaults = toml::Table::try_from(Self::default()).unwrap_or_default();
        let mut text = HEAD.to_owned();
        for section in ROOT {
            let Kind::Table(specs) = section.kind else { continue };
            let defaults = defaults.get(section.name).and_then(toml::Value::as_table);
            text += &format!("\n# {}\n[{}]\n", section.doc.trim(), section.name);
            for spec in specs {
                text += &match spec.kind {
                    Kind::Tables { of, .. } => example(section.name, spec, of),
                    _ => key(spec, defaults.and_then(|defaults| defaults.get(spec.name))),
                };
            }
        }
        text
    }
}

fn key(spec: &KeySpec, default: Option<&toml::Value>) -> String {
    let default = default.map(ToString::to_string).unwrap_or_default();
    format!("\n# {}{}\n# {} = {default}\n", spec.doc.trim(), note(spec), spec.name)
}

/// The range, and whether a change needs a restart.
fn note(spec: &KeySpec) -> String {
    let range = match spec.kind {
        Kind::Number { min, max, unit } => {
            let unit = match unit {
                Unit::Seconds => " seconds",
                Unit::Milliseconds => " milliseconds",
                _ => "",
            };
            Some(format!("{min} to {max}{unit}"))
        }
        Kind::LogLevel => Some(crate::LogLevel::NAMES.join(", ")),
        _ => None,
    };
    let restart = (spec.apply == Apply::NeedsRestart).then(|| "restart".to_owned());
    let notes: Vec<String> = range.into_iter().chain(restart).collect();
    if notes.is_empty() { String::new() } else { format!(" ({})", notes.join("; ")) }
}

/// A table of a list. Indented, so that nobody takes it for a default.
fn example(section: &str, spec: &KeySpec, of: &[KeySpec]) -> String {
    let mut text = format!("\n# {} One such table each:\n#\n", spec.doc.trim());
    text += &format!("#     [[{section}.{}]]\n", spec.name);
    for item in of {
        let value = match (spec.name, item.name) {
            (_, "id") => "\"documents\"",
            (_, "path") => "\"/home/me/Documents\"",
            ("folders", "name") => "\"Documents\"",
            (_, "exclude") => "[\"*.tmp\", \"node_modules/\"]",
            (_, "paused") => "false",
            (_, "name") => "\"My Desktop\"",
            (_, "manifest_server_url") => "\"http://192.0.2.10:8085\"",
            (_, "peer_id") => "\"16Uiu2HAm…\"",
            _ => "[]",
        };
        text += &format!("#     {} = {value}  # {}\n", item.name, item.doc.trim());
    }
    text
}

const _: () = assert!(FolderConfig::KEYS.len() == 5 && SourcePeer::KEYS.len() == 4);

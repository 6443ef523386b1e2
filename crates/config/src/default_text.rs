//! Generates the configuration file of a new instance: every key as a comment,
//! with its default.

use crate::config::{Config, FolderConfig, SourcePeer};
use crate::schema::{Apply, KeySpec, Kind};
use crate::values::LogLevel;

const HEAD: &str = "\
# Archivist configuration.
#
# Every key is shown as a comment with its default. To change a key, remove the
# `#` and restart archivist, or run `archivist config set KEY VALUE`, which
# preserves the rest of this file and takes effect immediately, except for keys
# marked (restart). See docs/config.md for details.
";

impl Config {
    /// Returns a file that sets nothing and shows every key with its default
    /// and its purpose as a comment.
    pub fn default_text() -> String {
        let defaults = toml::Table::try_from(Self::default()).unwrap_or_default();
        let mut text = HEAD.to_owned();
        for section in Self::KEYS {
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

/// Returns the range of a key, and whether a change needs a restart.
fn note(spec: &KeySpec) -> String {
    let range = match spec.kind {
        Kind::Number { min, max, .. } => Some(format!("{min} to {max}{}", spec.kind.unit_suffix())),
        Kind::LogLevel => Some(LogLevel::NAMES.join(", ")),
        _ => None,
    };
    let restart = (spec.apply == Apply::NeedsRestart).then(|| "restart".to_owned());
    let notes: Vec<String> = range.into_iter().chain(restart).collect();
    if notes.is_empty() { String::new() } else { format!(" ({})", notes.join("; ")) }
}

/// Returns an example table of a list, indented to set it apart from defaults.
fn example(section: &str, spec: &KeySpec, of: &[KeySpec]) -> String {
    let mut text = format!("\n# {} One table each:\n#\n", spec.doc.trim());
    text += &format!("#     [[{section}.{}]]\n", spec.name);
    for item in of {
        let value = match (spec.name, item.name) {
            (_, "id") => "\"documents\"",
            (_, "path") => "\"/home/me/Documents\"",
            ("folders", "name") => "\"Documents\"",
            (_, "exclude") => "[\"*.tmp\", \"node_modules/\"]",
            (_, "paused" | "exclude_caches") => "false",
            (_, "one_file_system") => "true",
            (_, "name") => "\"My Desktop\"",
            (_, "manifest_server_url") => "\"http://192.0.2.10:8085\"",
            (_, "peer_id") => "\"16Uiu2HAm…\"",
            (_, "quota") => "\"0\"",
            (_, "folders_max") => "256",
            _ => "[]",
        };
        text += &format!("#     {} = {value}  # {}\n", item.name, item.doc.trim());
    }
    text
}

const _: () = assert!(FolderConfig::KEYS.len() == 9 && SourcePeer::KEYS.len() == 6);

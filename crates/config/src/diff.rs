//! Compares two configurations, and tells which changes a running instance
//! applies.

use serde::Serialize;

use crate::config::Config;
use crate::schema::{Apply, KeySpec, Kind};

/// A key with a changed value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Path of the key. A list of tables is one key; compare the two
    /// configurations to learn which folder or source differs.
    pub key: String,
    /// When the change takes effect in a running instance.
    pub kind: Apply,
    /// The old value in TOML syntax.
    pub old: String,
    /// The new value in TOML syntax.
    pub new: String,
}

/// Returns the keys whose values differ, in the order of the file.
pub fn diff(old: &Config, new: &Config) -> Vec<Change> {
    let mut changes = Vec::new();
    // A struct always serializes to a table.
    let table = |config| toml::Table::try_from(config).unwrap_or_default();
    collect(Config::KEYS, "", &table(old), &table(new), &mut changes);
    changes
}

fn collect(
    specs: &[KeySpec],
    prefix: &str,
    old: &toml::Table,
    new: &toml::Table,
    changes: &mut Vec<Change>,
) {
    let nothing = toml::Table::new();
    for spec in specs {
        let path = format!("{prefix}{}", spec.name);
        let (old, new) = (old.get(spec.name), new.get(spec.name));
        if let Kind::Table(of) = spec.kind {
            let table = |value: Option<&toml::Value>| {
                value.and_then(toml::Value::as_table).unwrap_or(&nothing).clone()
            };
            collect(of, &format!("{path}."), &table(old), &table(new), changes);
        } else if old != new {
            let text =
                |value: Option<&toml::Value>| value.map(ToString::to_string).unwrap_or_default();
            changes.push(Change { key: path, kind: spec.apply, old: text(old), new: text(new) });
        }
    }
}

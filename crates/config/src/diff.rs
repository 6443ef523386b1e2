//! What differs between two configurations, and what a running instance can
//! do about it.

use serde::Serialize;

use crate::config::{Config, ROOT};
use crate::schema::{Apply, KeySpec, Kind};

/// A key that has another value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The path of the key. A list of tables is one key: which folder or
    /// source differs, the two configurations tell.
    pub key: String,
    /// Whether a running instance applies it.
    pub kind: Apply,
    /// The old value, as the file would have it.
    pub old: String,
    /// The new value, as the file would have it.
    pub new: String,
}

/// The keys whose values differ, in the order of the file.
pub fn diff(old: &Config, new: &Config) -> Vec<Change> {
    let mut changes = Vec::new();
    // A configuration is always a table: its type says so.
    let table = |config| toml::Table::try_from(config).unwrap_or_default();
    collect(ROOT, "", &table(old), &table(new), &mut changes);
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

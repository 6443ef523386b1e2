//! Looks keys up in the table that `config.rs` declares, and lists them for
//! people and programs.

use std::sync::LazyLock;

use serde::Serialize;

use crate::config::Config;
use crate::schema::{Apply, KeySpec, Kind, Unit};
use crate::values::LogLevel;

/// One key, for a person or a program that shows or edits the configuration.
#[derive(Clone, Debug, Serialize)]
pub struct KeyInfo {
    /// Path of the key, such as `node.listen_port`. `[]` stands for each table
    /// of a list, as in `sync.folders[].path`.
    pub path: String,
    /// Type of the value: `bool`, `port`, `number`, `size`, `list`, `tables`, …
    #[serde(rename = "type")]
    pub type_name: &'static str,
    /// Type of the values of a list.
    pub item_type: Option<&'static str>,
    /// True if the key has no default: some keys of the tables in a list.
    pub required: bool,
    /// Default value, if there is a fixed one.
    pub default: Option<serde_json::Value>,
    /// Smallest number. Sizes and rates also allow 0.
    pub min: Option<u64>,
    /// Largest number.
    pub max: Option<u64>,
    /// Unit of the number.
    pub unit: Option<Unit>,
    /// The words to choose from, if only certain words are allowed.
    pub choices: Option<&'static [&'static str]>,
    /// The allowed values, in words.
    pub allowed: String,
    /// Purpose of the key, in one line.
    pub description: &'static str,
    /// When a change takes effect in a running instance.
    pub apply: Apply,
}

/// Returns every key, in the order of the file.
pub fn keys() -> &'static [KeyInfo] {
    static KEYS: LazyLock<Vec<KeyInfo>> = LazyLock::new(|| {
        let defaults = serde_json::to_value(Config::default()).unwrap_or_default();
        let mut keys = Vec::new();
        collect(Config::KEYS, "", Some(&defaults), &mut keys);
        keys
    });
    &KEYS
}

fn collect(
    specs: &[KeySpec],
    prefix: &str,
    defaults: Option<&serde_json::Value>,
    keys: &mut Vec<KeyInfo>,
) {
    for spec in specs {
        let path = format!("{prefix}{}", spec.name);
        let default = defaults.and_then(|table| table.get(spec.name));
        if let Kind::Table(of) = spec.kind {
            collect(of, &format!("{path}."), default, keys);
            continue;
        }
        let item = if let Kind::List { of, .. } = spec.kind { Some(of.name()) } else { None };
        let is_level = matches!(spec.kind, Kind::LogLevel);
        keys.push(KeyInfo {
            type_name: spec.kind.name(),
            item_type: item,
            required: spec.required,
            default: match default {
                None if !spec.required => spec.kind.item_default(spec.name),
                default => default.cloned(),
            },
            min: spec.kind.range().map(|(min, _)| min),
            max: spec.kind.range().map(|(_, max)| max),
            unit: spec.kind.unit(),
            choices: is_level.then_some(LogLevel::NAMES),
            allowed: spec.kind.allowed(),
            description: spec.doc.trim(),
            apply: spec.apply,
            path: path.clone(),
        });
        if let Kind::Tables { of, .. } = spec.kind {
            collect(of, &format!("{path}[]."), None, keys);
        }
    }
}

/// A key or a section, with the tables that contain it.
#[derive(Clone, Debug)]
pub(crate) struct FoundKey {
    pub(crate) tables: Vec<&'static str>,
    pub(crate) spec: &'static KeySpec,
}

/// Finds the key or section of a path such as `backup_server.keep.last`.
pub(crate) fn find(path: &str) -> Option<FoundKey> {
    let mut specs = Config::KEYS;
    let mut tables = Vec::new();
    let mut names = path.split('.').peekable();
    while let Some(name) = names.next() {
        let spec = specs.iter().find(|spec| spec.name == name)?;
        if names.peek().is_none() {
            return Some(FoundKey { tables, spec });
        }
        specs = if let Kind::Table(of) = spec.kind { of } else { &[] };
        tables.push(spec.name);
    }
    None
}

/// Suggests a path for an unknown one: the same name in another section, or a
/// similar spelling.
pub(crate) fn suggest_path(path: &str) -> Option<String> {
    let paths = || keys().iter().map(|key| key.path.as_str()).filter(|path| !path.contains("[]"));
    let name = path.rsplit('.').next().unwrap_or(path);
    let mut elsewhere = paths().filter(|known| known.rsplit('.').next() == Some(name));
    let found = match (elsewhere.next(), elsewhere.next()) {
        (Some(only), None) => Some(only),
        _ => similar(path, paths()),
    };
    let found = found.or_else(|| {
        let names = paths().filter_map(|path| path.rsplit('.').next());
        let name = similar(name, names)?;
        paths().find(|path| path.rsplit('.').next() == Some(name))
    });
    found.map(str::to_owned)
}

/// Returns the candidate that is spelled most like `word`, if one is close.
pub(crate) fn similar<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    // The word may come from an unrelated file and be very long.
    let word: String = word.to_lowercase().replace(['-', ' '], "_").chars().take(80).collect();
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 5)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

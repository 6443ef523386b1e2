//! The meaning of a TOML text, independent of how it is written: values typed by
//! users, and the tree that an edit is compared with.

use serde::Serialize;
use toml::{Table, Value};
use toml_edit::Value as EditValue;

use crate::check::canonical;
use crate::schema::Kind;
use crate::splice::Step;

/// Converts a typed value to TOML as the kind requires. An input that does not
/// fit becomes a string, which the check then rejects with its usual message.
pub(crate) fn to_toml(kind: Kind, input: &str) -> String {
    let input = input.trim();
    let parsed = || {
        let mut value: EditValue = input.parse().ok()?;
        value.decor_mut().clear();
        Some(value)
    };
    let text = || Value::from(input).to_string();
    if kind.is_text() {
        let is_quoted = input.starts_with(['"', '\'']);
        let value = parsed().filter(|value| is_quoted && value.is_str());
        return value.map_or_else(text, |value| value.to_string());
    }
    if let (Kind::List { of, .. }, false) = (kind, input.starts_with('[')) {
        let items = input.split(',').map(str::trim).filter(|item| !item.is_empty());
        let items: Vec<String> = items.map(|item| to_toml(*of, item)).collect();
        return format!("[{}]", items.join(", "));
    }
    parsed().map_or_else(text, |value| value.to_string())
}

/// Returns the fields of a struct that are not `None`.
pub(crate) fn fields(item: &impl Serialize) -> Table {
    // A struct always serializes to a table.
    Table::try_from(item).unwrap_or_default()
}

/// Parses a value that this crate has written as TOML.
pub(crate) fn read_value(text: &str) -> Value {
    text.parse().unwrap_or_else(|_| Value::from(text))
}

/// Finds a value in a list, in any spelling.
pub(crate) fn position(items: &[Value], of: Kind, item: &str) -> Option<usize> {
    let wanted = read_value(&to_toml(of, item));
    let wanted = canonical(of, wanted.as_str()?);
    items.iter().position(|item| item.as_str().and_then(|item| canonical(of, item)) == wanted)
}

/// Returns the value of a key.
pub(crate) fn get<'t>(tree: &'t Table, tables: &[Step<'_>], name: &str) -> Option<&'t Value> {
    let mut table = tree;
    let mut steps = tables.iter();
    while let Some(step) = steps.next() {
        let Step::Key(key) = step else { return None };
        table = match table.get(*key)? {
            Value::Table(table) => table,
            Value::Array(items) => {
                let Some(Step::Index(index)) = steps.next() else { return None };
                items.get(*index)?.as_table()?
            }
            _ => return None,
        };
    }
    table.get(name)
}

/// Sets a key, and adds the tables that contain it.
pub(crate) fn insert(tree: &mut Table, tables: &[Step<'_>], name: &str, value: Value) {
    if let Some(table) = descend(tree, tables) {
        table.insert(name.to_owned(), value);
    }
}

/// Removes a key.
pub(crate) fn remove(tree: &mut Table, tables: &[Step<'_>], name: &str) {
    if let Some(table) = descend(tree, tables) {
        table.remove(name);
    }
}

fn descend<'a>(tree: &'a mut Table, tables: &[Step<'_>]) -> Option<&'a mut Table> {
    let mut table = tree;
    let mut steps = tables.iter();
    while let Some(step) = steps.next() {
        let Step::Key(key) = step else { return None };
        table = match table.entry(*key).or_insert_with(|| Value::Table(Table::new())) {
            Value::Table(table) => table,
            Value::Array(items) => {
                let Some(Step::Index(index)) = steps.next() else { return None };
                items.get_mut(*index)?.as_table_mut()?
            }
            _ => return None,
        };
    }
    Some(table)
}

/// Removes empty tables and empty lists of tables: a header that stays, or goes,
/// with its last key has no meaning.
pub(crate) fn pruned(table: Table) -> Table {
    let is_empty = |key: &str, value: &Value| match value {
        Value::Table(table) => table.is_empty(),
        Value::Array(items) => items.is_empty() && ["folders", "source_peers"].contains(&key),
        _ => false,
    };
    table
        .into_iter()
        .map(|(key, value)| match value {
            Value::Table(table) => (key, Value::Table(pruned(table))),
            other => (key, other),
        })
        .filter(|(key, value)| !is_empty(key, value))
        .collect()
}

//! What a TOML text means, apart from how it is written: the values that
//! people type, and the tree that an edit is compared with.

use toml::{Table, Value};
use toml_edit::Value as EditValue;

use crate::check::canonical;
use crate::schema::Kind;
use crate::splice::Step;

/// What a person typed, as the TOML that the kind asks for. What is none is
/// taken as text, for the check to refuse with its usual words.
pub(crate) fn to_toml(kind: Kind, input: &str) -> String {
    let input = input.trim();
    let parsed = || {
        let mut value: EditValue = input.parse().ok()?;
        value.decor_mut().clear();
        Some(value)
    };
    if kind.is_text() {
        let is_quoted = input.starts_with(['"', '\'']);
        let value = parsed().filter(|value| is_quoted && value.is_str());
        return value.map_or_else(|| text(input), |value| value.to_string());
    }
    if let (Kind::List { of, .. }, false) = (kind, input.starts_with('[')) {
        let items = input.split(',').map(str::trim).filter(|item| !item.is_empty());
        let items: Vec<String> = items.map(|item| to_toml(*of, item)).collect();
        return format!("[{}]", items.join(", "));
    }
    parsed().map_or_else(|| text(input), |value| value.to_string())
}

pub(crate) fn text(text: &str) -> String {
    Value::from(text).to_string()
}

pub(crate) fn list<T: ToString>(items: &[T]) -> String {
    let items: Vec<Value> = items.iter().map(|item| Value::from(item.to_string())).collect();
    Value::Array(items).to_string()
}

/// The value of a TOML text that we made.
pub(crate) fn read_value(text: &str) -> Value {
    text.parse().unwrap_or_else(|_| Value::from(text))
}

pub(crate) fn position(items: &[Value], of: Kind, item: &str) -> Option<usize> {
    let wanted = read_value(&to_toml(of, item));
    let wanted = canonical(of, wanted.as_str()?);
    items.iter().position(|item| item.as_str().and_then(|item| canonical(of, item)) == wanted)
}

pub(crate) fn insert(tree: &mut Table, tables: &[Step<'_>], name: &str, value: Value) {
    if let Some(table) = descend(tree, tables) {
        table.insert(name.to_owned(), value);
    }
}

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

/// Without tables and lists of tables that hold nothing: a header that is
/// left, or goes, with its last key says nothing.
pub(crate) fn pruned(table: Table) -> Table {
    let is_nothing = |key: &str, value: &Value| match value {
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
        .filter(|(key, value)| !is_nothing(key, value))
        .collect()
}

//! A configuration file that is being edited.
//!
//! Each change edits the text (`splice.rs`) and is then verified: the new text,
//! parsed by an independent TOML parser, must mean the same as the old text with
//! that one value changed. The complete configuration is validated only once, at
//! the end, so that several changes together may pass through invalid states.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use toml::{Table, Value};
use types::FolderId;

use crate::addresses::ManifestUrl;
use crate::config::{Config, FolderConfig, SourcePeer};
use crate::error::{ConfigError, Fault, Place, Problem};
use crate::keys::{FoundKey, find, suggest_path};
use crate::parse::parse;
use crate::schema::Kind;
use crate::splice::{Source, Step};
use crate::tree::{fields, get, insert, position, pruned, read_value, remove, to_toml};
use crate::values::{FolderPath, Name, Pattern};

/// Changes of a folder; `None` leaves a field unchanged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct FolderUpdate {
    /// Path of the folder.
    pub path: Option<FolderPath>,
    /// Display name.
    pub name: Option<Name>,
    /// Patterns of the entries that are not backed up.
    pub exclude: Option<Vec<Pattern>>,
    /// True if nothing is published until the folder is resumed.
    pub paused: Option<bool>,
    /// True if mounted file systems and subvolumes in the folder are left out.
    pub one_file_system: Option<bool>,
    /// True if the contents of directories with a `CACHEDIR.TAG` are left out.
    pub exclude_caches: Option<bool>,
}

/// Changes of a source; `None` leaves a field unchanged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct SourceUpdate {
    /// Display name.
    pub name: Option<Name>,
    /// URL of the source's manifest server.
    pub manifest_server_url: Option<ManifestUrl>,
    /// Peer id that must have signed the manifests.
    pub peer_id: Option<libp2p_identity::PeerId>,
    /// Multiaddrs to pull blocks from.
    pub addresses: Option<Vec<multiaddr::Multiaddr>>,
}

/// The text of a configuration file while it is edited.
#[derive(Debug)]
pub struct Draft {
    path: PathBuf,
    text: String,
}

/// A list of single values.
struct List {
    tables: Vec<Step<'static>>,
    name: &'static str,
    of: Kind,
    items: Vec<Value>,
    /// True if the text contains the list, false if `items` is the default.
    is_given: bool,
}

/// A list of tables: its section and its key.
type TableList = (&'static str, &'static str);

const FOLDERS: TableList = ("sync", "folders");
const SOURCES: TableList = ("backup_server", "source_peers");

impl Draft {
    /// Starts an edit of `text`, which must be TOML; messages name `path` as the
    /// file.
    pub(crate) fn new(path: &Path, text: String) -> Self {
        Self { path: path.to_owned(), text }
    }

    /// Returns the current text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Sets `key` to the value in `text`, which is parsed by the type of the key:
    /// `debug`, `9000`, `10MB/s`, `true`, a list separated by commas or in TOML
    /// syntax. Quotes around strings are optional.
    ///
    /// The value itself is checked when the edit ends.
    ///
    /// # Errors
    ///
    /// Returns [`ConfigError::NoSuchKey`], [`ConfigError::NotSettable`] if the key
    /// is a section or a list of tables, and [`ConfigError::NoPlace`].
    pub fn set(&mut self, key: &str, text: &str) -> Result<(), ConfigError> {
        let found = settable(key)?;
        self.assign(key, &found, &to_toml(found.spec.kind, text))
    }

    /// Sets `key` to a JSON value; `null` restores the default.
    ///
    /// # Errors
    ///
    /// Same as [`Draft::set`].
    pub fn set_json(&mut self, key: &str, value: &serde_json::Value) -> Result<(), ConfigError> {
        if value.is_null() {
            return self.reset(key);
        }
        let found = settable(key)?;
        // The final check rejects a value that TOML cannot represent.
        let value = Value::try_from(value).unwrap_or_else(|_| Value::String(value.to_string()));
        self.assign(key, &found, &value.to_string())
    }

    /// Removes `key` from the file, which restores its default.
    ///
    /// # Errors
    ///
    /// Same as [`Draft::set`].
    pub fn reset(&mut self, key: &str) -> Result<(), ConfigError> {
        let found = settable(key)?;
        let mut tables = steps(&found.tables);
        match (self.take(key, &tables, found.spec.name), self.value(&tables, found.spec.name)) {
            // The table is not written as one value.
            (Err(ConfigError::NoPlace { .. }), Some(Value::Table(table))) => {
                tables.push(Step::Key(found.spec.name));
                table.keys().try_for_each(|name| self.take(key, &tables, name))
            }
            (result, _) => result,
        }
    }

    /// Adds a value to a list, unless the list already contains it.
    ///
    /// # Errors
    ///
    /// Same as [`Draft::set`], and [`ConfigError::NotAList`].
    pub fn add_item(&mut self, key: &str, item: &str) -> Result<(), ConfigError> {
        let mut list = self.list(key)?;
        if position(&list.items, list.of, item).is_some() {
            return Ok(());
        }
        let item = to_toml(list.of, item);
        list.items.push(read_value(&item));
        self.set_list(key, list, |source, tables, name| source.push(tables, name, &item))
    }

    /// Removes a value from a list.
    ///
    /// # Errors
    ///
    /// Same as [`Draft::add_item`], and [`ConfigError::NoSuchItem`].
    pub fn remove_item(&mut self, key: &str, item: &str) -> Result<(), ConfigError> {
        let mut list = self.list(key)?;
        let missing = || ConfigError::NoSuchItem { key: key.to_owned(), item: item.to_owned() };
        let index = position(&list.items, list.of, item).ok_or_else(missing)?;
        list.items.remove(index);
        self.set_list(key, list, |source, tables, name| source.remove_at(tables, name, index))
    }

    /// Adds a folder.
    ///
    /// A folder that already exists is rejected when the edit ends. The caller checks that
    /// no file would belong to two folders.
    ///
    /// # Errors
    ///
    /// Returns [`ConfigError::NoPlace`].
    pub fn add_folder(&mut self, folder: &FolderConfig) -> Result<(), ConfigError> {
        self.push_table(FOLDERS, fields(folder))
    }

    /// Changes a folder.
    ///
    /// # Errors
    ///
    /// Returns [`ConfigError::NoSuchFolder`] and [`ConfigError::NoPlace`].
    pub fn update_folder(
        &mut self,
        id: &FolderId,
        update: &FolderUpdate,
    ) -> Result<(), ConfigError> {
        let index = self.folder_index(id)?;
        self.update_table(FOLDERS, index, &fields(update))
    }

    /// Removes a folder.
    ///
    /// # Errors
    ///
    /// Returns [`ConfigError::NoSuchFolder`] and [`ConfigError::NoPlace`].
    pub fn remove_folder(&mut self, id: &FolderId) -> Result<(), ConfigError> {
        let index = self.folder_index(id)?;
        self.remove_table(FOLDERS, index)
    }

    /// Adds a source. A source that already exists is rejected when the edit
    /// ends.
    ///
    /// # Errors
    ///
    /// Returns [`ConfigError::NoPlace`].
    pub fn add_source(&mut self, source: &SourcePeer) -> Result<(), ConfigError> {
        self.push_table(SOURCES, fields(source))
    }

    /// Changes the source with this name.
    ///
    /// # Errors
    ///
    /// Returns [`ConfigError::NoSuchSource`] and [`ConfigError::NoPlace`].
    pub fn update_source(&mut self, name: &str, update: &SourceUpdate) -> Result<(), ConfigError> {
        let index = self.source_index(name)?;
        self.update_table(SOURCES, index, &fields(update))
    }

    /// Removes the source with this name.
    ///
    /// # Errors
    ///
    /// Returns [`ConfigError::NoSuchSource`] and [`ConfigError::NoPlace`].
    pub fn remove_source(&mut self, name: &str) -> Result<(), ConfigError> {
        let index = self.source_index(name)?;
        self.remove_table(SOURCES, index)
    }

    /// Parses and validates the current text.
    pub(crate) fn finish(&self) -> Result<Config, Vec<Problem>> {
        parse(&self.text)
    }

    fn folder_index(&self, id: &FolderId) -> Result<usize, ConfigError> {
        self.index(FOLDERS, "id", id.as_str()).ok_or_else(|| ConfigError::NoSuchFolder(id.clone()))
    }

    fn source_index(&self, name: &str) -> Result<usize, ConfigError> {
        self.index(SOURCES, "name", name).ok_or_else(|| ConfigError::NoSuchSource(name.to_owned()))
    }

    fn index(&self, (section, key): TableList, field: &str, wanted: &str) -> Option<usize> {
        let tables = self.value(&[Step::Key(section)], key)?;
        let is_wanted = |table: &Value| table.get(field).and_then(Value::as_str) == Some(wanted);
        tables.as_array()?.iter().position(is_wanted)
    }

    /// Adds a table to a list of tables, without the fields that have their
    /// default.
    fn push_table(
        &mut self,
        (section, key): TableList,
        mut table: Table,
    ) -> Result<(), ConfigError> {
        let keys = FolderConfig::KEYS.iter().chain(SourcePeer::KEYS);
        let optional: Vec<_> = keys.filter(|spec| !spec.required).collect();
        let is_default = |name: &str, value: &Value| {
            let spec = optional.iter().find(|spec| spec.name == name);
            let default = spec.and_then(|spec| spec.kind.item_default(name));
            default.is_some() && serde_json::to_value(value).ok() == default
        };
        table.retain(|name, value| !is_default(name, value));
        let fields: Vec<_> =
            table.iter().map(|(name, value)| (name.clone(), value.to_string())).collect();
        let tables = [Step::Key(section)];
        let mut items = match self.value(&tables, key) {
            Some(Value::Array(items)) => items,
            _ => Vec::new(),
        };
        items.push(Value::Table(table));
        self.change(
            &format!("{section}.{key}"),
            |tree| insert(tree, &tables, key, Value::Array(items)),
            |source| source.push_table(section, key, &fields),
        )
    }

    fn update_table(
        &mut self,
        (section, key): TableList,
        index: usize,
        fields: &Table,
    ) -> Result<(), ConfigError> {
        let table = [Step::Key(section), Step::Key(key), Step::Index(index)];
        fields.iter().try_for_each(|(field, value)| {
            let path = format!("{section}.{key}[{index}].{field}");
            self.put(&path, &table, field, &value.to_string())
        })
    }

    fn remove_table(&mut self, (section, key): TableList, index: usize) -> Result<(), ConfigError> {
        let tables = [Step::Key(section)];
        let Some(Value::Array(mut items)) = self.value(&tables, key) else { return Ok(()) };
        items.remove(index);
        self.change(
            &format!("{section}.{key}"),
            |tree| insert(tree, &tables, key, Value::Array(items)),
            |source| source.remove_table(section, key, index),
        )
    }

    fn list(&self, key: &str) -> Result<List, ConfigError> {
        let FoundKey { tables, spec } = settable(key)?;
        let Kind::List { of, .. } = spec.kind else {
            return Err(ConfigError::NotAList(key.to_owned()));
        };
        let tables = steps(&tables);
        let (items, is_given) = match self.value(&tables, spec.name) {
            Some(Value::Array(items)) => (items, true),
            Some(_) => return Err(self.no_place(key)),
            None => match Config::default().get(key) {
                Some(Value::Array(items)) => (items, false),
                _ => (Vec::new(), false),
            },
        };
        Ok(List { tables, name: spec.name, of: *of, items, is_given })
    }

    /// Changes a list to `list.items`: with `edit` if the text contains the list.
    fn set_list(
        &mut self,
        key: &str,
        list: List,
        edit: impl FnOnce(&Source<'_>, &[Step<'_>], &str) -> Option<String>,
    ) -> Result<(), ConfigError> {
        let List { tables, name, items, is_given, .. } = list;
        let items = Value::Array(items);
        let text = items.to_string();
        self.change(
            key,
            |tree| insert(tree, &tables, name, items),
            |source| match is_given {
                true => edit(source, &tables, name),
                false => source.set(&tables, name, &text),
            },
        )
    }

    /// Sets a key that may be a table with its own keys.
    fn assign(&mut self, key: &str, found: &FoundKey, value: &str) -> Result<(), ConfigError> {
        let mut tables = steps(&found.tables);
        let name = found.spec.name;
        let Kind::Table(_) = found.spec.kind else {
            return self.put(key, &tables, name, value);
        };
        let Value::Table(new) = read_value(value) else {
            return Err(self.not_a_table(key, value, found.spec.kind));
        };
        let Some(Value::Table(old)) = self.value(&tables, name) else {
            return self.put(key, &tables, name, value);
        };
        // Key by key, because a table is not always written as one value.
        tables.push(Step::Key(name));
        for (name, value) in &new {
            self.put(key, &tables, name, &value.to_string())?;
        }
        let mut removed = old.keys().filter(|name| !new.contains_key(*name));
        removed.try_for_each(|name| self.take(key, &tables, name))
    }

    fn not_a_table(&self, key: &str, found: &str, kind: Kind) -> ConfigError {
        let fault = Fault::WrongType {
            found: found.to_owned(),
            type_name: "not a table",
            allowed: kind.allowed(),
        };
        let place = Place { line: 1, column: 1 };
        let problems = vec![Problem { place, key: key.to_owned(), fault }];
        ConfigError::Refused { path: self.path.clone(), problems }
    }

    /// Sets one key.
    fn put(
        &mut self,
        key: &str,
        tables: &[Step<'_>],
        name: &str,
        value: &str,
    ) -> Result<(), ConfigError> {
        let new = read_value(value);
        if self.value(tables, name).as_ref() == Some(&new) {
            return Ok(());
        }
        self.change(
            key,
            |tree| insert(tree, tables, name, new),
            |source| source.set(tables, name, value),
        )
    }

    /// Removes one key, if the text sets it.
    fn take(&mut self, key: &str, tables: &[Step<'_>], name: &str) -> Result<(), ConfigError> {
        if self.value(tables, name).is_none() {
            return Ok(());
        }
        self.change(key, |tree| remove(tree, tables, name), |source| source.remove(tables, name))
    }

    /// Applies `edit` to the text if the new text then means the old tree after
    /// `update`.
    fn change(
        &mut self,
        key: &str,
        update: impl FnOnce(&mut Table),
        edit: impl FnOnce(&Source<'_>) -> Option<String>,
    ) -> Result<(), ConfigError> {
        let mut expected = self.tree();
        update(&mut expected);
        let expected = pruned(expected);
        let means_expected = |text: &String| {
            toml::from_str::<Table>(text).is_ok_and(|table| pruned(table) == expected)
        };
        let edited = Source::parse(&self.text).and_then(|source| edit(&source));
        self.text = edited.filter(means_expected).ok_or_else(|| self.no_place(key))?;
        Ok(())
    }

    fn no_place(&self, key: &str) -> ConfigError {
        ConfigError::NoPlace { path: self.path.clone(), key: key.to_owned() }
    }

    fn tree(&self) -> Table {
        toml::from_str(&self.text).unwrap_or_default()
    }

    fn value(&self, tables: &[Step<'_>], name: &str) -> Option<Value> {
        get(&self.tree(), tables, name).cloned()
    }
}

/// Finds a key that can be set.
fn settable(key: &str) -> Result<FoundKey, ConfigError> {
    let found = find(key).ok_or_else(|| no_such_key(key))?;
    let refuse = |hint| Err(ConfigError::NotSettable { key: key.to_owned(), hint });
    if found.tables.is_empty() {
        return refuse("set one of its keys");
    }
    match (found.spec.kind, key) {
        (Kind::Tables { .. }, "sync.folders") => {
            refuse("use `archivist folder` to add, change and remove folders")
        }
        (Kind::Tables { .. }, _) => refuse("add and remove its entries one by one"),
        _ => Ok(found),
    }
}

pub(crate) fn no_such_key(key: &str) -> ConfigError {
    ConfigError::NoSuchKey { key: key.to_owned(), suggestion: suggest_path(key) }
}

fn steps(tables: &[&'static str]) -> Vec<Step<'static>> {
    tables.iter().map(|name| Step::Key(name)).collect()
}

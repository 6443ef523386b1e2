//! A configuration file that is being edited.
//!
//! Each change is made in the text (`splice.rs`) and then checked: the new
//! text has to mean what the old one meant with the one value changed, as an
//! independent reader understands both. Whether the whole is a valid
//! configuration is asked once, at the end, so that a few changes together
//! may pass through states that are not.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::{Table, Value};

use crate::addresses::ManifestUrl;
use crate::check::parse;
use crate::config::{Config, FolderConfig, SourcePeer};
use crate::error::{ConfigError, Fault, Place, Problem};
use crate::schema::{KeySpec, Kind, find, suggest_path};
use crate::splice::{Source, Step};
use crate::tree::{insert, list, position, pruned, read_value, remove, text, to_toml};
use crate::values::{FolderPath, Name, Pattern};
use types::FolderId;

/// What of a folder is to change; `None` leaves it as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FolderUpdate {
    /// Where it is.
    pub path: Option<FolderPath>,
    /// What people call it.
    pub name: Option<Name>,
    /// What is left out.
    pub exclude: Option<Vec<Pattern>>,
    /// Whether nothing is published.
    pub paused: Option<bool>,
}

/// What of a source is to change; `None` leaves it as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SourceUpdate {
    /// What people call it.
    pub name: Option<Name>,
    /// Where its manifests are asked for.
    pub manifest_server_url: Option<ManifestUrl>,
    /// Whose signature the manifests have to bear.
    pub peer_id: Option<libp2p_identity::PeerId>,
    /// Where blocks are pulled from.
    pub addresses: Option<Vec<multiaddr::Multiaddr>>,
}

/// The text of a configuration file on its way to another one.
#[derive(Debug)]
pub struct Draft {
    path: PathBuf,
    text: String,
}

/// A key that can be set: the tables on the way to it, and itself.
struct Target {
    tables: Vec<&'static str>,
    spec: &'static KeySpec,
}

const FOLDERS: (&str, &str) = ("sync", "folders");
const SOURCES: (&str, &str) = ("backup_server", "source_peers");

impl Draft {
    /// A draft of `text`, which has to be TOML, for messages about `path`.
    pub(crate) fn new(path: &Path, text: String) -> Self {
        Self { path: path.to_owned(), text }
    }

    /// The text as it is now.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Gives `key` the value of `text`, which is read as the key's type asks:
    /// `debug`, `9000`, `10MB/s`, `true`, a list with commas or as TOML has
    /// it. A value that TOML has in quotes may stand without.
    ///
    /// # Errors
    ///
    /// [`ConfigError::NoSuchKey`], [`ConfigError::NotSettable`] for a list of
    /// tables, [`ConfigError::NoPlace`]. Whether the value is allowed shows
    /// when the edit ends.
    pub fn set(&mut self, key: &str, text: &str) -> Result<(), ConfigError> {
        let target = target(key)?;
        let value = to_toml(target.spec.kind, text);
        if let Kind::Table(specs) = target.spec.kind {
            return self.set_table(key, &target, specs, &value);
        }
        self.put(key, &steps(&target.tables), target.spec.name, &value)
    }

    /// Gives `key` a value that a program has as JSON; `null` is the default.
    ///
    /// # Errors
    ///
    /// As [`Draft::set`].
    pub fn set_json(&mut self, key: &str, value: &serde_json::Value) -> Result<(), ConfigError> {
        if value.is_null() {
            return self.reset(key);
        }
        let target = target(key)?;
        // What TOML cannot hold is refused by the check, with its usual words.
        let value = match Value::try_from(value) {
            Ok(value) => value.to_string(),
            Err(_) => Value::String(value.to_string()).to_string(),
        };
        if let Kind::Table(specs) = target.spec.kind {
            return self.set_table(key, &target, specs, &value);
        }
        self.put(key, &steps(&target.tables), target.spec.name, &value)
    }

    /// Removes `key`, so that it has its default.
    ///
    /// # Errors
    ///
    /// As [`Draft::set`].
    pub fn reset(&mut self, key: &str) -> Result<(), ConfigError> {
        let target = target(key)?;
        let mut tables = steps(&target.tables);
        let Some(old) = self.value(&tables, target.spec.name) else { return Ok(()) };
        let is_inline = Source::parse(&self.text)
            .and_then(|source| source.remove(&tables, target.spec.name))
            .is_some();
        if let (Kind::Table(_), Value::Table(old), false) = (target.spec.kind, &old, is_inline) {
            tables.push(Step::Key(target.spec.name));
            for name in old.keys() {
                self.take(key, &tables, name)?;
            }
            return Ok(());
        }
        self.take(key, &tables, target.spec.name)
    }

    /// Adds a value to a list, unless the list holds it already.
    ///
    /// # Errors
    ///
    /// As [`Draft::set`], and [`ConfigError::NotAList`].
    pub fn add_item(&mut self, key: &str, item: &str) -> Result<(), ConfigError> {
        let (target, of) = list_target(key)?;
        let tables = steps(&target.tables);
        let (items, is_given) = self.list(key, &tables, target.spec.name)?;
        if position(&items, of, item).is_some() {
            return Ok(());
        }
        let item = to_toml(of, item);
        let mut expected = self.tree();
        let mut list = items;
        list.push(read_value(&item));
        insert(&mut expected, &tables, target.spec.name, Value::Array(list.clone()));
        self.change(key, &expected, |source| {
            if is_given {
                source.push(&tables, target.spec.name, &item)
            } else {
                source.set(&tables, target.spec.name, &Value::Array(list).to_string())
            }
        })
    }

    /// Removes a value from a list.
    ///
    /// # Errors
    ///
    /// As [`Draft::add_item`], and [`ConfigError::NoSuchItem`].
    pub fn remove_item(&mut self, key: &str, item: &str) -> Result<(), ConfigError> {
        let (target, of) = list_target(key)?;
        let tables = steps(&target.tables);
        let (mut list, is_given) = self.list(key, &tables, target.spec.name)?;
        let missing = || ConfigError::NoSuchItem { key: key.to_owned(), item: item.to_owned() };
        let index = position(&list, of, item).ok_or_else(missing)?;
        list.remove(index);
        let mut expected = self.tree();
        insert(&mut expected, &tables, target.spec.name, Value::Array(list.clone()));
        self.change(key, &expected, |source| {
            if is_given {
                source.remove_at(&tables, target.spec.name, index)
            } else {
                source.set(&tables, target.spec.name, &Value::Array(list).to_string())
            }
        })
    }

    /// Adds a watched folder.
    ///
    /// # Errors
    ///
    /// [`ConfigError::NoPlace`]. A folder that is there already, or lies in
    /// one, shows when the edit ends.
    pub fn add_folder(&mut self, folder: &FolderConfig) -> Result<(), ConfigError> {
        let mut fields =
            vec![("id", text(folder.id.as_str())), ("path", text(&folder.path.to_string()))];
        fields.extend(folder.name.as_ref().map(|name| ("name", text(name.as_str()))));
        if !folder.exclude.is_empty() {
            fields.push(("exclude", list(&folder.exclude)));
        }
        if folder.paused {
            fields.push(("paused", true.to_string()));
        }
        self.push_table(FOLDERS, &fields)
    }

    /// Changes a watched folder.
    ///
    /// # Errors
    ///
    /// [`ConfigError::NoSuchFolder`], [`ConfigError::NoPlace`].
    pub fn update_folder(
        &mut self,
        id: &FolderId,
        update: &FolderUpdate,
    ) -> Result<(), ConfigError> {
        let index = self.folder_index(id)?;
        let fields = [
            ("path", update.path.as_ref().map(|path| text(&path.to_string()))),
            ("name", update.name.as_ref().map(|name| text(name.as_str()))),
            ("exclude", update.exclude.as_deref().map(list)),
            ("paused", update.paused.map(|paused| paused.to_string())),
        ];
        self.update_table(FOLDERS, index, fields)
    }

    /// Removes a watched folder.
    ///
    /// # Errors
    ///
    /// [`ConfigError::NoSuchFolder`], [`ConfigError::NoPlace`].
    pub fn remove_folder(&mut self, id: &FolderId) -> Result<(), ConfigError> {
        let index = self.folder_index(id)?;
        self.remove_table(FOLDERS, index)
    }

    /// Adds a source.
    ///
    /// # Errors
    ///
    /// [`ConfigError::NoPlace`]. A source that is there already shows when the
    /// edit ends.
    pub fn add_source(&mut self, source: &SourcePeer) -> Result<(), ConfigError> {
        let mut fields = vec![
            ("name", text(source.name.as_str())),
            ("manifest_server_url", text(&source.manifest_server_url.to_string())),
            ("peer_id", text(&source.peer_id.to_string())),
        ];
        if !source.addresses.is_empty() {
            fields.push(("addresses", list(&source.addresses)));
        }
        self.push_table(SOURCES, &fields)
    }

    /// Changes the source of that name.
    ///
    /// # Errors
    ///
    /// [`ConfigError::NoSuchSource`], [`ConfigError::NoPlace`].
    pub fn update_source(&mut self, name: &str, update: &SourceUpdate) -> Result<(), ConfigError> {
        let index = self.source_index(name)?;
        let url = update.manifest_server_url.as_ref();
        let fields = [
            ("manifest_server_url", url.map(|url| text(&url.to_string()))),
            ("peer_id", update.peer_id.map(|peer| text(&peer.to_string()))),
            ("addresses", update.addresses.as_deref().map(list)),
            ("name", update.name.as_ref().map(|name| text(name.as_str()))),
        ];
        self.update_table(SOURCES, index, fields)
    }

    /// Removes the source of that name.
    ///
    /// # Errors
    ///
    /// [`ConfigError::NoSuchSource`], [`ConfigError::NoPlace`].
    pub fn remove_source(&mut self, name: &str) -> Result<(), ConfigError> {
        let index = self.source_index(name)?;
        self.remove_table(SOURCES, index)
    }

    /// The configuration that the text is now.
    pub(crate) fn finish(&self) -> Result<Config, Vec<Problem>> {
        parse(&self.text)
    }

    fn folder_index(&self, id: &FolderId) -> Result<usize, ConfigError> {
        self.index(FOLDERS, "id", id.as_str()).ok_or_else(|| ConfigError::NoSuchFolder(id.clone()))
    }

    fn source_index(&self, name: &str) -> Result<usize, ConfigError> {
        self.index(SOURCES, "name", name).ok_or_else(|| ConfigError::NoSuchSource(name.to_owned()))
    }

    fn index(&self, (section, key): (&str, &str), field: &str, wanted: &str) -> Option<usize> {
        let tables = self.value(&[Step::Key(section)], key)?;
        let is_wanted = |table: &Value| table.get(field).and_then(Value::as_str) == Some(wanted);
        tables.as_array()?.iter().position(is_wanted)
    }

    fn push_table(
        &mut self,
        (section, key): (&str, &str),
        fields: &[(&str, String)],
    ) -> Result<(), ConfigError> {
        let table = fields.iter().map(|(key, value)| ((*key).to_owned(), read_value(value)));
        let table = Value::Table(table.collect());
        let mut expected = self.tree();
        let steps = [Step::Key(section)];
        let mut tables = match self.value(&steps, key) {
            Some(Value::Array(tables)) => tables,
            _ => Vec::new(),
        };
        tables.push(table);
        insert(&mut expected, &steps, key, Value::Array(tables));
        let path = format!("{section}.{key}");
        self.change(&path, &expected, |source| source.push_table(section, key, fields))
    }

    fn update_table(
        &mut self,
        (section, key): (&str, &str),
        index: usize,
        fields: impl IntoIterator<Item = (&'static str, Option<String>)>,
    ) -> Result<(), ConfigError> {
        let table = [Step::Key(section), Step::Key(key), Step::Index(index)];
        for (field, value) in fields {
            if let Some(value) = value {
                self.put(&format!("{section}.{key}[{index}].{field}"), &table, field, &value)?;
            }
        }
        Ok(())
    }

    fn remove_table(
        &mut self,
        (section, key): (&str, &str),
        index: usize,
    ) -> Result<(), ConfigError> {
        let mut expected = self.tree();
        let steps = [Step::Key(section)];
        let Some(Value::Array(mut tables)) = self.value(&steps, key) else { return Ok(()) };
        tables.remove(index);
        insert(&mut expected, &steps, key, Value::Array(tables));
        let path = format!("{section}.{key}");
        self.change(&path, &expected, |source| source.remove_table(section, key, index))
    }

    /// Gives a table that has keys of its own other values, key by key where
    /// it is not written as one value.
    fn set_table(
        &mut self,
        key: &str,
        target: &Target,
        specs: &'static [KeySpec],
        value: &str,
    ) -> Result<(), ConfigError> {
        let mut tables = steps(&target.tables);
        let new = read_value(value);
        let is_one_value = self.value(&tables, target.spec.name).is_none()
            || Source::parse(&self.text)
                .is_some_and(|source| source.set(&tables, target.spec.name, value).is_some());
        let Value::Table(new) = new else {
            return Err(self.refused(key, value, target.spec.kind));
        };
        if is_one_value {
            return self.put(key, &tables, target.spec.name, value);
        }
        if let Some(unknown) = new.keys().find(|name| !specs.iter().any(|spec| spec.name == **name))
        {
            return Err(no_such_key(&format!("{key}.{unknown}")));
        }
        tables.push(Step::Key(target.spec.name));
        for spec in specs {
            match new.get(spec.name) {
                Some(value) => self.put(key, &tables, spec.name, &value.to_string())?,
                None => self.take(key, &tables, spec.name)?,
            }
        }
        Ok(())
    }

    fn refused(&self, key: &str, found: &str, kind: Kind) -> ConfigError {
        let fault = Fault::WrongType {
            found: found.to_owned(),
            type_name: "not a table",
            allowed: kind.allowed(),
        };
        let place = Place { line: 1, column: 1 };
        let problems = vec![Problem { place, key: key.to_owned(), fault }];
        ConfigError::Refused { path: self.path.clone(), problems }
    }

    /// The values of a list, and whether they stand in the text.
    fn list(
        &self,
        key: &str,
        tables: &[Step<'_>],
        name: &str,
    ) -> Result<(Vec<Value>, bool), ConfigError> {
        match self.value(tables, name) {
            Some(Value::Array(items)) => Ok((items, true)),
            Some(_) => Err(ConfigError::NoPlace { path: self.path.clone(), key: key.to_owned() }),
            None => {
                let default = Config::default().get(key);
                Ok((default.and_then(|value| value.as_array().cloned()).unwrap_or_default(), false))
            }
        }
    }

    /// Gives one key another value.
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
        let mut expected = self.tree();
        insert(&mut expected, tables, name, new);
        self.change(key, &expected, |source| source.set(tables, name, value))
    }

    /// Removes one key.
    fn take(&mut self, key: &str, tables: &[Step<'_>], name: &str) -> Result<(), ConfigError> {
        if self.value(tables, name).is_none() {
            return Ok(());
        }
        let mut expected = self.tree();
        remove(&mut expected, tables, name);
        self.change(key, &expected, |source| source.remove(tables, name))
    }

    /// Makes a change, if its result means what is expected.
    fn change(
        &mut self,
        key: &str,
        expected: &Table,
        change: impl FnOnce(&Source<'_>) -> Option<String>,
    ) -> Result<(), ConfigError> {
        let changed = Source::parse(&self.text).and_then(|source| change(&source));
        let means = |text: &String| {
            toml::from_str::<Table>(text)
                .is_ok_and(|table| pruned(table) == pruned(expected.clone()))
        };
        match changed.filter(means) {
            Some(text) => {
                self.text = text;
                Ok(())
            }
            None => Err(ConfigError::NoPlace { path: self.path.clone(), key: key.to_owned() }),
        }
    }

    fn tree(&self) -> Table {
        toml::from_str(&self.text).unwrap_or_default()
    }

    fn value(&self, tables: &[Step<'_>], name: &str) -> Option<Value> {
        let tree = self.tree();
        let mut table = &tree;
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
        table.get(name).cloned()
    }
}

/// The key of a path, where it is one that can be set.
fn target(key: &str) -> Result<Target, ConfigError> {
    let found = find(key).ok_or_else(|| no_such_key(key))?;
    let refuse = |hint| Err(ConfigError::NotSettable { key: key.to_owned(), hint });
    if found.tables.is_empty() {
        return refuse("set one of its keys");
    }
    match (found.spec.kind, key) {
        (Kind::Tables { .. }, "sync.folders") => {
            refuse("`archivist folder` adds, changes and removes folders")
        }
        (Kind::Tables { .. }, _) => refuse("its entries are added and removed one by one"),
        _ => Ok(Target { tables: found.tables, spec: found.spec }),
    }
}

fn list_target(key: &str) -> Result<(Target, Kind), ConfigError> {
    let target = target(key)?;
    match target.spec.kind {
        Kind::List { of, .. } => Ok((target, *of)),
        _ => Err(ConfigError::NotAList(key.to_owned())),
    }
}

pub(crate) fn no_such_key(key: &str) -> ConfigError {
    ConfigError::NoSuchKey { key: key.to_owned(), suggestion: suggest_path(key) }
}

fn steps(tables: &[&'static str]) -> Vec<Step<'static>> {
    tables.iter().map(|name| Step::Key(name)).collect()
}

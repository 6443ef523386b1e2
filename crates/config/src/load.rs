//! Loads a configuration from a file or a text.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::MAX_FILE_LEN;
use crate::config::Config;
use crate::error::{ConfigError, Fault, Place, Problem};
use crate::keys::find;
use crate::parse::parse;

/// A configuration and the file from which it was loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoadedConfig {
    /// The configuration.
    pub config: Config,
    /// The file.
    pub path: PathBuf,
    given: BTreeSet<String>,
}

impl LoadedConfig {
    /// Reports whether the file sets `key`, even if to the default.
    pub fn is_given(&self, key: &str) -> bool {
        self.given.contains(key)
    }
}

impl Config {
    /// Loads a configuration file.
    ///
    /// # Errors
    ///
    /// Returns [`ConfigError::Missing`] if the file does not exist, which the
    /// caller may treat as a first start, and another variant if it exists and
    /// cannot be used.
    pub fn load(path: &Path) -> Result<LoadedConfig, ConfigError> {
        let text = decode(path, read(path)?.ok_or_else(|| ConfigError::Missing(path.to_owned()))?)?;
        let config = Self::from_toml(&text, path)?;
        let given = given(&text);
        Ok(LoadedConfig { config, path: path.to_owned(), given })
    }

    /// Parses a configuration; messages name `path` as the file.
    ///
    /// # Errors
    ///
    /// Returns [`ConfigError::Invalid`] with every problem of the text.
    pub fn from_toml(text: &str, path: &Path) -> Result<Self, ConfigError> {
        parse(text).map_err(|problems| ConfigError::Invalid { path: path.to_owned(), problems })
    }

    /// Checks a configuration that was not loaded from a file.
    ///
    /// # Errors
    ///
    /// Returns every problem. Positions refer to the configuration serialized
    /// as TOML.
    pub fn check(&self) -> Result<(), Vec<Problem>> {
        let refused = |error: toml::ser::Error| {
            let place = Place::of("", 0);
            vec![Problem { place, key: String::new(), fault: Fault::Refused(error.to_string()) }]
        };
        parse(&toml::to_string(self).map_err(refused)?).map(drop)
    }

    /// Returns the value of a key or section; `None` if no key has this path.
    pub fn get(&self, key: &str) -> Option<toml::Value> {
        find(key)?;
        let value = toml::Value::try_from(self).ok()?;
        key.split('.').try_fold(value, |value, name| value.get(name).cloned())
    }
}

/// Reads the file; `None` if it does not exist.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>, ConfigError> {
    let refused = |error| ConfigError::io("read", path, error);
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(refused(error)),
    };
    // Opening a pipe would block.
    if !metadata.is_file() {
        return Err(ConfigError::NotAFile(path.to_owned()));
    }
    let too_large = |len| ConfigError::TooLarge { path: path.to_owned(), len };
    if metadata.len() > MAX_FILE_LEN {
        return Err(too_large(metadata.len()));
    }
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(refused(error)),
    };
    let mut bytes = Vec::new();
    file.take(MAX_FILE_LEN + 1).read_to_end(&mut bytes).map_err(refused)?;
    if bytes.len() as u64 > MAX_FILE_LEN {
        return Err(too_large(bytes.len() as u64));
    }
    Ok(Some(bytes))
}

pub(crate) fn decode(path: &Path, bytes: Vec<u8>) -> Result<String, ConfigError> {
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let text = String::from_utf8_lossy(&error.as_bytes()[..valid]).into_owned();
        let place = Place::of(&text, valid);
        let problem = Problem { place, key: String::new(), fault: Fault::NotUtf8 };
        ConfigError::Invalid { path: path.to_owned(), problems: vec![problem] }
    })
}

/// Returns the paths of the keys and sections that a text sets.
fn given(text: &str) -> BTreeSet<String> {
    fn collect(table: &toml::Table, prefix: &str, given: &mut BTreeSet<String>) {
        for (key, value) in table {
            let path = format!("{prefix}{key}");
            if let Some(table) = value.as_table() {
                collect(table, &format!("{path}."), given);
            }
            given.insert(path);
        }
    }
    let mut keys = BTreeSet::new();
    collect(&toml::from_str(text).unwrap_or_default(), "", &mut keys);
    keys
}

//! What every command needs: where this instance is, and its configuration.

use std::path::PathBuf;

use anyhow::Result;
use config::{Config, ConfigError, ConfigFile, Paths};

/// Where this instance is.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) paths: Paths,
}

impl Context {
    /// Finds the instance: below `home`, or where the environment says.
    pub(crate) fn new(home: Option<PathBuf>) -> Result<Self> {
        let paths = Paths::resolve(home.as_deref(), |name| std::env::var_os(name))?;
        Ok(Self { paths })
    }

    /// The file of the configuration.
    pub(crate) fn config_file(&self) -> ConfigFile {
        ConfigFile::new(self.paths.config_file())
    }

    /// The configuration; the defaults where there is no file.
    pub(crate) fn config(&self) -> Result<Config> {
        match Config::load(self.paths.config_file()) {
            Ok(loaded) => Ok(loaded.config),
            Err(ConfigError::Missing(_)) => Ok(Config::default()),
            Err(error) => Err(error.into()),
        }
    }
}

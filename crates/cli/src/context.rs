//! The context of a command: the paths of the instance, its configuration, and
//! a client of the running instance.

use std::io;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use api::Client;
use config::{Config, ConfigError, ConfigFile, Paths};
use node::Running;

use crate::exit::End;

/// Time within which an instance on this computer must accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The instance that a command works on.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) paths: Paths,
}

impl Context {
    /// Locates the instance below `home`, else by the environment.
    pub(crate) fn new(home: Option<&Path>) -> Result<Self> {
        let paths = Paths::resolve(home, |name| std::env::var_os(name))?;
        Ok(Self { paths })
    }

    /// Returns the configuration file.
    pub(crate) fn config_file(&self) -> ConfigFile {
        ConfigFile::new(self.paths.config_file())
    }

    /// Loads the configuration. Returns the defaults if there is no file.
    pub(crate) fn config(&self) -> Result<Config> {
        match Config::load(self.paths.config_file()) {
            Ok(loaded) => Ok(loaded.config),
            Err(ConfigError::Missing(_)) => Ok(Config::default()),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns a client of the running instance, or `None` if none is running.
    ///
    /// A `running.json` that a killed instance left behind does not count, even
    /// if another program listens on its port now.
    pub(crate) fn instance(&self) -> Result<Option<Client>> {
        let data = self.paths.data_dir();
        // A data directory without permission may still belong to a running instance.
        if let Err(error) = std::fs::metadata(data.join("running.json"))
            && error.kind() != io::ErrorKind::NotFound
            && error.kind() != io::ErrorKind::NotADirectory
        {
            return Err(error)
                .with_context(|| format!("cannot access {}", data.display()))
                .context(
                    "cannot determine whether an instance is running; \
                     run this command as the user of the instance",
                );
        }
        let Some(running) = Running::find(data) else { return Ok(None) };
        if TcpStream::connect_timeout(&running.api, CONNECT_TIMEOUT).is_err() {
            return Ok(None);
        }
        let path = self.paths.api_token();
        let token = std::fs::read_to_string(&path).with_context(|| {
            format!("cannot read {}; run this command as the user of the instance", path.display())
        })?;
        Ok(Some(Client::new(running.api, token.trim())?))
    }

    /// Returns the data directory, for a command that reads it without an instance.
    ///
    /// # Errors
    ///
    /// Returns an error if the directory does not exist or cannot be read.
    pub(crate) fn need_data_dir(&self) -> Result<&Path> {
        let data = self.paths.data_dir();
        ensure!(
            is_dir(data)?,
            "{} does not exist: no instance was ever started there; \
             choose another one with --home",
            data.display()
        );
        Ok(data)
    }

    /// Returns the directory of the store, or `None` if there is no store yet.
    ///
    /// # Errors
    ///
    /// Returns an error if it is not known whether there is a store.
    pub(crate) fn store_dir(&self) -> Result<Option<PathBuf>> {
        let dir = self.paths.store_dir();
        Ok(is_dir(&dir)?.then_some(dir))
    }

    /// Returns a client of the running instance, for a command that can read the
    /// store without it. Returns `None` if none is running, or if this user may not
    /// read the token of the instance.
    pub(crate) fn instance_to_read(&self) -> Result<Option<Client>> {
        let is_denied = |error: &anyhow::Error| {
            let cause = error.root_cause().downcast_ref::<io::Error>();
            cause.is_some_and(|cause| cause.kind() == io::ErrorKind::PermissionDenied)
        };
        match self.instance() {
            Err(error) if is_denied(&error) && self.paths.store_dir().is_dir() => Ok(None),
            result => result,
        }
    }

    /// Returns a client of the running instance.
    ///
    /// # Errors
    ///
    /// Returns [`End::NotRunning`], which names `what`, if none is running.
    pub(crate) fn need_instance(&self, what: &'static str) -> Result<Client> {
        let data = self.paths.data_dir().to_owned();
        self.instance()?.ok_or_else(|| End::NotRunning { data, what }.into())
    }
}

/// Reports whether there is a directory. Only "not found" means that there is none.
fn is_dir(path: &Path) -> Result<bool> {
    match std::fs::metadata(path) {
        Ok(metadata) => Ok(metadata.is_dir()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Runs asynchronous work to its end on this thread.
pub(crate) fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?
        .block_on(work)
}

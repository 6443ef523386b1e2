//! What every command needs: where this instance is, its configuration, and
//! the instance itself where it runs.

use std::io;
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use api::Client;
use config::{Config, ConfigError, ConfigFile, Paths};
use node::Running;

use crate::exit::End;

/// An instance on this machine accepts a connection within this.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Where this instance is.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) paths: Paths,
}

impl Context {
    /// Finds the instance: below `home`, or where the environment says.
    pub(crate) fn new(home: Option<&Path>) -> Result<Self> {
        let paths = Paths::resolve(home, |name| std::env::var_os(name))?;
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

    /// The running instance. What a killed one left behind is none, whoever
    /// listens there now.
    pub(crate) fn instance(&self) -> Result<Option<Client>> {
        let data = self.paths.data_dir();
        // What may not be read is not the same as what is not there.
        if let Err(error) = std::fs::metadata(data.join("running.json"))
            && error.kind() != io::ErrorKind::NotFound
            && error.kind() != io::ErrorKind::NotADirectory
        {
            return Err(error)
                .with_context(|| format!("cannot look into {}", data.display()))
                .context("cannot tell whether an instance runs; are you the user that runs it?");
        }
        let Some(running) = Running::find(data) else { return Ok(None) };
        if TcpStream::connect_timeout(&running.api, CONNECT_TIMEOUT).is_err() {
            return Ok(None);
        }
        let path = self.paths.api_token();
        let token = std::fs::read_to_string(&path).with_context(|| {
            format!("cannot read {}; are you the user that runs the instance?", path.display())
        })?;
        Ok(Some(Client::new(running.api, token.trim())?))
    }

    /// The running instance, which `what` needs.
    pub(crate) fn need_instance(&self, what: &'static str) -> Result<Client> {
        let data = self.paths.data_dir().to_owned();
        self.instance()?.ok_or_else(|| End::NotRunning { data, what }.into())
    }
}

/// Runs what talks to an instance.
pub(crate) fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?
        .block_on(work)
}

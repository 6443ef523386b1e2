//! The configuration of a running instance. A change is written to the file
//! first, then published here, then applied by its subscribers.
//!
//! Readers get copies. A change is either valid as a whole or rejected. Keys
//! that need a restart are listed by [`Settings::waiting_for_restart`].
//!
//! **Invariant.** Changes happen one after the other, from reading the current
//! configuration to publishing the new one, so the published configuration is
//! never older than the file.

use std::sync::Arc;

use config::{Apply, Change, Config, ConfigError, ConfigFile, Draft, diff};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::tasks::Tasks;

/// The configuration of one instance. Clones share it.
#[derive(Clone, Debug)]
pub struct Settings {
    file: Arc<ConfigFile>,
    /// The configuration in the file.
    current: watch::Sender<Arc<Config>>,
    /// The configuration that the instance was started with.
    started: Arc<Config>,
    /// Locked during a change.
    editing: Arc<Mutex<()>>,
}

/// The result of a change.
#[derive(Clone, Debug)]
pub struct Applied {
    /// The keys with a new value.
    pub changes: Vec<Change>,
}

impl Settings {
    /// Creates the settings from a configuration that was read from `file`.
    pub fn new(file: ConfigFile, config: Config) -> Self {
        let config = Arc::new(config);
        let current = watch::Sender::new(config.clone());
        Self { file: Arc::new(file), current, started: config, editing: Arc::default() }
    }

    /// Returns the current configuration.
    pub fn get(&self) -> Arc<Config> {
        self.current.borrow().clone()
    }

    /// Returns a receiver that is notified of every change.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Config>> {
        self.current.subscribe()
    }

    /// Returns the configuration file.
    pub fn file(&self) -> &ConfigFile {
        &self.file
    }

    /// Changes the file and publishes the new configuration. Blocks on the disk.
    ///
    /// # Errors
    ///
    /// Returns [`ConfigError`] if the change is not valid or the file cannot be
    /// written. Nothing has changed then.
    pub fn edit(
        &self,
        mut edit: impl FnMut(&mut Draft) -> Result<(), ConfigError>,
    ) -> Result<Applied, ConfigError> {
        self.edit_from(|_, draft| edit(draft))
    }

    /// Same as [`Settings::edit`], for a change that depends on the current
    /// configuration: no other change happens in between.
    ///
    /// # Errors
    ///
    /// Same as [`Settings::edit`].
    pub fn edit_from(
        &self,
        mut edit: impl FnMut(&Config, &mut Draft) -> Result<(), ConfigError>,
    ) -> Result<Applied, ConfigError> {
        let _editing = self.editing.lock();
        let before = self.get();
        let edited = self.file.edit(|draft| edit(&before, draft))?;
        let changes = diff(&before, &edited.config);
        if !changes.is_empty() {
            self.current.send_replace(Arc::new(edited.config));
        }
        Ok(Applied { changes })
    }

    /// Returns a part of the configuration that is updated with every change,
    /// by one of `tasks`.
    pub fn part<T: PartialEq + Send + Sync + 'static>(
        &self,
        tasks: &Tasks,
        part: impl Fn(&Config) -> T + Send + 'static,
    ) -> watch::Receiver<T> {
        let mut changes = self.subscribe();
        let sender = watch::Sender::new(part(&changes.borrow_and_update()));
        let receiver = sender.subscribe();
        tasks.spawn_until_stop("settings", async move {
            while changes.changed().await.is_ok() {
                let new = part(&changes.borrow_and_update());
                sender.send_if_modified(|current| {
                    let is_new = *current != new;
                    *current = new;
                    is_new
                });
            }
        });
        receiver
    }

    /// Returns the changed keys that take effect after a restart only.
    pub fn waiting_for_restart(&self) -> Vec<Change> {
        let changes = diff(&self.started, &self.get());
        changes.into_iter().filter(|change| change.kind == Apply::NeedsRestart).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(dir: &std::path::Path) -> Settings {
        let file = ConfigFile::new(dir.join("config.toml"));
        file.create().unwrap();
        let config = file.load().unwrap().config;
        Settings::new(file, config)
    }

    #[test]
    fn a_change_is_in_the_file_and_told_and_an_invalid_one_is_neither() {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(dir.path());
        let mut told = settings.subscribe();
        let applied = settings.edit(|draft| draft.set("node.max_storage", "5GB")).unwrap();
        assert_eq!(applied.changes.len(), 1);
        assert!(told.has_changed().unwrap());
        assert_eq!(told.borrow_and_update().node.max_storage.bytes(), 5_000_000_000);
        assert!(settings.waiting_for_restart().is_empty());

        assert!(settings.edit(|draft| draft.set("node.max_storage", "a lot")).is_err());
        assert!(!told.has_changed().unwrap());
        assert_eq!(settings.file().load().unwrap().config, *settings.get());

        settings.edit(|draft| draft.set("node.api_port", "8081")).unwrap();
        let waiting = settings.waiting_for_restart();
        assert_eq!(waiting.len(), 1);
        assert_eq!(waiting[0].key, "node.api_port");
        // Back again: nothing waits.
        settings.edit(|draft| draft.reset("node.api_port")).unwrap();
        assert!(settings.waiting_for_restart().is_empty());
    }

    #[test]
    fn changes_at_once_build_on_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(dir.path());
        let key = "sync.manifest_max_retries";
        settings.edit(|draft| draft.set(key, "0")).unwrap();
        let one_more = || {
            for _ in 0..5 {
                let add = |config: &Config, draft: &mut Draft| {
                    draft.set(key, &(config.sync.manifest_max_retries + 1).to_string())
                };
                settings.edit_from(add).unwrap();
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(one_more);
            }
        });
        assert_eq!(settings.get().sync.manifest_max_retries, 20);
        assert_eq!(settings.file().load().unwrap().config, *settings.get());
    }
}

//! The configuration of a running instance: changed in the file first, then
//! here, then everywhere it counts.
//!
//! Readers get copies. A change is valid as a whole or does not happen; what
//! cannot be applied to what runs is told.

use std::sync::Arc;

use config::{Apply, Change, Config, ConfigError, ConfigFile, Draft, diff};
use tokio::sync::watch;

/// The configuration of one instance. Clones share it.
#[derive(Clone, Debug)]
pub struct Settings {
    file: Arc<ConfigFile>,
    /// What is in the file.
    current: watch::Sender<Arc<Config>>,
    /// What the instance was started with.
    started: Arc<Config>,
}

/// What a change did.
#[derive(Clone, Debug)]
pub struct Applied {
    /// Keys that have another value now.
    pub changes: Vec<Change>,
}

impl Settings {
    /// The configuration that was read from `file`.
    pub fn new(file: ConfigFile, config: Config) -> Self {
        let config = Arc::new(config);
        Self { file: Arc::new(file), current: watch::Sender::new(config.clone()), started: config }
    }

    /// The configuration now.
    pub fn get(&self) -> Arc<Config> {
        self.current.borrow().clone()
    }

    /// Tells of every change.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Config>> {
        self.current.subscribe()
    }

    /// The file.
    pub fn file(&self) -> &ConfigFile {
        &self.file
    }

    /// Changes the file, and what runs. Blocks on the disk.
    ///
    /// # Errors
    ///
    /// [`ConfigError`]; nothing has changed then.
    pub fn edit(
        &self,
        edit: impl FnMut(&mut Draft) -> Result<(), ConfigError>,
    ) -> Result<Applied, ConfigError> {
        let before = self.get();
        let edited = self.file.edit(edit)?;
        let changes = diff(&before, &edited.config);
        if !changes.is_empty() {
            self.current.send_replace(Arc::new(edited.config));
        }
        Ok(Applied { changes })
    }

    /// The keys whose values will count after a restart only.
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
}

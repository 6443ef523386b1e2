//! The settings that can change while the daemon runs.

use std::time::Duration;

use config::{BackupServerConfig, SourcePeer};

/// What can change while it runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackupSettings {
    /// Whether anything is pulled at all.
    pub enabled: bool,
    /// How often a source is asked that cannot tell of news by itself.
    pub poll_interval: Duration,
    /// How many manifests are pulled at once, of all sources together.
    pub max_concurrent_downloads: usize,
    /// After so many failures in a row more, a source is shown as failed.
    pub max_retries: u32,
    /// The sources.
    pub sources: Vec<SourcePeer>,
}

impl From<&BackupServerConfig> for BackupSettings {
    fn from(config: &BackupServerConfig) -> Self {
        Self {
            enabled: config.enabled,
            poll_interval: config.poll_interval(),
            max_concurrent_downloads: config.max_concurrent_downloads as usize,
            max_retries: config.max_retries,
            sources: config.source_peers.clone(),
        }
    }
}

impl BackupSettings {
    pub(crate) fn common(&self) -> Common {
        Common { poll_interval: self.poll_interval, max_retries: self.max_retries }
    }
}

/// What concerns all sources and can change while they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Common {
    pub(crate) poll_interval: Duration,
    pub(crate) max_retries: u32,
}

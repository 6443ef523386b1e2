//! The settings that can change while the daemon runs.

use std::time::Duration;

use config::{BackupServerConfig, SourcePeer};

/// The settings of the daemon that can change while it runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackupSettings {
    /// True if the backup server is enabled.
    pub enabled: bool,
    /// Interval at which sources without long polls are polled.
    pub poll_interval: Duration,
    /// Maximum number of manifests of all sources that are pulled at the same time.
    pub max_concurrent_downloads: usize,
    /// Number of failures in a row after which one more shows a source as failed.
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
    pub(crate) fn common(&self) -> CommonSettings {
        CommonSettings { poll_interval: self.poll_interval, max_retries: self.max_retries }
    }
}

/// The settings that apply to every source and can change while their tasks run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CommonSettings {
    pub(crate) poll_interval: Duration,
    pub(crate) max_retries: u32,
}

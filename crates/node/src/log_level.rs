//! The log level, which can change while the program runs.

use std::sync::Arc;

use tracing_subscriber::{EnvFilter, Registry, reload};

/// The crates of this program, by the names that log lines carry.
const OWN_CRATES: &[&str] = &[
    "archivist",
    "api",
    "backup",
    "config",
    "disk",
    "fstree",
    "manifest",
    "net",
    "node",
    "protocols",
    "pull",
    "restore",
    "server",
    "snapshots",
    "store",
    "sync",
    "types",
];

type Set = dyn Fn(&str) -> Result<(), String> + Send + Sync;

/// Changes the log level of the process.
#[derive(Clone)]
pub struct LogLevel {
    set: Arc<Set>,
}

impl std::fmt::Debug for LogLevel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LogLevel")
    }
}

impl LogLevel {
    /// Changes the filter behind `handle`.
    pub fn of(handle: reload::Handle<EnvFilter, Registry>) -> Self {
        Self {
            set: Arc::new(move |level| {
                let filter =
                    filter(level).ok_or_else(|| format!("{level:?} is not a log level"))?;
                handle.reload(filter).map_err(|error| error.to_string())
            }),
        }
    }

    /// Checks levels without changing anything: for tests, which share one
    /// process.
    pub fn fixed() -> Self {
        Self { set: Arc::new(|level| filter(level).map(|_| ()).ok_or_else(|| level.to_owned())) }
    }

    /// Sets the level: `error`, `warn`, `info`, `debug` or `trace`.
    ///
    /// # Errors
    ///
    /// Returns a message if the text is not a level, or if the filter cannot be
    /// changed.
    pub fn set(&self, level: &str) -> Result<(), String> {
        (self.set)(level)
    }
}

/// Returns the filter for a level: the crates of this program at that level,
/// other crates at `warn`, or at `debug` if the level is `trace`. Returns `None`
/// if the text is not a level.
pub fn filter(level: &str) -> Option<EnvFilter> {
    let level: tracing::Level = level.parse().ok()?;
    let level = level.as_str().to_lowercase();
    let others = if level == "trace" { "debug" } else { "warn" };
    // Most instances have no DHT peers, and the DHT would log that as a warning.
    let directives: Vec<String> = [others.to_owned(), "libp2p_kad=error".to_owned()]
        .into_iter()
        .chain(OWN_CRATES.iter().map(|name| format!("{name}={level}")))
        .collect();
    EnvFilter::try_new(directives.join(",")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_crate_of_the_workspace_is_logged() {
        let crates = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        for entry in std::fs::read_dir(crates).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let name = match name.as_str() {
                // The name of its program.
                "cli" => "archivist",
                // For tests only.
                "testkit" | "fuzzing" | "sim" | "schedules" => continue,
                name => name,
            };
            assert!(OWN_CRATES.contains(&name), "{name} logs nothing below `warn`");
        }
    }
}

//! What is logged, changeable while the program runs.

use std::sync::Arc;

use tracing_subscriber::{EnvFilter, Registry, reload};

type Set = dyn Fn(&str) -> Result<(), String> + Send + Sync;

/// Changes what is logged.
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
    /// Changes a filter that is installed.
    pub fn of(handle: reload::Handle<EnvFilter, Registry>) -> Self {
        Self {
            set: Arc::new(move |level| {
                let filter = filter(level).ok_or_else(|| format!("{level:?} is no log level"))?;
                handle.reload(filter).map_err(|error| error.to_string())
            }),
        }
    }

    /// Changes nothing: for tests, which share one process.
    pub fn fixed() -> Self {
        Self { set: Arc::new(|level| filter(level).map(|_| ()).ok_or_else(|| level.to_owned())) }
    }

    /// Logs at this level from now on: `error`, `warn`, `info`, `debug` or
    /// `trace`.
    ///
    /// # Errors
    ///
    /// What is wrong, in words.
    pub fn set(&self, level: &str) -> Result<(), String> {
        (self.set)(level)
    }
}

/// The filter of a level: our own crates at that level, those of others at
/// `warn`, unless all is wanted.
pub fn filter(level: &str) -> Option<EnvFilter> {
    let level: tracing::Level = level.parse().ok()?;
    let level = level.as_str().to_lowercase();
    let others = if level == "trace" { "debug" } else { "warn" };
    let ours = [
        "archivist",
        "node",
        "net",
        "store",
        "manifest",
        "sync",
        "backup",
        "restore",
        "fstree",
        "config",
    ];
    // An instance without DHT peers is the usual one.
    let directives: Vec<String> = [others.to_owned(), "libp2p_kad=error".to_owned()]
        .into_iter()
        .chain(ours.iter().map(|name| format!("{name}={level}")))
        .collect();
    EnvFilter::try_new(directives.join(",")).ok()
}

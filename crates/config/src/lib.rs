//! The configuration of an instance.
//!
//! This crate is the only place that knows every setting: its name, default,
//! range and purpose. It loads `config.toml`, reports every problem in it,
//! edits it without changing other parts of the file, and knows the paths of
//! the instance's files.
//!
//! Invariants:
//!
//! * An invalid file is never replaced, and never treated as the defaults.
//! * Every write checks the new file completely and then renames it into place.
//! * An edit changes only the bytes of the value that it changes.
//!
//! Absent on purpose: the environment (callers pass the variables in), the
//! network, the state of the instance, and checks that a folder or a host
//! exists.

mod addresses;
mod age;
mod check;
mod config;
mod conflicts;
mod default_text;
mod diff;
mod docs;
mod draft;
mod error;
mod file;
mod keys;
mod load;
mod parse;
mod paths;
mod schema;
mod size;
mod splice;
mod tree;
mod values;

pub use addresses::{ManifestUrl, Network, host_of, peer_id_of};
pub use age::Age;
pub use config::{
    BackupServerConfig, Config, DEFAULT_LISTEN_PORT, FolderConfig, Keep, ManifestServerConfig,
    NodeConfig, SourcePeer, SyncConfig,
};
pub use diff::{Change, diff};
pub use docs::reference;
pub use draft::{Draft, FolderUpdate, SourceUpdate};
pub use error::{ConfigError, Conflict, Fault, Place, Problem};
pub use file::{ConfigFile, Edited, Setting};
pub use keys::{KeyInfo, keys};
pub use load::LoadedConfig;
pub use paths::Paths;
pub use schema::{Apply, Unit};
pub use size::{ByteSize, Rate, SizeError};
pub use types::{FolderId, FolderIdError};
pub use values::{
    Argument, FolderPath, LogLevel, MAX_NAME_CHARS, MAX_PATTERN_LEN, Name, Pattern, ValueError,
};

/// Maximum length of a configuration file in bytes.
pub const MAX_FILE_LEN: u64 = 1 << 20;

//! The configuration of an instance.
//!
//! Role: the one place that knows every setting: its name, its default, its
//! range and what it is for. It reads `config.toml`, says everything that is
//! wrong with it, edits it without touching what it was not asked to touch,
//! and knows where an instance keeps its files.
//!
//! Invariants:
//!
//! * A file that is not valid is never replaced, and never read as defaults.
//! * Every write is a rename of a whole file that was checked first.
//! * An edit changes the bytes that say what it changes, and no others.
//!
//! Absent on purpose: the environment (what is needed of it is passed in),
//! the network, the state of the instance, and any look at whether a folder
//! or a host exists.

mod addresses;
mod check;
mod config;
mod conflicts;
mod default_text;
mod diff;
mod docs;
mod draft;
mod error;
mod file;
mod load;
mod paths;
mod schema;
mod size;
mod splice;
mod tree;
mod values;

pub use addresses::{ManifestUrl, Network, host_of, peer_id_of};
pub use config::{
    BackupServerConfig, Config, DEFAULT_LISTEN_PORT, FolderConfig, Keep, ManifestServerConfig,
    NodeConfig, SourcePeer, SyncConfig,
};
pub use diff::{Change, diff};
pub use docs::reference;
pub use draft::{Draft, FolderUpdate, SourceUpdate};
pub use error::{ConfigError, Conflict, Fault, Place, Problem};
pub use file::{ConfigFile, Edited, Setting};
pub use load::LoadedConfig;
pub use paths::Paths;
pub use schema::{Apply, KeyInfo, Unit, keys};
pub use size::{ByteSize, Rate, SizeError};
pub use types::{FolderId, FolderIdError};
pub use values::{
    FolderPath, LogLevel, MAX_NAME_CHARS, MAX_PATTERN_LEN, Name, Pattern, ValueError,
};

/// The longest configuration file, in bytes.
pub const MAX_FILE_LEN: u64 = 1 << 20;

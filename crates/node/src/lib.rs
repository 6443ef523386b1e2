//! One running instance, wired together: the store, the network, and the REST
//! API in front of them.
//!
//! * [`App`]: starting and ending an instance.
//! * [`Settings`]: the configuration of a running instance.
//! * [`rest`]: the node's REST API.
//! * [`Downloads`], [`Collector`], [`LocalBlocks`]: what it works with.
//! * [`http`]: serving HTTP with limits.

mod app;
mod backup_side;
mod choice;
mod collector;
mod downloads;
pub mod http;
mod journal;
mod keeper;
mod listeners;
mod local_blocks;
mod log_level;
mod maintenance;
mod options;
pub mod pairing;
mod pieces;
mod recent_log;
mod recompression;
mod removed;
pub mod rest;
pub mod roots;
mod settings;
mod source_side;
mod tasks;
mod token;
mod traffic;
mod v1;
mod web;

pub use app::{App, AppOptions, Running, StartError, load_identity, make_data_dir};
pub use choice::{SnapshotChoice, snapshot_model};
pub use collector::Collector;
pub use downloads::{DownloadError, Downloads};
pub use local_blocks::{InPlace, LocalBlocks};
pub use log_level::{LogLevel, filter};
pub use maintenance::verify_result;
pub use recent_log::RecentLog;
pub use removed::RemovedFolders;
pub use settings::{Applied, Settings};
pub use tasks::Tasks;
pub use v1::restore_model;

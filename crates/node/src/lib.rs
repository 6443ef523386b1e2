//! One running instance, wired together: the store, the network, and the REST
//! API in front of them.
//!
//! * [`App`]: starting and ending an instance.
//! * [`Settings`]: the configuration of a running instance.
//! * [`rest`]: the node's REST API.
//! * [`Downloads`], [`Collector`], [`StoreProvider`]: what it works with.
//! * [`http`]: serving HTTP with limits.

mod app;
mod collector;
mod downloads;
pub mod http;
mod log_level;
mod options;
pub mod pairing;
mod provider;
pub mod rest;
pub mod roots;
mod settings;
mod tasks;
mod token;

pub use app::{App, AppOptions, Running, StartError, load_identity, make_data_dir};
pub use collector::Collector;
pub use downloads::Downloads;
pub use log_level::{LogLevel, filter};
pub use provider::StoreProvider;
pub use settings::{Applied, Settings};
pub use tasks::Tasks;

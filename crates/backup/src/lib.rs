//! The side that keeps: pulling what a name leads to from peers into the
//! store.

mod blocking;
mod clock;
mod daemon;
mod exchange;
mod likes;
mod manifest_pull;
mod notify;
mod patch;
mod plan;
mod pool;
mod prune;
mod pull;
mod receipt;
mod remote;
mod retention;
mod snapshot;
mod tree;
mod trigger;
mod verify;

pub use blocking::Panicked;
pub use clock::{Clock, SystemClock};
pub use daemon::*;
pub use exchange::ExchangeError;
pub use manifest_pull::{
    ManifestJob, ManifestProgress, ManifestPullError, ManifestPuller, PullNumbers,
};
pub use notify::*;
pub use patch::{PATCH_PROTOCOL, serve_patches};
pub use plan::*;
pub use pool::{PooledSession, SessionPool};
pub use prune::*;
pub use pull::{Progress, PullError, PullReport, Puller};
pub use receipt::*;
pub use remote::*;
pub use retention::*;
pub use snapshot::*;
pub use tree::*;
pub use trigger::*;
pub use verify::*;

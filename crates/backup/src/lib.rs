//! The side that keeps: pulling what a name leads to from peers into the
//! store.

mod blocking;
mod clock;
mod plan;
mod pool;
mod pull;
mod retention;
mod snapshot;
mod tree;

pub use blocking::{Panicked, Retry};
pub use clock::{Clock, SystemClock};
pub use plan::*;
pub use pool::{PooledSession, SessionPool};
pub use pull::{Progress, PullError, PullReport, Puller};
pub use retention::*;
pub use snapshot::*;
pub use tree::*;

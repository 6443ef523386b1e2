//! The side that keeps: pulling what a name leads to from peers into the
//! store.
//!
//! * [`Puller`]: fetches what is missing below a name, from whoever has it.
//! * [`SessionPool`]: the sessions with peers that it uses.

mod pool;
mod pull;

pub use pool::{PooledSession, SessionPool};
pub use pull::{Progress, PullError, PullReport, Puller};

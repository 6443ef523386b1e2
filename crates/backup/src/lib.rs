//! The side that keeps: pulling what a name leads to from peers into the
//! store.
//!
//! * [`pull`]: fetches what is missing below a name, from whoever has it.

mod pull;

pub use pull::{Progress, PullError, PullReport, Puller};

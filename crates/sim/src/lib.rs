//! Simulation of a source, a network and a backup server: one process, one thread, one seed.
//!
//! [`simulate`] runs one history. The disks of both sides are `disk::sim::SimDisk`s, the
//! network is [`net::sim::SimNet`], the time is the paused clock of tokio, and everything
//! random follows from the seed: edits of the source tree, crashes of either side at any
//! operation of its disk, restarts, power cuts, full disks, errors of disks, cut routes, lost
//! answers, collections, retention, restores. Everything between is the real program.
//!
//! The model records every tree that the source had and every manifest that it published.
//! It is compared with the backup server at each receipt, after each crash and at the end.
//! docs/testing.md lists the checks, and the parts that are not simulated.
//!
//! Absent: real sockets, real processes, the jobs and pages of an instance. `cargo xtask
//! soak` and the tests of the crate `cli` cover these.

#![allow(clippy::unwrap_used, reason = "the crate is a test: a failed unwrap fails the seed")]

mod check;
mod clock;
mod disk;
mod history;
mod lives;
mod log;
mod model;
mod panics;
mod remote;
mod server;
mod source;
mod tree;

pub use history::{Options, Outcome, simulate, simulate_twice};

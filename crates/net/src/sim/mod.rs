//! A network in memory, for simulations in one process, on one thread, from one seed.
//!
//! [`SimNet`] joins nodes. Each node has an ordinary [`Handle`](crate::Handle), serves
//! blocks with the real server, and opens [`NetStream`](crate::NetStream)s whose bytes
//! are delayed, held back or cut off. Time is the paused clock of tokio.
//!
//! The network simulates connections as the programs above TCP see them: bytes of a
//! stream are never lost or reordered, but they stop while a direction is cut, and the
//! ends of a broken connection notice it at different times or late. Each direction
//! between two nodes is cut separately, so that requests arrive whose answers do not.
//!
//! Absent: addresses, the DHT, encryption, and the multiplexer. `tests` of this crate
//! cover these with real sockets.

mod node;
mod stream;
#[cfg(test)]
mod tests;
mod world;

use std::cell::RefCell;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

pub use node::SimNode;
pub(crate) use stream::SimStream;
pub use world::{Route, SimNet};

thread_local! {
    /// Random numbers of the simulation on this thread, if one is running.
    static RANDOM: RefCell<Option<StdRng>> = const { RefCell::new(None) };
}

/// A running simulation: until this is dropped, work that blocks runs on this thread,
/// and random waiting times follow from the seed.
#[derive(Debug)]
pub struct Simulation(());

impl Simulation {
    /// Starts a simulation on this thread. The async runtime must run on this thread
    /// alone.
    pub fn start(seed: u64) -> Self {
        RANDOM.set(Some(StdRng::seed_from_u64(seed)));
        Self(())
    }
}

impl Drop for Simulation {
    fn drop(&mut self) {
        RANDOM.set(None);
    }
}

/// Reports whether a simulation runs on this thread.
pub(crate) fn is_running() -> bool {
    RANDOM.with_borrow(Option::is_some)
}

/// Returns the next random number from 0 to 1 of the simulation; `None` without one.
pub(crate) fn random_fraction() -> Option<f64> {
    RANDOM.with_borrow_mut(|random| random.as_mut().map(|random| random.random_range(0.0..=1.0)))
}

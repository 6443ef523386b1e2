//! Threads that may block, and random numbers for waiting times: besides time,
//! network and disk, everything in which a simulation differs from a computer.
//!
//! The crates above the network use these functions instead of those of tokio and
//! `rand`. A simulation (feature `sim`, `crate::sim`) runs blocking work on its only
//! thread and takes the random numbers from its seed, so that the same seed gives
//! the same run.

use tokio::task::JoinHandle;

/// Runs work that blocks on a thread of the async runtime that may block.
pub fn spawn_blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    #[cfg(feature = "sim")]
    if crate::sim::is_running() {
        return tokio::spawn(async move { work() });
    }
    tokio::task::spawn_blocking(work)
}

/// Returns a random number from 0 to 1 that spreads waiting times. It is not secret.
pub fn random_fraction() -> f64 {
    #[cfg(feature = "sim")]
    if let Some(fraction) = crate::sim::random_fraction() {
        return fraction;
    }
    f64::from(rand::random::<u16>()) / f64::from(u16::MAX)
}

//! Locks, atomics, threads and channels of the store: every one comes from here.
//!
//! Ordinarily these are the types of `parking_lot`, `std` and `crossbeam_channel`,
//! unchanged. Crate `schedules` compiles the store with `cfg(shuttle)`: then they are
//! the types of shuttle, which decides at each use which thread runs next.

#[cfg(shuttle)]
mod controlled;

#[cfg(not(shuttle))]
pub(crate) use self::real::*;

#[cfg(shuttle)]
pub(crate) use self::controlled::*;

#[cfg(not(shuttle))]
mod real {
    pub(crate) use crossbeam_channel::{Sender, unbounded};
    pub(crate) use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};
    pub(crate) use std::sync::atomic;
    pub(crate) use std::thread;
}

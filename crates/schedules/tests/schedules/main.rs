//! The store while its threads run in many orders; see docs/testing.md.

#![allow(clippy::unwrap_used, reason = "tests")]

// The store whose locks and threads shuttle controls. `plain` is the ordinary one, which
// examines disks without being part of the schedule.
extern crate shuttled_store as store;
extern crate store as plain;

#[path = "../../../store/tests/common/mod.rs"]
mod common;

mod collection;
mod commit;
mod explore;
mod failed_sync;
mod rebuild;
mod turns;

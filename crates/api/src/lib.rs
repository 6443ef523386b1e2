//! The product's own API, `/api/v1`: what goes over it, written once, and the
//! client that the command line uses.
//!
//! The server is in `node`; it serves these types and no others, and its
//! OpenAPI document is made from them.

mod client;
mod listed;
mod model;
mod prune;

pub use client::{Client, ClientError, Query, path_part};
pub use listed::{ListedEntry, from_text, to_text};
pub use model::*;
pub use prune::{PruneDecision, PruneReport, PruneRequest, Recompressed};

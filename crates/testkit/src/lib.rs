//! Peers, sources, snapshots and mounts for the tests of the crates above the store.

#![allow(clippy::unwrap_used, missing_docs, reason = "in a test it is an assertion")]

mod maker;
pub mod mounts;
mod nodes;
mod source;

pub use maker::{Maker, all_blocks, filled, without};
pub use nodes::{
    PATIENCE, Provider, connect, node, node_as, node_providing, node_with, noise, signed_receipt,
    until,
};
pub use source::{
    Served, Source, Tree, assert_holds, dataset, dir_entry, entries, file, file_entry, header,
    plain_net, plain_net_as, put, raw, segments, tree,
};

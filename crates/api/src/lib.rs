//! Data model of the HTTP API `/api/v1`, with its client.
//!
//! The types in `model` are the JSON bodies of the API's requests and responses.
//! The server serves these types and no others, and generates its OpenAPI document
//! from them: the doc comments here are the descriptions in that document, and the
//! names of the structs and fields are part of the API.
//!
//! * [`Status`], with [`Folder`], [`Source`], [`Storage`] and [`Notice`], describes
//!   an instance.
//! * [`Integrity`] describes damage, its healing, and the regular checks.
//! * [`Snapshot`] and [`ListedEntry`] describe what is stored.
//! * [`ReceiptChain`] and [`Receipt`] prove what backup servers have confirmed.
//! * [`BackupNowReport`], [`PruneReport`], [`RecoverReport`], [`RestoreReport`],
//!   [`VerifyResult`] and others are the results of actions; [`Job`] is an action that takes long.
//! * [`Client`] calls the API of an instance on this computer. The command line
//!   uses it.
//!
//! Conventions: times are RFC 3339 in UTC, sizes are in bytes, and a path that is
//! not UTF-8 has a second field in base64 (see [`to_text`]). Every error response
//! is an [`ApiProblem`]. New fields are optional for a reader (`#[serde(default)]`),
//! so that a client works with an older server.
//!
//! Absent: the server (crate `server`), and the node API for the Archivist
//! SDK (`/api/archivist/v1`), which has a model of its own.

mod client;
mod integrity;
mod journal;
mod listed;
mod model;
mod prune;
mod receipts;
mod recover;
mod restores;

pub use client::{Client, ClientError, Query, path_part};
pub use integrity::{
    Healing, Integrity, LastVerification, OutstandingBlock, Scrub, UnreadableSnapshot,
    VerifyProblem, VerifyResult,
};
pub use journal::{JournalEntry, LogLine, TrafficDay, Transferred};
pub use listed::{ListedEntry, from_text, to_text};
pub use model::*;
pub use prune::{PruneDecision, PruneReport, PruneRequest, Recompressed};
pub use receipts::{NewestReceipt, Receipt, ReceiptChain};
pub use recover::{
    FoundItem, FoundSnapshot, FoundState, RecoverReport, RecoverRequest, UnusableRecord,
};
pub use restores::{RestoreReport, RestoreRequest};

//! What a source has to offer, and how a backup server hears of it.
//!
//! Role: the small channel beside the blocks. A signs what it has published
//! ([`ManifestRegistry`]) and tells it to whitelisted addresses over plain
//! HTTP ([`ManifestServer`], TCP 8085); B asks ([`ManifestClient`]) and decides what of
//! the answer it may believe ([`check`]).
//!
//! Invariants: nothing that comes over HTTP has authority. A manifest counts
//! only with a signature of the peer that was configured, and with a number
//! above the last ([`check`]); a lost or held answer only delays. Whatever the
//! other side does, each answer costs a bounded amount of memory and time.
//!
//! What is absent: files, blocks and stores; retries, which are the caller's;
//! the listening socket, which is the instance's.

mod check;
mod client;
mod registry;
mod responses;
mod server;
mod signature;
mod wire;

pub use check::{FolderHistory, OfferRefusal, OfferVerdict, WrongPeer, check};
pub use client::{ClientError, ManifestClient, PollRequest, PollResponse, Retry, Timeouts};
pub use registry::{ManifestRegistry, Offers, RegistryError};
pub use responses::{error_response, health_response, json_response, method_not_allowed_response};
pub use server::{ListenAddresses, ManifestServer, SeenClient, SeenClients};
pub use signature::{Signature, SignatureError, sign, signed_bytes, verify};
pub use wire::{Discovery, MalformedOffer, Offer, PEER_HEADER};

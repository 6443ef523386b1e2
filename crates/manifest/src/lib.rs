//! Discovery of manifests: how a source announces what it has published.
//!
//! A source signs each manifest that it publishes and lists the newest one of
//! each folder in a JSON document, which its backup servers fetch over plain HTTP
//! (`GET /manifests`, TCP 8085). The blocks themselves travel over another
//! channel (crate `net`).
//!
//! On the source:
//!
//! * [`ManifestRegistry`] keeps the newest manifest of each folder and signs it.
//! * [`ManifestServer`] serves the registry to loopback and whitelisted
//!   addresses, with ETags and long polls. [`SeenClients`] records which
//!   addresses asked.
//!
//! On the backup server:
//!
//! * [`ManifestClient`] fetches the document as an unverified [`Discovery`].
//! * [`check`] compares each [`Offer`] in it with the [`FolderHistory`] and returns
//!   an [`OfferVerdict`]: take, same as before, or refuse.
//!
//! [`sign`] and [`verify`] define the [`Signature`] of a manifest. The formats are
//! specified in `docs/formats/http.md` and `docs/formats/manifest.md`.
//!
//! A backup server takes a manifest by pulling its blocks and then committing a
//! snapshot.
//!
//! Invariants: nothing that arrives over HTTP has authority. A manifest is taken
//! only with a valid signature of the configured peer and a sequence number above
//! the last one. A lost or delayed answer only delays a backup. Each request costs
//! a bounded amount of memory and time, whatever the other side does.
//!
//! Absent: file and block storage, retries (the caller's task), the listening
//! socket (the caller's too).
//!
//! ```
//! use libp2p_identity::Keypair;
//! use manifest::{ManifestRegistry, verify};
//! use types::{Cid, Codec, PublishedManifest, SequenceNumber};
//!
//! let registry = ManifestRegistry::new(Keypair::generate_secp256k1());
//! registry.publish(PublishedManifest {
//!     folder_id: "docs".parse()?,
//!     folder_name: "Documents".into(),
//!     folder_path: "/home/me/Documents".into(),
//!     manifest_cid: Cid::of(Codec::DagCbor, b"the dataset of a manifest"),
//!     sequence_number: SequenceNumber::FIRST,
//!     updated_at: "2026-11-22T10:30:00Z".parse()?,
//!     file_count: 12,
//!     total_size_bytes: 345,
//! })?;
//!
//! let offer = registry.get(&"docs".parse()?).expect("it was published");
//! let manifest = &offer.published;
//! assert!(verify(
//!     &registry.peer_id(),
//!     &manifest.folder_id,
//!     manifest.sequence_number,
//!     &manifest.manifest_cid,
//!     &offer.signature,
//! ));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod check;
mod client;
mod proof;
mod registry;
mod responses;
mod server;
mod signature;
mod wire;

pub use check::{FolderHistory, OfferRefusal, OfferVerdict, WrongPeer, check};
pub use client::{ClientError, ManifestClient, PollRequest, PollResponse, Timeouts};
#[cfg(feature = "sim")]
pub use client::{SimulatedExchange, SimulatedResponse};
pub use proof::{AnswerAge, AnswerProof};
pub use registry::{ManifestRegistry, Offers, RegistryError};
pub use responses::{error_response, health_response, json_response, method_not_allowed_response};
pub use server::{ListenAddresses, ManifestServer, SeenClient, SeenClients};
pub use signature::{
    Signature, SignatureError, sign, sign_bytes, signed_bytes, verify, verify_bytes,
};
pub use wire::{Discovery, MalformedOffer, Offer, PEER_HEADER};

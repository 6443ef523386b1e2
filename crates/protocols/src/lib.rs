//! The protocols between source and backup server, apart from the block protocol of `net`.
//!
//! Both ends of each protocol are here, with tests that join them. The crates `node` and
//! `server` start the serving ends. The requesting ends are used by `backup` (receipts), `pull`
//! (patches) and `node` (triggers, snapshots).
//!
//! * [`send_receipt`], [`serve_receipts`]: the backup server confirms a snapshot to its source.
//! * [`BackupService`], [`TriggerServer`]: the source asks the backup server to poll it.
//! * [`fetch_patches`], [`serve_patches`]: the backup server fetches the parts of a manifest as
//!   differences to an earlier manifest.
//! * [`list_remote`], [`serve_snapshots`], [`RemoteBlocks`]: the source lists its snapshots on the
//!   backup server and restores from them.
//!
//! Shared tools: [`SessionPool`] for the block protocol, [`Clock`] and [`blocking()`].
//!
//! Absent: the decision about what to pull (`manifest`, `pull`), the HTTP sockets (`server`), and
//! who may use a protocol. The caller passes that decision to each server as `allowed`.

mod blocking;
mod clock;
mod exchange;
mod notify;
mod patch;
mod receipt;
mod remote;
mod session_pool;
mod trigger;

pub use blocking::{Panicked, blocking};
pub use clock::{Clock, SystemClock};
pub use exchange::ExchangeError;
#[cfg(feature = "sim")]
pub use notify::SimulatedTrigger;
pub use notify::{
    BackupNowError, BackupNowReport, BackupService, BackupServiceOptions, NotifiedManifest,
    NotifySettings, NotifyState, NotifyStep, Register, RegisterError, StepReport, TriggerError,
    WaitError,
};
pub use patch::{
    PATCH_BASES_MAX, PATCH_PROTOCOL, PATCH_WANTS_MAX, PatchError, PatchWant, Patched,
    fetch_patches, serve_patches,
};
pub use receipt::{
    Confirmation, EncodedReceipt, OnReceipt, RECEIPT_PROTOCOL, Receipt, ReceiptAnswer,
    ReceiptFormError, ReceiptHash, SignedReceipt, UNSIGNED_RECEIPT_PROTOCOL, send_receipt,
    serve_receipts,
};
pub use remote::{
    ListOffered, OfferedSnapshots, RemoteBlocks, RemoteBlocksError, RemoteError, RemoteListing,
    RemoteSnapshot, SNAPSHOTS_PROTOCOL, list_remote, serve_snapshots,
};
pub use session_pool::{PooledSession, SessionPool};
pub use trigger::{OnTrigger, TriggerServer};

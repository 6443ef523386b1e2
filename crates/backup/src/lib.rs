//! The daemon of the backup server: it polls the sources, and pulls the manifests that they offer.
//!
//! * [`BackupDaemon`]: starts and ends the daemon; [`BackupHandle`] is how others use it.
//! * [`SourceStatus`], [`BackupEvent`]: the status of the sources.
//! * [`list_offered`]: the snapshots that a source may list and restore.

mod accept;
mod backoff;
mod confirmed_snapshot;
mod daemon;
mod discarded;
mod effects;
mod issued_receipts;
mod manager;
mod offer_file;
mod offered;
mod settings;
mod slots;
mod source;
mod state_file;
mod status;
mod status_registry;

pub use accept::{AcceptError, Accepted, AcceptedFolder};
pub use confirmed_snapshot::ConfirmedSnapshot;
pub use daemon::{BackupDaemon, BackupHandle, BackupOptions, BackupStartError};
pub use issued_receipts::{IssuedReceipts, ReceiptsUnreadable};
pub use offered::{list_offered, remote_snapshot};
pub use settings::BackupSettings;
pub use state_file::STATE_FILE_NAME;
pub use status::{
    BackupEvent, BackupTotals, FolderStatus, ProcessedManifest, PullStatus, SourceState,
    SourceStatus,
};

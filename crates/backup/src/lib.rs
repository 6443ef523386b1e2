//! The daemon of the backup server: it polls the sources until it has a snapshot of everything
//! that they offer.

mod accept;
mod accepted;
mod backoff;
mod board;
mod daemon;
mod manager;
mod offered;
mod settings;
mod slots;
mod source;
mod state_file;
mod status;
mod world;

pub use accept::{AcceptError, Accepted, AcceptedFolder};
pub use daemon::{BackupDaemon, BackupHandle, BackupOptions, BackupStartError};
pub use offered::{list_offered, remote_snapshot};
pub use settings::BackupSettings;
pub use state_file::STATE_FILE_NAME;
pub use status::{
    BackupEvent, FolderStatus, Processed, PullStatus, SourceState, SourceStatus, Totals,
};

//! The source side: turns changes in watched folders into published manifests.
//!
//! Role: everything between a file of the user and a manifest that a backup server can
//! request. [`SyncService`] runs the work, [`SyncHandle`] is its interface to the rest of the
//! program, and each manifest goes to a [`Publisher`].
//!
//! Each folder has a thread ([`folder`]). It decides when work is due ([`schedule`]), scans
//! the disk ([`scan`]), has files read ([`hash`]), writes the results to the index ([`index`])
//! and makes manifests ([`publish`]). Events of the system ([`watch`]) are hints; only a scan
//! establishes what has changed.
//!
//! **Invariants.** A manifest names only blocks that are durable here or confirmed by the backup
//! server, and is published only when it is durable itself. A manifest contains only contents
//! that its files had. A path that cannot be scanned keeps its last readable content; an error
//! never becomes a deletion, except for content that was overwritten before any backup server
//! had it.
//!
//! Absent: the network, the backup server, and copies of the user's files, except for
//! those that change too often to be served from their place.

mod context;
mod error;
mod folder;
mod folder_files;
mod handle;
mod hash;
mod index;
mod left_out;
mod path_key;
mod preview;
mod publish;
mod root_id;
mod rules;
mod scan;
mod schedule;
mod service;
mod settings;
#[cfg(feature = "sim")]
mod sim;
mod status;
mod status_registry;
mod watch;
mod work_monitor;

pub use error::SyncError;
pub use handle::{OpenBlock, SyncHandle, WeakSyncHandle};
pub use left_out::{LeftOut, LeftOutReason};
pub use preview::{
    ExcludedEntry, Preview, PreviewError, PreviewLimits, PreviewRules, check_patterns,
    find_left_out, is_left_out, preview,
};
pub use service::SyncService;
pub use settings::{
    Clock, Confirmations, FolderSettings, HookSettings, Publisher, SyncOptions, SyncSettings,
    SystemClock, Tuning,
};
#[cfg(feature = "sim")]
pub use sim::SteppedSync;
pub use status::{
    AlarmKind, FileProblem, FolderState, FolderStatus, Progress, Receipt, STATUS_ERRORS_MAX,
    WatchMode, WatchStatus,
};
pub use store::{FileId, InPlaceAnswer};

//! The source side: watches folders, keeps the file index, publishes manifests.
//!
//! Role: everything between a user's file and a manifest that others can ask
//! for. [`SyncService`] runs it; [`SyncHandle`] is how the rest of the program
//! talks to it; what is published goes to a [`Publisher`].
//!
//! One thread a folder ([`folder`]) decides when something is due
//! ([`schedule`]), looks at the disk ([`scan`]), has files read ([`hash`]),
//! writes what was found to the index ([`index`]) and makes manifests
//! ([`publish`]). What the system tells of changes ([`watch`]) is a hint;
//! what a scan finds is the truth.
//!
//! **Invariants.** A manifest names nothing that is not durable, and is shown
//! only when it is durable itself. A file is in it in a state that it had.
//! What could not be looked at keeps its last good state; nothing is a deletion
//! because something failed.
//!
//! What is absent: the network, the backup peer, copies of the user's files
//! (but for those that change too often to be served from where they are).

mod core;
mod error;
mod folder;
mod handle;
mod hash;
mod index;
mod path_key;
mod preview;
mod publish;
mod root_id;
mod rules;
mod scan;
mod schedule;
mod serve;
mod service;
mod settings;
mod status;
mod watch;
mod work_monitor;

pub use error::{Retry, SyncError};
pub use handle::{OpenBlock, SyncHandle};
pub use preview::{LeftOut, Preview, PreviewError, PreviewLimits, check_patterns, preview};
pub use service::SyncService;
pub use settings::{
    Clock, FolderSettings, Publisher, SyncOptions, SyncSettings, SystemClock, Tuning,
};
pub use status::{
    AlarmKind, FileProblem, FolderState, FolderStatus, Progress, Receipt, STATUS_ERRORS_MAX,
    WatchMode, WatchStatus,
};
pub use store::{FileId, InPlaceAnswer};

//! One instance of Archivist: its services and its jobs.
//!
//! * [`Instance`] starts the services in the order of their dependencies and
//!   ends them.
//! * [`Services`] is what jobs and HTTP handlers work with: the store, the
//!   network, both sides, the settings, the journal.
//! * [`Settings`] is the configuration of a running instance.
//! * [`Running`] tells commands where the API of a running instance is.
//!
//! The jobs (retention, collection, recompression, verification, restores) run
//! here. The HTTP interfaces are in the crate `server`, which uses this one.

mod acceptance;
mod backup_side;
mod confirmed;
mod data_dir;
mod downloads;
mod forget;
mod gc_task;
mod healing;
mod healing_state;
mod instance;
mod jobs;
mod journal;
mod json_file;
mod last_verification;
mod local_blocks;
mod log_level;
mod maintenance;
mod names;
mod new_folder;
mod options;
pub mod pairing;
mod problems;
mod receipts;
mod recent_log;
mod recompression;
mod recovery;
mod removed;
mod restore_job;
mod restores;
mod retention_task;
pub mod roots;
mod rules;
mod running;
mod scrub_state;
mod scrub_task;
mod services;
mod settings;
mod snapshot_selector;
pub mod snapshot_source;
mod source_side;
mod start_error;
mod store_marker;
mod tasks;
mod token;
mod traffic;
mod verify_result;

pub use confirmed::{Confirmed, ListError, check_list, guard_collections, issued_receipts};
pub use data_dir::{
    accept_store, check_own_store, check_store, load_identity, make_data_dir, read_identity,
};
pub use downloads::{Download, DownloadError, DownloadState, Downloads};
pub use forget::forget_folder;
pub use gc_task::GcTask;
pub use healing::Healing;
pub use instance::{Instance, InstanceOptions};
pub use jobs::{AlreadyRunning, Jobs};
pub use journal::Journal;
pub use json_file::JsonFile;
pub use last_verification::LastVerificationFile;
pub use local_blocks::{InPlace, LocalBlocks, OpenInPlace};
pub use log_level::{LogLevel, filter};
pub use maintenance::{PruneError, prune, prune_in, start_verify};
pub use names::{UnknownName, check_name, folder_names, source_name, source_names, unknown_name};
pub use net::PeerId;
pub use new_folder::{NewFolderError, check_new_folder, preview_rules};
pub use options::listen_addresses;
pub use problems::Problems;
pub use receipts::{
    ChainError, ChainId, ChainStatus, Interruption, ListedReceipt, ReceiptListing, ReceiptProblem,
    Receipts, StoredReceipt, read_receipts,
};
pub use recent_log::{RecentLog, lines as recent_log_lines};
pub use recovery::{RecoverError, recover, recover_in, search_in};
pub use removed::RemovedFolders;
pub use restore_job::{RestoreJob, start_restore};
pub use restores::{Restores, restore_model};
pub use rules::{Loosened, Rules, RulesFile};
pub use running::Running;
pub use scrub_state::ScrubState;
pub use services::Services;
pub use settings::{Applied, Settings};
pub use snapshot_selector::{SelectError, SnapshotSelector, snapshot_model};
pub use snapshot_source::SnapshotSourceError;
pub use source_side::{WatchedFiles, folder_name};
pub use start_error::StartError;
pub use store_marker::MarkerError;
pub use tasks::Tasks;
pub use traffic::Traffic;
pub use verify_result::verify_result;

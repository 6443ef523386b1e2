//! Why an instance cannot start.

use std::path::PathBuf;

use backup::BackupStartError;
use net::{IdentityError, NetError};
use protocols::TriggerError;
use store::StoreError;
use sync::SyncError;

use crate::store_marker::MarkerError;

use crate::receipts::ChainError;

/// Why an instance cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A file or directory of the data directory cannot be used.
    #[error("cannot use {}", path.display())]
    Data {
        /// The file or directory.
        path: PathBuf,
        /// The error of the operating system.
        #[source]
        source: std::io::Error,
    },
    /// Other users can enter the data directory.
    #[error(
        "{} is open to other users of this computer (mode {mode:o}), and that cannot be changed; \
         it contains backups and keys: `chmod 700` it as its owner, or mount its file system with \
         `umask=0077`",
        path.display()
    )]
    OpenDataDir {
        /// The data directory.
        path: PathBuf,
        /// Its mode.
        mode: u32,
        /// Why the mode cannot be changed, if the operating system said so.
        #[source]
        source: Option<std::io::Error>,
    },
    /// The data directory and the store do not belong together.
    #[error(transparent)]
    Marker(#[from] MarkerError),
    /// The store cannot be opened.
    #[error("cannot open the store")]
    Store(#[from] StoreError),
    /// The key cannot be read or created.
    #[error("cannot use the identity")]
    Identity(#[from] IdentityError),
    /// The network cannot start.
    #[error("cannot start the network")]
    Net(#[from] NetError),
    /// The source side cannot start.
    #[error("cannot watch the folders")]
    Sync(#[from] SyncError),
    /// The receipts of the backup servers cannot be read.
    #[error("cannot read the receipts of the backup servers")]
    Receipts(#[from] ChainError),
    /// The backup server side cannot start.
    #[error("cannot start the backup daemon")]
    Backup(#[from] BackupStartError),
    /// The client that sends triggers cannot be made.
    #[error("cannot create the client that notifies the backup server")]
    Trigger(#[from] TriggerError),
}

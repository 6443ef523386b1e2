//! How the sources are, as people and programs are told.

use jiff::Timestamp;
use net::PeerId;
use pull::PullNumbers;
use serde::Serialize;
use snapshots::SnapshotId;
use types::{Cid, FolderId, SequenceNumber};

/// One word for how a source is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceState {
    /// It has not been asked yet.
    Starting,
    /// All that it has offered is here.
    Idle,
    /// It is being asked.
    Polling,
    /// Something is being pulled.
    Pulling,
    /// It cannot be reached, or something could not be pulled, more often than
    /// `max_retries`; it is tried on.
    Failed,
    /// What it offers is refused.
    Refused,
    /// The backup server is switched off.
    Disabled,
}

impl SourceState {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Idle => "idle",
            Self::Polling => "polling",
            Self::Pulling => "pulling",
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::Disabled => "disabled",
        }
    }
}

/// How a source is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SourceStatus {
    /// What it is called in the configuration.
    pub name: String,
    /// Who it is.
    #[serde(serialize_with = "as_text")]
    pub peer_id: PeerId,
    /// Where it is asked.
    pub manifest_server_url: String,
    /// One word for how it is.
    pub state: SourceState,
    /// What the word means now, where there is more to say.
    pub detail: Option<String>,
    /// When it was last asked, and answered.
    pub last_poll: Option<Timestamp>,
    /// How often in a row it could not be asked since.
    pub poll_failures: u32,
    /// Whether it tells of news at once.
    pub long_poll: bool,
    /// What is wrong, in words.
    pub errors: Vec<String>,
    /// Whether `source accept` would let it go on.
    pub can_be_accepted: bool,
    /// What is being pulled.
    pub pulls: Vec<PullStatus>,
    /// Its folders: those that it offers and those of which there are
    /// snapshots.
    pub folders: Vec<FolderStatus>,
}

/// A manifest that is being pulled.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PullStatus {
    /// The folder.
    pub folder_id: FolderId,
    /// What people call it.
    pub folder_name: String,
    /// The number of the manifest.
    pub sequence: SequenceNumber,
    /// The manifest.
    pub manifest_cid: Cid,
    /// How far it is.
    #[serde(flatten)]
    pub numbers: PullNumbers,
    /// When it began.
    pub started_at: Timestamp,
}

/// How a folder of a source is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FolderStatus {
    /// The folder.
    pub folder_id: FolderId,
    /// What people call it.
    pub folder_name: String,
    /// The newest snapshot: what was processed.
    pub processed: Option<Processed>,
    /// The number of the manifest that the source offers, where that is not
    /// the one of the newest snapshot.
    pub offered_sequence: Option<SequenceNumber>,
    /// Why that could not be pulled, where it could not.
    pub error: Option<String>,
    /// How often in a row that has failed.
    pub failures: u32,
    /// Why it is refused, where it is.
    pub refused: Option<String>,
}

/// A manifest that became a snapshot.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Processed {
    /// Its number.
    pub sequence: SequenceNumber,
    /// The manifest.
    pub manifest_cid: Cid,
    /// When it was complete, by this machine's clock.
    pub received_at: Timestamp,
    /// Everything in it but directories.
    pub files: u64,
    /// The lengths of its files together, in bytes.
    pub bytes: u64,
    /// Whether the source has been told since this instance started.
    pub is_acknowledged: bool,
}

/// What was done since the instance started, and what is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Snapshots that there are, of all sources.
    pub snapshots: u64,
    /// Snapshots that were committed since the start.
    pub committed: u64,
    /// Attempts to pull that failed since the start.
    pub failed_attempts: u64,
    /// Blocks that came over the network since the start.
    pub fetched_blocks: u64,
    /// Their bytes, as they came.
    pub fetched_bytes: u64,
}

/// Something has changed.
#[derive(Clone, Debug)]
pub enum BackupEvent {
    /// How a source is.
    Source(std::sync::Arc<SourceStatus>),
    /// A source is not configured any more.
    SourceRemoved {
        /// What it was called.
        name: String,
    },
    /// There is a new snapshot.
    SnapshotCommitted {
        /// Its name.
        id: SnapshotId,
        /// What its source is called.
        source_name: String,
        /// Whose it is.
        source: PeerId,
        /// The folder.
        folder: FolderId,
        /// What people call it.
        folder_name: String,
        /// The number of its manifest.
        sequence: SequenceNumber,
    },
}

fn as_text<S: serde::Serializer>(peer: &PeerId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(peer)
}

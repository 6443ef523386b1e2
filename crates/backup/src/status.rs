//! The status of the sources, for users and programs.

use jiff::Timestamp;
use net::PeerId;
use pull::PullNumbers;
use serde::Serialize;
use snapshots::SnapshotId;
use types::{Cid, FolderId, SequenceNumber};

/// State of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceState {
    /// The source has not answered yet.
    Starting,
    /// Up to date: every offered manifest has a snapshot.
    Idle,
    /// The source is being polled.
    Polling,
    /// A manifest is being pulled.
    Pulling,
    /// Polls or pulls have failed more often than `max_retries`. Retries continue.
    Failed,
    /// The offers of the source are refused.
    Refused,
    /// The backup server is disabled.
    Disabled,
}

impl SourceState {
    /// Returns the state as one word.
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

/// Status of a source.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SourceStatus {
    /// Name of the source in the configuration.
    pub name: String,
    /// Peer id of the source.
    #[serde(serialize_with = "as_text")]
    pub peer_id: PeerId,
    /// URL of its manifest server.
    pub manifest_server_url: String,
    /// State of the source.
    pub state: SourceState,
    /// Explanation of the state, if there is one.
    pub detail: Option<String>,
    /// Time of the last answered poll.
    pub last_poll: Option<Timestamp>,
    /// Number of failed polls in a row since then.
    pub poll_failures: u32,
    /// True if the source answers long polls.
    pub long_poll: bool,
    /// Errors, for the user.
    pub errors: Vec<String>,
    /// True if `archivist source accept` can resolve the refusal.
    pub can_be_accepted: bool,
    /// The running pulls.
    pub pulls: Vec<PullStatus>,
    /// The folders that the source offers, or that have snapshots.
    pub folders: Vec<FolderStatus>,
}

/// A running pull of a manifest.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PullStatus {
    /// The folder.
    pub folder_id: FolderId,
    /// Display name of the folder.
    pub folder_name: String,
    /// Sequence number of the manifest.
    pub sequence: SequenceNumber,
    /// CID of the manifest.
    pub manifest_cid: Cid,
    /// Progress of the pull.
    #[serde(flatten)]
    pub numbers: PullNumbers,
    /// Start time of the pull.
    pub started_at: Timestamp,
}

/// Status of a folder of a source.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FolderStatus {
    /// The folder.
    pub folder_id: FolderId,
    /// Display name of the folder.
    pub folder_name: String,
    /// The newest snapshot.
    pub processed: Option<ProcessedManifest>,
    /// Sequence number of the offered manifest, if it differs from that of the newest snapshot.
    pub offered_sequence: Option<SequenceNumber>,
    /// Error of the last pull of the offered manifest.
    pub error: Option<String>,
    /// Number of failed pulls in a row.
    pub failures: u32,
    /// Reason why the offered manifest is refused, if it is.
    pub refused: Option<String>,
}

/// The manifest of the newest snapshot.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ProcessedManifest {
    /// Sequence number of the manifest.
    pub sequence: SequenceNumber,
    /// CID of the manifest.
    pub manifest_cid: Cid,
    /// Time at which the snapshot was complete, by the clock of this computer.
    pub received_at: Timestamp,
    /// Number of entries that are not directories.
    pub files: u64,
    /// Total length of the files, in bytes.
    pub bytes: u64,
    /// True if the source has received the receipt since this instance started.
    #[serde(rename = "is_acknowledged")]
    pub is_confirmed: bool,
}

/// Totals of all sources.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BackupTotals {
    /// Number of stored snapshots.
    pub snapshots: u64,
    /// Number of snapshots that were committed since the start.
    pub committed: u64,
    /// Number of pulls that failed since the start.
    pub failed_attempts: u64,
    /// Number of blocks that were received over the network since the start.
    pub fetched_blocks: u64,
    /// Number of bytes that were received over the network since the start.
    pub fetched_bytes: u64,
}

/// A change of the status of a source.
#[derive(Clone, Debug)]
pub enum BackupEvent {
    /// The status of a source has changed.
    Source(std::sync::Arc<SourceStatus>),
    /// A source was removed from the configuration.
    SourceRemoved {
        /// Name of the source.
        name: String,
    },
    /// A snapshot was committed.
    SnapshotCommitted {
        /// Id of the snapshot.
        id: SnapshotId,
        /// Name of the source.
        source_name: String,
        /// Peer id of the source.
        source: PeerId,
        /// The folder.
        folder: FolderId,
        /// Display name of the folder.
        folder_name: String,
        /// Sequence number of the manifest.
        sequence: SequenceNumber,
    },
}

fn as_text<S: serde::Serializer>(peer: &PeerId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(peer)
}

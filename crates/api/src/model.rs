//! JSON bodies of requests and responses. Times are RFC 3339, sizes are in bytes.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use types::{Cid, FolderId, SequenceNumber};
use utoipa::ToSchema;

use crate::integrity::Integrity;

/// State of an instance.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// Peer id of the instance.
    pub peer_id: String,
    /// Multiaddrs under which peers can reach the instance.
    pub addresses: Vec<String>,
    /// Version of the program.
    pub version: String,
    /// Path of the data directory.
    pub data: String,
    /// Watched folders.
    pub folders: Vec<Folder>,
    /// Sources that the instance backs up.
    pub sources: Vec<Source>,
    /// Use of the store.
    pub storage: Storage,
    /// Integrity of the stored data.
    #[serde(default)]
    pub integrity: Integrity,
    /// Conditions that need attention, the most urgent first.
    pub notices: Vec<Notice>,
    /// Keys of settings that were changed and apply after a restart.
    #[serde(default)]
    pub needs_restart: Vec<String>,
}

/// Condition that needs attention.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Notice {
    /// Urgency.
    pub level: NoticeLevel,
    /// Description of the condition.
    pub message: String,
    /// Recommended action, if any.
    pub action: Option<String>,
}

/// Urgency of a notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum NoticeLevel {
    /// Data is not being backed up, or is damaged.
    Error,
    /// Something will need attention.
    Warning,
    /// For information.
    Info,
}

/// Use of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Storage {
    /// Number of blocks in the store.
    pub blocks: u64,
    /// Disk space that the store uses, in bytes.
    pub used_bytes: u64,
    /// Value of the setting `max_storage` in bytes, if it is set.
    pub max_bytes: Option<u64>,
    /// Number of bytes that may be written before `max_storage` or the disk
    /// reserve is reached.
    pub available_bytes: u64,
}

/// Watched folder.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Folder {
    /// Stable id of the folder.
    #[schema(value_type = String)]
    pub id: FolderId,
    /// Name of the folder.
    pub name: String,
    /// Path of the folder on this computer.
    pub path: String,
    /// State: `idle`, `scanning`, `waiting` (for the end of changes), `publishing`,
    /// `paused`, `alarm` (publishes nothing until a user confirms) or `error` (tries
    /// again).
    pub state: String,
    /// Details of the state, if any.
    pub detail: Option<String>,
    /// Sequence number of the newest manifest.
    #[schema(value_type = Option<u64>)]
    pub sequence: Option<SequenceNumber>,
    /// CID of the newest manifest.
    #[schema(value_type = Option<String>)]
    pub manifest_cid: Option<Cid>,
    /// Number of entries that are not directories.
    pub files: u64,
    /// Number of directories.
    pub dirs: u64,
    /// Total length of all files in bytes.
    pub bytes: u64,
    /// Number of changes that are in no manifest yet.
    pub pending_changes: u64,
    /// Sequence number of the newest manifest that the backup server has confirmed.
    #[schema(value_type = Option<u64>)]
    pub backed_up_sequence: Option<SequenceNumber>,
    /// Time of that confirmation.
    #[schema(value_type = Option<String>)]
    pub backed_up_at: Option<Timestamp>,
    /// Creation time of the newest manifest.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub published_at: Option<Timestamp>,
    /// Every change that was saved before this time is on the backup server, except
    /// in the files listed in `errors`. Absent while the newest manifest is not
    /// confirmed, and before the first complete scan since the start.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub up_to: Option<Timestamp>,
    /// End of the last scan.
    #[schema(value_type = Option<String>)]
    pub last_scan: Option<Timestamp>,
    /// Number of directories that are watched for changes.
    pub watched_dirs: u64,
    /// Number of directories that should be watched.
    pub dirs_to_watch: u64,
    /// Type of the file system of the folder, as the system names it. Empty before the
    /// first scan.
    #[serde(default)]
    pub file_system: String,
    /// True if this file system does not report every change. The folder is scanned
    /// every minute then, and `up_to` is the start of the last complete scan.
    #[serde(default)]
    pub is_polled: bool,
    /// Reason to doubt the newest manifest, if any: much was deleted or rewritten
    /// at the same time. A user must confirm it.
    pub held: Option<String>,
    /// Error of the programs in `before_publish` and `after_publish`, if they failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hook_error: Option<String>,
    /// Files that could not be read. The list may be incomplete; see `error_count`.
    pub errors: Vec<FileError>,
    /// Number of files that could not be read.
    pub error_count: u64,
    /// True if other file systems that are mounted in the folder, and btrfs subvolumes, are
    /// left out.
    #[serde(default)]
    pub one_file_system: bool,
    /// True if the contents of directories with a `CACHEDIR.TAG` are left out.
    #[serde(default)]
    pub exclude_caches: bool,
    /// Directories whose contents are not backed up although no pattern excludes them: other
    /// file systems and caches. At most 500 are listed.
    #[serde(default)]
    pub left_out: Vec<LeftOutDir>,
}

/// File that could not be read. The manifest has its last good state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FileError {
    /// Path of the file in the folder.
    pub path: String,
    /// Error message.
    pub error: String,
    /// Time of the first failed attempt.
    #[schema(value_type = Option<String>)]
    pub since: Option<Timestamp>,
}

/// Source that this instance backs up.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Source {
    /// Name of the source in the configuration.
    pub name: String,
    /// Peer id of the source.
    pub peer_id: String,
    /// URL of the manifest server of the source.
    pub manifest_server_url: String,
    /// State: `starting` (not polled yet), `idle` (up to date), `polling`, `pulling`,
    /// `failed` (tries again), `refused` (its manifests are not taken; see
    /// `archivist source accept`) or `disabled`.
    pub state: String,
    /// Details of the state, if any.
    pub detail: Option<String>,
    /// Time of the last successful poll.
    #[schema(value_type = Option<String>)]
    pub last_poll: Option<Timestamp>,
    /// Error messages.
    pub errors: Vec<String>,
    /// Manifests that are being pulled.
    pub pulls: Vec<Pull>,
}

/// Manifest that is being pulled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Pull {
    /// Id of the folder.
    #[schema(value_type = String)]
    pub folder_id: FolderId,
    /// Name of the folder.
    pub folder_name: String,
    /// Sequence number of the manifest.
    #[schema(value_type = u64)]
    pub sequence: SequenceNumber,
    /// Number of files that are complete on this computer.
    pub files_done: u64,
    /// Number of files in the manifest.
    pub files_total: u64,
    /// Number of bytes that are stored on this computer.
    pub bytes_done: u64,
    /// Number of bytes in the manifest.
    pub bytes_total: u64,
    /// Start of the pull.
    #[schema(value_type = String)]
    pub started_at: Timestamp,
}

/// Snapshot that this instance stores completely.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Snapshot {
    /// Id of the snapshot on this instance.
    pub id: String,
    /// Name of the source, or its peer id if it is not configured any more.
    pub source: String,
    /// Peer id of the source.
    pub source_peer_id: String,
    /// Id of the folder.
    #[schema(value_type = String)]
    pub folder_id: FolderId,
    /// Name of the folder.
    pub folder_name: String,
    /// Sequence number of the manifest.
    #[schema(value_type = u64)]
    pub sequence: SequenceNumber,
    /// Creation time of the manifest by the clock of the source.
    #[schema(value_type = String)]
    pub created_at: Timestamp,
    /// Time at which the snapshot was complete, by the clock of this computer.
    #[schema(value_type = String)]
    pub received_at: Timestamp,
    /// Number of entries that are not directories.
    pub files: u64,
    /// Total length of all files in bytes.
    pub bytes: u64,
    /// CID of the manifest.
    #[schema(value_type = String)]
    pub manifest_cid: Cid,
    /// Reason to doubt the snapshot, if any: much was deleted or rewritten at the
    /// same time.
    pub held: Option<String>,
    /// True if the snapshot contains only a part of the folder, because its first scan had
    /// not ended.
    #[serde(default)]
    pub is_part: bool,
}

/// Request to watch a folder.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct AddFolder {
    /// Absolute path of the folder.
    pub path: String,
    /// Name of the folder. The default is the last part of the path.
    #[serde(default)]
    pub name: Option<String>,
    /// Patterns of files to exclude, in gitignore syntax.
    #[serde(default)]
    pub exclude: Vec<String>,
    /// True if file systems that are mounted in the folder, and btrfs subvolumes in it,
    /// are left out. The default is true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub one_file_system: Option<bool>,
    /// True if the contents of directories with a `CACHEDIR.TAG` are left out. The
    /// default is false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exclude_caches: Option<bool>,
}

/// Directory in a folder whose contents are not backed up although no pattern excludes
/// it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LeftOutDir {
    /// Path in the folder.
    pub path: String,
    /// Kind: `mount` (another file system), `remote` (one that is never entered: a network
    /// file system, FUSE, `/proc`), `subvolume` or `cache`.
    pub kind: String,
    /// The reason in words.
    pub reason: String,
}

/// Choice of one folder or all folders.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct FolderChoice {
    /// Id or name of a folder. All folders if absent.
    #[serde(default)]
    pub folder: Option<String>,
}

/// Manifest that is registered, so that the backup server can pull it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Registered {
    /// Id of the folder.
    #[schema(value_type = String)]
    pub folder_id: FolderId,
    /// Name of the folder.
    pub folder_name: String,
    /// Sequence number of the manifest.
    #[schema(value_type = u64)]
    pub sequence: SequenceNumber,
    /// CID of the manifest.
    #[schema(value_type = String)]
    pub manifest_cid: Cid,
    /// Sequence number of the newest manifest that the backup server has confirmed.
    #[schema(value_type = Option<u64>)]
    pub backed_up_sequence: Option<SequenceNumber>,
}

/// Request to back up now.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct BackupNowRequest {
    /// Id or name of a folder. All folders that are not paused if absent.
    #[serde(default)]
    pub folder: Option<String>,
    /// Maximum time in seconds to wait for the confirmation of the backup server.
    /// The call does not wait if absent.
    #[serde(default)]
    pub wait_secs: Option<u64>,
}

/// Result of a request to back up now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BackupNowReport {
    /// Registered manifests.
    pub folders: Vec<Registered>,
    /// Steps in their order. The list ends with the first step that failed.
    pub steps: Vec<Step>,
}

/// One step of a longer action.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Step {
    /// Name of the step.
    pub name: String,
    /// True if the step succeeded.
    pub ok: bool,
    /// Result of the step; after a failure, the reason and the recommended action.
    #[serde(default)]
    pub detail: Option<String>,
}

/// One-time code for pairing with another computer.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct PairingCode {
    /// Code to enter on the other computer.
    pub code: String,
    /// End of the validity of the code.
    #[schema(value_type = String)]
    pub expires_at: Timestamp,
}

/// State of the pairing on the computer that created the code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PairingState {
    /// State: `none` (no code was created), `waiting` (for the other computer),
    /// `joining`, `joined`, `expired` or `failed`.
    pub state: String,
    /// End of the validity of the code, while it is waiting.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub expires_at: Option<Timestamp>,
    /// Peer id of the computer that entered the code.
    #[serde(default)]
    pub peer_id: Option<String>,
    /// Settings that were changed, or the reason of the failure.
    #[serde(default)]
    pub detail: Option<String>,
}

/// Request to pair with the computer that created a code.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct JoinRequest {
    /// The code. Case, blanks and hyphens do not matter.
    pub code: String,
}

/// Result of entering a pairing code.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JoinReport {
    /// Name of the new source on this computer.
    pub name: String,
    /// Peer id of the source.
    pub peer_id: String,
    /// URL of the manifest server of the source.
    pub manifest_server_url: String,
    /// Multiaddrs of the source.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// Settings that were changed on both computers, in words.
    #[serde(default)]
    pub changes: Vec<String>,
    /// Keys of settings on this computer that apply after a restart.
    #[serde(default)]
    pub needs_restart: Vec<String>,
}

/// Options of a verification.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct VerifyRequest {
    /// Read and hash every block. Otherwise only their presence is checked.
    #[serde(default)]
    pub full: bool,
    /// Pull damaged and missing blocks again from a peer that has them.
    #[serde(default)]
    pub repair: bool,
}

/// Long-running action of an instance.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Job {
    /// Id of the job, valid until the instance stops.
    pub id: u64,
    /// Kind of the job: `verify`.
    pub kind: String,
    /// State: `running`, `done` or `failed`.
    pub state: String,
    /// Number of units that are done. A unit of `verify` is a snapshot.
    pub progress_done: u64,
    /// Total number of units, if known.
    #[serde(default)]
    pub progress_total: Option<u64>,
    /// Result of a job that is done. For `verify` a `VerifyResult`.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub result: Option<serde_json::Value>,
    /// Reason of a failure.
    #[serde(default)]
    pub error: Option<String>,
    /// Start of the job.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub started_at: Option<Timestamp>,
    /// End of the job.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub ended_at: Option<Timestamp>,
}

/// Connected peer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Peer {
    /// Peer id.
    pub peer_id: String,
    /// Name of the peer in the configuration, if any.
    pub name: Option<String>,
    /// Addresses of the connections.
    pub addresses: Vec<String>,
    /// Direction of the connections: `inbound` (opened by the peer), `outbound` or
    /// `both`.
    pub direction: String,
    /// Round-trip time of the last ping in milliseconds.
    pub rtt_ms: Option<f64>,
    /// Program name and version that the peer reports.
    pub agent: Option<String>,
    /// True if the peer may fetch blocks from this instance.
    pub is_allowed: bool,
    /// Start of the oldest connection.
    #[schema(value_type = String)]
    pub connected_since: Timestamp,
}

/// Request to connect to a peer.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ConnectRequest {
    /// Multiaddr of the peer that ends with `/p2p/` and its peer id.
    pub address: String,
}

/// Request to change a setting.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ConfigChange {
    /// Key of the setting, for example `node.log_level`.
    pub key: String,
    /// New value. Text is parsed like the argument of `archivist config set`; other
    /// JSON values are used unchanged; `null` restores the default.
    #[schema(value_type = Object)]
    pub value: serde_json::Value,
}

/// Result of a change of the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConfigChanged {
    /// True if the running instance already uses the new value.
    pub applied: bool,
    /// Keys of settings that apply after a restart.
    pub needs_restart: Vec<String>,
}

/// One-time link that opens the web UI.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UiLink {
    /// URL of the link.
    pub url: String,
}

/// An address that a browser can download.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DownloadLink {
    /// Path and query, with a ticket that is valid once.
    pub url: String,
}

/// Body of every error response.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ApiProblem {
    /// Description of the failure, the thing that it concerns, and the recommended
    /// action.
    pub message: String,
}

//! What goes over the API. Times are RFC 3339, sizes are bytes.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use types::{Cid, FolderId, SequenceNumber};
use utoipa::ToSchema;

/// How an instance is.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// Who it is.
    pub peer_id: String,
    /// The multiaddrs at which peers reach it.
    pub addresses: Vec<String>,
    /// The version of the program.
    pub version: String,
    /// Its own data directory.
    pub data: String,
    /// The watched folders.
    pub folders: Vec<Folder>,
    /// The sources that it pulls from.
    pub sources: Vec<Source>,
    /// What it stores.
    pub storage: Storage,
    /// What somebody should look at, in plain words, the most pressing first.
    pub notices: Vec<Notice>,
    /// The settings that were changed and count after a restart.
    #[serde(default)]
    pub needs_restart: Vec<String>,
}

/// Something that somebody should look at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Notice {
    /// How pressing it is.
    pub level: NoticeLevel,
    /// What is the case.
    pub message: String,
    /// What to do about it.
    pub action: Option<String>,
}

/// How pressing a notice is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum NoticeLevel {
    /// Data is not being backed up, or is damaged.
    Error,
    /// Something will need attention.
    Warning,
    /// Good to know.
    Info,
}

/// What an instance stores, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Storage {
    /// Blocks in the store.
    pub blocks: u64,
    /// What the store takes.
    pub used_bytes: u64,
    /// What `max_storage` allows, where there is such a limit.
    pub max_bytes: Option<u64>,
    /// What may still be written until a limit is reached.
    pub available_bytes: u64,
}

/// A watched folder.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Folder {
    /// Its stable id.
    #[schema(value_type = String)]
    pub id: FolderId,
    /// What people call it.
    pub name: String,
    /// Where it is.
    pub path: String,
    /// One word for how it is: `idle`, `scanning`, `waiting`, `publishing`,
    /// `paused`, `alarm` or `error`.
    pub state: String,
    /// What the word means now, where there is more to say.
    pub detail: Option<String>,
    /// The number of its newest manifest.
    #[schema(value_type = Option<u64>)]
    pub sequence: Option<SequenceNumber>,
    /// Its newest manifest.
    #[schema(value_type = Option<String>)]
    pub manifest_cid: Option<Cid>,
    /// Everything in it but directories.
    pub files: u64,
    /// Directories.
    pub dirs: u64,
    /// The lengths of all files together.
    pub bytes: u64,
    /// Changes that are in no manifest yet.
    pub pending_changes: u64,
    /// The number of the newest manifest that the backup server has
    /// acknowledged.
    #[schema(value_type = Option<u64>)]
    pub backed_up_sequence: Option<SequenceNumber>,
    /// When it did.
    #[schema(value_type = Option<String>)]
    pub backed_up_at: Option<Timestamp>,
    /// When its newest manifest was made.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub published_at: Option<Timestamp>,
    /// Whatever was saved before this is on the backup server, but for what is
    /// listed in `errors`. Absent while the newest manifest is not
    /// acknowledged, and until the folder was looked through once since the
    /// start.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub up_to: Option<Timestamp>,
    /// When its last scan ended.
    #[schema(value_type = Option<String>)]
    pub last_scan: Option<Timestamp>,
    /// How many directories are watched, and how many should be.
    pub watched_dirs: u64,
    /// See `watched_dirs`.
    pub dirs_to_watch: u64,
    /// Why its newest state is held, where it is: much was deleted or
    /// rewritten at once.
    pub held: Option<String>,
    /// What could not be read.
    pub errors: Vec<FileError>,
    /// How many there are, of which some are listed.
    pub error_count: u64,
}

/// A file that could not be read; its last good state is in the manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FileError {
    /// Where it is in the folder.
    pub path: String,
    /// What is wrong.
    pub error: String,
    /// Since when.
    #[schema(value_type = Option<String>)]
    pub since: Option<Timestamp>,
}

/// A source that this instance pulls from.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Source {
    /// What it is called in the configuration.
    pub name: String,
    /// Who it is.
    pub peer_id: String,
    /// Where it says what there is to pull.
    pub manifest_server_url: String,
    /// One word for how it is: `starting`, `idle`, `polling`, `pulling`, `failed`,
    /// `refused` or `disabled`.
    pub state: String,
    /// What the word means now, where there is more to say.
    pub detail: Option<String>,
    /// When it was last asked, and answered.
    #[schema(value_type = Option<String>)]
    pub last_poll: Option<Timestamp>,
    /// What is wrong.
    pub errors: Vec<String>,
    /// What is being pulled.
    pub pulls: Vec<Pull>,
}

/// A manifest that is being pulled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Pull {
    /// The folder.
    #[schema(value_type = String)]
    pub folder_id: FolderId,
    /// What people call it.
    pub folder_name: String,
    /// The number of the manifest.
    #[schema(value_type = u64)]
    pub sequence: SequenceNumber,
    /// Files that are here, and all of them.
    pub files_done: u64,
    /// See `files_done`.
    pub files_total: u64,
    /// Bytes that are here, and all of them.
    pub bytes_done: u64,
    /// See `bytes_done`.
    pub bytes_total: u64,
    /// When it began.
    #[schema(value_type = String)]
    pub started_at: Timestamp,
}

/// A manifest that this instance holds, whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Snapshot {
    /// Its name here.
    pub id: String,
    /// The name of its source, or its peer id where it has no name any more.
    pub source: String,
    /// The peer id of its source.
    pub source_peer_id: String,
    /// The folder.
    #[schema(value_type = String)]
    pub folder_id: FolderId,
    /// What people call it.
    pub folder_name: String,
    /// The number of the manifest.
    #[schema(value_type = u64)]
    pub sequence: SequenceNumber,
    /// When the source made it, by its clock.
    #[schema(value_type = String)]
    pub created_at: Timestamp,
    /// When all of it was here, by this machine's clock.
    #[schema(value_type = String)]
    pub received_at: Timestamp,
    /// Everything in it but directories.
    pub files: u64,
    /// The lengths of all files together.
    pub bytes: u64,
    /// The manifest.
    #[schema(value_type = String)]
    pub manifest_cid: Cid,
    /// Why the source held it, where it did.
    pub held: Option<String>,
}

/// A folder that is to be watched.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct AddFolder {
    /// Where it is.
    pub path: String,
    /// What to call it; its last name otherwise.
    #[serde(default)]
    pub name: Option<String>,
    /// What to leave out, in the syntax of .gitignore.
    #[serde(default)]
    pub exclude: Vec<String>,
}

/// Which folder is meant; all, where none is named.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct FolderChoice {
    /// Its id or its name.
    #[serde(default)]
    pub folder: Option<String>,
}

/// A manifest that is registered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Registered {
    /// The folder.
    #[schema(value_type = String)]
    pub folder_id: FolderId,
    /// What people call it.
    pub folder_name: String,
    /// Its number.
    #[schema(value_type = u64)]
    pub sequence: SequenceNumber,
    /// The manifest.
    #[schema(value_type = String)]
    pub manifest_cid: Cid,
    /// The number that the backup server has acknowledged.
    #[schema(value_type = Option<u64>)]
    pub backed_up_sequence: Option<SequenceNumber>,
}

/// What a backup at once is asked for with.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct BackupNowRequest {
    /// The id or the name of a folder; all, where none is named.
    #[serde(default)]
    pub folder: Option<String>,
    /// How long to wait for the backup server to acknowledge, in seconds; not
    /// at all, where it is not given.
    #[serde(default)]
    pub wait_secs: Option<u64>,
}

/// What a backup at once came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BackupNowReport {
    /// The manifests that are registered.
    pub folders: Vec<Registered>,
    /// What was done, in order; it ends with the first that failed.
    pub steps: Vec<Step>,
}

/// One thing that was tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Step {
    /// What, in a few words.
    pub name: String,
    /// Whether it went well.
    pub ok: bool,
    /// How it went; where it failed, why, and what to do.
    #[serde(default)]
    pub detail: Option<String>,
}

/// A code that lets another machine introduce itself, once.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct PairingCode {
    /// What to type there.
    pub code: String,
    /// Until when.
    #[schema(value_type = String)]
    pub expires_at: Timestamp,
}

/// How the pairing stands on the side that made a code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PairingState {
    /// `none`, `waiting`, `joined`, `expired` or `failed`.
    pub state: String,
    /// Until when the code counts, where there is one.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub expires_at: Option<Timestamp>,
    /// Who has entered it.
    #[serde(default)]
    pub peer_id: Option<String>,
    /// What went wrong, or what to do.
    #[serde(default)]
    pub detail: Option<String>,
}

/// A code that the other machine has shown.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct JoinRequest {
    /// As it was typed.
    pub code: String,
}

/// What entering a code has set up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JoinReport {
    /// What the new source is called here.
    pub name: String,
    /// Who it is.
    pub peer_id: String,
    /// Where it says what there is to pull.
    pub manifest_server_url: String,
    /// Its multiaddrs.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// What was set on either side, in plain words.
    #[serde(default)]
    pub changes: Vec<String>,
    /// Keys of this side that count after a restart only.
    #[serde(default)]
    pub needs_restart: Vec<String>,
}

/// What is to be restored, and where to.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct RestoreRequest {
    /// The snapshot; the newest that fits, where none is named.
    #[serde(default)]
    pub snapshot: Option<String>,
    /// The folder, by id or name.
    #[serde(default)]
    pub folder: Option<String>,
    /// The newest at this time.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub at: Option<Timestamp>,
    /// What of it, by paths in the folder; all, where none is named.
    #[serde(default)]
    pub paths: Vec<String>,
    /// More of it, each in base64: paths that are not UTF-8.
    #[serde(default)]
    pub paths_base64: Vec<String>,
    /// An absolute path; made where it is not there.
    pub target: String,
    /// The same in base64, where it is not UTF-8; it counts, then.
    #[serde(default)]
    pub target_base64: Option<String>,
    /// Replace what is in the way.
    #[serde(default)]
    pub overwrite: bool,
    /// Ask the backup server for it, not this instance's own store.
    #[serde(default)]
    pub from_backup_server: bool,
}

/// How a restore stands, or what it did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RestoreReport {
    /// Its name while the instance runs.
    pub id: u64,
    /// `running`, `done`, `failed` or `cancelled`.
    pub state: String,
    /// The snapshot.
    pub snapshot: String,
    /// Entries that were made, and all of them.
    pub entries_done: u64,
    /// See `entries_done`.
    pub entries_total: u64,
    /// Bytes that were written, and all of them.
    pub bytes_done: u64,
    /// See `bytes_done`.
    pub bytes_total: u64,
    /// What was there already and was left alone.
    pub in_the_way: Vec<String>,
    /// What could not be set: owner, attributes, …
    pub not_set: Vec<String>,
    /// What could not be restored.
    pub failed: Vec<String>,
    /// What is never made again: sockets, and devices without the right to.
    #[serde(default)]
    pub skipped: Vec<String>,
    /// Paths that were asked for and are not in the snapshot.
    #[serde(default)]
    pub not_found: Vec<String>,
    /// Whether there is more of these than is listed.
    #[serde(default)]
    pub is_cut_short: bool,
    /// Why it ended, where it failed as a whole.
    pub error: Option<String>,
}

/// What is to be checked.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct VerifyRequest {
    /// Read and hash every block, not only look whether it is there.
    #[serde(default)]
    pub full: bool,
    /// Pull what is damaged or missing again, from a peer that has it.
    #[serde(default)]
    pub repair: bool,
}

/// Long work that an instance does.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Job {
    /// Its name while the instance runs.
    pub id: u64,
    /// What it is: `verify`.
    pub kind: String,
    /// `running`, `done` or `failed`.
    pub state: String,
    /// How much is done: for `verify`, snapshots …
    pub progress_done: u64,
    /// … of so much, where that is known.
    #[serde(default)]
    pub progress_total: Option<u64>,
    /// What came of it, where it is done: for `verify` a [`VerifyResult`].
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub result: Option<serde_json::Value>,
    /// Why it failed.
    #[serde(default)]
    pub error: Option<String>,
    /// When it began.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub started_at: Option<Timestamp>,
    /// When it ended, where it has.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub ended_at: Option<Timestamp>,
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VerifyResult {
    /// Snapshots (and data items) that were checked.
    pub checked: u64,
    /// Blocks that are needed and there.
    pub blocks: u64,
    /// Bytes that were read.
    pub read_bytes: u64,
    /// What is wrong.
    pub problems: Vec<VerifyProblem>,
    /// Blocks that were pulled again.
    pub repaired: u64,
}

/// A block that is needed and cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VerifyProblem {
    /// The block.
    #[schema(value_type = String)]
    pub cid: Cid,
    /// Why.
    pub reason: String,
    /// What it concerns: snapshots by id, data items by CID.
    pub concerns: Vec<String>,
}

/// A connected peer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Peer {
    /// Who it is.
    pub peer_id: String,
    /// Its name in the configuration, where it has one.
    pub name: Option<String>,
    /// The addresses of its connections.
    pub addresses: Vec<String>,
    /// Who opened the connection: `inbound`, `outbound` or `both`.
    pub direction: String,
    /// The time of the last ping, in milliseconds.
    pub rtt_ms: Option<f64>,
    /// The program that it says it is.
    pub agent: Option<String>,
    /// Whether it may fetch blocks here.
    pub is_allowed: bool,
    /// Since when.
    #[schema(value_type = String)]
    pub connected_since: Timestamp,
}

/// A peer that is to be connected.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ConnectRequest {
    /// Its multiaddr, with its peer id at the end.
    pub address: String,
}

/// A setting that is to have another value.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ConfigChange {
    /// The path of the key, such as `node.log_level`.
    pub key: String,
    /// A text is read as a person types it, everything else as it is; `null`
    /// is the default.
    #[schema(value_type = Object)]
    pub value: serde_json::Value,
}

/// What a change of the configuration did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConfigChanged {
    /// Whether what runs goes by it already.
    pub applied: bool,
    /// The keys whose values count after a restart only.
    pub needs_restart: Vec<String>,
}

/// A link that opens the web UI, once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UiLink {
    /// Where it is.
    pub url: String,
}

/// An error, as every call answers it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ApiProblem {
    /// What failed, on what, and what to do.
    pub message: String,
}

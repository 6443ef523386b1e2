//! Receipts: the signed statements of backup servers that snapshots are complete.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use types::{Cid, FolderId, SequenceNumber};
use utoipa::ToSchema;

/// Receipts of a backup server for a folder of this instance.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ReceiptChain {
    /// Peer id of the backup server.
    pub backup_server: String,
    /// Id of the folder.
    #[schema(value_type = String)]
    pub folder_id: FolderId,
    /// Name of the folder, or its id if it is no longer watched.
    pub folder_name: String,
    /// Number of receipts.
    pub count: u64,
    /// Newest receipt.
    pub newest: Option<NewestReceipt>,
    /// Problems: the chain is interrupted, the backup server does not list what it
    /// confirmed, a receipt cannot be stored.
    pub problems: Vec<String>,
}

/// Newest receipt of a chain.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct NewestReceipt {
    /// Position in the chain, from 1.
    pub number: u64,
    /// Sequence number of the confirmed manifest.
    #[schema(value_type = u64)]
    pub sequence: SequenceNumber,
    /// CID of the confirmed manifest.
    #[schema(value_type = String)]
    pub manifest_cid: Cid,
    /// Time at which the snapshot was durable, by the clock of the backup server.
    #[schema(value_type = String)]
    pub received_at: Timestamp,
    /// Time at which the receipt arrived, by the clock of this instance. Not signed.
    #[schema(value_type = String)]
    pub arrived_at: Timestamp,
}

/// Receipt of a backup server. `receipt` is the text that the backup server signed; other
/// fields repeat parts of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Receipt {
    /// Peer id of the backup server.
    pub backup_server: String,
    /// Peer id of the source.
    pub source: String,
    /// Id of the folder.
    #[schema(value_type = String)]
    pub folder_id: FolderId,
    /// Name of the folder. Absent if it is no longer watched.
    pub folder_name: Option<String>,
    /// Position in the chain, from 1.
    pub number: u64,
    /// Sequence number of the confirmed manifest.
    #[schema(value_type = u64)]
    pub sequence: SequenceNumber,
    /// CID of the confirmed manifest.
    #[schema(value_type = String)]
    pub manifest_cid: Cid,
    /// Time at which the snapshot was durable, by the clock of the backup server.
    #[schema(value_type = String)]
    pub received_at: Timestamp,
    /// Time at which the receipt arrived, by the clock of this instance. Not signed.
    #[schema(value_type = String)]
    pub arrived_at: Timestamp,
    /// Hash of the receipt, lower-case hex.
    pub hash: String,
    /// Hash of the receipt before this one. Absent if `number` is 1.
    pub previous: Option<String>,
    /// Reason why the receipt is not valid, or does not continue the chain. Absent if it is
    /// verified.
    pub problem: Option<String>,
    /// Text that the backup server signed.
    pub receipt: String,
    /// Signature of the backup server, base64.
    pub signature: String,
}

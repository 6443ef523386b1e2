//! The messages of the protocol, as JSON.

use jiff::Timestamp;
use manifest::Signature;
use net::PeerId;
use serde::{Deserialize, Serialize};
use types::{Cid, FolderId, SequenceNumber};

/// A request. The source is the peer that sends it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Request {
    /// Lists all snapshots of the source, or those of one folder.
    List {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        folder: Option<FolderId>,
    },
}

/// One answer. Any number of snapshots, followed by one of the others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Answer {
    Snapshot(Box<RemoteSnapshot>),
    End { damaged: u64 },
    Failure(Failure),
}

/// Reason why the backup server lists nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "code", rename_all = "snake_case")]
pub(super) enum Failure {
    NotAllowed,
    Failed,
}

/// A snapshot that a backup server stores for its source, in the form in which it is sent. The
/// signature covers the folder id, the sequence number and the CID, not the other fields.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteSnapshot {
    /// Id of the snapshot on the backup server: 10 hexadecimal digits.
    pub id: String,
    /// Peer id of the source.
    pub source: String,
    /// Id of the folder.
    pub folder_id: FolderId,
    /// Display name of the folder.
    pub folder_name: String,
    /// Sequence number of the manifest.
    pub sequence: SequenceNumber,
    /// Time at which the manifest was made, by the clock of the source.
    pub created_at: Timestamp,
    /// Time at which the snapshot was complete, by the clock of the backup server.
    pub received_at: Timestamp,
    /// Number of entries that are not directories.
    pub files: u64,
    /// Total length of all files, in bytes.
    pub bytes: u64,
    /// CID of the manifest.
    pub manifest_cid: Cid,
    /// Reason to doubt that the user wants this state, if any; see [`types::ManifestHeader::held`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<String>,
    /// The source's signature over the manifest, in base64.
    pub signature: String,
}

impl RemoteSnapshot {
    /// Reports whether `peer` has signed this manifest with this sequence number.
    pub fn is_signed_by(&self, peer: &PeerId) -> bool {
        self.source == peer.to_string()
            && Signature::from_base64(&self.signature).is_ok_and(|signature| {
                let Self { folder_id, sequence, manifest_cid, .. } = self;
                manifest::verify(peer, folder_id, *sequence, manifest_cid, &signature)
            })
    }

    /// Returns the approximate memory use of the snapshot, in bytes.
    pub(super) fn cost(&self) -> usize {
        let texts = [&self.id, &self.source, &self.folder_name, &self.signature];
        let held = self.held.as_ref().map_or(0, String::len);
        size_of::<Self>() + held + texts.into_iter().map(String::len).sum::<usize>()
    }
}

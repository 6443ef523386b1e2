//! What goes over the stream, as JSON.

use jiff::Timestamp;
use manifest::Signature;
use net::PeerId;
use serde::{Deserialize, Serialize};
use types::{Cid, FolderId, SequenceNumber};

/// What is asked for. The source is the peer that asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Question {
    /// All snapshots, or those of a folder.
    List {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        folder: Option<FolderId>,
    },
}

/// One answer; any number of snapshots, then one of the others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Answer {
    Snapshot(Box<RemoteSnapshot>),
    End { damaged: u64 },
    Failure(Failure),
}

/// Why there is nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "code", rename_all = "snake_case")]
pub(super) enum Failure {
    NotAllowed,
    Failed,
}

/// A snapshot that a backup server holds of this instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteSnapshot {
    /// Its name there.
    pub id: String,
    /// Whose it is: this instance.
    pub source: String,
    /// The folder.
    pub folder_id: FolderId,
    /// What people call it.
    pub folder_name: String,
    /// The number of the manifest.
    pub sequence: SequenceNumber,
    /// When it was made, by the clock of the source.
    pub created_at: Timestamp,
    /// When all of it was there, by the clock of the backup server.
    pub received_at: Timestamp,
    /// Everything in it but directories.
    pub files: u64,
    /// The lengths of all files together.
    pub bytes: u64,
    /// The manifest.
    pub manifest_cid: Cid,
    /// Why the source held it, where it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<String>,
    /// The source's signature over the manifest, in base64.
    pub signature: String,
}

impl RemoteSnapshot {
    /// Whether `peer` has signed that this manifest has this number.
    pub fn is_signed_by(&self, peer: &PeerId) -> bool {
        self.source == peer.to_string()
            && Signature::from_base64(&self.signature).is_ok_and(|signature| {
                let Self { folder_id, sequence, manifest_cid, .. } = self;
                manifest::verify(peer, folder_id, *sequence, manifest_cid, &signature)
            })
    }

    /// About how much memory it takes, in bytes.
    pub(super) fn cost(&self) -> usize {
        let texts = [&self.id, &self.source, &self.folder_name, &self.signature];
        let held = self.held.as_ref().map_or(0, String::len);
        size_of::<Self>() + held + texts.into_iter().map(String::len).sum::<usize>()
    }
}

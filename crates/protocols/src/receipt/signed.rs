//! The form of a receipt: its text, its signature and its hash (docs/formats/receipt.md).
//!
//! A receipt is a line of JSON, and a signature over exactly these bytes. Nothing encodes the text
//! again: the source stores it as it arrived, so fields that a later version adds stay signed.
//!
//! Invariants: the signed bytes start with a text that nothing else signs. A receipt names the
//! receipt before it by its hash, so that a receipt that is removed from a chain, or put into it,
//! is noticed.

use std::fmt;

use data_encoding::HEXLOWER;
use jiff::Timestamp;
use manifest::{Signature, SignatureError, sign_bytes, verify, verify_bytes};
use net::{Keypair, PeerId};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use types::{Cid, FolderId, SequenceNumber, printable_line};

/// First part of the signed bytes; separates them from all other uses of the key.
const DOMAIN: &[u8] = b"archivist receipt 1\n";
const VERSION: u64 = 1;
/// Maximum length of the text, in bytes; ours has about 500.
const TEXT_LEN_MAX: usize = 2048;

/// The content of a receipt: the backup server's statement that a snapshot is complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Position in the chain, from 1. There is one chain for each backup server, source and folder.
    pub number: u64,
    /// Hash of the receipt before this one; `None` for the first of the chain.
    pub previous: Option<ReceiptHash>,
    /// Peer id of the backup server, which signs the receipt.
    pub backup_server: PeerId,
    /// Peer id of the source.
    pub source: PeerId,
    /// The content of the statement.
    pub confirmation: Confirmation,
}

/// The snapshot that a receipt confirms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confirmation {
    /// Id of the folder on the source.
    pub folder_id: FolderId,
    /// Sequence number of the manifest.
    pub sequence: SequenceNumber,
    /// CID of the manifest.
    pub manifest_cid: Cid,
    /// The source's own signature over the manifest. By it the source recognizes a manifest that
    /// it published, however long ago.
    pub manifest_signature: Signature,
    /// Time at which the snapshot was durable, by the backup server's clock.
    pub received_at: Timestamp,
}

/// SHA-256 of the signed bytes of a receipt.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReceiptHash([u8; 32]);

/// A receipt with its signature, in the bytes in which it was signed or arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedReceipt {
    text: String,
    signature: Signature,
    receipt: Receipt,
    hash: ReceiptHash,
}

/// Reason why a text is not a receipt.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReceiptFormError {
    /// The text is not of the form; contains the reason.
    #[error("not a receipt: {0}")]
    Malformed(String),
    /// The receipt has a version that this program does not support.
    #[error("receipt of version {0}; this program supports version 1")]
    Version(u64),
}

/// A receipt as it is sent and stored. Not checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EncodedReceipt {
    /// The signed text.
    pub receipt: String,
    /// The signature, in base64.
    pub signature: String,
}

/// The fields of the text, in their order.
#[derive(Serialize, Deserialize)]
struct Fields {
    archivist_receipt: u64,
    number: u64,
    previous: Option<String>,
    backup_server: String,
    source: String,
    folder: FolderId,
    sequence: SequenceNumber,
    manifest: Cid,
    manifest_signature: String,
    received_at: Timestamp,
}

#[derive(Deserialize)]
struct VersionOnly {
    archivist_receipt: u64,
}

impl ReceiptHash {
    /// Returns the hash of a signed text.
    fn of(text: &str) -> Self {
        Self(Sha256::new().chain_update(DOMAIN).chain_update(text).finalize().into())
    }

    fn parse(text: &str) -> Option<Self> {
        let bytes = HEXLOWER.decode(text.as_bytes()).ok()?;
        Some(Self(bytes.try_into().ok()?))
    }
}

impl fmt::Display for ReceiptHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for ReceiptHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Receipt {
    /// Signs the receipt.
    ///
    /// # Errors
    ///
    /// Returns [`SignatureError::Key`] if the key cannot sign.
    ///
    /// # Panics
    ///
    /// Panics if `keypair` is not the key of [`Receipt::backup_server`].
    pub fn sign(self, keypair: &Keypair) -> Result<SignedReceipt, SignatureError> {
        assert_eq!(self.backup_server, keypair.public().to_peer_id(), "the server's own key signs");
        let text = self.text();
        let signature = sign_bytes(keypair, &signed_bytes(&text))?;
        Ok(SignedReceipt { hash: ReceiptHash::of(&text), text, signature, receipt: self })
    }

    fn text(&self) -> String {
        let confirmation = &self.confirmation;
        let fields = Fields {
            archivist_receipt: VERSION,
            number: self.number,
            previous: self.previous.map(|hash| hash.to_string()),
            backup_server: self.backup_server.to_string(),
            source: self.source.to_string(),
            folder: confirmation.folder_id.clone(),
            sequence: confirmation.sequence,
            manifest: confirmation.manifest_cid,
            manifest_signature: confirmation.manifest_signature.to_base64(),
            received_at: confirmation.received_at,
        };
        serde_json::to_string(&fields).expect("numbers and texts have a JSON form")
    }
}

/// Returns the bytes that the signature and the hash cover.
fn signed_bytes(text: &str) -> Vec<u8> {
    [DOMAIN, text.as_bytes()].concat()
}

impl SignedReceipt {
    /// Parses a receipt. Its signatures are not verified: see [`SignedReceipt::is_signed`].
    ///
    /// # Errors
    ///
    /// Returns [`ReceiptFormError`] if the text or the signature is malformed, or the version is
    /// not supported.
    pub fn parse(encoded: EncodedReceipt) -> Result<Self, ReceiptFormError> {
        let malformed = |error: &dyn fmt::Display| {
            ReceiptFormError::Malformed(printable_line(&error.to_string()))
        };
        let EncodedReceipt { receipt: text, signature } = encoded;
        if text.len() > TEXT_LEN_MAX {
            return Err(malformed(&"the text is too long"));
        }
        let version: VersionOnly =
            serde_json::from_str(&text).map_err(|error| malformed(&error))?;
        if version.archivist_receipt != VERSION {
            return Err(ReceiptFormError::Version(version.archivist_receipt));
        }
        let fields: Fields = serde_json::from_str(&text).map_err(|error| malformed(&error))?;
        let peer = |text: &str| text.parse::<PeerId>().map_err(|error| malformed(&error));
        let signature_of =
            |text: &str| Signature::from_base64(text).map_err(|error| malformed(&error));
        let previous = match fields.previous.as_deref().map(ReceiptHash::parse) {
            Some(None) => return Err(malformed(&"`previous` is not a hash")),
            Some(hash) => hash,
            None => None,
        };
        if fields.number == 0 || previous.is_none() != (fields.number == 1) {
            return Err(malformed(&"`number` does not agree with `previous`"));
        }
        let receipt = Receipt {
            number: fields.number,
            previous,
            backup_server: peer(&fields.backup_server)?,
            source: peer(&fields.source)?,
            confirmation: Confirmation {
                folder_id: fields.folder,
                sequence: fields.sequence,
                manifest_cid: fields.manifest,
                manifest_signature: signature_of(&fields.manifest_signature)?,
                received_at: fields.received_at,
            },
        };
        Ok(Self {
            signature: signature_of(&signature)?,
            hash: ReceiptHash::of(&text),
            text,
            receipt,
        })
    }

    /// Returns the form in which the receipt is sent and stored.
    pub fn encode(&self) -> EncodedReceipt {
        EncodedReceipt { receipt: self.text.clone(), signature: self.signature.to_base64() }
    }

    /// Reports whether the backup server that the receipt names signed it, and the source that it
    /// names signed the manifest.
    pub fn is_signed(&self) -> bool {
        let Receipt { backup_server, source, confirmation, .. } = &self.receipt;
        verify_bytes(backup_server, &signed_bytes(&self.text), &self.signature)
            && verify(
                source,
                &confirmation.folder_id,
                confirmation.sequence,
                &confirmation.manifest_cid,
                &confirmation.manifest_signature,
            )
    }

    /// Returns the content.
    pub fn receipt(&self) -> &Receipt {
        &self.receipt
    }

    /// Returns the confirmed snapshot.
    pub fn confirmation(&self) -> &Confirmation {
        &self.receipt.confirmation
    }

    /// Returns the hash by which the next receipt of the chain names this one.
    pub fn hash(&self) -> ReceiptHash {
        self.hash
    }

    /// Reports whether this receipt follows `before` in a chain; `None` is the start of a chain.
    pub fn follows(&self, before: Option<&Self>) -> bool {
        let number = before.map_or(0, |before| before.receipt.number);
        self.receipt.previous == before.map(Self::hash)
            && number.checked_add(1) == Some(self.receipt.number)
    }
}

//! The JSON document of `GET /manifests`: writing on the source, parsing on the
//! backup server. Specified in `docs/formats/http.md`.

use std::fmt;

use jiff::Timestamp;
use libp2p_identity::PeerId;
use multiaddr::Multiaddr;
use serde::de::{Error as _, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use types::{Cid, FolderId, PublishedManifest, SequenceNumber, printable_line};

use crate::proof::is_nonce;
use crate::signature::Signature;

/// HTTP header in which a client sends its peer id. It proves nothing. The source
/// shows it to tell its user which peer to allow.
pub const PEER_HEADER: &str = "archivist-peer";

/// Maximum number of manifests in a document. A document with more is refused.
const MANIFESTS_MAX: usize = 4096;
/// Maximum number of addresses that are used; further ones are ignored.
const ADDRESSES_MAX: usize = 32;
/// Maximum length of a folder name in bytes. The path may be four times as long.
const NAME_LEN_MAX: usize = 1024;

/// Manifest that a source offers, with its signature.
///
/// On the source, [`crate::ManifestRegistry`] makes the offer and the signature is
/// valid. On a backup server, the offer comes from a [`Discovery`] and may be
/// forged until [`crate::check`] has verified it. The signature covers the folder
/// id, the sequence number and the CID, not the other fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The offered manifest.
    pub published: PublishedManifest,
    /// Signature of the source; see [`crate::verify`].
    pub signature: Signature,
    /// Number of the newest snapshot of the folder whose receipt the source has; 0 if it has none.
    /// `None` on the source, and if the source does not say it. Only the signature of the answer
    /// as a whole covers it; see [`crate::AnswerProof`].
    pub confirmed: Option<SequenceNumber>,
}

/// Discovery document of a source, parsed but unverified; see [`crate::check`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discovery {
    /// Peer id that the source claims.
    pub peer: PeerId,
    /// Claimed addresses of the source, without those that cannot be parsed.
    pub addresses: Vec<Multiaddr>,
    /// Offered manifests.
    pub manifests: Vec<Offer>,
    /// Entries that could not be parsed.
    pub malformed: Vec<MalformedOffer>,
    /// Time of the response by the clock of the source.
    pub timestamp: Option<Timestamp>,
    /// Nonce of the request that the source answered, if it had one.
    pub nonce: Option<String>,
}

/// Entry of a discovery document that could not be parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MalformedOffer {
    /// Id of the folder, if it could be parsed.
    pub folder: Option<FolderId>,
    /// Error of the parser.
    pub reason: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DiscoveryOut {
    pub(crate) peer_id: String,
    pub(crate) addresses: Vec<String>,
    pub(crate) manifests: Vec<OfferOut>,
    /// Not part of the text that the ETag is computed from, as all that follow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) timestamp: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) nonce: Option<String>,
    /// The last field: it signs the text before it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) signature: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct OfferOut {
    folder_id: FolderId,
    folder_name: String,
    folder_path: String,
    manifest_cid: Cid,
    sequence_number: SequenceNumber,
    updated_at: Timestamp,
    file_count: u64,
    total_size_bytes: u64,
    signature: String,
    /// Not part of the text that the ETag is computed from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) confirmed_sequence: Option<u64>,
}

impl OfferOut {
    /// Returns the id of the folder.
    pub(crate) fn folder(&self) -> &FolderId {
        &self.folder_id
    }
}

impl From<&Offer> for OfferOut {
    fn from(offer: &Offer) -> Self {
        let published = offer.published.clone();
        Self {
            folder_id: published.folder_id,
            folder_name: published.folder_name,
            folder_path: published.folder_path,
            manifest_cid: published.manifest_cid,
            sequence_number: published.sequence_number,
            updated_at: published.updated_at,
            file_count: published.file_count,
            total_size_bytes: published.total_size_bytes,
            signature: offer.signature.to_base64(),
            confirmed_sequence: None,
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DiscoveryIn {
    peer_id: String,
    #[serde(default, deserialize_with = "first_addresses")]
    addresses: Vec<String>,
    #[serde(deserialize_with = "not_too_many")]
    manifests: Vec<Box<RawValue>>,
    #[serde(default)]
    timestamp: Option<String>,
    #[serde(default)]
    nonce: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OfferIn {
    folder_id: FolderId,
    #[serde(default)]
    folder_name: String,
    #[serde(default)]
    folder_path: String,
    manifest_cid: Cid,
    sequence_number: SequenceNumber,
    #[serde(default)]
    updated_at: Option<Timestamp>,
    #[serde(default)]
    file_count: u64,
    #[serde(default)]
    total_size_bytes: u64,
    signature: String,
    #[serde(default)]
    confirmed_sequence: Option<u64>,
}

/// The field of an entry that identifies the folder.
#[derive(Deserialize)]
struct FolderOnly {
    #[serde(rename = "folderId")]
    folder_id: FolderId,
}

/// Deserializes the first [`ADDRESSES_MAX`] texts of a list and skips the rest.
fn first_addresses<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    struct First;

    impl<'de> Visitor<'de> for First {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of addresses")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut first = Vec::new();
            while first.len() < ADDRESSES_MAX {
                match list.next_element()? {
                    Some(address) => first.push(address),
                    None => return Ok(first),
                }
            }
            while list.next_element::<IgnoredAny>()?.is_some() {}
            Ok(first)
        }
    }

    from.deserialize_seq(First)
}

/// Deserializes a list of at most [`MANIFESTS_MAX`] values. A document of 4 MiB
/// could have more than a million, each of which would use memory later.
fn not_too_many<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Box<RawValue>>, D::Error> {
    struct Few;

    impl<'de> Visitor<'de> for Few {
        type Value = Vec<Box<RawValue>>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of manifests")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut few = Vec::new();
            while let Some(manifest) = list.next_element()? {
                if few.len() == MANIFESTS_MAX {
                    let what = format!("more than {MANIFESTS_MAX} manifests");
                    return Err(A::Error::custom(what));
                }
                few.push(manifest);
            }
            Ok(few)
        }
    }

    from.deserialize_seq(Few)
}

impl Discovery {
    /// Parses the document. Unknown fields are ignored.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        // Text that is not JSON is a different error than unexpected JSON.
        serde_json::from_slice::<IgnoredAny>(bytes).map_err(ParseError::Json)?;
        let read: DiscoveryIn = serde_json::from_slice(bytes).map_err(ParseError::Schema)?;
        let peer =
            read.peer_id.parse().map_err(|_| ParseError::Peer(printable_line(&read.peer_id)))?;
        let addresses = read.addresses.iter().take(ADDRESSES_MAX);
        let mut discovery = Self {
            peer,
            addresses: addresses.filter_map(|text| text.parse().ok()).collect(),
            manifests: Vec::new(),
            malformed: Vec::new(),
            timestamp: read.timestamp.and_then(|text| text.parse().ok()),
            nonce: read.nonce.filter(|nonce| is_nonce(nonce)),
        };
        for manifest in &read.manifests {
            match Offer::read(manifest) {
                Ok(offer) => discovery.manifests.push(offer),
                Err(reason) => {
                    let folder = serde_json::from_str(manifest.get()).ok();
                    let folder = folder.map(|only: FolderOnly| only.folder_id);
                    discovery.malformed.push(MalformedOffer { folder, reason });
                }
            }
        }
        Ok(discovery)
    }
}

impl Offer {
    fn read(manifest: &RawValue) -> Result<Self, String> {
        let read: OfferIn = serde_json::from_str(manifest.get())
            .map_err(|error| printable_line(&error.to_string()))?;
        if read.folder_name.len() > NAME_LEN_MAX || read.folder_path.len() > 4 * NAME_LEN_MAX {
            return Err("the folder name or path is too long".to_owned());
        }
        let signature =
            Signature::from_base64(&read.signature).map_err(|error| error.to_string())?;
        let published = PublishedManifest {
            folder_id: read.folder_id,
            folder_name: read.folder_name,
            folder_path: read.folder_path,
            manifest_cid: read.manifest_cid,
            sequence_number: read.sequence_number,
            updated_at: read.updated_at.unwrap_or(Timestamp::UNIX_EPOCH),
            file_count: read.file_count,
            total_size_bytes: read.total_size_bytes,
        };
        let confirmed = read.confirmed_sequence.map(SequenceNumber);
        Ok(Self { published, signature, confirmed })
    }
}

/// Reasons for which bytes are not a discovery document.
#[derive(Debug)]
pub(crate) enum ParseError {
    Json(serde_json::Error),
    Schema(serde_json::Error),
    Peer(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFER: &str = r#"{"folderId":"docs","folderName":"Documents","folderPath":"/home/me/Documents",
        "manifestCid":"bafyr4iezgluasbydyvfu6vlmebf3pnuvqexbpbqxvwaybyz5y6lvvg6kxu",
        "sequenceNumber":42,"updatedAt":"2026-11-22T10:30:00Z","fileCount":1234,"totalSizeBytes":5678,
        "signature":"YWJj"}"#;

    fn document(manifests: &str) -> String {
        format!(
            r#"{{"peerId":"12D3KooWPjceQrSwdWXPyLLeABRXmuqt69Rg3sBYbU1Nft9HyQ6X",
            "addresses":["/ip4/192.0.2.10/tcp/8070","nonsense"],"manifests":[{manifests}],
            "timestamp":"2026-11-22T10:30:05Z","later":{{"field":[]}}}}"#
        )
    }

    fn offer() -> String {
        let cid = types::Cid::of(types::Codec::DagCbor, b"m").to_string();
        OFFER.replace("bafyr4iezgluasbydyvfu6vlmebf3pnuvqexbpbqxvwaybyz5y6lvvg6kxu", &cid)
    }

    #[test]
    fn what_is_good_is_read_beside_what_is_not() {
        let good = offer();
        let worse = [
            good.replace("42", "-1"),
            good.replace("docs", "../etc"),
            good.replace("YWJj", "no base64"),
            good.replace("Documents", &"x".repeat(5000)),
            "7".to_owned(),
            "{}".to_owned(),
        ];
        let all = [&[good], &worse[..]].concat().join(",");
        let discovery = Discovery::parse(document(&all).as_bytes()).unwrap();
        assert_eq!(discovery.manifests.len(), 1);
        assert_eq!(discovery.manifests[0].published.sequence_number.0, 42);
        assert_eq!(discovery.malformed.len(), worse.len());
        assert_eq!(discovery.malformed[0].folder, Some("docs".parse().unwrap()));
        assert_eq!(discovery.addresses.len(), 1);
        assert!(discovery.timestamp.is_some());
    }

    #[test]
    fn what_is_no_document_is_told_apart() {
        for (bytes, is_json) in
            [("<html>", false), ("", false), ("[]", true), ("{}", true), (r#"{"peerId":7}"#, true)]
        {
            let error = Discovery::parse(bytes.as_bytes()).unwrap_err();
            assert_eq!(matches!(error, ParseError::Schema(_)), is_json, "{bytes}: {error:?}");
        }
        let odd = document("").replace("12D3", "ZZZZ");
        assert!(matches!(Discovery::parse(odd.as_bytes()), Err(ParseError::Peer(_))));
        // Deep nesting is an error, not a stack overflow.
        let deep = "[".repeat(1 << 20);
        assert!(matches!(Discovery::parse(deep.as_bytes()), Err(ParseError::Json(_))));
    }

    #[test]
    fn a_source_cannot_offer_without_end() {
        let most = vec!["{}"; MANIFESTS_MAX].join(",");
        let read = Discovery::parse(document(&most).as_bytes()).unwrap();
        assert_eq!(read.malformed.len(), MANIFESTS_MAX);
        let error = Discovery::parse(document(&format!("{most},{{}}")).as_bytes()).unwrap_err();
        let ParseError::Schema(error) = error else { panic!("{error:?}") };
        assert!(error.to_string().contains("more than 4096 manifests"), "{error}");
        // Of any number of addresses, the first ones are taken.
        let many = vec![r#""/ip4/192.0.2.10/tcp/8070""#; 100_000].join(",");
        let with_many = document("").replace(r#""nonsense""#, &many);
        assert_eq!(Discovery::parse(with_many.as_bytes()).unwrap().addresses.len(), ADDRESSES_MAX);
        // An entry that nests too deeply is malformed.
        let deep = format!("{}{}", "[".repeat(1 << 20), "]".repeat(1 << 20));
        let document = document(&deep);
        assert_eq!(Discovery::parse(document.as_bytes()).unwrap().malformed.len(), 1);
    }

    #[test]
    fn fuzz_discovery() {
        fuzzing::target!(&[document("")], |bytes: &[u8]| {
            if let Ok(found) = Discovery::parse(bytes) {
                assert!(found.manifests.len() + found.malformed.len() <= MANIFESTS_MAX);
                assert!(found.addresses.len() <= ADDRESSES_MAX);
            }
        });
    }
}

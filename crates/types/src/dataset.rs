//! [`Dataset`]: content with a file name and a MIME type.
//!
//! `POST /data` makes a dataset of each upload, and a source makes one of each
//! manifest that it publishes.
//!
//! The block is the DAG-CBOR map `{"tree": link, "size": u64, "filename": text |
//! null, "mimetype": text | null, "dataset": 1}`. For an upload, `tree` is the CID
//! of the content as a file: the root [`crate::FileNode`], or the only chunk. For
//! a manifest, `tree` is the CID of the header. Equal bytes with equal name and
//! type have equal CIDs. Specified in `docs/formats/block.md`.

use serde::{Deserialize, Serialize};

use crate::{Block, BlockScheme, Cid, Codec, NodeError};

/// Maximum length of the file name in bytes, as in Linux file systems.
pub const MAX_FILENAME_LEN: usize = 255;

/// Maximum length of the MIME type with its parameters in bytes.
pub const MAX_MIMETYPE_LEN: usize = 255;

/// Version of the format.
pub(crate) const VERSION: u64 = 1;

const LONG_FILENAME: &str = "the file name is longer than 255 bytes";
const LONG_MIMETYPE: &str = "the MIME type is longer than 255 bytes";

/// Content with a file name and a MIME type. An upload is a dataset, and so is a
/// manifest (see [`crate::MANIFEST_MIME`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dataset {
    /// CID of the content: a file node, a chunk, or the header of a manifest.
    pub tree: Cid,
    /// Length of the content in bytes; for a manifest, of the header alone.
    pub size: u64,
    /// File name for a download, if any.
    pub filename: Option<String>,
    /// MIME type for a download, if any.
    pub mimetype: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    dataset: u64,
    filename: Option<String>,
    mimetype: Option<String>,
    size: u64,
    tree: cid::Cid,
}

impl Dataset {
    /// Encodes the dataset as a block.
    ///
    /// # Errors
    ///
    /// Returns [`NodeError::Rule`] if the name exceeds [`MAX_FILENAME_LEN`] or
    /// the type [`MAX_MIMETYPE_LEN`].
    pub fn encode(&self, scheme: &BlockScheme) -> Result<Block, NodeError> {
        self.check()?;
        let wire = Wire {
            dataset: VERSION,
            filename: self.filename.clone(),
            mimetype: self.mimetype.clone(),
            size: self.size,
            tree: self.tree.to_generic(),
        };
        let bytes =
            serde_ipld_dagcbor::to_vec(&wire).expect("a map of texts and links has a CBOR form");
        scheme
            .block(Codec::DagCbor, bytes)
            .map_err(|_| NodeError::Rule("the dataset is longer than a block"))
    }

    /// Decodes a dataset and checks it.
    ///
    /// # Errors
    ///
    /// Returns [`NodeError::Malformed`] if the bytes are not a dataset,
    /// [`NodeError::Newer`] if they are one of a later version or a sealed node,
    /// [`NodeError::Link`] if `tree` is not a supported CID, and
    /// [`NodeError::Rule`] if a text is too long.
    pub fn decode(bytes: &[u8]) -> Result<Self, NodeError> {
        let newer_or = |otherwise| NodeError::newer_or(bytes, VERSION, otherwise);
        let wire: Wire = serde_ipld_dagcbor::from_slice(bytes)
            .map_err(|error| newer_or(NodeError::malformed(&error)))?;
        if wire.dataset != VERSION {
            return Err(newer_or(NodeError::Rule("the dataset has an unknown version")));
        }
        let dataset = Self {
            tree: Cid::from_bytes(&wire.tree.to_bytes())?,
            size: wire.size,
            filename: wire.filename,
            mimetype: wire.mimetype,
        };
        dataset.check()?;
        Ok(dataset)
    }

    fn check(&self) -> Result<(), NodeError> {
        if self.filename.as_ref().is_some_and(|name| name.len() > MAX_FILENAME_LEN) {
            return Err(NodeError::Rule(LONG_FILENAME));
        }
        if self.mimetype.as_ref().is_some_and(|mime| mime.len() > MAX_MIMETYPE_LEN) {
            return Err(NodeError::Rule(LONG_MIMETYPE));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Dataset {
        Dataset {
            tree: Cid::of(Codec::Raw, b"some file contents"),
            size: 18,
            filename: Some("notes.txt".into()),
            mimetype: None,
        }
    }

    #[test]
    fn a_dataset_reads_back_and_its_name_is_golden() {
        let block = sample().encode(&BlockScheme::plain()).unwrap();
        assert_eq!(Dataset::decode(block.data()).unwrap(), sample());
        assert_eq!(
            block.cid().to_string(),
            "bafyr4igpajhgqx345vspsympvju5oy7ulw62pbrhphv3zt4tkt4o4tb2l4"
        );
    }

    #[test]
    fn a_file_node_is_not_a_dataset_and_limits_hold() {
        assert!(matches!(Dataset::decode(b"\xa0"), Err(NodeError::Malformed(_))));
        let long = Dataset { filename: Some("x".repeat(256)), ..sample() };
        assert_eq!(long.encode(&BlockScheme::plain()).unwrap_err(), NodeError::Rule(LONG_FILENAME));
        let long = Dataset { mimetype: Some("x".repeat(256)), ..sample() };
        assert_eq!(long.encode(&BlockScheme::plain()).unwrap_err(), NodeError::Rule(LONG_MIMETYPE));
    }
}

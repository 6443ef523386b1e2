//! Content with a name and a type: what `POST /data` makes.
//!
//! The DAG-CBOR map `{"tree": link, "size": u64, "filename": text | null,
//! "mimetype": text | null, "dataset": 1}`, where `tree` is the CID of the
//! content as a file: [`crate::FileNode`]'s root, or the one chunk. The same
//! bytes under the same name and type are the same dataset.

use serde::{Deserialize, Serialize};

use crate::{Block, Cid, Codec, NodeError};

/// The longest file name, in bytes: what file systems allow one component.
pub const MAX_FILENAME_LEN: usize = 255;

/// The longest MIME type with its parameters, in bytes.
pub const MAX_MIMETYPE_LEN: usize = 255;

/// The version of the format.
const VERSION: u8 = 1;

/// Content with a file name and a MIME type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dataset {
    /// The content: a file node, or a chunk.
    pub tree: Cid,
    /// The length of the content, in bytes.
    pub size: u64,
    /// The name that a download is given.
    pub filename: Option<String>,
    /// The MIME type that a download is given.
    pub mimetype: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    dataset: u8,
    filename: Option<String>,
    mimetype: Option<String>,
    size: u64,
    tree: cid::Cid,
}

impl Dataset {
    /// The dataset as a block.
    ///
    /// # Errors
    ///
    /// [`NodeError::Rule`] where the name or the type is over its limit.
    pub fn encode(&self) -> Result<Block, NodeError> {
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
        Block::new(Codec::DagCbor, bytes).map_err(|_| NodeError::Rule("a dataset over a block"))
    }

    /// Reads a dataset and checks it.
    ///
    /// # Errors
    ///
    /// [`NodeError`], naming what is wrong.
    pub fn decode(bytes: &[u8]) -> Result<Self, NodeError> {
        let wire: Wire =
            serde_ipld_dagcbor::from_slice(bytes).map_err(|error| NodeError::malformed(&error))?;
        if wire.dataset != VERSION {
            return Err(NodeError::Rule("an unknown version of dataset"));
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
            return Err(NodeError::Rule("a file name over 255 bytes"));
        }
        if self.mimetype.as_ref().is_some_and(|mime| mime.len() > MAX_MIMETYPE_LEN) {
            return Err(NodeError::Rule("a MIME type over 255 bytes"));
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
        let block = sample().encode().unwrap();
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
        assert_eq!(long.encode().unwrap_err(), NodeError::Rule("a file name over 255 bytes"));
        let long = Dataset { mimetype: Some("x".repeat(256)), ..sample() };
        assert_eq!(long.encode().unwrap_err(), NodeError::Rule("a MIME type over 255 bytes"));
    }
}

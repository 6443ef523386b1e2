//! Finds the references from one block to others.

use ipld_core::codec::Links;
use serde_ipld_dagcbor::codec::DagCborCodec;

use crate::manifest::manifest_links;
use crate::{Cid, Codec, NodeError};

/// Returns the CIDs of the blocks that a block refers to, in the order in which
/// they occur. Garbage collection keeps them as long as the block itself.
///
/// A chunk ([`Codec::Raw`]) has none. A segment of a manifest refers to the content
/// of its files. The header refers to the segments but not to the manifest before
/// it.
///
/// # Errors
///
/// Returns [`NodeError::Malformed`] if the bytes do not have the format of
/// `codec`, and [`NodeError::Link`] if a link is not a supported CID.
pub fn links(codec: Codec, bytes: &[u8]) -> Result<Vec<Cid>, NodeError> {
    match codec {
        Codec::Raw => Ok(Vec::new()),
        Codec::DagCbor => DagCborCodec::links(bytes)
            .map_err(|error| NodeError::malformed(&error))?
            .map(|cid| Cid::from_bytes(&cid.to_bytes()).map_err(NodeError::from))
            .collect(),
        Codec::Json => manifest_links(bytes).map_err(|error| NodeError::malformed(&error)),
    }
}

#[cfg(test)]
mod tests {
    use ipld_core::ipld::Ipld;
    use proptest::prelude::*;

    use super::*;
    use crate::{Dataset, FileNode};

    #[test]
    fn a_dataset_refers_to_its_tree_and_a_chunk_to_nothing() {
        let tree = Cid::of(Codec::Raw, b"content");
        let dataset = Dataset { tree, size: 7, filename: None, mimetype: None };
        let block = dataset.encode(&crate::BlockScheme::plain()).unwrap();
        assert_eq!(links(Codec::DagCbor, block.data()).unwrap(), [tree]);
        assert_eq!(links(Codec::Raw, block.data()).unwrap(), []);
    }

    fn node(fields: &[(&str, Ipld)]) -> Vec<u8> {
        let map = fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
        serde_ipld_dagcbor::to_vec(&Ipld::Map(map.collect())).unwrap()
    }

    #[test]
    fn nodes_of_later_versions_are_named_and_their_links_are_found() {
        let cids = [Cid::of(Codec::Raw, b"chunk"), Cid::of(Codec::DagCbor, b"node")];
        let link = |cid: Cid| Ipld::Link(cid.to_generic());
        let sealed = node(&[
            ("box", Ipld::Bytes(vec![0xd8, 0x2a, 0x58, 7])),
            ("links", Ipld::List(cids.map(link).to_vec())),
            ("sealed", Ipld::Integer(1)),
        ]);
        let dataset =
            node(&[("dataset", Ipld::Integer(2)), ("parts", Ipld::List(cids.map(link).to_vec()))]);
        for (bytes, name) in [(sealed, "sealed node"), (dataset, "dataset of version 2")] {
            assert_eq!(links(Codec::DagCbor, &bytes).unwrap(), cids);
            for error in
                [FileNode::decode(&bytes).unwrap_err(), Dataset::decode(&bytes).unwrap_err()]
            {
                assert!(matches!(error, NodeError::Newer(_)), "{error:?}");
                assert!(error.to_string().contains(name), "{error}");
            }
        }
        // Nodes of this version and other maps are not.
        let bytes = node(&[("size", Ipld::Integer(1)), ("more", Ipld::Bool(true))]);
        assert!(matches!(FileNode::decode(&bytes), Err(NodeError::Malformed(_))));
        let bytes = node(&[("sealed", Ipld::Bool(true))]);
        assert!(matches!(FileNode::decode(&bytes), Err(NodeError::Malformed(_))));
    }

    #[test]
    fn deep_nesting_is_an_error_not_an_overflow_of_the_stack() {
        let deep = vec![0x81; 4 << 20];
        assert!(links(Codec::DagCbor, &deep).is_err());
        // Nested tags, the other way to recurse.
        let tags = [0xd8, 0x2a].repeat(2 << 20);
        assert!(links(Codec::DagCbor, &tags).is_err());
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = links(Codec::DagCbor, &bytes);
        }
    }
}

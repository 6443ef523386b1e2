//! Names of blocks: CID version 1 with a BLAKE3-256 hash and one of three
//! codecs.
//!
//! The format is that of IPFS (<https://github.com/multiformats/cid>). The text
//! form is multibase `b` (base32, lower case) of the binary form. Parsing
//! refuses every other version, hash function, digest length and codec. An
//! identity-hash CID, for example, would let a peer put data in the place of a
//! name.

use std::fmt;
use std::str::FromStr;

use multihash::Multihash;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Multihash code of BLAKE3 in the multicodec table.
const BLAKE3_256: u64 = 0x1e;

/// BLAKE3 digest of 32 bytes: the part of a block's name that depends on its
/// bytes alone.
///
/// Displayed as 64 hexadecimal digits, as `b3sum` prints it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash([u8; 32]);

impl Hash {
    /// Length of a digest in bytes.
    pub const LEN: usize = 32;

    /// Hashes `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// Wraps a digest that was computed or stored before.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Parses the 64 hexadecimal digits, in lower case, that [`fmt::Display`] writes.
    pub fn from_hex(text: &str) -> Option<Self> {
        let bytes = data_encoding::HEXLOWER.decode(text.as_bytes()).ok()?;
        Some(Self(bytes.try_into().ok()?))
    }

    /// Returns the bytes of the digest.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Returns the first eight bytes as a big-endian number. Prefixes sort like
    /// the hashes.
    pub fn prefix(&self) -> u64 {
        let mut first = [0; 8];
        first.copy_from_slice(&self.0[..8]);
        u64::from_be_bytes(first)
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0 {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hash({self})")
    }
}

/// Format of the bytes of a block, from the multicodec table
/// (<https://github.com/multiformats/multicodec>).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Codec {
    /// Plain bytes: a chunk of a file. Multicodec 0x55.
    Raw = 0,
    /// DAG-CBOR: a file node, a dataset, or a snapshot record of a backup server
    /// (crate `snapshots`). Multicodec 0x71.
    DagCbor = 1,
    /// JSON: the header or a segment of a manifest. Multicodec 0x0200.
    Json = 2,
}

impl Codec {
    /// Returns the number of the codec in the multicodec table.
    pub const fn multicodec(self) -> u64 {
        match self {
            Self::Raw => 0x55,
            Self::DagCbor => 0x71,
            Self::Json => 0x0200,
        }
    }

    /// Returns the codec with this number in the multicodec table, or `None` if
    /// blocks do not use it.
    pub const fn from_multicodec(code: u64) -> Option<Self> {
        match code {
            0x55 => Some(Self::Raw),
            0x71 => Some(Self::DagCbor),
            0x0200 => Some(Self::Json),
            _ => None,
        }
    }

    /// Returns the byte that stands for the codec in packs and on the wire.
    pub const fn tag(self) -> u8 {
        self as u8
    }

    /// Returns the codec for the byte that [`Codec::tag`] returns, or `None` if
    /// there is none.
    pub const fn from_tag(tag: u8) -> Option<Self> {
        match tag {
            0 => Some(Self::Raw),
            1 => Some(Self::DagCbor),
            2 => Some(Self::Json),
            _ => None,
        }
    }
}

/// Name of a block: its codec and the BLAKE3-256 hash of its bytes.
///
/// [`fmt::Display`] and [`FromStr`] use the text form. It has 59 characters, or 61
/// for a [`Codec::Json`] block; that of a [`Codec::Raw`] block begins with
/// `bafkr4i`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cid {
    codec: Codec,
    hash: Hash,
}

/// Reasons for which a text or a byte string is not a [`Cid`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CidError {
    /// The input is not a CID.
    #[error("not a CID")]
    Malformed,
    /// The CID has a version other than 1.
    #[error("CID version {0} is not supported, only version 1")]
    Version(u64),
    /// The CID has a codec that blocks do not use; contains its multicodec
    /// number.
    #[error(
        "CID codec 0x{0:x} is not supported, only raw (0x55), dag-cbor (0x71) and json (0x200)"
    )]
    Codec(u64),
    /// The CID has another hash function or another digest length.
    #[error("CID hash 0x{code:x} of {len} bytes is not supported, only BLAKE3-256 (0x1e, 32)")]
    Hash {
        /// Multihash code of the hash function.
        code: u64,
        /// Length of the digest in bytes.
        len: u8,
    },
}

impl Cid {
    /// Combines a codec and a hash to a name.
    pub const fn new(codec: Codec, hash: Hash) -> Self {
        Self { codec, hash }
    }

    /// Hashes `bytes` and returns their name under `codec`.
    pub fn of(codec: Codec, bytes: &[u8]) -> Self {
        Self::new(codec, Hash::of(bytes))
    }

    /// Returns the format of the block's bytes.
    pub const fn codec(&self) -> Codec {
        self.codec
    }

    /// Returns the digest of the block's bytes.
    pub const fn hash(&self) -> &Hash {
        &self.hash
    }

    /// Returns the binary form, as used in DAG-CBOR links (there with a zero byte
    /// in front).
    pub fn to_bytes(self) -> Vec<u8> {
        self.to_generic().to_bytes()
    }

    /// Parses the binary form.
    ///
    /// # Errors
    ///
    /// Returns [`CidError::Malformed`] if `bytes` is not exactly one CID, and
    /// another [`CidError`] if the CID has an unsupported version, codec or
    /// hash.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CidError> {
        let cid = cid::Cid::try_from(bytes).map_err(|_| CidError::Malformed)?;
        if cid.encoded_len() != bytes.len() {
            return Err(CidError::Malformed);
        }
        Self::from_generic(&cid)
    }

    fn from_generic(cid: &cid::Cid) -> Result<Self, CidError> {
        if cid.version() != cid::Version::V1 {
            return Err(CidError::Version(cid.version().into()));
        }
        let codec =
            Codec::from_multicodec(cid.codec()).ok_or_else(|| CidError::Codec(cid.codec()))?;
        let unsupported = CidError::Hash { code: cid.hash().code(), len: cid.hash().size() };
        if cid.hash().code() != BLAKE3_256 {
            return Err(unsupported);
        }
        let digest = cid.hash().digest().try_into().map_err(|_| unsupported)?;
        Ok(Self::new(codec, Hash(digest)))
    }

    pub(crate) fn to_generic(self) -> cid::Cid {
        let hash = Multihash::wrap(BLAKE3_256, self.hash.as_bytes())
            .expect("32 bytes fit in a 64-byte multihash");
        cid::Cid::new_v1(self.codec.multicodec(), hash)
    }
}

impl fmt::Display for Cid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.to_generic(), f)
    }
}

impl fmt::Debug for Cid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cid({self})")
    }
}

impl FromStr for Cid {
    type Err = CidError;

    fn from_str(text: &str) -> Result<Self, CidError> {
        // The text form has about 60 characters. The limit refuses a long text
        // from a request before it is decoded.
        if text.len() > 128 {
            return Err(CidError::Malformed);
        }
        let cid = cid::Cid::try_from(text).map_err(|_| CidError::Malformed)?;
        Self::from_generic(&cid)
    }
}

impl Serialize for Cid {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cid {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_binary_forms_are_golden() {
        let raw = Cid::of(Codec::Raw, b"hello world");
        assert_eq!(raw.to_string(), "bafkr4igxjga67jykbseaxdmmdgc5a5o3zp3htom2l6mrjznk7fvyggu6eq");
        // The digest is what `b3sum` prints for "hello world".
        assert_eq!(
            raw.hash().to_string(),
            "d74981efa70a0c880b8d8c1985d075dbcbf679b99a5f9914e5aaf96b831a9e24"
        );
        assert_eq!(Hash::from_hex(&raw.hash().to_string()), Some(*raw.hash()));
        for bad in ["", "d7", &"D7".repeat(32), &"d7".repeat(33), &"é".repeat(32)] {
            assert_eq!(Hash::from_hex(bad), None);
        }
        let node = Cid::of(Codec::DagCbor, b"\xa0");
        assert!(node.to_string().starts_with("bafyr4i"), "{node}");
        let json = Cid::of(Codec::Json, b"{}");
        assert!(json.to_string().starts_with("bagaa"), "{json}");
        for cid in [raw, node, json] {
            assert_eq!(cid.to_string().parse(), Ok(cid));
            assert_eq!(Cid::from_bytes(&cid.to_bytes()), Ok(cid));
        }
    }

    #[test]
    fn foreign_names_are_refused_with_the_reason() {
        let v0 = "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG";
        assert_eq!(v0.parse::<Cid>(), Err(CidError::Version(0)));
        let sha256 = "bafkreifzjut3te7nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e";
        assert_eq!(sha256.parse::<Cid>(), Err(CidError::Hash { code: 0x12, len: 32 }));
        let dag_pb = "bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi";
        assert_eq!(dag_pb.parse::<Cid>(), Err(CidError::Codec(0x70)));
        // An identity "hash" contains the data itself.
        let identity = cid::Cid::new_v1(0x55, Multihash::wrap(0, b"inline").unwrap());
        assert_eq!(identity.to_string().parse::<Cid>(), Err(CidError::Hash { code: 0, len: 6 }));
        for junk in ["", "b", "z", "../../etc/passwd", &"b".repeat(100_000)] {
            assert_eq!(junk.parse::<Cid>(), Err(CidError::Malformed));
        }
        let mut trailing = Cid::of(Codec::Raw, b"x").to_bytes();
        trailing.push(0);
        assert_eq!(Cid::from_bytes(&trailing), Err(CidError::Malformed));
    }
}

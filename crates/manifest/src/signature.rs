//! The signature of a source over one manifest of one folder.
//!
//! It binds peer id, folder id, sequence number and manifest CID. The bytes
//! that are signed begin with a text that no other protocol signs, and every
//! part has its length before it, so that no two sets of parts give the same
//! bytes. `docs/formats/manifest.md` has the form.
//!
//! Verification needs nothing but the peer id: the ids of secp256k1 and
//! ed25519 keys hold the public key itself.

use std::fmt;

use data_encoding::BASE64;
use libp2p_identity::{Keypair, PeerId, PublicKey};
use types::{Cid, FolderId, SequenceNumber};

/// What nothing else is signed with.
const DOMAIN: &[u8] = b"archivist manifest signature 1";
/// The multihash code of an identity hash: the digest is the key.
const IDENTITY: u64 = 0;
/// The longest signature that is looked at, in bytes: a secp256k1 signature
/// has up to 72, one of ed25519 64.
const SIGNATURE_LEN_MAX: usize = 256;

/// A signature, not yet checked.
#[derive(Clone, PartialEq, Eq)]
pub struct Signature(Vec<u8>);

/// Why there is no signature.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// Not base64, or of an impossible length.
    #[error("the signature is not base64 of a signature")]
    Malformed,
    /// The key refused.
    #[error("the key cannot sign: {0}")]
    Key(String),
}

impl Signature {
    /// Wraps bytes.
    ///
    /// # Errors
    ///
    /// [`SignatureError::Malformed`] where there are too many or none.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, SignatureError> {
        if bytes.is_empty() || bytes.len() > SIGNATURE_LEN_MAX {
            return Err(SignatureError::Malformed);
        }
        Ok(Self(bytes))
    }

    /// Reads the text form.
    ///
    /// # Errors
    ///
    /// [`SignatureError::Malformed`].
    pub fn from_base64(text: &str) -> Result<Self, SignatureError> {
        if text.len() > SIGNATURE_LEN_MAX * 2 {
            return Err(SignatureError::Malformed);
        }
        let bytes = BASE64.decode(text.as_bytes()).map_err(|_| SignatureError::Malformed)?;
        Self::from_bytes(bytes)
    }

    /// The text form: base64 with padding.
    pub fn to_base64(&self) -> String {
        BASE64.encode(&self.0)
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({})", self.to_base64())
    }
}

/// The bytes that are signed.
pub fn signed_bytes(
    peer: &PeerId,
    folder: &FolderId,
    sequence: SequenceNumber,
    manifest: &Cid,
) -> Vec<u8> {
    let (peer, sequence, manifest) =
        (peer.to_bytes(), sequence.0.to_le_bytes(), manifest.to_bytes());
    let parts: [&[u8]; 5] = [DOMAIN, &peer, folder.as_str().as_bytes(), &sequence, &manifest];
    let mut bytes = Vec::with_capacity(256);
    for part in parts {
        let len = u32::try_from(part.len()).expect("the parts are names of bounded length");
        bytes.extend_from_slice(&len.to_le_bytes());
        bytes.extend_from_slice(part);
    }
    bytes
}

/// Signs for the peer whose key it is.
///
/// # Errors
///
/// [`SignatureError::Key`].
pub fn sign(
    keypair: &Keypair,
    folder: &FolderId,
    sequence: SequenceNumber,
    manifest: &Cid,
) -> Result<Signature, SignatureError> {
    let peer = keypair.public().to_peer_id();
    keypair
        .sign(&signed_bytes(&peer, folder, sequence, manifest))
        .map(Signature)
        .map_err(|error| SignatureError::Key(error.to_string()))
}

/// Whether `signature` is that of `peer` over exactly these.
pub fn verify(
    peer: &PeerId,
    folder: &FolderId,
    sequence: SequenceNumber,
    manifest: &Cid,
    signature: &Signature,
) -> bool {
    let hash = peer.as_ref();
    if hash.code() != IDENTITY {
        // The id of a key that is too long to be inlined (RSA): there is
        // nothing to verify with.
        return false;
    }
    let Ok(key) = PublicKey::try_decode_protobuf(hash.digest()) else { return false };
    key.to_peer_id() == *peer
        && key.verify(&signed_bytes(peer, folder, sequence, manifest), signature.as_bytes())
}

#[cfg(test)]
mod tests {
    use libp2p_identity::secp256k1;
    use types::Codec;

    use super::*;

    /// One part of the signed bytes a line: domain, peer, folder, number, CID.
    const GOLDEN_BYTES: &str = concat!(
        "1e000000617263686976697374206d616e6966657374207369676e61747572652031",
        "2700000000250802122102989c0b76cb563971fdc9bef31ec06c3560f3249d6ee9e5d83c57625596e05f6f",
        "04000000646f6373",
        "080000002a00000000000000",
        "2400000001711e200d197521d9a48760576da1c87dfd828a60d397ea1e16f92a5b7c44b4f4060ce1",
    );

    fn keypair() -> Keypair {
        let secret = secp256k1::SecretKey::try_from_bytes([7; 32]).unwrap();
        secp256k1::Keypair::from(secret).into()
    }

    fn sample() -> (FolderId, SequenceNumber, Cid) {
        ("docs".parse().unwrap(), SequenceNumber(42), Cid::of(Codec::DagCbor, b"manifest"))
    }

    #[test]
    fn the_form_is_golden() {
        let (folder, sequence, cid) = sample();
        let keypair = keypair();
        let peer = keypair.public().to_peer_id();
        assert_eq!(peer.to_string(), "16Uiu2HAm5hPxT7s3TA2f4b4YjAPzS7yLRSgdj87ysDZ6NAXMiRuY");
        let bytes = signed_bytes(&peer, &folder, sequence, &cid);
        assert_eq!(data_encoding::HEXLOWER.encode(&bytes), GOLDEN_BYTES);
        let signature = sign(&keypair, &folder, sequence, &cid).unwrap();
        assert_eq!(
            signature.to_base64(),
            "MEUCIQDAALYlsKKJePWoL1GLLxqB4tEMqkuBNZTptTIHj5LkZwIgdHz7s3mFFb/vKnySMkr+Tdp3Jx+FS50Ao0kCo9MRFm0="
        );
        assert!(verify(&peer, &folder, sequence, &cid, &signature));
        assert_eq!(Signature::from_base64(&signature.to_base64()), Ok(signature));
    }

    #[test]
    fn another_part_or_key_does_not_verify() {
        let (folder, sequence, cid) = sample();
        let keypair = keypair();
        let peer = keypair.public().to_peer_id();
        let signature = sign(&keypair, &folder, sequence, &cid).unwrap();
        let other_folder: FolderId = "doc".parse().unwrap();
        let other_cid = Cid::of(Codec::Raw, b"manifest");
        let stranger = Keypair::generate_secp256k1();
        let other_peer = stranger.public().to_peer_id();
        assert!(!verify(&peer, &other_folder, sequence, &cid, &signature));
        assert!(!verify(&peer, &folder, SequenceNumber(43), &cid, &signature));
        assert!(!verify(&peer, &folder, sequence, &other_cid, &signature));
        assert!(!verify(&other_peer, &folder, sequence, &cid, &signature));
        let theirs = sign(&stranger, &folder, sequence, &cid).unwrap();
        assert!(!verify(&peer, &folder, sequence, &cid, &theirs));
        // Every flipped bit.
        for at in 0..signature.as_bytes().len() * 8 {
            let mut bytes = signature.as_bytes().to_vec();
            bytes[at / 8] ^= 1 << (at % 8);
            let bad = Signature::from_bytes(bytes).unwrap();
            assert!(!verify(&peer, &folder, sequence, &cid, &bad), "bit {at}");
        }
    }

    #[test]
    fn ed25519_works_and_an_id_without_a_key_does_not() {
        let (folder, sequence, cid) = sample();
        let keypair = Keypair::generate_ed25519();
        let signature = sign(&keypair, &folder, sequence, &cid).unwrap();
        let peer = keypair.public().to_peer_id();
        assert!(verify(&peer, &folder, sequence, &cid, &signature));
        // A SHA-256 id, as RSA keys have.
        let hashed: PeerId = "QmcgpsyWgH8Y8ajJz1Cu72KnS5uo2Aa2LpzU7kinSupNKC".parse().unwrap();
        assert!(!verify(&hashed, &folder, sequence, &cid, &signature));
    }

    #[test]
    fn odd_texts_are_no_signature() {
        for bad in ["", "=", "!!!!", "YQ", &"YWFh".repeat(1000)] {
            assert_eq!(Signature::from_base64(bad), Err(SignatureError::Malformed), "{bad:.10}");
        }
    }
}

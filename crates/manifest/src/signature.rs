//! [`Signature`]: the signature of a source over one manifest of a folder.
//!
//! The signature binds peer id, folder id, sequence number and manifest CID. The
//! signed bytes begin with a text that no other protocol signs, and each part is
//! preceded by its length, so that different parts never give equal bytes.
//! Specified in `docs/formats/manifest.md`.
//!
//! The algorithm is that of the libp2p key: ECDSA over secp256k1 with SHA-256, or
//! ed25519. Verification needs only the peer id, because the ids of these keys
//! contain the public key.

use std::fmt;

use data_encoding::BASE64;
use libp2p_identity::{Keypair, PeerId, PublicKey};
use types::{Cid, FolderId, SequenceNumber};

/// First part of the signed bytes; separates them from all other uses of the key.
const DOMAIN: &[u8] = b"archivist manifest signature 1";
/// Multihash code of an identity hash, whose digest is the data itself.
const IDENTITY: u64 = 0;
/// Maximum length of a signature in bytes. A secp256k1 signature has up to 72
/// bytes, an ed25519 signature 64.
const SIGNATURE_LEN_MAX: usize = 256;

/// Signature of a manifest, made by [`sign`] or parsed from a document. A parsed
/// signature has a possible length but may be invalid; see [`verify`].
#[derive(Clone, PartialEq, Eq)]
pub struct Signature(Vec<u8>);

/// Errors in making or parsing a signature.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The input is not base64, or its length is impossible for a signature.
    #[error("the signature is malformed")]
    Malformed,
    /// The key cannot sign; contains the reason.
    #[error("the key cannot sign: {0}")]
    Key(String),
}

impl Signature {
    /// Wraps the bytes of a signature.
    ///
    /// # Errors
    ///
    /// Returns [`SignatureError::Malformed`] if `bytes` is empty or longer than 256
    /// bytes.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, SignatureError> {
        if bytes.is_empty() || bytes.len() > SIGNATURE_LEN_MAX {
            return Err(SignatureError::Malformed);
        }
        Ok(Self(bytes))
    }

    /// Parses the text form.
    ///
    /// # Errors
    ///
    /// Returns [`SignatureError::Malformed`] if `text` is not base64, or has an
    /// impossible length.
    pub fn from_base64(text: &str) -> Result<Self, SignatureError> {
        if text.len() > SIGNATURE_LEN_MAX * 2 {
            return Err(SignatureError::Malformed);
        }
        let bytes = BASE64.decode(text.as_bytes()).map_err(|_| SignatureError::Malformed)?;
        Self::from_bytes(bytes)
    }

    /// Returns the text form: base64 with padding.
    pub fn to_base64(&self) -> String {
        BASE64.encode(&self.0)
    }

    /// Returns the bytes of the signature.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({})", self.to_base64())
    }
}

/// Returns the bytes that [`sign`] signs.
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

/// Signs a manifest with `keypair`, whose peer id is that of the source.
///
/// # Errors
///
/// Returns [`SignatureError::Key`] if the key cannot sign.
pub fn sign(
    keypair: &Keypair,
    folder: &FolderId,
    sequence: SequenceNumber,
    manifest: &Cid,
) -> Result<Signature, SignatureError> {
    let peer = keypair.public().to_peer_id();
    sign_bytes(keypair, &signed_bytes(&peer, folder, sequence, manifest))
}

/// Signs bytes with `keypair`. The caller separates its statements from all other
/// uses of the key: the bytes begin with a text that nothing else signs.
///
/// # Errors
///
/// Returns [`SignatureError::Key`] if the key cannot sign.
pub fn sign_bytes(keypair: &Keypair, bytes: &[u8]) -> Result<Signature, SignatureError> {
    keypair.sign(bytes).map(Signature).map_err(|error| SignatureError::Key(error.to_string()))
}

/// Reports whether `peer` signed this manifest of this folder under this number.
///
/// Returns false for a peer id that does not contain its public key (RSA).
pub fn verify(
    peer: &PeerId,
    folder: &FolderId,
    sequence: SequenceNumber,
    manifest: &Cid,
    signature: &Signature,
) -> bool {
    verify_bytes(peer, &signed_bytes(peer, folder, sequence, manifest), signature)
}

/// Reports whether `peer` signed these bytes; see [`sign_bytes`].
///
/// Returns false for a peer id that does not contain its public key (RSA).
pub fn verify_bytes(peer: &PeerId, bytes: &[u8], signature: &Signature) -> bool {
    let hash = peer.as_ref();
    if hash.code() != IDENTITY {
        // The id of a long key (RSA) is a hash of the key and cannot verify
        // anything.
        return false;
    }
    let Ok(key) = PublicKey::try_decode_protobuf(hash.digest()) else { return false };
    key.to_peer_id() == *peer && key.verify(bytes, signature.as_bytes())
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

    #[test]
    fn fuzz_signature() {
        let key = keypair();
        let (folder, sequence, cid) = sample();
        let good = sign(&key, &folder, sequence, &cid).unwrap();
        let peer = key.public().to_peer_id();
        fuzzing::target!(&[good.to_base64()], |bytes: &[u8]| {
            let text = String::from_utf8_lossy(bytes);
            if let Ok(found) = Signature::from_base64(&text) {
                let is_valid = verify(&peer, &folder, sequence, &cid, &found);
                assert!(!is_valid || found == good, "a forged signature");
            }
        });
    }
}

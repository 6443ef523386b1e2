//! [`AnswerProof`]: the proof that an answer of a source is not an old one.
//!
//! A source signs each answer with its time and with the nonce of the request, a random
//! text. An answer with the nonce of this request was made for it, whatever the clocks say. An
//! answer to a request whose nonce was lost on the way is judged by its time. Specified in
//! `docs/formats/http.md`.

use jiff::Timestamp;
use libp2p_identity::PeerId;
use types::Hash;

use crate::signature::{Signature, verify_bytes};

/// First part of the signed bytes; separates them from all other uses of the key.
const DOMAIN: &[u8] = b"archivist discovery answer 1";
/// Header with the proof of an answer without a document (304): time, nonce or `-`, and
/// signature, separated by spaces.
pub(crate) const PROOF_HEADER: &str = "archivist-proof";
/// Beginning of the last field of a signed document. The bytes before it are signed.
pub(crate) const SIGNATURE_FIELD: &[u8] = br#","signature":""#;
/// Maximum length of a nonce in bytes. A longer one is ignored.
pub(crate) const NONCE_LEN_MAX: usize = 64;

/// Reports whether a text can be a nonce: 1 to 64 letters and digits of ASCII.
pub(crate) fn is_nonce(text: &str) -> bool {
    (1..=NONCE_LEN_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric())
}

/// The parts of an answer that its source signs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Statement {
    /// The ETag, without quotes.
    pub(crate) etag: String,
    /// Time of the answer by the clock of the source.
    pub(crate) time: Timestamp,
    /// Nonce of the request; empty if it had none.
    pub(crate) nonce: String,
    /// Hash of the signed bytes of the document; `None` if the answer has no document.
    pub(crate) document: Option<Hash>,
}

impl Statement {
    /// Returns the bytes to sign: each part is preceded by its length.
    pub(crate) fn bytes(&self, peer: &PeerId) -> Vec<u8> {
        let (peer, time) = (peer.to_bytes(), self.time.to_string());
        let document = self.document.as_ref().map_or(&[][..], |hash| hash.as_bytes());
        let parts: [&[u8]; 6] =
            [DOMAIN, &peer, self.etag.as_bytes(), time.as_bytes(), self.nonce.as_bytes(), document];
        let mut bytes = Vec::with_capacity(256);
        for part in parts {
            let len = u32::try_from(part.len()).expect("the parts have a bounded length");
            bytes.extend_from_slice(&len.to_le_bytes());
            bytes.extend_from_slice(part);
        }
        bytes
    }
}

/// The signed parts of an answer, its signature, and the nonce that was sent. Not verified yet;
/// see [`AnswerProof::verify`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnswerProof {
    pub(crate) statement: Statement,
    pub(crate) signature: Signature,
    pub(crate) sent_nonce: String,
}

/// The age of an answer, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerAge {
    /// The source made the answer for this request.
    Now,
    /// The source made the answer at this time by its clock, for another request or for one
    /// without a nonce.
    At(Timestamp),
    /// Nothing: the answer is not signed, or its signature is not valid.
    Unknown,
}

impl AnswerProof {
    /// Returns what the proof says if the answer comes from `peer`.
    pub fn verify(&self, peer: &PeerId) -> AnswerAge {
        if !verify_bytes(peer, &self.statement.bytes(peer), &self.signature) {
            return AnswerAge::Unknown;
        }
        if !self.sent_nonce.is_empty() && self.statement.nonce == self.sent_nonce {
            AnswerAge::Now
        } else {
            AnswerAge::At(self.statement.time)
        }
    }

    /// Parses the header of an answer without a document.
    pub(crate) fn from_header(text: &str, etag: &str, sent_nonce: &str) -> Option<Self> {
        let mut parts = text.split(' ');
        let (time, nonce, signature) = (parts.next()?, parts.next()?, parts.next()?);
        let nonce = if nonce == "-" { "" } else { nonce };
        if parts.next().is_some() || !(nonce.is_empty() || is_nonce(nonce)) {
            return None;
        }
        Some(Self {
            statement: Statement {
                etag: bare(etag).to_owned(),
                time: time.parse().ok()?,
                nonce: nonce.to_owned(),
                document: None,
            },
            signature: Signature::from_base64(signature).ok()?,
            sent_nonce: sent_nonce.to_owned(),
        })
    }

    /// Finds the proof in a document: its last field is the signature of the bytes before it.
    /// `time` and `nonce` are fields of the document.
    pub(crate) fn of_document(
        bytes: &[u8],
        etag: &str,
        time: Option<Timestamp>,
        nonce: Option<&str>,
        sent_nonce: &str,
    ) -> Option<Self> {
        let at = bytes.windows(SIGNATURE_FIELD.len()).rposition(|part| part == SIGNATURE_FIELD)?;
        let (signed, rest) = bytes.split_at(at);
        let rest = std::str::from_utf8(&rest[SIGNATURE_FIELD.len()..]).ok()?;
        let signature = rest.trim_end().strip_suffix("\"}")?;
        Some(Self {
            statement: Statement {
                etag: bare(etag).to_owned(),
                time: time?,
                nonce: nonce.unwrap_or_default().to_owned(),
                document: Some(Hash::of(signed)),
            },
            signature: Signature::from_base64(signature).ok()?,
            sent_nonce: sent_nonce.to_owned(),
        })
    }
}

/// Returns an ETag without quotes.
pub(crate) fn bare(etag: &str) -> &str {
    etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"')
}

#[cfg(test)]
mod tests {
    use libp2p_identity::{Keypair, secp256k1};

    use super::*;
    use crate::signature::sign_bytes;

    fn keypair() -> Keypair {
        let secret = secp256k1::SecretKey::try_from_bytes([7; 32]).unwrap();
        secp256k1::Keypair::from(secret).into()
    }

    fn statement(nonce: &str) -> Statement {
        Statement {
            etag: "00ff".into(),
            time: "2026-11-22T10:30:05Z".parse().unwrap(),
            nonce: nonce.into(),
            document: None,
        }
    }

    fn header(statement: &Statement) -> String {
        let key = keypair();
        let peer = key.public().to_peer_id();
        let signature = sign_bytes(&key, &statement.bytes(&peer)).unwrap().to_base64();
        let nonce = if statement.nonce.is_empty() { "-" } else { &statement.nonce };
        format!("{} {nonce} {signature}", statement.time)
    }

    #[test]
    fn the_form_is_golden() {
        let peer = keypair().public().to_peer_id();
        let bytes = Statement { document: Some(Hash::of(b"x")), ..statement("abc") }.bytes(&peer);
        assert_eq!(
            data_encoding::HEXLOWER.encode(&bytes),
            concat!(
                "1c00000061726368697669737420646973636f7665727920616e737765722031",
                "2700000000250802122102989c0b76cb563971fdc9bef31ec06c3560f3249d6ee9e5d83c57625596e05f6f",
                "0400000030306666",
                "14000000323032362d31312d32325431303a33303a30355a",
                "03000000616263",
                "20000000",
            )
            .to_owned()
                + &Hash::of(b"x").to_string()
        );
    }

    #[test]
    fn an_answer_is_for_one_request_one_tag_and_one_peer() {
        let peer = keypair().public().to_peer_id();
        let verify = |text: &str, etag: &str, sent: &str| {
            AnswerProof::from_header(text, etag, sent)
                .map_or(AnswerAge::Unknown, |proof| proof.verify(&peer))
        };
        let good = header(&statement("abc"));
        assert_eq!(verify(&good, "\"00ff\"", "abc"), AnswerAge::Now);
        let at = AnswerAge::At(statement("").time);
        assert_eq!(verify(&good, "W/\"00ff\"", "other"), at);
        assert_eq!(verify(&good, "\"00fe\"", "abc"), AnswerAge::Unknown);
        assert_eq!(verify(&good.replace("abc", "abd"), "\"00ff\"", "abd"), AnswerAge::Unknown);
        assert_eq!(verify(&good.replace(":05Z", ":06Z"), "\"00ff\"", "abc"), AnswerAge::Unknown);
        // A request without a nonce is answered without one.
        let bare = header(&statement(""));
        assert_eq!(verify(&bare, "\"00ff\"", ""), at);
        assert_eq!(verify(&bare, "\"00ff\"", "abc"), at);
        for odd in ["", "-", "a b", "a b c d", &format!("{good} x"), &good.replace("abc", "a/c")] {
            assert_eq!(verify(odd, "\"00ff\"", "abc"), AnswerAge::Unknown, "{odd}");
        }
        let stranger = Keypair::generate_secp256k1().public().to_peer_id();
        let proof = AnswerProof::from_header(&good, "\"00ff\"", "abc").unwrap();
        assert_eq!(proof.verify(&stranger), AnswerAge::Unknown);
    }

    #[test]
    fn fuzz_answer_proof() {
        let peer = keypair().public().to_peer_id();
        let good = header(&statement("abc"));
        fuzzing::target!(std::slice::from_ref(&good), |bytes: &[u8]| {
            let text = String::from_utf8_lossy(bytes);
            if let Some(proof) = AnswerProof::from_header(&text, "\"00ff\"", "abc") {
                let is_valid = proof.verify(&peer) != AnswerAge::Unknown;
                assert!(!is_valid || proof.statement == statement("abc"), "forged");
            }
            AnswerProof::of_document(bytes, "\"00ff\"", None, None, "abc");
        });
    }
}

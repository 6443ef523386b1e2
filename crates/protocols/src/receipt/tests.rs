//! The bytes of receipts, and hostile ends of the protocol.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures::AsyncWriteExt as _;
use net::Keypair;
use proptest::prelude::*;
use tokio_util::compat::TokioAsyncReadCompatExt as _;
use types::{Cid, Codec, SequenceNumber};

use super::*;

fn key(byte: u8) -> Keypair {
    // A secp256k1 key in the protobuf form of libp2p: type 2, 32 bytes.
    let bytes = [&[8, 2, 18, 32][..], &[byte; 32]].concat();
    Keypair::from_protobuf_encoding(&bytes).unwrap()
}

fn content() -> Receipt {
    let (server, source) = (key(7), key(8));
    let folder_id = "docs".parse().unwrap();
    let (sequence, manifest_cid) = (SequenceNumber(42), Cid::of(Codec::DagCbor, b"manifest"));
    Receipt {
        number: 1,
        previous: None,
        backup_server: server.public().to_peer_id(),
        source: source.public().to_peer_id(),
        confirmation: Confirmation {
            manifest_signature: manifest::sign(&source, &folder_id, sequence, &manifest_cid)
                .unwrap(),
            folder_id,
            sequence,
            manifest_cid,
            received_at: "2026-11-22T10:30:05.123456789Z".parse().unwrap(),
        },
    }
}

fn receipt() -> SignedReceipt {
    content().sign(&key(7)).unwrap()
}

/// Signs any text as a receipt.
fn signed(text: &str) -> EncodedReceipt {
    let bytes = [b"archivist receipt 1\n", text.as_bytes()].concat();
    let signature = manifest::sign_bytes(&key(7), &bytes).unwrap().to_base64();
    EncodedReceipt { receipt: text.to_owned(), signature }
}

fn counting() -> (OnReceipt, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let on_receipt: OnReceipt = Arc::new(move |_, received| {
        counted.fetch_add(1, Ordering::SeqCst);
        if received == receipt() { ReceiptAnswer::Ok } else { ReceiptAnswer::Refused }
    });
    (on_receipt, count)
}

#[test]
fn the_bytes_are_those_of_the_page() {
    let encoded = receipt().encode();
    let source_signature = content().confirmation.manifest_signature.to_base64();
    let text = format!(
        concat!(
            r#"{{"archivist_receipt":1,"number":1,"previous":null,"#,
            r#""backup_server":"16Uiu2HAm5hPxT7s3TA2f4b4YjAPzS7yLRSgdj87ysDZ6NAXMiRuY","#,
            r#""source":"{}","folder":"docs","sequence":42,"#,
            r#""manifest":"bafyr4ianddftqlhbcf7jlrjuovpgq4e5ywpoefxwg3z4evi2pkbiplq4a","#,
            r#""manifest_signature":"{}","received_at":"2026-11-22T10:30:05.123456789Z"}}"#
        ),
        key(8).public().to_peer_id(),
        source_signature,
    );
    let text = text.replace(
        "bafyr4ianddftqlhbcf7jlrjuovpgq4e5ywpoefxwg3z4evi2pkbiplq4a",
        &content().confirmation.manifest_cid.to_string(),
    );
    assert_eq!(encoded.receipt, text);
    assert_eq!(encoded, signed(&text), "the signature is deterministic");
    assert_eq!(receipt().hash().to_string(), GOLDEN_HASH);
    assert_eq!(encoded.signature, GOLDEN_SIGNATURE);
    let bytes = exchange::frame(&encoded, FRAME_LEN_MAX).unwrap();
    let frame: serde_json::Value = serde_json::from_slice(&bytes[4..]).unwrap();
    assert_eq!(frame, serde_json::json!({"receipt": text, "signature": GOLDEN_SIGNATURE}));
    let answer = Answer { answer: ReceiptAnswer::UnknownFolder };
    let bytes = exchange::frame(&answer, FRAME_LEN_MAX).unwrap();
    assert_eq!(&bytes[4..], br#"{"answer":"unknown_folder"}"#);
}

const GOLDEN_HASH: &str = "625397a6e7682d562cdef784e475d8d9170cc7af85adcd426d35e477fa7693e6";
const GOLDEN_SIGNATURE: &str = "MEUCIQC1gxC2loFcAe3xcmzUcd7WwbALH7zJ3dsOvstpUVBiQgIgRdmDqXaRP95sYqKxKvLF7/HCWibWEQjX7FCdsyP4BJI=";

#[test]
fn a_receipt_reads_back_with_fields_of_later_versions() {
    let encoded = receipt().encode();
    assert_eq!(SignedReceipt::parse(encoded.clone()).unwrap(), receipt());
    let more = encoded.receipt.replace("{\"arch", "{\"blocks\":[1,{\"x\":null}],\"arch");
    let later = SignedReceipt::parse(signed(&more)).unwrap();
    assert!(later.is_signed());
    assert_eq!(later.receipt(), receipt().receipt());
    assert_ne!(later.hash(), receipt().hash());
    assert_eq!(later.encode(), signed(&more), "the bytes stay");
}

#[test]
fn a_chain_links_each_receipt_to_the_one_before() {
    let first = receipt();
    let next = |number, previous| Receipt { number, previous, ..content() }.sign(&key(7)).unwrap();
    assert!(first.follows(None));
    let second = next(2, Some(first.hash()));
    assert!(second.follows(Some(&first)) && !second.follows(None));
    assert!(!next(3, Some(first.hash())).follows(Some(&first)));
    assert!(!next(2, Some(second.hash())).follows(Some(&first)));
    assert!(!first.follows(Some(&first)) && !first.follows(Some(&second)));
    assert!(next(3, Some(second.hash())).follows(Some(&second)));
}

#[test]
fn a_changed_field_another_key_or_another_use_of_the_key_is_not_signed() {
    let good = receipt().encode();
    assert!(SignedReceipt::parse(good.clone()).unwrap().is_signed());
    let is_signed = |text: String, signature: &str| {
        let signature = signature.to_owned();
        SignedReceipt::parse(EncodedReceipt { receipt: text, signature }).unwrap().is_signed()
    };
    let stranger = key(9).public().to_peer_id().to_string();
    let server = content().backup_server.to_string();
    let source = content().source.to_string();
    for (from, to) in [
        ("\"sequence\":42", "\"sequence\":43"),
        ("\"docs\"", "\"dogs\""),
        ("10:30:05", "10:30:06"),
        ("{\"arch", "{ \"arch"),
        (server.as_str(), stranger.as_str()),
        (source.as_str(), stranger.as_str()),
    ] {
        let changed = good.receipt.replace(from, to);
        assert_ne!(changed, good.receipt);
        assert!(!is_signed(changed.clone(), &good.signature), "{to}");
        // Signed by the server itself, the signature of the source still does not agree, except
        // for fields that it does not cover.
        let resigned = signed(&changed);
        let is_covered = !to.contains("10:30:06") && !to.starts_with("{ ");
        assert_eq!(is_signed(changed, &resigned.signature), !is_covered, "{to}");
    }
    // The same key over the same text, for another purpose.
    let other_use = manifest::sign_bytes(&key(7), good.receipt.as_bytes()).unwrap();
    assert!(!is_signed(good.receipt.clone(), &other_use.to_base64()));
    let of_stranger = manifest::sign_bytes(
        &key(9),
        &[b"archivist receipt 1\n", good.receipt.as_bytes()].concat(),
    );
    assert!(!is_signed(good.receipt, &of_stranger.unwrap().to_base64()));
}

#[test]
fn a_text_of_another_form_is_refused() {
    let good = receipt().encode().receipt;
    let hash = receipt().hash().to_string();
    let previous = |hash: &str| good.replace("null", &format!("\"{hash}\""));
    let of_version = good.replace("_receipt\":1", "_receipt\":2");
    assert_eq!(SignedReceipt::parse(signed(&of_version)), Err(ReceiptFormError::Version(2)));
    for text in [
        String::new(),
        "[]".to_owned(),
        "[".repeat(2000),
        "x".repeat(2049),
        good.replace("\"number\":1,", ""),
        good.replace("\"number\":1,", "\"number\":1,\"number\":1,"),
        good.replace("\"number\":1,", "\"number\":0,"),
        good.replace("\"number\":1,", "\"number\":2,"),
        good.replace("\"number\":1,", "\"number\":-1,"),
        previous(&hash),
        previous(&hash.to_uppercase()).replace("\"number\":1", "\"number\":2"),
        previous("ab").replace("\"number\":1", "\"number\":2"),
        good.replace("\"docs\"", "\"../x\""),
        good.replace("16Uiu2HAm5", "16Uiu2HA05"),
        good.replace("bafy", "bafx"),
        format!("{good} x"),
    ] {
        let parsed = SignedReceipt::parse(signed(&text));
        assert!(matches!(parsed, Err(ReceiptFormError::Malformed(_))), "{text:.300}");
    }
    let second = previous(&hash).replace("\"number\":1", "\"number\":2");
    assert!(SignedReceipt::parse(signed(&second)).is_ok());
    for signature in ["", "=", "!!!!", &"YWFh".repeat(1000)] {
        let encoded = EncodedReceipt { receipt: good.clone(), signature: signature.to_owned() };
        assert!(SignedReceipt::parse(encoded).is_err());
    }
}

#[tokio::test]
async fn a_receipt_is_told_and_answered_and_a_stranger_is_not_heard() {
    let (on_receipt, count) = counting();
    for (asked, wanted) in
        [(Some(on_receipt), ReceiptAnswer::Ok), (None, ReceiptAnswer::NotAllowed)]
    {
        let (near, far) = tokio::io::duplex(64);
        let serving = tokio::spawn(answer(far.compat(), PeerId::random(), asked));
        assert_eq!(send(near.compat(), &receipt()).await.unwrap(), wanted);
        serving.await.unwrap().unwrap();
    }
    assert_eq!(count.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_receipt_of_another_version_is_answered() {
    let (on_receipt, count) = counting();
    let text = receipt().encode().receipt.replace("_receipt\":1", "_receipt\":9");
    let (near, far) = tokio::io::duplex(1 << 16);
    let mut near = near.compat();
    let frame = exchange::frame(&signed(&text), FRAME_LEN_MAX).unwrap();
    near.write_all(&frame).await.unwrap();
    let serving = tokio::spawn(answer(far.compat(), PeerId::random(), Some(on_receipt)));
    let Answer { answer } = read_frame(&mut near, FRAME_LEN_MAX).await.unwrap();
    assert_eq!(answer, ReceiptAnswer::Unsupported);
    drop(near);
    let _ = serving.await.unwrap();
    assert_eq!(count.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn what_is_no_receipt_reaches_nobody() {
    let (on_receipt, count) = counting();
    let good = exchange::frame(&receipt().encode(), FRAME_LEN_MAX).unwrap();
    let of_text = |text: &str| exchange::frame(&signed(text), FRAME_LEN_MAX).unwrap();
    let mut hostile = vec![
        vec![0xff; 10_000],
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        exchange::frame(&"x", 10).unwrap(),
        exchange::frame(&serde_json::json!({"folder_id": "../..", "sequence": 1}), 99).unwrap(),
        exchange::frame(&[[[[[[[0]]]]]]], 99).unwrap(),
        of_text(""),
        of_text("{}"),
        of_text(&"[".repeat(1900)),
        of_text(&"x".repeat(3000)),
    ];
    hostile.extend((0..good.len()).step_by(7).map(|len| good[..len].to_vec()));
    for bytes in hostile {
        let (near, far) = tokio::io::duplex(1 << 16);
        let mut near = near.compat();
        near.write_all(&bytes).await.unwrap();
        near.close().await.unwrap();
        let on_receipt = Some(on_receipt.clone());
        assert!(answer(far.compat(), PeerId::random(), on_receipt).await.is_err());
    }
    assert_eq!(count.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn what_is_no_answer_is_an_error() {
    for bytes in [&b""[..], b"\x01\0\0\0", b"\xff\xff\xff\xff", b"\x0f\0\0\0{\"answer\":\"no\"}"] {
        let (near, far) = tokio::io::duplex(1 << 16);
        let mut far = far.compat();
        far.write_all(bytes).await.unwrap();
        far.close().await.unwrap();
        assert!(send(near.compat(), &receipt()).await.is_err());
    }
}

#[tokio::test]
async fn a_panic_while_noting_is_an_error_not_an_answer() {
    let (near, far) = tokio::io::duplex(1 << 16);
    let on_receipt: OnReceipt = Arc::new(|_, _| panic!("on purpose"));
    let serving = tokio::spawn(answer(far.compat(), PeerId::random(), Some(on_receipt)));
    assert!(send(near.compat(), &receipt()).await.is_err());
    assert!(matches!(serving.await.unwrap(), Err(ExchangeError::Panicked(_))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_flipped_bit_is_not_signed(at in 0..2000_usize, bit in 0..8_u32) {
        let mut bytes = serde_json::to_vec(&receipt().encode()).unwrap();
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        if let Ok(encoded) = serde_json::from_slice::<EncodedReceipt>(&bytes)
            && let Ok(parsed) = SignedReceipt::parse(encoded)
        {
            // A last character of base64 can have unused bits.
            prop_assert!(!parsed.is_signed() || parsed == receipt());
        }
    }
}

#[test]
fn fuzz_receipt() {
    let first = receipt();
    let second = Receipt { number: 2, previous: Some(first.hash()), ..content() };
    let texts = [first.encode().receipt, second.sign(&key(7)).unwrap().encode().receipt];
    fuzzing::target!(&texts, |bytes: &[u8]| {
        let encoded = signed(&String::from_utf8_lossy(bytes));
        if let Ok(parsed) = SignedReceipt::parse(encoded.clone()) {
            assert_eq!(parsed.encode(), encoded);
            assert!(parsed.receipt().number > 0);
            assert!(!parsed.follows(Some(&parsed)));
        }
    });
}

//! Receipts between two nodes on loopback, and from hostile peers.

#![allow(clippy::unwrap_used, reason = "in a test it is an assertion")]

use std::sync::Arc;
use std::time::Duration;

use futures::{AsyncReadExt as _, AsyncWriteExt as _};
use net::{Access, Keypair, PeerId, Purposes};
use parking_lot::Mutex;
use protocols::{
    ExchangeError, OnReceipt, RECEIPT_PROTOCOL, ReceiptAnswer, SignedReceipt, send_receipt,
    serve_receipts,
};
use testkit::{PATIENCE, connect, node, signed_receipt};
use types::{Cid, Codec};

fn receipt(sequence: u64) -> SignedReceipt {
    let key = |byte| Keypair::ed25519_from_bytes([byte; 32]).unwrap();
    let manifest = Cid::of(Codec::DagCbor, b"manifest");
    signed_receipt(&key(1), &key(2), "docs", (sequence, manifest), None)
}

type Noted = Arc<Mutex<Vec<(PeerId, SignedReceipt)>>>;

/// Records receipts with a sequence number below 100, and refuses the others.
fn noting() -> (OnReceipt, Noted) {
    let noted = Noted::default();
    let into = noted.clone();
    let on_receipt: OnReceipt = Arc::new(move |peer, receipt: SignedReceipt| {
        if receipt.confirmation().sequence.0 >= 100 {
            return ReceiptAnswer::Refused;
        }
        into.lock().push((peer, receipt));
        ReceiptAnswer::Ok
    });
    (on_receipt, noted)
}

#[tokio::test]
async fn a_receipt_arrives_from_the_backup_peer_alone() {
    let [a, b, stranger] = [node().await, node().await, node().await];
    let access = Access::new();
    access.set(b.handle().peer_id(), Purposes::RECEIPTS);
    let (on_receipt, noted) = noting();
    let inbound = a.accept(&RECEIPT_PROTOCOL).unwrap();
    let list = access.clone();
    let allowed = move |peer: &PeerId| list.allows(peer, Purposes::RECEIPTS);
    let serving = tokio::spawn(serve_receipts(inbound, allowed, on_receipt));
    let peer = a.handle().peer_id();
    connect(&b, &a).await;
    connect(&stranger, &a).await;
    let (b, stranger) = (b.handle(), stranger.handle());
    assert_eq!(send_receipt(&b, peer, &receipt(1)).await.unwrap(), ReceiptAnswer::Ok);
    assert_eq!(send_receipt(&b, peer, &receipt(100)).await.unwrap(), ReceiptAnswer::Refused);
    let answer = send_receipt(&stranger, peer, &receipt(2)).await.unwrap();
    assert_eq!(answer, ReceiptAnswer::NotAllowed);
    // Permissions are checked for each receipt.
    access.remove(b.peer_id());
    assert_eq!(send_receipt(&b, peer, &receipt(3)).await.unwrap(), ReceiptAnswer::NotAllowed);
    assert_eq!(*noted.lock(), [(b.peer_id(), receipt(1))]);
    serving.abort();
}

#[tokio::test]
async fn garbage_silence_and_floods_cost_their_streams_alone() {
    let [a, b, hostile] = [node().await, node().await, node().await];
    let (on_receipt, noted) = noting();
    let inbound = a.accept(&RECEIPT_PROTOCOL).unwrap();
    let serving = tokio::spawn(serve_receipts(inbound, |_| true, on_receipt));
    let peer = a.handle().peer_id();
    connect(&b, &a).await;
    connect(&hostile, &a).await;
    let handle = hostile.handle();
    // More streams than the limit: silent ones, and ones with garbage.
    let mut held = Vec::new();
    for number in 0..32 {
        let opened =
            tokio::time::timeout(Duration::from_secs(2), handle.open(peer, RECEIPT_PROTOCOL));
        let Ok(Ok(mut stream)) = opened.await else { continue };
        let bytes: &[u8] = match number % 4 {
            0 => b"",
            1 => b"\xff\xff\xff\xff",
            2 => b"\x00\x10\x00\x00{",
            _ => b"\x02\0\0\0{}",
        };
        let _ = stream.write_all(bytes).await;
        let _ = stream.flush().await;
        held.push(stream);
    }
    assert!(held.len() > 8);
    let good = b.handle();
    for number in 1..=20 {
        let receipt = receipt(number);
        let sent = send_receipt(&good, peer, &receipt);
        let answer = tokio::time::timeout(PATIENCE, sent).await.unwrap().unwrap();
        assert_eq!(answer, ReceiptAnswer::Ok);
    }
    assert_eq!(noted.lock().len(), 20);
    // A stream with garbage ended without an answer.
    let mut answer = Vec::new();
    let lied = &mut held[1];
    let _ = tokio::time::timeout(PATIENCE, lied.read_to_end(&mut answer)).await.unwrap();
    assert_eq!(answer, b"");
    assert!(!serving.is_finished());
    serving.abort();
}

#[tokio::test]
async fn a_peer_that_is_away_or_stops_is_told_of() {
    let [a, b] = [node().await, node().await];
    let peer = a.handle().peer_id();
    let error = send_receipt(&b.handle(), peer, &receipt(1)).await.unwrap_err();
    assert!(matches!(error, ExchangeError::Net(_)), "{error}");
    connect(&b, &a).await;
    // The peer accepts the stream and drops it.
    let mut inbound = a.accept(&RECEIPT_PROTOCOL).unwrap();
    let dropping = tokio::spawn(async move { drop(inbound.recv().await) });
    let error = send_receipt(&b.handle(), peer, &receipt(1)).await.unwrap_err();
    assert!(matches!(error, ExchangeError::Closed | ExchangeError::Io(_)), "{error}");
    dropping.await.unwrap();
}

#[tokio::test]
async fn strangers_take_no_place_of_the_backup_peer() {
    let [a, b, first, second] = [node().await, node().await, node().await, node().await];
    let (on_receipt, noted) = noting();
    let backup_peer = b.handle().peer_id();
    let inbound = a.accept(&RECEIPT_PROTOCOL).unwrap();
    let allowed = move |peer: &PeerId| *peer == backup_peer;
    let serving = tokio::spawn(serve_receipts(inbound, allowed, on_receipt));
    let peer = a.handle().peer_id();
    connect(&b, &a).await;
    let mut held = Vec::new();
    for stranger in [&first, &second] {
        connect(stranger, &a).await;
        for _ in 0..20 {
            // Some are reset immediately; the others stay open.
            held.extend(stranger.handle().open(peer, RECEIPT_PROTOCOL).await.ok());
        }
    }
    let good = b.handle();
    for number in 1..=8 {
        let receipt = receipt(number);
        let sent = send_receipt(&good, peer, &receipt);
        let answer = tokio::time::timeout(PATIENCE, sent).await.unwrap().unwrap();
        assert_eq!(answer, ReceiptAnswer::Ok);
    }
    assert_eq!(noted.lock().len(), 8);
    serving.abort();
}

//! Receipts: the backup server confirms to a source that a snapshot is complete and durable.
//!
//! `/archivist/receipts/1.0.0` (docs/formats/wire.md): one stream, one receipt, one answer. The
//! connection proves the identity of the sender; a receipt has no signature.
//!
//! A receipt changes only what the source shows as confirmed, and ends the notifications of the
//! manifest. The source refuses a receipt for a sequence number that it has not published, and one
//! with another CID for the newest manifest. It does not check the CID of an earlier manifest.

use std::sync::Arc;
use std::time::Duration;

use futures::{AsyncRead, AsyncWrite};
use jiff::Timestamp;
use net::{Handle, NetStream, PeerId, StreamProtocol};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use types::{Cid, FolderId, SequenceNumber};

use crate::blocking::blocking;
use crate::exchange::{self, ExchangeError, Limits, finish, read_frame, write_frame};

/// Name of the receipt protocol.
pub const RECEIPT_PROTOCOL: StreamProtocol = StreamProtocol::new("/archivist/receipts/1.0.0");

/// Maximum length of a receipt or an answer, in bytes; a receipt has about 250.
const FRAME_LEN_MAX: usize = 4096;
/// Maximum time of an exchange on the server side.
const SERVE_TIMEOUT: Duration = Duration::from_secs(15);
/// Maximum time of an exchange on the client side, counted from the opened stream.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);
/// Maximum number of streams at the same time. A backup server opens one for each folder that has
/// a new snapshot.
const STREAMS_MAX: usize = 32;
/// Maximum number of streams of one peer at the same time; see [`STREAMS_MAX`].
const STREAMS_PER_PEER_MAX: usize = 8;

/// The backup server's confirmation that a snapshot is complete. The backup server sends it after
/// it has committed the snapshot, and again after each new connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// Id of the folder on the source.
    pub folder_id: FolderId,
    /// Sequence number of the manifest.
    pub sequence: SequenceNumber,
    /// CID of the manifest.
    pub manifest_cid: Cid,
    /// Time at which the snapshot was durable, by the backup server's clock.
    pub received_at: Timestamp,
}

/// The source's answer to a receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReceiptAnswer {
    /// The source accepts the receipt. The backup server need not send it again on this connection.
    Ok,
    /// The source does not watch a folder with this id, or no longer does.
    UnknownFolder,
    /// The source has not published this manifest: the sequence number is above that of its newest
    /// manifest, or the same with another CID.
    Refused,
    /// The sender is not the backup server of this source. Sent before the receipt is read.
    NotAllowed,
}

#[derive(Serialize, Deserialize)]
struct Answer {
    answer: ReceiptAnswer,
}

/// Function of the source that checks a receipt of a peer, records it and returns the answer.
/// Called on a thread that may block, and only for allowed peers.
pub type OnReceipt = Arc<dyn Fn(PeerId, Receipt) -> ReceiptAnswer + Send + Sync>;

/// Sends a receipt to `peer` and returns its answer. The same receipt may be sent again at any
/// time.
///
/// # Errors
///
/// Returns [`ExchangeError`] if the exchange failed; the receipt may have arrived all the same.
pub async fn send_receipt(
    handle: &Handle,
    peer: PeerId,
    receipt: Receipt,
) -> Result<ReceiptAnswer, ExchangeError> {
    let stream = handle.open(peer, RECEIPT_PROTOCOL).await?;
    let sending = send(stream, &receipt);
    tokio::time::timeout(SEND_TIMEOUT, sending)
        .await
        .map_err(|_| ExchangeError::Timeout(SEND_TIMEOUT))?
}

async fn send(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    receipt: &Receipt,
) -> Result<ReceiptAnswer, ExchangeError> {
    use futures::AsyncWriteExt as _;

    // A peer that refuses us may close before it has read the receipt: its answer is still valid.
    let sent = write_frame(&mut stream, receipt, FRAME_LEN_MAX).await;
    match read_frame::<Answer>(&mut stream, FRAME_LEN_MAX).await {
        Ok(Answer { answer }) => {
            let _ = stream.close().await;
            Ok(answer)
        }
        Err(error) => Err(sent.err().unwrap_or(error)),
    }
}

/// Answers the streams of [`RECEIPT_PROTOCOL`] that `net::Net::accept` returns, until `receiver`
/// closes. Receipts of peers that are not `allowed` are not read.
pub async fn serve_receipts(
    receiver: mpsc::Receiver<NetStream>,
    allowed: impl Fn(&PeerId) -> bool,
    on_receipt: OnReceipt,
) {
    let limits = Limits {
        streams: STREAMS_MAX,
        streams_per_peer: STREAMS_PER_PEER_MAX,
        time: SERVE_TIMEOUT,
    };
    exchange::serve(receiver, limits, allowed, |stream, is_allowed| {
        let peer = stream.peer();
        if !is_allowed {
            tracing::debug!(%peer, "refused a receipt: the peer is not the backup server");
        }
        answer(stream, peer, is_allowed.then(|| on_receipt.clone()))
    })
    .await;
}

/// Answers one stream; `on_receipt` is `None` if the peer may not send receipts.
async fn answer(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    peer: PeerId,
    on_receipt: Option<OnReceipt>,
) -> Result<(), ExchangeError> {
    let answer = match on_receipt {
        Some(on_receipt) => {
            let receipt: Receipt = read_frame(&mut stream, FRAME_LEN_MAX).await?;
            blocking(move || Ok::<_, ExchangeError>(on_receipt(peer, receipt))).await?
        }
        None => ReceiptAnswer::NotAllowed,
    };
    write_frame(&mut stream, &Answer { answer }, FRAME_LEN_MAX).await?;
    finish(&mut stream).await
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::AsyncWriteExt as _;
    use proptest::prelude::*;
    use tokio_util::compat::TokioAsyncReadCompatExt as _;
    use types::Codec;

    use super::*;

    fn receipt() -> Receipt {
        Receipt {
            folder_id: "docs".parse().unwrap(),
            sequence: SequenceNumber(42),
            manifest_cid: Cid::of(Codec::DagCbor, b"manifest"),
            received_at: "2026-11-22T10:30:05.123456789Z".parse().unwrap(),
        }
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
        let bytes = exchange::frame(&receipt(), FRAME_LEN_MAX).unwrap();
        let text = format!(
            r#"{{"folder_id":"docs","sequence":42,"manifest_cid":"{}","received_at":"2026-11-22T10:30:05.123456789Z"}}"#,
            receipt().manifest_cid,
        );
        assert_eq!(String::from_utf8_lossy(&bytes[4..]), text);
        let answer = Answer { answer: ReceiptAnswer::UnknownFolder };
        let bytes = exchange::frame(&answer, FRAME_LEN_MAX).unwrap();
        assert_eq!(&bytes[4..], br#"{"answer":"unknown_folder"}"#);
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
    async fn what_is_no_receipt_reaches_nobody() {
        let (on_receipt, count) = counting();
        let good = exchange::frame(&receipt(), FRAME_LEN_MAX).unwrap();
        let mut hostile = vec![
            vec![0xff; 10_000],
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            exchange::frame(&"x", 10).unwrap(),
            exchange::frame(&serde_json::json!({"folder_id": "../..", "sequence": 1}), 99).unwrap(),
            exchange::frame(&[[[[[[[0]]]]]]], 99).unwrap(),
        ];
        hostile.extend((0..good.len()).map(|len| good[..len].to_vec()));
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
        for bytes in
            [&b""[..], b"\x01\0\0\0", b"\xff\xff\xff\xff", b"\x0f\0\0\0{\"answer\":\"no\"}"]
        {
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
        fn a_flipped_bit_never_panics(at in 0..200_usize, bit in 0..8_u32) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let mut bytes = exchange::frame(&receipt(), FRAME_LEN_MAX).unwrap();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            let mut stream = futures::io::Cursor::new(bytes);
            let read = runtime.block_on(read_frame::<Receipt>(&mut stream, FRAME_LEN_MAX));
            prop_assert!(read.is_err() || at >= 4);
        }
    }
}

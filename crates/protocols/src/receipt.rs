//! Receipts: B tells A that it holds a snapshot, whole and durable.
//!
//! `/archivist/receipts/1.0.0` (docs/formats/wire.md): one stream, one
//! receipt, one answer. Who sends it is proven by the connection. A receipt
//! moves nothing but what A shows as backed up, and A takes one only for a
//! manifest that it has published itself.

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

/// The name of the protocol.
pub const RECEIPT_PROTOCOL: StreamProtocol = StreamProtocol::new("/archivist/receipts/1.0.0");

/// The longest receipt or answer, in bytes; one takes some 250.
const FRAME_LEN_MAX: usize = 4096;
/// The whole conversation, as the server sees it.
const SERVE_TIMEOUT: Duration = Duration::from_secs(15);
/// … and as the client does, from the open stream on.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);
/// A backup server sends one for each folder that has a new snapshot.
const STREAMS_MAX: usize = 32;
/// See [`STREAMS_MAX`].
const STREAMS_PER_PEER_MAX: usize = 8;

/// B's word that a snapshot is complete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The folder.
    pub folder_id: FolderId,
    /// The number of the manifest.
    pub sequence: SequenceNumber,
    /// The manifest.
    pub manifest_cid: Cid,
    /// When all of it was durable, by B's clock.
    pub received_at: Timestamp,
}

/// What A says to a receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReceiptAnswer {
    /// It was noted, or had been before.
    Ok,
    /// There is no such folder (any more).
    UnknownFolder,
    /// There never was such a manifest of that folder.
    Refused,
    /// The sender is not the backup peer. Said before its receipt is read.
    NotAllowed,
}

#[derive(Serialize, Deserialize)]
struct Answer {
    answer: ReceiptAnswer,
}

/// Decides about a receipt, and notes it. Called on a thread that may block.
pub type OnReceipt = Arc<dyn Fn(PeerId, Receipt) -> ReceiptAnswer + Send + Sync>;

/// Tells `peer` of a snapshot, and returns what it says to it. The same
/// receipt may be sent again at any time.
///
/// # Errors
///
/// [`ExchangeError`]: then it is not known whether it arrived.
pub async fn send_receipt(
    handle: &Handle,
    peer: PeerId,
    receipt: Receipt,
) -> Result<ReceiptAnswer, ExchangeError> {
    let stream = handle.open(peer, RECEIPT_PROTOCOL).await?;
    let sending = tell(stream, &receipt);
    tokio::time::timeout(SEND_TIMEOUT, sending)
        .await
        .map_err(|_| ExchangeError::Timeout(SEND_TIMEOUT))?
}

async fn tell(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    receipt: &Receipt,
) -> Result<ReceiptAnswer, ExchangeError> {
    use futures::AsyncWriteExt as _;

    // Who refuses us may have closed before it read ours: what it says counts.
    let sent = write_frame(&mut stream, receipt, FRAME_LEN_MAX).await;
    match read_frame::<Answer>(&mut stream, FRAME_LEN_MAX).await {
        Ok(Answer { answer }) => {
            let _ = stream.close().await;
            Ok(answer)
        }
        Err(error) => Err(sent.err().unwrap_or(error)),
    }
}

/// Takes the streams of [`RECEIPT_PROTOCOL`] until the node stops. Receipts of
/// peers that `allowed` does not name are not read.
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
    exchange::serve(receiver, limits, allowed, |stream, may| {
        let peer = stream.peer();
        if !may {
            tracing::debug!(%peer, "refused: it sent a receipt and is not the backup peer");
        }
        answer(stream, peer, may.then(|| on_receipt.clone()))
    })
    .await;
}

/// Answers one stream; `None`: its peer may not send receipts.
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
            assert_eq!(tell(near.compat(), &receipt()).await.unwrap(), wanted);
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
            assert!(tell(near.compat(), &receipt()).await.is_err());
        }
    }

    #[tokio::test]
    async fn a_panic_while_noting_is_an_error_not_an_answer() {
        let (near, far) = tokio::io::duplex(1 << 16);
        let on_receipt: OnReceipt = Arc::new(|_, _| panic!("on purpose"));
        let serving = tokio::spawn(answer(far.compat(), PeerId::random(), Some(on_receipt)));
        assert!(tell(near.compat(), &receipt()).await.is_err());
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

//! Receipts: the backup server confirms to a source that a snapshot is complete and durable.
//!
//! `/archivist/receipts/2.0.0` (docs/formats/wire.md): one stream, one receipt, one answer. A
//! receipt is signed ([`SignedReceipt`]) and remains a proof without the connection.
//!
//! A receipt changes only what the source shows as confirmed, and ends the notifications of the
//! manifest. The source checks the receipt and stores it (crate `node`). The backup server
//! remembers the last one, so that the next continues the chain (crate `backup`).

mod signed;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use futures::{AsyncRead, AsyncWrite};
use net::{Handle, NetStream, PeerId, StreamProtocol};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::blocking::blocking;
use crate::exchange::{self, ExchangeError, Limits, finish, read_frame, write_frame};

pub use self::signed::{
    Confirmation, EncodedReceipt, Receipt, ReceiptFormError, ReceiptHash, SignedReceipt,
};

/// Name of the receipt protocol.
pub const RECEIPT_PROTOCOL: StreamProtocol = StreamProtocol::new("/archivist/receipts/2.0.0");

/// Name of version 1 of the protocol, whose receipts have no signature. A source accepts its
/// streams only to learn which backup server must be updated, and answers none.
pub const UNSIGNED_RECEIPT_PROTOCOL: StreamProtocol =
    StreamProtocol::new("/archivist/receipts/1.0.0");

/// Maximum length of a receipt or an answer, in bytes; a receipt has about 700.
const FRAME_LEN_MAX: usize = 4096;
/// Maximum time of an exchange on the client side, counted from the opened stream.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);
/// Limits of the server side. A backup server opens one stream for each folder that has a new
/// snapshot.
const LIMITS: Limits = Limits { streams: 32, streams_per_peer: 8, time: Duration::from_secs(15) };

/// The source's answer to a receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReceiptAnswer {
    /// The source has stored the receipt durably, now or before.
    Ok,
    /// The source does not watch a folder with this id, or no longer does.
    UnknownFolder,
    /// The source has not published this manifest, or the receipt is not valid. The receipt is not
    /// in the source's chain, and never will be.
    Refused,
    /// The source could not store the receipt. The backup server sends it again.
    Failed,
    /// The chain was interrupted too often, and the user of the source has not accepted that yet.
    /// The backup server sends the receipt again.
    ChainBroken,
    /// The source does not support the version of the receipt.
    Unsupported,
    /// The sender is not the backup server of this source. Sent before the receipt is read.
    NotAllowed,
}

#[derive(Serialize, Deserialize)]
struct Answer {
    answer: ReceiptAnswer,
}

/// Function of the source that checks a receipt of a peer, stores it and returns the answer. The
/// signatures of the receipt are not verified before. Called on a thread that may block, and only
/// for allowed peers.
pub type OnReceipt = Arc<dyn Fn(PeerId, SignedReceipt) -> ReceiptAnswer + Send + Sync>;

/// Sends a receipt to `peer` and returns its answer. The same receipt may be sent again at any
/// time.
///
/// # Errors
///
/// Returns [`ExchangeError`] if the exchange failed; the receipt may have arrived all the same.
pub async fn send_receipt(
    handle: &Handle,
    peer: PeerId,
    receipt: &SignedReceipt,
) -> Result<ReceiptAnswer, ExchangeError> {
    let stream = handle.open(peer, RECEIPT_PROTOCOL).await?;
    let sending = send(stream, receipt);
    tokio::time::timeout(SEND_TIMEOUT, sending)
        .await
        .map_err(|_| ExchangeError::Timeout(SEND_TIMEOUT))?
}

async fn send(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    receipt: &SignedReceipt,
) -> Result<ReceiptAnswer, ExchangeError> {
    use futures::AsyncWriteExt as _;

    // A peer that refuses us may close before it has read the receipt: its answer is still valid.
    let sent = write_frame(&mut stream, &receipt.encode(), FRAME_LEN_MAX).await;
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
    exchange::serve(receiver, LIMITS, allowed, |stream, is_allowed| {
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
            let encoded: EncodedReceipt = read_frame(&mut stream, FRAME_LEN_MAX).await?;
            match SignedReceipt::parse(encoded) {
                Ok(receipt) => {
                    blocking(move || Ok::<_, ExchangeError>(on_receipt(peer, receipt))).await?
                }
                Err(error @ ReceiptFormError::Version(_)) => {
                    tracing::warn!(%peer, %error, "refused a receipt");
                    ReceiptAnswer::Unsupported
                }
                Err(error) => return Err(ExchangeError::Malformed(error.to_string())),
            }
        }
        None => ReceiptAnswer::NotAllowed,
    };
    write_frame(&mut stream, &Answer { answer }, FRAME_LEN_MAX).await?;
    finish(&mut stream).await
}

//! Short exchanges over a stream: frames of JSON, and the loop that accepts and answers such
//! streams (docs/formats/wire.md).
//!
//! Invariants: a length is checked before anything is allocated; every exchange has a time limit;
//! a peer that floods, lies or stays silent loses its stream and has no other effect.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::time::Duration;

use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use net::{NetError, NetStream, PeerId};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use types::printable_line;

/// Maximum number of bytes that are read from a peer after it has been answered.
const DRAIN_LEN_MAX: usize = 64 << 10;
/// Maximum time for which these bytes are read. Dropping a stream with unread data can discard the
/// answer before the peer has read it.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Reason why an exchange with a peer failed: a stream of the receipt, patch or snapshot protocol.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// No stream to the peer could be opened.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The connection failed during the exchange.
    #[error("the connection failed")]
    Io(#[source] io::Error),
    /// The peer closed the stream in the middle of the exchange.
    #[error("the peer closed the stream before its answer was complete")]
    Closed,
    /// A frame is longer than the limit.
    #[error("a frame of {len} bytes exceeds the limit of {max} bytes")]
    TooLong {
        /// Announced length of the frame, in bytes.
        len: u64,
        /// Maximum length of a frame here, in bytes.
        max: usize,
    },
    /// The peer sent something that is not of the format.
    #[error("the peer violated the protocol: {0}")]
    Malformed(String),
    /// The peer did not answer in time.
    #[error("the peer did not answer within {0:?}")]
    Timeout(Duration),
    /// The value to send has no JSON form.
    #[error("cannot encode the message to send: {0}")]
    Unsendable(String),
    /// A task of the exchange panicked.
    #[error(transparent)]
    Panicked(#[from] crate::Panicked),
}

impl From<io::Error> for ExchangeError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Closed,
            _ => Self::Io(error),
        }
    }
}

/// Reads one frame: a length (u32, little-endian), then that many bytes of JSON.
pub(crate) async fn read_frame<T: DeserializeOwned>(
    stream: &mut (impl AsyncRead + Unpin),
    max: usize,
) -> Result<T, ExchangeError> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).await?;
    let length = u32::from_le_bytes(length);
    let too_long = ExchangeError::TooLong { len: length.into(), max };
    let Some(len) = usize::try_from(length).ok().filter(|len| *len <= max) else {
        return Err(too_long);
    };
    let mut bytes = vec![0; len];
    stream.read_exact(&mut bytes).await?;
    serde_json::from_slice(&bytes)
        .map_err(|error| ExchangeError::Malformed(printable_line(&error.to_string())))
}

/// Returns the bytes of one frame.
pub(crate) fn frame(value: &impl Serialize, max: usize) -> Result<Vec<u8>, ExchangeError> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, value)
        .map_err(|error| ExchangeError::Unsendable(error.to_string()))?;
    let len = bytes.len() - 4;
    let length = u32::try_from(len).ok().filter(|_| len <= max);
    let length = length.ok_or(ExchangeError::TooLong { len: len as u64, max })?;
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    Ok(bytes)
}

/// Writes one frame.
pub(crate) async fn write_frame(
    stream: &mut (impl AsyncWrite + Unpin),
    value: &impl Serialize,
    max: usize,
) -> Result<(), ExchangeError> {
    let bytes = frame(value, max)?;
    stream.write_all(&bytes).await?;
    stream.flush().await?;
    Ok(())
}

/// Closes the sending side, then reads until the peer closes its own side or a limit is reached.
pub(crate) async fn finish(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
) -> Result<(), ExchangeError> {
    stream.close().await?;
    let drained = async {
        let (mut buffer, mut left) = ([0; 1024], DRAIN_LEN_MAX);
        while left > 0 {
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(read) => left = left.saturating_sub(read),
            }
        }
    };
    // The result does not matter: the exchange is complete.
    let _ = tokio::time::timeout(DRAIN_TIMEOUT, drained).await;
    Ok(())
}

/// Limits of the server side of a protocol.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Maximum number of streams at the same time.
    pub(crate) streams: usize,
    /// Maximum number of streams of one peer at the same time.
    pub(crate) streams_per_peer: usize,
    /// Maximum time for one stream.
    pub(crate) time: Duration,
}

/// Limits for streams of peers that are not allowed; further ones are reset without an answer.
/// They are counted separately, so that any number of strangers cannot displace an allowed peer.
const REFUSING: Limits = Limits { streams: 16, streams_per_peer: 2, time: Duration::from_secs(5) };

/// Accepts streams until the channel closes, and answers each in a task of its own. `handle` gets
/// the stream and whether its peer is allowed. Streams beyond the limits are reset. Dropping the
/// future ends all tasks.
pub(crate) async fn serve<H, F>(
    mut inbound: mpsc::Receiver<NetStream>,
    limits: Limits,
    allowed: impl Fn(&PeerId) -> bool,
    handle: H,
) where
    H: Fn(NetStream, bool) -> F,
    F: Future<Output = Result<(), ExchangeError>> + Send + 'static,
{
    let (mut served, mut refused) = (Serving::new(limits), Serving::new(REFUSING));
    loop {
        let stream = tokio::select! {
            biased;
            // First, so that a flood of streams does not keep the places of ended ones occupied.
            Some(ended) = served.tasks.join_next() => {
                served.ended(ended);
                continue;
            }
            Some(ended) = refused.tasks.join_next() => {
                refused.ended(ended);
                continue;
            }
            stream = inbound.recv() => stream,
        };
        let Some(stream) = stream else { break };
        let peer = stream.peer();
        let is_allowed = allowed(&peer);
        let serving = if is_allowed { &mut served } else { &mut refused };
        if serving.has_room(&peer) {
            serving.spawn(peer, handle(stream, is_allowed));
        } else {
            tracing::debug!(%peer, protocol = %stream.protocol(), "reset a stream: limit reached");
        }
    }
    while served.tasks.join_next().await.is_some() {}
}

/// The streams that are being answered, and their number for each peer.
struct Serving {
    limits: Limits,
    tasks: JoinSet<PeerId>,
    per_peer: HashMap<PeerId, usize>,
}

impl Serving {
    fn new(limits: Limits) -> Self {
        Self { limits, tasks: JoinSet::new(), per_peer: HashMap::new() }
    }

    fn has_room(&self, peer: &PeerId) -> bool {
        let peer_count = self.per_peer.get(peer).copied().unwrap_or(0);
        self.tasks.len() < self.limits.streams && peer_count < self.limits.streams_per_peer
    }

    fn spawn(
        &mut self,
        peer: PeerId,
        serving: impl Future<Output = Result<(), ExchangeError>> + Send + 'static,
    ) {
        *self.per_peer.entry(peer).or_default() += 1;
        let limited = tokio::time::timeout(self.limits.time, serving);
        self.tasks.spawn(async move {
            use futures::FutureExt as _;

            // Caught, so that the peer's count is lowered after a panic, too.
            match std::panic::AssertUnwindSafe(limited).catch_unwind().await {
                Ok(Ok(Ok(()))) => {}
                Ok(Ok(Err(error))) => {
                    tracing::debug!(%peer, %error, "a stream ended with an error");
                }
                Ok(Err(_)) => tracing::debug!(%peer, "reset a stream: it took too long"),
                Err(_) => tracing::error!(%peer, "serving a stream panicked"),
            }
            peer
        });
    }

    fn ended(&mut self, ended: Result<PeerId, tokio::task::JoinError>) {
        match ended {
            Ok(peer) => {
                if let Some(count) = self.per_peer.get_mut(&peer) {
                    *count -= 1;
                    if *count == 0 {
                        self.per_peer.remove(&peer);
                    }
                }
            }
            Err(error) => tracing::error!(%error, "serving a stream failed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::io::Cursor;
    use proptest::prelude::*;

    use super::*;

    async fn read(bytes: Vec<u8>, max: usize) -> Result<Vec<u32>, ExchangeError> {
        read_frame(&mut Cursor::new(bytes), max).await
    }

    #[tokio::test]
    async fn a_frame_reads_back_and_every_cut_is_noticed() {
        let bytes = frame(&vec![1, 22, 333], 64).unwrap();
        assert_eq!(bytes, b"\x0a\x00\x00\x00[1,22,333]");
        assert_eq!(read(bytes.clone(), 10).await.unwrap(), [1, 22, 333]);
        for len in 0..bytes.len() {
            let cut = read(bytes[..len].to_vec(), 10).await;
            assert!(matches!(cut, Err(ExchangeError::Closed)), "{len}");
        }
    }

    #[tokio::test]
    async fn a_length_beyond_the_limit_is_refused_before_its_bytes() {
        let read = read(vec![0xff; 4], 10).await;
        assert!(matches!(read, Err(ExchangeError::TooLong { len: 0xffff_ffff, max: 10 })));
        assert!(matches!(frame(&"12345", 6), Err(ExchangeError::TooLong { len: 7, max: 6 })));
    }

    #[tokio::test(start_paused = true)]
    async fn places_are_bounded_for_each_and_all_and_come_back_in_time() {
        let time = Duration::from_secs(15);
        let mut serving = Serving::new(Limits { streams: 5, streams_per_peer: 2, time });
        let peers: Vec<PeerId> = (0..4).map(|_| PeerId::random()).collect();
        let mut taken = Vec::new();
        for peer in &peers {
            for silent in 0..10 {
                if serving.has_room(peer) {
                    taken.push((*peer, silent));
                    // A task that panics also lowers its count.
                    if silent == 0 {
                        serving.spawn(*peer, std::future::pending());
                    } else {
                        serving.spawn(*peer, async { panic!("on purpose") });
                    }
                }
            }
        }
        let [a, b, c, _] = peers[..] else { panic!("four") };
        assert_eq!(taken, [(a, 0), (a, 1), (b, 0), (b, 1), (c, 0)]);
        let started = tokio::time::Instant::now();
        while let Some(ended) = serving.tasks.join_next().await {
            serving.ended(ended);
        }
        assert_eq!(started.elapsed(), time);
        assert!(serving.per_peer.is_empty());
        assert!(peers.iter().all(|peer| serving.has_room(peer)));
    }

    proptest! {
        #[test]
        fn garbage_is_an_error(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            // 0xff never begins JSON.
            let bytes = [&b"\xff"[..], &bytes].concat();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let length = u32::try_from(bytes.len()).unwrap().to_le_bytes();
            let frame = [&length[..], &bytes].concat();
            prop_assert!(runtime.block_on(read(frame, 64)).is_err());
        }
    }

    #[test]
    fn fuzz_exchange_frame() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        fuzzing::target!(&[frame(&vec![1, 22, 333], 64).unwrap()], |bytes: &[u8]| {
            if let Ok(numbers) = runtime.block_on(read(bytes.to_vec(), 64)) {
                let again = frame(&numbers, 1024).unwrap();
                assert_eq!(runtime.block_on(read(again, 1024)).unwrap(), numbers);
            }
        });
    }
}

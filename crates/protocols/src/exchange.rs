//! Short conversations over a stream: frames of JSON, and the loop that takes
//! such streams and answers them (docs/formats/wire.md).
//!
//! Invariants: a length is checked before anything is allocated; every
//! conversation has an end in time; who floods, lies or says nothing loses
//! the stream, and nothing else happens.

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

/// What a peer may still be sending when it has been answered, in bytes …
const DRAIN_LEN_MAX: usize = 64 << 10;
/// … and for how long it is listened to: a stream that is dropped unread can
/// take with it what was answered.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Why a short conversation with a peer failed.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// There is no stream to the peer.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The connection broke.
    #[error("the connection broke")]
    Io(#[source] io::Error),
    /// The peer closed the stream before it had said all.
    #[error("the peer closed the stream before its answer was whole")]
    Closed,
    /// The peer announced more than may be.
    #[error("a frame of {len} bytes, where at most {max} may be")]
    TooLong {
        /// What it announced, in bytes.
        len: u64,
        /// The limit, in bytes.
        max: usize,
    },
    /// What the peer said is not of the format.
    #[error("the peer broke the protocol: {0}")]
    Malformed(String),
    /// The peer took too long.
    #[error("the peer did not answer within {0:?}")]
    Timeout(Duration),
    /// What was to be said has no form.
    #[error("what was to be sent cannot be written: {0}")]
    Unsendable(String),
    /// The work panicked; the panic was logged.
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

/// Reads one frame: a length (u32, little-endian), and so many bytes of JSON.
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

/// The bytes of one frame.
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

/// Ends our side, and listens for a moment until the peer ends its own.
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
    // What it still says, or that it says nothing, is of no interest.
    let _ = tokio::time::timeout(DRAIN_TIMEOUT, drained).await;
    Ok(())
}

/// How many streams a server takes at once, and how long each may last.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) streams: usize,
    pub(crate) streams_per_peer: usize,
    pub(crate) time: Duration,
}

/// Streams that are being turned away at once; any more are just reset. They
/// count for themselves: strangers, of whom there can be any number, take no
/// place of those who may.
const REFUSING: Limits = Limits { streams: 16, streams_per_peer: 2, time: Duration::from_secs(5) };

/// Takes streams until there are no more; each is answered by a task of its
/// own. `handle` is told whether its peer may ask. Streams beyond the limits
/// are reset. Ends all when it is dropped.
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
            stream = inbound.recv() => stream,
            Some(ended) = served.tasks.join_next() => {
                served.ended(ended);
                continue;
            }
            Some(ended) = refused.tasks.join_next() => {
                refused.ended(ended);
                continue;
            }
        };
        let Some(stream) = stream else { break };
        let peer = stream.peer();
        let may = allowed(&peer);
        let serving = if may { &mut served } else { &mut refused };
        if serving.has_room(&peer) {
            serving.spawn(peer, handle(stream, may));
        } else {
            tracing::debug!(%peer, protocol = %stream.protocol(), "too many streams: one was reset");
        }
    }
    while served.tasks.join_next().await.is_some() {}
}

/// Streams that are being answered.
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
        let of_peer = self.per_peer.get(peer).copied().unwrap_or(0);
        self.tasks.len() < self.limits.streams && of_peer < self.limits.streams_per_peer
    }

    fn spawn(
        &mut self,
        peer: PeerId,
        answer: impl Future<Output = Result<(), ExchangeError>> + Send + 'static,
    ) {
        *self.per_peer.entry(peer).or_default() += 1;
        let answered = tokio::time::timeout(self.limits.time, answer);
        self.tasks.spawn(async move {
            use futures::FutureExt as _;

            // Caught, so that the place of the peer is given back.
            match std::panic::AssertUnwindSafe(answered).catch_unwind().await {
                Ok(Ok(Ok(()))) => {}
                Ok(Ok(Err(error))) => tracing::debug!(%peer, %error, "a stream ended early"),
                Ok(Err(_)) => tracing::debug!(%peer, "a stream took too long and was reset"),
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
                    // One that panics gives its place back as well.
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
        let begun = tokio::time::Instant::now();
        while let Some(ended) = serving.tasks.join_next().await {
            serving.ended(ended);
        }
        assert_eq!(begun.elapsed(), time);
        assert!(serving.per_peer.is_empty());
        assert!(peers.iter().all(|peer| serving.has_room(peer)));
    }

    proptest! {
        #[test]
        fn garbage_is_an_error(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            // Never JSON, whatever follows.
            let bytes = [&b"\xff"[..], &bytes].concat();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let length = u32::try_from(bytes.len()).unwrap().to_le_bytes();
            let whole = [&length[..], &bytes].concat();
            prop_assert!(runtime.block_on(read(whole, 64)).is_err());
        }
    }
}

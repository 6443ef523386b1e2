//! The places of a server: how many connections it serves at the same time, and whose.
//!
//! Each connection is judged when it is accepted, by its address. This computer, the addresses that
//! the configuration names, and strangers have places of their own, so that none of them can keep
//! another out. Each address has a limit, too. A new connection is always accepted: if no place is
//! free, the connection ends that has made no progress for the longest time, preferably one that
//! waits for no answer.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Whose connection it is, as far as the address tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Guest {
    /// This computer.
    Local,
    /// An address that the configuration names.
    Known,
    /// Any other address.
    Stranger,
}

impl Guest {
    /// Returns the time for which an answer may stay unread. A browser of the owner may pause a
    /// download.
    const fn write_timeout(self) -> Duration {
        Duration::from_secs(match self {
            Self::Local => 600,
            Self::Known | Self::Stranger => 30,
        })
    }

    /// Returns the maximum number of connections, and of those from one address.
    const fn limits(self) -> (usize, usize) {
        match self {
            Self::Local => (256, 256),
            Self::Known => (128, 64),
            Self::Stranger => (16, 4),
        }
    }
}

/// Judges an address. Is called for each connection, so it must not block.
pub(crate) type Judge = Arc<dyn Fn(IpAddr) -> Guest + Send + Sync>;

/// The places of one server. Its listeners share them.
pub(crate) struct Places {
    judge: Judge,
    created: Instant,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    last_id: u64,
    places: HashMap<u64, Place>,
}

struct Place {
    guest: Guest,
    address: IpAddr,
    activity: Arc<Activity>,
    ended: CancellationToken,
}

/// The progress of a connection. Times are milliseconds after the creation of the places.
#[derive(Debug, Default)]
struct Activity {
    /// When bytes were last read or written.
    progressed: AtomicU64,
    /// When a write began to wait for the peer; 0: none waits.
    blocked: AtomicU64,
    /// Number of requests that wait for their answer.
    requests: AtomicUsize,
}

impl std::fmt::Debug for Places {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Places").field("taken", &self.taken.lock().places.len()).finish()
    }
}

impl Places {
    /// Creates places that are all free.
    pub(crate) fn new(judge: Judge) -> Arc<Self> {
        Arc::new(Self { judge, created: Instant::now(), taken: Mutex::default() })
    }

    fn now(&self) -> u64 {
        // Never 0, which has a meaning in `Activity`.
        u64::try_from(self.created.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
    }

    /// Takes a place for a new connection. If none is free, another connection loses its place.
    pub(crate) fn take(self: &Arc<Self>, address: IpAddr) -> Seat {
        let address = address.to_canonical();
        let guest = (self.judge)(address);
        let activity = Arc::new(Activity::default());
        activity.progressed.store(self.now(), Ordering::Relaxed);
        let ended = CancellationToken::new();
        let mut taken = self.taken.lock();
        let (most, of_one_address) = guest.limits();
        taken.make_room(of_one_address, |place| place.guest == guest && place.address == address);
        taken.make_room(most, |place| place.guest == guest);
        taken.last_id += 1;
        let id = taken.last_id;
        let place = Place { guest, address, activity: activity.clone(), ended: ended.clone() };
        taken.places.insert(id, place);
        Seat { id, places: self.clone(), timeout: guest.write_timeout(), activity, ended }
    }
}

impl Taken {
    /// Ends connections until fewer than `limit` satisfy `is_counted`.
    fn make_room(&mut self, limit: usize, is_counted: impl Fn(&Place) -> bool) {
        loop {
            let counted = self.places.iter().filter(|(_, place)| is_counted(place));
            if counted.clone().count() < limit {
                return;
            }
            let first = counted.min_by_key(|(id, Place { activity, .. })| {
                let waits = activity.requests.load(Ordering::Relaxed) > 0;
                (waits, activity.progressed.load(Ordering::Relaxed), **id)
            });
            let Some(id) = first.map(|(id, _)| *id) else { return };
            if let Some(place) = self.places.remove(&id) {
                place.ended.cancel();
            }
        }
    }
}

/// A taken place. It is free again when this is dropped.
pub(crate) struct Seat {
    id: u64,
    places: Arc<Places>,
    timeout: Duration,
    activity: Arc<Activity>,
    ended: CancellationToken,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.places.taken.lock().places.remove(&self.id);
    }
}

impl Seat {
    /// Waits until another connection has the place, or the peer has not read for too long.
    pub(crate) async fn lost(&self) {
        let limit = u64::try_from(self.timeout.as_millis()).unwrap_or(u64::MAX);
        let mut checks = tokio::time::interval(self.timeout / 4);
        loop {
            tokio::select! {
                () = self.ended.cancelled() => return,
                _ = checks.tick() => {}
            }
            let blocked = self.activity.blocked.load(Ordering::Relaxed);
            if blocked != 0 && self.places.now().saturating_sub(blocked) >= limit {
                return;
            }
        }
    }

    /// Notes that a request waits for its answer until the returned value is dropped.
    pub(crate) fn request(&self) -> impl Drop + Send + use<> {
        struct Request(Arc<Activity>);
        impl Drop for Request {
            fn drop(&mut self) {
                self.0.requests.fetch_sub(1, Ordering::Relaxed);
            }
        }
        self.activity.requests.fetch_add(1, Ordering::Relaxed);
        Request(self.activity.clone())
    }

    /// Returns a stream whose progress is noted.
    pub(crate) fn watch<S>(&self, stream: S) -> Watched<S> {
        Watched { stream, places: self.places.clone(), activity: self.activity.clone() }
    }
}

/// A stream whose progress is noted.
pub(crate) struct Watched<S> {
    stream: S,
    places: Arc<Places>,
    activity: Arc<Activity>,
}

impl<S> Watched<S> {
    fn note<T>(&self, result: &Poll<T>, is_write: bool) {
        match result {
            Poll::Ready(_) => {
                self.activity.progressed.store(self.places.now(), Ordering::Relaxed);
                if is_write {
                    self.activity.blocked.store(0, Ordering::Relaxed);
                }
            }
            Poll::Pending if is_write => {
                let (now, relaxed) = (self.places.now(), Ordering::Relaxed);
                let _ = self.activity.blocked.compare_exchange(0, now, relaxed, relaxed);
            }
            Poll::Pending => {}
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.note(&result, false);
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.note(&result, true);
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(context, buffers);
        self.note(&result, true);
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// 10.0.1.x are known, 127.x is this computer.
    fn places() -> Arc<Places> {
        Places::new(Arc::new(|address| match address {
            IpAddr::V4(ip) if ip.octets()[..3] == [10, 0, 1] => Guest::Known,
            address if address.is_loopback() => Guest::Local,
            _ => Guest::Stranger,
        }))
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn strangers_take_no_place_of_others() {
        let places = places();
        let known = places.take(ip("10.0.1.1"));
        let local = places.take(ip("::1"));
        let addresses = (0..4).flat_map(|_| (0..250_u8).map(|last| IpAddr::from([10, 0, 2, last])));
        let strangers: Vec<_> = addresses.map(|address| places.take(address)).collect();
        let alive = strangers.iter().filter(|seat| !seat.ended.is_cancelled()).count();
        assert!(alive <= 16, "{alive}");
        assert!(!known.ended.is_cancelled() && !local.ended.is_cancelled());
        drop(strangers);
        assert_eq!(places.taken.lock().places.len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_has_a_limit_and_a_mapped_address_is_the_same() {
        let places = places();
        let first: Vec<_> = (0..2).map(|_| places.take(ip("192.0.2.1"))).collect();
        let mapped: Vec<_> = (0..2).map(|_| places.take(ip("::ffff:192.0.2.1"))).collect();
        let other = places.take(ip("192.0.2.2"));
        assert!(first.iter().chain(&mapped).all(|seat| !seat.ended.is_cancelled()));
        let last = places.take(ip("192.0.2.1"));
        assert!(first[0].ended.is_cancelled() && !first[1].ended.is_cancelled());
        assert!(!last.ended.is_cancelled() && !other.ended.is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_for_an_answer_keeps_the_place_and_progress_counts() {
        let places = places();
        let address = ip("192.0.2.1");
        let waiting = places.take(address);
        let request = waiting.request();
        let (mine, mut theirs) = tokio::io::duplex(64);
        let active = places.take(address);
        let mut active_stream = active.watch(mine);
        let idle = [places.take(address), places.take(address)];
        tokio::time::advance(Duration::from_secs(1)).await;
        theirs.write_all(b"x").await.unwrap();
        active_stream.read_exact(&mut [0]).await.unwrap();
        let newer: Vec<_> = (0..2).map(|_| places.take(address)).collect();
        assert!(idle.iter().all(|seat| seat.ended.is_cancelled()));
        assert!(
            [&waiting, &active].into_iter().chain(&newer).all(|seat| !seat.ended.is_cancelled())
        );
        drop(request);
        let _last = places.take(address);
        assert!(waiting.ended.is_cancelled(), "it waits for nothing now");
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_does_not_read_loses_its_place() {
        let places = places();
        let seat = places.take(ip("192.0.2.1"));
        let (mine, mut theirs) = tokio::io::duplex(64);
        let mut stream = seat.watch(mine);
        // While it reads, however slowly, it keeps the place.
        for _ in 0..10 {
            let written = stream.write_all(&[0; 64]);
            tokio::select! {
                written = written => written.unwrap(),
                () = seat.lost() => panic!("it reads"),
            }
            tokio::time::advance(Duration::from_secs(20)).await;
            theirs.read_exact(&mut [0; 64]).await.unwrap();
        }
        stream.write_all(&[0; 64]).await.unwrap();
        tokio::select! {
            _ = stream.write_all(&[0; 64]) => panic!("nobody reads"),
            () = seat.lost() => {}
        }
    }
}

//! TLS over a byte stream, on rustls' interface without buffers of its own.
//!
//! The buffered interface reads the socket 4 KiB at a time into a buffer that
//! it grows and shrinks for every record, and copies what it decrypts twice.
//! Here a read takes what the socket has into one buffer, where the records
//! are decrypted in place; what they hold goes to the reader at once.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures::{AsyncRead, AsyncWrite};
use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, InsufficientSizeError};
use rustls::{ClientConfig, CommonState, ServerConfig};

/// What one record takes at most: 16 KiB, header, tag and padding.
const RECORD: usize = (16 << 10) + 256;

/// What one read of the socket may bring on a busy connection. It begins with
/// one record, so a connection that does little costs little.
const MAX_INCOMING: usize = 128 << 10;

/// Plain bytes that are taken and encrypted at once: four records.
const MAX_WRITE: usize = 64 << 10;

/// With this much not yet taken by the socket, no more is encrypted.
const MAX_UNSENT: usize = 64 << 10;

/// More than this waits only where the other side asks for answers, such as
/// changes of keys, and does not read them.
const MAX_OUTGOING: usize = 256 << 10;

/// What a record adds to its bytes: header, type and tag; and room for a key
/// update or an alert besides.
const OVERHEAD: usize = 32 * (1 + MAX_WRITE / (16 << 10)) + 256;

/// The two sides, which rustls keeps apart.
enum Connection {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

/// An encrypted stream.
pub(super) struct TlsStream<C> {
    io: C,
    connection: Connection,
    /// Bytes of the socket that were not processed: `start..end`.
    incoming: Vec<u8>,
    start: usize,
    end: usize,
    /// Plain bytes for which the reader had no room.
    plain: Vec<u8>,
    plain_taken: usize,
    /// Encrypted bytes that the socket has not taken: `sent..`.
    outgoing: Outgoing,
    /// The first record of a write in several pieces.
    gather: Vec<u8>,
    peer_closed: bool,
    closing: bool,
    failed: bool,
}

#[derive(Default)]
struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
    filled: usize,
}

impl Outgoing {
    fn unsent(&self) -> usize {
        self.filled - self.sent
    }

    /// Room for `len` bytes; clearing what is new happens once.
    fn room(&mut self, len: usize) -> &mut [u8] {
        if self.bytes.len() < self.filled + len {
            self.bytes.resize(self.filled + len, 0);
        }
        &mut self.bytes[self.filled..]
    }
}

/// Why processing stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Bytes were produced for the reader, or a message for the other side.
    Progress,
    /// All that came was processed, and application data may be sent.
    Traffic,
    /// More has to come before the handshake can go on.
    Handshake,
    /// The other side has said its last word; told once.
    PeerClosed,
    /// Both sides have.
    Closed,
}

/// What is to be encrypted when there is nothing to process.
#[derive(Clone, Copy)]
enum Say<'a> {
    Nothing,
    Bytes(&'a [u8]),
    /// Our last word.
    Close,
}

impl<C: AsyncRead + AsyncWrite + Unpin> TlsStream<C> {
    pub(super) async fn connect(
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
        io: C,
    ) -> io::Result<Self> {
        let connection = UnbufferedClientConnection::new(config, name).map_err(invalid)?;
        Self::new(io, Connection::Client(connection)).handshake().await
    }

    pub(super) async fn accept(config: Arc<ServerConfig>, io: C) -> io::Result<Self> {
        let connection = UnbufferedServerConnection::new(config).map_err(invalid)?;
        Self::new(io, Connection::Server(connection)).handshake().await
    }

    fn new(io: C, connection: Connection) -> Self {
        Self {
            io,
            connection,
            incoming: Vec::new(),
            start: 0,
            end: 0,
            plain: Vec::new(),
            plain_taken: 0,
            outgoing: Outgoing::default(),
            gather: Vec::new(),
            peer_closed: false,
            closing: false,
            failed: false,
        }
    }

    /// What rustls knows of the connection.
    pub(super) fn state(&self) -> &CommonState {
        match &self.connection {
            Connection::Client(connection) => connection,
            Connection::Server(connection) => connection,
        }
    }

    async fn handshake(mut self) -> io::Result<Self> {
        std::future::poll_fn(|cx| self.poll_handshake(cx)).await?;
        Ok(self)
    }

    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let (step, ..) = self.step(&mut [], Say::Nothing)?;
            ready!(self.poll_send(cx))?;
            match step {
                Step::Progress => {}
                Step::Traffic if !self.state().is_handshaking() => {
                    return Pin::new(&mut self.io).poll_flush(cx);
                }
                Step::Traffic | Step::Handshake => {
                    ready!(Pin::new(&mut self.io).poll_flush(cx))?;
                    ready!(self.poll_receive(cx))?;
                }
                Step::PeerClosed | Step::Closed => {
                    return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                }
            }
        }
    }

    /// Processes one record, or encrypts where nothing is left to process.
    /// Gives how much was put into `target` and how much was encrypted.
    fn step(&mut self, target: &mut [u8], say: Say<'_>) -> io::Result<(Step, usize, usize)> {
        // rustls does not stand being asked again after an error.
        if self.failed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let Self { connection, incoming, start, end, plain, plain_taken, outgoing, .. } = self;
        let incoming = &mut incoming[*start..*end];
        let mut work = Work { target, say, plain, plain_taken, outgoing };
        let (discard, result) = match connection {
            Connection::Client(connection) => {
                let status = connection.process_tls_records(incoming);
                (status.discard, status.state.map_err(invalid).and_then(|state| work.handle(state)))
            }
            Connection::Server(connection) => {
                let status = connection.process_tls_records(incoming);
                (status.discard, status.state.map_err(invalid).and_then(|state| work.handle(state)))
            }
        };
        *start += discard;
        if *start == *end {
            (*start, *end) = (0, 0);
        }
        self.failed = result.is_err();
        let done = result?;
        if matches!(done.0, Step::PeerClosed | Step::Closed) {
            self.peer_closed = true;
        }
        Ok(done)
    }

    /// Reads the socket; an end without the other side's last word is an
    /// error, since somebody may have cut the connection.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.end == self.incoming.len() {
            if self.start > 0 {
                self.incoming.copy_within(self.start..self.end, 0);
                (self.start, self.end) = (0, self.end - self.start);
            }
            // A buffer that was filled whole was too small for what comes.
            let len = (self.incoming.len() * 2).clamp(RECORD, MAX_INCOMING);
            if self.incoming.len() < len {
                self.incoming.resize(len, 0);
            }
            if self.end == self.incoming.len() {
                return Poll::Ready(Err(invalid("a handshake message is too long")));
            }
        }
        let room = &mut self.incoming[self.end..];
        let read = ready!(Pin::new(&mut self.io).poll_read(cx, room))?;
        if read == 0 {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        self.end += read;
        Poll::Ready(Ok(()))
    }

    /// Gives the socket what is encrypted.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outgoing = &mut self.outgoing;
        while outgoing.unsent() > 0 {
            let unsent = &outgoing.bytes[outgoing.sent..outgoing.filled];
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, unsent))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            outgoing.sent += written;
        }
        (outgoing.sent, outgoing.filled) = (0, 0);
        Poll::Ready(Ok(()))
    }

    /// Encrypts. Whatever has come and stands before it is processed first,
    /// and kept for the reader: no more than the incoming buffer holds.
    fn encrypt(&mut self, say: Say<'_>) -> io::Result<usize> {
        loop {
            let (step, _, encrypted) = self.step(&mut [], say)?;
            match step {
                Step::Traffic => return Ok(encrypted),
                // The other side may close first and still read.
                Step::Progress | Step::PeerClosed => {}
                Step::Handshake | Step::Closed => return Err(io::ErrorKind::BrokenPipe.into()),
            }
        }
    }

    /// Makes room for a write, by sending what was encrypted before.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.outgoing.unsent() >= MAX_UNSENT {
            return self.poll_send(cx);
        }
        Poll::Ready(Ok(()))
    }
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// Where the outcome of one step goes.
struct Work<'a> {
    target: &'a mut [u8],
    say: Say<'a>,
    plain: &'a mut Vec<u8>,
    plain_taken: &'a mut usize,
    outgoing: &'a mut Outgoing,
}

impl Work<'_> {
    fn handle<Data>(
        &mut self,
        state: ConnectionState<'_, '_, Data>,
    ) -> io::Result<(Step, usize, usize)> {
        Ok(match state {
            ConnectionState::ReadTraffic(mut traffic) => {
                let mut copied = 0;
                while let Some(record) = traffic.next_record() {
                    copied += self.deliver(record.map_err(invalid)?.payload, copied);
                }
                (Step::Progress, copied, 0)
            }
            ConnectionState::EncodeTlsData(mut message) => {
                if self.outgoing.unsent() > MAX_OUTGOING {
                    return Err(invalid("the other side does not take its answers"));
                }
                let mut len = RECORD;
                loop {
                    match message.encode(self.outgoing.room(len)) {
                        Ok(written) => {
                            self.outgoing.filled += written;
                            break;
                        }
                        Err(EncodeError::InsufficientSize(InsufficientSizeError {
                            required_size,
                        })) if required_size > len => len = required_size,
                        Err(error) => return Err(invalid(error)),
                    }
                }
                (Step::Progress, 0, 0)
            }
            // What was encoded is in our buffer, which is sent in order.
            ConnectionState::TransmitTlsData(message) => {
                message.done();
                (Step::Progress, 0, 0)
            }
            ConnectionState::WriteTraffic(mut traffic) => {
                let taken = match self.say {
                    Say::Bytes(bytes) => &bytes[..bytes.len().min(MAX_WRITE)],
                    Say::Close => &[],
                    Say::Nothing => return Ok((Step::Traffic, 0, 0)),
                };
                let mut len = taken.len() + OVERHEAD;
                loop {
                    let room = self.outgoing.room(len);
                    let written = match self.say {
                        Say::Close => traffic.queue_close_notify(room),
                        _ => traffic.encrypt(taken, room),
                    };
                    match written {
                        Ok(written) => {
                            self.outgoing.filled += written;
                            break;
                        }
                        Err(EncryptError::InsufficientSize(InsufficientSizeError {
                            required_size,
                        })) if required_size > len => len = required_size,
                        Err(error) => return Err(invalid(error)),
                    }
                }
                (Step::Traffic, 0, taken.len())
            }
            ConnectionState::BlockedHandshake => (Step::Handshake, 0, 0),
            ConnectionState::PeerClosed => (Step::PeerClosed, 0, 0),
            ConnectionState::Closed => (Step::Closed, 0, 0),
            // Early data is not accepted, so it is not offered.
            _ => return Err(invalid("an unexpected state of the connection")),
        })
    }

    /// Puts plain bytes where the reader wants them, and the rest aside.
    fn deliver(&mut self, payload: &[u8], at: usize) -> usize {
        let room = &mut self.target[at..];
        // Bytes that wait come first.
        let len = if self.plain.is_empty() { payload.len().min(room.len()) } else { 0 };
        room[..len].copy_from_slice(&payload[..len]);
        if self.plain.is_empty() {
            *self.plain_taken = 0;
        }
        self.plain.extend_from_slice(&payload[len..]);
        len
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsStream<C> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        target: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if target.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let mut copied = 0;
        loop {
            if this.plain_taken < this.plain.len() {
                let waiting = &this.plain[this.plain_taken..];
                let len = waiting.len().min(target.len() - copied);
                target[copied..copied + len].copy_from_slice(&waiting[..len]);
                this.plain_taken += len;
                copied += len;
            }
            if this.plain_taken == this.plain.len() {
                this.plain.clear();
                this.plain_taken = 0;
            }
            if copied == target.len() || (this.peer_closed && this.plain.is_empty()) {
                return Poll::Ready(Ok(copied));
            }
            let (step, len) = match this.step(&mut target[copied..], Say::Nothing) {
                Ok((step, len, _)) => (step, len),
                // What came before is good; the error is told next time.
                Err(_) if copied > 0 => return Poll::Ready(Ok(copied)),
                Err(error) => return Poll::Ready(Err(error)),
            };
            copied += len;
            match step {
                // A message of the protocol, such as the answer to a change of
                // keys, is sent with the next write.
                Step::Progress | Step::PeerClosed | Step::Closed => {}
                Step::Traffic | Step::Handshake if copied > 0 => return Poll::Ready(Ok(copied)),
                Step::Traffic | Step::Handshake => ready!(this.poll_receive(cx))?,
            }
        }
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsStream<C> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_room(cx))?;
        Poll::Ready(this.encrypt(Say::Bytes(bytes)))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let [head, body] = slices else {
            let first = slices.iter().find(|slice| !slice.is_empty());
            return Pin::new(this).poll_write(cx, first.map_or(&[], |slice| slice));
        };
        if head.len() >= 16 << 10 {
            return Pin::new(this).poll_write(cx, head);
        }
        ready!(this.poll_room(cx))?;
        // Head and body share the first record; the others are whole.
        let shared = body.len().min((16 << 10) - head.len());
        let mut gather = std::mem::take(&mut this.gather);
        gather.clear();
        gather.extend_from_slice(head);
        gather.extend_from_slice(&body[..shared]);
        let encrypted = this.encrypt(Say::Bytes(&gather));
        this.gather = gather;
        let mut taken = encrypted?;
        let rest = &body[shared..];
        let rest = &rest[..rest.len().min(MAX_WRITE - (16 << 10))];
        if !rest.is_empty() {
            taken += this.encrypt(Say::Bytes(rest))?;
        }
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !std::mem::replace(&mut this.closing, true) {
            // Where the connection failed before, there is no last word.
            let _ = this.encrypt(Say::Close);
        }
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.io).poll_close(cx)
    }
}

#[cfg(test)]
mod tests;

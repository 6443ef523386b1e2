//! [`TlsStream`]: TLS over a byte stream, with the unbuffered interface of rustls.
//!
//! Replaces `futures-rustls`, which `libp2p-tls` 0.7.0 uses. That crate uses the buffered
//! interface of rustls 0.23, which reads the socket 4 KiB at a time into a buffer that
//! grows and shrinks for every record, and copies decrypted bytes twice. Here, a read
//! takes all available bytes of the socket into one buffer. The records are decrypted in
//! place, and their content goes directly to the reader. The saving is 0.3 CPU seconds
//! per GB (`docs/decisions/0002`).
//!
//! The TLS protocol itself is implemented by rustls. This file only moves bytes between
//! rustls, the socket and the user of the stream.
//!
//! Memory: at most [`MAX_INCOMING`] bytes received, the plain bytes of one such buffer, and
//! [`MAX_OUTGOING`] bytes to send, whatever the peer does.

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

/// Maximum length of a TLS record in bytes: 16 KiB, header, tag and padding.
const RECORD: usize = (16 << 10) + 256;

/// Maximum length of the buffer for received bytes. A connection starts with room for one
/// record and gets more only if it is busy.
const MAX_INCOMING: usize = 128 << 10;

/// Maximum number of plain bytes that are encrypted in one call: four records.
const MAX_WRITE: usize = 64 << 10;

/// Number of unsent encrypted bytes from which on no further bytes are encrypted.
const MAX_UNSENT: usize = 64 << 10;

/// Maximum number of unsent encrypted bytes. More are unsent only if the peer requests
/// answers, such as key updates, and does not read them; that ends the connection.
const MAX_OUTGOING: usize = 256 << 10;

/// Number of bytes that encryption adds to [`MAX_WRITE`] bytes: header, type and tag of
/// each record, and room for a key update or an alert.
const OVERHEAD: usize = 32 * (1 + MAX_WRITE / (16 << 10)) + 256;

/// Client or server connection; rustls has a type for each.
enum Connection {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

/// Encrypted byte stream.
pub(super) struct TlsStream<C> {
    io: C,
    connection: Connection,
    /// Received bytes. `start..end` is not processed yet.
    incoming: Vec<u8>,
    start: usize,
    end: usize,
    /// Plain bytes for which the reader had no room. `plain_taken..` is not read yet.
    plain: Vec<u8>,
    plain_taken: usize,
    /// Encrypted bytes to send.
    outgoing: Outgoing,
    /// Plain bytes of the first record of a vectored write.
    gather: Vec<u8>,
    peer_closed: bool,
    closing: bool,
    failed: bool,
}

/// Encrypted bytes. `sent..filled` is not sent yet.
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

    /// Returns room for `len` bytes after the filled part. Only new memory is cleared.
    fn room(&mut self, len: usize) -> &mut [u8] {
        if self.bytes.len() < self.filled + len {
            self.bytes.resize(self.filled + len, 0);
        }
        &mut self.bytes[self.filled..]
    }
}

/// Result of one processing step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TlsStep {
    /// Bytes were produced for the reader, or a message for the peer.
    Progress,
    /// All received bytes are processed, and application data may be sent.
    Traffic,
    /// The handshake needs more bytes of the peer.
    Handshake,
    /// The peer has sent its close notification. Reported once.
    PeerClosed,
    /// Both sides have sent their close notifications.
    Closed,
}

/// Data to encrypt when no received bytes are left to process.
#[derive(Clone, Copy)]
enum ToEncrypt<'a> {
    Nothing,
    Bytes(&'a [u8]),
    /// The close notification.
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

    /// Returns the state of the connection in rustls.
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
            let (step, ..) = self.step(&mut [], ToEncrypt::Nothing)?;
            ready!(self.poll_send(cx))?;
            match step {
                TlsStep::Progress => {}
                TlsStep::Traffic if !self.state().is_handshaking() => {
                    return Pin::new(&mut self.io).poll_flush(cx);
                }
                TlsStep::Traffic | TlsStep::Handshake => {
                    ready!(Pin::new(&mut self.io).poll_flush(cx))?;
                    ready!(self.poll_receive(cx))?;
                }
                TlsStep::PeerClosed | TlsStep::Closed => {
                    return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                }
            }
        }
    }

    /// Processes one record, or encrypts `data` if no received bytes are left to process.
    /// Returns how many bytes were put into `target` and how many were encrypted.
    fn step(
        &mut self,
        target: &mut [u8],
        data: ToEncrypt<'_>,
    ) -> io::Result<(TlsStep, usize, usize)> {
        // rustls must not be called again after an error.
        if self.failed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let Self { connection, incoming, start, end, plain, plain_taken, outgoing, .. } = self;
        let incoming = &mut incoming[*start..*end];
        let mut buffers = StepBuffers { target, data, plain, plain_taken, outgoing };
        let (discard, result) = match connection {
            Connection::Client(connection) => {
                let status = connection.process_tls_records(incoming);
                (
                    status.discard,
                    status.state.map_err(invalid).and_then(|state| buffers.handle(state)),
                )
            }
            Connection::Server(connection) => {
                let status = connection.process_tls_records(incoming);
                (
                    status.discard,
                    status.state.map_err(invalid).and_then(|state| buffers.handle(state)),
                )
            }
        };
        *start += discard;
        if *start == *end {
            (*start, *end) = (0, 0);
        }
        self.failed = result.is_err();
        let done = result?;
        if matches!(done.0, TlsStep::PeerClosed | TlsStep::Closed) {
            self.peer_closed = true;
        }
        Ok(done)
    }

    /// Reads the socket. An end of the stream without a close notification is an error,
    /// because an attacker may have cut the connection.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.end == self.incoming.len() {
            if self.start > 0 {
                self.incoming.copy_within(self.start..self.end, 0);
                (self.start, self.end) = (0, self.end - self.start);
            }
            // A buffer that was filled completely was too small.
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

    /// Sends the encrypted bytes.
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

    /// Encrypts `data`. Processes the received bytes first and keeps their content for the
    /// reader. This is at most one buffer of received bytes.
    fn encrypt(&mut self, data: ToEncrypt<'_>) -> io::Result<usize> {
        loop {
            let (step, _, encrypted) = self.step(&mut [], data)?;
            match step {
                TlsStep::Traffic => return Ok(encrypted),
                // The peer may close first and still read.
                TlsStep::Progress | TlsStep::PeerClosed => {}
                TlsStep::Handshake | TlsStep::Closed => {
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
            }
        }
    }

    /// Makes room for a write by sending encrypted bytes.
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

/// Inputs and outputs of one step.
struct StepBuffers<'a> {
    target: &'a mut [u8],
    data: ToEncrypt<'a>,
    plain: &'a mut Vec<u8>,
    plain_taken: &'a mut usize,
    outgoing: &'a mut Outgoing,
}

impl StepBuffers<'_> {
    fn handle<Data>(
        &mut self,
        state: ConnectionState<'_, '_, Data>,
    ) -> io::Result<(TlsStep, usize, usize)> {
        Ok(match state {
            ConnectionState::ReadTraffic(mut traffic) => {
                let mut copied = 0;
                while let Some(record) = traffic.next_record() {
                    copied += self.deliver(record.map_err(invalid)?.payload, copied);
                }
                (TlsStep::Progress, copied, 0)
            }
            ConnectionState::EncodeTlsData(mut message) => {
                if self.outgoing.unsent() > MAX_OUTGOING {
                    return Err(invalid("the peer does not read the answers that it requests"));
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
                (TlsStep::Progress, 0, 0)
            }
            // The encoded bytes are in the outgoing buffer, which is sent in order.
            ConnectionState::TransmitTlsData(message) => {
                message.done();
                (TlsStep::Progress, 0, 0)
            }
            ConnectionState::WriteTraffic(mut traffic) => {
                let taken = match self.data {
                    ToEncrypt::Bytes(bytes) => &bytes[..bytes.len().min(MAX_WRITE)],
                    ToEncrypt::Close => &[],
                    ToEncrypt::Nothing => return Ok((TlsStep::Traffic, 0, 0)),
                };
                let mut len = taken.len() + OVERHEAD;
                loop {
                    let room = self.outgoing.room(len);
                    let written = match self.data {
                        ToEncrypt::Close => traffic.queue_close_notify(room),
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
                (TlsStep::Traffic, 0, taken.len())
            }
            ConnectionState::BlockedHandshake => (TlsStep::Handshake, 0, 0),
            ConnectionState::PeerClosed => (TlsStep::PeerClosed, 0, 0),
            ConnectionState::Closed => (TlsStep::Closed, 0, 0),
            // The only other state is early data, which is not accepted and never sent.
            _ => return Err(invalid("unexpected state of the TLS connection")),
        })
    }

    /// Copies plain bytes to the target of the reader, and the rest to `plain`.
    fn deliver(&mut self, payload: &[u8], at: usize) -> usize {
        let room = &mut self.target[at..];
        // Bytes in `plain` come first.
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
            let (step, len) = match this.step(&mut target[copied..], ToEncrypt::Nothing) {
                Ok((step, len, _)) => (step, len),
                // Bytes before the error are valid. The next call reports the error.
                Err(_) if copied > 0 => return Poll::Ready(Ok(copied)),
                Err(error) => return Poll::Ready(Err(error)),
            };
            copied += len;
            match step {
                // A message to the peer, such as the answer to a key update, is sent with
                // the next write.
                TlsStep::Progress | TlsStep::PeerClosed | TlsStep::Closed => {}
                TlsStep::Traffic | TlsStep::Handshake if copied > 0 => {
                    return Poll::Ready(Ok(copied));
                }
                TlsStep::Traffic | TlsStep::Handshake => ready!(this.poll_receive(cx))?,
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
        Poll::Ready(this.encrypt(ToEncrypt::Bytes(bytes)))
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
        // The first record has the head and the start of the body. The other records have
        // only the body.
        let shared = body.len().min((16 << 10) - head.len());
        let mut gather = std::mem::take(&mut this.gather);
        gather.clear();
        gather.extend_from_slice(head);
        gather.extend_from_slice(&body[..shared]);
        let encrypted = this.encrypt(ToEncrypt::Bytes(&gather));
        this.gather = gather;
        let mut taken = encrypted?;
        let rest = &body[shared..];
        let rest = &rest[..rest.len().min(MAX_WRITE - (16 << 10))];
        if !rest.is_empty() {
            taken += this.encrypt(ToEncrypt::Bytes(rest))?;
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
            // Fails if the connection failed before; there is no notification then.
            let _ = this.encrypt(ToEncrypt::Close);
        }
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.io).poll_close(cx)
    }
}

#[cfg(test)]
mod tests;

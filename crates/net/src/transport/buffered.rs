//! Buffers on both sides of the encryption: fewer system calls, fewer records.
//!
//! Yamux writes the 12-byte header of a frame and its body apart, and reads
//! them apart; rustls reads one record of at most 16 KiB from the socket at a
//! time. [`ReadAhead`] sits on the socket and reads what is there at once;
//! [`Coalesce`] sits under Yamux and gives header and body to the encryption
//! together, cut so that they fill whole records.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::{AsyncRead, AsyncWrite};

/// What one read of the socket may bring.
const READ_AHEAD: usize = 128 << 10;

/// Four full TLS records: a frame of [`super::muxer::SEND_FRAME`] bytes with
/// its header.
const COALESCE: usize = 64 << 10;

/// Reads the inner stream in large pieces.
pub(super) struct ReadAhead<C> {
    inner: C,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl<C> ReadAhead<C> {
    pub(super) fn new(inner: C) -> Self {
        // Allocated when the first bytes come: a connection that never says a
        // word costs nothing.
        Self { inner, buffer: Box::default(), start: 0, end: 0 }
    }
}

impl<C: AsyncRead + Unpin> AsyncRead for ReadAhead<C> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        target: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.start == this.end {
            if target.len() >= READ_AHEAD {
                return Pin::new(&mut this.inner).poll_read(cx, target);
            }
            if this.buffer.is_empty() {
                this.buffer = vec![0; READ_AHEAD].into_boxed_slice();
            }
            let read = ready!(Pin::new(&mut this.inner).poll_read(cx, &mut this.buffer))?;
            this.start = 0;
            this.end = read;
        }
        let len = target.len().min(this.end - this.start);
        target[..len].copy_from_slice(&this.buffer[this.start..this.start + len]);
        this.start += len;
        Poll::Ready(Ok(len))
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for ReadAhead<C> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, slices)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }
}

/// Gathers small writes until a flush or until a frame is full.
pub(super) struct Coalesce<C> {
    inner: C,
    buffer: Vec<u8>,
    sent: usize,
}

impl<C> Coalesce<C> {
    pub(super) fn new(inner: C) -> Self {
        Self { inner, buffer: Vec::new(), sent: 0 }
    }
}

impl<C: AsyncWrite + Unpin> Coalesce<C> {
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.buffer.len() {
            let written =
                ready!(Pin::new(&mut self.inner).poll_write(cx, &self.buffer[self.sent..]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += written;
        }
        self.buffer.clear();
        self.sent = 0;
        Poll::Ready(Ok(()))
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for Coalesce<C> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.buffer.len() >= COALESCE {
            ready!(this.poll_drain(cx))?;
        }
        let len = bytes.len().min(COALESCE - this.buffer.len());
        this.buffer.extend_from_slice(&bytes[..len]);
        Poll::Ready(Ok(len))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.inner).poll_flush(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.inner).poll_close(cx)
    }
}

impl<C: AsyncRead + Unpin> AsyncRead for Coalesce<C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        target: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_read(cx, target)
    }
}

#[cfg(test)]
mod tests {
    use futures::io::Cursor;
    use futures::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn bytes_come_out_as_they_went_in() {
        let bytes: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
        let mut reader = ReadAhead::new(Cursor::new(bytes.clone()));
        let mut read = Vec::new();
        let mut piece = vec![0; 7];
        loop {
            let len = reader.read(&mut piece).await.unwrap();
            if len == 0 {
                break;
            }
            read.extend_from_slice(&piece[..len]);
            piece.resize((piece.len() * 3) % 200_000 + 1, 0);
        }
        assert_eq!(read, bytes);

        let mut writer = Coalesce::new(Cursor::new(Vec::new()));
        for (n, piece) in bytes.chunks(977).enumerate() {
            writer.write_all(piece).await.unwrap();
            if n % 50 == 0 {
                writer.flush().await.unwrap();
            }
        }
        writer.close().await.unwrap();
        assert_eq!(writer.inner.into_inner(), bytes);
    }
}

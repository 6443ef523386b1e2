//! A response body that a blocking thread writes while it is sent.

use std::io::{self, Write};

use axum::body::{Body, Bytes};
use tokio::sync::mpsc;
use types::with_causes;

/// Maximum number of pieces that wait to be sent.
const PIECES_MAX: usize = 2;
/// Length of a piece in bytes.
const PIECE_LEN: usize = 128 * 1024;

/// Sends the bytes that are written to it.
pub(crate) struct BodyWriter {
    buffer: Vec<u8>,
    sender: mpsc::Sender<io::Result<Bytes>>,
    is_complete: bool,
}

/// Returns the body that `write` writes. If it fails or panics, the connection is
/// closed in the middle of the body, so that no client mistakes an
/// incomplete body for a complete one.
pub(crate) fn body<E: std::error::Error>(
    what: &'static str,
    write: impl FnOnce(&mut BodyWriter) -> Result<(), E> + Send + 'static,
) -> Body {
    let (sender, receiver) = mpsc::channel(PIECES_MAX);
    tokio::task::spawn_blocking(move || {
        let mut out = BodyWriter { buffer: Vec::new(), sender, is_complete: false };
        let written = write(&mut out).map_err(|error| with_causes(&error));
        match written.and_then(|()| out.flush().map_err(|error| error.to_string())) {
            Ok(()) => out.is_complete = true,
            // The client has disconnected.
            Err(_) if out.sender.is_closed() => {}
            Err(error) => tracing::error!(error, "{what} was interrupted"),
        }
    });
    Body::from_stream(futures::stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|piece| (piece, receiver))
    }))
}

impl Write for BodyWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= PIECE_LEN {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let piece = Bytes::from(std::mem::take(&mut self.buffer));
        self.sender.blocking_send(Ok(piece)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Drop for BodyWriter {
    fn drop(&mut self) {
        if !self.is_complete {
            let _ = self.sender.blocking_send(Err(io::Error::other("the body is incomplete")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(body: Body) -> Result<Bytes, axum::Error> {
        axum::body::to_bytes(body, usize::MAX).await
    }

    #[tokio::test]
    async fn a_body_is_whole_or_breaks_off() {
        let bytes = vec![7; 3 * PIECE_LEN + 5];
        let written = bytes.clone();
        let whole = body("a test", move |out| out.write_all(&written));
        assert!(read(whole).await.unwrap() == bytes);
        let fails = body("a test", |out| {
            out.write_all(&[7; PIECE_LEN])?;
            Err(io::Error::other("on purpose"))
        });
        assert!(read(fails).await.is_err());
        let panics = body("a test", |out| -> io::Result<()> {
            out.write_all(&[7; PIECE_LEN])?;
            panic!("on purpose");
        });
        assert!(read(panics).await.is_err());
    }
}

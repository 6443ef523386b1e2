//! A body that is written by a thread that may block, and sent as it comes.

use std::io::{self, Write};

use axum::body::{Body, Bytes};
use tokio::sync::mpsc;
use types::with_causes;

/// Pieces between the disk and the network.
const PIECES: usize = 2;
/// How long a piece is, in bytes.
const PIECE_LEN: usize = 128 * 1024;

/// Sends what is written to it.
pub(crate) struct Pieces {
    buffer: Vec<u8>,
    sender: mpsc::Sender<io::Result<Bytes>>,
    is_whole: bool,
}

/// The body that `write` writes. Where that fails, or panics, the connection
/// breaks off, so that nobody takes a part for the whole.
pub(crate) fn body<E: std::error::Error>(
    what: &'static str,
    write: impl FnOnce(&mut Pieces) -> Result<(), E> + Send + 'static,
) -> Body {
    let (sender, receiver) = mpsc::channel(PIECES);
    tokio::task::spawn_blocking(move || {
        let mut pieces = Pieces { buffer: Vec::new(), sender, is_whole: false };
        let written = write(&mut pieces).map_err(|error| with_causes(&error));
        match written.and_then(|()| pieces.flush().map_err(|error| error.to_string())) {
            Ok(()) => pieces.is_whole = true,
            // Where nobody takes it any more, there is nobody to tell.
            Err(_) if pieces.sender.is_closed() => {}
            Err(error) => tracing::error!(error, "{what} broke off"),
        }
    });
    Body::from_stream(futures::stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|piece| (piece, receiver))
    }))
}

impl Write for Pieces {
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

impl Drop for Pieces {
    fn drop(&mut self) {
        if !self.is_whole {
            let _ = self.sender.blocking_send(Err(io::Error::other("it broke off")));
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

//! What has been read from a stream and not yet been handed on.
//!
//! Frames are parsed where they lie; the payloads of one buffer are handed on
//! together as slices of it, and the buffer comes back when they are gone.

use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::AsyncRead;

use super::frame::{self, Frame, Side, Violation};

/// A buffer that is read into, and how far its frames were taken.
pub(super) struct FrameReader {
    side: Side,
    // All of it is initialised, so reading needs no clearing.
    buffer: Vec<u8>,
    taken: usize,
    filled: usize,
    /// What a buffer has at least.
    size: usize,
}

impl FrameReader {
    pub(super) fn new(side: Side, size: usize) -> Self {
        Self { side, buffer: Vec::new(), taken: 0, filled: 0, size }
    }

    /// Whether part of a frame has come.
    pub(super) fn is_partial(&self) -> bool {
        self.taken < self.filled
    }

    /// Whether there is room to read into.
    pub(super) fn has_room(&self) -> bool {
        self.buffer.is_empty() || self.filled < self.buffer.len()
    }

    /// Reads what is there.
    pub(super) fn poll_read<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if self.buffer.is_empty() {
            self.buffer = vec![0; self.size];
        }
        let room = &mut self.buffer[self.filled..];
        debug_assert!(!room.is_empty(), "the caller asks for room first");
        let read = ready!(Pin::new(stream).poll_read(cx, room))?;
        self.filled += read;
        Poll::Ready(Ok(read))
    }

    /// Takes the next frame that is whole, and where its bytes lie.
    pub(super) fn next(&mut self) -> Result<Option<(Frame<'_>, Range<usize>)>, Violation> {
        let bytes = &self.buffer[self.taken..self.filled];
        let Some(len) = frame::frame_len(self.side, bytes)?.filter(|len| *len <= bytes.len())
        else {
            return Ok(None);
        };
        let range = self.taken..self.taken + len;
        self.taken = range.end;
        Ok(Some((frame::parse(self.side, &self.buffer[range.clone()])?, range)))
    }

    /// Makes room for the rest of the frame that has begun, by moving it to
    /// the front. Only for a side that keeps no ranges.
    pub(super) fn compact(&mut self) {
        self.buffer.copy_within(self.taken..self.filled, 0);
        self.filled -= self.taken;
        self.taken = 0;
    }

    /// Gives the buffer away, and goes on in `spare` or in a new one with
    /// what was not taken.
    pub(super) fn replace(&mut self, spare: Option<Vec<u8>>) -> Vec<u8> {
        let rest = self.taken..self.filled;
        // A bad length shows when the frame is taken.
        let begun = frame::frame_len(self.side, &self.buffer[rest.clone()]);
        let needed = begun.ok().flatten().unwrap_or(0);
        let size = self.size.max(needed).max(rest.len());
        // A buffer that one long frame made long is not kept.
        let mut next = match spare {
            Some(spare) if spare.len() == size => spare,
            _ => vec![0; size],
        };
        next[..rest.len()].copy_from_slice(&self.buffer[rest.clone()]);
        self.taken = 0;
        self.filled = rest.len();
        std::mem::replace(&mut self.buffer, next)
    }
}

//! [`FrameReader`]: the buffer between a stream and the frames in it.
//!
//! Frames are parsed in the buffer without a copy. The payloads of one buffer are
//! passed on together as slices of it, and the buffer is used again after they are
//! dropped.

use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::AsyncRead;

use super::frame::{self, Frame, Side, Violation};

/// Buffer of received bytes. `taken..filled` is not parsed yet.
pub(super) struct FrameReader {
    side: Side,
    // Always initialised to its full length, so that reading needs no clearing.
    buffer: Vec<u8>,
    taken: usize,
    filled: usize,
    /// Minimum length of a buffer.
    size: usize,
}

impl FrameReader {
    pub(super) fn new(side: Side, size: usize) -> Self {
        Self { side, buffer: Vec::new(), taken: 0, filled: 0, size }
    }

    /// Reports whether the buffer has a part of a frame.
    pub(super) fn is_partial(&self) -> bool {
        self.taken < self.filled
    }

    /// Reports whether the buffer has room for more bytes.
    pub(super) fn has_room(&self) -> bool {
        self.buffer.is_empty() || self.filled < self.buffer.len()
    }

    /// Reads available bytes into the buffer. There must be room.
    pub(super) fn poll_read<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if self.buffer.is_empty() {
            self.buffer = vec![0; self.size];
        }
        let room = &mut self.buffer[self.filled..];
        debug_assert!(!room.is_empty(), "the caller checks for room first");
        let read = ready!(Pin::new(stream).poll_read(cx, room))?;
        self.filled += read;
        Poll::Ready(Ok(read))
    }

    /// Takes the next complete frame. Returns it with the range of its bytes in the
    /// buffer.
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

    /// Moves an incomplete frame to the front of the buffer to make room for the rest
    /// of it. Invalidates ranges that [`FrameReader::next`] returned.
    pub(super) fn compact(&mut self) {
        self.buffer.copy_within(self.taken..self.filled, 0);
        self.filled -= self.taken;
        self.taken = 0;
    }

    /// Returns the buffer and continues in `spare` or a new buffer, into which it
    /// copies the bytes that are not parsed yet.
    pub(super) fn replace(&mut self, spare: Option<Vec<u8>>) -> Vec<u8> {
        let rest = self.taken..self.filled;
        // An invalid length is reported when the frame is taken.
        let started = frame::frame_len(self.side, &self.buffer[rest.clone()]);
        let needed = started.ok().flatten().unwrap_or(0);
        let size = self.size.max(needed).max(rest.len());
        // A longer buffer, which one long frame needed, is not kept.
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

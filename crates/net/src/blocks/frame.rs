//! Frames of the block protocol: writing and parsing. Specified in
//! `docs/formats/wire.md`.
//!
//! A frame is a length (u32, little-endian; the number of bytes that follow), a kind
//! (u8) and a body. The parser never panics and allocates nothing. It checks the
//! length against the maximum for the kind before anyone waits for the body.

use std::fmt;

use types::{Cid, Codec, Encoding, Hash, MAX_BLOCK_LEN, Retry};

use super::sketch::{PIECE_HASH_LEN, PIECE_LOGS, PIECES_MAX, Sketch};

/// Version of the protocol that this code implements.
pub(crate) const VERSION: u16 = 1;

/// Hash mode in which the name of a block is the plain BLAKE3 of its bytes. There is no
/// other: a block that its source has encrypted is named by the encrypted bytes.
pub(crate) const HASH_MODE_PLAIN: u8 = 0;

/// Length of the prefix of a frame in bytes: length and kind.
pub(crate) const PREFIX: usize = 5;

/// Length of a want in bytes: codec and digest.
const WANT_LEN: usize = 1 + Hash::LEN;

/// Length of a SIMILAR body without the pieces, in bytes: a want and `piece_log`.
const SIMILAR_HEAD: usize = WANT_LEN + 1;

/// Maximum length of the bits in a PATCH body that select the shared pieces, in
/// bytes.
const SHARED_MAX: usize = PIECES_MAX.div_ceil(8);

/// Maximum number of wants in one frame.
pub(crate) const MAX_WANTS_PER_FRAME: usize = 1024;

/// Length of a BLOCK body without the payload, in bytes: encoding and decoded length.
pub(crate) const BLOCK_HEAD: usize = 1 + 4;

const HELLO_LEN: usize = 2 + 1 + 4;
const ACK_LEN: usize = 2 + 1 + 4 + 4;
/// Maximum length of the body of a greeting, in bytes. Later versions may add fields,
/// which this version skips.
const MAX_GREETING: usize = 64;

/// Kinds of frames. The kinds that a server sends have the high bit set.
pub(crate) mod kind {
    pub(crate) const HELLO: u8 = 0x01;
    pub(crate) const WANT: u8 = 0x02;
    pub(crate) const SIMILAR: u8 = 0x03;
    pub(crate) const ACK: u8 = 0x81;
    pub(crate) const BLOCK: u8 = 0x82;
    pub(crate) const MISSING: u8 = 0x83;
    pub(crate) const CHANGED: u8 = 0x84;
    pub(crate) const PATCH: u8 = 0x85;
    pub(crate) const ERROR: u8 = 0xff;
}

/// Side that reads. It determines which kinds of frames are allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Server,
}

/// Ways in which a peer broke the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// The kind of a frame does not exist, or the peer may not send it; contains the
    /// kind.
    #[error("unknown frame kind 0x{0:02x}")]
    UnknownFrame(u8),
    /// The length of a frame is not allowed for its kind.
    #[error("invalid length of {len} bytes for a frame of kind 0x{kind:02x}")]
    FrameLength {
        /// Kind of the frame.
        kind: u8,
        /// Length of the body in bytes.
        len: usize,
    },
    /// A frame has no kind.
    #[error("empty frame")]
    EmptyFrame,
    /// A frame is not allowed at that point; contains its kind.
    #[error("unexpected frame of kind 0x{0:02x}")]
    OutOfTurn(u8),
    /// The server sent an answer that the client did not request.
    #[error("answer without a request")]
    Unasked,
    /// A codec, an encoding, a `piece_log` or an error code has an unknown value.
    #[error("unknown {what} {value}")]
    UnknownTag {
        /// Name of the field.
        what: &'static str,
        /// Value of the field.
        value: u8,
    },
    /// A block declares more bytes than a block may have, or, if it is plain, another
    /// length than its payload has; contains the declared length.
    #[error("invalid block length {0}")]
    BlockLength(u32),
    /// The server chose a version or hash mode that the client did not offer.
    #[error("the server chose a version or hash mode that was not offered")]
    Greeting,
}

/// Reasons for which a server ends a stream; sent in an ERROR frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum StreamRefusal {
    /// The client may not fetch blocks from this server.
    NotAllowed = 1,
    /// The server serves too many streams.
    Overloaded = 2,
    /// The client broke the protocol.
    Violation = 3,
    /// The server does not support the version or the hash mode.
    Version = 4,
    /// The server failed.
    Internal = 5,
    /// The client was silent or too slow.
    Stalled = 6,
}

impl StreamRefusal {
    fn from_code(code: u8) -> Result<Self, Violation> {
        Ok(match code {
            1 => Self::NotAllowed,
            2 => Self::Overloaded,
            3 => Self::Violation,
            4 => Self::Version,
            5 => Self::Internal,
            6 => Self::Stalled,
            value => return Err(Violation::UnknownTag { what: "error code", value }),
        })
    }

    /// Reports whether the server may serve a later stream.
    pub fn retry(self) -> Retry {
        match self {
            Self::NotAllowed | Self::Violation | Self::Version => Retry::Permanent,
            Self::Overloaded | Self::Internal | Self::Stalled => Retry::Temporary,
        }
    }
}

impl fmt::Display for StreamRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAllowed => "this node may not fetch blocks there",
            Self::Overloaded => "the peer serves too many streams",
            Self::Violation => "according to the peer, this node broke the protocol",
            Self::Version => "the peer does not support this version of the protocol",
            Self::Internal => "the peer had an internal error",
            Self::Stalled => "according to the peer, this node was too slow",
        })
    }
}

/// Complete frame that was received. Borrows the bytes of its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Frame<'a> {
    Hello { version: u16, hash_mode: u8, max_block_len: u32 },
    Want(&'a [u8]),
    Similar(&'a [u8]),
    Ack { version: u16, hash_mode: u8, max_block_len: u32, max_wants: u32 },
    Block { encoding: Encoding, len: u32, payload: &'a [u8] },
    Missing,
    Changed,
    Patch(&'a [u8]),
    Error(StreamRefusal),
}

impl Frame<'_> {
    pub(crate) fn kind(&self) -> u8 {
        match self {
            Self::Hello { .. } => kind::HELLO,
            Self::Want(_) => kind::WANT,
            Self::Similar(_) => kind::SIMILAR,
            Self::Ack { .. } => kind::ACK,
            Self::Block { .. } => kind::BLOCK,
            Self::Missing => kind::MISSING,
            Self::Changed => kind::CHANGED,
            Self::Patch(_) => kind::PATCH,
            Self::Error(_) => kind::ERROR,
        }
    }
}

fn check_len(side: Side, kind: u8, len: usize) -> Result<(), Violation> {
    let fits = match (side, kind) {
        (Side::Server, kind::HELLO) => (HELLO_LEN..=MAX_GREETING).contains(&len),
        (Side::Server, kind::WANT) => {
            len > 0 && len.is_multiple_of(WANT_LEN) && len / WANT_LEN <= MAX_WANTS_PER_FRAME
        }
        (Side::Server, kind::SIMILAR) => {
            let pieces = len.saturating_sub(SIMILAR_HEAD);
            pieces > 0
                && pieces.is_multiple_of(PIECE_HASH_LEN)
                && pieces / PIECE_HASH_LEN <= PIECES_MAX
        }
        (Side::Client, kind::ACK) => (ACK_LEN..=MAX_GREETING).contains(&len),
        (Side::Client, kind::BLOCK) => (BLOCK_HEAD..=BLOCK_HEAD + MAX_BLOCK_LEN).contains(&len),
        (Side::Client, kind::MISSING | kind::CHANGED) => len == 0,
        (Side::Client, kind::PATCH) => (2..=SHARED_MAX + MAX_BLOCK_LEN).contains(&len),
        (Side::Client, kind::ERROR) => len == 1,
        _ => return Err(Violation::UnknownFrame(kind)),
    };
    if fits { Ok(()) } else { Err(Violation::FrameLength { kind, len }) }
}

/// Returns the length of the frame at the start of `bytes`, including its prefix, or
/// `None` if the prefix is incomplete.
pub(crate) fn frame_len(side: Side, bytes: &[u8]) -> Result<Option<usize>, Violation> {
    let Some((len, rest)) = bytes.split_first_chunk::<4>() else {
        return Ok(None);
    };
    let len = u32::from_le_bytes(*len) as usize;
    if len == 0 {
        return Err(Violation::EmptyFrame);
    }
    let Some(kind) = rest.first() else {
        return Ok(None);
    };
    check_len(side, *kind, len - 1)?;
    Ok(Some(PREFIX + len - 1))
}

/// Parses one complete frame of the length that [`frame_len`] returned.
pub(crate) fn parse(side: Side, frame: &[u8]) -> Result<Frame<'_>, Violation> {
    let Some((prefix, body)) = frame.split_first_chunk::<PREFIX>() else {
        return Err(Violation::EmptyFrame);
    };
    let kind = prefix[4];
    check_len(side, kind, body.len())?;
    Ok(match kind {
        kind::HELLO => Frame::Hello {
            version: u16::from_le_bytes(bytes_at(body, 0)),
            hash_mode: body[2],
            max_block_len: u32::from_le_bytes(bytes_at(body, 3)),
        },
        kind::WANT => Frame::Want(body),
        kind::SIMILAR => Frame::Similar(body),
        kind::ACK => Frame::Ack {
            version: u16::from_le_bytes(bytes_at(body, 0)),
            hash_mode: body[2],
            max_block_len: u32::from_le_bytes(bytes_at(body, 3)),
            max_wants: u32::from_le_bytes(bytes_at(body, 7)),
        },
        kind::BLOCK => {
            let len = u32::from_le_bytes(bytes_at(body, 1));
            let payload = &body[BLOCK_HEAD..];
            let encoding = Encoding::from_tag(body[0])
                .ok_or(Violation::UnknownTag { what: "encoding", value: body[0] })?;
            let is_inconsistent = encoding == Encoding::Plain && payload.len() != len as usize;
            if len as usize > MAX_BLOCK_LEN || is_inconsistent {
                return Err(Violation::BlockLength(len));
            }
            Frame::Block { encoding, len, payload }
        }
        kind::MISSING => Frame::Missing,
        kind::CHANGED => Frame::Changed,
        kind::PATCH => Frame::Patch(body),
        _ => Frame::Error(StreamRefusal::from_code(body[0])?),
    })
}

/// Returns `N` bytes of a body whose length was checked before.
fn bytes_at<const N: usize>(body: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&body[at..at + N]);
    array
}

/// Parses the CIDs in the body of a WANT frame.
pub(crate) fn wants(body: &[u8]) -> impl ExactSizeIterator<Item = Result<Cid, Violation>> {
    body.chunks_exact(WANT_LEN).map(want)
}

fn want(bytes: &[u8]) -> Result<Cid, Violation> {
    let codec = Codec::from_tag(bytes[0])
        .ok_or(Violation::UnknownTag { what: "codec", value: bytes[0] })?;
    Ok(Cid::new(codec, Hash::from_bytes(bytes_at(bytes, 1))))
}

/// Parses the body of a SIMILAR frame: the CID of the wanted block and the sketch of
/// a block that the client has.
pub(crate) fn similar(body: &[u8]) -> Result<(Cid, Sketch), Violation> {
    let cid = want(body)?;
    let piece_log = body[WANT_LEN];
    if !PIECE_LOGS.contains(&piece_log) {
        return Err(Violation::UnknownTag { what: "piece_log", value: piece_log });
    }
    Ok((cid, Sketch::from_wire(piece_log, &body[SIMILAR_HEAD..])))
}

fn put_prefix(out: &mut Vec<u8>, kind: u8, body: usize) {
    let len = u32::try_from(body + 1).expect("a frame is far below 4 GiB");
    out.extend_from_slice(&len.to_le_bytes());
    out.push(kind);
}

pub(crate) fn put_hello(out: &mut Vec<u8>) {
    put_prefix(out, kind::HELLO, HELLO_LEN);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.push(HASH_MODE_PLAIN);
    put_max_block_len(out);
}

pub(crate) fn put_ack(out: &mut Vec<u8>, max_wants: u32) {
    put_prefix(out, kind::ACK, ACK_LEN);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.push(HASH_MODE_PLAIN);
    put_max_block_len(out);
    out.extend_from_slice(&max_wants.to_le_bytes());
}

fn put_max_block_len(out: &mut Vec<u8>) {
    let max = u32::try_from(MAX_BLOCK_LEN).expect("4 MiB");
    out.extend_from_slice(&max.to_le_bytes());
}

/// Writes a WANT frame. `cids` has 1 to [`MAX_WANTS_PER_FRAME`] entries.
pub(crate) fn put_wants(out: &mut Vec<u8>, cids: &[Cid]) {
    put_prefix(out, kind::WANT, cids.len() * WANT_LEN);
    for cid in cids {
        put_want(out, cid);
    }
}

fn put_want(out: &mut Vec<u8>, cid: &Cid) {
    out.push(cid.codec().tag());
    out.extend_from_slice(cid.hash().as_bytes());
}

/// Writes a SIMILAR frame: a want with the sketch of a similar block.
pub(crate) fn put_similar(out: &mut Vec<u8>, cid: &Cid, sketch: &Sketch) {
    put_prefix(out, kind::SIMILAR, SIMILAR_HEAD + sketch.size());
    put_want(out, cid);
    out.push(sketch.piece_log());
    for piece in sketch.pieces() {
        out.extend_from_slice(piece);
    }
}

/// Writes a BLOCK frame up to its payload, which has `payload` bytes.
pub(crate) fn put_block_head(out: &mut Vec<u8>, encoding: Encoding, len: u32, payload: usize) {
    put_prefix(out, kind::BLOCK, BLOCK_HEAD + payload);
    out.push(encoding.tag());
    out.extend_from_slice(&len.to_le_bytes());
}

pub(crate) fn put_missing(out: &mut Vec<u8>) {
    put_prefix(out, kind::MISSING, 0);
}

pub(crate) fn put_changed(out: &mut Vec<u8>) {
    put_prefix(out, kind::CHANGED, 0);
}

/// Writes the prefix of a PATCH frame, whose body has `patch` bytes.
pub(crate) fn put_patch_head(out: &mut Vec<u8>, patch: usize) {
    put_prefix(out, kind::PATCH, patch);
}

pub(crate) fn put_error(out: &mut Vec<u8>, refusal: StreamRefusal) {
    put_prefix(out, kind::ERROR, 1);
    out.push(refusal as u8);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole(side: Side, bytes: &[u8]) -> Result<Frame<'_>, Violation> {
        assert_eq!(frame_len(side, bytes)?, Some(bytes.len()));
        parse(side, bytes)
    }

    fn built(put: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut out = Vec::new();
        put(&mut out);
        out
    }

    #[test]
    fn the_bytes_are_those_of_the_document() {
        assert_eq!(built(put_hello), [8, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0x40, 0]);
        assert_eq!(
            built(|out| put_ack(out, 16_384)),
            [12, 0, 0, 0, 0x81, 1, 0, 0, 0, 0, 0x40, 0, 0, 0x40, 0, 0]
        );
        let cid = Cid::of(Codec::DagCbor, b"");
        let wants = built(|out| put_wants(out, &[cid]));
        assert_eq!(wants[..6], [34, 0, 0, 0, 2, 1]);
        assert_eq!(wants[6..], *cid.hash().as_bytes());
        assert_eq!(
            built(|out| put_block_head(out, Encoding::Zstd, 258, 3)),
            [9, 0, 0, 0, 0x82, 1, 2, 1, 0, 0]
        );
        let sketch = Sketch::from_wire(9, b"first.second");
        let similar = built(|out| put_similar(out, &cid, &sketch));
        assert_eq!(similar[..6], [47, 0, 0, 0, 3, 1]);
        assert_eq!(similar[6..38], *cid.hash().as_bytes());
        assert_eq!(similar[38..], *b"\x09first.second");
        assert_eq!(built(|out| put_patch_head(out, 257)), [2, 1, 0, 0, 0x85]);
        assert_eq!(built(put_missing), [1, 0, 0, 0, 0x83]);
        assert_eq!(built(put_changed), [1, 0, 0, 0, 0x84]);
        assert_eq!(built(|out| put_error(out, StreamRefusal::NotAllowed)), [2, 0, 0, 0, 0xff, 1]);
    }

    #[test]
    fn every_frame_comes_back() {
        assert_eq!(
            whole(Side::Server, &built(put_hello)),
            Ok(Frame::Hello { version: 1, hash_mode: 0, max_block_len: 4 << 20 })
        );
        assert_eq!(
            whole(Side::Client, &built(|out| put_ack(out, 7))),
            Ok(Frame::Ack { version: 1, hash_mode: 0, max_block_len: 4 << 20, max_wants: 7 })
        );
        let cids: Vec<Cid> = (0..5_u8).map(|n| Cid::of(Codec::Raw, &[n])).collect();
        let bytes = built(|out| put_wants(out, &cids));
        let Ok(Frame::Want(body)) = whole(Side::Server, &bytes) else { panic!() };
        assert_eq!(wants(body).collect::<Result<Vec<_>, _>>(), Ok(cids));
        let (cid, sketch) = (Cid::of(Codec::DagCbor, b"x"), Sketch::from_wire(12, &[7; 600]));
        let bytes = built(|out| put_similar(out, &cid, &sketch));
        let Ok(Frame::Similar(body)) = whole(Side::Server, &bytes) else { panic!() };
        assert_eq!(similar(body), Ok((cid, sketch)));
        for piece_log in [0, 7, 13, 255] {
            let bytes = built(|out| put_similar(out, &cid, &Sketch::from_wire(piece_log, &[7; 6])));
            let Ok(Frame::Similar(body)) = whole(Side::Server, &bytes) else { panic!() };
            assert!(matches!(similar(body), Err(Violation::UnknownTag { .. })));
        }
        let mut bytes = built(|out| put_patch_head(out, 3));
        bytes.extend_from_slice(b"abc");
        assert_eq!(whole(Side::Client, &bytes), Ok(Frame::Patch(b"abc")));
        let mut bytes = built(|out| put_block_head(out, Encoding::Plain, 3, 3));
        bytes.extend_from_slice(b"abc");
        let frame = Frame::Block { encoding: Encoding::Plain, len: 3, payload: b"abc" };
        assert_eq!(whole(Side::Client, &bytes), Ok(frame));
        for code in 1..=6 {
            let refusal = StreamRefusal::from_code(code).unwrap();
            let bytes = built(|out| put_error(out, refusal));
            assert_eq!(whole(Side::Client, &bytes), Ok(Frame::Error(refusal)));
        }
    }

    #[test]
    fn a_length_is_refused_before_its_bytes_come() {
        let prefix = |len: u32, kind: u8| [&len.to_le_bytes()[..], &[kind]].concat();
        let max_block = u32::try_from(1 + BLOCK_HEAD + MAX_BLOCK_LEN).unwrap();
        let max_want = u32::try_from(1 + WANT_LEN * MAX_WANTS_PER_FRAME).unwrap();
        let max_similar = u32::try_from(1 + SIMILAR_HEAD + 6 * PIECES_MAX).unwrap();
        let max_patch = u32::try_from(1 + SHARED_MAX + MAX_BLOCK_LEN).unwrap();
        assert!(frame_len(Side::Client, &prefix(max_patch, kind::PATCH)).is_ok());
        assert!(frame_len(Side::Server, &prefix(max_similar, kind::SIMILAR)).is_ok());
        assert!(frame_len(Side::Client, &prefix(max_block, kind::BLOCK)).is_ok());
        assert!(frame_len(Side::Server, &prefix(max_want, kind::WANT)).is_ok());
        for (side, len, kind) in [
            (Side::Client, max_block + 1, kind::BLOCK),
            (Side::Client, u32::MAX, kind::BLOCK),
            (Side::Client, 5, kind::BLOCK),
            (Side::Client, 2, kind::MISSING),
            (Side::Client, 3, kind::ERROR),
            (Side::Client, 11, kind::ACK),
            (Side::Client, 66, kind::ACK),
            (Side::Server, max_want + 33, kind::WANT),
            (Side::Server, max_want - 1, kind::WANT),
            (Side::Server, 1, kind::WANT),
            (Side::Server, u32::MAX, kind::WANT),
            (Side::Server, max_similar + 6, kind::SIMILAR),
            (Side::Server, max_similar - 1, kind::SIMILAR),
            (Side::Server, 35, kind::SIMILAR),
            (Side::Client, max_patch + 1, kind::PATCH),
            (Side::Client, 2, kind::PATCH),
            (Side::Server, 7, kind::HELLO),
        ] {
            let found = frame_len(side, &prefix(len, kind));
            assert!(matches!(found, Err(Violation::FrameLength { .. })), "{side:?} {len} {kind}");
        }
        assert_eq!(frame_len(Side::Client, &[0; 4]), Err(Violation::EmptyFrame));
        // The frames of the other side, and those of nobody.
        for (side, kind) in [
            (Side::Client, kind::WANT),
            (Side::Client, kind::SIMILAR),
            (Side::Server, kind::BLOCK),
            (Side::Server, kind::PATCH),
        ] {
            let found = frame_len(side, &prefix(34, kind));
            assert_eq!(found, Err(Violation::UnknownFrame(kind)));
        }
    }

    #[test]
    fn fuzz_frames() {
        let cid = Cid::of(Codec::DagCbor, b"");
        let mut block = built(|out| put_block_head(out, Encoding::Plain, 3, 3));
        block.extend_from_slice(b"abc");
        let examples = [
            built(put_hello),
            built(|out| put_ack(out, 16_384)),
            built(|out| put_wants(out, &[cid, cid])),
            built(|out| put_error(out, StreamRefusal::Overloaded)),
            block,
        ];
        fuzzing::target!(&examples, |bytes: &[u8]| {
            for side in [Side::Client, Side::Server] {
                let Ok(Some(len)) = frame_len(side, bytes) else { continue };
                let Some(frame) = bytes.get(..len) else { continue };
                match parse(side, frame) {
                    Ok(Frame::Want(body)) => drop(wants(body).collect::<Vec<_>>()),
                    Ok(Frame::Similar(body)) => drop(similar(body)),
                    Ok(Frame::Block { len, .. }) => assert!(len as usize <= MAX_BLOCK_LEN),
                    _ => {}
                }
            }
        });
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            client in any::<bool>(),
            kind in prop::sample::select(vec![1_u8, 2, 3, 0x81, 0x82, 0x83, 0x84, 0x85, 0xff, 0]),
        ) {
            let side = if client { Side::Client } else { Side::Server };
            let _ = frame_len(side, &bytes);
            let _ = parse(side, &bytes);
            let len = u32::try_from(bytes.len() + 1).unwrap();
            let framed = [&len.to_le_bytes()[..], &[kind], &bytes].concat();
            if let Ok(Some(len)) = frame_len(side, &framed) {
                prop_assert_eq!(len, framed.len());
                if let Ok(Frame::Want(body)) = parse(side, &framed) {
                    let _ = wants(body).collect::<Vec<_>>();
                }
                if let Ok(Frame::Similar(body)) = parse(side, &framed) {
                    let _ = similar(body);
                }
            }
        }
    }
}

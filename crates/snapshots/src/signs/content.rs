//! The kind of a file's content, judged by its first bytes. No I/O.

use file_format::{FileFormat, Kind};

/// Number of bytes at the start of a file that are examined.
pub(super) const SAMPLE_LEN: usize = 16 << 10;
/// Number of bytes in which the signature of a format is searched. Formats are recognised by their
/// first bytes; a source file that contains a signature further on is no archive.
const SIGNATURE_LEN: usize = 4096;
/// Minimum number of bytes for a statement about their distribution.
const RANDOM_MIN: usize = 16;
/// Maximum of the chi-squared statistic of random bytes. With 255 degrees of freedom the mean is
/// 255 and the standard deviation 22.6, so this is six deviations above the mean.
const CHI_SQUARED_MAX: f64 = 390.0;
/// Minimum length of a text in an encoding other than UTF-8: random bytes of this length contain
/// control characters.
const LEGACY_TEXT_MIN: usize = 256;
/// Mean length of a word or line in such a text, at most. A text with another value in the place of
/// each byte has no spaces.
const LEGACY_WORD_MAX: usize = 64;

/// First bytes of formats that have no signature in crate `file-format`, and of their relatives.
const SIGNATURES: &[(&[u8], Kind)] = &[
    // zlib streams with the four usual levels: loose objects of git.
    (b"\x78\x01", Kind::Compressed),
    (b"\x78\x5e", Kind::Compressed),
    (b"\x78\x9c", Kind::Compressed),
    (b"\x78\xda", Kind::Compressed),
    // Index, pack, pack index and reverse index of git.
    (b"DIRC", Kind::Other),
    (b"PACK", Kind::Archive),
    (b"\xfftOc", Kind::Other),
    (b"RIDX", Kind::Other),
    // Metadata and incremental state of rustc.
    (b"rust\0", Kind::Other),
    (b"RSIC", Kind::Other),
];

/// The kind of a file's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// No bytes.
    Empty,
    /// Text.
    Text,
    /// A text that stands for a file elsewhere: a pointer of Git LFS or git-annex. A checkout
    /// replaces it by that file.
    Pointer,
    /// A format with a known signature.
    Known(Kind, IsRandom),
    /// No known format; the bytes are distributed as random ones, as encrypted bytes are.
    Random,
    /// Anything else.
    Other,
}

/// True if the bytes behind the signature are distributed as random ones.
pub(super) type IsRandom = bool;

impl Content {
    /// Judges the first bytes of a file, at most [`SAMPLE_LEN`].
    pub(super) fn of(sample: &[u8]) -> Self {
        if sample.is_empty() {
            return Self::Empty;
        }
        if sample.starts_with(b"version https://git-lfs") || sample.starts_with(b"/annex/objects/")
        {
            return Self::Pointer;
        }
        if is_text(sample) {
            return Self::Text;
        }
        if let Some(kind) = known_format(&sample[..sample.len().min(SIGNATURE_LEN)]) {
            return Self::Known(kind, is_random(sample));
        }
        if is_random(sample) { Self::Random } else { Self::Other }
    }

    /// Reports whether the content is an archive, or one compressed file.
    pub(super) fn is_archive(self) -> bool {
        matches!(self, Self::Known(Kind::Archive | Kind::Compressed, _))
    }

    /// Reports whether a program can read the content, as far as is known.
    pub(super) fn is_plain(self) -> bool {
        matches!(self, Self::Text | Self::Known(..))
    }
}

fn known_format(sample: &[u8]) -> Option<Kind> {
    // Frames of MPEG audio and AAC begin with eleven bits, and then name a layer and a bit rate
    // that exist.
    let is_mpeg_audio = matches!(sample, [0xff, second, third, ..]
        if second & 0xe0 == 0xe0 && second & 0x18 != 0x08 && third & 0xf0 != 0xf0);
    if is_mpeg_audio {
        return Some(Kind::Audio);
    }
    let own = SIGNATURES.iter().find(|(signature, _)| sample.starts_with(signature));
    if let Some((_, kind)) = own {
        return Some(*kind);
    }
    match FileFormat::from_bytes(sample) {
        FileFormat::ArbitraryBinaryData => None,
        format => Some(format.kind()),
    }
}

fn is_text(sample: &[u8]) -> bool {
    if sample.starts_with(b"\xff\xfe") || sample.starts_with(b"\xfe\xff") {
        // UTF-16 with a mark: most characters of a text are below U+0100, or in one block.
        return sample.len() >= 4 && !is_random(&sample[2..]);
    }
    let is_control = |byte: &u8| *byte < 0x20 && !b"\t\n\x0b\x0c\r\x1b\x08".contains(byte);
    if sample.iter().any(|byte| *byte == 0 || *byte == 0x7f || is_control(byte)) {
        return false;
    }
    match std::str::from_utf8(sample) {
        Ok(_) => true,
        // The sample may end within a character.
        Err(error) if error.error_len().is_none() => error.valid_up_to() > 0,
        Err(_) => {
            let spaces = sample.iter().filter(|byte| b" \n".contains(byte)).count();
            sample.len() >= LEGACY_TEXT_MIN && spaces >= sample.len() / LEGACY_WORD_MAX
        }
    }
}

/// Reports whether the bytes may be the output of a good cipher: the test of chi-squared for equal
/// frequencies. Compressed data of common formats mostly fails it, and has a signature.
fn is_random(sample: &[u8]) -> bool {
    if sample.len() < RANDOM_MIN {
        return false;
    }
    let mut counts = [0_u32; 256];
    for byte in sample {
        counts[usize::from(*byte)] += 1;
    }
    let squares: f64 = counts.iter().map(|count| f64::from(*count).powi(2)).sum();
    let len = sample.len() as f64;
    256.0 / len * squares - len <= CHI_SQUARED_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(seed: u64, len: usize) -> Vec<u8> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_be_bytes()[3]
        };
        (0..len).map(|_| next()).collect()
    }

    #[test]
    fn random_bytes_of_every_length_are_random() {
        for len in [16, 20, 33, 64, 100, 256, 900, 4096, SAMPLE_LEN] {
            let found =
                (1..=1000).filter(|seed| Content::of(&noise(*seed, len)) == Content::Random);
            // A few begin like a known format.
            assert!(found.count() >= 985, "{len}");
        }
    }

    #[test]
    fn contents_that_programs_can_read_are_plain() {
        let program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let with = |start: &[u8]| [start, &noise(7, 5000)].concat();
        for content in [
            b"# Title\n\nA text.\n".repeat(50),
            "Grüße aus Köln, 日本語\n".repeat(30).into_bytes(),
            b"caf\xe9 \xe0 la carte\n".repeat(40),
            [b"\xff\xfe".to_vec(), b"t\0e\0x\0t\0 \0".repeat(99)].concat(),
            program[..SAMPLE_LEN].to_vec(),
            with(b"\xff\xd8\xff\xe0\0\x10JFIF\0"),
            with(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"),
            with(b"PK\x03\x04\x14\0"),
            with(b"%PDF-1.7\n"),
            with(b"\xff\xfb\x90\x64"),
            with(b"\xff\xf3\x44\xc4"),
            with(b"ID3\x04\0\0"),
            with(b"OggS\0\x02"),
            with(b"\0\0\0\x20ftypisom"),
            with(b"\x78\x9c"),
            with(b"SQLite format 3\0"),
        ] {
            assert!(Content::of(&content).is_plain(), "{:?}", &content[..12]);
        }
        assert_eq!(Content::of(b""), Content::Empty);
        assert_eq!(Content::of(&[0; 4096]), Content::Other);
        let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 12\n";
        assert_eq!(Content::of(pointer), Content::Pointer);
    }

    #[test]
    fn fuzz_content() {
        let seeds = [noise(1, 300), b"text".to_vec(), b"PK\x03\x04".to_vec()];
        fuzzing::target!(&seeds, |bytes: &[u8]| {
            let content = Content::of(bytes);
            assert_eq!(content == Content::Empty, bytes.is_empty());
        });
    }
}

//! Renamed or moved directories: replaces the old paths in the bases of a patch by the new ones.
//!
//! The lines of moved files differ from the old lines only in the front of their paths. Each such
//! line is a match of its own in a patch and costs some bytes: 3 of 240. With the front replaced,
//! all lines together are one match.
//!
//! No I/O. The server finds the renames; the client applies them, and checks the CID of the result
//! as for every patch.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};

use memchr::memmem;
use types::{delta, segment_lines};

/// Text before the path of an entry. It cannot occur inside a JSON string, because the quotes would
/// be escaped there.
const PATH: &[u8] = b"\"path\":\"";
/// Text after the path in the line of a file.
const AFTER_PATH: &[u8] = b"\",\"size_bytes\":";

/// Maximum number of renames in one answer.
pub(super) const RENAMES_MAX: usize = 8;
/// Minimum number of moved files for which a rename saves more bytes than it costs.
const FILES_MIN: usize = 8;

/// The front of a path and its replacement: empty, or up to and including a slash. In the form in
/// which it stands in a line, so with JSON escapes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rename {
    from: Vec<u8>,
    to: Vec<u8>,
}

/// The files whose paths changed from one front to another.
struct Moved<'a> {
    files: usize,
    /// The directories below that front that contain all of them.
    below: &'a [u8],
}

/// Finds the renames between the lines of `bases` and those of `block`, from the files whose lines
/// differ only in the path.
pub(super) fn find(bases: &[u8], block: &[u8]) -> Vec<Rename> {
    let new: HashSet<&[u8]> = segment_lines(block).collect();
    let gone = segment_lines(bases).filter(|line| !new.contains(line)).filter_map(Line::of_file);
    let gone: HashMap<_, _> = gone.map(|line| (line.rest, line.path)).collect();
    let mut moves: HashMap<(&[u8], &[u8]), Moved<'_>> = HashMap::new();
    for line in segment_lines(block).filter_map(Line::of_file) {
        let Some(old) = gone.get(&line.rest) else { continue };
        let tail = common_tail(old, line.path);
        if tail.is_empty() {
            continue;
        }
        let fronts = (front(old, tail), front(line.path, tail));
        let below = directories(tail);
        let moved = moves.entry(fronts).or_insert(Moved { files: 0, below });
        moved.files += 1;
        moved.below = common_directories(moved.below, below);
    }
    let mut moves: Vec<_> = moves.into_iter().filter(|(_, m)| m.files >= FILES_MIN).collect();
    moves.sort_unstable_by_key(|(fronts, moved)| (Reverse(moved.files), *fronts));
    moves.truncate(RENAMES_MAX);
    let mut renames: Vec<Rename> = moves
        .into_iter()
        .map(|((from, to), Moved { below, .. })| Rename {
            from: [from, below].concat(),
            to: [to, below].concat(),
        })
        .collect();
    // Deeper directories come first: the first fitting rename is applied.
    renames.sort_by_key(|rename| Reverse(rename.from.len()));
    renames
}

/// Returns `bases` with the front of each path replaced by the first rename that fits, or `None` if
/// the result exceeds the length limit of bases.
pub(super) fn apply(bases: &[u8], renames: &[Rename]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(bases.len());
    let mut rest = bases;
    // Offset at which `rest` begins.
    let mut done = 0;
    for at in memmem::find_iter(bases, PATH) {
        let path = at + PATH.len();
        // A hostile rename may contain this text.
        let Some(kept) = path.checked_sub(done) else { continue };
        let (before, after) = rest.split_at(kept);
        let Some((rename, after)) =
            renames.iter().find_map(|rename| Some((rename, after.strip_prefix(&rename.from[..])?)))
        else {
            continue;
        };
        out.extend_from_slice(before);
        out.extend_from_slice(&rename.to);
        done = path + rename.from.len();
        rest = after;
        if out.len() > delta::BASES_LEN_MAX {
            return None;
        }
    }
    out.extend_from_slice(rest);
    (out.len() <= delta::BASES_LEN_MAX).then_some(out)
}

/// Returns the renames in the form that precedes a patch, without those that are too long.
pub(super) fn encode(renames: &[Rename]) -> Vec<u8> {
    let mut bytes = vec![0];
    for rename in renames.iter().take(RENAMES_MAX) {
        let (Ok(from), Ok(to)) = (u16::try_from(rename.from.len()), u16::try_from(rename.to.len()))
        else {
            continue;
        };
        bytes.extend(from.to_le_bytes());
        bytes.extend_from_slice(&rename.from);
        bytes.extend(to.to_le_bytes());
        bytes.extend_from_slice(&rename.to);
        bytes[0] += 1;
    }
    bytes
}

/// Returns the renames of an answer and the patch that follows them, or `None` if it is malformed.
pub(super) fn decode(answer: &[u8]) -> Option<(Vec<Rename>, &[u8])> {
    let (&count, mut rest) = answer.split_first()?;
    if usize::from(count) > RENAMES_MAX {
        return None;
    }
    let mut text = || {
        let (len, after) = rest.split_first_chunk()?;
        let (text, after) = after.split_at_checked(u16::from_le_bytes(*len).into())?;
        rest = after;
        Some(text.to_vec())
    };
    let renames: Option<_> =
        (0..count).map(|_| Some(Rename { from: text()?, to: text()? })).collect();
    Some((renames?, rest))
}

/// The line of a file.
struct Line<'a> {
    path: &'a [u8],
    /// The text before and after the path.
    rest: (&'a [u8], &'a [u8]),
}

impl<'a> Line<'a> {
    /// Returns `None` if the line is not that of a file, or its path is not UTF-8.
    fn of_file(line: &'a [u8]) -> Option<Self> {
        let (before, after) = line.split_at(memmem::find(line, PATH)? + PATH.len());
        let (path, after) = after.split_at(memmem::find(after, AFTER_PATH)?);
        let has_other_fields = memmem::find(path, b"\",\"").is_some();
        (!has_other_fields).then_some(Self { path, rest: (before, after) })
    }
}

/// Returns the names with which both paths end.
fn common_tail<'a>(a: &'a [u8], b: &[u8]) -> &'a [u8] {
    let len = a.iter().rev().zip(b.iter().rev()).take_while(|(a, b)| a == b).count();
    let (front_a, tail) = a.split_at(a.len() - len);
    let (front_b, _) = b.split_at(b.len() - len);
    let is_name_end = |front: &[u8]| front.last().is_none_or(|byte| *byte == b'/');
    if is_name_end(front_a) && is_name_end(front_b) {
        return tail;
    }
    // The tail begins in the middle of a name: skip that part.
    tail.iter().position(|byte| *byte == b'/').map_or(&[], |at| tail.split_at(at + 1).1)
}

/// Returns a path without its tail.
fn front<'a>(path: &'a [u8], tail: &[u8]) -> &'a [u8] {
    path.split_at(path.len() - tail.len()).0
}

/// Returns a path without its last name.
fn directories(path: &[u8]) -> &[u8] {
    let len = path.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1);
    path.split_at(len).0
}

/// Returns the directories with which both paths begin.
fn common_directories<'a>(a: &'a [u8], b: &[u8]) -> &'a [u8] {
    let len = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    directories(a.split_at(len).0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use types::{Cid, Codec, Entry, EntryKind, Hash, Metadata, RelPath, SegmentWriter};

    use super::*;

    fn line(path: &str, number: usize) -> String {
        let blake3 = Hash::of(&number.to_le_bytes());
        let kind = EntryKind::File {
            cid: Cid::new(Codec::Raw, blake3),
            size: 8,
            blake3,
            is_sparse: false,
        };
        let metadata = Metadata { mtime_ns: 1_700_000_000_123_456_789, ..Metadata::default() };
        Entry { path: RelPath::new(path).unwrap(), kind, metadata, error: None }.to_json()
    }

    fn segment(paths: impl IntoIterator<Item = String>) -> Vec<u8> {
        let mut writer = SegmentWriter::new(types::BlockScheme::plain());
        let mut all = Vec::new();
        for (number, path) in paths.into_iter().enumerate() {
            let path_of = RelPath::new(path.as_str()).unwrap();
            let ended = writer.push_line(&path_of, line(&path, number).as_bytes());
            all.extend(ended.into_iter().flat_map(|segment| segment.block.data().to_vec()));
        }
        all.extend(writer.finish().unwrap().block.data());
        all
    }

    fn paths(prefix: &str) -> impl Iterator<Item = String> {
        (0..1000).map(move |number| format!("{prefix}{:02}/photo {number}.jpg", number / 50))
    }

    fn rename(from: &str, to: &str) -> Rename {
        Rename { from: from.as_bytes().to_vec(), to: to.as_bytes().to_vec() }
    }

    #[test]
    fn a_directory_that_has_another_name_costs_a_few_bytes() {
        for (old, new, from, to) in [
            ("2024/trip/", "2024/sea/", "2024/trip/", "2024/sea/"),
            // The ends of both names are equal, but the names differ.
            ("a/old trip/", "a/new trip/", "a/old trip/", "a/new trip/"),
            // Moved elsewhere under its own name.
            ("2024/trip/", "attic/2024/trip/", "2024/trip/", "attic/2024/trip/"),
            ("trip/x/", "x/", "trip/x/", "x/"),
            // All entries.
            ("", "attic/", "", "attic/"),
            ("attic/", "", "attic/", ""),
            ("a \"quoted\" \\ name/", "b/", r#"a \"quoted\" \\ name/"#, "b/"),
        ] {
            let (bases, block) = (segment(paths(old)), segment(paths(new)));
            let renames = find(&bases, &block);
            assert_eq!(renames, [rename(from, to)], "{old} {new}");
            assert_eq!(apply(&bases, &renames).unwrap(), block);
            let plain = delta::diff(&bases, &block, delta::LEVEL_SMALL).unwrap().len();
            let renamed = apply(&bases, &renames).unwrap();
            let patch = delta::diff(&renamed, &block, delta::LEVEL_SMALL).unwrap();
            let len = encode(&renames).len() + patch.len();
            assert!(len < 150 && plain > 1000, "{old} {new}: {plain}, {len}");
        }
    }

    #[test]
    fn several_renames_are_told_apart() {
        let of = |a: &str, b: &str, c: &str| segment(paths(a).chain(paths(b)).chain(paths(c)));
        let (bases, block) = (of("a/", "b/", "c/"), of("x/", "a/b/", "c/"));
        let renames = find(&bases, &block);
        assert_eq!(renames.len(), 2);
        assert!(renames.contains(&rename("a/", "x/")) && renames.contains(&rename("b/", "a/b/")));
        // Each path is replaced once: a path that becomes `a/b/` does not become `x/b/`.
        assert_eq!(apply(&bases, &renames).unwrap(), block);
        // The deeper directory has a rename of its own.
        let (bases, block) = (of("a/", "a/b/", "c/"), of("x/", "y/", "c/"));
        assert_eq!(apply(&bases, &find(&bases, &block)).unwrap(), block);
    }

    #[test]
    fn what_was_not_renamed_is_not_taken_for_it() {
        let base = segment(paths("a/"));
        assert_eq!(find(&base, &base), []);
        assert_eq!(find(&[], &base), []);
        assert_eq!(find(&base, &[]), []);
        assert_eq!(find(b"no\nlines\n", &[0xff; 1000]), []);
        // Other files under other names, and the same files with other names.
        assert_eq!(find(&base, &segment((0..900).map(|n| format!("b/{}", n * 7)))), []);
        assert_eq!(
            find(
                &segment((0..900).map(|n| format!("{n}.a"))),
                &segment((0..900).map(|n| format!("{n}.b")))
            ),
            []
        );
        // Too few files.
        let some = |dir: &'static str| segment((0..7).map(move |n| format!("{dir}/{n}")));
        assert_eq!(find(&some("a"), &some("b")), []);
    }

    #[test]
    fn replacing_has_a_bound() {
        let bases = PATH.repeat(100_000);
        assert_eq!(apply(&bases, &[]).unwrap(), bases);
        let long = Rename { from: Vec::new(), to: vec![b'x'; 60_000] };
        assert_eq!(apply(&bases, &[long]), None);
        let bases = [PATH, &vec![b'x'; delta::BASES_LEN_MAX - PATH.len()]].concat();
        assert_eq!(apply(&bases, &[rename("", "y")]), None);
        assert!(apply(&bases, &[rename("x", "y")]).is_some());
    }

    #[test]
    fn what_is_replaced_is_not_looked_into() {
        let two = [PATH, PATH, b"x"].concat();
        let renames = [Rename { from: PATH.to_vec(), to: b"y".to_vec() }];
        assert_eq!(apply(&two, &renames).unwrap(), [PATH, b"yx"].concat());
        let cut = [&PATH[..4], b"x"].concat();
        let renames = [Rename { from: cut.clone(), to: Vec::new() }];
        assert_eq!(apply(&[PATH, &cut].concat(), &renames).unwrap(), PATH);
    }

    #[test]
    fn the_bytes_are_those_of_the_page() {
        let renames = [rename("a/", "bcd/"), rename("", "e/")];
        let bytes = encode(&renames);
        assert_eq!(bytes, b"\x02\x02\0a/\x04\0bcd/\0\0\x02\0e/");
        let answer = [&bytes[..], b"difference"].concat();
        assert_eq!(decode(&answer), Some((renames.to_vec(), &b"difference"[..])));
        assert_eq!(decode(b"\0difference"), Some((Vec::new(), &b"difference"[..])));
        for len in 0..bytes.len() {
            assert_eq!(decode(bytes.split_at(len).0), None);
        }
        assert_eq!(decode(&[9; 1000]), None);
        let long = Rename { from: vec![b'x'; 70_000], to: Vec::new() };
        assert_eq!(encode(&[long]), [0]);
    }

    proptest! {
        #[test]
        fn any_lines_and_any_renames_do_no_harm(
            bases in prop::collection::vec(any::<u8>(), 0..100),
            parts in prop::collection::vec((0_u8..6, "[a/\"\\\\]{0,4}"), 0..60),
            answer in prop::collection::vec(any::<u8>(), 0..100),
        ) {
            let text: Vec<u8> = parts.iter().flat_map(|(kind, text)| match kind {
                0 => PATH.to_vec(),
                1 => AFTER_PATH.to_vec(),
                2 => b"\n".to_vec(),
                _ => text.clone().into_bytes(),
            }).collect();
            let renames = find(&text, &bases);
            let _ = apply(&bases, &renames);
            if let Some((renames, _)) = decode(&answer) {
                let _ = apply(&text, &renames);
            }
            let renames: Vec<_> = parts.iter().map(|(_, text)| rename(text, "b")).collect();
            let _ = apply(&text, &renames);
            let again: Vec<_> = text.iter().rev().copied().collect();
            let _ = find(&text, &again);
        }
    }
}

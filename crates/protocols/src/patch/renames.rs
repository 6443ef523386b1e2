//! Directories that were renamed or moved: the bases of a difference with the
//! new paths in the place of the old ones.
//!
//! The lines of what has moved are those that were there but for the front of
//! their paths, at another distance each, so that each costs some bytes as a
//! difference: 3 of 240. With that front replaced they are one match.
//!
//! Pure. The server finds out what has moved; the client replaces what it is
//! told, and whatever comes of that is checked by its name as ever.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};

use memchr::memmem;
use types::{delta, segment_lines};

/// What stands before the path of an entry. In a text of JSON it cannot: there the
/// quotes would be escaped.
const PATH: &[u8] = b"\"path\":\"";
/// … and after it, in the line of a file.
const AFTER_PATH: &[u8] = b"\",\"size_bytes\":";

/// Renames in one answer.
pub(super) const RENAMES_MAX: usize = 8;
/// Files that have to be under it for a rename to be worth its bytes.
const FILES_MIN: usize = 8;

/// The front of a path, which has become another: empty, or up to a slash and
/// with it. As it stands in a line, so what JSON escapes is escaped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rename {
    from: Vec<u8>,
    to: Vec<u8>,
}

/// What has happened to the files that lost one front and got another.
struct Moved<'a> {
    files: usize,
    /// The directories that all of them are in, below that front.
    below: &'a [u8],
}

/// What was renamed between the lines of `bases` and those of `block`, as far as
/// the files tell that are in both, unchanged.
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
    // What lies deeper comes first, or what is above it would hide it.
    renames.sort_by_key(|rename| Reverse(rename.from.len()));
    renames
}

/// `bases` with the fronts of their paths replaced, by the first that fits each;
/// `None` where it grows beyond what bases may be.
pub(super) fn apply(bases: &[u8], renames: &[Rename]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(bases.len());
    let mut rest = bases;
    // Where `rest` begins.
    let mut done = 0;
    for at in memmem::find_iter(bases, PATH) {
        let path = at + PATH.len();
        // What is replaced may hold it, where somebody means harm.
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

/// The renames as they stand before a difference; those that are too long are
/// left out.
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

/// The renames of an answer, and the difference that follows them; `None` where
/// it is no answer.
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
    /// What is before the path and after it.
    rest: (&'a [u8], &'a [u8]),
}

impl<'a> Line<'a> {
    /// `None` where it is of something else, or its path is not UTF-8.
    fn of_file(line: &'a [u8]) -> Option<Self> {
        let (before, after) = line.split_at(memmem::find(line, PATH)? + PATH.len());
        let (path, after) = after.split_at(memmem::find(after, AFTER_PATH)?);
        let has_other_fields = memmem::find(path, b"\",\"").is_some();
        (!has_other_fields).then_some(Self { path, rest: (before, after) })
    }
}

/// The names that both paths end with.
fn common_tail<'a>(a: &'a [u8], b: &[u8]) -> &'a [u8] {
    let len = a.iter().rev().zip(b.iter().rev()).take_while(|(a, b)| a == b).count();
    let (front_a, tail) = a.split_at(a.len() - len);
    let (front_b, _) = b.split_at(b.len() - len);
    let is_whole = |front: &[u8]| front.last().is_none_or(|byte| *byte == b'/');
    if is_whole(front_a) && is_whole(front_b) {
        return tail;
    }
    // The first of them is only the end of a name.
    tail.iter().position(|byte| *byte == b'/').map_or(&[], |at| tail.split_at(at + 1).1)
}

/// A path without the end of it.
fn front<'a>(path: &'a [u8], tail: &[u8]) -> &'a [u8] {
    path.split_at(path.len() - tail.len()).0
}

/// A path without the last name.
fn directories(path: &[u8]) -> &[u8] {
    let len = path.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1);
    path.split_at(len).0
}

/// The directories that both begin with.
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
        let mut writer = SegmentWriter::new();
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
            // The ends of both are the same, not the names.
            ("a/old trip/", "a/new trip/", "a/old trip/", "a/new trip/"),
            // Moved elsewhere under its own name, and nothing else with it.
            ("2024/trip/", "attic/2024/trip/", "2024/trip/", "attic/2024/trip/"),
            ("trip/x/", "x/", "trip/x/", "x/"),
            // All there is.
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
        // Each path is replaced once: what becomes `a/b/` does not become `x/b/`.
        assert_eq!(apply(&bases, &renames).unwrap(), block);
        // What lies deeper goes its own way.
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
        // Other files under other names; the same ones under names of their own.
        assert_eq!(find(&base, &segment((0..900).map(|n| format!("b/{}", n * 7)))), []);
        assert_eq!(
            find(
                &segment((0..900).map(|n| format!("{n}.a"))),
                &segment((0..900).map(|n| format!("{n}.b")))
            ),
            []
        );
        // Too few.
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

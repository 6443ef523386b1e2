//! Paths as keys of the index: the number of the folder (big-endian), then the path with `/`
//! replaced by NUL.
//!
//! No name contains a NUL, so keys sort in the order of a walk: a directory, its contents, its
//! next sibling. A subtree, a segment and a folder are ranges of keys.

use std::cmp::Ordering;
use std::ops::Range;

use types::RelPath;

/// The number of a folder in the index.
pub(crate) type FolderNumber = u32;

/// The length of the folder number in a key, in bytes.
pub(crate) const NUMBER_LEN: usize = 4;

/// Returns the key of a path.
pub(crate) fn key_of(number: FolderNumber, path: &RelPath) -> Vec<u8> {
    let mut key = Vec::with_capacity(NUMBER_LEN + path.as_bytes().len());
    key.extend_from_slice(&number.to_be_bytes());
    key.extend(path.as_bytes().iter().map(|byte| if *byte == b'/' { 0 } else { *byte }));
    key
}

/// Returns the folder and the path of a key; `None` if the key is malformed.
pub(crate) fn path_of(key: &[u8]) -> Option<(FolderNumber, RelPath)> {
    let (number, path) = key.split_first_chunk::<NUMBER_LEN>()?;
    let path: Vec<u8> = path.iter().map(|byte| if *byte == 0 { b'/' } else { *byte }).collect();
    Some((FolderNumber::from_be_bytes(*number), RelPath::new(path).ok()?))
}

/// Returns the range of the keys of a folder, including its root.
pub(crate) fn folder_range(number: FolderNumber) -> Range<Vec<u8>> {
    number.to_be_bytes().to_vec()..number.saturating_add(1).to_be_bytes().to_vec()
}

/// Returns the range of the keys of a path and of everything below it.
pub(crate) fn within_range(number: FolderNumber, path: &RelPath) -> Range<Vec<u8>> {
    if path.is_root() {
        return folder_range(number);
    }
    let start = key_of(number, path);
    let mut end = start.clone();
    end.push(1);
    start..end
}

/// Returns the range of the keys of everything below a path.
pub(crate) fn below_range(number: FolderNumber, path: &RelPath) -> Range<Vec<u8>> {
    let Range { mut start, end } = within_range(number, path);
    // Below the root, a name directly follows the number; no name begins with NUL.
    start.push(0);
    start..end
}

/// Compares a path with the path part of a key, without converting either.
pub(crate) fn cmp_path_to_key(path: &[u8], key_path: &[u8]) -> Ordering {
    let as_key = path.iter().map(|byte| if *byte == b'/' { 0 } else { *byte });
    as_key.cmp(key_path.iter().copied())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn path(bytes: &[u8]) -> RelPath {
        RelPath::new(bytes).unwrap()
    }

    #[test]
    fn keys_sort_in_the_order_of_a_walk_and_ranges_contain_the_right_keys() {
        let names: [&[u8]; 9] =
            [b"", b"\x01", b"a", b"a/b", b"a/b/c", b"a\x01", b"a-b", b"a.txt", b"\xff/\xfe"];
        let mut keys: Vec<_> = names.iter().map(|name| key_of(7, &path(name))).collect();
        assert!(keys.is_sorted());
        let within = within_range(7, &path(b"a"));
        let found: Vec<_> = keys.iter().filter(|key| within.contains(*key)).collect();
        assert_eq!(found.len(), 3);
        let below = below_range(7, &path(b"a"));
        assert_eq!(keys.iter().filter(|key| below.contains(*key)).count(), 2);
        let all = below_range(7, &RelPath::root());
        assert_eq!(keys.iter().filter(|key| all.contains(*key)).count(), 8);
        keys.push(key_of(8, &RelPath::root()));
        assert_eq!(keys.iter().filter(|key| folder_range(7).contains(*key)).count(), 9);
    }

    fn any_path() -> impl Strategy<Value = RelPath> {
        let name = prop::collection::vec(prop_oneof![1_u8..4, Just(b'a'), 250_u8..], 1..4)
            .prop_filter("names", |name| name != b"." && name != b"..");
        prop::collection::vec(name, 0..4)
            .prop_filter_map("paths", |names| RelPath::new(names.join(&b'/')).ok())
    }

    proptest! {
        #[test]
        fn keys_are_in_the_order_of_paths(a in any_path(), b in any_path()) {
            let (key_a, key_b) = (key_of(1, &a), key_of(1, &b));
            prop_assert_eq!(a.cmp(&b), key_a.cmp(&key_b));
            prop_assert_eq!(cmp_path_to_key(a.as_bytes(), &key_b[NUMBER_LEN..]), a.cmp(&b));
            prop_assert_eq!(path_of(&key_a), Some((1, a.clone())));
            prop_assert_eq!(within_range(1, &b).contains(&key_a), a.is_within(&b));
            prop_assert_eq!(below_range(1, &b).contains(&key_a), a.is_within(&b) && a != b);
        }
    }

    #[test]
    fn fuzz_path_key() {
        let examples = [key_of(1, &RelPath::root()), key_of(u32::MAX, &path(b"a/b c/\xff"))];
        fuzzing::target!(&examples, |bytes: &[u8]| {
            if let Some((number, path)) = path_of(bytes) {
                assert_eq!(path_of(&key_of(number, &path)), Some((number, path)));
            }
        });
    }
}

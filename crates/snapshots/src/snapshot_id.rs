//! The id of a snapshot.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};
use types::Cid;

/// Number of digits in an id. With 40 bits, the chance that two of 10,000 snapshots have the same
/// id is 1 in 20,000; a longer prefix of the hash then tells them apart.
const ID_LEN: usize = 10;
/// Minimum length of a prefix that selects a snapshot.
const PREFIX_LEN_MIN: usize = 4;

/// The short, stable id of a snapshot: the first digits of the hash of its record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotId(String);

/// A text that cannot be a snapshot id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a snapshot id: use {PREFIX_LEN_MIN} to 64 of the digits 0-9 and a-f")]
pub struct SnapshotIdError(String);

impl SnapshotId {
    /// Returns the id of the snapshot with this record.
    pub fn of(record: &Cid) -> Self {
        Self(record.hash().to_string()[..ID_LEN].to_owned())
    }

    /// Returns the id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SnapshotId {
    type Err = SnapshotIdError;

    fn from_str(text: &str) -> Result<Self, SnapshotIdError> {
        let lower = text.to_ascii_lowercase();
        let is_hex =
            lower.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        if is_hex && (PREFIX_LEN_MIN..=64).contains(&lower.len()) {
            Ok(Self(lower))
        } else {
            Err(SnapshotIdError(text.chars().take(80).collect()))
        }
    }
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for SnapshotId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_digits() {
        for good in ["abcd", "0123456789", "ABCDEF", &"a".repeat(64)] {
            assert!(good.parse::<SnapshotId>().is_ok(), "{good}");
        }
        for bad in ["", "abc", "xyz1", "ab cd", "../..", &"a".repeat(65)] {
            assert!(bad.parse::<SnapshotId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn fuzz_snapshot_id() {
        fuzzing::target!(&["abcd", "0123456789"], |bytes: &[u8]| {
            if let Ok(id) = String::from_utf8_lossy(bytes).parse::<SnapshotId>() {
                assert_eq!(id.as_str().parse(), Ok(id));
            }
        });
    }
}

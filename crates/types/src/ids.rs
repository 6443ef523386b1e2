//! Folder ids and sequence numbers.
//!
//! A folder id is checked when it is parsed. A sequence number is not: see
//! [`SequenceNumber`].

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};

/// Stable name of a watched folder: 1 to 64 characters of `A-Z a-z 0-9 _ -`.
///
/// The source chooses the id at random when the folder is added, or the user
/// writes one into the configuration. It is unique on its source only, so a backup
/// server identifies a folder by the peer id of the source and the folder id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct FolderId(String);

/// Error: the text is not a [`FolderId`]. Contains the text, cut to 80
/// characters.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a folder id: 1 to 64 letters, digits, `-` or `_`")]
pub struct FolderIdError(String);

impl FolderId {
    /// Makes an id of 24 characters from 16 random bytes.
    ///
    /// Uses the low 120 bits of `bytes`.
    pub fn from_random(bytes: [u8; 16]) -> Self {
        let alphabet = b"abcdefghijklmnopqrstuvwxyz234567";
        let number = u128::from_le_bytes(bytes);
        let digit = |at: u32| alphabet[(number >> (5 * at) & 31) as usize] as char;
        Self((0..24).map(digit).collect())
    }

    /// Returns the id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for FolderId {
    type Err = FolderIdError;

    fn from_str(text: &str) -> Result<Self, FolderIdError> {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if (1..=64).contains(&text.len()) && text.bytes().all(is_allowed) {
            Ok(Self(text.to_owned()))
        } else {
            // A hostile text may be of any length.
            Err(FolderIdError(text.chars().take(80).collect()))
        }
    }
}

impl fmt::Display for FolderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for FolderId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Number of a manifest within its folder. The first manifest has number 1;
/// each later one has a higher number.
///
/// Neither the field nor deserialization checks the range from
/// [`SequenceNumber::FIRST`] to [`SequenceNumber::MAX`]. For numbers of other
/// machines, [`crate::ManifestHeader::decode`] and `manifest::check` check it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SequenceNumber(pub u64);

impl SequenceNumber {
    /// Number of the first manifest of a folder.
    pub const FIRST: Self = Self(1);

    /// Returns the next number, or `None` after [`SequenceNumber::MAX`].
    pub fn next(self) -> Option<Self> {
        (self.0 < Self::MAX.0).then(|| Self(self.0 + 1))
    }

    /// Greatest valid number: 2^53 − 1, the greatest integer that every JSON
    /// parser reads exactly.
    pub const MAX: Self = Self((1 << 53) - 1);
}

impl fmt::Display for SequenceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folder_ids_have_rules() {
        let id = FolderId::from_random([7; 16]);
        assert_eq!(id.as_str().len(), 24);
        assert_eq!(id.to_string().parse(), Ok(id));
        for bad in ["", "a/b", "..", "a b", "ä", &"x".repeat(65)] {
            assert!(bad.parse::<FolderId>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_last_number_has_no_next() {
        assert_eq!(SequenceNumber::FIRST.next(), Some(SequenceNumber(2)));
        assert_eq!(SequenceNumber::MAX.next(), None);
        assert_eq!(SequenceNumber(u64::MAX).next(), None);
    }
}

//! Temporary names of entries that are not complete yet.
//!
//! A name identifies the destination and the run, so that the next run into the
//! same destination can remove what an interrupted run left behind, and nothing
//! else. A finished entry has such a name only if the snapshot contains it.

use std::fmt::Write;

/// Prefix of every temporary name.
const PREFIX: &str = ".archivist-tmp-";
const DEST_LEN: usize = 8;
const RUN_LEN: usize = 16;
const COUNT_LEN: usize = 16;

/// Reports whether a restore gives such a name to unfinished entries. An entry
/// with such a name does not belong to the user's files.
pub fn is_temp_name(name: &[u8]) -> bool {
    name.strip_prefix(PREFIX.as_bytes()).is_some_and(|rest| {
        rest.len() == DEST_LEN + RUN_LEN + COUNT_LEN
            && rest.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    })
}

/// The temporary names of one run into one destination.
#[derive(Debug)]
pub(crate) struct TempNames {
    /// Common prefix of the names of all runs into the destination.
    dest: String,
    run: u64,
}

impl TempNames {
    /// Creates the names for a destination with the given inode. The device is not
    /// part of the names, because its number may change at a reboot.
    pub(crate) fn new(inode: u64) -> Self {
        let dest = format!("{PREFIX}{:08x}", crate::entry::mix(inode) >> 32);
        Self { dest, run: random() }
    }

    /// Returns the name with the given number.
    pub(crate) fn name(&self, count: u64) -> String {
        let mut name = self.dest.clone();
        let _ = write!(name, "{:016x}{count:016x}", self.run);
        name
    }

    /// Reports whether another run into this destination left this name behind.
    pub(crate) fn is_leftover(&self, name: &[u8]) -> bool {
        let own = format!("{}{:016x}", self.dest, self.run);
        is_temp_name(name)
            && name.starts_with(self.dest.as_bytes())
            && !name.starts_with(own.as_bytes())
    }
}

/// Returns a number that differs between runs. It need not be unpredictable.
fn random() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_knows_its_own_names_from_those_of_others() {
        let (first, second, other) = (TempNames::new(7), TempNames::new(7), TempNames::new(8));
        let name = first.name(u64::MAX);
        assert!(is_temp_name(name.as_bytes()) && name.len() < 64);
        assert!(!first.is_leftover(name.as_bytes()));
        assert!(second.is_leftover(name.as_bytes()));
        assert!(!other.is_leftover(name.as_bytes()));
        for no in [".archivist-tmp-", ".archivist-tmp-x", "archivist", &name[1..], &name[..54]] {
            assert!(!is_temp_name(no.as_bytes()));
        }
    }
}

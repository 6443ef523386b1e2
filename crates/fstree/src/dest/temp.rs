//! Temporary names: what is being made, until it is whole.
//!
//! A name tells the target that it is for and the run that made it, so that the
//! next run into the same target can remove what a killed one left behind, and
//! nothing else. A finished thing never has such a name unless the snapshot
//! has it.

use std::fmt::Write;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::AtFlags;
use rustix::io::Errno;

/// How every temporary name begins.
const PREFIX: &str = ".archivist-tmp-";
const TARGET_LEN: usize = 8;
const RUN_LEN: usize = 16;
const COUNT_LEN: usize = 16;

/// Whether it is a name that a restore gives to what it has not finished.
/// What bears it is no part of anybody's files.
pub fn is_temp_name(name: &[u8]) -> bool {
    name.strip_prefix(PREFIX.as_bytes()).is_some_and(|rest| {
        rest.len() == TARGET_LEN + RUN_LEN + COUNT_LEN
            && rest.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    })
}

/// The temporary names of one run into one target.
#[derive(Debug)]
pub(crate) struct TempNames {
    /// What the names of all runs into the target begin with.
    target: String,
    run: u64,
}

impl TempNames {
    /// `inode` is the target's; its device is not taken in, since its number
    /// may be another after the machine was started again.
    pub(crate) fn new(inode: u64) -> Self {
        let target = format!("{PREFIX}{:08x}", crate::found::mix(inode) >> 32);
        Self { target, run: random() }
    }

    pub(crate) fn name(&self, count: u64) -> String {
        let mut name = self.target.clone();
        let _ = write!(name, "{:016x}{count:016x}", self.run);
        name
    }

    /// Whether another run into this target has left it.
    pub(crate) fn is_leftover(&self, name: &[u8]) -> bool {
        let own = format!("{}{:016x}", self.target, self.run);
        is_temp_name(name)
            && name.starts_with(self.target.as_bytes())
            && !name.starts_with(own.as_bytes())
    }
}

/// Differs from run to run; nothing depends on its being hard to guess.
fn random() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id())
}

/// Something with a temporary name, which is removed unless it gets its own.
#[derive(Debug)]
pub(crate) struct Temp {
    dir: OwnedFd,
    name: String,
    is_kept: bool,
}

impl Temp {
    pub(crate) fn new(dir: OwnedFd, name: String) -> Self {
        Self { dir, name, is_kept: false }
    }

    pub(crate) fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// It has its own name now.
    pub(crate) fn keep(&mut self) {
        self.is_kept = true;
    }

    pub(crate) fn remove(&mut self) -> Result<(), Errno> {
        self.is_kept = true;
        rustix::fs::unlinkat(&self.dir, self.name.as_str(), AtFlags::empty())
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        if !self.is_kept {
            let _ = self.remove();
        }
    }
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

//! The sample folder that the demo backs up: small, with the difficult kinds of
//! files.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use anyhow::{Context as _, Result};

/// Number of small files.
const NOTES: u32 = 300;
/// Length of the large file in bytes.
const VIDEO_LEN: usize = 24 << 20;

/// Creates the sample and returns its number of entries.
pub(super) fn make(dir: &Path) -> Result<u64> {
    try_make(dir).with_context(|| format!("cannot create the sample in {}", dir.display()))
}

fn try_make(dir: &Path) -> io::Result<u64> {
    fs::create_dir_all(dir.join("notes/2026"))?;
    fs::create_dir_all(dir.join("photos"))?;
    fs::create_dir_all(dir.join("empty directory"))?;
    for number in 0..NOTES {
        let text = format!("note {number}\n").repeat(1 + number as usize % 200);
        fs::write(dir.join(format!("notes/2026/{number:03}.txt")), text)?;
    }
    fs::write(dir.join("photos/video.mp4"), noise(1, VIDEO_LEN))?;
    // A copy of the same content costs no storage.
    fs::write(dir.join("photos/video (copy).mp4"), noise(1, VIDEO_LEN))?;
    fs::write(dir.join("photos/été \u{1f3d6}.jpg"), noise(2, 3 << 20))?;
    fs::write(dir.join("an empty file"), b"")?;
    fs::write(dir.join("a name with\na newline"), b"it happens\n")?;
    symlink("photos/video.mp4", dir.join("latest video"))?;
    symlink("nowhere", dir.join("a dangling link"))?;
    fs::hard_link(dir.join("notes/2026/000.txt"), dir.join("notes/first.txt"))?;
    fs::write(dir.join("notes/script.sh"), b"#!/bin/sh\necho hello\n")?;
    fs::set_permissions(dir.join("notes/script.sh"), fs::Permissions::from_mode(0o750))?;
    let sparse = File::create(dir.join("disk image"))?;
    sparse.set_len(64 << 20)?;
    Ok(u64::from(NOTES) + 14)
}

/// Changes the sample as a user does in a minute.
pub(super) fn change(dir: &Path) -> Result<()> {
    let changed = || -> io::Result<()> {
        fs::write(dir.join("notes/2026/001.txt"), b"rewritten\n")?;
        // Save like an editor: a new file under another name, then a rename.
        fs::write(dir.join("notes/2026/.002.txt.tmp"), b"saved by an editor\n")?;
        fs::rename(dir.join("notes/2026/.002.txt.tmp"), dir.join("notes/2026/002.txt"))?;
        fs::remove_file(dir.join("notes/2026/003.txt"))?;
        fs::rename(dir.join("photos"), dir.join("pictures"))?;
        let mut video = File::options().append(true).open(dir.join("pictures/video.mp4"))?;
        video.write_all(b"a little more")?;
        fs::write(dir.join("new.txt"), b"new\n")
    };
    changed().with_context(|| format!("cannot change the sample in {}", dir.display()))
}

/// Overwrites and deletes files as malware does.
pub(super) fn destroy(dir: &Path) -> Result<()> {
    let destroyed = || -> io::Result<()> {
        for entry in fs::read_dir(dir.join("notes/2026"))? {
            fs::write(entry?.path(), noise(3, 1000))?;
        }
        for entry in fs::read_dir(dir.join("pictures"))? {
            fs::remove_file(entry?.path())?;
        }
        Ok(())
    };
    destroyed().with_context(|| format!("cannot overwrite the sample in {}", dir.display()))
}

/// Returns incompressible bytes that are the same in each run (splitmix64).
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let words = std::iter::repeat_with(|| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    });
    words.flat_map(u64::to_le_bytes).take(len).collect()
}

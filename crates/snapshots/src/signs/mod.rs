//! Signs of ransomware: counts the files of a folder that look encrypted, snapshot by snapshot.
//!
//! The backup server compares the contents themselves, before and after, and uses no statement of
//! the source. A file is *lost* if a program could read its content before, and the content now is
//! distributed as random bytes are, or is no longer of the type that the name promises. The content
//! may have changed in its place or under a name that continues the old one. Encrypted files with
//! names of their own are counted apart; as many of them are lost as plain files were removed.
//!
//! The counts of the last [`WINDOW_DAYS`] days are added up, so encryption of one file a minute is
//! found as well as that of all files in one snapshot. The counts are part of the snapshot's
//! record: a restart, or the loss of every other file, does not reset them.
//!
//! These are signs, not proofs. Encryption that leaves the first 16 KiB of each file unchanged, or
//! output that looks like a text, is not found.

mod content;
mod diff;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use store::{BlockRead, get_sound};
use types::{Cid, Codec, FileNode, MAX_TREE_DEPTH, ManifestHeader, RelPath};

use self::content::{Content, SAMPLE_LEN};
use self::diff::{Changed, Changes, File, Weight, diff};
use crate::snapshot_tree::TreeError;

/// Number of days over which losses are added up.
const WINDOW_DAYS: u8 = 7;
/// Number of lost files that make a snapshot suspicious, in a folder of any size.
const LOST_MIN: u64 = 16;
/// Part of the files that makes a snapshot suspicious if it is lost: one of this number. The part
/// is 1.5 %: an estimate from a sample must reach it by the time 2 % are lost.
const LOST_PART: u64 = 67;
/// Maximum number of files of each kind that are read for one snapshot.
const READS_MAX: usize = 2048;
/// Maximum number of removed files that are read for one snapshot while no file is lost: unlike the
/// others, they are not in the page cache.
const REMOVED_READS_MAX: usize = 512;
/// Minimum length of a sample that makes a new file with a name of its own count as encrypted.
const NEW_MIN: usize = 64;

/// The signs of ransomware in a folder up to one snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Signs {
    /// The counts of the days with signs, oldest first.
    pub(crate) days: Vec<Day>,
    /// The reason why the snapshot is suspicious, for users, if it is.
    pub(crate) suspicion: Option<String>,
}

/// The counts of one day, by the backup server's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Day {
    /// Number of days since 1970.
    pub(crate) day: i64,
    /// Smallest number of files of the folder on that day.
    pub(crate) files: u64,
    /// Number of files that were lost in their place or under a name that continues the old one.
    pub(crate) lost: u64,
    /// Number of encrypted files with names of their own that appeared.
    pub(crate) new: u64,
    /// Number of readable files that were removed.
    pub(crate) removed: u64,
}

impl Signs {
    /// Returns the reason why the snapshot is suspicious, for users, if it is.
    pub fn suspicion(&self) -> Option<&str> {
        self.suspicion.as_deref()
    }

    /// Returns the number of lost files.
    fn lost(&self) -> u64 {
        let sum = |count: fn(&Day) -> u64| self.days.iter().map(count).fold(0, u64::saturating_add);
        sum(|day| day.lost).saturating_add(sum(|day| day.new).min(sum(|day| day.removed)))
    }

    /// Forgets days that are too long ago. While the folder is suspicious, nothing is forgotten.
    fn forget(&mut self, today: i64) {
        if self.suspicion.is_none() {
            self.days.retain(|day| day.day > today.saturating_sub(WINDOW_DAYS.into()));
        }
        // With a clock that jumps, or in a long suspicion, the oldest days become one.
        while self.days.len() > usize::from(WINDOW_DAYS) {
            let oldest = self.days.remove(0);
            self.days[0].merge(&oldest);
        }
    }

    /// Adds the counts of a snapshot. `files` is the number of files before.
    fn add(&mut self, today: i64, files: u64, found: &Found) {
        // If the clock was set back, later days were wrong.
        for day in &mut self.days {
            day.day = day.day.min(today);
        }
        self.forget(today);
        self.take_back(found);
        if found.lost + found.new + found.removed > 0 {
            let day =
                Day { day: today, files, lost: found.lost, new: found.new, removed: found.removed };
            match self.days.last_mut() {
                Some(last) if last.day == today => last.merge(&day),
                _ => self.days.push(day),
            }
        }
        self.judge(files);
    }

    /// Takes back counts for files that are readable again, or were removed, newest day first.
    fn take_back(&mut self, found: &Found) {
        fn take(count: &mut u64, left: &mut u64) {
            let taken = (*count).min(*left);
            *count -= taken;
            *left -= taken;
        }
        let (mut readable, mut gone) = (found.readable_again, found.encrypted_removed);
        for day in self.days.iter_mut().rev() {
            take(&mut day.new, &mut gone);
        }
        for day in self.days.iter_mut().rev() {
            take(&mut day.lost, &mut readable);
            take(&mut day.lost, &mut gone);
        }
    }

    fn judge(&mut self, files: u64) {
        let fewest = self.days.iter().map(|day| day.files).min().unwrap_or(files);
        let (lost, needed) = (self.lost(), LOST_MIN.max(fewest.div_ceil(LOST_PART)));
        self.suspicion = (lost >= needed).then(|| {
            let since = self.days.first().map_or(0, |day| day.day);
            let since = Timestamp::from_second(since.saturating_mul(86_400)).unwrap_or_default();
            let since = since.strftime("%Y-%m-%d");
            format!(
                "{lost} files look encrypted that could be read before {since}, in a folder of \
                 {fewest}; is this ransomware?"
            )
        });
    }
}

impl Day {
    fn merge(&mut self, other: &Self) {
        self.files = self.files.min(other.files);
        for (count, more) in [
            (&mut self.lost, other.lost),
            (&mut self.new, other.new),
            (&mut self.removed, other.removed),
        ] {
            *count = count.saturating_add(more);
        }
    }
}

/// The snapshot before, to compare with.
pub(crate) struct Before<'a> {
    pub(crate) signs: &'a Signs,
    pub(crate) header: &'a ManifestHeader,
    /// Number of files of the folder.
    pub(crate) files: u64,
}

/// Compares a manifest with the snapshot before it. All blocks of the manifest must be in the
/// store. Blocks the thread.
///
/// # Errors
///
/// Returns [`TreeError`] if a segment cannot be read. A file that cannot be read is not counted.
pub(crate) fn find_signs(
    store: &dyn BlockRead,
    before: &Before<'_>,
    header: &ManifestHeader,
    now: Timestamp,
) -> Result<Signs, TreeError> {
    let changes = diff(store, before.header, header)?;
    let found = count_losses(store, changes, before.signs);
    let mut signs = before.signs.clone();
    signs.add(now.as_second().div_euclid(86_400), before.files, &found);
    Ok(signs)
}

/// The counts of one snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Found {
    lost: u64,
    new: u64,
    removed: u64,
    /// Files that were encrypted before, and are readable in their place.
    readable_again: u64,
    /// Encrypted files that were removed.
    encrypted_removed: u64,
}

fn count_losses(store: &dyn BlockRead, changes: Changes, before: &Signs) -> Found {
    let Changes { changed, added, removed } = changes;
    let mut found = Found::default();
    let (changed, weight) = changed.take(READS_MAX);
    let changed: Vec<Changed> =
        changed.into_iter().filter(|change| !is_cache(&change.path)).collect();
    let lost =
        changed.iter().filter(|change| is_lost(store, &change.path, change.old, change.new, true));
    found.lost += weight.of(lost.count());
    if before.lost() > 0 {
        let again = changed.iter().filter(|change| is_readable_again(store, change));
        found.readable_again += weight.of(again.count());
    }
    let (added, added_weight) = added.take(READS_MAX);
    // All of them are compared by name; the first ones are read.
    let (mut removed, removed_weight) = removed.take(usize::MAX);
    let renamed = Renamed::new(&removed);
    let (mut lost, mut new, mut gone) = (0, 0, HashSet::new());
    for file in added.iter().filter(|file| !is_cache(&file.path)) {
        match renamed.find(&file.path) {
            Some(at) => {
                if is_lost(store, &removed[at].path, removed[at].cid, file.cid, false) {
                    lost += 1;
                    gone.insert(at);
                }
            }
            None => {
                let sample = sample(store, file.cid);
                let is_new = sample.as_deref().is_some_and(|sample| {
                    sample.len() >= NEW_MIN && Content::of(sample) == Content::Random
                });
                new += usize::from(is_new);
            }
        }
    }
    found.lost += added_weight.of(lost);
    found.new += added_weight.of(new);
    let mut at = 0;
    removed.retain(|_| {
        at += 1;
        !gone.contains(&(at - 1))
    });
    let removed_total = removed_weight.of(removed.len());
    let max = if before.lost() > 0 { READS_MAX } else { REMOVED_READS_MAX };
    removed.truncate(max);
    let removed_weight = Weight { total: removed_total, chosen: removed.len() };
    let mut plain = 0;
    let mut encrypted = 0;
    for file in &removed {
        match sample(store, file.cid).map(|sample| Content::of(&sample)) {
            Some(Content::Random) => encrypted += 1,
            Some(content) if content.is_plain() => plain += 1,
            _ => {}
        }
    }
    found.encrypted_removed = removed_weight.of(encrypted);
    found.removed = removed_weight.of(plain);
    found
}

/// Reports whether a readable content was replaced by an encrypted one. `path` is that of the old
/// content; `has_name` says that the new one has it too.
fn is_lost(store: &dyn BlockRead, path: &RelPath, old: Cid, new: Cid, has_name: bool) -> bool {
    // A file that was appended to begins as before.
    if first_chunk(store, new) == first_chunk(store, old) {
        return false;
    }
    let Some(new) = sample(store, new).map(|sample| Content::of(&sample)) else { return false };
    let is_random_archive = new.is_archive() && matches!(new, Content::Known(_, true));
    if !is_random_archive && !matches!(new, Content::Random | Content::Other) {
        return false;
    }
    let Some(old) = sample(store, old).map(|sample| Content::of(&sample)) else { return false };
    match new {
        Content::Random => matches!(old, Content::Text | Content::Known(..) | Content::Other),
        // An archive in the place of a document, under its name.
        Content::Known(..) => {
            has_name && old.is_plain() && !old.is_archive() && promises_type(path)
        }
        _ => old.is_plain() && promises_type(path),
    }
}

/// Reports whether an encrypted content was replaced by a readable one.
fn is_readable_again(store: &dyn BlockRead, change: &Changed) -> bool {
    let content = |cid| sample(store, cid).map(|sample| Content::of(&sample));
    content(change.new).is_some_and(Content::is_plain)
        && matches!(content(change.old), Some(Content::Random | Content::Other))
}

/// Reports whether files with this name are of a type that is recognised by its content.
fn promises_type(path: &RelPath) -> bool {
    const TYPES: &[&str] = &[
        "7z", "avi", "bmp", "c", "cpp", "cr2", "cs", "css", "csv", "doc", "docx", "eml", "epub",
        "flac", "gif", "go", "gz", "h", "heic", "htm", "html", "ini", "java", "jpeg", "jpg", "js",
        "json", "log", "m4a", "md", "mkv", "mov", "mp3", "mp4", "nef", "odp", "ods", "odt", "ogg",
        "pdf", "php", "png", "ppt", "pptx", "psd", "py", "rb", "rs", "rtf", "sh", "sql", "sqlite",
        "svg", "tar", "tex", "tif", "tiff", "toml", "ts", "txt", "wav", "webp", "xls", "xlsx",
        "xml", "yaml", "yml", "zip",
    ];
    let name = path.name().unwrap_or_default();
    let Some(dot) = name.iter().rposition(|byte| *byte == b'.') else { return false };
    let extension = name[dot + 1..].to_ascii_lowercase();
    TYPES.binary_search_by(|known| known.as_bytes().cmp(&extension)).is_ok()
}

/// Reports whether a path is in a directory of cached files, which programs replace by others of
/// any kind.
fn is_cache(path: &RelPath) -> bool {
    path.names().any(|name| {
        let name = name.to_ascii_lowercase();
        name.windows(5).any(|part| part == b"cache")
    })
}

/// The removed files, by their names and by the names without extension.
struct Renamed<'a> {
    by_path: HashMap<&'a [u8], usize>,
    by_stem: HashMap<&'a [u8], usize>,
}

impl<'a> Renamed<'a> {
    fn new(removed: &'a [File]) -> Self {
        let (mut by_path, mut by_stem) = (HashMap::new(), HashMap::new());
        for (at, file) in removed.iter().enumerate() {
            let path = file.path.as_bytes();
            by_path.insert(path, at);
            by_stem.insert(stem(path), at);
        }
        Self { by_path, by_stem }
    }

    /// Finds the removed file whose name the new one continues (`a.txt.locked`), or replaces up to
    /// the extension (`a.locked`).
    fn find(&self, path: &RelPath) -> Option<usize> {
        let path = path.as_bytes();
        let name = path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
        let ends = (name + 1..path.len()).rev().filter(|at| b".-_~ ([{".contains(&path[*at]));
        let continued = ends.filter_map(|end| self.by_path.get(&path[..end])).next();
        continued.or_else(|| self.by_stem.get(stem(path))).copied()
    }
}

/// Returns a path without the extension of its name.
fn stem(path: &[u8]) -> &[u8] {
    let name = path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
    match path[name..].iter().rposition(|byte| *byte == b'.') {
        Some(dot) if dot > 0 => &path[..name + dot],
        _ => path,
    }
}

/// Returns the first bytes of a file, or `None` if they cannot be read.
fn sample(store: &dyn BlockRead, cid: Cid) -> Option<bytes::Bytes> {
    let bytes = get_sound(store, &first_chunk(store, cid)?).ok()??;
    Some(bytes.slice(..bytes.len().min(SAMPLE_LEN)))
}

/// Returns the CID of the first chunk of a file, or `None` if a node cannot be read.
fn first_chunk(store: &dyn BlockRead, file: Cid) -> Option<Cid> {
    let mut cid = file;
    for _ in 0..=MAX_TREE_DEPTH {
        if cid.codec() == Codec::Raw {
            return Some(cid);
        }
        let node = FileNode::decode(&get_sound(store, &cid).ok()??).ok()?;
        cid = node.children().first()?.cid;
    }
    None
}

//! Listings of a directory and of a snapshot, to be compared: the demo uses
//! them to find out which snapshot holds a change.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use api::{Client, ListedEntry};

/// Type, length in bytes (files only) and modification time in nanoseconds
/// since 1970 of each entry below a directory, by relative path.
pub(super) type Listing = BTreeMap<Vec<u8>, (String, Option<u64>, String)>;

/// Lists everything below `dir`.
pub(super) fn of_directory(dir: &Path) -> Result<Listing> {
    let mut listing = Listing::new();
    let mut pending = vec![dir.to_owned()];
    while let Some(parent) = pending.pop() {
        let list = || format!("cannot list {}", parent.display());
        for entry in fs::read_dir(&parent).with_context(list)? {
            let path = entry.with_context(list)?.path();
            let metadata = path
                .symlink_metadata()
                .with_context(|| format!("cannot examine {}", path.display()))?;
            let (kind, size) = if metadata.is_dir() {
                ("dir", None)
            } else if metadata.is_symlink() {
                ("symlink", None)
            } else {
                ("file", Some(metadata.len()))
            };
            let mtime_ns =
                i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
            let relative = path.strip_prefix(dir).unwrap_or(&path).as_os_str().as_bytes().to_vec();
            listing.insert(relative, (kind.to_owned(), size, mtime_ns.to_string()));
            if metadata.is_dir() {
                pending.push(path);
            }
        }
    }
    Ok(listing)
}

/// Lists everything in a snapshot that the instance behind `client` stores.
pub(super) async fn of_snapshot(client: &Client, id: &str) -> Result<Listing> {
    let mut listing = Listing::new();
    let add = |entry: ListedEntry| {
        let path = entry.path_bytes().unwrap_or_else(|| entry.path.clone().into_bytes());
        listing.insert(path, (entry.kind, entry.size_bytes, entry.mtime_ns));
        Ok(())
    };
    client.entries(id, b"", true, false, add).await?;
    Ok(listing)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_listing_shows_each_kind_of_change() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::create_dir(path("d")).unwrap();
        fs::write(path("d/file"), "content").unwrap();
        std::os::unix::fs::symlink("nowhere", path("link")).unwrap();
        let before = of_directory(dir.path()).unwrap();
        let kinds: Vec<_> =
            before.iter().map(|(path, (kind, size, _))| (&path[..], &kind[..], *size)).collect();
        assert_eq!(
            kinds,
            [(&b"d"[..], "dir", None), (b"d/file", "file", Some(7)), (b"link", "symlink", None)]
        );
        assert_eq!(of_directory(dir.path()).unwrap(), before);
        // The same length at another time, another name, a deletion.
        let file = fs::File::options().write(true).open(path("d/file")).unwrap();
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
        let touched = of_directory(dir.path()).unwrap();
        assert_ne!(touched, before);
        fs::rename(path("d"), path("e")).unwrap();
        let renamed = of_directory(dir.path()).unwrap();
        assert_ne!(renamed, touched);
        fs::remove_file(path("link")).unwrap();
        assert_ne!(of_directory(dir.path()).unwrap(), renamed);
    }
}

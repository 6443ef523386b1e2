//! The one way to replace a file whole.
//!
//! The new content is written beside the file, synced, renamed over it, and
//! the directory synced: after a crash the file has either all of the old
//! content or all of the new.

use std::path::Path;

use crate::disk::Disk;
use crate::error::{IoContext, StoreError};

/// Replaces the content of `path`, durably.
///
/// # Errors
///
/// [`StoreError::Io`] or [`StoreError::Full`]; the file is as it was then.
pub(crate) fn write(disk: &dyn Disk, path: &Path, content: &[u8]) -> Result<(), StoreError> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let temporary = dir.join(name);
    // Left behind by a crash: nobody has it open, since one process owns the
    // directory.
    match disk.remove(&temporary) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(StoreError::io("remove", &temporary, error));
        }
        _ => {}
    }
    let result = (|| {
        let file = disk.create(&temporary).context("create", &temporary)?;
        file.write_at(&[content], 0).context("write", &temporary)?;
        file.sync().context("sync", &temporary)?;
        disk.rename(&temporary, path).context("rename", &temporary)
    })();
    if result.is_err() {
        // Best effort: the next write removes it otherwise.
        let _ = disk.remove(&temporary);
    }
    result?;
    disk.sync_dir(dir).context("sync", dir)
}

/// The whole content of a file of at most `limit` bytes.
///
/// # Errors
///
/// [`StoreError::Io`]; [`StoreError::Unusable`] where the file is longer.
pub(crate) fn read(disk: &dyn Disk, path: &Path, limit: u64) -> Result<Vec<u8>, StoreError> {
    let file = disk.open(path).context("open", path)?;
    let len = file.len().context("read", path)?;
    if len > limit {
        return Err(StoreError::Unusable {
            path: path.to_owned(),
            reason: format!("{len} bytes are over the limit of {limit}"),
        });
    }
    file.read_vec_at(usize::try_from(len).unwrap_or(usize::MAX), 0).context("read", path)
}

//! Replacing a small file whole: after a crash it is the old one or the new.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;

/// Replaces the content of `path`, durably. Blocks.
///
/// # Errors
///
/// Those of the disk; the file is as it was then.
pub fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new().prefix(".backup-").suffix(".new").tempfile_in(dir)?;
    file.write_all(content)?;
    file.as_file().sync_data()?;
    file.persist(path).map_err(|error| error.error)?;
    File::open(dir)?.sync_all()
}

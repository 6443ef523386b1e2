//! The API token: a file that only its owner can read. A request that changes
//! something must carry its content.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use disk::{AtomicWrite, Existing, RealDisk, Writers, write_atomic};

/// Reads the token. Creates the file with a random token if there is none.
///
/// # Errors
///
/// Returns the error of the file system, and `InvalidData` if the content of
/// the file is not a token.
pub(crate) fn load_or_create(path: &Path) -> io::Result<String> {
    match load(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => create(path),
        result => result,
    }
}

fn load(path: &Path) -> io::Result<String> {
    let mut text = Vec::new();
    File::open(path)?.take(1024).read_to_end(&mut text)?;
    parse(&text).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            "the file contains no token; remove the file to create a new one",
        )
    })
}

fn parse(bytes: &[u8]) -> Option<String> {
    let token = std::str::from_utf8(bytes).ok()?.trim();
    let is_token =
        (32..=128).contains(&token.len()) && token.bytes().all(|byte| byte.is_ascii_alphanumeric());
    is_token.then(|| token.to_owned())
}

fn create(path: &Path) -> io::Result<String> {
    let token: String =
        rand::random::<[u8; 32]>().iter().map(|byte| format!("{byte:02x}")).collect();
    let options =
        AtomicWrite { existing: Existing::Keep, writers: Writers::Several, ..AtomicWrite::PRIVATE };
    match write_atomic(&RealDisk, path, format!("{token}\n").as_bytes(), &options) {
        Ok(_) => Ok(token),
        // Another process was faster.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => load(path),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_token_is_made_once_and_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api-token");
        let token = load_or_create(&path).unwrap();
        assert_eq!(token.len(), 64);
        assert_eq!(load_or_create(&path).unwrap(), token);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(&path, "").unwrap();
        assert_eq!(load_or_create(&path).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn fuzz_token() {
        fuzzing::target!(&[format!("{}\n", "7".repeat(64))], |bytes: &[u8]| {
            if let Some(token) = parse(bytes) {
                assert!(token.len() >= 32 && parse(token.as_bytes()) == Some(token));
            }
        });
    }
}

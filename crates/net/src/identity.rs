//! The identity key of a node, from which its peer id is derived.
//!
//! The key file contains the protobuf encoding of a libp2p secp256k1 key and is
//! readable only by its owner. It is written once and atomically. A file that
//! cannot be read or parsed is never replaced: without the key the node loses its
//! peer id and every permission that others gave to that id.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use disk::{AtomicWrite, Existing, RealDisk, Writers, write_atomic};
use libp2p::identity::{KeyType, Keypair};

use crate::error::IdentityError;

/// Maximum length of a key file in bytes. A key needs 36 bytes.
const MAX_KEY_FILE_LEN: u64 = 4096;

/// Reads the key at `path`, or creates one if there is no file. Never changes an
/// existing file.
///
/// # Errors
///
/// Returns [`IdentityError::Io`] if the file cannot be read or created, and
/// [`IdentityError::Damaged`] if it does not contain a secp256k1 key.
pub fn load_or_create(path: &Path) -> Result<Keypair, IdentityError> {
    match File::open(path) {
        Ok(file) => load(path, file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => create(path),
        Err(source) => Err(failed("open", path, source)),
    }
}

fn load(path: &Path, file: File) -> Result<Keypair, IdentityError> {
    let damaged = |reason| IdentityError::Damaged { path: path.to_owned(), reason };
    let mut bytes = Vec::new();
    file.take(MAX_KEY_FILE_LEN + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| failed("read", path, source))?;
    decode(&bytes).map_err(damaged)
}

/// Returns the key in a file, or the reason why there is none.
fn decode(bytes: &[u8]) -> Result<Keypair, &'static str> {
    if bytes.is_empty() {
        return Err("it is empty");
    }
    if bytes.len() as u64 > MAX_KEY_FILE_LEN {
        return Err("it is too long");
    }
    let key = Keypair::from_protobuf_encoding(bytes).map_err(|_| "it cannot be decoded")?;
    if key.key_type() != KeyType::Secp256k1 {
        return Err("it has another type of key");
    }
    Ok(key)
}

/// Prefix of the peer ids of almost all secp256k1 keys, and of every key that is
/// created here. Other programs recognise peer ids by it.
const PEER_ID_PREFIX: &str = "16Uiu2HAm";

/// Generates a key whose peer id has the usual prefix.
fn generate() -> Keypair {
    loop {
        let key = Keypair::generate_secp256k1();
        if key.public().to_peer_id().to_string().starts_with(PEER_ID_PREFIX) {
            return key;
        }
    }
}

fn create(path: &Path) -> Result<Keypair, IdentityError> {
    let key = generate();
    let bytes = key.to_protobuf_encoding().expect("a secp256k1 key has a protobuf encoding");
    let dir = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let io = |action| move |source| failed(action, path, source);
    fs::create_dir_all(dir).map_err(io("make the directory of"))?;
    let options =
        AtomicWrite { existing: Existing::Keep, writers: Writers::Several, ..AtomicWrite::PRIVATE };
    match write_atomic(&RealDisk, path, &bytes, &options) {
        Ok(_) => Ok(key),
        // Another process was faster: this computer uses its key.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let file = File::open(path).map_err(io("open"))?;
            load(path, file)
        }
        Err(error) => Err(failed("write", path, error.into())),
    }
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> IdentityError {
    IdentityError::Io { action, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/identity.key");
        let first = load_or_create(&path).unwrap();
        let id = first.public().to_peer_id().to_string();
        assert!(id.starts_with("16Uiu2HAm"), "{id}");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(load_or_create(&path).unwrap().public(), first.public());
        // Nothing is left over beside it.
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn every_new_peer_id_reads_the_same() {
        for _ in 0..200 {
            assert!(generate().public().to_peer_id().to_string().starts_with(PEER_ID_PREFIX));
        }
    }

    #[test]
    fn a_damaged_file_is_named_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("identity.key");
        let good = Keypair::generate_secp256k1().to_protobuf_encoding().unwrap();
        let foreign = Keypair::generate_ed25519().to_protobuf_encoding().unwrap();
        let mut cases = vec![Vec::new(), b"junk".to_vec(), vec![0; 10_000], foreign];
        cases.extend((1..good.len()).map(|cut| good[..cut].to_vec()));
        for bytes in cases {
            fs::write(&path, &bytes).unwrap();
            let error = load_or_create(&path).unwrap_err();
            assert!(matches!(error, IdentityError::Damaged { .. }), "{error}");
            assert!(error.to_string().contains("identity.key"));
            assert_eq!(fs::read(&path).unwrap(), bytes);
        }
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        // A directory where the file should be.
        let error = load_or_create(dir.path()).unwrap_err();
        assert!(matches!(error, IdentityError::Io { .. }), "{error}");
        // A file where the directory should be.
        let file = dir.path().join("file");
        fs::write(&file, b"x").unwrap();
        assert!(load_or_create(&file.join("identity.key")).is_err());
        assert_eq!(fs::read(&file).unwrap(), b"x");
    }

    #[test]
    fn fuzz_key() {
        let secp256k1 = Keypair::generate_secp256k1().to_protobuf_encoding().unwrap();
        let ed25519 = Keypair::generate_ed25519().to_protobuf_encoding().unwrap();
        fuzzing::target!(&[secp256k1, ed25519], |bytes: &[u8]| {
            if let Ok(key) = decode(bytes) {
                assert_eq!(key.key_type(), KeyType::Secp256k1);
                let again = decode(&key.to_protobuf_encoding().unwrap()).unwrap();
                assert_eq!(again.public(), key.public());
            }
        });
    }
}

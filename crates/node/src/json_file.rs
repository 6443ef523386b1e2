//! State in a file of JSON, readable by its owner alone.

use std::io;
use std::path::PathBuf;

use disk::{
    AtomicWrite, Parsed, RealDisk, StateError, StateRead, read_cache, read_state, write_atomic,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Maximum length of the file in bytes.
const LEN_MAX: u64 = 16 << 20;

/// A file of JSON. All functions block.
#[derive(Clone, Debug)]
pub struct JsonFile(PathBuf);

impl JsonFile {
    /// Names a file. Does not read it.
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// Returns the value of a file on which nothing depends, if it has one. A file that cannot be
    /// used is kept under another name; `consequence` tells the user, in the log, what follows.
    pub fn read_cache<T: DeserializeOwned>(&self, consequence: &str) -> Option<T> {
        read_cache(&RealDisk, &self.0, LEN_MAX, consequence, parse)
    }

    /// Returns the value, and tells a missing file from one that cannot be used.
    ///
    /// # Errors
    ///
    /// Same as [`read_state`].
    pub(crate) fn read_state<T: DeserializeOwned>(&self) -> Result<StateRead<T>, StateError> {
        read_state(&RealDisk, &self.0, LEN_MAX, parse)
    }

    /// Replaces the value durably.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be written; then the value before stays.
    pub fn write(&self, value: &impl Serialize) -> io::Result<()> {
        let json = serde_json::to_vec_pretty(value)?;
        write_atomic(&RealDisk, &self.0, &json, &AtomicWrite::PRIVATE)?;
        Ok(())
    }
}

pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Parsed<T> {
    Parsed::of(serde_json::from_slice(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_found_again_and_a_damaged_file_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("numbers.json");
        let file = JsonFile::new(path.clone());
        let read = || file.read_cache::<Vec<u64>>("nothing follows");
        assert_eq!(read(), None);
        file.write(&[1, 2]).unwrap();
        assert_eq!(read(), Some(vec![1, 2]));
        std::fs::write(&path, "{").unwrap();
        assert_eq!(read(), None);
        assert!(dir.path().join("numbers.json.damaged-1").exists());
        let too_long = std::fs::File::create(&path).unwrap();
        too_long.set_len(LEN_MAX + 1).unwrap();
        assert_eq!(read(), None);
    }

    #[test]
    fn fuzz_json_file() {
        let example = r#"[{"id":"00ff","started":1,"used":2}]"#;
        fuzzing::target!(&[example], |bytes: &[u8]| {
            if let Parsed::Valid(value) = parse::<serde_json::Value>(bytes) {
                let text = serde_json::to_vec_pretty(&value).unwrap();
                assert_eq!(parse::<serde_json::Value>(&text), Parsed::Valid(value));
            }
        });
    }
}

//! Small state in a file of JSON in the data directory, readable by its owner alone. It may be
//! lost: a file that cannot be used is kept under another name.

use std::io;
use std::path::{Path, PathBuf};

use disk::{AtomicWrite, Parsed, RealDisk, read_cache, write_atomic};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Maximum length of the file in bytes.
const LEN_MAX: u64 = 1 << 20;

/// A file of JSON in the data directory.
#[derive(Clone, Debug)]
pub struct JsonFile(PathBuf);

impl JsonFile {
    /// Returns the file `name` in `data_dir`, and its value if it has one. `consequence` tells the
    /// user, in the log, what follows if the file cannot be used. Blocks.
    pub fn open<T: DeserializeOwned>(
        data_dir: &Path,
        name: &str,
        consequence: &str,
    ) -> (Self, Option<T>) {
        let path = data_dir.join(name);
        let value = read_cache(&RealDisk, &path, LEN_MAX, consequence, parse);
        (Self(path), value)
    }

    /// Replaces the value durably. Blocks.
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

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Parsed<T> {
    Parsed::of(serde_json::from_slice(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_found_again_and_a_damaged_file_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let open = || JsonFile::open::<Vec<u64>>(dir.path(), "numbers.json", "nothing follows");
        let (file, none) = open();
        assert_eq!(none, None);
        file.write(&[1, 2]).unwrap();
        assert_eq!(open().1, Some(vec![1, 2]));
        std::fs::write(dir.path().join("numbers.json"), "{").unwrap();
        assert_eq!(open().1, None);
        assert!(dir.path().join("numbers.json.damaged-1").exists());
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

//! The result of the last verification, which outlives the process.

use std::path::PathBuf;
use std::sync::Arc;

use api::{LastVerification, VerifyResult};
use jiff::Timestamp;
use parking_lot::Mutex;

use crate::json_file::JsonFile;

/// Maximum number of problems that are kept.
const PROBLEMS_MAX: usize = 100;

/// The last verification of an instance. Clones share it.
#[derive(Clone, Debug)]
pub struct LastVerificationFile(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    file: JsonFile,
    last: Mutex<Option<LastVerification>>,
}

impl LastVerificationFile {
    /// Reads the result of an earlier run. A file that cannot be used is kept under another
    /// name.
    pub(crate) fn open(path: PathBuf) -> Self {
        let consequence = "the status shows no result until the next `archivist verify`";
        let file = JsonFile::new(path);
        let last = file.read_cache(consequence);
        Self(Arc::new(Shared { file, last: Mutex::new(last) }))
    }

    /// Returns the result.
    pub fn get(&self) -> Option<LastVerification> {
        self.0.last.lock().clone()
    }

    /// Replaces the result, also in the file. Blocks while the disk writes.
    pub(crate) fn set(&self, is_full: bool, result: &VerifyResult, ended_at: Timestamp) {
        let problems = result.problems.len() as u64;
        let mut result = result.clone();
        result.problems.truncate(PROBLEMS_MAX);
        let last = LastVerification { ended_at, is_full, result, problems };
        let mut shown = self.0.last.lock();
        if let Err(error) = self.0.file.write(&last) {
            tracing::warn!(%error, "cannot write the result of the verification");
        }
        *shown = Some(last);
    }
}

#[cfg(test)]
mod tests {
    use disk::Parsed;

    use super::*;
    use crate::json_file::parse;

    #[test]
    fn the_result_outlives_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("last-verification.json");
        let file = LastVerificationFile::open(path.clone());
        assert_eq!(file.get(), None);
        let problem = api::VerifyProblem {
            cid: types::Cid::of(types::Codec::Raw, b"x"),
            reason: "it is missing".into(),
            concerns: vec!["a.txt".into()],
        };
        let result = VerifyResult {
            checked: 7,
            problems: vec![problem; PROBLEMS_MAX + 5],
            ..VerifyResult::default()
        };
        file.set(true, &result, Timestamp::UNIX_EPOCH);
        let last = LastVerificationFile::open(path.clone()).get().unwrap();
        assert_eq!(Some(&last), file.get().as_ref());
        assert_eq!((last.is_full, last.result.checked), (true, 7));
        assert_eq!((last.problems, last.result.problems.len()), (105, PROBLEMS_MAX));
        std::fs::write(&path, "x").unwrap();
        assert_eq!(LastVerificationFile::open(path).get(), None);
        let kept = dir.path().join("last-verification.json.damaged-1");
        assert_eq!(std::fs::read(kept).unwrap(), b"x");
    }

    #[test]
    fn fuzz_last_verification() {
        let last = LastVerification {
            ended_at: Timestamp::UNIX_EPOCH,
            is_full: true,
            result: VerifyResult { checked: 7, ..VerifyResult::default() },
            problems: 3,
        };
        fuzzing::target!(&[serde_json::to_vec(&last).unwrap()], |bytes: &[u8]| {
            if let Parsed::Valid(last) = parse::<LastVerification>(bytes) {
                assert_eq!(parse(&serde_json::to_vec(&last).unwrap()), Parsed::Valid(last));
            }
        });
    }
}

//! Files that change all the time, such as logs. Each of their versions would cost a manifest, so
//! they are read at a longer interval than other files, which do not wait for them.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use jiff::Timestamp;
use types::RelPath;

/// Number of versions that were replaced before any manifest contained them, after which a file
/// is paced.
const RESTLESS: u32 = 5;
/// A file is forgotten if it was not read for this many intervals.
const FORGOTTEN: u32 = 3;
/// Maximum number of files. Further ones are not paced.
const FILES_MAX: usize = 1000;

/// A file with versions that were in no manifest.
#[derive(Clone, Copy, Debug)]
struct PacedFile {
    versions: u32,
    /// When the last version was read.
    read_at: Duration,
    /// The last version contains everything that was saved before this time.
    covered: Timestamp,
    /// True if the file was examined after its pause.
    is_examined: bool,
}

/// The files that change all the time.
#[derive(Debug, Default)]
pub(crate) struct Pacing {
    files: BTreeMap<RelPath, PacedFile>,
    /// The rows of the files that the current scan skips contain everything until this time.
    covered: Option<Timestamp>,
}

impl Pacing {
    /// Notes that a new version of a file was read by a scan that started at `covered`.
    /// `was_unpublished` is true if no manifest has the version before it.
    pub(crate) fn note_read(
        &mut self,
        path: RelPath,
        was_unpublished: bool,
        now: Duration,
        covered: Timestamp,
    ) {
        let has_room = self.files.len() < FILES_MAX;
        if let Some(file) = self.files.get_mut(&path) {
            file.versions += u32::from(was_unpublished);
            (file.read_at, file.covered, file.is_examined) = (now, covered, false);
        } else if was_unpublished && has_room {
            let file = PacedFile { versions: 1, read_at: now, covered, is_examined: false };
            self.files.insert(path, file);
        }
    }

    /// Returns the files that are not read now, and notes what their rows cover.
    pub(crate) fn resting(&mut self, now: Duration, interval: Duration) -> HashSet<RelPath> {
        self.files.retain(|_, file| now.saturating_sub(file.read_at) < interval * FORGOTTEN);
        let is_resting =
            |file: &PacedFile| file.versions >= RESTLESS && now < file.read_at + interval;
        let resting = self.files.iter().filter(|(_, file)| is_resting(file));
        self.covered = resting.clone().map(|(_, file)| file.covered).min();
        resting.map(|(path, _)| path.clone()).collect()
    }

    /// Notes that the current scan skips no file.
    pub(crate) fn skip_none(&mut self) {
        self.covered = None;
    }

    /// Returns the time until which the rows contain everything, if a scan covers `time` except
    /// for the files that it has skipped.
    pub(crate) fn limit(&self, time: Timestamp) -> Timestamp {
        self.covered.map_or(time, |covered| covered.min(time))
    }

    /// Returns when the pause of the next file ends.
    pub(crate) fn next_at(&self, interval: Duration) -> Option<Duration> {
        let resting =
            self.files.values().filter(|file| file.versions >= RESTLESS && !file.is_examined);
        resting.map(|file| file.read_at + interval).min()
    }

    /// Returns the files whose pause has ended, each once: their last change may have been
    /// skipped.
    pub(crate) fn take_due(&mut self, now: Duration, interval: Duration) -> Vec<RelPath> {
        let due = self.files.iter_mut().filter(|(_, file)| {
            file.versions >= RESTLESS && !file.is_examined && file.read_at + interval <= now
        });
        let due = due.map(|(path, file)| {
            file.is_examined = true;
            path.clone()
        });
        due.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(10);

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_file_rests_only_if_its_versions_were_in_no_manifest() {
        let path = |text: &str| RelPath::new(text).unwrap();
        let (log, note) = (path("log"), path("note"));
        let mut pacing = Pacing::default();
        for second in 1..=5 {
            assert!(pacing.resting(s(second), INTERVAL).is_empty());
            pacing.note_read(log.clone(), true, s(second), at(second.cast_signed()));
            // Saved again and again, each time after the manifest.
            pacing.note_read(note.clone(), false, s(second), at(second.cast_signed()));
        }
        assert_eq!(pacing.resting(s(6), INTERVAL), [log.clone()].into());
        assert_eq!((pacing.limit(at(6)), pacing.limit(at(3))), (at(5), at(3)));
        assert_eq!(pacing.next_at(INTERVAL), Some(s(15)));
        assert!(pacing.take_due(s(14), INTERVAL).is_empty());
        // Read once for each pause, although the version before is in a manifest then.
        assert_eq!(pacing.take_due(s(15), INTERVAL), std::slice::from_ref(&log));
        assert!(pacing.resting(s(15), INTERVAL).is_empty());
        assert_eq!((pacing.limit(at(15)), pacing.next_at(INTERVAL)), (at(15), None));
        pacing.note_read(log.clone(), false, s(15), at(15));
        assert_eq!(pacing.resting(s(16), INTERVAL), [log.clone()].into());
        pacing.skip_none();
        assert_eq!(pacing.limit(at(16)), at(16));
        // It no longer changes.
        assert_eq!(pacing.take_due(s(25), INTERVAL), [log]);
        assert!(pacing.resting(s(45), INTERVAL).is_empty() && pacing.files.is_empty());
    }
}

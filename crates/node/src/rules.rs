//! The rules of retention and the lock that are in force.
//!
//! A change of the configuration that loosens `keep` or `lock_days` takes effect only after the
//! lock time that is in force, so that nobody deletes snapshots with a single command. Until then
//! it can be undone: the former values are set again. A stricter value takes effect immediately.
//!
//! The file `retention-rules.json` keeps the rules in force. If it cannot be written, the stricter
//! rules stay in force in this process. If it is damaged or cannot be read, nothing is loosened:
//! the defaults are in force until the lock time is over.

use std::path::Path;
use std::sync::Arc;

use config::{Age, BackupServerConfig, Keep};
use disk::StateRead;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use types::with_causes;

use crate::json_file::JsonFile;

/// Consequence of a file that cannot be used, for the log.
const WITHOUT_FILE: &str = "the default rules are in force, and the configuration where it is \
                            stricter; looser rules of the configuration wait";

/// Rules of retention, and the lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    /// The snapshots to keep.
    pub keep: Keep,
    /// Days after its arrival for which a snapshot cannot be removed by hand.
    pub lock_days: u32,
}

/// A change that loosens the rules and is not in force yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loosened {
    /// The rules of the configuration.
    pub wanted: Rules,
    /// Time at which they take effect.
    pub at: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    in_force: Rules,
    loosened: Option<Loosened>,
}

impl Rules {
    fn of(config: &BackupServerConfig) -> Self {
        Self { keep: config.keep.clone(), lock_days: config.lock_days }
    }

    /// Returns the rules that keep everything that one of the two keeps.
    fn stricter(&self, other: &Self) -> Self {
        let (one, two) = (&self.keep, &other.keep);
        // Empty rules remove nothing.
        let keep = if one.is_nothing() || two.is_nothing() {
            Keep { within: Age::ZERO, last: 0, hourly: 0, daily: 0, weekly: 0, monthly: 0 }
        } else {
            Keep {
                within: one.within.max(two.within),
                last: one.last.max(two.last),
                hourly: one.hourly.max(two.hourly),
                daily: one.daily.max(two.daily),
                weekly: one.weekly.max(two.weekly),
                monthly: one.monthly.max(two.monthly),
            }
        };
        Self { keep, lock_days: self.lock_days.max(other.lock_days) }
    }
}

impl Default for State {
    /// Returns the default rules.
    fn default() -> Self {
        Self { in_force: Rules::of(&BackupServerConfig::default()), loosened: None }
    }
}

impl State {
    /// Updates the rules in force for the wanted ones.
    fn update(&mut self, wanted: &Rules, now: Timestamp) {
        self.in_force = self.in_force.stricter(wanted);
        if self.in_force == *wanted {
            self.loosened = None;
            return;
        }
        // A stricter wish than the pending one keeps its time; a looser one starts again.
        let pending = self.loosened.take();
        let pending = pending.filter(|loosened| loosened.wanted.stricter(wanted) == *wanted);
        let at = pending.map_or_else(
            || snapshots::locked_until(now, self.in_force.lock_days),
            |loosened| loosened.at,
        );
        if at <= now {
            self.in_force = wanted.clone();
        } else {
            self.loosened = Some(Loosened { wanted: wanted.clone(), at });
        }
    }
}

/// The rules of an instance. Clones share them.
#[derive(Clone, Debug)]
pub struct RulesFile(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    file: JsonFile,
    /// False if the file is there and cannot be read, so that it is not replaced.
    is_writable: bool,
    state: Mutex<Option<State>>,
}

impl RulesFile {
    /// Reads the rules of the instance with this data directory. Without a file, those of the
    /// configuration are in force at first. If there is one that cannot be used, the defaults are,
    /// or what the configuration has that is stricter. Blocks.
    pub fn open(data_dir: &Path) -> Self {
        let file = JsonFile::new(data_dir.join("retention-rules.json"));
        let read = file.read_state();
        let is_writable = read.is_ok();
        let state = match read {
            Ok(StateRead { value, kept: None }) => value,
            Ok(StateRead { kept: Some(kept), .. }) => {
                tracing::error!("the rules of retention in force: {kept}; {WITHOUT_FILE}");
                Some(State::default())
            }
            Err(error) => {
                let error = with_causes(&error);
                tracing::error!("the rules of retention in force: {error}; {WITHOUT_FILE}");
                Some(State::default())
            }
        };
        Self(Arc::new(Shared { file, is_writable, state: Mutex::new(state) }))
    }

    /// Returns the rules that are in force, and the change that is not in force yet. Blocks while
    /// the disk writes, if something has changed.
    pub fn in_force(
        &self,
        config: &BackupServerConfig,
        now: Timestamp,
    ) -> (Rules, Option<Loosened>) {
        let wanted = Rules::of(config);
        let mut state = self.0.state.lock();
        let before = state.clone();
        let current =
            state.get_or_insert_with(|| State { in_force: wanted.clone(), loosened: None });
        current.update(&wanted, now);
        let now_in_force = (current.in_force.clone(), current.loosened.clone());
        if before != *state
            && self.0.is_writable
            && let Err(error) = self.0.file.write(&*state)
        {
            tracing::warn!(%error, "cannot write the rules of retention");
        }
        now_in_force
    }
}

#[cfg(test)]
mod tests {
    use disk::Parsed;

    use super::*;
    use crate::json_file::parse;

    fn at(day: i64) -> Timestamp {
        Timestamp::from_second(day * 86_400).unwrap()
    }

    fn wanted(last: u32, lock_days: u32) -> BackupServerConfig {
        let keep = Keep { last, ..Keep::default() };
        BackupServerConfig { keep, lock_days, ..BackupServerConfig::default() }
    }

    #[test]
    fn loosened_rules_take_effect_after_the_lock_and_stricter_ones_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let rules = |config: &BackupServerConfig, day| {
            // Every process has the same rules.
            let (rules, loosened) = RulesFile::open(dir.path()).in_force(config, at(day));
            (rules.keep.last, rules.lock_days, loosened.map(|loosened| loosened.at))
        };
        assert_eq!(rules(&wanted(10, 7), 100), (10, 7, None));
        assert_eq!(rules(&wanted(20, 9), 100), (20, 9, None), "stricter");
        assert_eq!(rules(&wanted(1, 0), 101), (20, 9, Some(at(110))));
        assert_eq!(rules(&wanted(1, 0), 109), (20, 9, Some(at(110))));
        assert_eq!(rules(&wanted(20, 9), 109), (20, 9, None), "undone");
        assert_eq!(rules(&wanted(1, 5), 120), (20, 9, Some(at(129))));
        assert_eq!(rules(&wanted(2, 5), 124), (20, 9, Some(at(129))), "not looser than before");
        assert_eq!(rules(&wanted(2, 0), 125), (20, 9, Some(at(134))), "looser");
        assert_eq!(rules(&wanted(3, 30), 126), (20, 30, Some(at(134))), "one of two");
        assert_eq!(rules(&wanted(3, 30), 134), (3, 30, None));
    }

    #[test]
    fn empty_rules_are_the_strictest() {
        let dir = tempfile::tempdir().unwrap();
        let file = RulesFile::open(dir.path());
        let empty = Keep { within: Age::ZERO, last: 0, hourly: 0, daily: 0, weekly: 0, monthly: 0 };
        let empty = BackupServerConfig { keep: empty, ..BackupServerConfig::default() };
        assert!(file.in_force(&empty, at(1)).0.keep.is_nothing());
        let (rules, loosened) = file.in_force(&BackupServerConfig::default(), at(2));
        assert!(rules.keep.is_nothing() && loosened.unwrap().at == at(9));
        assert_eq!(file.in_force(&BackupServerConfig::default(), at(9)).0.keep, Keep::default());
    }

    #[test]
    fn a_file_that_cannot_be_used_loosens_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("retention-rules.json");
        let open = || RulesFile::open(dir.path());
        let default = Rules::of(&BackupServerConfig::default());
        open().in_force(&wanted(0, 0), at(1));
        std::fs::write(&path, "damaged").unwrap();
        let (rules, loosened) = open().in_force(&wanted(0, 0), at(2));
        assert_eq!((&rules, loosened.unwrap().at), (&default, at(9)));
        // The same time after a restart, and a stricter wish is in force.
        assert_eq!(open().in_force(&wanted(0, 0), at(3)).1.unwrap().at, at(9));
        assert_eq!(open().in_force(&wanted(50, 7), at(4)).0.keep.last, 50);
        // A directory cannot be read, whoever runs the test, and stays.
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        let file = open();
        assert_eq!(file.in_force(&wanted(0, 0), at(5)).0, default);
        assert_eq!(file.in_force(&wanted(0, 0), at(12)).0.keep.last, 0, "after the lock time");
        assert!(path.is_dir());
    }

    #[test]
    fn without_a_lock_rules_are_loosened_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let file = RulesFile::open(dir.path());
        file.in_force(&wanted(10, 0), at(1));
        let (rules, loosened) = file.in_force(&wanted(1, 0), at(1));
        assert_eq!((rules.keep.last, loosened), (1, None));
    }

    #[test]
    fn fuzz_retention_rules() {
        let in_force = Rules::of(&wanted(10, 7));
        let loosened = Some(Loosened { wanted: Rules::of(&wanted(1, 0)), at: at(7) });
        let state = State { in_force, loosened };
        fuzzing::target!(&[serde_json::to_vec(&state).unwrap()], |bytes: &[u8]| {
            if let Parsed::Valid(state) = parse::<State>(bytes) {
                assert_eq!(parse(&serde_json::to_vec(&state).unwrap()), Parsed::Valid(state));
            }
        });
    }
}

//! Current faults of an instance as a whole, for its status.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

/// Faults that concern the instance as a whole: a server that cannot listen on
/// its port, space that cannot be freed. Clones share the list.
#[derive(Clone, Debug, Default)]
pub struct Problems(Arc<Mutex<BTreeMap<&'static str, String>>>);

impl Problems {
    /// Returns the message of every fault.
    pub fn list(&self) -> Vec<String> {
        self.0.lock().values().cloned().collect()
    }

    /// Records the result of the last collection: the error that prevented it,
    /// or `None` if it succeeded.
    pub fn set_collection(&self, error: Option<&str>) {
        let problem = error.map(|error| {
            format!("cannot free space: {error}. Run `archivist verify` to see what is damaged")
        });
        self.set("collection", problem);
    }

    /// Records the fault of one part of the instance, or removes it.
    pub fn set(&self, part: &'static str, problem: Option<String>) {
        match problem {
            Some(problem) => self.0.lock().insert(part, problem),
            None => self.0.lock().remove(part),
        };
    }
}

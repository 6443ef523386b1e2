//! Fetching a manifest from its source until it is a snapshot.
//!
//! * [`Puller`]: fetches everything that a name leads to from peers into the store.
//! * [`ManifestPuller`]: one attempt to turn an offered manifest into a snapshot.
//! * [`diff`], [`TreeWalk`]: what a manifest needs beyond the last snapshot, without I/O.
//! * [`repair`]: fetches again what a verification found missing or damaged.

mod likes;
mod manifest_pull;
mod plan;
mod puller;
mod repair;

pub use manifest_pull::{
    ManifestJob, ManifestProgress, ManifestPullError, ManifestPuller, PullNumbers,
};
pub use plan::{Counts, KnownFiles, Plan, SegmentWalk, Step, Summary, TreeWalk, diff};
pub use puller::{Progress, PullError, PullReport, Puller};
pub use repair::{RepairReport, repair};

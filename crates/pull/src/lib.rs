//! Fetching a manifest from its source until it is a snapshot.
//!
//! * [`Puller`]: fetches blocks, or trees of blocks, from peers into the store.
//! * [`ManifestPuller`]: turns an offered manifest into a snapshot.
//! * [`repair`]: fetches again the blocks that a verification found missing or damaged.
//! * [`heal`]: fetches single blocks again.

mod budget;
mod error;
mod gather;
mod heal;
mod manifest_pull;
mod plan;
mod progress;
mod puller;
mod repair;
mod similar;

pub use budget::{StorageBudget, measure_source};
pub use error::PullError;
pub use heal::{HealReport, heal};
pub use manifest_pull::{
    ManifestJob, ManifestProgress, ManifestPullError, ManifestPuller, PullNumbers,
};
pub use progress::PullProgress;
pub use puller::{PullReport, Puller};
pub use repair::{RepairReport, repair};

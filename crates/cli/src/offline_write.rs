//! The store of an instance that is not running, opened for writing by the command
//! itself.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use config::Config;
use node::{PeerId, Running};
use snapshots::SnapshotStore;
use store::{PackStore, StoreError, StoreOptions};

use crate::context::Context;
use crate::offline::print_damage;

/// Time to wait for the lock of the store: an instance that is stopping releases it.
const LOCK_WAIT: Duration = Duration::from_secs(2);
const LOCK_POLL: Duration = Duration::from_millis(20);

/// A store that is open for writing, and the snapshots in it.
#[derive(Debug)]
pub(crate) struct WritableStore {
    pub(crate) packs: Arc<PackStore>,
    pub(crate) snapshots: SnapshotStore,
    pub(crate) config: Config,
}

impl WritableStore {
    /// Opens the store of this instance. Returns `None` if it has none yet.
    ///
    /// Prints damage to standard error. The affected blocks are treated as missing.
    pub(crate) fn open(context: &Context) -> Result<Option<Self>> {
        let data = context.need_data_dir()?;
        node::check_own_store(data)?;
        let Some(dir) = context.store_dir()? else { return Ok(None) };
        refuse_other_owner(&dir)?;
        let config = context.config()?;
        let options = StoreOptions {
            max_storage: config.node.max_storage.limit(),
            disk_reserve: config.node.disk_reserve.bytes(),
            ..StoreOptions::default()
        };
        let deadline = Instant::now() + LOCK_WAIT;
        let opened = loop {
            match PackStore::open(&dir, &options) {
                Err(StoreError::Locked(_)) if Instant::now() < deadline => {
                    std::thread::sleep(LOCK_POLL);
                }
                opened => break opened,
            }
        };
        let (packs, report) = match opened {
            Err(error @ StoreError::Locked(_)) => {
                let hint = match Running::find(data) {
                    Some(running) => format!(
                        "the instance (process {}) does not answer: try again, or end the process",
                        running.pid
                    ),
                    None => "the instance is starting or stopping: try again".to_owned(),
                };
                return Err(error).context(hint);
            }
            opened => opened?,
        };
        print_damage(&report);
        let packs = Arc::new(packs);
        if let Some(issued) = node::issued_receipts(data)? {
            let names = config.clone();
            let name_of = move |peer: &PeerId| node::source_name(&names, &peer.to_string());
            // Commands that collect report it, and `recover` lists what it finds.
            let _ = node::guard_collections(&packs, issued, name_of);
        }
        Ok(Some(Self { snapshots: SnapshotStore::new(packs.clone()), packs, config }))
    }
}

/// Refuses to write as another user than the owner of the store: the files that this
/// command creates could not be read by the instance.
fn refuse_other_owner(dir: &Path) -> Result<()> {
    let owner = std::fs::metadata(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    let user = rustix::process::geteuid().as_raw();
    if owner.uid() != user {
        bail!(
            "{} belongs to the user {}, and this command runs as the user {user}: run it as the \
             user of the instance",
            dir.display(),
            owner.uid()
        );
    }
    Ok(())
}

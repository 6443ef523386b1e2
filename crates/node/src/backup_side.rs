//! The backup server side: pulls from sources, and lets sources restore.

use std::path::Path;

use backup::{BackupDaemon, BackupOptions, BackupSettings};
use net::{Access, Keypair, Net, PeerId, Purposes};
use snapshots::SnapshotStore;

use crate::settings::Settings;
use crate::start_error::StartError;
use crate::tasks::Tasks;

/// Starts the backup daemon, and serves snapshots to the sources that made
/// them.
pub(crate) async fn start(
    settings: &Settings,
    tasks: &Tasks,
    data_dir: &Path,
    keypair: Keypair,
    snapshots: &SnapshotStore,
    net: &Net,
    access: &Access,
) -> Result<BackupDaemon, StartError> {
    let daemon = BackupDaemon::start(BackupOptions {
        snapshots: snapshots.clone(),
        net: net.handle(),
        data_dir: data_dir.to_owned(),
        keypair,
        settings: settings.part(tasks, |config| BackupSettings::from(&config.backup_server)),
        clock: protocols::SystemClock::shared(),
    })
    .await?;
    if let Some(streams) = net.accept(&protocols::SNAPSHOTS_PROTOCOL) {
        let access = access.clone();
        let may_restore = move |peer: &PeerId| access.allows(peer, Purposes::RESTORE);
        let serving = protocols::serve_snapshots(
            streams,
            may_restore,
            backup::list_offered(snapshots.clone()),
        );
        tasks.spawn_until_stop("snapshots", serving);
    }
    Ok(daemon)
}

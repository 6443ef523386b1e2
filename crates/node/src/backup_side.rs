//! The side of the backup server, wired: sources are asked, manifests are
//! pulled, triggers are heard, and what is not kept any more goes.

use std::path::Path;
use std::sync::Arc;

use backup::{BackupDaemon, BackupOptions, BackupSettings, SnapshotStore, TriggerServer};
use net::Net;

use crate::app::StartError;
use crate::listeners::{Problems, Switched};
use crate::options;
use crate::settings::Settings;
use crate::tasks::Tasks;

/// Starts the backup server's daemon, and its trigger.
pub(crate) async fn start(
    settings: &Settings,
    tasks: &Tasks,
    data_dir: &Path,
    snapshots: &SnapshotStore,
    net: &Net,
    problems: Problems,
) -> Result<BackupDaemon, StartError> {
    let config = settings.get();
    let daemon = BackupDaemon::start(BackupOptions {
        snapshots: snapshots.clone(),
        net: net.handle(),
        data_dir: data_dir.to_owned(),
        settings: options::part(settings, tasks, |config| {
            BackupSettings::from(&config.backup_server)
        }),
        clock: backup::SystemClock::shared(),
    })
    .await?;
    let handle = daemon.handle();
    let trigger = TriggerServer::new(
        Arc::new(move || handle.poll_now()),
        options::part(settings, tasks, |config| config.backup_server.source_peers.clone()),
    );
    let server = Switched::new(
        "the trigger, [backup_server] trigger_port",
        options::listen_addresses(&config, config.backup_server.trigger_port),
        trigger.router(),
        config.backup_server.enabled,
        problems,
    )
    .await?;
    let wanted = options::part(settings, tasks, |config| config.backup_server.enabled);
    tasks.spawn("trigger", server.run(wanted, tasks.stop_token()));
    Ok(daemon)
}

//! Starting an instance in the order of its dependencies, and ending it in
//! reverse.
//!
//! Serving HTTP is not part of it: the crate `server` adds the manifest server,
//! the trigger and the API to a started instance, and has [`Instance::publish`]
//! write `running.json` before the API answers.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use backup::{BackupDaemon, IssuedReceipts};
use config::Config;
use disk::RealDisk;
use net::{Access, Keypair, Net, PeerId};
use protocols::BackupService;
use snapshots::SnapshotStore;
use store::{OpenReport, PackStore, Roots as _, RootsRead as _};
use types::with_causes;

use crate::backup_side;
use crate::confirmed::guard_collections;
use crate::data_dir::{DataDir, make_data_dir, refuse_empty};
use crate::downloads::Downloads;
use crate::forget;
use crate::gc_task::GcTask;
use crate::healing::{Healing, HealingParts};
use crate::jobs::Jobs;
use crate::journal::Journal;
use crate::last_verification::LastVerificationFile;
use crate::local_blocks::LocalBlocks;
use crate::log_level::LogLevel;
use crate::names::source_name;
use crate::options::{self, Live};
use crate::pairing::{self, Pairing};
use crate::problems::Problems;
use crate::recompression;
use crate::recovery;
use crate::removed::RemovedFolders;
use crate::restores::Restores;
use crate::retention_task;
use crate::roots;
use crate::rules::RulesFile;
use crate::running::{Running, RunningFile};
use crate::scrub_state::ScrubState;
use crate::scrub_task;
use crate::services::Services;
use crate::settings::Settings;
use crate::source_side::SourceSide;
use crate::start_error::StartError;
use crate::tasks::Tasks;
use crate::token;
use crate::traffic::Traffic;

/// Space in bytes for the files that a start writes: `running.json`, the index of the
/// source side, the state of the backup daemon.
const ROOM_TO_START: u64 = 2 << 20;
/// Time within which both sides and the tasks must end …
const TASKS_END: Duration = Duration::from_millis(2500);
/// … and the network must close its connections …
const NET_END: Duration = Duration::from_millis(1500);
/// … and the store must write its index.
const STORE_END: Duration = Duration::from_millis(750);
/// Together less than five seconds.
const _: () = assert!(TASKS_END.as_millis() + NET_END.as_millis() + STORE_END.as_millis() < 5000);

/// The options that an instance is started with.
#[derive(Clone, Debug)]
pub struct InstanceOptions {
    /// The configuration and its file.
    pub settings: Settings,
    /// The data directory.
    pub data_dir: PathBuf,
    /// Changes the log level.
    pub log_level: LogLevel,
}

/// A running instance.
pub struct Instance {
    net: Net,
    source: SourceSide,
    backup: BackupDaemon,
    services: Services,
    running: Option<RunningFile>,
}

/// The arguments of starting both sides and the network.
struct Parts<'a> {
    settings: &'a Settings,
    tasks: &'a Tasks,
    data_dir: &'a Path,
    store: &'a Arc<PackStore>,
    access: &'a Access,
}

/// Both sides and the network, running.
struct Started {
    net: Net,
    source: SourceSide,
    backup_service: BackupService,
    backup: BackupDaemon,
    blocks: LocalBlocks,
    snapshots: SnapshotStore,
}

impl Parts<'_> {
    /// Starts the source side, since the network serves its blocks, then the
    /// network, then everything that uses the network.
    async fn start(self, keypair: Keypair) -> Result<Started, StartError> {
        let Parts { settings, tasks, data_dir, store, access } = self;
        let source = SourceSide::start(settings, tasks, data_dir, store.clone(), &keypair).await?;
        let blocks = LocalBlocks::new(store.clone(), source.in_place());
        let provider = Arc::new(blocks.clone());
        let config = settings.get();
        let net =
            Net::start(options::net_config(&config), keypair.clone(), provider, access.clone())
                .await?;
        let backup_service = source.connect(settings, tasks, &net, access, store)?;
        let snapshots = SnapshotStore::new(store.clone());
        check_confirmed(settings, data_dir, store, keypair.clone()).await;
        if store.roots_incomplete() {
            let (snapshots, store) = (snapshots.clone(), store.clone());
            let work = move || recovery::continue_numbers(&snapshots, &*store);
            if let Err(panic) = tokio::task::spawn_blocking(work).await {
                std::panic::resume_unwind(panic.into_panic());
            }
        }
        let backup =
            backup_side::start(settings, tasks, data_dir, keypair, &snapshots, &net, access)
                .await?;
        Ok(Started { net, source, backup_service, backup, blocks, snapshots })
    }
}

/// Compares the list of snapshots with the signed receipts, before anything is pulled, and holds
/// the collections while a confirmed snapshot is missing.
async fn check_confirmed(
    settings: &Settings,
    data_dir: &Path,
    store: &Arc<PackStore>,
    keypair: Keypair,
) {
    let issued = IssuedReceipts::new(Arc::new(RealDisk), data_dir, keypair);
    let (settings, store) = (settings.clone(), store.clone());
    let work = move || {
        let name_of = move |peer: &PeerId| source_name(&settings.get(), &peer.to_string());
        guard_collections(&store, issued, name_of)
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::error!("{}", with_causes(&error)),
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

/// Opens the store, after the check that it belongs to this data directory and this identity, and
/// prepares it. Both are created for a new instance.
async fn open_store(
    dir: &DataDir<'_>,
    config: &Config,
) -> Result<(Keypair, Arc<PackStore>, OpenReport), StartError> {
    // Before the store is opened, which would create one.
    let (keypair, missing_markers) = dir.check()?;
    // The lock of the store comes next: a second daemon on the same data
    // ends here, before it has changed anything.
    let (store_dir, store_options) = (dir.store(), options::store_options(config));
    let opened = tokio::task::spawn_blocking(move || PackStore::open(&store_dir, &store_options));
    let (store, report) = match opened.await {
        Ok(opened) => opened?,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    };
    log_report(&report);
    match store.make_room(ROOM_TO_START) {
        Ok(true) => {}
        Ok(false) => tracing::warn!("the disk is full; `archivist prune` frees space"),
        Err(error) => {
            let error = with_causes(&error);
            tracing::warn!(error, "cannot determine the free space of the disk");
        }
    }
    for (name, _) in store.roots(roots::RESTORE) {
        // A root that stays keeps blocks that nothing else needs, until the next start.
        if let Err(error) = store.remove_root(&name) {
            tracing::warn!(%name, error = with_causes(&error), "cannot remove an old root");
        }
    }
    if let Some(missing) = missing_markers
        && let Err(error) = dir.markers().write(missing, &keypair.public().to_peer_id())
    {
        let error = with_causes(&error);
        tracing::warn!(error, "cannot mark the store; the next start tries again");
    }
    Ok((keypair, Arc::new(store), report))
}

impl Instance {
    /// Starts the store, the network and both sides. [`Instance::start_tasks`]
    /// completes the start.
    ///
    /// # Errors
    ///
    /// Returns [`StartError`] if any part cannot start; the started parts have
    /// been stopped then.
    pub async fn start(options: InstanceOptions) -> Result<Self, StartError> {
        let settings = options.settings;
        let config = settings.get();
        let dir = DataDir(&options.data_dir);
        refuse_empty(&options.data_dir, &config)?;
        make_data_dir(&options.data_dir)?;
        let (keypair, store, report) = open_store(&dir, &config).await?;
        let token_path = dir.token();
        let token = token::load_or_create(&token_path)
            .map_err(|source| StartError::Data { path: token_path, source })?;

        let access = Access::new();
        access.replace(options::access_list(&config));
        let tasks = Tasks::new();
        let parts = Parts {
            settings: &settings,
            tasks: &tasks,
            data_dir: &options.data_dir,
            store: &store,
            access: &access,
        };
        let started = match parts.start(keypair).await {
            Ok(started) => started,
            Err(error) => {
                tasks.end(TASKS_END).await;
                return Err(error);
            }
        };
        let Started { net, source, backup_service, backup, blocks, snapshots } = started;

        let rules = RulesFile::open(dir.0);
        options::note_rules(&rules, &config).await;
        let (problems, healing) = (Problems::default(), Healing::default());
        healing.report_lost_packs(report.lost_packs.iter().map(|pack| pack.display().to_string()));
        if !report.damage.is_empty() {
            healing.check_presence();
        }
        let services = Services {
            downloads: Downloads::new(blocks.clone(), net.handle(), tasks.clone()),
            gc: GcTask::new(problems.clone(), healing.clone()),
            healing,
            scrub: ScrubState::default(),
            last_verification: LastVerificationFile::open(dir.last_verification()),
            rules,
            pairing: Pairing::new(net.handle(), settings.clone()),
            traffic: Traffic::new(net.handle()),
            removed_folders: RemovedFolders::new(&options.data_dir),
            data_dir: options.data_dir.as_path().into(),
            token: token.into(),
            log_level: options.log_level,
            net: net.handle(),
            sync: source.sync.handle(),
            registry: source.registry.clone(),
            manifest_clients: source.manifest_clients.clone(),
            receipts: source.receipts.clone(),
            backup_daemon: backup.handle(),
            jobs: Jobs::default(),
            restores: Restores::default(),
            journal: Journal::default(),
            settings,
            tasks,
            store,
            blocks,
            access,
            backup_service,
            snapshots,
            problems,
        };
        Ok(Self { net, source, backup, services, running: None })
    }

    /// Starts the tasks that work with the services: the journal, the jobs,
    /// pairing, the application of changed settings. Call it once, after every
    /// port is bound: a start that fails at a port leaves nothing in the journal.
    pub fn start_tasks(&self) {
        start_tasks(&self.services, &self.net, &DataDir(&self.services.data_dir));
    }

    /// Publishes `running.json`, by which commands find the API of this
    /// instance. The API must not answer before, or a command right after its
    /// first answer finds no instance.
    ///
    /// # Errors
    ///
    /// Returns [`StartError::Data`] if the file cannot be written.
    pub fn publish(&mut self, api: SocketAddr) -> Result<(), StartError> {
        let running = Running { api, pid: std::process::id() };
        self.running = Some(running.publish(&self.services.data_dir)?);
        Ok(())
    }

    /// Returns the services of the instance.
    pub fn services(&self) -> &Services {
        &self.services
    }

    /// Waits until a part of the instance has ended unexpectedly.
    pub async fn failed(&self) {
        let tasks = &self.services.tasks;
        let stop = tasks.stop_token();
        tokio::select! {
            () = stop.cancelled() => {}
            error = self.source.sync.failed() => {
                tasks.fail(format!("the source side ended: {error}"));
            }
            error = self.backup.failed() => {
                tasks.fail(format!("the backup daemon ended: {error}"));
            }
            ended = self.net.stopped() => {
                let reason = ended.err().map_or("no reason".to_owned(), |error| error.to_string());
                tasks.fail(format!("the network ended: {reason}"));
            }
        }
    }

    /// Ends the instance within five seconds. The end of the process stops any
    /// part that has not ended by then, like a kill.
    ///
    /// # Errors
    ///
    /// Returns the reason if a part had ended unexpectedly before.
    pub async fn shutdown(self) -> Result<(), String> {
        let Self { net, source, backup, services, running } = self;
        services.restores.stop();
        let (_, _, ended) = tokio::join!(
            within(TASKS_END, "the source side", source.sync.shutdown()),
            within(TASKS_END, "the backup daemon", backup.shutdown()),
            services.tasks.end(TASKS_END),
        );
        if !ended {
            tracing::warn!("some tasks did not end in time");
        }
        if let Err(error) = net.shutdown(NET_END).await {
            tracing::warn!(%error, "the network did not end in time");
        }
        let failure = services.tasks.failure();
        drop(running);
        // Dropping the last handle of the store writes the index. If something
        // still has a handle, the next start rebuilds the missing part.
        let closing = tokio::task::spawn_blocking(move || drop(services));
        within(STORE_END, "the store", async { drop(closing.await) }).await;
        failure.map_or(Ok(()), Err)
    }
}

/// Starts the tasks that work with the services.
fn start_tasks(services: &Services, net: &Net, dir: &DataDir<'_>) {
    let (tasks, stop) = (&services.tasks, || services.stop_token());
    let gc = services.gc.clone().run(services.store.clone(), stop());
    tasks.spawn("gc", gc);
    let live = Live {
        net: services.net.clone(),
        access: services.access.clone(),
        store: services.store.clone(),
        log_level: services.log_level.clone(),
        rules: services.rules.clone(),
    };
    tasks.spawn("settings", live.run(services.settings.clone(), stop()));
    if let Some(streams) = net.accept(&pairing::PROTOCOL) {
        tasks.spawn("pairing", services.pairing.clone().serve(streams, tasks.clone()));
    }
    let saving = services.journal.clone().save(dir.journal(), stop());
    tasks.spawn("journal file", saving);
    services.receipts.report_to(services.journal.clone());
    let saving = services.traffic.clone().save(dir.traffic(), stop());
    tasks.spawn("traffic", saving);
    let (sync, daemon) = (services.sync.clone(), services.backup_daemon.clone());
    tasks.spawn("journal", services.journal.clone().run(sync, daemon, stop()));
    tasks.spawn_until_stop("removed-folders", forget::forget_removed(services.clone()));
    let parts = HealingParts {
        store: services.store.clone(),
        snapshots: services.snapshots.clone(),
        net: services.net.clone(),
        access: services.access.clone(),
        settings: services.settings.clone(),
        journal: services.journal.clone(),
        problems: services.problems.clone(),
        path: dir.healing(),
        stop: stop(),
    };
    let sources = services.backup_daemon.subscribe();
    tasks.spawn("healing", services.healing.clone().run(parts, sources));
    tasks.spawn("scrub", scrub_task::run(services.clone()));
    tasks.spawn("retention", retention_task::run(services.clone()));
    tasks.spawn("recompression", recompression::run(services.clone()));
}

/// Waits until a part has ended, at most for `limit`.
async fn within(limit: Duration, part: &str, end: impl Future<Output = ()>) {
    if tokio::time::timeout(limit, end).await.is_err() {
        tracing::warn!("{part} did not end in time");
    }
}

fn log_report(report: &OpenReport) {
    for damage in &report.damage {
        tracing::error!(damage, "the store is damaged; damaged blocks are treated as missing");
    }
    for pack in &report.lost_packs {
        tracing::error!(pack = %pack.display(), "a pack of the store is missing");
    }
    if report.index_rebuilt {
        tracing::info!("the index of the store was rebuilt");
    }
    if report.roots_repaired {
        tracing::warn!(
            "one of the two root logs was damaged or missing and was restored from the other"
        );
    }
    if let Some(unreadable) = &report.roots_unreadable {
        tracing::error!(
            unreadable,
            "one of the two root logs cannot be read; the other one is complete and is used; give \
             the file back to the user who runs this program, or check the disk"
        );
    }
    if report.roots_incomplete {
        tracing::error!(
            "root records are lost, so no space is freed any more; run `archivist recover`, which \
             finds lost snapshots; if `archivist snapshots` then lists everything that must be \
             kept, run `archivist prune --accept-roots`"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_part_that_does_not_end_is_not_waited_for() {
        let begun = tokio::time::Instant::now();
        within(TASKS_END, "a part", std::future::pending()).await;
        assert_eq!(begun.elapsed(), TASKS_END);
        within(TASKS_END, "a part", async {}).await;
        assert_eq!(begun.elapsed(), TASKS_END);
    }
}

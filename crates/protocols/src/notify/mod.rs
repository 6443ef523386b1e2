//! The source notifies the backup server of a new manifest: after each one automatically, and on
//! request ("Backup Now").
//!
//! A notification is two attempts at the same time: a libp2p connection to the backup server, which
//! it needs for the blocks, and a trigger, which is an HTTP request that makes it poll its sources.
//! Each helps without the other.
//!
//! Role: hints only. The backup server also polls, so a lost notification costs only time.
//! Notifications end with the receipt, not with a delivered notification.
//!
//! * [`BackupService`]: the service; [`BackupService::run`] is its task.
//! * [`NotifyState`]: the state of a folder that is not confirmed yet.

mod channel;
mod schedule;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use jiff::Timestamp;
use manifest::{ManifestRegistry, Offers};
use net::{Handle, Multiaddr, NetError, PeerId};
use serde::Serialize;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use types::{Cid, FolderId, SequenceNumber};

use self::channel::{Channel, NetworkChannel, peer_of};
use self::schedule::Schedule;
use crate::Clock;

#[cfg(feature = "sim")]
pub use self::channel::SimulatedTrigger;
pub use self::channel::TriggerError;

/// Settings of the notifications, made of the section `[sync]` of the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NotifySettings {
    /// Address of the backup server, with its peer id. The trigger goes to the same host.
    pub backup_peer: Option<Multiaddr>,
    /// TCP port of the trigger.
    pub trigger_port: u16,
    /// True if the backup server is notified automatically after each manifest.
    pub auto_notify: bool,
    /// Time without a receipt after which the backup server is notified again.
    pub retry_interval: Duration,
    /// Maximum number of repeated notifications.
    pub max_retries: u32,
}

impl From<&config::SyncConfig> for NotifySettings {
    fn from(sync: &config::SyncConfig) -> Self {
        Self {
            backup_peer: sync.backup_peer_address.clone(),
            trigger_port: sync.backup_trigger_port,
            auto_notify: sync.backup_auto_notify,
            retry_interval: sync.manifest_retry_interval(),
            max_retries: sync.manifest_max_retries,
        }
    }
}

/// State of the notifications of a folder whose newest manifest is not confirmed. The API shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotifyState {
    /// Sequence number of the newest manifest.
    pub sequence: SequenceNumber,
    /// Number of notifications so far.
    pub attempts: u32,
    /// Time of the last notification.
    pub last_attempt_at: Option<Timestamp>,
    /// Error of the last notification, if the connection or the trigger failed.
    pub error: Option<String>,
    /// True if the retries are used up without a receipt. The user should find out why.
    pub is_overdue: bool,
}

/// Reason why [`Register`] failed, to be shown to the user.
pub type RegisterError = Box<dyn std::error::Error + Send + Sync>;

/// Function that scans folders and publishes their current state, so that the manifests are in the
/// [`ManifestRegistry`]. Returns when that is done. In this module, a manifest in the registry is
/// called registered.
pub type Register =
    Arc<dyn Fn(Vec<FolderId>) -> BoxFuture<'static, Result<(), RegisterError>> + Send + Sync>;

/// Dependencies of [`BackupService`].
pub struct BackupServiceOptions {
    /// The network.
    pub net: Handle,
    /// The published manifests.
    pub registry: ManifestRegistry,
    /// Settings; may change at any time.
    pub settings: watch::Receiver<NotifySettings>,
    /// Sequence number of the last confirmed manifest of each folder.
    pub receipts: watch::Receiver<BTreeMap<FolderId, SequenceNumber>>,
    /// Scans and publishes folders for "Backup Now".
    pub register: Register,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
}

/// Service of the source that notifies the backup server of new manifests. It sends no data: the
/// backup server pulls. Clones share the service.
#[derive(Clone)]
pub struct BackupService(Arc<Shared>);

struct Shared {
    channel: Arc<dyn Channel>,
    registry: ManifestRegistry,
    settings: watch::Receiver<NotifySettings>,
    receipts: watch::Receiver<BTreeMap<FolderId, SequenceNumber>>,
    register: Register,
    clock: Arc<dyn Clock>,
    states: watch::Sender<BTreeMap<FolderId, NotifyState>>,
    notified_manually: Notify,
}

impl fmt::Debug for BackupService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackupService").finish_non_exhaustive()
    }
}

/// A manifest in a [`BackupNowReport`]: the newest one of its folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NotifiedManifest {
    /// Id of the folder.
    pub folder_id: FolderId,
    /// Display name of the folder.
    pub folder_name: String,
    /// Sequence number of the manifest.
    pub sequence: SequenceNumber,
    /// CID of the manifest.
    pub manifest_cid: Cid,
}

/// A step of "Backup Now".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NotifyStep {
    /// Scanning the folders and publishing their manifests.
    Register,
    /// Connecting to the backup server.
    Connect,
    /// Sending the trigger.
    Trigger,
}

/// Result of a step of "Backup Now".
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StepReport {
    /// The step.
    pub step: NotifyStep,
    /// Text for the user: what was done, or what failed and what to do about it.
    pub message: String,
    /// True if the step failed. The backup still happens, at the latest when the backup server
    /// polls the next time.
    pub is_warning: bool,
}

/// Result of [`BackupService::backup_now`]: the backup server is notified. The backup itself may
/// still be running.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BackupNowReport {
    /// Newest manifest of each requested folder. The caller can wait for their receipts with
    /// [`BackupService::wait_for_receipt`].
    pub manifests: Vec<NotifiedManifest>,
    /// Peer id of the backup server.
    pub peer: PeerId,
    /// Address of the backup server.
    pub address: Multiaddr,
    /// The steps, in order.
    pub steps: Vec<StepReport>,
}

/// Reason why [`BackupService::backup_now`] failed.
#[derive(Debug, thiserror::Error)]
pub enum BackupNowError {
    /// No backup server is set.
    #[error(
        "no backup server is set: pair with one (`archivist pair`), or set [sync] \
         backup_peer_address to its multiaddr"
    )]
    NoBackupPeer,
    /// The address has no peer id.
    #[error(
        "[sync] backup_peer_address {0} does not end with /p2p/ and the peer id of the backup server"
    )]
    NoPeerId(Multiaddr),
    /// The folder has no manifest in the registry.
    #[error("folder {0} has no manifest yet; `archivist status` shows why")]
    NotRegistered(FolderId),
    /// None of the folders has a manifest in the registry.
    #[error("no folder has a manifest yet; add one with `archivist folder add PATH`")]
    NothingRegistered,
    /// The scan or the publication failed, and the registry has no earlier manifest.
    #[error("cannot make the manifest: {0}")]
    Register(#[source] RegisterError),
    /// The connection over libp2p failed.
    #[error(
        "{error}; check that the backup server runs, that [sync] backup_peer_address is right, and \
         that the listen_port of the backup server is open{}",
        if *is_triggered { " (the backup server received the trigger, so it runs)" } else { "" }
    )]
    Connect {
        /// True if the trigger was delivered all the same.
        is_triggered: bool,
        /// The steps before this one. Manifests that they published stay published.
        steps: Vec<StepReport>,
        /// Error of the connection. It is a part of the message, and not repeated as its cause.
        error: NetError,
    },
}

/// Reason why [`BackupService::wait_for_receipt`] returned without a receipt.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WaitError {
    /// No receipt arrived in time.
    #[error(
        "the backup server has not confirmed manifest {sequence} within {} s",
        after.as_secs_f64().round()
    )]
    Timeout {
        /// Sequence number of the manifest.
        sequence: SequenceNumber,
        /// The time limit.
        after: Duration,
    },
    /// The instance is stopping.
    #[error("the instance is stopping")]
    Stopped,
}

/// Result of one notification.
struct Notified {
    connect: Result<(), NetError>,
    trigger: Result<(), TriggerError>,
}

impl Notified {
    /// Returns the error to show, if the connection or the trigger failed.
    fn error(&self) -> Option<String> {
        match (&self.connect, &self.trigger) {
            (Ok(()), Ok(())) => None,
            (Err(connect), Ok(())) => Some(connect.to_string()),
            (Ok(()), Err(trigger)) => Some(trigger.to_string()),
            (Err(connect), Err(trigger)) => Some(format!("{connect}; {trigger}")),
        }
    }
}

fn sequence_numbers(offers: &Offers) -> BTreeMap<FolderId, SequenceNumber> {
    let number = |(folder, offer): (&FolderId, &manifest::Offer)| {
        (folder.clone(), offer.published.sequence_number)
    };
    offers.folders.iter().map(number).collect()
}

impl BackupService {
    /// Creates the service. It sends nothing before [`BackupService::run`].
    ///
    /// # Errors
    ///
    /// Returns [`TriggerError::Setup`] if the HTTP client cannot be created.
    pub fn new(options: BackupServiceOptions) -> Result<Self, TriggerError> {
        let channel = Arc::new(NetworkChannel::new(options.net)?);
        let BackupServiceOptions { registry, settings, receipts, register, clock, .. } = options;
        Ok(Self::with_channel(channel, registry, settings, receipts, register, clock))
    }

    /// Same as [`BackupService::new`], with triggers that a simulation delivers.
    ///
    /// # Errors
    ///
    /// Same as [`BackupService::new`].
    #[cfg(feature = "sim")]
    pub fn simulated(
        options: BackupServiceOptions,
        trigger: SimulatedTrigger,
    ) -> Result<Self, TriggerError> {
        let channel = Arc::new(NetworkChannel::simulated(options.net, trigger)?);
        let BackupServiceOptions { registry, settings, receipts, register, clock, .. } = options;
        Ok(Self::with_channel(channel, registry, settings, receipts, register, clock))
    }

    fn with_channel(
        channel: Arc<dyn Channel>,
        registry: ManifestRegistry,
        settings: watch::Receiver<NotifySettings>,
        receipts: watch::Receiver<BTreeMap<FolderId, SequenceNumber>>,
        register: Register,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let states = watch::Sender::default();
        let notified_manually = Notify::new();
        Self(Arc::new(Shared {
            channel,
            registry,
            settings,
            receipts,
            register,
            clock,
            states,
            notified_manually,
        }))
    }

    /// Returns the states of the folders whose newest manifest is not confirmed. The map stays
    /// empty if [`NotifySettings::auto_notify`] is false or no backup server is set.
    pub fn states(&self) -> watch::Receiver<BTreeMap<FolderId, NotifyState>> {
        self.0.states.subscribe()
    }

    /// Notifies the backup server after each manifest, until `stop`. Spawned once.
    pub async fn run(self, stop: CancellationToken) {
        let shared = &*self.0;
        let mut offers = shared.registry.watch();
        let (mut settings, mut receipts) = (shared.settings.clone(), shared.receipts.clone());
        let mut schedule = Schedule::default();
        let mut started = Vec::new();
        let mut attempt: Option<BoxFuture<'static, Notified>> = None;
        loop {
            let current = settings.borrow_and_update().clone();
            let published = sequence_numbers(&offers.borrow_and_update().clone());
            let confirmed = receipts.borrow_and_update().clone();
            schedule.update(&current, &published, &confirmed);
            let now = Instant::now();
            for (folder, sequence) in schedule.expire(now) {
                tracing::warn!(%folder, %sequence, "the backup server has not confirmed the manifest");
            }
            if attempt.is_none() {
                started = schedule.start(now, shared.clock.now());
                if !started.is_empty() {
                    attempt = self.notify(&current);
                }
            }
            let states = schedule.states();
            shared.states.send_if_modified(|old| {
                let is_new = *old != states;
                *old = states;
                is_new
            });
            // Folders that become due during an attempt wait for its end.
            let wake = if attempt.is_some() { None } else { schedule.next(now) };
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                changed = offers.changed() => if changed.is_err() { return },
                // A closed channel means that the instance is stopping.
                changed = settings.changed() => if changed.is_err() { return },
                changed = receipts.changed() => if changed.is_err() { return },
                () = shared.notified_manually.notified() => {
                    schedule.notified_manually(Instant::now(), shared.clock.now());
                }
                notified = async {
                    match attempt.as_mut() {
                        Some(attempt) => attempt.await,
                        None => std::future::pending().await,
                    }
                } => {
                    attempt = None;
                    let error = notified.error();
                    if let Some(error) = &error {
                        tracing::info!(%error, "cannot notify the backup server");
                    }
                    schedule.ended(&started, error.as_deref());
                }
                () = tokio::time::sleep_until(wake.unwrap_or(now)), if wake.is_some() => {}
            }
        }
    }

    /// Connects and triggers at the same time: each helps without the other.
    fn notify(&self, settings: &NotifySettings) -> Option<BoxFuture<'static, Notified>> {
        let address = settings.backup_peer.clone()?;
        let peer = peer_of(&address)?;
        let connecting = self.0.channel.connect(peer, address.clone());
        let triggering = self.0.channel.trigger(address, settings.trigger_port);
        Some(Box::pin(async move {
            let (connect, trigger) = tokio::join!(connecting, triggering);
            Notified { connect, trigger }
        }))
    }

    /// Backs up now: scans and publishes the folders, connects to the backup server and triggers
    /// it. Returns when the backup server is notified; [`BackupService::wait_for_receipt`] waits
    /// for the backup itself.
    ///
    /// # Errors
    ///
    /// Returns [`BackupNowError`] if no usable backup server is set, if the registry has no
    /// manifest of the folders, or if the connection fails. A trigger that was not delivered is a
    /// warning in the report, and so is a failed scan if the registry has an earlier manifest.
    pub async fn backup_now(
        &self,
        folders: &[FolderId],
    ) -> Result<BackupNowReport, BackupNowError> {
        let settings = self.0.settings.borrow().clone();
        let address = settings.backup_peer.clone().ok_or(BackupNowError::NoBackupPeer)?;
        let no_peer = || BackupNowError::NoPeerId(address.clone());
        let peer = peer_of(&address).ok_or_else(no_peer)?;
        let mut steps = Vec::new();
        let manifests = self.registered(folders, &mut steps).await?;
        let notifying = self.notify(&settings).ok_or_else(no_peer)?;
        let notified = notifying.await;
        if let Err(error) = notified.connect {
            let is_triggered = notified.trigger.is_ok();
            return Err(BackupNowError::Connect { is_triggered, steps, error });
        }
        self.0.notified_manually.notify_one();
        steps.push(StepReport {
            step: NotifyStep::Connect,
            message: format!("connected to the backup server {peer}"),
            is_warning: false,
        });
        steps.push(match notified.trigger {
            Ok(()) => StepReport {
                step: NotifyStep::Trigger,
                message: "triggered the backup server".to_owned(),
                is_warning: false,
            },
            Err(error) => StepReport {
                step: NotifyStep::Trigger,
                message: format!("{error}. The backup server also polls automatically"),
                is_warning: true,
            },
        });
        Ok(BackupNowReport { manifests, peer, address, steps })
    }

    /// Registers the current state of the folders and returns their registered manifests.
    async fn registered(
        &self,
        folders: &[FolderId],
        steps: &mut Vec<StepReport>,
    ) -> Result<Vec<NotifiedManifest>, BackupNowError> {
        let result = (self.0.register)(folders.to_vec()).await;
        let offers = self.0.registry.offers();
        let manifest = |(id, offer): (&FolderId, &manifest::Offer)| NotifiedManifest {
            folder_id: id.clone(),
            folder_name: offer.published.folder_name.clone(),
            sequence: offer.published.sequence_number,
            manifest_cid: offer.published.manifest_cid,
        };
        let manifests: Vec<_> =
            offers.folders.iter().filter(|(id, _)| folders.contains(id)).map(manifest).collect();
        match (result, manifests.is_empty(), folders) {
            (Err(error), true, _) => return Err(BackupNowError::Register(error)),
            (Ok(()), true, [folder]) => return Err(BackupNowError::NotRegistered(folder.clone())),
            (Ok(()), true, _) => return Err(BackupNowError::NothingRegistered),
            (Err(error), false, _) => steps.push(StepReport {
                step: NotifyStep::Register,
                message: format!("cannot publish the current state: {error}"),
                is_warning: true,
            }),
            (Ok(()), false, _) => steps.push(StepReport {
                step: NotifyStep::Register,
                message: match &manifests[..] {
                    [one] => format!("registered manifest {}", one.sequence),
                    many => format!("registered {} manifests", many.len()),
                },
                is_warning: false,
            }),
        }
        Ok(manifests)
    }

    /// Waits until the backup server has confirmed this manifest of the folder or a later one, and
    /// returns the confirmed sequence number.
    ///
    /// # Errors
    ///
    /// Returns [`WaitError::Timeout`] if no receipt arrives in time, and [`WaitError::Stopped`] if
    /// the instance stops.
    pub async fn wait_for_receipt(
        &self,
        folder: &FolderId,
        sequence: SequenceNumber,
        timeout: Duration,
    ) -> Result<SequenceNumber, WaitError> {
        let mut receipts = self.0.receipts.clone();
        let is_confirmed = |all: &BTreeMap<FolderId, SequenceNumber>| {
            all.get(folder).is_some_and(|number| *number >= sequence)
        };
        let waiting = tokio::time::timeout(timeout, receipts.wait_for(is_confirmed));
        match waiting.await {
            Ok(Ok(all)) => Ok(all.get(folder).copied().unwrap_or(sequence)),
            Ok(Err(_)) => Err(WaitError::Stopped),
            Err(_) => Err(WaitError::Timeout { sequence, after: timeout }),
        }
    }
}

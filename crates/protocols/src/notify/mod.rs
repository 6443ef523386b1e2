//! A tells B that there is something to pull: after each manifest by itself,
//! and by hand ("Backup Now").
//!
//! Role: hints only. B asks by itself as well; what is lost here costs time.
//! What ends the telling is a receipt, never that a hint went out.
//!
//! * [`BackupService`]: the service; [`BackupService::run`] is its task.
//! * [`NotifyState`]: what to show of a folder that is not acknowledged yet.

mod reach;
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

use self::reach::{Network, Reach, peer_of};
use self::schedule::Schedule;
use crate::Clock;

pub use self::reach::TriggerError;

/// How and when the backup server is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NotifySettings {
    /// Where the backup server is, with its peer id; its host also gets the
    /// trigger.
    pub backup_peer: Option<Multiaddr>,
    /// The TCP port of the trigger.
    pub trigger_port: u16,
    /// Tell it after each manifest.
    pub auto_notify: bool,
    /// How long it may take to acknowledge before it is told again.
    pub retry_interval: Duration,
    /// How often it is told again.
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

/// How it stands with a manifest that is not acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotifyState {
    /// Its number.
    pub sequence: SequenceNumber,
    /// How often the backup server was told.
    pub attempts: u32,
    /// When it was told last.
    pub last_attempt_at: Option<Timestamp>,
    /// What went wrong the last time.
    pub error: Option<String>,
    /// It was told as often as it should be, and nothing came: something is
    /// wrong that somebody should look at.
    pub is_overdue: bool,
}

/// What goes wrong where a manifest is to be made: for people.
pub type RegisterError = Box<dyn std::error::Error + Send + Sync>;

/// Has the newest state of a folder (of all, where none is named) scanned,
/// published and registered; returns when that is done.
pub type Register =
    Arc<dyn Fn(Option<FolderId>) -> BoxFuture<'static, Result<(), RegisterError>> + Send + Sync>;

/// What the service needs.
pub struct BackupServiceOptions {
    /// The network.
    pub net: Handle,
    /// What is published.
    pub registry: ManifestRegistry,
    /// How it is to be done; may change at any time.
    pub settings: watch::Receiver<NotifySettings>,
    /// The last sequence number of each folder that was acknowledged.
    pub receipts: watch::Receiver<BTreeMap<FolderId, SequenceNumber>>,
    /// How a manifest is made sure of.
    pub register: Register,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

/// The service. Clones share it.
#[derive(Clone)]
pub struct BackupService(Arc<Shared>);

struct Shared {
    reach: Arc<dyn Reach>,
    registry: ManifestRegistry,
    settings: watch::Receiver<NotifySettings>,
    receipts: watch::Receiver<BTreeMap<FolderId, SequenceNumber>>,
    register: Register,
    clock: Arc<dyn Clock>,
    states: watch::Sender<BTreeMap<FolderId, NotifyState>>,
    told_by_hand: Notify,
}

impl fmt::Debug for BackupService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackupService").finish_non_exhaustive()
    }
}

/// A manifest that the backup server was told of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NotifiedManifest {
    /// The folder.
    pub folder_id: FolderId,
    /// What people call it.
    pub folder_name: String,
    /// Its number.
    pub sequence: SequenceNumber,
    /// Its name.
    pub manifest_cid: Cid,
}

/// A step of "Backup Now".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NotifyStep {
    /// The manifest is registered.
    Register,
    /// The backup server is connected.
    Connect,
    /// The trigger was sent.
    Trigger,
}

/// How a step went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StepReport {
    /// Which one.
    pub step: NotifyStep,
    /// What was done; or what went wrong, and what to do about it.
    pub message: String,
    /// Whether it went wrong. The backup goes on all the same, but may take
    /// until the backup server asks by itself.
    pub is_warning: bool,
}

/// What "Backup Now" did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BackupNowReport {
    /// The manifests whose receipts can be waited for.
    pub manifests: Vec<NotifiedManifest>,
    /// The backup server.
    pub peer: PeerId,
    /// Where it is.
    pub address: Multiaddr,
    /// Every step, in order.
    pub steps: Vec<StepReport>,
}

/// Why "Backup Now" could not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum BackupNowError {
    /// There is no backup server.
    #[error(
        "no backup server is set: pair with one (`archivist pair`), or set [sync] \
         backup_peer_address to its multiaddr"
    )]
    NoBackupPeer,
    /// The address does not say who is there.
    #[error(
        "[sync] backup_peer_address {0} does not end with /p2p/ and the backup server's peer id"
    )]
    NoPeerId(Multiaddr),
    /// The folder has no manifest.
    #[error("folder {0} has no manifest yet; `archivist status` tells why")]
    NotRegistered(FolderId),
    /// No folder has a manifest.
    #[error("there is no manifest yet: add a folder first (`archivist folder add PATH`)")]
    NothingRegistered,
    /// The manifest could not be made, and there is none from before.
    #[error("the manifest could not be made: {0}")]
    Register(#[source] RegisterError),
    /// The backup server cannot be reached over libp2p.
    #[error(
        "cannot connect to the backup server at {address}: {source}; check that it runs, that \
         [sync] backup_peer_address is right, and that its listen_port is open{}",
        if *is_triggered { " (the trigger arrived: it is there)" } else { "" }
    )]
    Connect {
        /// Where it should be.
        address: Multiaddr,
        /// Whether the trigger arrived all the same.
        is_triggered: bool,
        /// The steps before: what was registered stays so.
        steps: Vec<StepReport>,
        /// What the network said.
        source: NetError,
    },
}

/// Why there is no receipt.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WaitError {
    /// It did not come in time.
    #[error("the backup server has not acknowledged manifest {sequence} within {after:?}")]
    Timeout {
        /// What was waited for.
        sequence: SequenceNumber,
        /// How long.
        after: Duration,
    },
    /// The instance is stopping.
    #[error("the instance is stopping")]
    Stopped,
}

/// How one telling went.
struct Outcome {
    connect: Result<(), NetError>,
    trigger: Result<(), TriggerError>,
}

impl Outcome {
    /// What to show of it, where something went wrong.
    fn error(&self) -> Option<String> {
        match (&self.connect, &self.trigger) {
            (Ok(()), Ok(())) => None,
            (Err(connect), Ok(())) => Some(connect.to_string()),
            (Ok(()), Err(trigger)) => Some(trigger.to_string()),
            (Err(connect), Err(trigger)) => Some(format!("{connect}; {trigger}")),
        }
    }
}

fn numbers(offers: &Offers) -> BTreeMap<FolderId, SequenceNumber> {
    let number = |(folder, offer): (&FolderId, &manifest::Offer)| {
        (folder.clone(), offer.published.sequence_number)
    };
    offers.folders.iter().map(number).collect()
}

impl BackupService {
    /// Makes the service; nothing is told before [`BackupService::run`].
    ///
    /// # Errors
    ///
    /// [`TriggerError::Setup`].
    pub fn new(options: BackupServiceOptions) -> Result<Self, TriggerError> {
        let reach = Arc::new(Network::new(options.net)?);
        let BackupServiceOptions { registry, settings, receipts, register, clock, .. } = options;
        Ok(Self::with_reach(reach, registry, settings, receipts, register, clock))
    }

    fn with_reach(
        reach: Arc<dyn Reach>,
        registry: ManifestRegistry,
        settings: watch::Receiver<NotifySettings>,
        receipts: watch::Receiver<BTreeMap<FolderId, SequenceNumber>>,
        register: Register,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let states = watch::Sender::default();
        let told_by_hand = Notify::new();
        Self(Arc::new(Shared {
            reach,
            registry,
            settings,
            receipts,
            register,
            clock,
            states,
            told_by_hand,
        }))
    }

    /// Tells how it stands with the folders that are not acknowledged.
    pub fn states(&self) -> watch::Receiver<BTreeMap<FolderId, NotifyState>> {
        self.0.states.subscribe()
    }

    /// Tells the backup server after each manifest, until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let shared = &*self.0;
        let mut offers = shared.registry.watch();
        let (mut settings, mut receipts) = (shared.settings.clone(), shared.receipts.clone());
        let mut schedule = Schedule::default();
        let mut begun = Vec::new();
        let mut attempt: Option<BoxFuture<'static, Outcome>> = None;
        loop {
            let how = settings.borrow_and_update().clone();
            let published = numbers(&offers.borrow_and_update().clone());
            let acknowledged = receipts.borrow_and_update().clone();
            schedule.update(&how, &published, &acknowledged);
            let now = Instant::now();
            for (folder, sequence) in schedule.expire(now) {
                tracing::warn!(%folder, %sequence, "the backup server does not acknowledge");
            }
            if attempt.is_none() {
                begun = schedule.begin(now, shared.clock.now());
                if !begun.is_empty() {
                    attempt = self.telling(&how);
                }
            }
            let states = schedule.states();
            shared.states.send_if_modified(|old| {
                let is_new = *old != states;
                *old = states;
                is_new
            });
            // What becomes due meanwhile waits for the end of the attempt.
            let wake = if attempt.is_some() { None } else { schedule.next(now) };
            tokio::select! {
                () = stop.cancelled() => return,
                changed = offers.changed() => if changed.is_err() { return },
                // Whoever held the other end has gone: the instance ends.
                changed = settings.changed() => if changed.is_err() { return },
                changed = receipts.changed() => if changed.is_err() { return },
                () = shared.told_by_hand.notified() => {
                    schedule.told_by_hand(Instant::now(), shared.clock.now());
                }
                outcome = async {
                    match attempt.as_mut() {
                        Some(attempt) => attempt.await,
                        None => std::future::pending().await,
                    }
                } => {
                    attempt = None;
                    let error = outcome.error();
                    if let Some(error) = &error {
                        tracing::info!(%error, "the backup server was not told");
                    }
                    schedule.ended(&begun, error.as_deref());
                }
                () = tokio::time::sleep_until(wake.unwrap_or(now)), if wake.is_some() => {}
            }
        }
    }

    /// Connects and triggers at once: either alone is of use.
    fn telling(&self, settings: &NotifySettings) -> Option<BoxFuture<'static, Outcome>> {
        let address = settings.backup_peer.clone()?;
        let peer = peer_of(&address)?;
        let connecting = self.0.reach.connect(peer, address.clone());
        let triggering = self.0.reach.trigger(address, settings.trigger_port);
        Some(Box::pin(async move {
            let (connect, trigger) = tokio::join!(connecting, triggering);
            Outcome { connect, trigger }
        }))
    }

    /// Backs up now: makes sure that the newest state of the folder (of all,
    /// where none is named) is registered, connects to the backup server and
    /// triggers it. Returns when it knows; [`BackupService::wait_for_receipt`]
    /// waits for the backup itself.
    ///
    /// # Errors
    ///
    /// [`BackupNowError`], which says what to do. A trigger that did not
    /// arrive is a warning in the report.
    pub async fn backup_now(
        &self,
        folder: Option<FolderId>,
    ) -> Result<BackupNowReport, BackupNowError> {
        let settings = self.0.settings.borrow().clone();
        let address = settings.backup_peer.clone().ok_or(BackupNowError::NoBackupPeer)?;
        let no_peer = || BackupNowError::NoPeerId(address.clone());
        let peer = peer_of(&address).ok_or_else(no_peer)?;
        let mut steps = Vec::new();
        let manifests = self.registered(folder, &mut steps).await?;
        let telling = self.telling(&settings).ok_or_else(no_peer)?;
        let outcome = telling.await;
        if let Err(source) = outcome.connect {
            let is_triggered = outcome.trigger.is_ok();
            return Err(BackupNowError::Connect { address, is_triggered, steps, source });
        }
        self.0.told_by_hand.notify_one();
        steps.push(StepReport {
            step: NotifyStep::Connect,
            message: format!("connected to the backup server {peer}"),
            is_warning: false,
        });
        steps.push(match outcome.trigger {
            Ok(()) => StepReport {
                step: NotifyStep::Trigger,
                message: "the backup server was triggered".to_owned(),
                is_warning: false,
            },
            Err(error) => StepReport {
                step: NotifyStep::Trigger,
                message: format!("{error}. The backup server also asks by itself"),
                is_warning: true,
            },
        });
        Ok(BackupNowReport { manifests, peer, address, steps })
    }

    /// The manifests that are registered, after the newest state was.
    async fn registered(
        &self,
        folder: Option<FolderId>,
        steps: &mut Vec<StepReport>,
    ) -> Result<Vec<NotifiedManifest>, BackupNowError> {
        let result = (self.0.register)(folder.clone()).await;
        let offers = self.0.registry.offers();
        let is_wanted = |id: &FolderId| folder.as_ref().is_none_or(|folder| folder == id);
        let manifest = |(id, offer): (&FolderId, &manifest::Offer)| NotifiedManifest {
            folder_id: id.clone(),
            folder_name: offer.published.folder_name.clone(),
            sequence: offer.published.sequence_number,
            manifest_cid: offer.published.manifest_cid,
        };
        let manifests: Vec<_> =
            offers.folders.iter().filter(|(id, _)| is_wanted(id)).map(manifest).collect();
        match (result, manifests.is_empty(), folder) {
            (Err(error), true, _) => return Err(BackupNowError::Register(error)),
            (Ok(()), true, Some(folder)) => return Err(BackupNowError::NotRegistered(folder)),
            (Ok(()), true, None) => return Err(BackupNowError::NothingRegistered),
            (Err(error), false, _) => steps.push(StepReport {
                step: NotifyStep::Register,
                message: format!("the newest state could not be published: {error}"),
                is_warning: true,
            }),
            (Ok(()), false, _) => steps.push(StepReport {
                step: NotifyStep::Register,
                message: match &manifests[..] {
                    [one] => format!("manifest {} is registered", one.sequence),
                    many => format!("{} manifests are registered", many.len()),
                },
                is_warning: false,
            }),
        }
        Ok(manifests)
    }

    /// Waits until the backup server has acknowledged this manifest of the
    /// folder or a later one; returns the number that it has.
    ///
    /// # Errors
    ///
    /// [`WaitError`].
    pub async fn wait_for_receipt(
        &self,
        folder: &FolderId,
        sequence: SequenceNumber,
        timeout: Duration,
    ) -> Result<SequenceNumber, WaitError> {
        let mut receipts = self.0.receipts.clone();
        let is_there = |all: &BTreeMap<FolderId, SequenceNumber>| {
            all.get(folder).is_some_and(|number| *number >= sequence)
        };
        let waiting = tokio::time::timeout(timeout, receipts.wait_for(is_there));
        match waiting.await {
            Ok(Ok(all)) => Ok(all.get(folder).copied().unwrap_or(sequence)),
            Ok(Err(_)) => Err(WaitError::Stopped),
            Err(_) => Err(WaitError::Timeout { sequence, after: timeout }),
        }
    }
}

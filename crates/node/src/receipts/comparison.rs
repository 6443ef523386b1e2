//! Compares the snapshots that a backup server lists with those that it has confirmed.
//!
//! The newest confirmed snapshot of a folder is always there: retention removes it only after a
//! newer one, which is listed then. If neither is listed, the backup server has lost or hides what
//! it signed.
//!
//! A comparison runs after each connection and each day. While something is missing, it also runs
//! every ten minutes and after each receipt, so that the problem disappears soon after its cause.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use net::{NetEvent, PeerId};
use protocols::{RemoteError, RemoteListing, SignedReceipt};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use types::{FolderId, with_causes};

use super::Receipts;

/// Interval of the comparisons with a backup server that has everything.
const INTERVAL: Duration = Duration::from_secs(24 * 3600);
/// Interval while something is missing, or after a comparison that failed.
const RETRY_INTERVAL: Duration = Duration::from_secs(600);
/// Minimum time between two comparisons with the same backup server.
const PAUSE: Duration = Duration::from_secs(5);

/// Function that lists the snapshots of this source on a backup server.
pub(crate) type ListSnapshots =
    Arc<dyn Fn(PeerId) -> BoxFuture<'static, Result<RemoteListing, RemoteError>> + Send + Sync>;

/// Result of a comparison.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Compared {
    /// The folders whose newest confirmed snapshot is missing, each with a text for the user.
    pub(super) missing: BTreeMap<FolderId, String>,
    /// Reason why the backup server does not list the snapshots, if it refuses.
    pub(super) refusal: Option<String>,
}

/// The comparisons that are due.
#[derive(Debug, Default)]
struct Schedule {
    due: BTreeMap<PeerId, Instant>,
    last: BTreeMap<PeerId, Instant>,
}

impl Schedule {
    /// Plans a comparison soon.
    fn hurry(&mut self, peer: PeerId, now: Instant) {
        let earliest = self.last.get(&peer).map_or(now, |last| (*last + PAUSE).max(now));
        let due = self.due.entry(peer).or_insert(earliest);
        *due = earliest.min(*due);
    }

    fn next(&self) -> Option<(PeerId, Instant)> {
        self.due.iter().map(|(peer, at)| (*peer, *at)).min_by_key(|(_, at)| *at)
    }
}

/// Compares until `stop`. `is_server` tells which peers are backup servers of this source.
pub(crate) async fn compare_always(
    receipts: Receipts,
    list: ListSnapshots,
    is_server: impl Fn(&PeerId) -> bool,
    mut events: broadcast::Receiver<NetEvent>,
    stop: CancellationToken,
) {
    let mut schedule = Schedule::default();
    let mut has_events = true;
    loop {
        let next = schedule.next();
        let until_due = async {
            match next {
                Some((peer, at)) => {
                    tokio::time::sleep_until(at).await;
                    peer
                }
                None => std::future::pending().await,
            }
        };
        let peer = tokio::select! {
            () = stop.cancelled() => return,
            peer = until_due => peer,
            () = receipts.0.arrived.notified() => {
                // A confirmed snapshot may be the end of a problem.
                for peer in receipts.servers_with_problems() {
                    schedule.hurry(peer, Instant::now());
                }
                continue;
            }
            event = events.recv(), if has_events => {
                match event {
                    Ok(NetEvent::Connected { peer, .. }) if is_server(&peer) => {
                        schedule.hurry(peer, Instant::now());
                    }
                    Ok(_) => {}
                    Err(RecvError::Lagged(_)) => {
                        for peer in receipts.servers() {
                            schedule.hurry(peer, Instant::now());
                        }
                    }
                    Err(RecvError::Closed) => has_events = false,
                }
                continue;
            }
        };
        schedule.last.insert(peer, Instant::now());
        if !is_server(&peer) {
            // No longer a backup server of this source.
            schedule.due.remove(&peer);
            receipts.0.compared.lock().remove(&peer);
            continue;
        }
        let is_good = tokio::select! {
            () = stop.cancelled() => return,
            is_good = receipts.compare(peer, &list) => is_good,
        };
        let wait = if is_good { INTERVAL } else { RETRY_INTERVAL };
        schedule.due.insert(peer, Instant::now() + wait);
    }
}

impl Receipts {
    /// Returns the backup servers that have a chain.
    fn servers(&self) -> Vec<PeerId> {
        let mut servers: Vec<_> =
            self.0.chains.reports().into_iter().map(|report| report.id.backup_server).collect();
        servers.dedup();
        servers
    }

    fn servers_with_problems(&self) -> Vec<PeerId> {
        let compared = self.0.compared.lock();
        let bad = compared.iter().filter(|(_, compared)| **compared != Compared::default());
        bad.map(|(peer, _)| *peer).collect()
    }

    /// Compares with one backup server. Returns true if everything confirmed is listed.
    async fn compare(&self, peer: PeerId, list: &ListSnapshots) -> bool {
        // Read before the list: a receipt that arrives meanwhile may be of a later snapshot.
        let newest = self.newest_of(&peer);
        if newest.is_empty() {
            self.0.compared.lock().remove(&peer);
            return true;
        }
        let compared = match list(peer).await {
            Ok(listing) => Compared { missing: missing(&newest, &listing), refusal: None },
            Err(RemoteError::Exchange(error)) => {
                // Nothing is known about the snapshots: the result before stays.
                tracing::debug!(%peer, %error, "cannot compare the receipts of a backup server");
                return false;
            }
            Err(error) => Compared { missing: BTreeMap::new(), refusal: Some(with_causes(&error)) },
        };
        let is_good = compared == Compared::default();
        let before = self.0.compared.lock().insert(peer, compared.clone()).unwrap_or_default();
        for (folder, text) in &compared.missing {
            if before.missing.get(folder) != Some(text) {
                tracing::error!("folder {folder}: backup server {peer} {text}");
            }
        }
        if let Some(refusal) = &compared.refusal
            && before.refusal.is_none()
        {
            tracing::error!(%peer, error = refusal, "a backup server does not list what it confirmed");
        }
        if is_good && before != compared {
            tracing::info!(%peer, "the backup server lists everything that it confirmed again");
        }
        is_good
    }

    /// Returns the newest valid receipt of each watched folder from this backup server.
    fn newest_of(&self, peer: &PeerId) -> Vec<SignedReceipt> {
        let reports = self.0.chains.reports().into_iter();
        let of_peer = reports.filter(|report| {
            report.id.backup_server == *peer
                && report.is_newest_signed
                && self.published(&report.id.folder).is_some()
        });
        of_peer.filter_map(|report| Some(report.state.newest?.signed)).collect()
    }
}

/// Returns the folders whose newest confirmed snapshot is neither listed nor followed by a later
/// one. The listed snapshots have valid signatures of this source.
pub(super) fn missing(
    newest: &[SignedReceipt],
    listing: &RemoteListing,
) -> BTreeMap<FolderId, String> {
    let mut missing = BTreeMap::new();
    for confirmed in newest.iter().map(SignedReceipt::confirmation) {
        let explains = |snapshot: &protocols::RemoteSnapshot| {
            snapshot.folder_id == confirmed.folder_id
                && (snapshot.manifest_cid == confirmed.manifest_cid
                    || snapshot.sequence > confirmed.sequence)
        };
        if listing.snapshots.iter().any(explains) {
            continue;
        }
        let damaged = match listing.damaged {
            0 => String::new(),
            count => format!("; it cannot read the records of {count} snapshots"),
        };
        let text = format!(
            "does not list snapshot {}, which it confirmed at {:.0}{damaged}",
            confirmed.sequence, confirmed.received_at
        );
        missing.insert(confirmed.folder_id.clone(), text);
    }
    missing
}

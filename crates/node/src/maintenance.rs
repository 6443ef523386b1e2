//! Jobs on the stored snapshots: verifying them, pulling damaged blocks again,
//! and removing the snapshots that no rule keeps.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use api::{PruneReport, PruneRequest, Recompressed, VerifyRequest, VerifyResult};
use config::Config;
use jiff::Timestamp;
use net::PeerId;
use protocols::SessionPool;
use pull::{PullProgress, Puller};
use snapshots::{PruneOptions, SnapshotStore, SuspendedFolder, VerifyProgress, VerifyReport};
use store::{PackStore, RecompressEnd, RecompressReport};
use tokio_util::sync::CancellationToken;

use types::with_causes;

use crate::acceptance::{Acceptance, prepare_acceptance};
use crate::jobs::{AlreadyRunning, JobStatus};
use crate::recompression::{self, recompress};
use crate::rules::RulesFile;
use crate::services::Services;
use crate::verify_result::verify_result;

/// Interval at which the progress of a verification is updated.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);
/// Bytes of packs that are recompressed before another job may use the store.
const RECOMPRESS_STEP: u64 = 512 << 20;

/// Starts to verify every snapshot in the background.
///
/// # Errors
///
/// Returns [`AlreadyRunning`] if another verification is running.
pub fn start_verify(
    services: &Services,
    request: VerifyRequest,
) -> Result<api::Job, AlreadyRunning> {
    let running = services.jobs.start("verify")?;
    let job = running.status().to_api();
    let (services, stop) = (services.clone(), services.stop_token());
    let tasks = services.tasks.clone();
    tasks.spawn("verify", async move {
        let result = tokio::select! {
            result = verify(&services, request, running.status()) => result,
            () = stop.cancelled() => Err("the instance is stopping".into()),
        };
        running
            .finish(result.and_then(|result| {
                serde_json::to_value(result).map_err(|error| error.to_string())
            }));
    });
    Ok(job)
}

/// Verifies every snapshot, and repairs damage if the request wants that. Damage that
/// remains is healed later, in any case.
async fn verify(
    services: &Services,
    request: VerifyRequest,
    job: &JobStatus,
) -> Result<VerifyResult, String> {
    let first = verify_once(services, request.full, job).await?;
    let mut repaired = 0;
    let report = if request.repair && !first.is_ok() {
        repaired = repair(services, &first).await?;
        // The result is the state after the repair.
        verify_once(services, request.full, job).await?
    } else {
        first
    };
    let (services, ended_at) = (services.clone(), Timestamp::now());
    let finish = tokio::task::spawn_blocking(move || {
        let store = services.snapshots.store();
        services.healing.report_verified(&**store, &report);
        let is_incomplete = services.store.roots_incomplete();
        let result = verify_result(&**store, is_incomplete, &report, repaired);
        services.last_verification.set(request.full, &result, ended_at);
        result
    });
    finish.await.map_err(|error| error.to_string())
}

async fn verify_once(
    services: &Services,
    full: bool,
    job: &JobStatus,
) -> Result<VerifyReport, String> {
    let progress = Arc::new(VerifyProgress::default());
    let (snapshots, stop, seen) =
        (services.snapshots.clone(), services.stop_token(), progress.clone());
    let mut work =
        tokio::task::spawn_blocking(move || snapshots::verify(&snapshots, full, &seen, &stop));
    loop {
        job.done.store(progress.snapshots(), Ordering::Relaxed);
        job.total.store(progress.snapshots_total(), Ordering::Relaxed);
        tokio::select! {
            done = &mut work => {
                job.done.store(progress.snapshots(), Ordering::Relaxed);
                let done = done.map_err(|error| error.to_string())?;
                return done.map_err(|error| with_causes(&error));
            }
            () = tokio::time::sleep(PROGRESS_INTERVAL) => {}
        }
    }
}

/// Pulls damaged and missing blocks again: from the source itself, then from
/// every other connected peer. Blocks that cannot be read from the disk are given up
/// first. Returns the number of blocks that are stored again.
async fn repair(services: &Services, report: &VerifyReport) -> Result<u64, String> {
    let net = &services.net;
    let named: Vec<_> = report.problems.iter().map(|problem| problem.cid).collect();
    let store = services.store.clone();
    let set_aside = tokio::task::spawn_blocking(move || {
        for cid in named {
            if let Err(error) = store.set_aside_unreadable(&cid) {
                tracing::warn!(%cid, error = with_causes(&error), "cannot repair a block");
            }
        }
    });
    set_aside.await.map_err(|error| error.to_string())?;
    let config = services.settings.get();
    for source in &config.backup_server.source_peers {
        // The pull reports peers that cannot be reached.
        let _ = net.connect(source.peer_id, source.dial_addresses(), Duration::from_secs(10)).await;
    }
    let connected = net.peers().await.map_err(|error| with_causes(&error))?;
    let connected: Vec<PeerId> = connected.into_iter().map(|peer| peer.peer).collect();
    let pool = SessionPool::new(net.clone());
    let store = services.snapshots.store().clone();
    let sources: Vec<PeerId> =
        config.backup_server.source_peers.iter().map(|source| source.peer_id).collect();
    let puller = |source: Option<&PeerId>| {
        let first: Vec<PeerId> = source.copied().into_iter().collect();
        let mut others: Vec<PeerId> =
            connected.iter().copied().filter(|peer| !first.contains(peer)).collect();
        others.sort_by_key(|peer| !sources.contains(peer));
        let peers = first.into_iter().chain(others).collect();
        Puller::new(store.clone(), pool.clone(), peers, Arc::new(PullProgress::default()))
    };
    let done = pull::repair(&services.snapshots, report, puller)
        .await
        .map_err(|error| with_causes(&error))?;
    for (name, reason) in &done.failed {
        tracing::warn!(name, reason, "cannot repair a snapshot or a data item");
    }
    Ok(done.repaired)
}

/// Reason why nothing was pruned; contains the explanation.
#[derive(Debug, thiserror::Error)]
pub enum PruneError {
    /// The list of snapshots cannot be accepted.
    #[error("{0}")]
    NotAccepted(String),
    /// The snapshots cannot be read, or the store cannot be written.
    #[error("{0}")]
    Failed(String),
}

/// Removes the snapshots that no rule keeps, frees the blocks that nothing needs,
/// and compresses the rest if the request wants that.
///
/// # Errors
///
/// Returns [`PruneError::NotAccepted`] if the root records should be accepted and cannot be, and
/// [`PruneError::Failed`] if the snapshots cannot be read, or if the store cannot be written.
pub async fn prune(services: &Services, request: PruneRequest) -> Result<PruneReport, PruneError> {
    let mut discarded = Vec::new();
    if request.accept_roots && !request.dry_run {
        let prepared = prepare_acceptance(services, request.discard).await;
        discarded = prepared.map_err(PruneError::NotAccepted)?;
    }
    let mut report = run_prune(services, request, true).await.map_err(PruneError::Failed)?;
    report.discarded = discarded;
    if request.recompress && !request.dry_run {
        let recompressed = recompress_all(services).await.map_err(PruneError::Failed)?;
        report.recompressed = Some(recompressed);
    }
    Ok(report)
}

/// Compresses everything that shrinks, a few packs at a time, so that a
/// collection that is requested meanwhile does not wait for all of it.
async fn recompress_all(services: &Services) -> Result<Recompressed, String> {
    let mut all = Recompressed::default();
    loop {
        let stop = services.stop_token();
        let store = services.store.clone();
        let done = recompress(store, RECOMPRESS_STEP, move || stop.is_cancelled()).await?;
        recompression::log(&done);
        if !add_recompressed(&mut all, done) {
            return Ok(all);
        }
    }
}

/// Adds the result of one step to that of all. Returns true if there are more steps.
fn add_recompressed(all: &mut Recompressed, step: RecompressReport) -> bool {
    all.packs += step.rewritten_packs;
    all.before_bytes += step.before_bytes;
    all.after_bytes += step.after_bytes;
    all.problems.extend(step.damaged);
    let problem = match step.end {
        RecompressEnd::Budget => return true,
        RecompressEnd::Done => None,
        RecompressEnd::Stopped => Some("the instance is stopping"),
        RecompressEnd::Full => Some("the disk has no space for a new pack beside the old one"),
    };
    all.problems.extend(problem.map(str::to_owned));
    false
}

/// Same as [`prune`], for the retention task: if no snapshot is removed, blocks
/// are collected only if `always_collect`.
pub(crate) async fn prune_unattended(
    services: &Services,
    always_collect: bool,
) -> Result<PruneReport, String> {
    run_prune(services, PruneRequest::default(), always_collect).await
}

async fn run_prune(
    services: &Services,
    request: PruneRequest,
    always_collect: bool,
) -> Result<PruneReport, String> {
    let (config, rules) = (services.settings.get(), services.rules.clone());
    let (snapshots, stop) = (services.snapshots.clone(), services.stop_token());
    let work = tokio::task::spawn_blocking(move || {
        let PruneRequest { dry_run, accept_roots, discard: _, recompress: _ } = request;
        let options = PruneOptions { dry_run, always_collect, accept_roots, stop };
        let now = Timestamp::now();
        let (rules, _) = rules.in_force(&config.backup_server, now);
        snapshots::prune(&snapshots, &rules.keep, now, &options)
    });
    let done = work.await.map_err(|error| error.to_string())?;
    let report = done.map_err(|error| with_causes(&error))?;
    if report.not_collected.is_some() {
        services.healing.check_presence();
    }
    let was_collected = report.collected.is_some();
    let report = prune_report(report);
    if was_collected || report.not_collected.is_some() {
        services.problems.set_collection(report.not_collected.as_deref());
    }
    Ok(report)
}

/// Same as [`prune`], in the store of an instance that is not running. Blocks the thread.
///
/// # Errors
///
/// Same as [`prune`].
pub fn prune_in(
    packs: &PackStore,
    snapshots: &SnapshotStore,
    data_dir: &Path,
    config: &Config,
    request: PruneRequest,
) -> Result<PruneReport, PruneError> {
    let PruneRequest { dry_run, accept_roots, discard, recompress } = request;
    let stop = CancellationToken::new();
    let mut discarded = Vec::new();
    if accept_roots && !dry_run {
        let acceptance = Acceptance { data_dir, packs, snapshots, config, discard };
        discarded = acceptance.prepare(&stop).map_err(PruneError::NotAccepted)?;
    }
    let options = PruneOptions { dry_run, always_collect: true, accept_roots, stop };
    let now = Timestamp::now();
    let (rules, _) = RulesFile::open(data_dir).in_force(&config.backup_server, now);
    let done = snapshots::prune(snapshots, &rules.keep, now, &options);
    let failed = |error: &dyn std::error::Error| PruneError::Failed(with_causes(error));
    let mut report = prune_report(done.map_err(|error| failed(&error))?);
    report.discarded = discarded;
    if recompress && !dry_run {
        let mut all = Recompressed::default();
        let step = || packs.recompress(u64::MAX, &|| false).map_err(|error| failed(&error));
        while add_recompressed(&mut all, step()?) {}
        report.recompressed = Some(all);
    }
    Ok(report)
}

/// Returns the result of a prune in the form of the API.
fn prune_report(report: snapshots::PruneReport) -> PruneReport {
    let decision = |made: &snapshots::PruneDecision| api::PruneDecision {
        snapshot: made.snapshot.id.to_string(),
        folder_name: made.snapshot.record.folder_name.clone(),
        received_at: made.snapshot.record.received_at,
        reasons: made.reasons.iter().map(|reason| reason.as_str().to_owned()).collect(),
    };
    let mut holds: Vec<String> = report.suspended.iter().map(suspension_text).collect();
    holds.extend(
        report.damaged.iter().map(|damaged| format!("{}: {}", damaged.root, damaged.reason)),
    );
    let not_removed = report.not_removed.as_ref().map(|(snapshot, error)| {
        format!("snapshot {} cannot be removed: {}", snapshot.id, with_causes(error))
    });
    let not_collected = report.not_collected.as_ref().map(|error| with_causes(error));
    PruneReport {
        dry_run: report.dry_run,
        kept: report.kept.iter().map(decision).collect(),
        removed: report.removed.iter().map(decision).collect(),
        holds,
        freed_bytes: report.collected.map_or(0, |collected| collected.freed_bytes),
        not_collected: not_collected.or(not_removed),
        discarded: Vec::new(),
        recompressed: None,
    }
}

fn suspension_text(folder: &SuspendedFolder) -> String {
    format!("{} of {}: {}", folder.folder_name, folder.source, folder.suspension)
}

//! Verifying what is held, pulling again what is damaged, and removing what no
//! rule keeps.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use api::{PruneReport, PruneRequest, Recompressed, VerifyProblem, VerifyRequest, VerifyResult};
use jiff::Timestamp;
use net::PeerId;
use protocols::SessionPool;
use pull::{Progress, Puller};
use snapshots::{PruneOptions, SuspendedFolder, VerifyProgress, VerifyReport};
use store::{RecompressEnd, Roots};

use types::with_causes;

use crate::jobs::{AlreadyRunning, JobStatus};
use crate::recompression::{self, recompress};
use crate::roots;
use crate::services::Services;

/// How often the progress of a verification is noted.
const LOOK: Duration = Duration::from_millis(200);
/// Bytes of packs that are read before others may have the store.
const RECOMPRESSED_AT_ONCE: u64 = 512 << 20;

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

/// Verifies, and repairs where that is asked for.
async fn verify(
    services: &Services,
    request: VerifyRequest,
    job: &JobStatus,
) -> Result<VerifyResult, String> {
    let first = look(services, request.full, job).await?;
    let mut repaired = 0;
    let report = if request.repair && !first.is_ok() {
        repaired = repair(services, &first).await?;
        // What counts is what is there afterwards.
        look(services, request.full, job).await?
    } else {
        first
    };
    Ok(verify_result(&**services.snapshots.store(), &report, repaired))
}

async fn look(services: &Services, full: bool, job: &JobStatus) -> Result<VerifyReport, String> {
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
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

/// Pulls again from whoever may have it: the source itself, then every other
/// peer that is connected.
async fn repair(services: &Services, report: &VerifyReport) -> Result<u64, String> {
    let net = &services.net;
    let config = services.settings.get();
    for source in &config.backup_server.source_peers {
        // Who cannot be reached is told by the pull.
        let _ = net.connect(source.peer_id, source.dial_addresses(), Duration::from_secs(10)).await;
    }
    let connected = net.peers().await.map_err(|error| with_causes(&error))?;
    let connected: Vec<PeerId> = connected.into_iter().map(|peer| peer.peer).collect();
    let pool = SessionPool::new(net.clone());
    let store = services.snapshots.store().clone();
    let puller = |source: &PeerId| {
        let others = connected.iter().copied().filter(|peer| peer != source);
        let peers = std::iter::once(*source).chain(others).collect();
        Puller::new(store.clone(), pool.clone(), peers, Arc::new(Progress::default()))
    };
    let done = pull::repair(&services.snapshots, report, puller)
        .await
        .map_err(|error| with_causes(&error))?;
    for (snapshot, reason) in &done.failed {
        tracing::warn!(%snapshot, reason, "a snapshot could not be repaired");
    }
    Ok(done.repaired)
}

/// What a verification of `store` has found, as it is told.
pub fn verify_result(store: &dyn Roots, report: &VerifyReport, repaired: u64) -> VerifyResult {
    let item = |root: &String| root.strip_prefix(roots::DATA).unwrap_or(root).to_owned();
    let mut problems: Vec<VerifyProblem> = report
        .problems
        .iter()
        .map(|problem| VerifyProblem {
            cid: problem.cid,
            reason: problem.reason.clone(),
            concerns: problem
                .snapshots
                .iter()
                .map(ToString::to_string)
                .chain(problem.paths.iter().map(item))
                .collect(),
        })
        .collect();
    problems.extend(report.damaged.iter().filter_map(|damaged| {
        Some(VerifyProblem {
            cid: store.root(&damaged.root)?.cid,
            reason: damaged.reason.clone(),
            concerns: vec![damaged.root.clone()],
        })
    }));
    VerifyResult {
        checked: report.snapshots + report.items,
        blocks: report.blocks,
        read_bytes: report.read_bytes,
        problems,
        repaired,
    }
}

/// Whether everything that is known to be kept is whole.
///
/// # Errors
///
/// What is not, and what to do.
pub async fn check_complete(services: &Services) -> Result<(), String> {
    let (snapshots, stop) = (services.snapshots.clone(), services.stop_token());
    let work = tokio::task::spawn_blocking(move || {
        snapshots::verify(&snapshots, false, &VerifyProgress::default(), &stop)
    });
    let report = work.await.map_err(|error| error.to_string())?;
    let report = report.map_err(|error| with_causes(&error))?;
    if report.is_ok() {
        return Ok(());
    }
    let counted = |count: usize, what: &str| match count {
        0 => None,
        1 => Some(format!("1 {what}")),
        count => Some(format!("{count} {what}s")),
    };
    let snapshots = counted(report.broken.len() + report.damaged.len(), "snapshot");
    let items = counted(report.broken_items.len(), "data item");
    let broken: Vec<String> = snapshots.into_iter().chain(items).collect();
    Err(format!(
        "not whole: {}; the records of what is kept are not accepted as they are; `archivist \
         verify --repair` pulls what is missing again",
        broken.join(" and ")
    ))
}

/// Removes what no rule keeps, frees what nothing needs, and compresses the
/// rest where that is asked for.
pub async fn prune(services: &Services, request: PruneRequest) -> Result<PruneReport, String> {
    let mut report = run_prune(services, request, true).await?;
    if request.recompress && !request.dry_run {
        report.recompressed = Some(recompress_all(services).await?);
    }
    Ok(report)
}

/// Compresses everything that shrinks, a few packs at a time: a collection that
/// is asked for meanwhile does not wait for all of it.
async fn recompress_all(services: &Services) -> Result<Recompressed, String> {
    let mut all = Recompressed::default();
    loop {
        let stop = services.stop_token();
        let store = services.store.clone();
        let done = recompress(store, RECOMPRESSED_AT_ONCE, move || stop.is_cancelled()).await?;
        recompression::log(&done);
        all.packs += done.rewritten_packs;
        all.before_bytes += done.before_bytes;
        all.after_bytes += done.after_bytes;
        all.problems.extend(done.damaged);
        let problem = match done.end {
            RecompressEnd::Budget => continue,
            RecompressEnd::Done => None,
            RecompressEnd::Stopped => Some("the instance is stopping"),
            RecompressEnd::Full => Some("the disk has no room for a pack beside the old one"),
        };
        all.problems.extend(problem.map(str::to_owned));
        return Ok(all);
    }
}

/// As [`prune`], for the instance itself: where nothing is removed, it collects
/// only if that is asked for.
pub(crate) async fn prune_unattended(
    services: &Services,
    collect: bool,
) -> Result<PruneReport, String> {
    run_prune(services, PruneRequest::default(), collect).await
}

async fn run_prune(
    services: &Services,
    request: PruneRequest,
    always_collect: bool,
) -> Result<PruneReport, String> {
    let keep = services.settings.get().backup_server.keep.clone();
    let (snapshots, stop) = (services.snapshots.clone(), services.stop_token());
    let work = tokio::task::spawn_blocking(move || {
        let PruneRequest { dry_run, accept_roots, recompress: _ } = request;
        let options = PruneOptions { dry_run, always_collect, accept_roots, stop };
        snapshots::prune(&snapshots, &keep, Timestamp::now(), &options)
    });
    let done = work.await.map_err(|error| error.to_string())?;
    let report = done.map_err(|error| with_causes(&error))?;
    let decision = |one: &snapshots::PruneDecision| api::PruneDecision {
        snapshot: one.snapshot.id.to_string(),
        folder_name: one.snapshot.record.folder_name.clone(),
        received_at: one.snapshot.record.received_at,
        reasons: one.reasons.iter().map(|reason| reason.as_str().to_owned()).collect(),
    };
    let mut holds: Vec<String> = report.suspended.iter().map(suspended).collect();
    holds.extend(report.damaged.iter().map(|one| format!("{}: {}", one.root, one.reason)));
    let not_collected = report.not_collected.as_ref().map(|error| with_causes(error));
    if report.collected.is_some() || not_collected.is_some() {
        services.problems.set_collection(not_collected.as_deref());
    }
    Ok(PruneReport {
        dry_run: report.dry_run,
        kept: report.kept.iter().map(decision).collect(),
        removed: report.removed.iter().map(decision).collect(),
        holds,
        freed_bytes: report.collected.map_or(0, |collected| collected.freed_bytes),
        not_collected,
        recompressed: None,
    })
}

fn suspended(folder: &SuspendedFolder) -> String {
    format!("{} of {}: {}", folder.folder_name, folder.source, folder.suspension)
}

//! Restores: from what this instance holds, or from what the backup server
//! holds of its folders.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use api::{RestoreReport, RestoreRequest, from_text};
use axum::extract::State;
use axum::http::StatusCode;
use backup::RemoteSnapshot;
use net::PeerId;
use parking_lot::Mutex;
use restore::{Blocks, Progress, Report, RestoreError, RestoreOptions, Selection, restore};
use store::{BlockStore, Root};
use types::{Cid, RelPath};

use super::extract::{Json, Path};
use super::reading::Far;
use super::snapshots::{self, Choice};
use super::ui::Owner;
use super::{Answer, ApiState, Problem, blocking};
use crate::roots;
use types::with_causes;

/// The backup server has to answer within this.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// Restores that are remembered after their end.
const ENDED_MAX: usize = 100;

/// The restores of this instance since it was started. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Restores(Arc<All>);

#[derive(Debug, Default)]
struct All {
    last_id: AtomicU64,
    running: Mutex<BTreeMap<u64, Arc<Running>>>,
}

#[derive(Debug)]
struct Running {
    id: u64,
    snapshot: String,
    progress: Progress,
    end: Mutex<Option<End>>,
}

#[derive(Clone, Debug)]
enum End {
    Done(Report),
    Failed(String),
    Cancelled,
}

/// A restore that has come to its end, as it is told: the same by the instance
/// and by whoever restores without it.
pub fn restore_model(shown: RestoreReport, done: Report) -> RestoreReport {
    let is_complete = done.is_complete();
    let text = |path: &RelPath| String::from_utf8_lossy(path.as_bytes()).into_owned();
    RestoreReport {
        state: if is_complete { "done" } else { "failed" }.to_owned(),
        error: (!is_complete).then(|| "not everything that was asked for is there".to_owned()),
        in_the_way: done.in_the_way,
        not_set: done.not_set,
        skipped: done.skipped,
        failed: done.failed,
        is_cut_short: done.is_cut_short,
        not_found: done.not_found.iter().map(text).collect(),
        ..shown
    }
}

impl Running {
    fn to_api(&self) -> RestoreReport {
        let mut report = RestoreReport {
            id: self.id,
            state: "running".to_owned(),
            snapshot: self.snapshot.clone(),
            entries_done: self.progress.entries_done(),
            entries_total: self.progress.entries_total(),
            bytes_done: self.progress.bytes_done(),
            bytes_total: self.progress.bytes_total(),
            ..RestoreReport::default()
        };
        match self.end.lock().clone() {
            None => {}
            Some(End::Done(done)) => {
                report = restore_model(report, done);
            }
            Some(End::Failed(error)) => {
                report.state = "failed".to_owned();
                report.error = Some(error);
            }
            Some(End::Cancelled) => report.state = "cancelled".to_owned(),
        }
        report
    }
}

/// A restore that goes on for as long as this lives: however its work ends, a
/// panic included, it is not shown as running any more.
struct Work(Arc<Running>);

impl Work {
    fn end(&self, end: End) {
        *self.0.end.lock() = Some(end);
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        let mut end = self.0.end.lock();
        if end.is_none() {
            *end = Some(End::Failed("it broke off; the log tells why".into()));
        }
    }
}

impl Restores {
    /// The id of a restore that is about to begin.
    fn next_id(&self) -> u64 {
        self.0.last_id.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn begin(&self, id: u64, snapshot: &str) -> Work {
        let mut all = self.0.running.lock();
        if all.len() >= ENDED_MAX
            && let Some(id) =
                all.iter().find(|(_, one)| one.end.lock().is_some()).map(|(id, _)| *id)
        {
            all.remove(&id);
        }
        let running = Arc::new(Running {
            id,
            snapshot: snapshot.to_owned(),
            progress: Progress::default(),
            end: Mutex::new(None),
        });
        all.insert(id, running.clone());
        Work(running)
    }

    fn get(&self, id: u64) -> Result<Arc<Running>, Problem> {
        let found = self.0.running.lock().get(&id).cloned();
        found.ok_or_else(|| Problem::not_found(format!("there is no restore {id}")))
    }

    /// Ends all of them soon; begun again, they go on where they were.
    pub(crate) fn is_any_running(&self) -> bool {
        self.0.running.lock().values().any(|running| running.end.lock().is_none())
    }

    pub(crate) fn stop(&self) {
        self.0.running.lock().values().for_each(|running| running.progress.stop());
    }
}

/// The backup server of this instance's folders.
pub(super) fn server(state: &ApiState) -> Result<PeerId, Problem> {
    state.node.settings.get().sync.backup_peer_id().ok_or_else(|| {
        Problem::new(
            StatusCode::CONFLICT,
            "no backup server is set: pair with one (`archivist pair`), or set [sync] \
             backup_peer_address",
        )
    })
}

/// What the backup server holds of this instance's folders.
pub(super) async fn remote_snapshots(state: &ApiState) -> Result<Vec<RemoteSnapshot>, Problem> {
    let peer = server(state)?;
    let net = &state.node.net;
    // It may not be connected: its address is in the configuration.
    let config = state.node.settings.get();
    if let Some(address) = &config.sync.backup_peer_address
        && let Some((_, plain)) = net::split_peer(address.clone())
    {
        net.connect(peer, [plain], CONNECT_TIMEOUT).await.map_err(|error| {
            Problem::new(
                StatusCode::BAD_GATEWAY,
                format!("the backup server cannot be reached: {}", with_causes(&error)),
            )
        })?;
    }
    let listing = backup::list_remote(net, peer, None).await.map_err(|error| {
        Problem::new(
            StatusCode::BAD_GATEWAY,
            format!("the backup server does not say what it holds: {}", with_causes(&error)),
        )
    })?;
    if listing.forged > 0 {
        tracing::warn!(%peer, forged = listing.forged,
            "the backup server shows snapshots that this instance has never signed");
    }
    Ok(listing.snapshots)
}

/// Begins a restore, in the background.
#[utoipa::path(
    post,
    path = "/restores",
    request_body = RestoreRequest,
    responses(
        (status = 200, description = "It has begun; ask for it by its id", body = RestoreReport),
        (status = 400, description = "Not such a path or snapshot", body = api::ApiProblem),
        (status = 401, description = "Without the token", body = api::ApiProblem),
        (status = 404, description = "No such snapshot", body = api::ApiProblem),
        (status = 409, description = "More than one folder fits, or there is no backup server",
            body = api::ApiProblem),
        (status = 502, description = "The backup server cannot be asked", body = api::ApiProblem),
    )
)]
pub(crate) async fn start(
    State(state): State<ApiState>,
    Json(request): Json<RestoreRequest>,
) -> Answer<RestoreReport> {
    let target = target(&request).await?;
    let selection = selection(&request)?;
    let choice = Choice {
        source: None,
        folder: request.folder.clone(),
        from_backup_server: request.from_backup_server,
    };
    let snapshot =
        snapshots::find(&state, &choice, request.snapshot.as_deref(), request.at).await?;
    let manifest = snapshot.manifest_cid;
    let options =
        RestoreOptions { selection, overwrite: request.overwrite, ..RestoreOptions::default() };
    let blocks: Arc<dyn Blocks> = if request.from_backup_server {
        Arc::new(Far::new(&state)?)
    } else {
        let store: Arc<dyn BlockStore> = state.node.store.clone();
        Arc::new(store)
    };
    let id = state.restores.next_id();
    let kept = if request.from_backup_server {
        None
    } else {
        Some(Kept::new(&state, id, manifest).await?)
    };
    // Nothing fails any more from here on, but the work itself.
    let work = state.restores.begin(id, &snapshot.id);
    let answer = work.0.to_api();
    tokio::task::spawn_blocking(move || {
        let _kept = kept;
        let result = restore(&blocks, manifest, &target, &options, &work.0.progress);
        work.end(match result {
            Ok(report) => End::Done(report),
            Err(RestoreError::Stopped) => End::Cancelled,
            Err(error) => End::Failed(with_causes(&error)),
        });
    });
    Ok(Json(answer))
}

/// Keeps a snapshot while it is restored, whatever is pruned meanwhile.
struct Kept {
    store: Arc<store::PackStore>,
    name: String,
}

impl Kept {
    async fn new(state: &ApiState, id: u64, manifest: Cid) -> Result<Self, Problem> {
        let kept = Self { store: state.node.store.clone(), name: roots::restore(id) };
        let (store, name) = (kept.store.clone(), kept.name.clone());
        blocking(move || {
            let root = Root { cid: manifest, partial: true };
            let epoch = store.epoch();
            store.set_root(&name, root, epoch).map_err(|error| Problem::internal(&error))
        })
        .await?;
        Ok(kept)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Err(error) = self.store.remove_root(&self.name) {
            tracing::warn!(%error, "a restore's hold on its blocks stays until the next start");
        }
    }
}

async fn target(request: &RestoreRequest) -> Result<PathBuf, Problem> {
    use std::os::unix::ffi::OsStringExt as _;
    let bytes = from_text(&request.target, request.target_base64.as_deref())
        .ok_or_else(|| Problem::bad("target_base64 is no base64"))?;
    let target = PathBuf::from(std::ffi::OsString::from_vec(bytes));
    if !target.is_absolute() {
        return Err(Problem::bad(format!("the target {} is not absolute", target.display())));
    }
    // The disk may be slow, or one of the network.
    blocking(move || {
        if std::fs::metadata(&target).is_ok_and(|metadata| !metadata.is_dir()) {
            return Err(Problem::bad(format!(
                "the target {} is not a directory",
                target.display()
            )));
        }
        Ok(target)
    })
    .await
}

fn selection(request: &RestoreRequest) -> Result<Selection, Problem> {
    let mut paths = Vec::new();
    let texts = request.paths.iter().map(|path| from_text(path, None));
    let coded = request.paths_base64.iter().map(|path| from_text("", Some(path)));
    for bytes in texts.chain(coded) {
        let bytes = bytes.ok_or_else(|| Problem::bad("a path that is no base64"))?;
        let trimmed = bytes.strip_suffix(b"/").unwrap_or(&bytes);
        let path = RelPath::new(trimmed).map_err(|error| Problem::bad(with_causes(&error)))?;
        paths.push(path);
    }
    Ok(if paths.is_empty() { Selection::default() } else { Selection::new(paths) })
}

/// The restores since the instance was started.
#[utoipa::path(
    get,
    path = "/restores",
    responses(
        (status = 200, body = Vec<RestoreReport>),
        (status = 401, description = "Without the token or a session", body = api::ApiProblem),
    )
)]
pub(crate) async fn list(_: Owner, State(state): State<ApiState>) -> Json<Vec<RestoreReport>> {
    Json(state.restores.0.running.lock().values().map(|running| running.to_api()).collect())
}

/// How a restore stands.
#[utoipa::path(
    get,
    path = "/restores/{id}",
    params(("id" = u64, Path, description = "As it was answered when it began")),
    responses(
        (status = 200, body = RestoreReport),
        (status = 401, description = "Without the token or a session", body = api::ApiProblem),
        (status = 404, description = "No such restore since the instance was started",
            body = api::ApiProblem),
    )
)]
pub(crate) async fn get(
    _: Owner,
    State(state): State<ApiState>,
    Path(id): Path<u64>,
) -> Answer<RestoreReport> {
    Ok(Json(state.restores.get(id)?.to_api()))
}

/// Ends a restore. What it has made stays; begun again, it goes on there.
#[utoipa::path(
    delete,
    path = "/restores/{id}",
    params(("id" = u64, Path, description = "As it was answered when it began")),
    responses(
        (status = 200, description = "It ends soon", body = RestoreReport),
        (status = 401, description = "Without the token", body = api::ApiProblem),
        (status = 404, description = "No such restore since the instance was started",
            body = api::ApiProblem),
    )
)]
pub(crate) async fn cancel(
    State(state): State<ApiState>,
    Path(id): Path<u64>,
) -> Answer<RestoreReport> {
    let running = state.restores.get(id)?;
    running.progress.stop();
    Ok(Json(running.to_api()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restore_whose_work_breaks_off_has_failed() {
        let restores = Restores::default();
        let id = restores.next_id();
        let work = restores.begin(id, "aabb");
        assert_eq!(restores.get(id).unwrap().to_api().state, "running");
        let broken = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            let _work = work;
            panic!("on purpose");
        }));
        assert!(broken.is_err());
        let report = restores.get(id).unwrap().to_api();
        assert_eq!(report.state, "failed");
        assert!(report.error.unwrap().contains("broke off"));
        // What has ended otherwise stays as it ended.
        let id = restores.next_id();
        let work = restores.begin(id, "aabb");
        work.end(End::Cancelled);
        drop(work);
        assert_eq!(restores.get(id).unwrap().to_api().state, "cancelled");
    }

    #[test]
    fn of_many_the_oldest_that_have_ended_are_forgotten() {
        let restores = Restores::default();
        let first = restores.begin(restores.next_id(), "aabb");
        for _ in 0..ENDED_MAX + 5 {
            drop(restores.begin(restores.next_id(), "aabb"));
        }
        assert_eq!(restores.0.running.lock().len(), ENDED_MAX);
        assert_eq!(restores.get(first.0.id).unwrap().to_api().state, "running");
    }
}

//! `archivist demo`: the whole life of a backup, with two real instances on this
//! computer.

mod instance;
mod listing;
mod sample;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use api::{
    AddFolder, BackupNowReport, BackupNowRequest, Folder, JoinReport, JoinRequest, PairingCode,
    PruneReport, PruneRequest, RestoreReport, RestoreRequest, Snapshot, VerifyRequest,
};
use fstree::{CompareOptions, compare};
use types::SequenceNumber;

use self::instance::Instance;
use crate::context::block_on;
use crate::output::{safe, size};

/// Maximum time of a backup. Only a huge folder needs more than seconds.
const STEP_MAX: Duration = Duration::from_secs(24 * 3600);
/// Maximum time from a change of the sample until B has confirmed it.
const CHANGE_MAX: Duration = Duration::from_secs(600);
/// Interval of the checks for a state that changes in the background.
const LOOK: Duration = Duration::from_millis(20);

/// Show the whole life of a backup on this computer.
///
/// Starts two instances with homes in a temporary directory and free ports: A watches
/// a sample folder and FOLDER, B backs them up. Then changes the sample, backs it up
/// again, and compares the restored files byte for byte. FOLDER is only read.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  archivist demo\n  archivist demo ~/Pictures")]
pub(crate) struct Demo {
    /// Folder of your own to back up too. It is only read.
    folder: Option<PathBuf>,
    /// Keep the temporary directory with both homes and the restored files.
    #[arg(long)]
    keep: bool,
}

/// Prints each step with the time that it took.
struct Steps {
    number: u32,
    begun: Instant,
}

impl Steps {
    fn done(&mut self, text: &str) {
        self.number += 1;
        let took = self.begun.elapsed();
        println!("{:>2}. {:<70} {:>8.3} s", self.number, safe(text), took.as_secs_f64());
        self.begun = Instant::now();
    }
}

impl Demo {
    pub(crate) fn run(self) -> Result<()> {
        let folder = match &self.folder {
            Some(folder) => {
                let folder = std::path::absolute(folder)
                    .with_context(|| format!("cannot use {}", folder.display()))?;
                ensure!(folder.is_dir(), "{} is not a directory", folder.display());
                Some(folder)
            }
            None => None,
        };
        let mut dir = tempfile::Builder::new()
            .prefix("archivist-demo-")
            .tempdir()
            .context("cannot make a temporary directory")?;
        dir.disable_cleanup(self.keep);
        let begun = Instant::now();
        let result = block_on(show(dir.path(), folder.as_deref()));
        if self.keep {
            println!("kept: {}", dir.path().display());
        }
        result?;
        println!(
            "Every restored file was compared byte for byte. Total time: {:.1} s.",
            begun.elapsed().as_secs_f64()
        );
        Ok(())
    }
}

async fn show(dir: &Path, own: Option<&Path>) -> Result<()> {
    let mut steps = Steps { number: 0, begun: Instant::now() };
    let sample = dir.join("sample");
    let made = sample::make(&sample)?;
    steps.done(&format!("a sample folder with {made} entries is created"));

    let a = Instance::start(&dir.join("a")).await.context("A does not start")?;
    let b = Instance::start(&dir.join("b")).await.context("B does not start")?;
    steps.done("A and B are running, each with its own home and ports");

    let code: PairingCode = a.api.post("/pairing", &()).await?;
    let joined: JoinReport = b.api.post("/pairing/join", &JoinRequest { code: code.code }).await?;
    steps.done(&format!("paired: B pulls from {}", joined.manifest_server_url));

    let folder = add(&a, &sample, "Sample").await?;
    let first = back_up(&a, &b, &folder).await?;
    steps.done(&format!(
        "first backup: {} files, {} on B, synced and verified",
        first.files,
        size(first.bytes)
    ));
    let own = match own {
        None => None,
        Some(own) => {
            let added = add(&a, own, "Yours").await?;
            let backed_up = back_up(&a, &b, &added).await?;
            steps.done(&format!(
                "your folder: {} files, {} on B",
                backed_up.files,
                size(backed_up.bytes)
            ));
            Some((own, added, backed_up))
        }
    };
    let before = dir.join("before");
    restore(&b, &folder, &first, &before).await?;
    same(&sample, &before)?;
    steps.done("restored on B: identical to the folder on A");

    sample::change(&sample)?;
    let saved = Instant::now();
    let second = wait_until_on_b(&a, &b, &folder, &sample).await?;
    let took = saved.elapsed().as_millis();
    steps.done(&format!("files are changed, renamed, deleted; on B automatically after {took} ms"));
    let after = dir.join("after");
    restore(&b, &folder, &second, &after).await?;
    same(&sample, &after)?;
    steps.done("restored on B: identical to the changed folder on A");

    sample::destroy(&sample)?;
    back_up(&a, &b, &folder).await?;
    steps.done("files on A are overwritten, as malware does; B has that snapshot too");
    let rescued = dir.join("rescued");
    restore(&a, &folder, &second, &rescued).await?;
    same(&after, &rescued)?;
    let rescued_first = dir.join("rescued-first");
    restore(&b, &folder, &first, &rescued_first).await?;
    same(&before, &rescued_first)?;
    steps.done("both older snapshots are restored, one of them on A through B");

    if let Some((own, folder, snapshot)) = &own {
        let back = dir.join("yours");
        restore(&b, folder, snapshot, &back).await?;
        same(own, &back)?;
        steps.done("your folder is restored: identical");
    }
    let verified = b.verify(VerifyRequest { full: true, repair: false }).await?;
    ensure!(verified.problems.is_empty(), "B is damaged: {:?}", verified.problems);
    steps.done(&format!("B reads and hashes all of its data: {}", size(verified.read_bytes)));
    let pruned: PruneReport =
        b.api.post("/prune", &PruneRequest { dry_run: true, ..PruneRequest::default() }).await?;
    ensure!(pruned.removed.is_empty(), "a new snapshot would be pruned");
    a.stop().await?;
    b.stop().await?;
    steps.done("both instances are stopped");
    Ok(())
}

async fn add(a: &Instance, path: &Path, name: &str) -> Result<Folder> {
    let path = path.to_str().context("the path of the folder is not UTF-8")?;
    let request = AddFolder {
        path: path.into(),
        name: Some(name.into()),
        exclude: Vec::new(),
        one_file_system: None,
        exclude_caches: None,
    };
    Ok(a.api.post("/folders", &request).await?)
}

/// Backs the folder up now, waits for the receipt, and returns the snapshot
/// that the receipt is for.
async fn back_up(a: &Instance, b: &Instance, folder: &Folder) -> Result<Snapshot> {
    let request = BackupNowRequest {
        folder: Some(folder.id.to_string()),
        wait_secs: Some(STEP_MAX.as_secs()),
    };
    let report: BackupNowReport = a.api.post("/backup-now", &request).await?;
    if let Some(failed) = report.steps.iter().find(|step| !step.ok) {
        bail!("{}: {}", failed.name, failed.detail.as_deref().unwrap_or_default());
    }
    let registered = report.folders.iter().find(|registered| registered.folder_id == folder.id);
    let confirmed = registered.and_then(|registered| registered.backed_up_sequence);
    snapshot_since(b, folder, confirmed.context("the folder was not backed up")?).await
}

/// Returns the oldest snapshot on B whose sequence number is at least
/// `sequence`. Snapshots before it hold a part of the folder or an older state
/// of it: A publishes several while it scans a folder for the first time.
async fn snapshot_since(
    b: &Instance,
    folder: &Folder,
    sequence: SequenceNumber,
) -> Result<Snapshot> {
    let snapshots: Vec<Snapshot> = b.api.get(&format!("/snapshots?folder={}", folder.id)).await?;
    let since = snapshots.into_iter().filter(|snapshot| snapshot.sequence >= sequence);
    since
        .min_by_key(|snapshot| snapshot.sequence)
        .with_context(|| format!("B confirmed manifest {sequence} and has no snapshot of it"))
}

async fn status_of(a: &Instance, folder: &Folder) -> Result<Folder> {
    let folders: Vec<Folder> = a.api.get("/folders").await?;
    folders.into_iter().find(|one| one.id == folder.id).context("A no longer lists the folder")
}

/// Waits until B has confirmed a snapshot that lists what is in `dir` now, and
/// returns that snapshot.
///
/// A newer sequence number alone proves nothing: on a busy machine A may
/// publish between two of the changes, or before it has heard of the last one.
async fn wait_until_on_b(
    a: &Instance,
    b: &Instance,
    folder: &Folder,
    dir: &Path,
) -> Result<Snapshot> {
    let wanted = listing::of_directory(dir)?;
    let until = Instant::now() + CHANGE_MAX;
    let mut compared = None;
    while Instant::now() < until {
        let status = status_of(a, folder).await?;
        ensure!(
            !matches!(status.state.as_str(), "alarm" | "error"),
            "{}",
            status.detail.unwrap_or(status.state)
        );
        if let Some(confirmed) = status.backed_up_sequence
            && compared != Some(confirmed)
        {
            let snapshot = snapshot_since(b, folder, confirmed).await?;
            if listing::of_snapshot(&b.api, &snapshot.id).await? == wanted {
                return Ok(snapshot);
            }
            compared = Some(confirmed);
        }
        tokio::time::sleep(LOOK).await;
    }
    bail!("B has not confirmed the changes within {} s", CHANGE_MAX.as_secs())
}

/// Restores a snapshot: on B from its own store, on A through B.
async fn restore(on: &Instance, folder: &Folder, snapshot: &Snapshot, target: &Path) -> Result<()> {
    let is_source = status_of(on, folder).await.is_ok();
    let request = RestoreRequest {
        snapshot: Some(snapshot.id.clone()),
        folder: Some(folder.id.to_string()),
        target: target.to_str().context("the temporary directory is not UTF-8")?.to_owned(),
        from_backup_server: is_source,
        // The source is this computer.
        as_it_was: true,
        ..RestoreRequest::default()
    };
    let mut report: RestoreReport = on.api.post("/restores", &request).await?;
    while report.state == "running" {
        tokio::time::sleep(LOOK).await;
        report = on.api.get(&format!("/restores/{}", report.id)).await?;
    }
    ensure!(
        report.state == "done",
        "the restore ended ({}): {} {:?} {:?}",
        report.state,
        report.error.unwrap_or_default(),
        report.in_the_way,
        report.failed
    );
    Ok(())
}

fn same(first: &Path, second: &Path) -> Result<()> {
    // Only root can change the owner of files.
    let owners = rustix::process::geteuid().is_root();
    let options = CompareOptions { owners, ..CompareOptions::default() };
    let differences = compare(first, second, options)
        .with_context(|| format!("cannot compare {} and {}", first.display(), second.display()))?;
    if let Some(one) = differences.first() {
        bail!(
            "{} and {} differ in {} places; {:?}: {:?}",
            first.display(),
            second.display(),
            differences.len(),
            one.path,
            one.kind
        );
    }
    Ok(())
}

//! `archivist restore`

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use api::{Client, Query, RestoreReport, RestoreRequest};
use jiff::{Timestamp, Zoned};
use restore::{RestoreError, RestoreOptions, Selection};
use types::RelPath;

use crate::context::{Context, block_on};
use crate::exit::End;
use crate::offline::Offline;
use crate::output::{Out, Progress, Unit, count, print_json, safe, size};
use crate::time;

use super::ls::{LATEST, folder_path};
use super::snapshots;

/// How often is looked how far it is.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Of each kind of trouble, so much is shown; `--json` has all.
const SHOWN: usize = 20;

/// Get a folder back, or a part of it, as it was in a snapshot.
///
/// Its content goes directly into DIR. Works on the backup server, running or
/// not, and on the machine with the folders through the backup server. What is
/// in DIR already is left alone, unless `--overwrite` is given.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  archivist restore --folder Documents --target /tmp/back\n  archivist restore --folder Documents --at '2026-11-22 10:30' --path letters --target /tmp/back\n  archivist restore 3f2a91c04d --target /tmp/back"
)]
pub(crate) struct Restore {
    /// The id of the snapshot, or the beginning of it; the newest that fits,
    /// where none is named.
    #[arg(conflicts_with = "at")]
    snapshot: Option<String>,
    /// The folder, by id or name; needed where there are snapshots of several.
    #[arg(long, value_name = "FOLDER")]
    folder: Option<String>,
    /// As it was at this time: `2026-11-22 10:30`, `2026-11-22` (its end),
    /// `2026-11-22T10:30:00Z`, `2h ago`.
    #[arg(long, value_name = "TIME")]
    at: Option<String>,
    /// Only this path in the folder, with all that is below it; can be given
    /// again.
    #[arg(long = "path", value_name = "PATH")]
    paths: Vec<OsString>,
    /// Where to; made where it is not there.
    #[arg(long, value_name = "DIR")]
    target: PathBuf,
    /// Replace what is in the way.
    #[arg(long)]
    overwrite: bool,
    /// Get it from the backup server, whatever is kept here.
    #[arg(long)]
    from_backup_server: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Restore {
    pub(crate) fn run(mut self, context: &Context) -> Result<()> {
        self.snapshot = self.snapshot.filter(|id| id != LATEST).map(|id| id.to_ascii_lowercase());
        let at = match &self.at {
            Some(at) => {
                let at = time::parse(at, &Zoned::now());
                Some(at.map_err(|error| End::Usage(format!("--at: {error}")))?)
            }
            None => None,
        };
        let paths = self.paths.iter().map(folder_path).collect::<Result<Vec<_>>>()?;
        if self.target.as_os_str().is_empty() {
            return Err(End::Usage("--target: name a directory".to_owned()).into());
        }
        let target = std::path::absolute(&self.target)
            .with_context(|| format!("cannot tell where {} is", self.target.display()))?;
        let report = match context.instance()? {
            Some(client) => {
                let request = self.request(at, &paths, &target);
                block_on(self.through(context, &client, request))?
            }
            None => self.offline(context, at, paths, &target)?,
        };
        self.tell(&report, &target)
    }

    fn request(&self, at: Option<Timestamp>, paths: &[RelPath], target: &Path) -> RestoreRequest {
        let (text, base64): (Vec<_>, Vec<_>) =
            paths.iter().map(|path| api::to_text(path.as_bytes())).partition(|(_, b)| b.is_none());
        let (target, target_base64) = api::to_text(target.as_os_str().as_bytes());
        RestoreRequest {
            snapshot: self.snapshot.clone(),
            folder: self.folder.clone(),
            at,
            paths: text.into_iter().map(|(text, _)| text).collect(),
            paths_base64: base64.into_iter().filter_map(|(_, base64)| base64).collect(),
            target,
            target_base64,
            overwrite: self.overwrite,
            from_backup_server: self.from_backup_server,
        }
    }

    /// Has the running instance do it.
    async fn through(
        &self,
        context: &Context,
        client: &Client,
        mut request: RestoreRequest,
    ) -> Result<RestoreReport> {
        if !request.from_backup_server && context.config()?.sync.backup_peer_address.is_some() {
            // A machine that only has the folders keeps no snapshots itself.
            let own = snapshots::list(client, &Query::new()).await?;
            request.from_backup_server = !own.iter().any(|one| self.may_mean(one));
        }
        let mut report: RestoreReport = client.post("/restores", &request).await?;
        let path = format!("/restores/{}", report.id);
        let mut progress = Progress::new(Unit::Bytes, "restoring");
        let stop = tokio::signal::ctrl_c();
        tokio::pin!(stop);
        // Short work should not have to wait for the clock.
        let mut pause = Duration::from_millis(5);
        while report.state == "running" {
            tokio::select! {
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(LOOK_EVERY),
                _ = &mut stop => {
                    progress.end();
                    let _: serde_json::Value = client.delete(&path).await?;
                    bail!("the restore was stopped; begun again, it goes on where it was");
                }
            }
            report = client.get(&path).await?;
            show_progress(
                &mut progress,
                (report.entries_done, report.entries_total),
                (report.bytes_done, report.bytes_total),
            );
        }
        progress.end();
        Ok(report)
    }

    fn may_mean(&self, snapshot: &api::Snapshot) -> bool {
        let is_id = |id: &str| snapshot.id.starts_with(id);
        let is_folder =
            |folder: &str| snapshot.folder_id.as_str() == folder || snapshot.folder_name == folder;
        self.snapshot.as_deref().is_none_or(is_id) && self.folder.as_deref().is_none_or(is_folder)
    }

    /// Does it here, from the store of an instance that does not run.
    fn offline(
        &self,
        context: &Context,
        at: Option<Timestamp>,
        paths: Vec<RelPath>,
        target: &Path,
    ) -> Result<RestoreReport> {
        let need = "`archivist restore` through the backup server";
        if self.from_backup_server {
            context.need_instance(need)?;
        }
        let offline = Offline::open(context)?;
        let is_kept_elsewhere = context.config()?.sync.backup_peer_address.is_some();
        let has_own = match &offline {
            Some(offline) => offline.list()?.0.iter().any(|one| self.may_mean(one)),
            None => false,
        };
        if !has_own && is_kept_elsewhere {
            context.need_instance(need)?;
        }
        let Some(offline) = offline else { bail!("there are no snapshots here") };
        let snapshot = offline.find(self.snapshot.as_deref(), self.folder.as_deref(), at)?;
        let options = RestoreOptions {
            selection: Selection::new(paths),
            overwrite: self.overwrite,
            ..RestoreOptions::default()
        };
        let done = restore::Progress::default();
        let ended = std::thread::scope(|scope| {
            let work = scope.spawn(|| {
                let blocks = offline.blocks();
                restore::restore(&blocks, snapshot.manifest_cid, target, &options, &done)
            });
            watch(&done, || work.is_finished())?;
            work.join().map_err(|_| anyhow::anyhow!("the restore has ended by a defect"))
        })?;
        let report = match ended {
            Err(RestoreError::Stopped) => {
                bail!("the restore was stopped; begun again, it goes on where it was")
            }
            result => result?,
        };
        let shown = RestoreReport {
            snapshot: snapshot.id,
            entries_done: done.entries_done(),
            entries_total: done.entries_total(),
            bytes_done: done.bytes_done(),
            bytes_total: done.bytes_total(),
            ..RestoreReport::default()
        };
        Ok(node::restore_model(shown, report))
    }

    /// Says what came of it.
    fn tell(&self, report: &RestoreReport, target: &Path) -> Result<()> {
        let is_whole = report.state == "done"
            && report.in_the_way.is_empty()
            && report.failed.is_empty()
            && report.not_found.is_empty();
        if self.json {
            print_json(report)?;
            return if is_whole { Ok(()) } else { Err(End::Told.into()) };
        }
        let mut out = Out::new();
        out.line(format_args!(
            "restored {}, {}, of snapshot {} into {}",
            count(report.entries_done, "entry", "entries"),
            size(report.bytes_done),
            safe(&report.snapshot),
            safe(&target.display().to_string())
        ))?;
        out.finish()?;
        let in_the_way = "left as it is, since --overwrite is not given";
        list(in_the_way, &report.in_the_way);
        list("not in the snapshot", &report.not_found);
        list("could not be restored", &report.failed);
        list("is never made again", &report.skipped);
        list("could not be set", &report.not_set);
        match &report.error {
            _ if is_whole => Ok(()),
            Some(error) => bail!("{error}"),
            None if report.state == "done" => bail!("not everything is restored"),
            None => bail!("the restore has ended ({}): begun again, it goes on", report.state),
        }
    }
}

/// Shows how far a restore here is, until it ends or is stopped by a signal.
fn watch(done: &restore::Progress, is_finished: impl Fn() -> bool) -> Result<()> {
    let mut progress = Progress::new(Unit::Bytes, "restoring");
    let result = block_on(async {
        let stop = tokio::signal::ctrl_c();
        tokio::pin!(stop);
        // Short work should not have to wait for the clock.
        let mut pause = Duration::from_millis(2);
        while !is_finished() {
            tokio::select! {
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(LOOK_EVERY),
                _ = &mut stop => {
                    done.stop();
                    break;
                }
            }
            show_progress(
                &mut progress,
                (done.entries_done(), done.entries_total()),
                (done.bytes_done(), done.bytes_total()),
            );
        }
        Ok(())
    });
    progress.end();
    result
}

fn show_progress(progress: &mut Progress, entries: (u64, u64), bytes: (u64, u64)) {
    let message = format!("restoring {} of {} entries", entries.0, entries.1.max(entries.0));
    progress.set(bytes.0, Some(bytes.1), &message);
}

fn list(what: &str, texts: &[String]) {
    for text in texts.iter().take(SHOWN) {
        eprintln!("{what}: {}", safe(text).replace('\n', "\\n"));
    }
    if texts.len() > SHOWN {
        eprintln!("{what}: {} more; --json lists them", texts.len() - SHOWN);
    }
}

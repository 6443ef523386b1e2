//! `archivist restore`

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use api::{Client, Query, RestoreReport, RestoreRequest};
use jiff::{Timestamp, Zoned};
use restore::{OwnerPolicy, RestoreError, RestoreOptions, Selection};
use types::RelPath;

use crate::context::{Context, block_on};
use crate::exit::End;
use crate::offline::Offline;
use crate::output::{Out, Progress, Unit, count, print_json, safe, size};
use crate::time;

use super::ls::{LATEST, folder_path};
use super::snapshots;

/// Longest interval of the progress checks.
const POLL_INTERVAL_MAX: Duration = Duration::from_millis(250);
/// Maximum number of entries shown per kind of problem. `--json` prints all.
const SHOWN: usize = 20;
/// Message after an interrupt.
const STOPPED: &str = "the restore was stopped; run the same command again to continue";

/// Restore a folder, or parts of it, from a snapshot.
///
/// The content of the folder goes directly into DIR. Works on the backup server, with
/// and without a running instance, and on the source through the backup server.
/// Existing files in DIR are not replaced unless `--overwrite` is given. To continue
/// an interrupted restore, run the same command again.
///
/// Without SNAPSHOT, the newest one that is neither suspicious nor a part of its folder is
/// chosen, if there is one.
///
/// Ends with 4 if everything was restored, but not every permission, time or attribute
/// (for root, also owner) could be set, if privileges were left out, or if the snapshot is only
/// a part of its folder.
/// Root sets owners by name, if the names exist on this computer. A restore by another
/// user reports how many owners differ.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  archivist restore --folder Documents --target /tmp/back\n  archivist restore --folder Documents --at '2026-11-22 10:30' --path letters --target /tmp/back\n  archivist restore 3f2a91c04d --target /tmp/back"
)]
pub(crate) struct Restore {
    /// Id of the snapshot, or the beginning of its id [default: the newest one that
    /// matches].
    #[arg(conflicts_with = "at")]
    snapshot: Option<String>,
    /// Folder to restore, by id or name. Required if there are snapshots of several
    /// folders.
    #[arg(long, value_name = "FOLDER")]
    folder: Option<String>,
    /// Restore the newest snapshot that had arrived by this time: `2026-11-22 10:30`,
    /// `2026-11-22` (the end of that day), `2026-11-22T10:30:00Z`, `2h ago`.
    #[arg(long, value_name = "TIME")]
    at: Option<String>,
    /// Restore only this path of the folder and everything below it. Can be repeated.
    #[arg(long = "path", value_name = "PATH")]
    paths: Vec<OsString>,
    /// Directory to restore into. Created if it does not exist.
    #[arg(long, value_name = "DIR")]
    target: PathBuf,
    /// Replace existing files.
    #[arg(long)]
    overwrite: bool,
    /// Set the numbers of owners as they were on the source, instead of the owners with
    /// the same names on this computer.
    #[arg(long)]
    numeric_owner: bool,
    /// Restore devices, setuid and setgid bits, and attributes that grant privileges
    /// (`security.*`, `trusted.*`), too. On the backup server they are left out otherwise,
    /// because the source decides about them; on the source they are always restored.
    #[arg(long)]
    as_it_was: bool,
    /// Restore from the backup server, even if this computer has a matching snapshot.
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
            return Err(End::Usage("--target: the directory must not be empty".to_owned()).into());
        }
        let target = std::path::absolute(&self.target)
            .with_context(|| format!("cannot resolve {}", self.target.display()))?;
        let report = match context.instance_to_read()? {
            Some(client) => {
                let request = self.request(at, &paths, &target);
                block_on(self.through(context, &client, request))?
            }
            None => self.offline(context, at, paths, &target)?,
        };
        self.print(&report, &target)
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
            numeric_owner: self.numeric_owner,
            as_it_was: self.as_it_was,
        }
    }

    /// Restores through the running instance.
    async fn through(
        &self,
        context: &Context,
        client: &Client,
        mut request: RestoreRequest,
    ) -> Result<RestoreReport> {
        if !request.from_backup_server && context.config()?.sync.backup_peer_address.is_some() {
            // A computer that is only a source has no snapshots of its own.
            let own = snapshots::list(client, &Query::new()).await?;
            request.from_backup_server = !own.iter().any(|one| self.matches(one));
        }
        let mut report: RestoreReport = client.post("/restores", &request).await?;
        let path = format!("/restores/{}", report.id);
        let mut progress = Progress::new(Unit::Bytes, "restoring");
        let stop = tokio::signal::ctrl_c();
        tokio::pin!(stop);
        // Poll quickly at first: a short restore ends before the longest interval.
        let mut pause = Duration::from_millis(5);
        while report.state == "running" {
            tokio::select! {
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(POLL_INTERVAL_MAX),
                _ = &mut stop => {
                    progress.end();
                    let _: serde_json::Value = client.delete(&path).await?;
                    bail!("{STOPPED}");
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

    /// Reports whether a snapshot matches the given id and folder.
    fn matches(&self, snapshot: &api::Snapshot) -> bool {
        let is_id = |id: &str| snapshot.id.starts_with(id);
        let is_folder =
            |folder: &str| snapshot.folder_id.as_str() == folder || snapshot.folder_name == folder;
        self.snapshot.as_deref().is_none_or(is_id) && self.folder.as_deref().is_none_or(is_folder)
    }

    /// Restores in this process, from the store of an instance that is not running.
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
        let offline = Offline::open_to_restore(context)?;
        let is_kept_elsewhere = context.config()?.sync.backup_peer_address.is_some();
        let has_own = match &offline {
            Some(offline) => offline.list()?.0.iter().any(|one| self.matches(one)),
            None => false,
        };
        if !has_own && is_kept_elsewhere {
            context.need_instance(need)?;
        }
        let Some(offline) = offline else { bail!("this computer has no snapshots") };
        let (snapshot, passed_over) =
            offline.find_and_compare(self.snapshot.as_deref(), self.folder.as_deref(), at)?;
        let options = RestoreOptions {
            selection: Selection::new(paths),
            overwrite: self.overwrite,
            owners: OwnerPolicy::for_this_process(!self.numeric_owner),
            as_it_was: self.as_it_was,
            protected: vec![context.paths.data_dir().to_owned()],
            ..RestoreOptions::default()
        };
        let done = restore::Progress::default();
        let ended = std::thread::scope(|scope| {
            let work = scope.spawn(|| {
                let blocks = offline.blocks();
                restore::restore(&blocks, snapshot.manifest_cid, target, &options, &done)
            });
            watch(&done, || work.is_finished())?;
            work.join().map_err(|_| anyhow::anyhow!("the restore failed: internal error"))
        })?;
        let report = match ended {
            Err(RestoreError::Stopped) => {
                bail!("{STOPPED}")
            }
            result => result?,
        };
        let shown = RestoreReport {
            snapshot: snapshot.id,
            passed_over,
            entries_done: done.entries_done(),
            entries_total: done.entries_total(),
            bytes_done: done.bytes_done(),
            bytes_total: done.bytes_total(),
            ..RestoreReport::default()
        };
        Ok(node::restore_model(shown, report))
    }

    /// Prints the result. Returns an error if it is incomplete.
    fn print(&self, report: &RestoreReport, target: &Path) -> Result<()> {
        let is_complete = report.state == "done"
            && report.in_the_way.is_empty()
            && report.failed.is_empty()
            && report.not_found.is_empty();
        // (Another user than root does not ask for owners.)
        let is_exact =
            report.not_set.is_empty() && !report.is_part && report.privileges_left_out == 0;
        if self.json {
            print_json(report)?;
            return match (is_complete, is_exact) {
                (true, true) => Ok(()),
                (true, false) => Err(End::PartlyReported.into()),
                (false, _) => Err(End::Reported.into()),
            };
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
        if let Some(passed_over) = &report.passed_over {
            eprintln!("{}; give its id to restore it", safe(passed_over));
        }
        if report.is_part {
            eprintln!(
                "this snapshot is only a part of the folder: its first scan had not ended, and \
                 further files are missing"
            );
        }
        list("not replaced", &report.in_the_way);
        list("not in the snapshot", &report.not_found);
        list("could not be restored", &report.failed);
        list("skipped", &report.skipped);
        list("could not be set", &report.not_set);
        if report.owners_not_set > 0 {
            let entries = count(report.owners_not_set, "entry", "entries");
            eprintln!("owners of {entries} were not set: that needs root");
        }
        if report.privileges_left_out > 0 {
            let entries = count(report.privileges_left_out, "entry", "entries");
            eprintln!(
                "privileges of {entries} were left out (devices, setuid and setgid bits, attributes); \
                 --as-it-was restores them"
            );
        }
        let reasons = self.reasons(report);
        match &report.error {
            _ if is_complete && is_exact => Ok(()),
            _ if is_complete => Err(End::PartlyReported.into()),
            _ if !reasons.is_empty() => bail!("the restore is incomplete: {}", reasons.join("; ")),
            Some(error) => bail!("{error}"),
            None => {
                bail!("the restore ended ({}): run the command again to continue", report.state)
            }
        }
    }

    /// Returns the reasons for which entries are missing, each with its number, or with a
    /// lower bound if the lists of the report are cut short.
    fn reasons(&self, report: &RestoreReport) -> Vec<String> {
        let at_least = if report.is_cut_short { "at least " } else { "" };
        let mut reasons = Vec::new();
        let existing = report.in_the_way.len() as u64;
        if existing > 0 && self.overwrite {
            let entries = count(existing, "existing entry", "existing entries");
            reasons.push(format!("{at_least}{entries} could not be replaced"));
        } else if existing > 0 {
            let entries =
                count(existing, "entry already exists and was", "entries already exist and were");
            reasons.push(format!("{at_least}{entries} not replaced (use --overwrite to replace)"));
        }
        if !report.failed.is_empty() {
            let entries = count(report.failed.len() as u64, "entry", "entries");
            reasons.push(format!("{at_least}{entries} could not be restored"));
        }
        if !report.not_found.is_empty() {
            let paths = count(report.not_found.len() as u64, "path is", "paths are");
            reasons.push(format!("{paths} not in the snapshot"));
        }
        reasons
    }
}

/// Shows the progress of a restore in this process until it ends. Stops it on SIGINT.
fn watch(done: &restore::Progress, is_finished: impl Fn() -> bool) -> Result<()> {
    let mut progress = Progress::new(Unit::Bytes, "restoring");
    let result = block_on(async {
        let stop = tokio::signal::ctrl_c();
        tokio::pin!(stop);
        // Poll quickly at first: a short restore ends before the longest interval.
        let mut pause = Duration::from_millis(2);
        while !is_finished() {
            tokio::select! {
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(POLL_INTERVAL_MAX),
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

/// Prints the first entries of a list to standard error, each after the heading `what`.
fn list(what: &str, texts: &[String]) {
    for text in texts.iter().take(SHOWN) {
        eprintln!("{what}: {}", safe(text).replace('\n', "\\n"));
    }
    if texts.len() > SHOWN {
        eprintln!("{what}: {} more; use --json to list them", texts.len() - SHOWN);
    }
}

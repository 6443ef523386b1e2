//! `archivist backup-now`

use anyhow::{Result, bail};
use api::{BackupNowReport, BackupNowRequest, Step};

use crate::context::{Context, block_on};
use crate::exit::End;
use crate::output::{Out, print_json, safe};

use super::sync::{show, watching};

/// Default time limit of `--wait`, in seconds: a day, because a first backup may
/// be large.
const WAIT_SECS: u64 = 24 * 3600;

/// Name of the step that waits for the backup server's receipt.
const ACKNOWLEDGE: &str = "acknowledge";
/// Names of the steps that notify the backup server. They are optional: the backup
/// server also polls.
const NOTIFY: [&str; 2] = ["connect", "trigger"];

/// Back up folders now instead of waiting for the next automatic backup.
///
/// Scans the folders, registers their manifests, connects to the backup server and
/// asks it to pull. With `--wait`, also waits for its confirmation.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  archivist backup-now\n  archivist backup-now Documents --wait 600"
)]
pub(crate) struct BackupNow {
    /// Id or name of the folder [default: all folders that are not paused].
    folder: Option<String>,
    /// Wait until the backup server has confirmed the snapshot, at most SECS
    /// seconds [default: one day].
    #[arg(long, value_name = "SECS", num_args = 0..=1, default_missing_value = "")]
    wait: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl BackupNow {
    pub(crate) fn run(self, context: &Context) -> Result<()> {
        let body = self.request()?;
        let client = context.need_instance("`archivist backup-now`")?;
        let message =
            if body.wait_secs.is_some() { "waiting for the backup server" } else { "registering" };
        let report: BackupNowReport = block_on(async {
            let work = async { Ok(client.post("/backup-now", &body).await?) };
            watching(&client, message, work).await
        })?;
        let failed = failed(&report);
        if self.json {
            print_json(&report)?;
        } else {
            let mut out = Out::new();
            for step in &report.steps {
                let mark = if step.ok { "ok    " } else { "failed" };
                match &step.detail {
                    Some(detail) => {
                        out.line(format_args!("{mark}  {}: {}", safe(&step.name), safe(detail)))?;
                    }
                    None => out.line(format_args!("{mark}  {}", safe(&step.name)))?,
                }
            }
            if !report.folders.is_empty() {
                show(&report.folders, &mut out)?;
            }
            out.finish()?;
        }
        match failed {
            None => Ok(()),
            Some(_) if self.json => Err(End::Reported.into()),
            Some(step) => bail!("{} failed", step.name),
        }
    }

    /// Builds the request. The word after `--wait` is the number of seconds or, if it
    /// is not a number and no folder was given before, the folder.
    fn request(&self) -> Result<BackupNowRequest> {
        let mut folder = self.folder.clone();
        let wait_secs = match self.wait.as_deref() {
            None => None,
            Some("") => Some(WAIT_SECS),
            Some(text) => match text.parse() {
                Ok(secs) => Some(secs),
                Err(_) if folder.is_none() => {
                    folder = Some(text.to_owned());
                    Some(WAIT_SECS)
                }
                Err(_) => {
                    return Err(End::Usage(format!(
                        "--wait: {text:?} is not a number of seconds; example: --wait 600"
                    ))
                    .into());
                }
            },
        };
        Ok(BackupNowRequest { folder, wait_secs })
    }
}

/// Returns the step that makes the backup a failure, if any.
///
/// A failed notification does not matter once the backup server has confirmed the
/// snapshot. A failed registration always does.
fn failed(report: &BackupNowReport) -> Option<&Step> {
    let is_acknowledged = report.steps.iter().any(|step| step.name == ACKNOWLEDGE);
    let is_notify = |step: &Step| NOTIFY.contains(&step.name.as_str());
    report.steps.iter().find(|step| !(step.ok || is_acknowledged && is_notify(step)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_takes_a_number_and_leaves_a_folder() {
        let request = |folder: Option<&str>, wait: Option<&str>| {
            let command = BackupNow {
                folder: folder.map(Into::into),
                wait: wait.map(Into::into),
                json: false,
            };
            command.request().map(|request| (request.folder, request.wait_secs)).ok()
        };
        let docs = || Some("docs".to_owned());
        assert_eq!(request(Some("docs"), None), Some((docs(), None)));
        assert_eq!(request(None, Some("")), Some((None, Some(WAIT_SECS))));
        assert_eq!(request(Some("docs"), Some("60")), Some((docs(), Some(60))));
        assert_eq!(request(None, Some("docs")), Some((docs(), Some(WAIT_SECS))));
        assert_eq!(request(Some("docs"), Some("soon")), None);
    }
}

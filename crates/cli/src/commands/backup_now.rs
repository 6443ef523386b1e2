//! `archivist backup-now`

use anyhow::{Result, bail};
use api::{BackupNowReport, BackupNowRequest, Step};

use crate::context::{Context, block_on};
use crate::exit::End;
use crate::output::{Out, print_json, safe};

use super::sync::{show, watching};

/// How long `--wait` waits where it is not told, in seconds: a day, since a
/// first backup may be large.
const WAIT_SECS: u64 = 24 * 3600;

/// The step that waits for the backup server's receipt.
const ACKNOWLEDGE: &str = "acknowledge";
/// The steps by which the backup server is told; it also asks by itself.
const WAYS: [&str; 2] = ["connect", "trigger"];

/// Back up now: see that the manifest is registered, and tell the backup
/// server to pull it.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  archivist backup-now\n  archivist backup-now Documents --wait 600"
)]
pub(crate) struct BackupNow {
    /// The id or the name of a folder; all, where none is named.
    folder: Option<String>,
    /// Wait until the backup server has acknowledged the snapshot, at most so
    /// many seconds; a day, where no number is given.
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
            Some(_) if self.json => Err(End::Told.into()),
            Some(step) => bail!("{} failed", step.name),
        }
    }

    /// `--wait` may be followed by a number, and without one by the folder.
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
                        "--wait {text:?} is no number of seconds; give one, such as --wait 600"
                    ))
                    .into());
                }
            },
        };
        Ok(BackupNowRequest { folder, wait_secs })
    }
}

/// The step that makes the whole a failure, if one does. What the backup
/// server has acknowledged is backed up, by whatever way it heard of it; what
/// was not registered is not.
fn failed(report: &BackupNowReport) -> Option<&Step> {
    let is_acknowledged = report.steps.iter().any(|step| step.name == ACKNOWLEDGE);
    let is_way = |step: &Step| WAYS.contains(&step.name.as_str());
    report.steps.iter().find(|step| !(step.ok || is_acknowledged && is_way(step)))
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

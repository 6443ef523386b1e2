//! Programs of the user that run before and after a manifest is made.
//!
//! The folder is scanned completely after the first program, so that the manifest contains what the
//! program has written. The programs run at most once in an interval, so that they may change files
//! of the folder: manifests in between are made without them, and one more is made with them when
//! the interval has ended. A program that fails stops no backup; the error is shown.

use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;
use rustix::process::{Pid, Signal, kill_process_group};

use super::Task;
use crate::error::SyncError;
use crate::settings::HookSettings;
use crate::work_monitor::WorkMonitor;

/// Interval at which a running program is checked for its end, and for a request to stop.
const CHECK_INTERVAL: Duration = Duration::from_millis(20);
/// Maximum time to wait for the output of a program that has ended: another program may have it.
const OUTPUT_WAIT: Duration = Duration::from_millis(100);
/// Maximum length of the output that an error shows, in bytes.
const OUTPUT_LEN_MAX: u64 = 300;

/// The state of a folder's programs.
#[derive(Debug, Default)]
pub(super) struct Hooks {
    /// When they ended last.
    ended_at: Option<Duration>,
    /// True if a manifest was made without them since.
    is_owed: bool,
    /// The error of the last run.
    error: Option<String>,
}

impl Hooks {
    fn due_at(&self, settings: &HookSettings) -> Duration {
        self.ended_at.map_or(Duration::ZERO, |ended| ended + settings.interval)
    }

    /// Returns when a manifest must be made with the programs, if one was made without them.
    pub(super) fn next_at(&self, settings: &HookSettings) -> Option<Duration> {
        (self.is_owed && settings.exist()).then(|| self.due_at(settings))
    }
}

impl HookSettings {
    /// Reports whether there is a program to run.
    pub(super) fn exist(&self) -> bool {
        !self.before.is_empty() || !self.after.is_empty()
    }
}

impl Task {
    /// Returns the error of the programs, for users.
    pub(super) fn hook_error(&self) -> Option<String> {
        self.hooks.error.clone().filter(|_| self.config.folder.hooks.exist())
    }

    /// Reports whether a manifest with the programs must be made now.
    pub(super) fn are_hooks_due(&self) -> bool {
        let due = self.hooks.next_at(&self.config.folder.hooks);
        due.is_some_and(|due| due <= self.now()) && self.record.alarm.is_none()
    }

    /// Publishes the changes that were found, with the programs if they may run again.
    pub(super) fn publish_with_hooks(&mut self) -> Result<(), SyncError> {
        let settings = self.config.folder.hooks.clone();
        // A part of a folder is no state that somebody could have prepared.
        if !settings.exist() || !self.record.is_scanned {
            return self.publish_found();
        }
        if self.now() < self.hooks.due_at(&settings) && !self.is_on_request {
            self.hooks.is_owed = true;
            return self.publish_found();
        }
        self.hooks.is_owed = false;
        let before = self.run_hook("before_publish", &settings.before, settings.timeout);
        let result = self.scan_all().and_then(|()| match self.needs_manifest()? {
            true => self.publish_found(),
            false => {
                self.schedule.published();
                Ok(())
            }
        });
        // Services that the first program has stopped must continue, also if the manifest failed.
        let after = self.run_hook("after_publish", &settings.after, settings.timeout);
        self.hooks.ended_at = Some(self.now());
        self.hooks.error = before.err().or(after.err());
        if let Some(error) = &self.hooks.error {
            tracing::warn!(folder = %self.mailbox.id, error, "a program of the folder failed");
        }
        self.show_rest();
        result
    }

    fn run_hook(&self, name: &str, hook: &[String], timeout: Duration) -> Result<(), String> {
        let Some((program, arguments)) = hook.split_first() else { return Ok(()) };
        let folder = &self.config.folder;
        tracing::info!(folder = %folder.id, program, name, "runs a program of the folder");
        let mut command = Command::new(program);
        command.args(arguments).current_dir(Path::new("/"));
        command.env("ARCHIVIST_HOOK", name).env("ARCHIVIST_FOLDER_ID", folder.id.as_str());
        command.env("ARCHIVIST_FOLDER_PATH", &folder.path);
        self.mailbox.monitor.set_working(true);
        let result = run(&mut command, timeout, &self.mailbox.monitor);
        self.mailbox.monitor.set_working(false);
        result.map_err(|error| format!("{name}: {program} {error}"))
    }
}

/// Runs a program to its end. After the timeout, or if the work must stop, ends the program and all
/// programs that it has started. Returns an error as a predicate: "ended with exit status: 1".
fn run(command: &mut Command, timeout: Duration, monitor: &WorkMonitor) -> Result<(), String> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    // A group of its own, so that the end reaches its children.
    let child = command.process_group(0).spawn();
    let mut child = child.map_err(|error| format!("cannot be started: {error}"))?;
    let output = read_output(&mut child);
    let end = Instant::now() + timeout;
    let reason = loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => {
                let output = output.recv_timeout(OUTPUT_WAIT).unwrap_or_default();
                return Err(format!("ended with {status}{output}"));
            }
            Ok(None) if monitor.is_interrupted() => break "was interrupted",
            Ok(None) if Instant::now() >= end => break "did not end in time, and was ended",
            Ok(None) => std::thread::sleep(CHECK_INTERVAL),
            Err(error) => return Err(format!("cannot be waited for: {error}")),
        }
    };
    // It was not waited for, so the number still belongs to its group.
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    if let Some(Err(error)) = group.map(|group| kill_process_group(group, Signal::KILL)) {
        tracing::warn!(%error, "cannot end a program");
    }
    // A program that waits for a disk ends later.
    std::thread::spawn(move || child.wait());
    Err(reason.to_owned())
}

/// Reads the output for errors in a thread, until its end, and passes on its beginning, in
/// parentheses.
fn read_output(child: &mut Child) -> crossbeam_channel::Receiver<String> {
    let (send, output) = bounded(1);
    if let Some(mut stream) = child.stderr.take() {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let read = stream.by_ref().take(OUTPUT_LEN_MAX).read_to_end(&mut bytes);
            let text = String::from_utf8_lossy(&bytes);
            let line = text.lines().map(str::trim).find(|line| !line.is_empty());
            let line = line.filter(|_| read.is_ok());
            let _ = send.send(line.map_or(String::new(), |line| format!(" ({line})")));
            let _ = std::io::copy(&mut stream, &mut std::io::sink());
        });
    }
    output
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, timeout: Duration) -> Result<(), String> {
        let mut command = Command::new("/bin/sh");
        run(command.args(["-c", script]), timeout, &WorkMonitor::new())
    }

    #[test]
    fn a_program_ends_well_or_with_an_error() {
        let long = Duration::from_secs(600);
        assert_eq!(shell("exit 0", long), Ok(()));
        assert_eq!(
            shell("echo >&2; echo no database >&2; exit 3", long),
            Err("ended with exit status: 3 (no database)".to_owned())
        );
        // More output than a pipe has room for.
        assert_eq!(shell("head -c 300000 /dev/zero >&2", long), Ok(()));
        let missing = run(&mut Command::new("/nowhere"), long, &WorkMonitor::new());
        assert!(missing.unwrap_err().starts_with("cannot be started: No such file"));
    }

    #[test]
    fn a_program_that_does_not_end_is_ended_with_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, 0o600.into()).unwrap();
        // The child has the pipe open for writing until it ends.
        let script = format!("(sleep 1000 3> {0}) & exec sleep 1000 3> {0}", pipe.display());
        let reader = std::thread::spawn(move || std::fs::read(pipe));
        let error = shell(&script, Duration::from_millis(300)).unwrap_err();
        assert!(error.contains("in time"), "{error}");
        assert_eq!(reader.join().unwrap().unwrap(), b"");
    }
}

//! The journal: events that concern a user, as sentences. (The log is for
//! finding faults.)
//!
//! The entries are derived from the status changes of both sides. They are in
//! memory, and in a file with one JSON object per line, so that they survive a
//! restart. Nothing depends on the file: lines that cannot be read are ignored.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use api::JournalEntry;
use backup::{BackupEvent, BackupHandle, SourceState, SourceStatus};
use disk::{Aside, AtomicWrite, RealDisk, write_atomic};
use jiff::Timestamp;
use parking_lot::Mutex;
use sync::{FolderState, FolderStatus, SyncHandle};
use tokio::sync::Notify;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;
use types::{FolderId, SequenceNumber};

/// Maximum number of entries; the oldest are dropped first.
const ENTRIES_MAX: usize = 2000;
/// Maximum number of an entry in a file: the largest that every reader of JSON reads exactly. A
/// larger one is damage, and would leave no numbers for the next entries.
const ID_MAX: u64 = 1 << 53;
/// Maximum number of lines in the file; a longer file is replaced.
const LINES_MAX: usize = 2 * ENTRIES_MAX;
/// Maximum number of bytes that are read from the end of the file.
const READ_MAX: u64 = 16 << 20;

#[derive(Debug, Default)]
struct Entries {
    next: u64,
    entries: VecDeque<JournalEntry>,
    /// Number of entries, at the end, that are not in the file yet.
    unsaved: usize,
}

#[derive(Debug, Default)]
struct Shared {
    entries: Mutex<Entries>,
    more: Notify,
}

/// The journal of an instance. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Journal(Arc<Shared>);

/// The file of a journal.
#[derive(Debug)]
struct JournalFile {
    path: PathBuf,
    lines: usize,
}

impl JournalFile {
    /// Reads the entries of a file. A file that cannot be read is kept under another name.
    fn open(path: PathBuf) -> (Self, VecDeque<JournalEntry>) {
        let text = match read_end(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => {
                let kept = Aside::next(&RealDisk, &path).and_then(|aside| {
                    aside.rename()?;
                    Ok(aside.path().display().to_string())
                });
                let path = path.display();
                match kept {
                    Ok(kept) => tracing::warn!(%path, %error, kept, "cannot read the journal"),
                    Err(_) => tracing::warn!(%path, %error, "cannot read the journal"),
                }
                String::new()
            }
        };
        (Self { path, lines: text.lines().count() }, parse(&text))
    }

    /// Appends the last `new` entries of `all`. Replaces a file that is too long.
    fn write(&mut self, all: &[JournalEntry], new: usize) -> io::Result<()> {
        let line = |entry: &JournalEntry| -> io::Result<String> {
            Ok(serde_json::to_string(entry)? + "\n")
        };
        if self.lines + new > LINES_MAX {
            let text = all.iter().map(line).collect::<io::Result<String>>()?;
            write_atomic(&RealDisk, &self.path, text.as_bytes(), &AtomicWrite::PRIVATE)?;
            self.lines = all.len();
            return Ok(());
        }
        let new = &all[all.len().saturating_sub(new)..];
        let text = new.iter().map(line).collect::<io::Result<String>>()?;
        let mut file = OpenOptions::new().append(true).create(true).open(&self.path)?;
        file.write_all(text.as_bytes())?;
        self.lines += new.len();
        Ok(())
    }
}

/// Returns the last entries in the text of a file. Other lines are ignored.
fn parse(text: &str) -> VecDeque<JournalEntry> {
    let entries = text.lines().filter_map(|line| serde_json::from_str(line).ok());
    let mut entries: VecDeque<JournalEntry> =
        entries.filter(|entry: &JournalEntry| entry.id <= ID_MAX).collect();
    entries.drain(..entries.len().saturating_sub(ENTRIES_MAX));
    entries
}

/// Reads the end of a file. The first line may be incomplete.
fn read_end(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let len = file.metadata()?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(READ_MAX)))?;
    let mut bytes = Vec::new();
    file.take(READ_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

impl Entries {
    /// Puts the entries of earlier runs before the entries of this run.
    fn prepend(&mut self, before: VecDeque<JournalEntry>) {
        let last = before.back().map_or(0, |entry| entry.id);
        let mut now = std::mem::replace(&mut self.entries, before);
        now.iter_mut().for_each(|entry| entry.id += last);
        self.next += last;
        self.entries.append(&mut now);
        let surplus = self.entries.len().saturating_sub(ENTRIES_MAX);
        self.entries.drain(..surplus);
    }
}

/// The status of a folder, as far as the journal reports it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct FolderSeen {
    word: &'static str,
    sequence: Option<SequenceNumber>,
    receipt: Option<SequenceNumber>,
    errors: u64,
    held: Option<String>,
}

impl FolderSeen {
    fn of(status: &FolderStatus) -> Self {
        let word = match &status.state {
            FolderState::Paused => "paused",
            FolderState::Alarm { .. } => "alarm",
            FolderState::Error { .. } => "error",
            _ => "active",
        };
        Self {
            word,
            sequence: status.manifest_cid.map(|_| status.sequence),
            receipt: status.receipt.map(|receipt| receipt.sequence),
            errors: status.error_count,
            held: status.awaiting_confirmation.clone(),
        }
    }
}

/// Derives entries from status changes.
#[derive(Debug)]
struct Observer {
    journal: Journal,
    folders: BTreeMap<FolderId, FolderSeen>,
    sources: BTreeMap<String, (SourceState, Vec<String>)>,
}

impl Journal {
    /// Returns every entry, the oldest first.
    pub fn entries(&self) -> Vec<JournalEntry> {
        self.0.entries.lock().entries.iter().cloned().collect()
    }

    /// Adds the entries in a file, and writes new entries to it until `stop`.
    pub(crate) async fn save(self, path: PathBuf, stop: CancellationToken) {
        let opened = tokio::task::spawn_blocking(move || JournalFile::open(path)).await;
        let Ok((mut file, before)) = opened else { return };
        self.0.entries.lock().prepend(before);
        loop {
            let is_last = tokio::select! {
                () = self.0.more.notified() => false,
                () = stop.cancelled() => true,
            };
            let (all, new) = {
                let mut entries = self.0.entries.lock();
                let new = std::mem::take(&mut entries.unsaved);
                (entries.entries.iter().cloned().collect::<Vec<_>>(), new)
            };
            if new > 0 {
                let saved = tokio::task::spawn_blocking(move || {
                    if let Err(error) = file.write(&all, new) {
                        let path = file.path.display();
                        tracing::warn!(%path, %error, "cannot write the journal");
                    }
                    file
                });
                let Ok(saved) = saved.await else { return };
                file = saved;
            }
            if is_last {
                return;
            }
        }
    }

    /// Adds an entry that concerns no folder and no device.
    pub(crate) fn note(&self, level: api::NoticeLevel, message: String) {
        self.add(level, message, None, None);
    }

    /// Adds an entry that concerns a folder.
    pub(crate) fn note_folder(&self, level: api::NoticeLevel, message: String, folder: &str) {
        self.add(level, message, Some(folder), None);
    }

    fn add(
        &self,
        level: api::NoticeLevel,
        message: String,
        folder: Option<&str>,
        device: Option<&str>,
    ) {
        let mut entries = self.0.entries.lock();
        entries.next += 1;
        let entry = JournalEntry {
            id: entries.next,
            at: Timestamp::now(),
            level,
            message,
            folder: folder.map(str::to_owned),
            device: device.map(str::to_owned),
        };
        entries.entries.push_back(entry);
        if entries.entries.len() > ENTRIES_MAX {
            entries.entries.pop_front();
        }
        entries.unsaved = (entries.unsaved + 1).min(entries.entries.len());
        drop(entries);
        self.0.more.notify_one();
    }

    /// Adds an entry for every status change of both sides, until `stop`.
    pub(crate) async fn run(self, sync: SyncHandle, backup: BackupHandle, stop: CancellationToken) {
        let (mut folders, mut sources) = (sync.subscribe(), backup.subscribe());
        let mut observer = Observer::new(self);
        let mut is_behind = true;
        loop {
            // At the start, and if events were lost, all statuses are compared.
            if is_behind {
                sync.folders().iter().for_each(|status| observer.folder(status));
                backup.sources().iter().for_each(|status| observer.source(status));
                is_behind = false;
            }
            tokio::select! {
                () = stop.cancelled() => return,
                folder = folders.recv() => match folder {
                    Ok(status) => observer.folder(&status),
                    Err(RecvError::Lagged(_)) => is_behind = true,
                    Err(RecvError::Closed) => return,
                },
                source = sources.recv() => match source {
                    Ok(event) => observer.event(&event),
                    Err(RecvError::Lagged(_)) => is_behind = true,
                    Err(RecvError::Closed) => return,
                },
            }
        }
    }
}

impl Observer {
    fn new(journal: Journal) -> Self {
        journal.add(api::NoticeLevel::Info, "Archivist started.".to_owned(), None, None);
        Self { journal, folders: BTreeMap::new(), sources: BTreeMap::new() }
    }

    fn folder(&mut self, status: &FolderStatus) {
        use api::NoticeLevel::{Error, Info, Warning};
        let now = FolderSeen::of(status);
        let is_new = !self.folders.contains_key(&status.id);
        let before = self.folders.insert(status.id.clone(), now.clone()).unwrap_or_default();
        if before == now {
            return;
        }
        let name = status.name.as_str();
        let note = |level, message: String| self.journal.add(level, message, Some(name), None);
        if is_new {
            note(Info, format!("Watching {name} at {}.", status.path.display()));
        }
        if before.word != now.word {
            match &status.state {
                FolderState::Alarm { text, .. } | FolderState::Error { text, .. } => {
                    note(Error, format!("{name} has stopped: {text}"));
                }
                FolderState::Paused => note(Info, format!("{name} is paused.")),
                _ if matches!(before.word, "paused" | "alarm" | "error") => {
                    note(Info, format!("{name} continues."));
                }
                _ => {}
            }
        }
        if let Some(sequence) = now.sequence
            && now.sequence > before.sequence
            && !is_new
        {
            let files = status.files;
            note(Info, format!("Snapshot {sequence} of {name} was published: {files} files."));
        }
        if let Some(sequence) = now.receipt
            && now.receipt > before.receipt
            && !is_new
        {
            note(Info, format!("The backup server confirmed snapshot {sequence} of {name}."));
        }
        if now.errors > before.errors {
            let first = status.errors.first().map(|problem| {
                format!(": {}: {}", String::from_utf8_lossy(problem.path.as_bytes()), problem.what)
            });
            let first = first.unwrap_or_default();
            note(Warning, format!("Cannot read {} files of {name}{first}", now.errors));
        } else if now.errors == 0 && before.errors > 0 {
            note(Info, format!("All files of {name} are readable again."));
        }
        if let (None, Some(held)) = (&before.held, &now.held) {
            note(Warning, format!("{name}: {held}"));
        }
    }

    fn source(&mut self, status: &SourceStatus) {
        use api::NoticeLevel::{Error, Info};
        let name = status.name.as_str();
        let now = (status.state, status.errors.clone());
        let before = self.sources.insert(name.to_owned(), now);
        let note = |level, message: String| self.journal.add(level, message, None, Some(name));
        let is_bad = |state| matches!(state, SourceState::Failed | SourceState::Refused);
        let was_bad = before.as_ref().is_some_and(|(state, _)| is_bad(*state));
        if before.is_none() {
            note(Info, format!("{name} is a source of this backup server."));
        }
        if is_bad(status.state) && before.as_ref().map(|(state, _)| *state) != Some(status.state) {
            let why = if status.errors.is_empty() {
                status.detail.clone().unwrap_or_default()
            } else {
                status.errors.join("; ")
            };
            note(Error, format!("Cannot back up {name}: {why}"));
        } else if was_bad && status.state == SourceState::Idle {
            note(Info, format!("{name} is up to date again."));
        } else if was_bad && !is_bad(status.state) {
            // A new attempt is running. Its failure must not be reported again.
            if let (Some(seen), Some(before)) = (self.sources.get_mut(name), before) {
                seen.0 = before.0;
            }
        }
    }

    fn event(&mut self, event: &BackupEvent) {
        use api::NoticeLevel::Info;
        match event {
            BackupEvent::Source(status) => self.source(status),
            BackupEvent::SourceRemoved { name } => {
                self.sources.remove(name);
                let message = format!("{name} is no longer a source. Its snapshots stay.");
                self.journal.add(Info, message, None, Some(name));
            }
            BackupEvent::SnapshotCommitted { source_name, folder_name, sequence, .. } => {
                let message =
                    format!("Snapshot {sequence} of {folder_name} of {source_name} is complete.");
                self.journal.add(Info, message, Some(folder_name), Some(source_name));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_entries_go() {
        let journal = Journal::default();
        for number in 0..ENTRIES_MAX + 5 {
            journal.add(api::NoticeLevel::Info, number.to_string(), None, None);
        }
        let entries = journal.entries();
        assert_eq!(entries.len(), ENTRIES_MAX);
        assert_eq!(entries[0].message, "5");
        assert!(entries.windows(2).all(|pair| pair[0].id < pair[1].id));
    }

    fn info(journal: &Journal, message: &str) {
        journal.add(api::NoticeLevel::Info, message.to_owned(), Some("docs"), None);
    }

    /// Runs a journal on a file, and returns its messages.
    async fn run(path: &Path, add: impl FnOnce(&Journal)) -> Vec<String> {
        let (journal, stop) = (Journal::default(), CancellationToken::new());
        add(&journal);
        stop.cancel();
        journal.clone().save(path.to_owned(), stop).await;
        let entries = journal.entries();
        assert!(entries.windows(2).all(|pair| pair[0].id < pair[1].id), "{entries:?}");
        entries.into_iter().map(|entry| entry.message).collect()
    }

    #[tokio::test]
    async fn a_journal_outlives_its_instance_and_what_is_damaged_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.jsonl");
        assert_eq!(run(&path, |journal| info(journal, "a")).await, ["a"]);
        let added = run(&path, |journal| ["b", "c"].iter().for_each(|m| info(journal, m)));
        assert_eq!(added.await, ["a", "b", "c"]);
        // A crash while a line was written, and lines of something else.
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.truncate(bytes.len() - 5);
        bytes.extend(b"\nmine\n\xff\xfe\n{}\n");
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(run(&path, |journal| info(journal, "d")).await, ["a", "b", "d"]);
        assert_eq!(run(&path, |_| {}).await, ["a", "b", "d"]);
        // A journal whose file cannot be written still works.
        let nowhere = dir.path().join("nowhere/journal.jsonl");
        assert_eq!(run(&nowhere, |journal| info(journal, "e")).await, ["e"]);
    }

    #[tokio::test]
    async fn the_file_does_not_grow_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.jsonl");
        for round in 0..4 {
            let added = run(&path, |journal| {
                (0..1500).for_each(|number| info(journal, &format!("{round} {number}")));
            });
            let added = added.await;
            assert_eq!(added.len(), ENTRIES_MAX.min(1500 * (round + 1)));
            assert_eq!(added.last().unwrap(), &format!("{round} 1499"));
            let lines = std::fs::read_to_string(&path).unwrap().lines().count();
            assert!(lines <= LINES_MAX, "{lines}");
        }
    }

    fn source(state: SourceState, errors: &[&str]) -> SourceStatus {
        SourceStatus {
            name: "Desktop".into(),
            peer_id: net::Keypair::generate_secp256k1().public().to_peer_id(),
            manifest_server_url: "http://127.0.0.1:8085".into(),
            state,
            detail: None,
            last_poll: None,
            poll_failures: 0,
            long_poll: false,
            errors: errors.iter().map(|error| (*error).to_owned()).collect(),
            can_be_accepted: false,
            pulls: Vec::new(),
            folders: Vec::new(),
        }
    }

    #[test]
    fn a_failure_is_told_once_and_its_end_too() {
        let journal = Journal::default();
        let mut observer = Observer::new(journal.clone());
        for state in [
            SourceState::Starting,
            SourceState::Failed,
            SourceState::Polling,
            SourceState::Failed,
            SourceState::Polling,
            SourceState::Idle,
            SourceState::Polling,
            SourceState::Idle,
        ] {
            observer.source(&source(state, &["no route"]));
        }
        let told: Vec<String> = journal.entries().into_iter().map(|entry| entry.message).collect();
        assert_eq!(
            told,
            [
                "Archivist started.",
                "Desktop is a source of this backup server.",
                "Cannot back up Desktop: no route",
                "Desktop is up to date again.",
            ]
        );
    }

    #[test]
    fn fuzz_journal() {
        let entry = |id: u64| JournalEntry {
            id,
            at: Timestamp::UNIX_EPOCH,
            level: api::NoticeLevel::Warning,
            message: "Cannot read 3 files.".into(),
            folder: Some("docs".into()),
            device: None,
        };
        let text = [1, u64::MAX].map(|id| serde_json::to_string(&entry(id)).unwrap()).join("\n");
        fuzzing::target!(&[text], |bytes: &[u8]| {
            let before = parse(&String::from_utf8_lossy(bytes));
            let mut entries =
                Entries { entries: [entry(1), entry(2)].into(), ..Entries::default() };
            entries.prepend(before);
            assert!(entries.entries.len() <= ENTRIES_MAX);
        });
    }
}

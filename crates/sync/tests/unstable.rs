//! Files that keep changing: which of their contents are backed up, and that they delay no other
//! file.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::fs;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use common::{Setup, noise};
use sync::Clock as _;
use types::{EntryKind, RelPath};

fn path(text: &str) -> RelPath {
    RelPath::new(text).unwrap()
}

fn mtime_ns(path: &std::path::Path) -> i128 {
    let metadata = fs::metadata(path).unwrap();
    i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec())
}

/// A thread that writes to a file until it is told to end or the test has ended.
struct Writer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<u64>>,
}

impl Writer {
    /// Starts a thread that calls `write` with the file and 1, 2, …; returns after its first
    /// write.
    fn of(path: PathBuf, mut write: impl FnMut(&fs::File, u64) + Send + 'static) -> Self {
        let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, count) = (stop.clone(), written.clone());
        let file = fs::File::options().write(true).open(path).unwrap();
        let thread = std::thread::spawn(move || {
            let mut number = 0;
            while !stopped.load(Ordering::Relaxed) {
                number += 1;
                write(&file, number);
                count.store(number, Ordering::Relaxed);
            }
            number
        });
        while written.load(Ordering::Relaxed) == 0 && !thread.is_finished() {
            std::thread::yield_now();
        }
        Self { stop, thread: Some(thread) }
    }

    /// Ends the thread. Returns the number of its writes.
    fn end(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Writes to "busy" continuously, and waits until several attempts to read it have failed.
async fn fail_to_read_busy(setup: &mut Setup) -> Writer {
    let writer = Writer::of(setup.path("busy"), |file, number| {
        file.write_all_at(&number.to_le_bytes(), 0).unwrap();
    });
    let read = setup.files_read();
    setup.until("several attempts", |status| status.files_read > read + 5).await;
    writer
}

/// Changes another file, and waits for the manifest with it.
async fn publish_another(setup: &mut Setup, round: u32) {
    let content = format!("round {round}");
    setup.write("new", &content);
    setup.until_published("new", content.as_bytes()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_rewritten_continuously_keeps_its_last_readable_content() {
    let mut setup = Setup::stopped();
    setup.tuning.unstable_after = Duration::from_millis(300);
    setup.tuning.retry_min = Duration::from_millis(20);
    setup.tuning.retry_max = Duration::from_millis(50);
    setup.write("busy", noise(1, 8_000_000));
    setup.write("calm", "calm");
    setup.start();
    let first = setup.calm().await;
    // The writer changes both ends together, so that a mixture of two states is visible.
    let writer = Writer::of(setup.path("busy"), |file, number| {
        file.write_all_at(&number.to_le_bytes(), 0).unwrap();
        file.write_all_at(&number.to_le_bytes(), 7_999_992).unwrap();
    });
    // (The system may interrupt the writer for a while, so that the file can be read; then the
    // test continues.)
    let end = std::time::Instant::now() + Duration::from_secs(60);
    let mut last = first;
    for round in 0.. {
        assert!(std::time::Instant::now() < end, "the file could always be read");
        setup.write("calm", format!("round {round}"));
        setup.clock.advance_hours(1);
        let saved = mtime_ns(&setup.path("busy"));
        let moment = setup.clock.now();
        let next = setup.sync().await;
        assert!(next.sequence_number > last.sequence_number, "other files wait for it");
        let status = setup.status();
        let busy = &setup.entries(&next)[&path("busy")];
        let is_covered = status.error_count == 0 && status.covers_until >= Some(moment);
        if is_covered && status.sequence == next.sequence_number {
            assert!(busy.metadata.mtime_ns >= saved, "an older state is reported as covered");
        }
        if let Some(what) = &busy.error {
            assert!(what.contains("keeps changing"));
            break;
        }
        last = next;
    }
    let number = writer.end();
    setup.until("the end of the error", |status| status.error_count == 0).await;
    let last = setup.sync().await;
    setup.check(&last);
    let EntryKind::File { cid, .. } = setup.entries(&last)[&path("busy")].kind else { panic!() };
    assert_eq!(setup.content(cid).unwrap()[..8], number.to_le_bytes());
}

/// A file that is due to be read again was replaced by a known file, and needs no reading. It
/// must be resolved: otherwise it would stay due permanently, before all other work.
#[tokio::test(flavor = "multi_thread")]
async fn a_changing_file_may_be_resolved_without_reading() {
    let mut setup = Setup::stopped();
    // The file is always due.
    setup.tuning.retry_min = Duration::ZERO;
    setup.tuning.retry_max = Duration::ZERO;
    setup.write("busy", noise(1, 8_000_000));
    setup.write("other", "other");
    setup.start();
    setup.calm().await;
    let writer = fail_to_read_busy(&mut setup).await;
    fs::rename(setup.path("other"), setup.path("busy")).unwrap();
    setup.until("the rename", |status| status.files == 1).await;
    for round in 0..3 {
        publish_another(&mut setup, round).await;
    }
    writer.end();
    setup.check(&setup.sync().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_beginning_of_a_file_that_only_grows_is_backed_up() {
    let mut setup = Setup::stopped();
    setup.tuning.unstable_after = Duration::from_millis(100);
    setup.tuning.retry_min = Duration::from_millis(10);
    setup.tuning.retry_max = Duration::from_millis(50);
    let before = noise(1, 6_000_000);
    setup.write("log", &before);
    let len = before.len() as u64;
    let writer = Writer::of(setup.path("log"), move |file, number| {
        file.write_all_at(b"a line\n", len + 7 * (number - 1)).unwrap();
    });
    setup.start();
    // The beginning is served although the file keeps growing. (If the writer paused, a manifest
    // may name blocks in the file; a request for them reports that the file has grown.)
    let end = std::time::Instant::now() + Duration::from_secs(60);
    let (content, size) = loop {
        assert!(std::time::Instant::now() < end, "the log was never served");
        tokio::time::sleep(Duration::from_millis(5)).await;
        let Some(published) = setup.published().last().cloned() else { continue };
        let entry = setup.entries(&published).remove(&path("log"));
        let Some(EntryKind::File { cid, size, .. }) = entry.map(|entry| entry.kind) else {
            continue;
        };
        if let Ok(content) = setup.content(cid) {
            break (content, size);
        }
    };
    writer.end();
    assert_eq!(content.len() as u64, size);
    assert_eq!(content[..before.len()], before[..]);
    let now = fs::read(setup.path("log")).unwrap();
    assert!(now.starts_with(&content));
}

/// If a file grows and is also written in the middle, its beginning may be a state that it
/// never had, and is not marked as complete.
#[tokio::test(flavor = "multi_thread")]
async fn the_beginning_of_a_file_is_not_marked_as_complete() {
    const BEFORE: usize = 6_000_000;
    let mut setup = Setup::stopped();
    setup.tuning.unstable_after = Duration::from_millis(100);
    setup.tuning.retry_min = Duration::from_millis(10);
    setup.tuning.retry_max = Duration::from_millis(20);
    setup.write("base", noise(1, BEFORE));
    let mut marked = std::time::Instant::now();
    let writer = Writer::of(setup.path("base"), move |file, number| {
        let count = number - 1;
        // The number of numbers that follow, written behind the part that is read first.
        if marked.elapsed() > Duration::from_millis(100) {
            file.write_all_at(&count.to_le_bytes(), BEFORE as u64 - 8).unwrap();
            marked = std::time::Instant::now();
        }
        file.write_all_at(&count.to_le_bytes(), BEFORE as u64 + 8 * count).unwrap();
        // (So that the file does not grow faster than it is read.)
        std::thread::sleep(Duration::from_millis(1));
    });
    setup.start();
    let end = std::time::Instant::now() + Duration::from_secs(60);
    let (mut seen, mut beginnings) = (0, 0);
    while beginnings < 3 {
        assert!(std::time::Instant::now() < end, "the beginning was never backed up");
        tokio::time::sleep(Duration::from_millis(5)).await;
        let published = setup.published();
        if published.len() == seen {
            continue;
        }
        seen = published.len();
        let Some(entry) = setup.entries(&published[seen - 1]).remove(&path("base")) else {
            continue;
        };
        let EntryKind::File { cid, .. } = entry.kind else { panic!("{entry:?}") };
        match &entry.error {
            Some(what) => beginnings += u32::from(what.contains("only its beginning")),
            None => {
                let Ok(content) = setup.content(cid) else { continue };
                let follow = (content.len() - BEFORE) / 8;
                let said = u64::from_le_bytes(content[BEFORE - 8..BEFORE].try_into().unwrap());
                // (Until the first mark is written, its place contains noise.)
                let is_marked = content[BEFORE - 8..BEFORE] != noise(1, BEFORE)[BEFORE - 8..];
                assert!(!is_marked || said <= follow as u64, "{said} of {follow}: never a state");
            }
        }
    }
    let errors = setup.status().errors.clone();
    writer.end();
    assert!(errors.iter().all(|error| error.path == path("base")), "{errors:?}");
    // After the last write, the file is complete.
    setup.until("the end of the error", |status| status.error_count == 0).await;
    setup.check(&setup.sync().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changing_file_that_is_excluded_is_not_read_again() {
    let mut setup = Setup::stopped();
    setup.tuning.retry_min = Duration::from_millis(20);
    setup.tuning.retry_max = Duration::from_millis(20);
    setup.write("busy", noise(1, 8_000_000));
    setup.start();
    setup.calm().await;
    let writer = fail_to_read_busy(&mut setup).await;
    setup.settings.send_modify(|settings| settings.folders[0].exclude = vec!["busy".into()]);
    setup.until("its end", |status| status.files == 0).await;
    writer.end();
    for round in 0..5 {
        publish_another(&mut setup, round).await;
        assert_eq!(setup.names(setup.published().last().unwrap()), ["new"]);
    }
}

/// A log is read at a longer interval than other files. The status covers no line that was not
/// read.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changes_all_the_time_rests_and_other_files_do_not() {
    let mut setup = Setup::stopped();
    let hour = Duration::from_hours(1);
    setup.tuning.publish_interval_max = hour;
    setup.settings.send_modify(|settings| {
        settings.manifest_max_delay = hour;
        settings.manifest_update_threshold = u32::MAX;
    });
    setup.write("log", "a line\n");
    setup.start();
    setup.calm().await;
    let append = || {
        use std::io::Write as _;
        let mut file = fs::File::options().append(true).open(setup.path("log")).unwrap();
        file.write_all(b"a line\n").unwrap();
    };
    // The first version is in the manifest, the next ones in none.
    for lines in 2..8 {
        append();
        setup.until("the line", |status| status.bytes == 7 * lines).await;
    }
    let unread = setup.clock.now();
    append();
    setup.write("other", "other");
    setup.until("the other file", |status| status.files == 2 && status.bytes > 7 * 7).await;
    assert_eq!(setup.status().bytes, 7 * 7 + 5, "the log does not rest");
    let sequence = setup.status().sequence;
    setup.settings.send_modify(|settings| settings.manifest_max_delay = Duration::ZERO);
    setup.write("other", "other again");
    setup.until_published("other", b"other again").await;
    let status = setup.status();
    assert!(status.sequence > sequence && status.bytes == 7 * 7 + 11, "{status:?}");
    assert!(status.covers_until.is_some_and(|covered| covered < unread), "{status:?}");
    // A request reads everything.
    setup.check(&setup.sync().await);
    assert!(setup.status().covers_until > Some(unread));
}

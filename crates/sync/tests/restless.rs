//! Files that never stand still: what is taken of them, and that they hold up
//! nothing else.

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
use types::{EntryKind, Hash, RelPath};

fn path(text: &str) -> RelPath {
    RelPath::new(text).unwrap()
}

fn mtime_ns(path: &std::path::Path) -> i128 {
    let metadata = fs::metadata(path).unwrap();
    i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec())
}

/// A thread that writes to a file again and again, until it is ended or the
/// test is over.
struct Writer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<u64>>,
}

impl Writer {
    /// Calls `write` with the file and 1, 2, …; returns when it has written once.
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

    /// Ends it; how often it has written.
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

/// Writes to "busy" all the time, and waits until it was tried some times.
async fn tried_in_vain(setup: &mut Setup) -> Writer {
    let writer = Writer::of(setup.path("busy"), |file, number| {
        file.write_all_at(&number.to_le_bytes(), 0).unwrap();
    });
    let read = setup.files_read();
    setup.until("some tries", |status| status.files_read > read + 5).await;
    writer
}

/// Changes another file, and waits for the manifest with it.
async fn publish_another(setup: &mut Setup, round: u32) {
    let content = format!("round {round}");
    let wanted = Hash::of(content.as_bytes());
    setup.write("new", content);
    // One that says what was before may come first.
    let has_it = || {
        let entries = setup.entries(setup.published().last()?);
        let kind = &entries.get(&path("new"))?.kind;
        Some(matches!(kind, EntryKind::File { blake3, .. } if *blake3 == wanted))
    };
    setup.until("the manifest with it", |_| has_it().unwrap_or(false)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_rewritten_all_the_time_keeps_its_last_good_state() {
    let mut setup = Setup::stopped();
    setup.tuning.patience = Duration::from_millis(300);
    setup.tuning.retry_min = Duration::from_millis(20);
    setup.tuning.retry_max = Duration::from_millis(50);
    setup.write("busy", noise(1, 8_000_000));
    setup.write("calm", "calm");
    setup.start();
    let first = setup.calm().await;
    // Front and back change together, so that a mixture would show.
    let writer = Writer::of(setup.path("busy"), |file, number| {
        file.write_all_at(&number.to_le_bytes(), 0).unwrap();
        file.write_all_at(&number.to_le_bytes(), 7_999_992).unwrap();
    });
    // (The writer may be held up for a while by the system, and a whole state
    // be read then; it goes on.)
    let end = std::time::Instant::now() + Duration::from_secs(60);
    let mut last = first;
    for round in 0.. {
        assert!(std::time::Instant::now() < end, "the file was always read well");
        setup.write("calm", format!("round {round}"));
        setup.clock.advance_hours(1);
        let saved = mtime_ns(&setup.path("busy"));
        let moment = setup.clock.now();
        let next = setup.sync().await;
        assert!(next.sequence_number > last.sequence_number, "others wait for it");
        let status = setup.status();
        let busy = &setup.entries(&next)[&path("busy")];
        let is_covered = status.error_count == 0 && status.covers_until >= Some(moment);
        if is_covered && status.sequence == next.sequence_number {
            assert!(busy.metadata.mtime_ns >= saved, "an older state is said to be the newest");
        }
        if let Some(what) = &busy.error {
            assert!(what.contains("changes all the time"));
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

/// A file that was to be tried again is another by then, and needs no reading:
/// it is done with, or it would be due for ever, before anything else.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_to_be_tried_again_may_be_settled_without_reading() {
    let mut setup = Setup::stopped();
    // It is always due.
    setup.tuning.retry_min = Duration::ZERO;
    setup.tuning.retry_max = Duration::ZERO;
    setup.write("busy", noise(1, 8_000_000));
    setup.write("other", "other");
    setup.start();
    setup.calm().await;
    let writer = tried_in_vain(&mut setup).await;
    fs::rename(setup.path("other"), setup.path("busy")).unwrap();
    setup.until("the rename", |status| status.files == 1).await;
    for round in 0..3 {
        publish_another(&mut setup, round).await;
    }
    writer.end();
    setup.check(&setup.sync().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_file_that_only_grows_its_beginning_is_taken() {
    let mut setup = Setup::stopped();
    setup.tuning.patience = Duration::from_millis(100);
    setup.tuning.retry_min = Duration::from_millis(10);
    setup.tuning.retry_max = Duration::from_millis(50);
    let before = noise(1, 6_000_000);
    setup.write("log", &before);
    let len = before.len() as u64;
    let writer = Writer::of(setup.path("log"), move |file, number| {
        file.write_all_at(b"a line\n", len + 7 * (number - 1)).unwrap();
    });
    setup.start();
    // It is served although the file goes on growing. (Where the writer paused,
    // a manifest may have the file in place; asking tells that it has grown.)
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

/// A file that grows and is written to in the middle: its beginning may be a
/// state that it never had, and is not called whole.
#[tokio::test(flavor = "multi_thread")]
async fn the_beginning_of_a_file_is_not_called_whole() {
    const BEFORE: usize = 6_000_000;
    let mut setup = Setup::stopped();
    setup.tuning.patience = Duration::from_millis(100);
    setup.tuning.retry_min = Duration::from_millis(10);
    setup.tuning.retry_max = Duration::from_millis(20);
    setup.write("base", noise(1, BEFORE));
    let mut marked = std::time::Instant::now();
    let writer = Writer::of(setup.path("base"), move |file, number| {
        let count = number - 1;
        // How many numbers follow, written behind what is read first.
        if marked.elapsed() > Duration::from_millis(100) {
            file.write_all_at(&count.to_le_bytes(), BEFORE as u64 - 8).unwrap();
            marked = std::time::Instant::now();
        }
        file.write_all_at(&count.to_le_bytes(), BEFORE as u64 + 8 * count).unwrap();
        // (So that it does not grow faster than it is read.)
        std::thread::sleep(Duration::from_millis(1));
    });
    setup.start();
    let end = std::time::Instant::now() + Duration::from_secs(60);
    let (mut seen, mut beginnings) = (0, 0);
    while beginnings < 3 {
        assert!(std::time::Instant::now() < end, "its beginning was never taken");
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
            Some(what) => beginnings += u32::from(what.contains("its beginning")),
            None => {
                let Ok(content) = setup.content(cid) else { continue };
                let follow = (content.len() - BEFORE) / 8;
                let said = u64::from_le_bytes(content[BEFORE - 8..BEFORE].try_into().unwrap());
                // (The first mark is noise until it is written.)
                let is_marked = content[BEFORE - 8..BEFORE] != noise(1, BEFORE)[BEFORE - 8..];
                assert!(!is_marked || said <= follow as u64, "{said} of {follow}: never a state");
            }
        }
    }
    let errors = setup.status().errors.clone();
    writer.end();
    assert!(errors.iter().all(|error| error.path == path("base")), "{errors:?}");
    // When it is still, it is whole.
    setup.until("the end of the error", |status| status.error_count == 0).await;
    setup.check(&setup.sync().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_left_out_by_now_is_not_tried_again() {
    let mut setup = Setup::stopped();
    setup.tuning.retry_min = Duration::from_millis(20);
    setup.tuning.retry_max = Duration::from_millis(20);
    setup.write("busy", noise(1, 8_000_000));
    setup.start();
    setup.calm().await;
    let writer = tried_in_vain(&mut setup).await;
    setup.settings.send_modify(|settings| settings.folders[0].exclude = vec!["busy".into()]);
    setup.until("its end", |status| status.files == 0).await;
    writer.end();
    for round in 0..5 {
        publish_another(&mut setup, round).await;
        assert_eq!(setup.names(setup.published().last().unwrap()), ["new"]);
    }
}

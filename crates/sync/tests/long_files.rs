//! Long files, which are read beside the scans: other files do not wait for them, and no status
//! says more than was read.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::Duration;

use common::{Setup, id, noise};
use jiff::Timestamp;
use parking_lot::{Condvar, Mutex};
use sync::{Clock, Confirmations, FolderState, Receipt, SyncOptions, SyncService, SystemClock};
use types::{EntryKind, FolderId, PublishedManifest, RelPath};

const LONG: u64 = 1_000_000;

/// A clock that stops the reader of long files before it opens a file, while the gate is closed.
#[derive(Debug, Default)]
struct GateClock {
    real: SystemClock,
    is_closed: Mutex<bool>,
    opened: Condvar,
}

impl GateClock {
    fn close(&self) {
        *self.is_closed.lock() = true;
    }

    fn open(&self) {
        *self.is_closed.lock() = false;
        self.opened.notify_all();
    }
}

impl Clock for GateClock {
    fn now(&self) -> Timestamp {
        self.real.now()
    }

    fn elapsed(&self) -> Duration {
        self.real.elapsed()
    }

    fn file_time(&self) -> Timestamp {
        let mut is_closed = self.is_closed.lock();
        while *is_closed && std::thread::current().name() == Some("sync-long") {
            self.opened.wait(&mut is_closed);
        }
        // No file was changed recently enough to be read a second time.
        Timestamp::now() + Duration::from_secs(3600)
    }
}

/// The manifest that the backup server has confirmed.
#[derive(Debug, Default)]
struct Confirmed(Mutex<Option<Receipt>>);

impl Confirmed {
    fn set(&self, published: &PublishedManifest) {
        *self.0.lock() = Some(Receipt {
            sequence: published.sequence_number,
            manifest_cid: published.manifest_cid,
            at: Timestamp::now(),
        });
    }
}

impl Confirmations for Confirmed {
    fn newest(&self, _: &FolderId) -> Option<Receipt> {
        *self.0.lock()
    }
}

struct Gated {
    setup: Setup,
    gate: Arc<GateClock>,
    confirmed: Arc<Confirmed>,
}

impl std::ops::Deref for Gated {
    type Target = Setup;

    fn deref(&self) -> &Setup {
        &self.setup
    }
}

impl Gated {
    fn stopped() -> Self {
        let mut setup = Setup::stopped();
        setup.tuning.long_len = LONG;
        Self { setup, gate: Arc::default(), confirmed: Arc::default() }
    }

    fn start(&mut self) {
        let options = SyncOptions {
            clock: self.gate.clone(),
            confirmations: self.confirmed.clone(),
            ..self.setup.options()
        };
        self.setup.service = Some(SyncService::start(options).unwrap());
    }

    /// A folder whose first scan is reading a long file; a short one is in a manifest.
    async fn reading_long() -> Self {
        let mut gated = Self::stopped();
        gated.gate.close();
        gated.write("long", noise(1, 3_000_000));
        gated.write("short", "short");
        gated.start();
        gated.until_published("short", b"short").await;
        gated
    }

    /// A folder with a long file and a short one, both in a manifest.
    async fn scanned() -> Self {
        let mut gated = Self::stopped();
        gated.write("long", noise(1, 3_000_000));
        gated.write("short", "short");
        gated.start();
        let published = gated.sync().await;
        gated.check(&published);
        gated
    }

    fn last(&self) -> PublishedManifest {
        self.published().last().unwrap().clone()
    }

    fn cids(&self, published: &PublishedManifest) -> BTreeMap<String, types::Cid> {
        let cid = |kind| match kind {
            EntryKind::File { cid, .. } => Some(cid),
            _ => None,
        };
        let entries = self.entries(published).into_iter();
        entries.filter_map(|(path, entry)| Some((path.to_string(), cid(entry.kind)?))).collect()
    }

    /// Waits until the status covers a time. A scan covers what was saved 100 ms before it, so
    /// the short file is saved until one does.
    async fn until_covered(&self, time: Timestamp) {
        for round in 0..1000 {
            if self.status().covers_until >= Some(time) {
                return;
            }
            let content = format!("covered {round}");
            self.write("short", &content);
            self.until_published("short", content.as_bytes()).await;
        }
        panic!("{:?}", self.status());
    }

    /// Replaces the long file in one step, so that no scan sees it half written.
    fn replace_long(&self, seed: u64, len: usize) {
        let aside = self.dir.path().join("aside");
        fs::write(&aside, noise(seed, len)).unwrap();
        fs::rename(aside, self.path("long")).unwrap();
    }

    /// Writes to the long file and waits until the lane has it.
    async fn change_long(&self, seed: u64) {
        let file = fs::File::options().write(true).open(self.path("long")).unwrap();
        file.write_all_at(&noise(seed, 100), 1_500_000).unwrap();
        self.until("the lane", |status| status.progress.in_work > 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_file_does_not_wait_for_a_long_one() {
    let gated = Gated::scanned().await;
    let before = gated.cids(&gated.last());
    gated.gate.close();
    let changed = Timestamp::now();
    gated.change_long(2).await;
    for round in 0..3 {
        let content = format!("round {round}");
        gated.write("short", &content);
        gated.until_published("short", content.as_bytes()).await;
        let published = gated.last();
        // The long file has its former content, which a backup server can still fetch in part.
        assert_eq!(gated.cids(&published)["long"], before["long"]);
        let status = gated.status();
        assert!(status.covers_until < Some(changed), "{status:?}");
        assert_eq!(status.error_count, 0);
    }
    gated.gate.open();
    let now = fs::read(gated.path("long")).unwrap();
    gated.until_published("long", &now).await;
    gated.until_covered(changed).await;
    gated.until("the end", |status| status.state == FolderState::Idle).await;
    gated.check(&gated.last());
}

#[tokio::test(flavor = "multi_thread")]
async fn during_a_first_scan_short_files_are_published_as_a_part() {
    let gated = Gated::reading_long().await;
    let part = gated.last();
    assert!(gated.manifest(&part).0.held.unwrap().contains("first scan"));
    assert_eq!(gated.names(&part), ["short"]);
    // A save is noticed although the first scan has not ended.
    gated.write("new", "new");
    gated.until_published("new", b"new").await;
    assert!(gated.manifest(&gated.last()).0.held.is_some());
    let status = gated.status();
    assert_eq!((&status.state, status.covers_until), (&FolderState::Scanning, None));
    let handle = gated.handle();
    let requested = tokio::spawn(async move { handle.scan_now(&id("docs")).await });
    gated.gate.open();
    let complete = requested.await.unwrap().unwrap();
    assert_eq!(gated.names(&complete), ["long", "new", "short"]);
    assert_eq!(gated.manifest(&complete).0.held, None);
    gated.check(&complete);
    gated.until("the end", |status| status.covers_until.is_some()).await;
}

/// The next start finds the file again: no state says that it was read.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_in_the_middle_reads_the_file_again() {
    let mut gated = Gated::reading_long().await;
    gated.gate.open();
    gated.setup.stop().await;
    gated.start();
    let published = gated.sync().await;
    assert_eq!(gated.manifest(&published).0.held, None);
    gated.check(&published);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_during_the_read_is_read_again() {
    let gated = Gated::scanned().await;
    gated.gate.close();
    gated.change_long(2).await;
    let changed = Timestamp::now();
    let file = fs::File::options().write(true).open(gated.path("long")).unwrap();
    file.write_all_at(b"later", 7).unwrap();
    gated.write("short", "between");
    gated.until_published("short", b"between").await;
    assert!(gated.status().covers_until < Some(changed));
    gated.gate.open();
    gated.until_covered(changed).await;
    gated.check(&gated.last());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_file_that_goes_or_gets_names_meanwhile_is_recorded_as_it_is() {
    let gated = Gated::scanned().await;
    gated.write("gone", noise(3, 2_000_000));
    gated.sync().await;
    gated.gate.close();
    gated.change_long(2).await;
    gated.write("gone", noise(4, 2_000_000));
    gated.write("born", noise(5, 2_000_000));
    gated.until("three files", |status| status.progress.in_work == 3).await;
    fs::remove_file(gated.path("gone")).unwrap();
    fs::rename(gated.path("born"), gated.path("other")).unwrap();
    fs::hard_link(gated.path("long"), gated.path("second")).unwrap();
    gated.write("short", "last");
    gated.until_published("short", b"last").await;
    gated.gate.open();
    let published = gated.sync().await;
    assert_eq!(gated.names(&published), ["long", "other", "second", "short"]);
    gated.check(&published);
    let cids = gated.cids(&published);
    assert_eq!(cids["long"], cids["second"]);
    assert_eq!(gated.status().error_count, 0);
}

/// Everything else is covered then.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_read_for_long_is_on_the_error_list() {
    let mut gated = Gated::stopped();
    gated.setup.tuning.unstable_after = Duration::from_millis(50);
    gated.write("long", noise(1, 3_000_000));
    gated.start();
    gated.sync().await;
    gated.gate.close();
    gated.change_long(2).await;
    gated.until("the entry", |status| status.error_count == 1).await;
    let errors = gated.status().errors.clone();
    assert!(errors[0].path == RelPath::new("long").unwrap(), "{errors:?}");
    assert!(errors[0].what.contains("still being read"), "{errors:?}");
    gated.until_covered(Timestamp::now()).await;
    assert_eq!(gated.names(&gated.last()), ["long", "short"]);
    gated.gate.open();
    gated.until("the end", |status| status.error_count == 0).await;
    gated.check(&gated.sync().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_folder_reads_nothing() {
    let gated = Gated::scanned().await;
    gated.gate.close();
    gated.change_long(2).await;
    let handle = gated.handle();
    let requested = tokio::spawn(async move { handle.scan_now(&id("docs")).await });
    gated.settings.send_modify(|settings| settings.folders[0].paused = true);
    requested.await.unwrap().unwrap_err();
    gated.gate.open();
    gated.until("the pause", |status| status.state == FolderState::Paused).await;
    assert_eq!(gated.status().progress.in_work, 0);
    gated.settings.send_modify(|settings| settings.folders[0].paused = false);
    gated.until("its end", |status| status.state != FolderState::Paused).await;
    gated.check(&gated.sync().await);
}

/// Publishes a second version of the long file, which the backup server does not get before the
/// third one overwrites it. Returns the lane with the third one, which is not read.
async fn with_lost_version(is_confirmed: bool) -> (Gated, types::Cid) {
    let gated = Gated::scanned().await;
    if is_confirmed {
        gated.confirmed.set(&gated.last());
    }
    gated.replace_long(2, 3_000_000);
    gated.sync().await;
    let lost = gated.cids(&gated.last())["long"];
    gated.gate.close();
    gated.replace_long(3, 3_100_000);
    gated.until("the lane", |status| status.progress.in_work > 0).await;
    gated.content(lost).unwrap_err();
    (gated, lost)
}

/// Without the replacement, the backup server could complete no manifest until the long file was
/// read, which may take hours, or is impossible while the file is written to.
#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_was_overwritten_too_early_is_replaced_by_the_confirmed_one() {
    let (gated, lost) = with_lost_version(true).await;
    let confirmed = gated.cids(&gated.published()[0])["long"];
    gated.until("the error", |status| status.error_count == 1).await;
    let what = &gated.status().errors[0].what;
    assert!(what.contains("an earlier content stays"), "{what}");
    gated.write("short", "beside it");
    gated.until_published("short", b"beside it").await;
    let entry = gated.entries(&gated.last()).remove(&RelPath::new("long").unwrap()).unwrap();
    let EntryKind::File { cid, size, .. } = entry.kind else { panic!("{entry:?}") };
    assert!(cid == confirmed && cid != lost);
    assert_eq!((size, entry.error.as_ref()), (3_000_000, Some(what)));
    gated.gate.open();
    gated.until_published("long", &noise(3, 3_100_000)).await;
    let published = gated.sync().await;
    gated.check(&published);
    assert_eq!(gated.status().error_count, 0);
    // The root of the confirmed manifest keeps its entries known.
    assert!(published.sequence_number.0 > 3);
    let roots = gated.store.roots("manifest/docs/");
    assert!(roots.len() == 3 && roots.iter().any(|(name, _)| name.ends_with("/1")), "{roots:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_was_overwritten_before_any_was_confirmed_is_left_out() {
    let (gated, _) = with_lost_version(false).await;
    gated.until("the error", |status| status.error_count == 1).await;
    let what = &gated.status().errors[0].what;
    assert!(what.contains("not in the backup yet"), "{what}");
    gated.write("short", "beside it");
    gated.until_published("short", b"beside it").await;
    assert_eq!(gated.names(&gated.last()), ["short"]);
    gated.gate.open();
    gated.until_published("long", &noise(3, 3_100_000)).await;
    let published = gated.sync().await;
    gated.check(&published);
    assert_eq!(gated.status().error_count, 0);
}

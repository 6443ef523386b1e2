//! The first scan of a folder, which may need hours: the results so far are published
//! meanwhile.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::{Setup, id, noise};
use types::{EntryKind, PublishedManifest};

const FILES: u64 = 600;

/// Returns a folder of a few hundred files, some of them with nodes, and a service that
/// publishes after each saved batch.
fn setup() -> Setup {
    let mut setup = Setup::stopped();
    setup.tuning.first_scan_interval = Duration::ZERO;
    setup.tuning.batch_rows = 50;
    for number in 0..FILES {
        let len = if number % 100 == 0 { 300_000 } else { 500 };
        setup.write(&format!("d{}/f{number:03}", number / 60), noise(number, len));
    }
    setup
}

fn held_text(setup: &Setup, published: &PublishedManifest) -> Option<String> {
    setup.manifest(published).0.held
}

/// Checks that every file of a manifest can be fetched and equals the file in the folder. Returns
/// the number of files.
fn assert_served(setup: &Setup, published: &PublishedManifest) -> u64 {
    let mut files = 0;
    for (path, entry) in setup.entries(published) {
        let EntryKind::File { cid, .. } = entry.kind else { continue };
        let on_disk = std::fs::read(setup.path(path.to_string())).unwrap();
        assert!(setup.content(cid).unwrap() == on_disk, "{path}");
        files += 1;
    }
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn the_results_so_far_are_published_and_marked_as_partial() {
    let mut setup = setup();
    setup.work_on_request_only();
    setup.start();
    let last = setup.sync().await;
    let published = setup.published();
    assert!(published.len() > 3, "{} manifests", published.len());
    let mut before = 0;
    for (number, one) in published.iter().enumerate() {
        assert_eq!(one.sequence_number.0, number as u64 + 1);
        assert!(one.file_count >= before);
        before = one.file_count;
    }
    // The roots of the last two manifests are kept: a partial and the complete one.
    let (part, all) = (&published[published.len() - 2], published.last().unwrap());
    assert!(held_text(&setup, part).unwrap().contains("first scan"));
    assert_eq!(assert_served(&setup, part), part.file_count);
    assert_eq!((all, held_text(&setup, all)), (&last, None));
    assert_eq!(assert_served(&setup, all), FILES);
    setup.check(&last);
    assert!(
        setup.status().awaiting_confirmation.is_none(),
        "a partial manifest needs no confirmation"
    );
    // Later manifests are complete.
    setup.write("new", "new");
    let next = setup.calm().await;
    assert_eq!(next.sequence_number.0, last.sequence_number.0 + 1);
    setup.restart().await;
    assert_eq!(setup.sync().await, next);
    assert_eq!(setup.files_read(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_first_scan_continues_and_ends_with_all_files() {
    let mut setup = setup();
    let mut counts = BTreeMap::new();
    for round in 0..4 {
        setup.start();
        let seen = setup.published().len();
        setup
            .until("a part", |status| {
                status.sequence.0 > 0 && (round == 3 || status.files > 60 * (round + 1))
            })
            .await;
        setup.stop().await;
        counts.insert(round, setup.published().len() - seen);
    }
    setup.start();
    let last = setup.sync().await;
    assert_eq!((held_text(&setup, &last), last.file_count), (None, FILES), "{counts:?}");
    setup.check(&last);
}

/// No partial manifest follows a complete one.
#[tokio::test(flavor = "multi_thread")]
async fn a_folder_whose_index_was_lost_publishes_no_partial_manifest() {
    let mut setup = setup();
    setup.start();
    let whole = setup.sync().await;
    setup.stop().await;
    let data = setup.dir.path().join("data/sync");
    std::fs::remove_dir_all(data).unwrap();
    let before = setup.published().len();
    setup.start();
    let again = setup.sync().await;
    assert!(again.sequence_number > whole.sequence_number);
    for one in &setup.published()[before..] {
        assert_eq!(one.file_count, FILES, "{one:?}");
    }
    setup.check(&again);
    assert!(setup.handle().folder(&id("docs")).is_some());
}

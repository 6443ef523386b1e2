//! The first look at a folder, which may take hours: what was found by then is
//! published while it goes on.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::{Setup, id, noise};
use types::{EntryKind, PublishedManifest};

const FILES: u64 = 600;

/// A folder of some hundred files, of which some have nodes, and a service that
/// publishes whenever it has saved something.
fn setup() -> Setup {
    let mut setup = Setup::stopped();
    setup.tuning.first_look_pause = Duration::ZERO;
    setup.tuning.batch_rows = 50;
    for number in 0..FILES {
        let len = if number % 100 == 0 { 300_000 } else { 500 };
        setup.write(&format!("d{}/f{number:03}", number / 60), noise(number, len));
    }
    setup
}

fn held(setup: &Setup, published: &PublishedManifest) -> Option<String> {
    setup.manifest(published).0.held
}

/// Whatever a manifest names is there to be fetched, and is what the folder has.
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
async fn what_was_found_by_then_is_published_and_marked_as_a_part() {
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
    // The roots of the last two are kept: a part, and all of it.
    let (part, all) = (&published[published.len() - 2], published.last().unwrap());
    assert!(held(&setup, part).unwrap().contains("first time"));
    assert_eq!(assert_served(&setup, part), part.file_count);
    assert_eq!((all, held(&setup, all)), (&last, None));
    assert_eq!(assert_served(&setup, all), FILES);
    setup.check(&last);
    assert!(setup.status().held.is_none(), "nobody has to confirm it");
    // From then on, it is as ever.
    setup.write("new", "new");
    let next = setup.calm().await;
    assert_eq!(next.sequence_number.0, last.sequence_number.0 + 1);
    setup.restart().await;
    assert_eq!(setup.sync().await, next);
    assert_eq!(setup.files_read(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_look_that_was_cut_short_goes_on_and_ends_with_all_of_it() {
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
    assert_eq!((held(&setup, &last), last.file_count), (None, FILES), "{counts:?}");
    setup.check(&last);
}

/// A part of the folder is no state to go by where there is a whole one.
#[tokio::test(flavor = "multi_thread")]
async fn a_folder_whose_index_was_lost_shows_no_part_of_itself() {
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

//! Changes are noticed without a request, with and without the watcher of the system.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::fs;
use std::time::Duration;

use common::{Setup, noise};
use sync::WatchMode;
use types::SequenceNumber;

/// Changes a folder in several ways, and waits for a manifest after each.
async fn notice_everything(setup: &Setup) {
    let sequence = || setup.status().sequence;
    let rounds: [(&str, &dyn Fn()); 6] = [
        ("a new file", &|| setup.write("new", "new")),
        ("a new tree", &|| setup.write("x/y/z/deep", "deep")),
        ("a change in the new tree", &|| setup.write("x/y/z/deep", "other")),
        ("a renamed tree", &|| fs::rename(setup.path("x"), setup.path("moved")).unwrap()),
        ("a change in the renamed tree", &|| setup.write("moved/y/z/deep", "once more")),
        ("a deleted tree", &|| fs::remove_dir_all(setup.path("moved")).unwrap()),
    ];
    for (what, change) in rounds {
        let before = sequence();
        change();
        setup.until(what, |status| status.sequence > before).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_noticed_and_published_without_a_request() {
    let setup = Setup::new();
    setup.write("first", "first");
    setup.until("the first manifest", |status| status.files == 1 && status.sequence.0 > 0).await;
    let status = setup.status();
    assert_eq!((status.watch.watched, status.watch.mode), (1, WatchMode::Watching));
    notice_everything(&setup).await;
    let last = setup.sync().await;
    setup.check(&last);
    assert_eq!(setup.names(&last), ["first", "new"]);
    assert_eq!(setup.status().watch.watched, 1, "a removed directory is not watched");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_files_that_change_places_are_noticed() {
    let mut setup = Setup::stopped();
    let contents = [noise(1, 100_000), noise(2, 100_000)];
    setup.write("a", &contents[0]);
    setup.write("b", &contents[1]);
    setup.start();
    setup.until_published("b", &contents[1]).await;
    for round in 1..=3 {
        fs::rename(setup.path("a"), setup.path("tmp")).unwrap();
        fs::rename(setup.path("b"), setup.path("a")).unwrap();
        fs::rename(setup.path("tmp"), setup.path("b")).unwrap();
        setup.until_published("a", &contents[round % 2]).await;
        setup.until_published("b", &contents[(round + 1) % 2]).await;
    }
    setup.check(&setup.sync().await);
}

/// The request of a backup server for a block that the file has no longer is a hint, too: the
/// new content is published, and its blocks go to the store.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_for_an_overwritten_block_leads_to_a_new_manifest() {
    let mut setup = Setup::stopped();
    setup.write("hot", noise(0, 50_000));
    setup.start();
    setup.until_published("hot", &noise(0, 50_000)).await;
    let cid = |round| types::Cid::of(types::Codec::Raw, &noise(round, 50_000));
    let mut round = 0;
    while !setup.store.has(&cid(round)).unwrap() {
        assert!(round < 20, "the blocks of the file never go to the store");
        setup.write("hot", noise(round + 1, 50_000));
        assert!(setup.content(cid(round)).is_err());
        round += 1;
        setup.until_published("hot", &noise(round, 50_000)).await;
    }
    setup.write("hot", noise(99, 50_000));
    assert_eq!(setup.content(cid(round)).unwrap(), noise(round, 50_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_enough_watches_changes_are_found_by_scans() {
    let mut setup = Setup::stopped();
    setup.tuning.watch_limit = Some(10);
    setup.tuning.unwatched_interval = Duration::from_millis(100);
    for number in 0..30 {
        setup.write(&format!("d{number}/f"), number.to_string());
    }
    setup.start();
    setup.until("the first manifest", |status| status.sequence.0 == 1).await;
    let status = setup.status();
    assert_eq!((status.watch.watched, status.watch.needed), (10, 31));
    assert_eq!(status.watch.mode, WatchMode::Scanning);
    for number in [0, 29] {
        let before = setup.status().sequence;
        setup.write(&format!("d{number}/f"), "changed");
        setup.until("the change", |status| status.sequence > before).await;
    }
    setup.check(&setup.sync().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_change_causes_the_scan_of_one_directory() {
    let mut setup = Setup::stopped();
    for number in 0..2000 {
        setup.write(&format!("d{}/f{number}", number % 100), number.to_string());
    }
    setup.clock.set_file_time(1);
    setup.start();
    setup.calm().await;
    let before = setup.status().sequence;
    let read = setup.files_read();
    // A rename is one change; writing the file in place would be two.
    let new = setup.dir.path().join("new");
    fs::write(&new, "changed").unwrap();
    fs::rename(new, setup.path("d42/f1042")).unwrap();
    setup.until("the change", |status| status.sequence > before).await;
    let progress = setup.status().progress;
    assert!(progress.entries <= 25, "{progress:?}");
    assert_eq!(setup.files_read() - read, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_storm_of_changes_the_manifest_equals_the_folder() {
    let setup = Setup::new();
    for round in 0..40_u64 {
        for number in 0..20 {
            setup.write(&format!("d{}/f{number}", round % 7), noise(round, 100));
        }
        if round % 5 == 4 {
            // (The directory may have been renamed.)
            let _ = fs::remove_dir_all(setup.path(format!("d{}", (round + 3) % 7)));
        }
        if round % 6 == 5 {
            let _ = fs::rename(setup.path("d1"), setup.path(format!("r{round}")));
        }
        tokio::task::yield_now().await;
    }
    setup.check(&setup.calm().await);
    let sequences: Vec<_> = setup.published().iter().map(|one| one.sequence_number).collect();
    let expected: Vec<_> = (1..=sequences.len() as u64).map(SequenceNumber).collect();
    assert_eq!(sequences, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_during_a_scan_is_prompt_and_loses_nothing() {
    let mut setup = Setup::stopped();
    for number in 0..3000 {
        setup.write(&format!("d{}/f{number}", number % 30), noise(number, 2000));
    }
    for _ in 0..5 {
        setup.start();
        tokio::task::yield_now().await;
        let begun = std::time::Instant::now();
        setup.stop().await;
        assert!(begun.elapsed() < Duration::from_secs(10), "it hangs");
    }
    setup.start();
    setup.check(&setup.sync().await);
}

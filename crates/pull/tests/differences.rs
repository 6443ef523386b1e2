//! Blocks that arrive as patches, with failures on the way.

#![allow(clippy::unwrap_used, reason = "tests")]

mod hand;

use std::sync::Arc;

use manifest::Offer;
use store::{BlockStore, Call, FaultyStore, MemStore, StoreError};
use testkit::{Source, Tree, assert_holds, noise, tree};
use types::{Cid, Codec};

use self::hand::*;

/// Publishes some files, one of them of `len` bytes, then again with one byte of it changed.
/// Returns the files, the first offer and the second manifest.
fn saved_twice(source: &Source, len: usize) -> (Tree, Offer, Cid) {
    let mut files = tree(5, 0);
    files.insert("long".into(), noise(77, len));
    source.publish("docs", 1, &files);
    let before = offer(source, "docs");
    files.get_mut("long").unwrap()[len / 2] ^= 1;
    let manifest = source.publish("docs", 2, &files);
    (files, before, manifest)
}

#[tokio::test]
async fn what_cannot_be_made_of_a_difference_is_asked_for_whole() {
    let source = Source::start().await;
    let hand = Hand::new(&source).await;
    let (files, first, manifest) = saved_twice(&source, 60_000);
    let long = Cid::of(Codec::Raw, &files["long"]);
    let mut found = Vec::new();
    // Each read of the store fails once, including that of the base of a patch.
    for nth in 0..200 {
        let inner = Arc::new(MemStore::new());
        let faulty = Arc::new(FaultyStore::new(inner.clone()));
        let puller = hand.puller(faulty.clone());
        pull(&puller, &source, &first).await.unwrap();
        let before = faulty.calls();
        faulty.fail(Call::Get, nth, || StoreError::Injected("a fault"));
        let job = job(&source, &offer(&source, "docs"));
        let progress = job.progress.clone();
        source.served();
        if puller.pull(job).await.is_ok() {
            let asked = source.served().into_iter().filter(|cid| *cid == long).count();
            found.push((asked, progress.numbers().fetched_bytes));
            assert_holds(&(inner as Arc<dyn BlockStore>), manifest, &files);
        }
        if nth > faulty.calls() - before {
            break;
        }
    }
    // First as a patch, then complete.
    let twice: Vec<_> = found.iter().filter(|(asked, _)| *asked == 2).collect();
    assert!(matches!(twice[..], [(_, 60_000..)]), "{found:?}");
    let (_, without_fault) = found.last().unwrap();
    assert!(*without_fault < 6_000, "{found:?}");
    drop(hand.net);
}

#[tokio::test]
async fn what_failed_midway_goes_on_with_differences() {
    let source = Source::start().await;
    let hand = Hand::new(&source).await;
    let (files, first, manifest) = saved_twice(&source, 4_000_000);
    let mut faults = 0;
    for nth in 0..100 {
        let inner = Arc::new(MemStore::new());
        let faulty = Arc::new(FaultyStore::new(inner.clone()));
        let puller = hand.puller(faulty.clone());
        pull(&puller, &source, &first).await.unwrap();
        faulty.fail(Call::Put, nth, || StoreError::Injected("a fault"));
        if pull(&puller, &source, &offer(&source, "docs")).await.is_ok() {
            break;
        }
        faults += 1;
        let cost = cost(&puller, &source).await;
        assert_holds(&(inner as Arc<dyn BlockStore>), manifest, &files);
        assert!(cost < 12_000, "after put {nth} failed: {cost} bytes");
    }
    // At least the node and the chunk.
    assert!(faults >= 4, "{faults}");
    drop(hand.net);
}

#[tokio::test]
async fn a_save_in_a_long_file_costs_what_has_changed_and_not_the_chunk_around_it() {
    let source = Source::start().await;
    let hand = Hand::new(&source).await;
    let mut files = tree(10, 1);
    files.insert("disk.img".into(), noise(7, 40 << 20));
    files.insert("short.txt".into(), noise(8, 30_000));
    source.publish("docs", 1, &files);
    let (store, puller) = pulled(&hand, &source).await;
    let (disk, short) = (files["disk.img"].clone(), files["short.txt"].clone());
    let with = |bytes: &[u8], at: usize, more: &[u8]| [&bytes[..at], more, &bytes[at..]].concat();
    let grown = [&short[..], &noise(9, 50_000)].concat();
    let cases = [
        ("disk.img", with(&disk, 20 << 20, b"in the middle"), 12_000),
        ("disk.img", with(&disk, 40 << 20, b"at the end"), 12_000),
        ("disk.img", with(&disk, 0, b"at the front"), 12_000),
        ("short.txt", with(&short, 15_000, b"in the middle"), 6_000),
        // From one chunk to several, and back to one.
        ("short.txt", grown.clone(), 62_000),
        ("short.txt", grown[..20_000].to_vec(), 12_000),
    ];
    for (number, (path, content, most)) in cases.into_iter().enumerate() {
        files.insert(path.into(), content);
        let manifest = source.publish("docs", number as u64 + 2, &files);
        let cost = cost(&puller, &source).await;
        assert_holds(&store, manifest, &files);
        assert!(cost < most, "{path}, {number}: {cost} bytes");
    }
    drop(hand.net);
}

#[tokio::test]
async fn a_few_edits_cost_a_few_kilobytes_and_a_renamed_directory_hardly_more() {
    let source = Source::start().await;
    let mut files = tree(20_000, 0);
    source.publish("docs", 1, &files);
    let hand = Hand::new(&source).await;
    let (store, puller) = pulled(&hand, &source).await;
    let paths: Vec<String> =
        files.keys().filter(|path| !path.ends_with('/')).step_by(1987).cloned().collect();
    for path in &paths {
        files.insert(path.clone(), b"edited".to_vec());
    }
    let second = source.publish("docs", 2, &files);
    let edits = cost(&puller, &source).await;
    assert_holds(&store, second, &files);
    assert!(edits < 12_000, "{} edits cost {edits} bytes", paths.len());

    let dir = "d100/";
    let moved: Vec<String> = files.keys().filter(|path| path.starts_with(dir)).cloned().collect();
    assert!(moved.len() >= 100);
    for path in moved {
        let content = files.remove(&path).unwrap();
        files.insert(format!("zzz/{}", &path[dir.len()..]), content);
    }
    let third = source.publish("docs", 3, &files);
    let rename = cost(&puller, &source).await;
    assert_holds(&store, third, &files);
    assert!(rename < 1_000, "the rename cost {rename} bytes");
    drop(hand.net);
}

#[tokio::test]
async fn a_directory_of_many_thousand_files_that_moves_costs_bytes_in_dozens_a_segment() {
    let source = Source::start().await;
    let moved = tree(30_000, 0);
    let with = |dir: &str| {
        let mut files = tree(2_000, 0);
        let parents = dir.match_indices('/').map(|(at, _)| (dir[..=at].to_owned(), Vec::new()));
        files.extend(parents);
        files.extend(moved.iter().map(|(path, content)| (format!("{dir}{path}"), content.clone())));
        files
    };
    source.publish("docs", 1, &with("camera/"));
    let hand = Hand::new(&source).await;
    let (store, puller) = pulled(&hand, &source).await;
    // Moved to a place before the unchanged entries, and behind them.
    for (number, dir) in ["attic/camera/", "photos/"].into_iter().enumerate() {
        let files = with(dir);
        let manifest = source.publish("docs", number as u64 + 2, &files);
        let cost = cost(&puller, &source).await;
        assert_holds(&store, manifest, &files);
        assert!(cost < 8_000, "{dir}: {cost} bytes");
    }
    drop(hand.net);
}

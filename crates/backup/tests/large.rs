//! The cost of one changed file in a large folder.

#![allow(clippy::unwrap_used, reason = "tests")]

mod server;

use std::sync::Arc;
use std::time::Instant;

use store::check::missing_blocks;
use store::{BlockStore, BlockWrite as _, MemStore};
use testkit::{Source, dir_entry, file_entry, plain_net_as, put, segments, until};
use types::{Block, Codec, EncodedBlock, Entry};

use self::server::{Backup, settings};

/// Number of files in the folder: about two hundred segments.
const FILES: usize = 200_000;

/// Returns the CPU seconds of this process so far, for both sides together.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks = |at: usize| fields[at].parse::<f64>().unwrap();
    (ticks(11) + ticks(12)) / 100.0
}

fn large(store: &MemStore) -> Vec<Entry> {
    let mut entries = Vec::new();
    for number in 0..FILES {
        if number % 500 == 0 {
            entries.push(dir_entry(&format!("d{:04}", number / 500)));
        }
        let content = number.to_le_bytes();
        let cid = put(store, Block::new(Codec::Raw, content.to_vec()).unwrap());
        let path = format!("d{:04}/{number:06}.txt", number / 500);
        entries.push(file_entry(&path, cid, &content));
    }
    entries
}

/// Stores segments as a source does, compressed.
fn pack(store: &MemStore, entries: &[Entry]) {
    for segment in segments(entries) {
        store.put(&[EncodedBlock::compress(segment.block, 3)]).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_changed_file_of_many_costs_a_line() {
    let source = Source::start().await;
    let a = source.served.store.clone();
    let mut entries = large(&a);
    pack(&a, &entries);
    let first = source.manifest("docs", 1, &entries);
    source.show("docs", 1, first);
    let (started, used) = (Instant::now(), cpu());
    let store: Arc<dyn BlockStore> = Arc::new(MemStore::new());
    let backup = Backup::start(store.clone(), &[&source]).await;
    backup.snapshot("docs", 1).await;
    println!(
        "{FILES} files: {:.2} s, {:.2} s of CPU",
        started.elapsed().as_secs_f64(),
        cpu() - used
    );
    source.served();
    let before = backup.handle.totals();
    let content = b"changed";
    let cid = put(&a, Block::new(Codec::Raw, content.to_vec()).unwrap());
    let path = entries[77_777].path.to_string();
    entries[77_777] = file_entry(&path, cid, content);
    pack(&a, &entries);
    let second = source.manifest("docs", 2, &entries);
    let (started, used) = (Instant::now(), cpu());
    source.show("docs", 2, second);
    backup.snapshot("docs", 2).await;
    let (seconds, cpu) = (started.elapsed().as_secs_f64(), cpu() - used);
    let totals = until(|| {
        let totals = backup.handle.totals();
        (totals.committed == 2).then_some(totals)
    })
    .await;
    let bytes = totals.fetched_bytes - before.fetched_bytes;
    println!("one of them: {seconds:.3} s, {cpu:.2} s of CPU, {bytes} bytes");
    // The file and the dataset; the header and the segment arrive as patches.
    assert_eq!(source.served().len(), 2);
    assert!(bytes < 3_000, "{bytes}");
    // Again after a restart with an empty cache: all segments are checked, and no block is fetched
    // again.
    let key = backup.key.clone();
    let dir = backup.stop().await;
    entries.remove(5);
    pack(&a, &entries);
    let third = source.manifest("docs", 3, &entries);
    source.show("docs", 3, third);
    let net = plain_net_as(key.clone()).await;
    source.allow(net.handle().peer_id());
    let settings = settings(&[source.config("source-0")]);
    let started = Instant::now();
    let backup = Backup::with(store.clone(), net, key, settings, dir).await;
    backup.snapshot("docs", 3).await;
    println!("after a start: {:.2} s", started.elapsed().as_secs_f64());
    assert!(source.served().len() <= 4);
    assert_eq!(missing_blocks(&*store).unwrap(), []);
    backup.stop().await;
}

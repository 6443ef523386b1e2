//! Measures scans of a directory: `scan DIR [DATA]`.
//!
//! The state is stored in DATA, or in a temporary directory. The example writes a file
//! `archivist-scan` into DIR and removes it at the end.

#![allow(clippy::print_stdout, reason = "an example")]
#![allow(clippy::cast_precision_loss, reason = "figures for people")]

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use store::{PackStore, StoreOptions};
use sync::{FolderSettings, Publisher, SyncOptions, SyncService, SyncSettings};
use tokio::sync::watch;
use types::{FolderId, PublishedManifest};

/// The sequence number of the last manifest.
#[derive(Debug, Default)]
struct Last(watch::Sender<u64>);

impl Publisher for Last {
    fn publish(&self, published: PublishedManifest) {
        self.0.send_replace(published.sequence_number.0);
    }

    fn withdraw(&self, _: &FolderId) {}
}

/// Returns a value of `/proc/self/status` in MiB.
fn memory(what: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with(what));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    kib.unwrap_or(0) / 1024
}

/// Returns the CPU time of this process.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<_> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|f| f.parse::<u64>().ok()).unwrap_or(0);
    Duration::from_millis((ticks(11) + ticks(12)) * 10)
}

fn start(dir: &Path, data: &Path, last: &Arc<Last>) -> Result<SyncService, Box<dyn Error>> {
    let (store, _) = PackStore::open(&data.join("store"), &StoreOptions::default())?;
    let folder = FolderSettings {
        id: "scan".parse()?,
        path: dir.to_owned(),
        name: "scan".to_owned(),
        exclude: Vec::new(),
        paused: false,
        one_file_system: true,
        exclude_caches: false,
        hooks: sync::HookSettings::default(),
    };
    let settings = SyncSettings {
        folders: vec![folder],
        manifest_max_delay: Duration::ZERO,
        ..SyncSettings::default()
    };
    let (_, settings) = watch::channel(settings);
    let peer = "16Uiu2HAm".to_owned();
    let store = Arc::new(store);
    let options = SyncOptions::new(data.to_owned(), store, last.clone(), settings, peer);
    Ok(SyncService::start(options)?)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args_os().skip(1).map(PathBuf::from);
    let dir = args.next().ok_or("usage: scan DIR [DATA]")?;
    let temp = tempfile::tempdir()?;
    let data = args.next().unwrap_or_else(|| temp.path().to_owned());
    let id: FolderId = "scan".parse()?;
    let last = Arc::new(Last::default());

    let (begun, work) = (Instant::now(), cpu());
    let service = start(&dir, &data, &last)?;
    let published = service.handle().scan_now(&id).await?;
    let took = begun.elapsed();
    let (files, bytes) = (published.file_count, published.total_size_bytes);
    println!(
        "first scan: {files} files, {bytes} bytes, {took:.2?}, {:.0} files/s, CPU {:.2?}, {} MiB",
        files as f64 / took.as_secs_f64(),
        cpu() - work,
        memory("VmHWM"),
    );
    service.shutdown().await;

    for what in ["restart", "restart again"] {
        let (begun, work) = (Instant::now(), cpu());
        let service = start(&dir, &data, &last)?;
        service.handle().scan_now(&id).await?;
        let read = service.handle().folder(&id).map_or(0, |status| status.files_read);
        let (took, work) = (begun.elapsed(), cpu() - work);
        println!("{what}: {read} files read, {took:.2?}, CPU {work:.2?}, {} MiB", memory("VmRSS"));
        service.shutdown().await;
    }

    let service = start(&dir, &data, &last)?;
    service.handle().scan_now(&id).await?;
    let mut sequences = last.0.subscribe();
    let name = dir.join("archivist-scan");
    for round in 0..5 {
        sequences.borrow_and_update();
        let (begun, work) = (Instant::now(), cpu());
        std::fs::write(&name, format!("round {round}"))?;
        sequences.changed().await?;
        println!("one change: {:.2?}, CPU {:.2?}", begun.elapsed(), cpu() - work);
        // Time for further work that the change may cause.
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    std::fs::remove_file(&name)?;
    let work = cpu();
    tokio::time::sleep(Duration::from_secs(2)).await;
    println!("two seconds with one deletion: CPU {:.2?}", cpu() - work);
    service.shutdown().await;
    Ok(())
}

//! Scrubs a store at full speed and compares the cost with reading the same files as
//! `cat` does: `scrub STORE`.
//!
//! The page cache of the packs is dropped before each of the three: reading, reading
//! while the cache is dropped every 8 MiB (as a scrub does), and scrubbing. Prints
//! wall-clock time and CPU time.

#![allow(clippy::print_stdout, reason = "a program")]

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use disk::{Disk as _, RealDisk};
use store::{PackStore, StoreOptions};

/// Returns the CPU time of this thread, which does the work.
fn cpu() -> Result<Duration, Box<dyn Error>> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanoseconds = text.split(' ').next().unwrap_or_default().parse()?;
    Ok(Duration::from_nanos(nanoseconds))
}

/// Returns the result of `work`, and its wall-clock and CPU time in seconds.
fn measure<T>(
    work: impl FnOnce() -> Result<T, Box<dyn Error>>,
) -> Result<(T, f64, f64), Box<dyn Error>> {
    let (started, used) = (Instant::now(), cpu()?);
    let result = work()?;
    Ok((result, started.elapsed().as_secs_f64(), (cpu()? - used).as_secs_f64()))
}

/// Reads files from the disk, and drops their page cache after each `drop_after` bytes.
fn read(files: &[PathBuf], drop_after: u64) -> Result<u64, Box<dyn Error>> {
    for path in files {
        let file = RealDisk.open(path)?;
        file.drop_cache(file.len()?);
    }
    let (mut buffer, mut total) = (vec![0; 128 << 10], 0);
    for path in files {
        let (file, mut at, mut cached) = (RealDisk.open(path)?, 0, 0);
        loop {
            let count = file.read_at(&mut buffer, at)? as u64;
            if count == 0 {
                break;
            }
            (at, cached) = (at + count, cached + count);
            if cached >= drop_after {
                cached = 0;
                file.drop_cache(at);
            }
        }
        total += at;
    }
    Ok(total)
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [dir] = arguments.as_slice() else {
        return Err("usage: scrub STORE".into());
    };
    let packs = Path::new(dir).join("packs");
    let files: Vec<_> =
        std::fs::read_dir(packs)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    let (_, wall_cat, cpu_cat) = measure(|| read(&files, u64::MAX))?;
    let (len, wall_read, cpu_read) = measure(|| read(&files, 8 << 20))?;
    let options = StoreOptions { disk_reserve: 0, ..StoreOptions::default() };
    let (store, _) = PackStore::open(Path::new(dir), &options)?;
    let (bytes, wall, cpu) = measure(|| {
        let mut bytes = 0;
        for pack in store.packs() {
            bytes += store.scrub(pack.id, &mut |_| true)?.bytes;
        }
        Ok(bytes)
    })?;
    println!("read                    {len} bytes: {wall_cat:.2} s, {cpu_cat:.2} s CPU");
    println!("read, dropping the cache {len} bytes: {wall_read:.2} s, {cpu_read:.2} s CPU");
    println!("scrub                   {bytes} bytes: {wall:.2} s, {cpu:.2} s CPU");
    Ok(())
}

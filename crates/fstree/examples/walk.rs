//! Measures how many entries per second a walk examines, beside `find` on the same
//! directory in the same run:
//! `cargo run --release -p fstree --example walk -- DIR [ROUNDS]`.
//!
//! `walk DIR make FILES` creates a tree to measure: FILES empty files, 50 per
//! directory.
//!
//! A walk examines names, kinds, sizes, times, owners and targets of links, and
//! extended attributes if the output says so. The first round reads uncached data from
//! the disk; the median over the rounds is that of a warm cache.

#![allow(clippy::print_stdout, reason = "a program")]

use std::error::Error;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use fstree::{SourceTree, TreeReader as _, Visit, WalkItem, WalkOptions};
use types::RelPath;

/// Numbers of entries and errors.
type Count = (u64, u64);

fn walk(dir: &Path, with_xattrs: bool) -> Result<Count, Box<dyn Error>> {
    let root = SourceTree::open(dir)?;
    let (mut entries, mut errors) = (0, 0);
    for item in root.walk(&RelPath::root(), WalkOptions::default(), |_, _| Visit::Descend)? {
        match item {
            WalkItem::Entry(found) => {
                entries += 1;
                if with_xattrs && root.xattrs(&found).is_err() {
                    errors += 1;
                }
            }
            WalkItem::Error(_) => errors += 1,
        }
    }
    Ok((entries, errors))
}

/// The first line of the output is the directory itself, which is not counted.
fn find(dir: &Path) -> Result<Count, Box<dyn Error>> {
    let child = Command::new("find")
        .arg(dir)
        .args(["-printf", "%y %s %T@ %C@ %m %U %G %n %i %D %p\\n"])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut lines = 0;
    if let Some(mut output) = child.stdout {
        let mut buffer = vec![0; 1 << 16];
        loop {
            let read = std::io::Read::read(&mut output, &mut buffer)?;
            if read == 0 {
                break;
            }
            lines += buffer[..read].iter().filter(|byte| **byte == b'\n').count() as u64;
        }
    }
    Ok((lines.saturating_sub(1), 0))
}

fn make(dir: &Path, files: u64) -> Result<(), Box<dyn Error>> {
    for number in 0..files {
        let parent = dir.join(format!("d{:03}/s{:04}", number / 2500, number / 50));
        if number % 50 == 0 {
            std::fs::create_dir_all(&parent)?;
        }
        std::fs::File::create(parent.join(format!("file-{number:07}.txt")))?;
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let dir = Path::new(arguments.first().ok_or("usage: walk DIR [ROUNDS | make FILES]")?);
    if arguments.get(1).is_some_and(|word| word == "make") {
        return make(dir, arguments.get(2).ok_or("how many files?")?.parse()?);
    }
    let rounds = arguments.get(1).map_or(Ok(7), |rounds| rounds.parse::<usize>())?.max(1);
    type Way = fn(&Path) -> Result<Count, Box<dyn Error>>;
    let ways: [(&str, Way); 3] = [
        ("walk", |dir| walk(dir, false)),
        ("walk with xattrs", |dir| walk(dir, true)),
        ("find", find),
    ];
    let mut seconds = vec![Vec::new(); ways.len()];
    let mut counts = vec![(0, 0); ways.len()];
    for _ in 0..rounds {
        for (number, (_, way)) in ways.iter().enumerate() {
            let started = Instant::now();
            counts[number] = way(dir)?;
            seconds[number].push(started.elapsed().as_secs_f64());
        }
    }
    for (number, (name, _)) in ways.iter().enumerate() {
        let (entries, errors) = counts[number];
        let first = seconds[number][0];
        seconds[number].sort_by(f64::total_cmp);
        let median = seconds[number][seconds[number].len() / 2];
        #[allow(clippy::cast_precision_loss, reason = "a rate")]
        let rate = entries as f64 / median;
        println!(
            "{name:18} {entries} entries, {errors} errors; first {first:.3} s, median {median:.3} s, {rate:.0} entries/s"
        );
    }
    Ok(())
}

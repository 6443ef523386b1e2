//! `cargo xtask bench`: measures the store and the transfer beside `cp` and raw
//! streams in the same run.
//!
//! Machines are noisy: every figure is a median, and compared programs run
//! alternately.

mod data;
pub(crate) mod peers;
mod process;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use self::process::measure;
use crate::shell::{self, root, target};

const USAGE: &str = "\
usage: cargo xtask bench [--dir DIR] [--runs N] [--mib N] [--files N]
       cargo xtask bench peers [--smoke | ARGUMENTS of bench/peers.py]

  --dir DIR    where the data and the stores go (a directory on the disk to
               measure; removed at the end); default: the system's temporary one
  --runs N     repetitions (3)
  --mib N      length of the large file, in MiB (2048)
  --files N    number of small files (20000)
";

struct Options {
    dir: PathBuf,
    runs: usize,
    mib: u64,
    files: u32,
}

/// Parses the arguments and runs all benchmarks.
pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    let mut options = Options { dir: std::env::temp_dir(), runs: 3, mib: 2048, files: 20_000 };
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let value =
            arguments.next().with_context(|| format!("{argument} has no value\n{USAGE}"))?;
        match *argument {
            "--dir" => options.dir = value.into(),
            "--runs" => options.runs = value.parse().context("--runs")?,
            "--mib" => options.mib = value.parse().context("--mib")?,
            "--files" => options.files = value.parse().context("--files")?,
            _ => bail!("unknown argument {argument}\n{USAGE}"),
        }
    }
    let cargo = shell::cargo();
    // One build for all of them, so that shared crates are compiled once.
    let mut arguments = vec!["build", "--release"];
    for (package, example) in [("store", "ingest"), ("pull", "pull"), ("net", "throughput")] {
        arguments.extend(["--package", package, "--example", example]);
    }
    shell::run(&root(), &cargo, &arguments)?;
    let work = options.dir.join(format!("archivist-bench-{}", std::process::id()));
    std::fs::create_dir_all(&work).with_context(|| format!("cannot create {}", work.display()))?;
    let result = all(&options, &work);
    std::fs::remove_dir_all(&work).with_context(|| format!("cannot remove {}", work.display()))?;
    result
}

fn all(options: &Options, work: &Path) -> Result<()> {
    println!("writing the data below {}", work.display());
    let large = work.join("large");
    let small = work.join("small");
    data::large_file(&large, options.mib)?;
    data::small_files(&small, options.files)?;
    let mut results = Vec::new();
    for (name, source) in [("large", &large), ("small", &small)] {
        results.push(one_set(name, source, options, work)?);
    }
    let throughput = example("throughput");
    let arguments: Vec<String> =
        ["--mib", "1024", "--repeats", &options.runs.to_string()].map(str::to_owned).to_vec();
    println!("raw streams and the block protocol, 1 GiB each");
    let raw: Value = serde_json::from_slice(&process::output(&throughput, &arguments)?)?;
    println!("{}", serde_json::to_string_pretty(&json!({ "sets": results, "streams": raw }))?);
    println!("{}", report(&results, &raw)?);
    Ok(())
}

fn example(name: &str) -> PathBuf {
    target().join("release/examples").join(name)
}

/// Runs `cp -a` with a sync, an ingest, and a pull into another store
/// alternately, and returns the medians as JSON.
fn one_set(name: &str, source: &Path, options: &Options, work: &Path) -> Result<Value> {
    let (mut copies, mut ingests, mut pulls) = (Vec::new(), Vec::new(), Vec::new());
    let mut sent = json!({});
    for run in 0..options.runs {
        println!("{name}: run {} of {}", run + 1, options.runs);
        let copy = work.join("copy");
        let (a, b) = (work.join("a"), work.join("b"));
        sync()?;
        let started = Instant::now();
        process::output(Path::new("cp"), &["-a".into(), text(source), text(&copy)])?;
        sync()?;
        copies.push(started.elapsed().as_secs_f64());
        remove(&copy)?;
        sync()?;
        let (ingest, cost) = measure(&example("ingest"), &[text(source), text(&a)])?;
        ingests.push((seconds(&ingest)?, cost));
        sync()?;
        let pull = process::pull(&example("pull"), &a, &b)?;
        pulls.push(seconds(&pull)?);
        sent = pull;
        remove(&a)?;
        remove(&b)?;
    }
    let ingest_seconds: Vec<f64> = ingests.iter().map(|(seconds, _)| *seconds).collect();
    let cost = ingests.first().map(|(_, cost)| *cost).unwrap_or_default();
    Ok(json!({
        "set": name,
        "bytes": sent["bytes"],
        "blocks": sent["blocks"],
        "copy_seconds": median(&copies),
        "ingest_seconds": median(&ingest_seconds),
        "ingest_cpu_seconds": cost.cpu_seconds,
        "ingest_peak_rss": cost.peak_rss,
        "pull_seconds": median(&pulls),
        "pull_cpu_seconds": { "source": sent["source_cpu_seconds"], "receiver": sent["cpu_seconds"] },
        "pull_peak_rss": { "source": sent["source_peak_rss"], "receiver": sent["peak_rss"] },
    }))
}

fn report(sets: &[Value], streams: &Value) -> Result<String> {
    let number = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
    let mut out = String::from("\n| set | cp + sync | ingest | ratio | pull | ratio | rate |\n");
    out.push_str("|---|---|---|---|---|---|---|\n");
    for set in sets {
        let [copy, ingest, pull] =
            ["copy_seconds", "ingest_seconds", "pull_seconds"].map(|key| number(&set[key]));
        let rate = number(&set["bytes"]) / pull / 1e9;
        let blocks = number(&set["blocks"]) / pull;
        writeln!(
            out,
            "| {} | {copy:.2} s | {ingest:.2} s | {:.2} | {pull:.2} s | {:.2} | {rate:.2} GB/s, {blocks:.0} blocks/s |",
            set["set"].as_str().unwrap_or("?"),
            ingest / copy,
            pull / copy,
        )?;
    }
    out.push_str("\n| stream | GB/s | pull of the large set |\n|---|---|---|\n");
    let pull = sets
        .first()
        .map_or(f64::NAN, |set| number(&set["bytes"]) / number(&set["pull_seconds"]) / 1e9);
    for stream in streams.as_array().into_iter().flatten() {
        let rate = number(&stream["gb_per_s"]);
        let mode = stream["mode"].as_str().unwrap_or("?");
        writeln!(out, "| {mode} | {rate:.2} | {:.0} % of it |", pull / rate * 100.0)?;
    }
    Ok(out)
}

fn seconds(value: &Value) -> Result<f64> {
    value["seconds"].as_f64().context("the output of a run has no `seconds`")
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn sync() -> Result<()> {
    process::output(Path::new("sync"), &[]).map(|_| ())
}

fn remove(path: &Path) -> Result<()> {
    let metadata = path.symlink_metadata()?;
    let removed = match metadata.is_dir() {
        true => std::fs::remove_dir_all(path),
        false => std::fs::remove_file(path),
    };
    removed.with_context(|| format!("cannot remove {}", path.display()))
}

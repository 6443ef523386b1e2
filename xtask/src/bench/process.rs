//! Runs the measured programs.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// The cost of a process: CPU time of user and system in seconds, and peak
/// resident set size in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cost {
    pub(super) cpu_seconds: f64,
    pub(super) peak_rss: u64,
}

/// Runs a program and returns its standard output.
pub(super) fn output(program: &Path, arguments: &[String]) -> Result<Vec<u8>> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot run {}", program.display()))?;
    if !output.status.success() {
        bail!("{} failed: {}", program.display(), output.status);
    }
    Ok(output.stdout)
}

/// Runs a program and returns its standard output, parsed as JSON, with its cost
/// as measured by GNU time. Without GNU time the cost is zero.
pub(super) fn measure(program: &Path, arguments: &[String]) -> Result<(Value, Cost)> {
    let timed = Path::new("/usr/bin/time");
    if !timed.exists() {
        let told = serde_json::from_slice(&output(program, arguments)?)?;
        return Ok((told, Cost::default()));
    }
    let result = Command::new(timed)
        .args(["-f", "%U %S %M"])
        .arg(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .context("cannot run time")?;
    let told = String::from_utf8_lossy(&result.stderr);
    if !result.status.success() {
        bail!("{} failed: {told}", program.display());
    }
    let last = told.lines().last().unwrap_or_default();
    let numbers: Vec<f64> = last.split(' ').filter_map(|text| text.parse().ok()).collect();
    let [user, system, _] = numbers[..] else { bail!("time says {last:?}") };
    let kib: u64 = last.rsplit(' ').next().unwrap_or_default().parse().context("time")?;
    let cost = Cost { cpu_seconds: user + system, peak_rss: kib * 1024 };
    Ok((serde_json::from_slice(&result.stdout)?, cost))
}

/// Serves the store `from` in one process and pulls it into `to` in another.
pub(super) fn pull(program: &Path, from: &Path, to: &Path) -> Result<Value> {
    let mut server = Command::new(program)
        .arg("serve")
        .arg(from)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run the server")?;
    let stdout = server.stdout.take().context("the server has no output")?;
    let mut lines = BufReader::new(stdout);
    let mut line = String::new();
    lines.read_line(&mut line)?;
    let at: Value = serde_json::from_str(&line).context("the server did not start")?;
    let text = |key: &str| at[key].as_str().unwrap_or_default().to_owned();
    let arguments = [
        "fetch".to_owned(),
        to.to_string_lossy().into_owned(),
        text("peer"),
        text("address"),
        text("root"),
    ];
    let result = output(program, &arguments);
    // The server exits at the end of its input, and prints its cost.
    drop(server.stdin.take());
    let mut rest = String::new();
    lines.read_to_string(&mut rest)?;
    server.wait()?;
    let mut told: Value = serde_json::from_slice(&result?)?;
    let source: Value = serde_json::from_str(rest.trim()).unwrap_or(json!({}));
    told["source_cpu_seconds"] = source["cpu_seconds"].clone();
    told["source_peak_rss"] = source["peak_rss"].clone();
    Ok(told)
}

//! Runs many seeds, or one seed with its log: `archivist-sim [--seeds N] [--start N]
//! [--seed N [--detailed]] [--jobs N] [--hours H] [--twice]`. `cargo xtask sim` calls it.

#![allow(clippy::print_stdout, reason = "the output is for the developer")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sim::{Options, simulate, simulate_twice};

/// Number of failed seeds after which a run ends.
const FAULTS_MAX: usize = 10;

fn number(arguments: &[String], name: &str) -> Option<u64> {
    let at = arguments.iter().position(|argument| argument == name)?;
    let value = arguments.get(at + 1).and_then(|value| value.parse().ok());
    Some(value.unwrap_or_else(|| panic!("{name} needs a number")))
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(seed) = number(&arguments, "--seed") {
        let is_detailed = arguments.iter().any(|argument| argument == "--detailed");
        let outcome = simulate(Options { is_detailed, ..Options::new(seed) });
        println!("{}", outcome.log);
        if let Some(fault) = outcome.fault {
            println!("seed {seed} FAILED: {fault}");
            std::process::exit(1);
        }
        println!("seed {seed} passed");
        return;
    }
    let is_twice = arguments.iter().any(|argument| argument == "--twice");
    let run = if is_twice { simulate_twice } else { simulate };
    let start = number(&arguments, "--start").unwrap_or(0);
    let hours = number(&arguments, "--hours");
    let seeds =
        number(&arguments, "--seeds").unwrap_or(if hours.is_some() { u64::MAX } else { 2000 });
    let jobs = number(&arguments, "--jobs")
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(2, |n| n.get() as u64));
    let until = hours.map(|hours| Instant::now() + Duration::from_secs(3600 * hours));
    let (next, done) = (AtomicU64::new(start), AtomicU64::new(0));
    let faults = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let is_over = until.is_some_and(|until| Instant::now() >= until);
                    if seed >= start.saturating_add(seeds)
                        || is_over
                        || faults.lock().len() >= FAULTS_MAX
                    {
                        return;
                    }
                    let outcome = run(Options::new(seed));
                    if let Some(fault) = outcome.fault {
                        println!("seed {seed} FAILED: {fault}");
                        faults.lock().push((seed, outcome.log));
                    }
                    let done = done.fetch_add(1, Ordering::Relaxed) + 1;
                    if done.is_multiple_of(1000) {
                        println!("{done} seeds");
                    }
                }
            });
        }
    });
    let mut faults = faults.into_inner();
    faults.sort();
    println!("{} seeds, {} failed", done.into_inner(), faults.len());
    if let Some((seed, log)) = faults.first() {
        println!("log of seed {seed}:\n{log}");
        let failed: Vec<String> = faults.iter().map(|(seed, _)| seed.to_string()).collect();
        println!("failed seeds: {}", failed.join(" "));
        std::process::exit(1);
    }
}

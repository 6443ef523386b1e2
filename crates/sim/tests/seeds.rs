//! Seeds of the simulation: the same number in every run, so that a failure can be repeated.
//! `cargo xtask sim` runs others.

use std::sync::atomic::{AtomicU64, Ordering};

use sim::{Options, simulate, simulate_twice};

/// Number of seeds; `ARCHIVIST_SIM_SEEDS` changes it.
const SEEDS: u64 = 2000;
/// Number of threads, each with a simulation of its own.
const THREADS: u64 = 2;

#[test]
fn the_same_seed_gives_the_same_log() {
    for seed in 1_000_000..1_000_020 {
        let outcome = simulate_twice(Options::new(seed));
        assert!(outcome.log.lines().count() > 20, "seed {seed}");
        assert_eq!(outcome.fault, None, "seed {seed}");
    }
    let [first, second] = [1, 2].map(|seed| simulate(Options::new(seed)).log);
    assert_ne!(first, second);
}

#[test]
fn no_seed_finds_a_fault() {
    let seeds = std::env::var("ARCHIVIST_SIM_SEEDS").ok();
    let seeds = seeds.map_or(SEEDS, |seeds| seeds.parse().expect("a number of seeds"));
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds {
                        return;
                    }
                    let outcome = simulate(Options::new(seed));
                    if let Some(fault) = outcome.fault {
                        panic!(
                            "seed {seed}: {fault}\n{}\nrepeat: cargo xtask sim --seed {seed}",
                            outcome.log
                        );
                    }
                }
            });
        }
    });
}

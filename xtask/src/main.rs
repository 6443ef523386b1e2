//! The commands of developers. `cargo xtask test` runs every test; `cargo xtask`
//! lists the others.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for a terminal")]

mod bench;
mod build;
mod deny;
mod npm;
mod shell;
mod sim;
mod test;
mod tidy;
mod tools;
mod web;

use std::process::ExitCode;

use self::build::Profile;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  build [--release | --dist]
                  builds the web UI and the program that embeds it
                  (--dist: stripped for installation, in target/dist/install)
  test [--fast]   runs all checks and tests: format, lints, tidy, dependencies,
                  tests (--fast: only those that need nothing but cargo)
  ci              the same as `test`; .ci/run runs it
  tidy            checks the rules about the source itself
  fuzz [SECS]     runs each fuzz target for so many seconds (60)
  sim [--seeds N] [--start N] [--jobs N]
                  simulates N histories of both sides (2000), each from a seed
  sim --seed N [--detailed]
                  simulates one history and prints its log
  soak [N]        kills both sides at N random moments (500), then compares
  soak --sim HOURS
                  simulates histories from new seeds for hours
  bench           measures the store and the transfer (--help)
  bench peers     measures the whole product against its peers (--help;
                  --smoke: a short run that only checks that it works)
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments.as_slice() {
        ["test" | "ci"] => test::run(tools::Scope::All),
        ["test", "--fast"] => test::run(tools::Scope::Fast),
        ["build"] => build::run(Profile::Dev),
        ["build", "--release"] => build::run(Profile::Release),
        ["build", "--dist"] => build::run(Profile::Dist),
        ["tidy"] => tidy::run(),
        ["fuzz"] => test::fuzz(60),
        ["fuzz", secs] if secs.parse::<u32>().is_ok() => test::fuzz(secs.parse().unwrap_or(60)),
        ["sim", rest @ ..] => sim::run(rest),
        ["soak", "--sim", hours] if hours.parse::<u64>().is_ok() => sim::soak(hours),
        ["soak"] => test::soak("500"),
        ["soak", kills] if kills.parse::<u32>().is_ok() => test::soak(kills),
        ["bench", "peers", rest @ ..] => bench::peers::run(rest),
        ["bench", rest @ ..] => bench::run(rest),
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

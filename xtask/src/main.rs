//! What developers run: `cargo xtask test` passes every test, `cargo xtask`
//! alone lists the rest.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for a terminal")]

mod bench;
mod shell;
mod test;
mod tidy;
mod web;

use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  build [--release]
                  the web UI, and then the program with it in it
  test [--fast]   everything that has to pass: format, lints, tidy, all tests
                  (--fast: without those that need npm or take minutes)
  ci              the same as `test`; what .ci/run runs
  tidy            the rules about the source itself
  soak [N]        both sides killed at N random moments (500), then compared
  bench           the store and the transfer, measured (--help)
  bench peers     the whole product against its peers (--help; --smoke: does it work?)
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments.as_slice() {
        ["test" | "ci"] => test::run(test::Scope::All),
        ["test", "--fast"] => test::run(test::Scope::Fast),
        ["build"] => web::build(false),
        ["build", "--release"] => web::build(true),
        ["tidy"] => tidy::run(),
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

//! The end of the program: its error message and its exit code.

use std::path::PathBuf;
use std::process::ExitCode;

use api::ClientError;

use crate::output::safe;

/// The command failed.
const FAILED: u8 = 1;
/// The command line is not valid.
const USAGE: u8 = 2;
/// The command needs a running instance, and there is none.
const NOT_RUNNING: u8 = 3;

/// The command did its work, but not everything could be set or read.
const PARTLY: u8 = 4;

/// An error with an exit code of its own.
#[derive(Debug, thiserror::Error)]
pub(crate) enum End {
    /// The command needs a running instance.
    #[error(
        "no instance is running on {}, and {what} needs one: start it with `archivist daemon`, \
         or choose another one with --home",
        data.display()
    )]
    NotRunning {
        /// Data directory of the instance.
        data: PathBuf,
        /// The command that needs the instance.
        what: &'static str,
    },
    /// An argument is not valid.
    #[error("{0}\n\nFor more information, try '--help'.")]
    Usage(String),
    /// The command did its work, but not everything could be set or read.
    #[error("{0}")]
    Partly(&'static str),
    /// The command did its work, but not everything could be set or read, and it has
    /// already printed what.
    #[error("done in part")]
    PartlyReported,
    /// The command failed and has already printed why.
    #[error("failed")]
    Reported,
}

/// Prints an error and returns its exit code.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    let end = error.downcast_ref::<End>();
    if !matches!(end, Some(End::Reported | End::PartlyReported)) {
        eprintln!("archivist: {}", safe(&format!("{error:#}")));
    }
    let not_running = error
        .chain()
        .any(|cause| matches!(cause.downcast_ref(), Some(ClientError::NotRunning { .. })));
    ExitCode::from(match end {
        Some(End::Usage(_)) => USAGE,
        Some(End::Partly(_) | End::PartlyReported) => PARTLY,
        Some(End::NotRunning { .. }) => NOT_RUNNING,
        _ if not_running => NOT_RUNNING,
        _ => FAILED,
    })
}

//! How the program ends: what is said, and with which code.

use std::path::PathBuf;
use std::process::ExitCode;

use api::ClientError;

use crate::output::safe;

/// Something failed.
const FAILED: u8 = 1;
/// The command line is wrong.
const USAGE: u8 = 2;
/// No instance runs, and one is needed.
const NOT_RUNNING: u8 = 3;

/// An end with a code of its own.
#[derive(Debug, thiserror::Error)]
pub(crate) enum End {
    /// The command needs a running instance.
    #[error(
        "no instance runs on {}, and {what} needs one: start it with `archivist daemon`, \
         or name another one with --home",
        data.display()
    )]
    NotRunning {
        /// The data of the instance.
        data: PathBuf,
        /// What needs it.
        what: &'static str,
    },
    /// The command line says something that cannot be meant.
    #[error("{0}\n\nFor more information, try '--help'.")]
    Usage(String),
    /// It failed, and all of it has been said already.
    #[error("failed")]
    Told,
}

/// Says what went wrong, and returns the code for it.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    let end = error.downcast_ref::<End>();
    if !matches!(end, Some(End::Told)) {
        eprintln!("archivist: {}", safe(&format!("{error:#}")));
    }
    let not_running = error
        .chain()
        .any(|cause| matches!(cause.downcast_ref(), Some(ClientError::NotRunning { .. })));
    ExitCode::from(match end {
        Some(End::Usage(_)) => USAGE,
        Some(End::NotRunning { .. }) => NOT_RUNNING,
        _ if not_running => NOT_RUNNING,
        _ => FAILED,
    })
}

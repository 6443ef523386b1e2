//! Output for terminals and for programs: text, tables, JSON, progress.

mod progress;
mod table;
mod text;

use std::io::{self, BufWriter, StdoutLock, Write};

use anyhow::{Context as _, Result};
use serde::Serialize;

pub(crate) use self::progress::{Progress, Unit};
pub(crate) use self::table::{Align, Table};
pub(crate) use self::text::{count, local_time, mode, ns_time, path, safe, size};

/// Standard output. If its reader has closed it, the program ends with 0, as
/// `archivist ls … | head` expects.
#[derive(Debug)]
pub(crate) struct Out(BufWriter<StdoutLock<'static>>);

impl Out {
    pub(crate) fn new() -> Self {
        Self(BufWriter::new(io::stdout().lock()))
    }

    /// Writes one line.
    pub(crate) fn line(&mut self, text: impl std::fmt::Display) -> Result<()> {
        writeln!(self, "{text}").context("cannot write to standard output")
    }

    /// Writes one value as JSON.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> Result<()> {
        serde_json::to_writer_pretty(&mut *self, value)
            .context("cannot write to standard output")?;
        self.line("")
    }

    /// Flushes the output.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.flush().context("cannot write to standard output")
    }
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).inspect_err(end_if_closed)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush().inspect_err(end_if_closed)
    }
}

fn end_if_closed(error: &io::Error) {
    if error.kind() == io::ErrorKind::BrokenPipe {
        std::process::exit(0);
    }
}

/// Prints one value as JSON.
pub(crate) fn print_json(value: &impl Serialize) -> Result<()> {
    let mut out = Out::new();
    out.json(value)?;
    out.finish()
}

/// Prints one line.
pub(crate) fn print_line(text: impl std::fmt::Display) -> Result<()> {
    let mut out = Out::new();
    out.line(text)?;
    out.finish()
}

/// Writes the elements of a JSON array one by one.
#[derive(Debug, Default)]
pub(crate) struct JsonArray {
    len: u64,
}

impl JsonArray {
    /// Writes the next element.
    pub(crate) fn push(&mut self, out: &mut Out, value: &impl Serialize) -> io::Result<()> {
        out.write_all(if self.len == 0 { b"[\n" } else { b",\n" })?;
        self.len += 1;
        serde_json::to_writer(out, value).map_err(io::Error::from)
    }

    /// Ends the array.
    pub(crate) fn end(self, out: &mut Out) -> io::Result<()> {
        out.write_all(if self.len == 0 { b"[]\n" } else { b"\n]\n" })
    }
}

//! `archivist ls`

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt as _;

use anyhow::{Result, bail};
use api::{ListedEntry, Query};
use backup::{Depth, SnapshotTree};
use types::RelPath;

use crate::context::{Context, block_on};
use crate::exit::End;
use crate::offline::Offline;
use crate::output::{JsonArray, Out, mode, ns_time, path, safe, size};

use super::snapshots;

/// The word for the newest snapshot.
pub(super) const LATEST: &str = "latest";

/// List what is in a snapshot, running or not.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  archivist ls latest\n  archivist ls 3f2a91c04d letters --recursive"
)]
pub(crate) struct Ls {
    /// The id of the snapshot, the beginning of it, or `latest`.
    snapshot: String,
    /// A path in the folder; its root, where none is named.
    path: Option<OsString>,
    /// With all that is below.
    #[arg(long, short = 'R')]
    recursive: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Ls {
    pub(crate) fn run(&self, context: &Context) -> Result<()> {
        let wanted = self.snapshot.to_ascii_lowercase();
        let path = match &self.path {
            Some(path) => folder_path(path)?,
            None => RelPath::root(),
        };
        let mut list = List { out: Out::new(), array: self.json.then(JsonArray::default) };
        match context.instance()? {
            Some(client) => block_on(async {
                let mut snapshot = wanted;
                if snapshot == LATEST {
                    let all = snapshots::list(&client, &Query::new()).await?;
                    let newest = all.into_iter().max_by_key(|one| (one.received_at, one.sequence));
                    let Some(newest) = newest else { bail!("there are no snapshots here") };
                    snapshot = newest.id;
                }
                let entries =
                    client.entries(&snapshot, path.as_bytes(), self.recursive, |e| list.push(&e));
                Ok(entries.await?)
            })?,
            None => self.offline(context, &path, &mut list)?,
        }
        list.end()
    }

    fn offline(&self, context: &Context, path: &RelPath, list: &mut List) -> Result<()> {
        let Some(offline) = Offline::open(context)? else {
            bail!("there are no snapshots here");
        };
        let snapshot = if self.snapshot == LATEST {
            let (all, _) = offline.list()?;
            let newest = all.into_iter().max_by_key(|one| (one.received_at, one.sequence));
            let Some(newest) = newest else { bail!("there are no snapshots here") };
            newest
        } else {
            offline.find(Some(&self.snapshot), None, None)?
        };
        let tree = SnapshotTree::open(offline.store().clone(), snapshot.manifest_cid)?;
        let Some(entry) = tree.lookup(path)? else {
            bail!("{path} is not in snapshot {}", snapshot.id);
        };
        if entry.kind != types::EntryKind::Dir {
            return Ok(list.push(&ListedEntry::from(&entry))?);
        }
        let depth = if self.recursive { Depth::All } else { Depth::Children };
        let mut failed = None;
        tree.list(path, depth, |entry| match list.push(&ListedEntry::from(&entry)) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        })?;
        failed.map_or(Ok(()), |error| Err(error.into()))
    }
}

/// Entries, printed as they come.
struct List {
    out: Out,
    /// As JSON.
    array: Option<JsonArray>,
}

impl List {
    fn push(&mut self, entry: &ListedEntry) -> io::Result<()> {
        if let Some(array) = &mut self.array {
            return array.push(&mut self.out, entry);
        }
        let bytes = entry.path_bytes().unwrap_or_else(|| entry.path.clone().into_bytes());
        let size = entry.size_bytes.map_or("-".to_owned(), size);
        let mut line = format!(
            "{}  {size:>10}  {}  {}",
            mode(&entry.kind, entry.mode),
            ns_time(&entry.mtime_ns),
            path(&bytes)
        );
        if let Some(target) = &entry.target {
            line.push_str(" -> ");
            line.push_str(&safe(target).replace('\n', "\\n"));
        }
        if let Some(error) = &entry.error {
            line.push_str("  (an older state: ");
            line.push_str(&safe(error).replace('\n', " "));
            line.push(')');
        }
        writeln!(self.out, "{line}")
    }

    fn end(mut self) -> Result<()> {
        if let Some(array) = self.array.take() {
            array.end(&mut self.out)?;
        }
        self.out.finish()
    }
}

/// A path in a folder as it was typed: `/`, `./` and `/` at the end are
/// nothing, `..` is refused.
pub(super) fn folder_path(typed: &OsString) -> Result<RelPath> {
    let names: Vec<&[u8]> = typed
        .as_bytes()
        .split(|byte| *byte == b'/')
        .filter(|name| !name.is_empty() && *name != b".")
        .collect();
    RelPath::new(names.join(&b'/')).map_err(|error| {
        let shown = typed.display();
        End::Usage(format!("{shown:?} is no path in a folder: {error}")).into()
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt as _;

    use super::*;

    #[test]
    fn paths_are_taken_as_they_are_meant() {
        let read = |bytes: &[u8]| {
            folder_path(&OsString::from_vec(bytes.to_vec()))
                .map(|path| path.as_bytes().to_vec())
                .ok()
        };
        assert_eq!(read(b"a/b").unwrap(), b"a/b");
        assert_eq!(read(b"/a//./b/").unwrap(), b"a/b");
        assert_eq!(read(b"./\xff").unwrap(), b"\xff");
        assert_eq!(read(b".").unwrap(), b"");
        assert_eq!(read(b"a/../b"), None);
        assert_eq!(read(&[b'x'; 300]), None);
    }
}

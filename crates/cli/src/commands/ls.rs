//! `archivist ls`

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt as _;

use ::snapshots::{Depth, SnapshotTree};
use anyhow::{Context as _, Result, bail};
use api::{Client, ListedEntry, Query, Snapshot};
use types::RelPath;

use crate::context::{Context, block_on};
use crate::exit::End;
use crate::offline::Offline;
use crate::output::{JsonArray, Out, mode, ns_time, path, safe, size};

use super::snapshots;

/// Name of the newest snapshot on the command line.
pub(super) const LATEST: &str = "latest";

/// List the contents of a snapshot.
///
/// Works with and without a running instance.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  archivist ls latest\n  archivist ls 3f2a91c04d letters --recursive"
)]
pub(crate) struct Ls {
    /// Id of the snapshot, the beginning of its id, or `latest`.
    snapshot: String,
    /// Path in the folder [default: the folder itself].
    path: Option<OsString>,
    /// List all subdirectories too.
    #[arg(long, short = 'R')]
    recursive: bool,
    /// List a snapshot of this computer's folders on the backup server.
    ///
    /// This is the default if no snapshot on this computer matches and a backup
    /// server is set.
    #[arg(long)]
    from_backup_server: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// The command as an error names it that needs an instance for the network.
const NEEDS_NETWORK: &str = "`archivist ls` of a snapshot on the backup server";

impl Ls {
    pub(crate) fn run(&self, context: &Context) -> Result<()> {
        let wanted = self.snapshot.to_ascii_lowercase();
        let path = match &self.path {
            Some(path) => folder_path(path)?,
            None => RelPath::root(),
        };
        let mut list = List { out: Out::new(), array: self.json.then(JsonArray::default) };
        match context.instance_to_read()? {
            Some(client) => block_on(self.through(context, &client, wanted, &path, &mut list))?,
            None => self.offline(context, &path, &mut list)?,
        }
        list.end()
    }

    async fn through(
        &self,
        context: &Context,
        client: &Client,
        wanted: String,
        path: &RelPath,
        list: &mut List,
    ) -> Result<()> {
        let has_server = context.config()?.sync.backup_peer_address.is_some();
        let is_latest = wanted == LATEST;
        let mut is_remote = self.from_backup_server;
        let mut all = Vec::new();
        // Without a backup server, an id can only name a snapshot here: no search needed.
        if !is_remote && (is_latest || has_server) {
            all = snapshots::list(client, &Query::new()).await?;
            let fits = |one: &Snapshot| is_latest || one.id.starts_with(&wanted);
            is_remote = has_server && !all.iter().any(fits);
        }
        let mut snapshot = wanted;
        if is_latest {
            if is_remote {
                let query = Query::new().with("from_backup_server", "true");
                all = snapshots::list(client, &query).await?;
            }
            snapshot = newest(all.clone())?.id;
        }
        let listed = all.iter().find(|one| one.id.starts_with(&snapshot));
        listed.into_iter().for_each(note_part);
        let (path, recursive) = (path.as_bytes(), self.recursive);
        let entries = client.entries(&snapshot, path, recursive, is_remote, |e| list.push(&e));
        Ok(entries.await?)
    }

    fn offline(&self, context: &Context, path: &RelPath, list: &mut List) -> Result<()> {
        if self.from_backup_server {
            context.need_instance(NEEDS_NETWORK)?;
        }
        let offline = Offline::open_to_restore(context)?;
        let (all, _) = offline.as_ref().map(Offline::list).transpose()?.unwrap_or_default();
        let wanted = self.snapshot.to_ascii_lowercase();
        let fits = |one: &Snapshot| wanted == LATEST || one.id.starts_with(&wanted);
        if !all.iter().any(fits) && context.config()?.sync.backup_peer_address.is_some() {
            context.need_instance(NEEDS_NETWORK)?;
        }
        let Some(offline) = offline else { bail!("this computer has no snapshots") };
        let snapshot = match wanted.as_str() {
            LATEST => newest(all)?,
            id => offline.find(Some(id), None, None)?,
        };
        note_part(&snapshot);
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

/// Returns the snapshot that arrived last.
fn newest(all: Vec<Snapshot>) -> Result<Snapshot> {
    let newest = all.into_iter().max_by_key(|one| (one.received_at, one.sequence));
    newest.context("no snapshots found")
}

/// Prints entries as they arrive.
struct List {
    out: Out,
    /// Set for JSON output.
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
            line.push_str("  (older content: ");
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

/// Parses a typed path in a folder. Leading and trailing `/`, and `.`, are ignored.
///
/// # Errors
///
/// Returns [`End::Usage`] for `..` and for paths that are not valid.
pub(super) fn folder_path(typed: &OsString) -> Result<RelPath> {
    let names: Vec<&[u8]> = typed
        .as_bytes()
        .split(|byte| *byte == b'/')
        .filter(|name| !name.is_empty() && *name != b".")
        .collect();
    RelPath::new(names.join(&b'/')).map_err(|error| {
        let shown = typed.display();
        End::Usage(format!("{shown:?} is not a path in a folder: {error}")).into()
    })
}

/// Reports on standard error that a snapshot is only a part of its folder.
fn note_part(snapshot: &Snapshot) {
    if snapshot.is_part {
        eprintln!("snapshot {} is only a part of the folder", safe(&snapshot.id));
    }
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

//! The chains of receipts on the disk of the source.
//!
//! Guarantee: a receipt that was added is on the disk, synced, and stays. After a crash, a chain
//! has all receipts that were added and possibly the one that was being added.
//!
//! A chain that cannot be read is never replaced: its receipts are refused as "not stored", and the
//! backup server sends them again later.

use std::collections::BTreeMap;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use disk::{Aside, Disk, DiskFile, FileError};
use jiff::Timestamp;
use net::PeerId;
use parking_lot::Mutex;
use protocols::{ReceiptHash, SignedReceipt};

use super::chain_file::{
    ChainId, ChainState, Interruption, Line, LineContent, Lines, StoredReceipt, chain_of, path_of,
};

/// Maximum number of interruptions of a chain that the user has not accepted. Beyond it, a receipt
/// that does not continue the chain is refused, so that a backup server cannot fill the disk.
const OPEN_MAX: u64 = 16;
/// Maximum number of incomplete ends of one file that are set aside.
const ASIDE_MAX: u64 = 9;

/// Reason why a chain cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// The file system reported an error.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// The failed operation, as a verb.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The error of the file system.
        #[source]
        source: io::Error,
    },
    /// Another program has changed a file, which is read again.
    #[error("another program has changed {}; the file was not changed", path.display())]
    Changed {
        /// The file of the chain.
        path: PathBuf,
    },
    /// The incomplete end of a file cannot be set aside.
    #[error(transparent)]
    Aside(#[from] FileError),
    /// Too many incomplete ends of a file were set aside.
    #[error(
        "the last line of {} is not complete, and no more copies of such lines are made: move the \
         files that end with .damaged-1 to .damaged-9 away",
        path.display()
    )]
    NoNameAside {
        /// The file of the chain.
        path: PathBuf,
    },
}

fn failed<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> ChainError + 'a {
    move |source| ChainError::Io { action, path: path.to_owned(), source }
}

/// Result of adding a receipt to its chain.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Added {
    /// The receipt is the newest of the chain now.
    New(Option<Interruption>),
    /// The receipt was the newest already.
    Newest,
    /// The receipt is in the chain, before the newest.
    Older,
    /// The receipt is not in the chain, and the caller refused it for this reason.
    Refused(&'static str),
    /// The receipt does not continue the chain, and neither did too many before.
    TooManyInterruptions,
}

/// A chain in memory.
#[derive(Debug)]
struct Chain {
    path: PathBuf,
    state: ChainState,
    /// True if the signature of the newest receipt is valid.
    is_newest_signed: bool,
    /// Length of the file up to which its lines are used.
    len: u64,
    /// Start of the last line.
    last_line: u64,
    /// Bytes after `len` when the file was read: the last line without its end, an interrupted
    /// write.
    tail: Vec<u8>,
    /// Maximum length that the file has if only this process writes to it: an append that failed
    /// may have left bytes after `len`.
    len_max: u64,
    /// True if the file does not end with a line end at `len`.
    needs_line_end: bool,
    /// True if the last line was synced by this process. After a failed sync of an earlier process,
    /// the page cache has bytes that are not on the disk.
    is_synced: bool,
}

/// Status of a chain.
#[derive(Clone, Debug)]
pub(super) struct ChainReport {
    pub(super) id: ChainId,
    pub(super) state: ChainState,
    pub(super) is_newest_signed: bool,
    /// The reason if the file could not be read; the state is empty then.
    pub(super) unreadable: Option<String>,
}

impl ChainReport {
    /// Returns the report of a chain without receipts.
    pub(super) fn empty(id: ChainId) -> Self {
        Self { id, state: ChainState::default(), is_newest_signed: false, unreadable: None }
    }
}

/// The chains of one source.
#[derive(Debug)]
pub(super) struct Chains {
    disk: Arc<dyn Disk>,
    data_dir: PathBuf,
    dir: PathBuf,
    own: PeerId,
    chains: Mutex<BTreeMap<ChainId, Result<Chain, String>>>,
}

impl Chains {
    /// Reads the chains below `data_dir`. A chain that cannot be read is part of the reports.
    ///
    /// # Errors
    ///
    /// Returns [`ChainError::Io`] if the directory cannot be listed.
    pub(super) fn open(
        disk: Arc<dyn Disk>,
        data_dir: &Path,
        own: PeerId,
    ) -> Result<Self, ChainError> {
        let dir = data_dir.join(super::DIR);
        let mut chains = BTreeMap::new();
        for id in find_chains(&dir, |dir| disk.list(dir))? {
            let path = path_of(&dir, &id);
            let chain = Chain::read(&*disk, path, &id, &own).map_err(|error| {
                let error = types::with_causes(&error);
                tracing::error!(error, "cannot read a chain of receipts");
                error
            });
            chains.insert(id, chain);
        }
        let data_dir = data_dir.to_owned();
        Ok(Self { disk, data_dir, dir, own, chains: Mutex::new(chains) })
    }

    /// Adds a receipt, whose signatures are valid. If the receipt is not in the chain yet,
    /// `refusal` may refuse it; its argument is the newest receipt, if the receipt continues the
    /// chain. Blocks for a write.
    ///
    /// # Errors
    ///
    /// Returns [`ChainError`] if the receipt is not stored.
    pub(super) fn add(
        &self,
        signed: &SignedReceipt,
        arrived_at: Timestamp,
        refusal: impl FnOnce(Option<&SignedReceipt>) -> Option<&'static str>,
    ) -> Result<Added, ChainError> {
        let receipt = signed.receipt();
        let id = ChainId {
            backup_server: receipt.backup_server,
            folder: receipt.confirmation.folder_id.clone(),
        };
        let mut chains = self.chains.lock();
        let chain = self.chain(&mut chains, &id)?;
        let newest = chain.state.newest.as_ref().map(|newest| &newest.signed);
        let is_newest = newest.is_some_and(|newest| newest.hash() == signed.hash());
        if is_newest && chain.is_newest_signed {
            chain.make_durable(&*self.disk)?;
            return Ok(Added::Newest);
        }
        // A receipt whose stored signature is damaged is added again.
        if !is_newest {
            if newest.is_some_and(|newest| receipt.number <= newest.receipt().number)
                && chain.contains(&*self.disk, &id, &self.own, signed.hash())?
            {
                return Ok(Added::Older);
            }
            let follows = signed.follows(newest);
            if let Some(reason) = refusal(newest.filter(|_| follows)) {
                return Ok(Added::Refused(reason));
            }
            if newest.is_some() && !follows && chain.state.open >= OPEN_MAX {
                return Ok(Added::TooManyInterruptions);
            }
        }
        let stored = StoredReceipt { signed: signed.clone(), arrived_at };
        let line = LineContent::Receipt(Box::new(stored.clone()));
        if let Err(error) = self.append(chain, &line) {
            if let ChainError::Changed { .. } = error {
                chains.insert(id, Err(types::with_causes(&error)));
            }
            return Err(error);
        }
        let interruption = chain.state.receipt(&stored);
        if is_newest {
            chain.state.signed_again();
        }
        chain.is_newest_signed = true;
        Ok(Added::New(interruption))
    }

    /// Accepts the interruptions of the chains of a folder, or of all chains. Returns their number.
    ///
    /// # Errors
    ///
    /// Returns [`ChainError`] if an acceptance is not stored. The ones before it are.
    pub(super) fn accept(
        &self,
        folder: Option<&types::FolderId>,
        at: Timestamp,
    ) -> Result<u64, ChainError> {
        let mut chains = self.chains.lock();
        let mut accepted = 0;
        for (id, slot) in chains.iter_mut() {
            let Ok(chain) = slot else { continue };
            if folder.is_some_and(|folder| *folder != id.folder) || chain.state.open == 0 {
                continue;
            }
            if let Err(error) = self.append(chain, &LineContent::Accepted(at)) {
                if let ChainError::Changed { .. } = error {
                    *slot = Err(types::with_causes(&error));
                }
                return Err(error);
            }
            accepted += std::mem::take(&mut chain.state.open);
            chain.state.first_open = None;
        }
        Ok(accepted)
    }

    /// Returns the status of every chain.
    pub(super) fn reports(&self) -> Vec<ChainReport> {
        let chains = self.chains.lock();
        let report = |(id, chain): (&ChainId, &Result<Chain, String>)| match chain {
            Ok(chain) => ChainReport {
                id: id.clone(),
                state: chain.state.clone(),
                is_newest_signed: chain.is_newest_signed,
                unreadable: None,
            },
            Err(reason) => {
                ChainReport { unreadable: Some(reason.clone()), ..ChainReport::empty(id.clone()) }
            }
        };
        chains.iter().map(report).collect()
    }

    /// Returns a chain. Reads it again if that failed before.
    fn chain<'a>(
        &self,
        chains: &'a mut BTreeMap<ChainId, Result<Chain, String>>,
        id: &ChainId,
    ) -> Result<&'a mut Chain, ChainError> {
        if !matches!(chains.get(id), Some(Ok(_))) {
            let path = path_of(&self.dir, id);
            match Chain::read(&*self.disk, path, id, &self.own) {
                Ok(chain) => chains.insert(id.clone(), Ok(chain)),
                Err(error) => {
                    chains.insert(id.clone(), Err(types::with_causes(&error)));
                    return Err(error);
                }
            };
        }
        match chains.get_mut(id) {
            Some(Ok(chain)) => Ok(chain),
            _ => unreachable!("the chain was inserted"),
        }
    }

    /// Appends a line durably. If that fails, the chain is as before.
    fn append(&self, chain: &mut Chain, line: &LineContent) -> Result<(), ChainError> {
        let disk = &*self.disk;
        chain.make_durable(disk)?;
        let path = &chain.path;
        let file = match disk.open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound && chain.len == 0 => {
                disk.create_dir(&self.dir).map_err(failed("create", &self.dir))?;
                disk.create(path).map_err(failed("create", path))?
            }
            Err(error) => return Err(failed("open", path)(error)),
        };
        let file_len = file.len().map_err(failed("read", path))?;
        if !(chain.len..=chain.len_max).contains(&file_len) {
            return Err(ChainError::Changed { path: path.clone() });
        }
        if !chain.tail.is_empty() {
            tracing::warn!(
                path = %path.display(),
                bytes = chain.tail.len(),
                "the last line of a chain of receipts is not complete, and is set aside; the \
                 backup server sends the receipt again"
            );
            let aside = Aside::next(disk, path)?;
            if aside.number() > ASIDE_MAX {
                return Err(ChainError::NoNameAside { path: path.clone() });
            }
            aside.copy(&chain.tail)?;
            chain.tail.clear();
        }
        // Also removes the rest of an append that failed. The bytes are then written again, since
        // a sync that follows a failed one does not write them.
        if file_len != chain.len {
            file.truncate(chain.len).map_err(failed("truncate", path))?;
        }
        let start: &[u8] = if chain.needs_line_end { b"\n" } else { b"" };
        let bytes = line.encode();
        chain.len_max = chain.len + (start.len() + bytes.len()) as u64;
        file.write_at(&[start, &bytes], chain.len).map_err(failed("write", path))?;
        file.sync().map_err(failed("sync", path))?;
        if !chain.is_synced {
            // The name may be from an append that failed.
            for dir in [&self.dir, &self.data_dir] {
                disk.sync_dir(dir).map_err(failed("sync", dir))?;
            }
        }
        chain.last_line = chain.len + start.len() as u64;
        chain.len = chain.last_line + bytes.len() as u64;
        (chain.needs_line_end, chain.is_synced) = (false, true);
        Ok(())
    }
}

impl Chain {
    /// Reads a chain. A missing file is a chain without receipts.
    fn read(
        disk: &dyn Disk,
        path: PathBuf,
        id: &ChainId,
        own: &PeerId,
    ) -> Result<Self, ChainError> {
        let mut chain = Self {
            path,
            state: ChainState::default(),
            is_newest_signed: true,
            len: 0,
            last_line: 0,
            tail: Vec::new(),
            len_max: 0,
            needs_line_end: false,
            is_synced: false,
        };
        let path = &chain.path;
        let file = match disk.open_read(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(chain),
            Err(error) => return Err(failed("open", path)(error)),
        };
        for line in Lines::new(reader(&*file), id, Some(own)) {
            let line = line.map_err(failed("read", path))?;
            let Line { start, end, ref content, .. } = line;
            chain.state.add(&line);
            match content {
                LineContent::Incomplete => {
                    let len = usize::try_from(end - start).unwrap_or(usize::MAX);
                    chain.tail = file.read_vec_at(len, start).map_err(failed("read", path))?;
                    chain.len_max = end;
                }
                LineContent::Receipt(_) | LineContent::Accepted(_) => {
                    (chain.last_line, chain.len) = (start, end);
                }
                // Stays, and may be long.
                LineContent::Damaged(_) | LineContent::Newer => {
                    (chain.last_line, chain.len) = (end, end);
                }
            }
        }
        chain.len_max = chain.len_max.max(chain.len);
        if chain.len > 0 {
            let last = file.read_vec_at(1, chain.len - 1).map_err(failed("read", path))?;
            chain.needs_line_end = last != b"\n";
        }
        if let Some(newest) = &chain.state.newest
            && !newest.signed.is_signed()
        {
            chain.is_newest_signed = false;
            let number = newest.signed.receipt().number;
            chain.state.open(Interruption::Unsigned { number });
        }
        Ok(chain)
    }

    /// Writes the last line again, if this process has not synced it.
    fn make_durable(&mut self, disk: &dyn Disk) -> Result<(), ChainError> {
        if self.is_synced || self.len == 0 {
            return Ok(());
        }
        let path = &self.path;
        let file = disk.open(path).map_err(failed("open", path))?;
        let len = usize::try_from(self.len - self.last_line).unwrap_or(0);
        let line = file.read_vec_at(len, self.last_line).map_err(failed("read", path))?;
        file.write_at(&[&line], self.last_line).map_err(failed("write", path))?;
        file.sync().map_err(failed("sync", path))?;
        let dir = path.parent().unwrap_or(Path::new("."));
        disk.sync_dir(dir).map_err(failed("sync", dir))?;
        self.is_synced = true;
        Ok(())
    }

    /// Reports whether the chain contains a receipt. Reads the file.
    fn contains(
        &self,
        disk: &dyn Disk,
        id: &ChainId,
        own: &PeerId,
        hash: ReceiptHash,
    ) -> Result<bool, ChainError> {
        let path = &self.path;
        let file = disk.open_read(path).map_err(failed("open", path))?;
        for line in Lines::new(reader(&*file), id, Some(own)) {
            let line = line.map_err(failed("read", path))?;
            if line.end > self.len {
                break;
            }
            if let LineContent::Receipt(stored) = line.content
                && stored.signed.hash() == hash
            {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Finds the files of chains in `dir`.
pub(super) fn find_chains(
    dir: &Path,
    list: impl FnOnce(&Path) -> io::Result<Vec<std::ffi::OsString>>,
) -> Result<Vec<ChainId>, ChainError> {
    let names = match list(dir) {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(failed("list", dir)(error)),
    };
    let mut found: Vec<_> =
        names.iter().filter_map(|name| name.to_str().and_then(chain_of)).collect();
    found.sort();
    Ok(found)
}

/// Returns a reader of a file.
fn reader(file: &dyn DiskFile) -> BufReader<DiskReader<'_>> {
    BufReader::with_capacity(64 << 10, DiskReader { file, at: 0 })
}

struct DiskReader<'a> {
    file: &'a dyn DiskFile,
    at: u64,
}

impl Read for DiskReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buf, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

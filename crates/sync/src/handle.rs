//! How the rest of the program talks to the source side.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::{Mutex, RwLock};
use store::{FileId, FileTable as _, InPlaceAnswer, InPlaceRead};
use tokio::sync::{broadcast, oneshot};
use types::{Cid, Codec, FolderId, Hash, PublishedManifest, SequenceNumber};

use crate::core::Core;
use crate::error::SyncError;
use crate::folder::{Mailbox, problem};
use crate::index::ReceiptRecord;
use crate::publish;
use crate::status::{FileProblem, FolderStatus, Receipt};

/// More errors of a folder are not listed.
const ERRORS_MAX: usize = 100_000;

/// A handle to a running [`crate::SyncService`]; it can be cloned and sent.
#[derive(Clone, Debug)]
pub struct SyncHandle {
    pub(crate) core: Arc<Core>,
    pub(crate) folders: Arc<RwLock<BTreeMap<FolderId, Arc<Mailbox>>>>,
    /// Held while a folder is added or forgotten, so that none is both.
    pub(crate) changing: Arc<Mutex<()>>,
}

impl SyncHandle {
    fn mailbox(&self, folder: &FolderId) -> Result<Arc<Mailbox>, SyncError> {
        let found = self.folders.read().get(folder).cloned();
        found.ok_or_else(|| SyncError::UnknownFolder(folder.clone()))
    }

    /// The folders that are configured, by id, as they are now.
    pub fn folders(&self) -> Vec<Arc<FolderStatus>> {
        self.core.board.all().into_iter().map(|status| self.current(status)).collect()
    }

    /// One of them; `None` where it is not configured.
    pub fn folder(&self, folder: &FolderId) -> Option<Arc<FolderStatus>> {
        self.core.board.get(folder).map(|status| self.current(status))
    }

    /// The status with how far work is at this moment.
    fn current(&self, status: Arc<FolderStatus>) -> Arc<FolderStatus> {
        let Ok(mailbox) = self.mailbox(&status.id) else { return status };
        let monitor = &mailbox.monitor;
        Arc::new(FolderStatus {
            progress: monitor.progress(),
            files_read: monitor.files_read(),
            stalled_for: monitor.stalled_for(),
            ..FolderStatus::clone(&status)
        })
    }

    /// Every change of a status from now on. Whoever is slow is told so, and
    /// has to ask for all of them again.
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<FolderStatus>> {
        self.core.board.subscribe()
    }

    /// Looks through a folder whole, and returns its newest manifest when it
    /// has been published: a new one, or the last where nothing has changed.
    /// Whoever asks while another does gets the same answer.
    ///
    /// # Errors
    ///
    /// [`SyncError::UnknownFolder`], [`SyncError::Paused`],
    /// [`SyncError::Alarm`], and whatever scanning and publishing can give.
    pub async fn scan_now(&self, folder: &FolderId) -> Result<PublishedManifest, SyncError> {
        let (reply, answer) = oneshot::channel();
        self.mailbox(folder)?.request_scan(reply);
        answer.await.unwrap_or(Err(SyncError::Stopped))
    }

    /// The user says that the folder is meant to be as it is: the directory
    /// that is at its path is its root from now on, whether it is empty or
    /// not, and what was deleted or rewritten is no longer held.
    ///
    /// # Errors
    ///
    /// As [`SyncHandle::scan_now`]; [`SyncError::Alarm`] where there is no
    /// directory.
    pub async fn confirm(&self, folder: &FolderId) -> Result<(), SyncError> {
        let (reply, answer) = oneshot::channel();
        self.mailbox(folder)?.request_confirm(reply);
        answer.await.unwrap_or(Err(SyncError::Stopped))
    }

    /// The backup peer has this manifest whole, as it said at `at`. An older
    /// one than it is known to have changes nothing. It blocks for a write.
    ///
    /// # Errors
    ///
    /// [`SyncError::UnknownFolder`], [`SyncError::Index`].
    pub fn receipt(
        &self,
        folder: &FolderId,
        sequence: SequenceNumber,
        at: Timestamp,
    ) -> Result<(), SyncError> {
        let receipt = self.core.index.update(folder, |record| {
            if record.receipt.is_none_or(|known| known.sequence <= sequence) {
                record.receipt = Some(ReceiptRecord { sequence, at });
            }
            record.receipt
        })?;
        let receipt = receipt.map(|known| Receipt { sequence: known.sequence, at: known.at });
        self.core.board.change(folder, |status| status.receipt = receipt);
        Ok(())
    }

    /// The error list of a folder, in the order of paths. It blocks for a read.
    ///
    /// # Errors
    ///
    /// [`SyncError::UnknownFolder`], [`SyncError::Index`].
    pub fn errors(&self, folder: &FolderId) -> Result<Vec<FileProblem>, SyncError> {
        let record = self.core.index.folder(folder)?;
        let record = record.ok_or_else(|| SyncError::UnknownFolder(folder.clone()))?;
        Ok(self.core.index.errors(record.number, ERRORS_MAX)?.into_iter().map(problem).collect())
    }

    /// Drops what is known of a folder that is not configured any more, and
    /// its manifests. A folder whose work has not ended yet counts as
    /// configured. What the backup peer has stays. It blocks for a write.
    ///
    /// # Errors
    ///
    /// [`SyncError::StillConfigured`], [`SyncError::Index`],
    /// [`SyncError::Store`].
    pub fn forget(&self, folder: &FolderId) -> Result<(), SyncError> {
        let _alone = self.changing.lock();
        if self.folders.read().contains_key(folder) {
            return Err(SyncError::StillConfigured(folder.clone()));
        }
        self.core.index.remove_folder(folder)?;
        for (name, _) in self.core.store.roots(&publish::root_prefix(folder)) {
            self.core.store.remove_root(&name)?;
        }
        Ok(())
    }

    /// A block from the user's files, checked against its name and against the
    /// file as it was when it was taken in. Where the file is another by now,
    /// the answer is [`InPlaceAnswer::Changed`], and the file is looked at
    /// again at once. It blocks for a read.
    ///
    /// # Errors
    ///
    /// [`SyncError::Store`], [`SyncError::Index`]; what the file does is in the
    /// answer.
    pub fn block(&self, hash: &Hash) -> Result<InPlaceAnswer, SyncError> {
        self.open_block(hash)?.read()
    }

    /// Begins to read what [`SyncHandle::block`] reads: the file is open, and
    /// the system may read ahead while others are begun.
    ///
    /// # Errors
    ///
    /// [`SyncError::Store`].
    pub fn open_block(&self, hash: &Hash) -> Result<OpenBlock<'_>, SyncError> {
        let block = self.core.in_place.open_block(hash)?;
        Ok(OpenBlock { handle: self, hash: *hash, block })
    }

    /// What was read of a file that is not as it was: it is looked at again.
    fn look_again(&self, ids: &[FileId]) -> Result<(), SyncError> {
        for id in ids {
            if let Some((number, path, _)) = self.core.index.locate(*id)? {
                // A disk that is not mounted says nothing of its files.
                let is_there = matches!(self.core.files.open(*id), Ok(Some(_)));
                let written = is_there.then_some(*id);
                let folders = self.folders.read();
                if let Some(mailbox) = folders.values().find(|one| one.number == number) {
                    mailbox.suspect(path, written, self.core.clock.elapsed());
                }
            }
        }
        Ok(())
    }

    /// Whether a chunk was in a file of a folder. It does not look at the
    /// file. It blocks for a read.
    ///
    /// # Errors
    ///
    /// [`SyncError::Store`].
    pub fn has(&self, cid: &Cid) -> Result<bool, SyncError> {
        Ok(cid.codec() == Codec::Raw && self.core.in_place.is_known(cid.hash())?)
    }
}

/// A block of a user's file that is being read; see [`SyncHandle::open_block`].
#[derive(Debug)]
pub struct OpenBlock<'a> {
    handle: &'a SyncHandle,
    hash: Hash,
    block: InPlaceRead<'a>,
}

impl OpenBlock<'_> {
    /// How long the block is, where it is known; in bytes.
    pub fn len_hint(&self) -> usize {
        self.block.len_hint()
    }

    /// The block, as [`SyncHandle::block`] gives it.
    ///
    /// # Errors
    ///
    /// As [`SyncHandle::block`].
    pub fn read(self) -> Result<InPlaceAnswer, SyncError> {
        let answer = self.block.read();
        match &answer {
            InPlaceAnswer::Changed(ids) => self.handle.look_again(ids)?,
            // It was in a version of a file that is no more: the next manifest
            // does not name it, and nobody is to blame.
            InPlaceAnswer::Missing if self.handle.core.in_place.is_known(&self.hash)? => {
                return Ok(InPlaceAnswer::Changed(Vec::new()));
            }
            _ => {}
        }
        Ok(answer)
    }
}

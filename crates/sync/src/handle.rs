//! The interface of the source side to the rest of the program.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, RwLock};
use store::{FileId, FileTable as _, InPlaceAnswer, InPlaceRead};
use tokio::sync::{broadcast, oneshot};
use types::{Cid, Codec, FolderId, Hash, PublishedManifest};

use crate::context::Context;
use crate::error::SyncError;
use crate::folder::{Mailbox, problem};
use crate::publish;
use crate::status::{FileProblem, FolderStatus};

/// Maximum number of errors that are listed for a folder.
const ERRORS_MAX: usize = 100_000;

/// A handle to a running [`crate::SyncService`]; it can be cloned and sent.
#[derive(Clone, Debug)]
pub struct SyncHandle {
    pub(crate) context: Arc<Context>,
    pub(crate) folders: Arc<RwLock<BTreeMap<FolderId, Arc<Mailbox>>>>,
    /// Locked while a folder is added or forgotten, so that the two exclude each other.
    pub(crate) changing: Arc<Mutex<()>>,
}

/// A reference to a [`crate::SyncService`] that does not keep its state in memory. For a component
/// that the service itself refers to, such as [`crate::Confirmations`]: two components that own
/// each other are never freed.
#[derive(Clone, Debug)]
pub struct WeakSyncHandle {
    context: Weak<Context>,
    folders: Weak<RwLock<BTreeMap<FolderId, Arc<Mailbox>>>>,
    changing: Weak<Mutex<()>>,
}

impl WeakSyncHandle {
    /// Returns a handle to the service; `None` after the service and all its handles were dropped.
    pub fn upgrade(&self) -> Option<SyncHandle> {
        Some(SyncHandle {
            context: self.context.upgrade()?,
            folders: self.folders.upgrade()?,
            changing: self.changing.upgrade()?,
        })
    }
}

impl SyncHandle {
    /// Returns a reference that does not keep the state of the service in memory.
    pub fn downgrade(&self) -> WeakSyncHandle {
        WeakSyncHandle {
            context: Arc::downgrade(&self.context),
            folders: Arc::downgrade(&self.folders),
            changing: Arc::downgrade(&self.changing),
        }
    }

    fn mailbox(&self, folder: &FolderId) -> Result<Arc<Mailbox>, SyncError> {
        let found = self.folders.read().get(folder).cloned();
        found.ok_or_else(|| SyncError::UnknownFolder(folder.clone()))
    }

    /// Returns the current status of all configured folders, in the order of ids.
    pub fn folders(&self) -> Vec<Arc<FolderStatus>> {
        self.context.statuses.all().into_iter().map(|status| self.with_progress(status)).collect()
    }

    /// Returns the current status of a folder; `None` if it is not configured.
    pub fn folder(&self, folder: &FolderId) -> Option<Arc<FolderStatus>> {
        self.context.statuses.get(folder).map(|status| self.with_progress(status))
    }

    /// Adds the current progress to a status.
    fn with_progress(&self, status: Arc<FolderStatus>) -> Arc<FolderStatus> {
        let Ok(mailbox) = self.mailbox(&status.id) else { return status };
        Arc::new(FolderStatus {
            progress: mailbox.progress(),
            files_read: mailbox.files_read(),
            stalled_for: mailbox.stalled_for(),
            ..FolderStatus::clone(&status)
        })
    }

    /// Subscribes to the changes of all statuses. A subscriber that is too slow receives an
    /// error that says so, and has to read all statuses again.
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<FolderStatus>> {
        self.context.statuses.subscribe()
    }

    /// Scans a folder completely, publishes a manifest if anything has changed, and returns
    /// the newest manifest. Requests that arrive during a scan share the next one.
    ///
    /// # Errors
    ///
    /// Returns [`SyncError::UnknownFolder`], [`SyncError::Paused`] or [`SyncError::Alarm`] if
    /// the folder cannot be scanned now, [`SyncError::Stopped`] if the service ends, and the
    /// errors of scanning and publishing.
    pub async fn scan_now(&self, folder: &FolderId) -> Result<PublishedManifest, SyncError> {
        let (reply, answer) = oneshot::channel();
        self.mailbox(folder)?.request_scan(reply);
        answer.await.unwrap_or(Err(SyncError::Stopped))
    }

    /// Confirms that the current state of the folder is intended: the directory at its path
    /// becomes its root, even if it is another one or empty, and deleted or rewritten files
    /// no longer await confirmation.
    ///
    /// # Errors
    ///
    /// Same as [`SyncHandle::scan_now`]. Returns [`SyncError::Alarm`] if there is no
    /// directory at the path.
    pub async fn confirm(&self, folder: &FolderId) -> Result<(), SyncError> {
        let (reply, answer) = oneshot::channel();
        self.mailbox(folder)?.request_confirm(reply);
        answer.await.unwrap_or(Err(SyncError::Stopped))
    }

    /// Updates the receipt in the status of a folder, after
    /// [`Confirmations::newest`](crate::Confirmations::newest) has changed for it.
    pub fn receipt_changed(&self, folder: &FolderId) {
        self.context.statuses.receipt_changed(folder);
    }

    /// Returns the error list of a folder, in the order of paths. The call blocks for a read.
    ///
    /// # Errors
    ///
    /// Returns [`SyncError::UnknownFolder`] if there is no such folder, and
    /// [`SyncError::Index`] if the index cannot be read.
    pub fn errors(&self, folder: &FolderId) -> Result<Vec<FileProblem>, SyncError> {
        let index = &self.context.index;
        let record = index.folder(folder)?;
        let record = record.ok_or_else(|| SyncError::UnknownFolder(folder.clone()))?;
        Ok(index.errors(record.number, ERRORS_MAX)?.into_iter().map(problem).collect())
    }

    /// Removes the state and the manifests of a folder that is no longer configured. A folder
    /// whose thread has not ended yet still counts as configured. Snapshots on the backup
    /// server stay. The call blocks for a write.
    ///
    /// # Errors
    ///
    /// Returns [`SyncError::StillConfigured`] if the folder is configured, and
    /// [`SyncError::Index`] or [`SyncError::Store`] if the state cannot be removed.
    pub fn forget(&self, folder: &FolderId) -> Result<(), SyncError> {
        let _alone = self.changing.lock();
        if self.folders.read().contains_key(folder) {
            return Err(SyncError::StillConfigured(folder.clone()));
        }
        self.context.index.remove_folder(folder)?;
        for (name, _) in self.context.store.roots(&publish::root_prefix(folder)) {
            self.context.store.remove_root(&name)?;
        }
        Ok(())
    }

    /// Reads a block from the files of the user, and checks its hash. If the block was
    /// overwritten since the file was scanned, the answer is [`InPlaceAnswer::Changed`], and
    /// the file is scanned again soon. The call blocks for a read.
    ///
    /// # Errors
    ///
    /// Returns [`SyncError::Store`] or [`SyncError::Index`] if an index fails. A problem with
    /// the file is part of the answer.
    pub fn block(&self, hash: &Hash) -> Result<InPlaceAnswer, SyncError> {
        self.open_block(hash)?.read()
    }

    /// Opens the file of a block for [`SyncHandle::block`]. The system may read ahead while
    /// the caller opens further blocks.
    ///
    /// # Errors
    ///
    /// Returns [`SyncError::Store`] if the index of blocks in place fails.
    pub fn open_block(&self, hash: &Hash) -> Result<OpenBlock<'_>, SyncError> {
        let block = self.context.in_place.open_block(hash)?;
        Ok(OpenBlock { handle: self, hash: *hash, block })
    }

    /// Has files scanned again whose blocks were overwritten since they were scanned.
    fn report_changed(&self, ids: &[FileId]) -> Result<(), SyncError> {
        let folders = self.folders.read();
        let mailbox = |number| folders.values().find(|mailbox| mailbox.number == number);
        for id in ids {
            if let Some((number, path, _)) = self.context.index.locate(*id)? {
                let Some(mailbox) = mailbox(number) else { continue };
                // If the disk is not mounted, or the file is not readable at present, the file
                // has not been overwritten.
                let can_open = matches!(self.context.files.open(*id), Ok(Some(_)));
                let lost = can_open.then_some(*id);
                if can_open {
                    mailbox.overwritten(&path, *id);
                }
                mailbox.suspect(path, lost, self.context.clock.elapsed());
            } else if let Some((number, path)) = self.context.files.former(*id)
                && let Some(mailbox) = mailbox(number)
            {
                // The next manifest has the new version.
                mailbox.overwritten(&path, *id);
            }
        }
        Ok(())
    }

    /// Reports whether a chunk is known to be in a file of a folder, without reading the
    /// file. The call blocks for a read of the index.
    ///
    /// # Errors
    ///
    /// Returns [`SyncError::Store`] if the index of blocks in place fails.
    pub fn has(&self, cid: &Cid) -> Result<bool, SyncError> {
        Ok(cid.codec() == Codec::Raw && self.context.in_place.is_known(cid.hash())?)
    }
}

/// A block of a user's file that can be read. See [`SyncHandle::open_block`].
#[derive(Debug)]
pub struct OpenBlock<'a> {
    handle: &'a SyncHandle,
    hash: Hash,
    block: InPlaceRead<'a>,
}

impl OpenBlock<'_> {
    /// Returns the length of the block in bytes, or 0 if it is unknown.
    pub fn len_hint(&self) -> usize {
        self.block.len_hint()
    }

    /// Reads the block.
    ///
    /// # Errors
    ///
    /// Same as [`SyncHandle::block`].
    pub fn read(self) -> Result<InPlaceAnswer, SyncError> {
        let answer = self.block.read();
        match &answer {
            InPlaceAnswer::Changed(ids) => self.handle.report_changed(ids)?,
            // The block was in a former version of a file. The next manifest does not name
            // it, so this is a change and not a loss.
            InPlaceAnswer::Missing if self.handle.context.in_place.is_known(&self.hash)? => {
                return Ok(InPlaceAnswer::Changed(Vec::new()));
            }
            _ => {}
        }
        Ok(answer)
    }
}

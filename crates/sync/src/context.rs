//! The services that all folders share.

use std::path::PathBuf;
use std::sync::Arc;

use store::{BlockStore, InPlaceStore};
use types::BlockScheme;

use crate::folder_files::FolderFiles;
use crate::index::Index;
use crate::settings::{Clock, Publisher, Tuning};
use crate::status_registry::StatusRegistry;
use crate::watch::{PostHint, Watcher};

/// The services that all folders share.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) index: Arc<Index>,
    pub(crate) store: Arc<dyn BlockStore>,
    pub(crate) scheme: BlockScheme,
    pub(crate) in_place: Arc<InPlaceStore>,
    pub(crate) files: Arc<FolderFiles>,
    pub(crate) publisher: Arc<dyn Publisher>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) tuning: Tuning,
    pub(crate) source_peer_id: String,
    /// The directory of the index.
    pub(crate) state_dir: PathBuf,
    /// Directories that are never backed up; absolute paths without symbolic links.
    pub(crate) own_dirs: Vec<PathBuf>,
    pub(crate) statuses: StatusRegistry,
    pub(crate) watcher: Box<dyn Watcher>,
    /// Posts hints to folders.
    pub(crate) hints: PostHint,
}

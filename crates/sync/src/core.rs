//! What all folders share.

use std::sync::Arc;

use store::{BlockStore, InPlaceStore};
use types::BlockScheme;

use crate::index::Index;
use crate::serve::Files;
use crate::settings::{Clock, Publisher, Tuning};
use crate::status::Board;
use crate::watch::Watcher;

/// See the module.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) index: Arc<Index>,
    pub(crate) store: Arc<dyn BlockStore>,
    pub(crate) in_place: Arc<InPlaceStore>,
    pub(crate) files: Arc<Files>,
    pub(crate) scheme: BlockScheme,
    pub(crate) publisher: Arc<dyn Publisher>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) tuning: Tuning,
    pub(crate) source_peer_id: String,
    /// Directories that are never backed up; absolute, without links.
    pub(crate) own_dirs: Vec<std::path::PathBuf>,
    pub(crate) board: Board,
    pub(crate) watcher: Box<dyn Watcher>,
}

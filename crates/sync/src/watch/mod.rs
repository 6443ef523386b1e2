//! stub
use rustix::fd::BorrowedFd;
use types::RelPath;
#[derive(Debug)]
pub(crate) struct Watcher;
#[derive(Clone, Debug)]
pub(crate) enum Hint {
    Dirty(RelPath),
    DirtyBelow(RelPath),
    Overflow,
}
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AddDir {
    Watched,
    LimitReached,
    Gone,
}
impl Watcher {
    pub(crate) fn start(
        _limit: Option<usize>,
        _wake: impl Fn(u32, Hint) + Send + 'static,
    ) -> std::io::Result<Self> {
        Ok(Self)
    }
    pub(crate) fn add_dir(&self, _folder: u32, _dir: &RelPath, _fd: BorrowedFd<'_>) -> AddDir {
        AddDir::LimitReached
    }
    pub(crate) fn remove_below(&self, _folder: u32, _dir: &RelPath) {}
    pub(crate) fn remove_folder(&self, _folder: u32) {}
    pub(crate) fn counts(&self, _folder: u32) -> (u64, u64) {
        (0, 0)
    }
}

//! stub
use types::RelPath;
#[derive(Debug)]
pub(crate) struct Rules;
#[derive(Debug, thiserror::Error)]
#[error("no")]
pub(crate) struct RulesError;
impl Rules {
    pub(crate) fn new(_root: &fstree::Root, _exclude: &[String]) -> Result<Self, RulesError> {
        Ok(Self)
    }
    pub(crate) fn enter(&mut self, _dir: &RelPath) {}
    pub(crate) fn is_excluded(&self, _path: &RelPath, _is_dir: bool) -> bool {
        false
    }
    pub(crate) fn ignore_file_name() -> &'static [u8] {
        b".archivistignore"
    }
}

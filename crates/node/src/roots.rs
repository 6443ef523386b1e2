//! Names of the roots that an instance sets in its store.

use types::Cid;

/// Prefix of data items, which `GET /data` lists.
pub const DATA: &str = "data/";
/// Prefix of fetches that are running or have failed.
pub const FETCH: &str = "fetch/";
/// Prefix of snapshots that earlier versions were restoring. The roots are removed
/// at the start.
pub const RESTORE: &str = "restore/";

/// Returns the root name of a data item.
pub fn data(cid: Cid) -> String {
    format!("{DATA}{cid}")
}

/// Returns the root name of a fetch.
pub fn fetch(cid: Cid) -> String {
    format!("{FETCH}{cid}")
}

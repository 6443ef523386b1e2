//! The names of roots in the store, in one place.

use types::Cid;

/// Data items: what `GET /data` lists.
pub const DATA: &str = "data/";
/// Fetches that go on, or were given up.
pub const FETCH: &str = "fetch/";

/// The root of a data item.
pub fn data(cid: Cid) -> String {
    format!("{DATA}{cid}")
}

/// The root of a fetch.
pub fn fetch(cid: Cid) -> String {
    format!("{FETCH}{cid}")
}
/// Snapshots that are being restored; those of an earlier run mean nothing.
pub const RESTORE: &str = "restore/";

/// The root of what is being restored.
pub fn restore(id: u64) -> String {
    format!("{RESTORE}{id}")
}

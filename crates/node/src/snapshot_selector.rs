//! Selecting a snapshot by source, folder, id and time. The API and the commands
//! that read a store without an instance use the same rules.

use config::Config;
use jiff::Timestamp;
use protocols::RemoteSnapshot;
use snapshots::{SnapshotId, SnapshotIdError};

use crate::names::{UnknownName, check_name, folder_names, source_name, source_names};

/// Reason why the selected snapshot cannot be determined.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectError {
    /// No snapshot matches; holds the criteria, as text.
    #[error("no such snapshot{0}; `archivist snapshots` lists them")]
    NotFound(String),
    /// The folder or the source does not exist.
    #[error(transparent)]
    UnknownName(#[from] UnknownName),
    /// The matching snapshots are of more than one folder; holds the folders.
    #[error("more than one folder has matching snapshots: {}; name one", .0.join(", "))]
    SeveralFolders(Vec<String>),
    /// More than one snapshot id begins with the text.
    #[error("more than one snapshot id begins with {0}")]
    AmbiguousId(SnapshotId),
    /// The text cannot be a snapshot id.
    #[error(transparent)]
    InvalidId(#[from] SnapshotIdError),
}

/// The criteria of a snapshot. `None` accepts any value.
#[derive(Clone, Copy, Debug, Default)]
pub struct SnapshotSelector<'a> {
    /// The source, by name or peer id.
    pub source: Option<&'a str>,
    /// The folder, by id or name.
    pub folder: Option<&'a str>,
    /// The id, or its beginning.
    pub id: Option<&'a str>,
    /// The latest time of arrival.
    pub at: Option<Timestamp>,
}

impl SnapshotSelector<'_> {
    /// Returns the snapshots that match, in the given order.
    ///
    /// # Errors
    ///
    /// Returns [`SelectError::InvalidId`] if the id is malformed.
    pub fn matching(
        &self,
        config: &Config,
        mut all: Vec<RemoteSnapshot>,
    ) -> Result<Vec<RemoteSnapshot>, SelectError> {
        let id: Option<SnapshotId> = self.id.map(str::parse).transpose()?;
        all.retain(|snapshot| {
            let is_id = id.as_ref().is_none_or(|id| snapshot.id.starts_with(id.as_str()));
            let has_arrived = self.at.is_none_or(|at| snapshot.received_at <= at);
            self.is_source(config, snapshot) && self.is_folder(snapshot) && is_id && has_arrived
        });
        Ok(all)
    }

    fn is_source(&self, config: &Config, snapshot: &RemoteSnapshot) -> bool {
        self.source.is_none_or(|wanted| {
            wanted == snapshot.source || wanted == source_name(config, &snapshot.source)
        })
    }

    fn is_folder(&self, snapshot: &RemoteSnapshot) -> bool {
        self.folder.is_none_or(|wanted| {
            wanted == snapshot.folder_id.as_str() || wanted == snapshot.folder_name
        })
    }

    /// Checks that the folder and the source exist: in the configuration, or in a snapshot.
    fn check_names(&self, config: &Config, all: &[RemoteSnapshot]) -> Result<(), UnknownName> {
        if let Some(wanted) = self.source {
            let stored =
                all.iter().map(|one| (one.source.clone(), source_name(config, &one.source)));
            check_name("source", wanted, source_names(config).chain(stored))?;
        }
        if let Some(wanted) = self.folder {
            let stored = all.iter().map(|one| (one.folder_id.to_string(), one.folder_name.clone()));
            check_name("folder", wanted, folder_names(config).chain(stored))?;
        }
        Ok(())
    }

    /// Returns the newest snapshot that matches and is neither a part nor suspicious; if there
    /// is none, the newest one. `all` is in the order of the backup server.
    ///
    /// # Errors
    ///
    /// Returns [`SelectError::InvalidId`] if the id is malformed,
    /// [`SelectError::UnknownName`] if the folder or the source does not exist,
    /// [`SelectError::NotFound`] if no snapshot matches,
    /// [`SelectError::AmbiguousId`] if several match the beginning of an id, and
    /// [`SelectError::SeveralFolders`] if snapshots of several folders match.
    pub fn newest(
        &self,
        config: &Config,
        all: Vec<RemoteSnapshot>,
    ) -> Result<RemoteSnapshot, SelectError> {
        self.check_names(config, &all)?;
        let mut matching = self.matching(config, all)?;
        if let Some(id) = self.id
            && matching.len() > 1
        {
            return Err(SelectError::AmbiguousId(id.parse()?));
        }
        let is_other = |pair: &[RemoteSnapshot]| {
            (&pair[0].source, &pair[0].folder_id) != (&pair[1].source, &pair[1].folder_id)
        };
        if matching.windows(2).any(is_other) {
            let mut folders: Vec<String> = matching
                .iter()
                .map(|snapshot| {
                    let source = source_name(config, &snapshot.source);
                    format!("{} ({}) of {source}", snapshot.folder_name, snapshot.folder_id)
                })
                .collect();
            folders.dedup();
            return Err(SelectError::SeveralFolders(folders));
        }
        let sound = matching.iter().rposition(|snapshot| snapshot.held.is_none());
        if let Some(at) = sound {
            return Ok(matching.swap_remove(at));
        }
        matching.pop().ok_or_else(|| SelectError::NotFound(self.criteria()))
    }

    /// Describes the newest snapshot that matches, if it is not the chosen one.
    pub fn passed_over(
        &self,
        config: &Config,
        all: Vec<RemoteSnapshot>,
        chosen: &str,
    ) -> Option<String> {
        let newest = self.matching(config, all).ok()?.pop()?;
        if newest.id == chosen {
            return None;
        }
        let held = newest.held.unwrap_or_default();
        Some(format!("snapshot {} is newer, and was passed over: {held}", newest.id))
    }

    /// Returns the criteria as text for a message, in parentheses; empty if there are none.
    fn criteria(&self) -> String {
        let Self { source, folder, id, at } = self;
        let criterion =
            |name: &str, value: &Option<&str>| value.map(|value| format!("{name} {value}"));
        let criteria = [
            criterion("id", id),
            criterion("source", source),
            criterion("folder", folder),
            at.map(|at| format!("at {at}")),
        ];
        let criteria: Vec<String> = criteria.into_iter().flatten().collect();
        match criteria.is_empty() {
            true => String::new(),
            false => format!(" ({})", criteria.join(", ")),
        }
    }
}

/// Returns a snapshot in the form of the API.
pub fn snapshot_model(config: &Config, snapshot: RemoteSnapshot) -> api::Snapshot {
    api::Snapshot {
        source: source_name(config, &snapshot.source),
        source_peer_id: snapshot.source,
        id: snapshot.id,
        folder_id: snapshot.folder_id,
        folder_name: snapshot.folder_name,
        sequence: snapshot.sequence,
        created_at: snapshot.created_at,
        received_at: snapshot.received_at,
        files: snapshot.files,
        bytes: snapshot.bytes,
        manifest_cid: snapshot.manifest_cid,
        is_part: types::is_part(snapshot.held.as_deref()),
        held: snapshot.held,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(id: &str, folder: &str, second: i64) -> RemoteSnapshot {
        RemoteSnapshot {
            id: id.into(),
            source: "peer".into(),
            folder_id: folder.parse().unwrap(),
            folder_name: folder.to_uppercase(),
            sequence: types::SequenceNumber(1),
            created_at: Timestamp::UNIX_EPOCH,
            received_at: Timestamp::from_second(second).unwrap(),
            files: 0,
            bytes: 0,
            manifest_cid: types::Cid::of(types::Codec::Json, id.as_bytes()),
            held: None,
            signature: String::new(),
        }
    }

    #[test]
    fn the_newest_that_fits_is_meant_and_doubt_is_told() {
        let all = vec![
            snapshot("aaaa1", "docs", 10),
            snapshot("bbbb1", "docs", 20),
            snapshot("bbbb2", "music", 5),
        ];
        let config = Config::default();
        let find = |selector: SnapshotSelector<'_>| {
            selector.newest(&config, all.clone()).map(|found| found.id)
        };
        let any = SnapshotSelector::default();
        assert_eq!(find(SnapshotSelector { folder: Some("DOCS"), ..any }).unwrap(), "bbbb1");
        assert_eq!(find(SnapshotSelector { folder: Some("docs"), ..any }).unwrap(), "bbbb1");
        assert_eq!(find(SnapshotSelector { id: Some("aaaa"), ..any }).unwrap(), "aaaa1");
        let at = Timestamp::from_second(19).ok();
        let then = find(SnapshotSelector { folder: Some("docs"), at, ..any });
        assert_eq!(then.unwrap(), "aaaa1");
        assert!(matches!(find(any), Err(SelectError::SeveralFolders(names)) if names.len() == 2));
        let twice = find(SnapshotSelector { id: Some("bbbb"), ..any });
        assert!(matches!(twice, Err(SelectError::AmbiguousId(_))));
        let at = Timestamp::from_second(9).ok();
        let none = find(SnapshotSelector { folder: Some("docs"), at, ..any });
        assert!(matches!(&none, Err(SelectError::NotFound(_))));
        assert!(none.unwrap_err().to_string().contains("folder docs"));
        // A part, or a suspicious one, is chosen only if there is no other.
        let held = |why: &str| RemoteSnapshot {
            held: Some(why.to_owned()),
            ..snapshot("cccc1", "docs", 30)
        };
        for why in [types::HELD_PART, "51 of 51 files were deleted"] {
            let mut all = all.clone();
            all.push(held(why));
            let docs = SnapshotSelector { folder: Some("docs"), ..any };
            assert_eq!(docs.newest(&config, all.clone()).unwrap().id, "bbbb1");
            let passed_over = docs.passed_over(&config, all.clone(), "bbbb1").unwrap();
            assert!(passed_over.contains("cccc1") && passed_over.contains(why), "{passed_over}");
            assert_eq!(docs.passed_over(&config, all.clone(), "cccc1"), None);
            let named = SnapshotSelector { id: Some("cccc"), ..docs };
            assert_eq!(named.newest(&config, all).unwrap().id, "cccc1");
            assert_eq!(docs.newest(&config, vec![held(why)]).unwrap().id, "cccc1");
        }
        let unknown = |selector| find(selector).unwrap_err().to_string();
        assert_eq!(
            unknown(SnapshotSelector { source: Some("nobody"), ..any }),
            "no source is called \"nobody\"; known sources: peer"
        );
        assert_eq!(
            unknown(SnapshotSelector { folder: Some("dcos"), ..any }),
            "no folder is called \"dcos\"; known folders: DOCS, MUSIC"
        );
        assert!(matches!(
            find(SnapshotSelector { id: Some("xyz"), ..any }),
            Err(SelectError::InvalidId(_))
        ));
    }
}

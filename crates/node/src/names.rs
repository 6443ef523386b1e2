//! Names of folders and sources, and the messages about names that do not exist. The API and the
//! commands use the same messages.

use std::collections::BTreeSet;

use config::Config;

/// Maximum number of names in a message.
const NAMES_MAX: usize = 10;

/// Error: no folder or source has the name. Contains the message, with the names that exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UnknownName(String);

/// Checks that `wanted` is one of the `known` pairs of an id and a name.
///
/// # Errors
///
/// Returns [`UnknownName`] if it is not.
pub fn check_name(
    kind: &str,
    wanted: &str,
    known: impl Iterator<Item = (String, String)> + Clone,
) -> Result<(), UnknownName> {
    if known.clone().any(|(id, name)| id == wanted || name == wanted) {
        return Ok(());
    }
    Err(UnknownName(unknown_name(kind, wanted, known.map(|(_, name)| name))))
}

/// Returns the ids and names of the configured folders.
pub fn folder_names(config: &Config) -> impl Iterator<Item = (String, String)> + Clone {
    config.sync.folders.iter().map(|folder| (folder.id.to_string(), folder.display_name()))
}

/// Returns the peer ids and names of the configured sources.
pub fn source_names(config: &Config) -> impl Iterator<Item = (String, String)> + Clone {
    let sources = config.backup_server.source_peers.iter();
    sources.map(|source| (source.peer_id.to_string(), source.name.to_string()))
}

/// Returns the configured name of a source, or its peer id if it is no longer
/// configured.
pub fn source_name(config: &Config, peer: &str) -> String {
    let mut sources = config.backup_server.source_peers.iter();
    let source = sources.find(|source| source.peer_id.to_string() == peer);
    source.map_or_else(|| peer.to_owned(), |source| source.name.as_str().to_owned())
}

/// Returns the message for a name that no folder or source (`kind`) has, with the names that
/// exist.
pub fn unknown_name(kind: &str, name: &str, known: impl IntoIterator<Item = String>) -> String {
    let known: BTreeSet<String> = known.into_iter().collect();
    if known.is_empty() {
        return format!("no {kind} is called {name:?}: there are no {kind}s");
    }
    let mut names: Vec<&str> = known.iter().map(String::as_str).take(NAMES_MAX).collect();
    let more = format!("{} more", known.len() - names.len());
    if known.len() > names.len() {
        names.push(&more);
    }
    format!("no {kind} is called {name:?}; known {kind}s: {}", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_lists_the_known_names_once_and_not_too_many() {
        let text = |known: &[&str]| unknown_name("folder", "dcos", known.iter().map(|&n| n.into()));
        assert_eq!(text(&[]), "no folder is called \"dcos\": there are no folders");
        assert_eq!(
            text(&["music", "docs", "docs"]),
            "no folder is called \"dcos\"; known folders: docs, music"
        );
        let many: Vec<String> = (10..=21).map(|number| number.to_string()).collect();
        assert!(unknown_name("folder", "x", many).ends_with("18, 19, 2 more"));
    }
}

//! Errors of the configuration.
//!
//! Each message names the file, the line, the key, the value that was found and
//! the allowed values, so that the file can be corrected without looking
//! anything up.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::values::ValueError;
use types::FolderId;

/// Maximum number of problems listed in a message; further ones are counted.
const SHOWN_MAX: usize = 20;

/// An error of the configuration. The file is unchanged after any of them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file does not exist. The caller decides whether that is an error.
    #[error("{} does not exist; `archivist init` creates it", .0.display())]
    Missing(PathBuf),
    /// A file system call failed.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// The failed action, as a verb.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// The path leads to a directory, a pipe or a device.
    #[error("{} is not a regular file", .0.display())]
    NotAFile(PathBuf),
    /// The file is longer than [`crate::MAX_FILE_LEN`].
    #[error("{} has {len} bytes, more than the limit of {}; check that it is the right file", path.display(), crate::MAX_FILE_LEN)]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Length in bytes.
        len: u64,
    },
    /// The file is not a valid configuration.
    #[error("{}", list_problems(path, problems))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Every problem, in the order of the file.
        problems: Vec<Problem>,
    },
    /// A change would make the configuration invalid.
    #[error("{}", list_refusals(path, problems))]
    Refused {
        /// The file, which was not changed.
        path: PathBuf,
        /// The problems of the changed configuration.
        problems: Vec<Problem>,
    },
    /// No key has this path.
    #[error("there is no key {key:?}{}", did_you_mean(suggestion.as_deref()))]
    NoSuchKey {
        /// The given path.
        key: String,
        /// A similar path that exists.
        suggestion: Option<String>,
    },
    /// The path leads to a section or a list of tables, which has no single
    /// value.
    #[error("`{key}` cannot be set as one value: {hint}")]
    NotSettable {
        /// The given path.
        key: String,
        /// The alternative, for the user.
        hint: &'static str,
    },
    /// A list operation was applied to a key that is not a list.
    #[error("`{0}` is not a list of values")]
    NotAList(String),
    /// The item to remove is not in the list.
    #[error("`{key}` does not contain {item}")]
    NoSuchItem {
        /// The list.
        key: String,
        /// The given item.
        item: String,
    },
    /// No folder has this id.
    #[error("no folder has the id {0}; `archivist folder list` shows the ids")]
    NoSuchFolder(FolderId),
    /// No source has this name.
    #[error("no source is named {0:?}; `archivist source list` shows the names")]
    NoSuchSource(String),
    /// The file is written in a form that cannot be edited without changing
    /// other parts of it.
    #[error("cannot change `{key}` in {} without touching other lines; edit the file by hand", path.display())]
    NoPlace {
        /// The file.
        path: PathBuf,
        /// The key to change.
        key: String,
    },
    /// Another process kept the lock of the file for too long.
    #[error("another process is changing {}; try again, or find the process that holds {}", path.display(), lock.display())]
    Locked {
        /// The file.
        path: PathBuf,
        /// The lock file in the same directory.
        lock: PathBuf,
    },
    /// Another program changed the file before every attempt to write it.
    #[error("another program keeps changing {}; try again", .0.display())]
    Busy(PathBuf),
    /// No environment variable names the directory, and there is no home
    /// directory.
    #[error("cannot find the {wanted} directory: HOME is not set; set it, or use --home DIR")]
    NoHome {
        /// The purpose of the directory.
        wanted: &'static str,
    },
}

/// A position in a text, counted from 1; columns count characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

/// One mistake in a configuration, with its position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Position of the key or value.
    pub place: Place,
    /// Path of the key, such as `sync.folders[1].path`; empty if the problem
    /// concerns no key.
    pub key: String,
    /// The mistake.
    pub fault: Fault,
}

/// A mistake in a key or its value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The file is not UTF-8.
    #[error("the file is not valid UTF-8")]
    NotUtf8,
    /// The file is not TOML.
    #[error("invalid TOML: {0}")]
    Syntax(String),
    /// The table has no such key.
    #[error("unknown key{}", unknown(suggestion.as_deref(), known))]
    UnknownKey {
        /// A similar key that exists.
        suggestion: Option<String>,
        /// The keys of the table.
        known: Vec<&'static str>,
    },
    /// A key without a default is missing.
    #[error("the key is required but missing; allowed: {allowed}")]
    MissingKey {
        /// The allowed values.
        allowed: String,
    },
    /// The value has the wrong type.
    #[error("found {found} ({type_name}); allowed: {allowed}")]
    WrongType {
        /// The value that was found.
        found: String,
        /// Its type.
        type_name: &'static str,
        /// The allowed values.
        allowed: String,
    },
    /// A number, a size, a rate or the length of a list is out of its range.
    #[error("found {found}, which is out of range; allowed: {allowed}")]
    OutOfRange {
        /// The value that was found.
        found: String,
        /// The allowed values.
        allowed: String,
    },
    /// A string is not a valid value of its type.
    #[error("found {found}: {reason}; allowed: {allowed}")]
    Malformed {
        /// The value that was found.
        found: String,
        /// The reason.
        reason: ValueError,
        /// The allowed values.
        allowed: String,
    },
    /// Two values contradict each other.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// The checks accepted the value and deserialization rejected it, which is
    /// a bug of this program.
    #[error("the value is rejected: {0}")]
    Refused(String),
}

/// A contradiction between two values.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Conflict {
    /// Two listening sockets have the same TCP port.
    #[error("port {port} is already used by {other}; choose another port")]
    SamePort {
        /// The port.
        port: u16,
        /// The other key with this port.
        other: &'static str,
    },
    /// An address to listen on is listed twice, or covered by another one.
    #[error("{}", same_bind(*address, *other))]
    SameBind {
        /// The address.
        address: IpAddr,
        /// The address that covers it.
        other: IpAddr,
    },
    /// Two folders have the same id.
    #[error("the folder {} already has the id {id}; choose another id", .path.display())]
    SameFolderId {
        /// The id.
        id: FolderId,
        /// The other folder.
        path: PathBuf,
    },
    /// A folder is listed twice.
    #[error("{} is already backed up as folder {id}", .path.display())]
    SameFolder {
        /// The path.
        path: PathBuf,
        /// Id of the other folder.
        id: FolderId,
    },
    /// A program is not named by its absolute path.
    #[error("{0:?} is not the absolute path of a program; no shell and no PATH is used")]
    RelativeProgram(String),
    /// Two sources have the same name.
    #[error("another source is already named {0:?}; choose another name")]
    SameSourceName(String),
    /// Two sources have the same peer id.
    #[error("the source {0:?} already has this peer id; list each instance once")]
    SameSourcePeer(String),
    /// The address of a source names another peer.
    #[error("the address names the peer {found}, but peer_id is {expected}")]
    OtherPeer {
        /// Peer id in the address.
        found: libp2p_identity::PeerId,
        /// Peer id of the source.
        expected: libp2p_identity::PeerId,
    },
    /// No rule keeps any snapshot.
    #[error(
        "all rules are 0, so pruning would remove every snapshot; set last, hourly, daily, weekly or monthly to at least 1"
    )]
    KeepNothing,
}

impl ConfigError {
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }

    /// Returns the problems of an invalid file or change; empty for other
    /// errors.
    pub fn problems(&self) -> &[Problem] {
        match self {
            Self::Invalid { problems, .. } | Self::Refused { problems, .. } => problems,
            _ => &[],
        }
    }
}

impl Place {
    /// Returns the position of a byte of `text`.
    pub(crate) fn of(text: &str, offset: usize) -> Self {
        // Editors do not show the byte order mark that Windows programs write.
        let (text, mark_len) = text.strip_prefix('\u{feff}').map_or((text, 0), |rest| (rest, 3));
        let offset = offset.saturating_sub(mark_len).min(text.len());
        let before = &text.as_bytes()[..offset];
        let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        Self {
            line: 1 + before.iter().filter(|byte| **byte == b'\n').count(),
            column: 1 + String::from_utf8_lossy(&before[line_start..]).chars().count(),
        }
    }
}

impl Problem {
    /// Reports whether the text cannot be parsed as TOML.
    pub(crate) fn is_syntax(&self) -> bool {
        matches!(self.fault, Fault::Syntax(_) | Fault::NotUtf8)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.key.is_empty() {
            write!(f, "{}", self.fault)
        } else {
            write!(f, "{}: {}", self.key, self.fault)
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

fn list_problems(path: &Path, problems: &[Problem]) -> String {
    let path = path.display();
    let lines: Vec<String> = problems
        .iter()
        .take(SHOWN_MAX)
        .map(|problem| format!("{path}:{}: {problem}", problem.place))
        .collect();
    lines.join("\n") + &more(problems)
}

/// Lists problems without positions: they refer to the changed text, which the
/// user has never seen.
fn list_refusals(path: &Path, problems: &[Problem]) -> String {
    let lines: Vec<String> = problems.iter().take(SHOWN_MAX).map(ToString::to_string).collect();
    format!("{}{}\n{} was not changed", lines.join("\n"), more(problems), path.display())
}

fn more(problems: &[Problem]) -> String {
    match problems.len().saturating_sub(SHOWN_MAX) {
        0 => String::new(),
        1 => "\nand 1 more problem".to_owned(),
        more => format!("\nand {more} more problems"),
    }
}

fn same_bind(address: IpAddr, other: IpAddr) -> String {
    if address == other {
        format!("{address} is listed twice; remove one")
    } else {
        format!("{address} is already covered by {other}; remove one")
    }
}

fn did_you_mean(suggestion: Option<&str>) -> String {
    suggestion.map(|word| format!("; did you mean `{word}`?")).unwrap_or_default()
}

fn unknown(suggestion: Option<&str>, known: &[&str]) -> String {
    match suggestion {
        Some(_) => did_you_mean(suggestion),
        None => format!("; allowed here: {}", known.join(", ")),
    }
}

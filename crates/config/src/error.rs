//! What can go wrong with the configuration.
//!
//! Each message names the file, the place in it, the key, what was found there
//! and what is allowed, so that nobody has to look anything up to mend it.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::values::ValueError;
use types::FolderId;

/// How many problems a message shows; the rest is counted.
const SHOWN_MAX: usize = 20;

/// An error of the configuration. The file is as it was, whatever the error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// There is no file. Whether that is an error is for the caller to say.
    #[error("{} does not exist; `archivist init` writes it", .0.display())]
    Missing(PathBuf),
    /// The file system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A directory, a pipe or a device where the file should be.
    #[error("{} is not a regular file", .0.display())]
    NotAFile(PathBuf),
    /// Longer than [`crate::MAX_FILE_LEN`].
    #[error("{} has {len} bytes, over the limit of {}: is it the right file?", path.display(), crate::MAX_FILE_LEN)]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its length, in bytes.
        len: u64,
    },
    /// The file is not a valid configuration.
    #[error("{}", list_problems(path, problems))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// All that is wrong, in the order of the file.
        problems: Vec<Problem>,
    },
    /// A change would make the configuration invalid.
    #[error("{}", list_refusals(path, problems))]
    Refused {
        /// The file, which was not changed.
        path: PathBuf,
        /// What is wrong with the change.
        problems: Vec<Problem>,
    },
    /// A path that names no key.
    #[error("there is no key {key:?}{}", did_you_mean(suggestion.as_deref()))]
    NoSuchKey {
        /// The path that was given.
        key: String,
        /// A path that looks like it.
        suggestion: Option<String>,
    },
    /// A path to a section or a list of tables, which has no single value.
    #[error("`{key}` cannot be set as a whole: {hint}")]
    NotSettable {
        /// The path that was given.
        key: String,
        /// What to do instead.
        hint: &'static str,
    },
    /// A list operation on what is not a list.
    #[error("`{0}` is not a list of values")]
    NotAList(String),
    /// An item to remove that is not in the list.
    #[error("`{key}` does not hold {item}")]
    NoSuchItem {
        /// The list.
        key: String,
        /// The item that was given.
        item: String,
    },
    /// No watched folder has that id.
    #[error("no folder has the id {0}; `archivist folder list` shows the ids")]
    NoSuchFolder(FolderId),
    /// No source has that name.
    #[error("no source is named {0:?}; `archivist source list` shows the names")]
    NoSuchSource(String),
    /// The file is written in a way that the change cannot be fitted into.
    #[error("cannot change `{key}` in {} and leave the rest as it is: change it by hand", path.display())]
    NoPlace {
        /// The file.
        path: PathBuf,
        /// The key that was to be changed.
        key: String,
    },
    /// Another process holds the lock of the file for too long.
    #[error("another process is changing {}: try again; if none is, check who holds {}", path.display(), lock.display())]
    Locked {
        /// The file.
        path: PathBuf,
        /// The lock beside it.
        lock: PathBuf,
    },
    /// Another program wrote the file each time that it was to be written.
    #[error("{} is being changed by another program: try again", .0.display())]
    Busy(PathBuf),
    /// Neither a home directory nor what stands for it.
    #[error("cannot tell where the {wanted} is: HOME is not set; set it, or give --home DIR")]
    NoHome {
        /// What was looked for.
        wanted: &'static str,
    },
}

/// Where in a file something is: counted from 1, columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

/// One thing that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where it is.
    pub place: Place,
    /// The path of the key, such as `sync.folders[1].path`; empty where what
    /// is wrong belongs to no key.
    pub key: String,
    /// What is wrong.
    pub fault: Fault,
}

/// What is wrong with a key or its value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The file is not UTF-8.
    #[error("this is not text: the file has to be UTF-8")]
    NotUtf8,
    /// The file is not TOML.
    #[error("this is not TOML: {0}")]
    Syntax(String),
    /// There is no such key.
    #[error("there is no such key{}", unknown(suggestion.as_deref(), known))]
    UnknownKey {
        /// A key that looks like it.
        suggestion: Option<String>,
        /// The keys that can stand there.
        known: Vec<&'static str>,
    },
    /// A key without a default is not given.
    #[error("the key is missing; allowed: {allowed}")]
    MissingKey {
        /// What is allowed.
        allowed: String,
    },
    /// The value has another type.
    #[error("found {found} ({type_name}); allowed: {allowed}")]
    WrongType {
        /// What stands there.
        found: String,
        /// The type of it.
        type_name: &'static str,
        /// What is allowed.
        allowed: String,
    },
    /// A number, an amount or the length of a list is out of its range.
    #[error("found {found}, which is out of range; allowed: {allowed}")]
    OutOfRange {
        /// What stands there.
        found: String,
        /// What is allowed.
        allowed: String,
    },
    /// A text that is not what it should be.
    #[error("found {found}: {reason}; allowed: {allowed}")]
    Malformed {
        /// What stands there.
        found: String,
        /// Why it is refused.
        reason: ValueError,
        /// What is allowed.
        allowed: String,
    },
    /// Two values that cannot both be.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// What the checks let through and the types refused, which is a defect of
    /// this program.
    #[error("the value is refused: {0}")]
    Refused(String),
}

/// Two values that cannot both be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Conflict {
    /// Two of our listening sockets on one TCP port.
    #[error("port {port} is that of {other} already: each needs its own")]
    SamePort {
        /// The port.
        port: u16,
        /// The key that has it too.
        other: &'static str,
    },
    /// An address to listen on twice, or one that another one covers.
    #[error("{}", same_bind(*address, *other))]
    SameBind {
        /// The address.
        address: IpAddr,
        /// The one that covers it.
        other: IpAddr,
    },
    /// Two folders of one id.
    #[error("the folder {} has the id {id} already: each needs its own", .path.display())]
    SameFolderId {
        /// The id.
        id: FolderId,
        /// The other folder.
        path: PathBuf,
    },
    /// One folder twice.
    #[error("{} is watched already, as folder {id}", .path.display())]
    SameFolder {
        /// The path.
        path: PathBuf,
        /// The other folder's id.
        id: FolderId,
    },
    /// A folder in a folder.
    #[error("{} lies in {}, which is watched already, as folder {outer_id}: a file cannot belong to two folders", inner.display(), outer.display())]
    NestedFolders {
        /// The inner folder.
        inner: PathBuf,
        /// The outer one.
        outer: PathBuf,
        /// The outer one's id.
        outer_id: FolderId,
    },
    /// Two sources of one name.
    #[error("another source is named {0:?} already: each needs its own name")]
    SameSourceName(String),
    /// Two sources of one peer id.
    #[error("the source {0:?} has this peer id already: an instance is one source")]
    SameSourcePeer(String),
    /// A source's address that leads to another peer.
    #[error("this address leads to {found}, but the source's peer_id is {expected}")]
    OtherPeer {
        /// The peer that the address names.
        found: libp2p_identity::PeerId,
        /// The source's.
        expected: libp2p_identity::PeerId,
    },
    /// No rule keeps anything.
    #[error(
        "all are 0, so that pruning would remove every snapshot: set at least one of last, hourly, daily, weekly, monthly to 1 or more"
    )]
    KeepNothing,
}

impl ConfigError {
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }

    /// What is wrong with the file or the change, where that is the error.
    pub fn problems(&self) -> &[Problem] {
        match self {
            Self::Invalid { problems, .. } | Self::Refused { problems, .. } => problems,
            _ => &[],
        }
    }
}

impl Problem {
    /// Whether the text cannot be read at all.
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

/// The places are those of a text that nobody has seen, so they are left out.
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
        format!("{address} is listed twice: remove one")
    } else {
        format!("{other} listens on {address} already: remove one")
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

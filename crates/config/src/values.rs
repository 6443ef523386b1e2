//! The values that have rules of their own, each as a type that only holds
//! what the rules allow.
//!
//! Every type reads itself from text (`FromStr`) and says in a [`ValueError`]
//! why a text is refused. Nothing here looks at a disk or a network: whether
//! a folder exists or a host answers is not a question of the configuration.

use std::fmt;
use std::net::IpAddr;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::size::SizeError;
use types::FolderIdError;

/// The longest name of a folder or a source, in characters.
pub const MAX_NAME_CHARS: usize = 100;

/// The longest exclude pattern, in bytes.
pub const MAX_PATTERN_LEN: usize = 1024;

/// Why a text is not the value that it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// Not an amount of data, or not a rate.
    #[error(transparent)]
    Size(#[from] SizeError),
    /// Not the id of a folder.
    #[error("it does not follow the rule")]
    FolderId(#[from] FolderIdError),
    /// Nothing, or blanks alone.
    #[error("it is empty")]
    Empty,
    /// A word that is not in the list.
    #[error("there is no such word")]
    Choice,
    /// A name over [`MAX_NAME_CHARS`], or a pattern over [`MAX_PATTERN_LEN`].
    #[error("it is too long: at most {0}")]
    TooLong(usize),
    /// A line break, a tab or another control character.
    #[error("it holds a control character")]
    Control,
    /// A blank at the beginning or the end.
    #[error("it begins or ends with a blank")]
    Blank,
    /// A path from the home directory in the shell's short form.
    #[error("`~` is not expanded here: write the path from `/` on")]
    Tilde,
    /// A path that TOML cannot hold.
    #[error("it is not UTF-8, and the configuration file cannot name it")]
    NotUtf8,
    /// A path that does not begin with `/`.
    #[error("it is not a path from `/` on")]
    Relative,
    /// A path with `..` in it.
    #[error("`..` is not allowed in it")]
    ParentDir,
    /// Not an IP address.
    #[error("it is not an IP address")]
    IpAddr,
    /// A host name where an address has to stand.
    #[error("host names are not allowed here: write the address")]
    HostName,
    /// Not an address and not a network.
    #[error("it is neither an address nor a network")]
    Network,
    /// An IPv4 address in an IPv6 one.
    #[error("write it as IPv4: `{0}`")]
    MappedIpv4(String),
    /// Not a URL.
    #[error("it is not a URL ({0})")]
    Url(String),
    /// An IPv6 address without brackets.
    #[error("an IPv6 address stands in brackets: `http://[2001:db8::1]:8085`")]
    UrlBrackets,
    /// A URL that does not begin with `http://` or `https://`.
    #[error("it does not begin with `http://` or `https://`")]
    UrlScheme,
    /// A URL with a user name, a query or a fragment.
    #[error("{0} is not allowed in it")]
    UrlPart(&'static str),
    /// Port 0 of another machine.
    #[error("port 0 cannot be reached")]
    PortZero,
    /// Not a peer id.
    #[error("it is not a peer id")]
    PeerId,
    /// Not a multiaddr.
    #[error("it is not a multiaddr")]
    Multiaddr,
    /// A multiaddr that does not begin with a host.
    #[error("it does not begin with /ip4, /ip6, /dns, /dns4 or /dns6")]
    NoHost,
    /// A multiaddr without a port.
    #[error("/tcp or /udp with a port has to follow the host")]
    NoPort,
    /// The address that stands for "all of this machine's".
    #[error("nobody can reach {0}")]
    Unspecified(IpAddr),
    /// A multiaddr that does not name the peer.
    #[error("the peer id is missing: add `/p2p/` and the peer id")]
    NoPeerId,
    /// A pattern that `.gitignore` would take for a comment.
    #[error("`#` makes it a comment: write `\\#` for a name that begins with `#`")]
    PatternComment,
    /// A pattern that is not one.
    #[error("it is not a pattern ({0})")]
    Pattern(String),
}

/// Serialises as the text of `Display`, and reads with `FromStr`.
macro_rules! serde_as_text {
    ($name:ident) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

pub(crate) use serde_as_text;

/// A name that people read: 1 to [`MAX_NAME_CHARS`] characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

impl Name {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        if text.trim().is_empty() {
            Err(ValueError::Empty)
        } else if text.chars().any(char::is_control) {
            Err(ValueError::Control)
        } else if text.trim() != text {
            Err(ValueError::Blank)
        } else if text.chars().count() > MAX_NAME_CHARS {
            Err(ValueError::TooLong(MAX_NAME_CHARS))
        } else {
            Ok(Self(text.to_owned()))
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

serde_as_text!(Name);

/// The root of a watched folder: absolute, without `..`.
///
/// Two paths that differ in repeated or trailing slashes or in `/./` are
/// equal. Symlinks are not looked through.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FolderPath(PathBuf);

impl FolderPath {
    /// The folder at `path`.
    ///
    /// # Errors
    ///
    /// [`ValueError`] where the path is not absolute, has `..` in it or is not
    /// UTF-8.
    pub fn new(path: &Path) -> Result<Self, ValueError> {
        path.to_str().ok_or(ValueError::NotUtf8)?.parse()
    }

    /// The path.
    pub fn as_path(&self) -> &Path {
        &self.0
    }

    /// Whether `other` lies in this folder, at any depth.
    pub fn contains(&self, other: &Self) -> bool {
        self != other && other.0.starts_with(&self.0)
    }
}

impl FromStr for FolderPath {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        if text.is_empty() {
            return Err(ValueError::Empty);
        }
        if text.contains('\0') {
            return Err(ValueError::Control);
        }
        if text == "~" || text.starts_with("~/") {
            return Err(ValueError::Tilde);
        }
        let path = Path::new(text);
        if !path.is_absolute() {
            return Err(ValueError::Relative);
        }
        if path.components().any(|part| part == Component::ParentDir) {
            return Err(ValueError::ParentDir);
        }
        Ok(Self(path.components().collect()))
    }
}

impl fmt::Display for FolderPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0.display(), f)
    }
}

serde_as_text!(FolderPath);

/// A pattern of `.gitignore` syntax.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pattern(String);

impl Pattern {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Pattern {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        if text.trim().is_empty() {
            return Err(ValueError::Empty);
        }
        if text.contains(['\n', '\r', '\0']) {
            return Err(ValueError::Control);
        }
        if text.len() > MAX_PATTERN_LEN {
            return Err(ValueError::TooLong(MAX_PATTERN_LEN));
        }
        if text.starts_with('#') {
            return Err(ValueError::PatternComment);
        }
        let mut matcher = ignore::gitignore::GitignoreBuilder::new("");
        let refused = |error: ignore::Error| ValueError::Pattern(error.to_string());
        matcher.add_line(None, text).map_err(refused)?.build().map_err(refused)?;
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

serde_as_text!(Pattern);

/// How much is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LogLevel {
    /// What failed.
    Error,
    /// And what may fail next.
    Warn,
    /// And what was done.
    #[default]
    Info,
    /// And how.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// All levels, as they are written.
    pub const NAMES: &'static [&'static str] = &["error", "warn", "info", "debug", "trace"];

    /// The level as it is written.
    pub fn as_str(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

impl FromStr for LogLevel {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        // The levels of the node API are in capitals.
        match text.to_ascii_lowercase().as_str() {
            "error" => Ok(Self::Error),
            "warn" => Ok(Self::Warn),
            "info" => Ok(Self::Info),
            "debug" => Ok(Self::Debug),
            "trace" => Ok(Self::Trace),
            _ => Err(ValueError::Choice),
        }
    }
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

serde_as_text!(LogLevel);

//! Types for values with their own rules. A value of such a type always
//! follows the rules.
//!
//! Every type implements `FromStr` and reports in a [`ValueError`] why a text is
//! rejected. Nothing here accesses the disk or the network: the configuration
//! does not check that a folder exists or a host answers.

use std::fmt;
use std::net::IpAddr;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::size::SizeError;
use types::FolderIdError;

/// Maximum length of the name of a folder or a source, in characters.
pub const MAX_NAME_CHARS: usize = 100;

/// Maximum length of an exclude pattern in bytes.
pub const MAX_PATTERN_LEN: usize = 1024;

/// The reason why a text is not a valid value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// Not a size, or not a rate.
    #[error(transparent)]
    Size(#[from] SizeError),
    /// Not a folder id.
    #[error("not a valid folder id")]
    FolderId(#[from] FolderIdError),
    /// Empty, or only spaces.
    #[error("the value is empty")]
    Empty,
    /// Not an age.
    #[error("not an age")]
    Age,
    /// Not one of the allowed words.
    #[error("unknown word")]
    Choice,
    /// A name longer than [`MAX_NAME_CHARS`], a pattern longer than [`MAX_PATTERN_LEN`], or an
    /// argument of a program longer than 4,096 bytes.
    #[error("longer than the maximum of {0}")]
    TooLong(usize),
    /// A line break, a tab or another control character.
    #[error("control characters are not allowed")]
    Control,
    /// A space at the beginning or the end.
    #[error("spaces at the beginning or the end are not allowed")]
    Blank,
    /// A path that starts with `~`, the shell's short form of the home directory.
    #[error("`~` is not expanded; write the absolute path")]
    Tilde,
    /// A path that TOML cannot represent.
    #[error("the path is not UTF-8, so the configuration file cannot contain it")]
    NotUtf8,
    /// A path that does not begin with `/`.
    #[error("not an absolute path")]
    Relative,
    /// A path with a `..` component.
    #[error("`..` is not allowed in the path")]
    ParentDir,
    /// Not an IP address.
    #[error("not an IP address")]
    IpAddr,
    /// A host name instead of an address.
    #[error("host names are not allowed here; write the IP address")]
    HostName,
    /// Not an address and not a network.
    #[error("neither an IP address nor a network")]
    Network,
    /// An IPv4-mapped IPv6 network.
    #[error("write the network as IPv4: `{0}`")]
    MappedIpv4(String),
    /// Not a URL.
    #[error("not a valid URL: {0}")]
    Url(String),
    /// An IPv6 address without brackets.
    #[error("an IPv6 address must be in brackets: `http://[2001:db8::1]:8085`")]
    UrlBrackets,
    /// A URL that does not begin with `http://` or `https://`.
    #[error("the URL must begin with `http://` or `https://`")]
    UrlScheme,
    /// A URL with a user name, a query or a fragment.
    #[error("{0} is not allowed in the URL")]
    UrlPart(&'static str),
    /// Port 0, which no connection can reach.
    #[error("port 0 is not a valid destination")]
    PortZero,
    /// Not a peer id.
    #[error("not a peer id")]
    PeerId,
    /// Not a multiaddr.
    #[error("not a multiaddr")]
    Multiaddr,
    /// A multiaddr that does not begin with a host.
    #[error("the multiaddr must begin with /ip4, /ip6, /dns, /dns4 or /dns6")]
    NoHost,
    /// A multiaddr without a port.
    #[error("/tcp or /udp with a port must follow the host")]
    NoPort,
    /// The unspecified address (`0.0.0.0` or `::`).
    #[error("{0} is not an address that peers can reach")]
    Unspecified(IpAddr),
    /// A multiaddr without a peer id.
    #[error("the peer id is missing; add `/p2p/` and the peer id")]
    NoPeerId,
    /// A pattern that `.gitignore` syntax treats as a comment.
    #[error("`#` starts a comment; write `\\#` to match a name that begins with `#`")]
    PatternComment,
    /// Not a valid pattern.
    #[error("not a valid pattern: {0}")]
    Pattern(String),
}

/// Implements serde: serializes with `Display`, deserializes with `FromStr`.
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

/// A display name of 1 to [`MAX_NAME_CHARS`] characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

impl Name {
    /// Returns the text.
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

/// The path of a folder: absolute, without `..`.
///
/// Two paths that differ only in repeated or trailing slashes or in `/./` are
/// equal. Symlinks are not resolved.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FolderPath(PathBuf);

impl FolderPath {
    /// Creates a folder path.
    ///
    /// # Errors
    ///
    /// Returns [`ValueError::Relative`] if the path is not absolute,
    /// [`ValueError::ParentDir`] if it contains `..`, [`ValueError::NotUtf8`] if
    /// it is not UTF-8, and the other variants for paths of a wrong form.
    pub fn new(path: &Path) -> Result<Self, ValueError> {
        path.to_str().ok_or(ValueError::NotUtf8)?.parse()
    }

    /// Returns the path.
    pub fn as_path(&self) -> &Path {
        &self.0
    }

    /// Reports whether `other` is inside this folder, at any depth.
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

/// A pattern in `.gitignore` syntax.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pattern(String);

impl Pattern {
    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Maximum length of an argument of a program, in bytes.
const MAX_ARGUMENT_LEN: usize = 4096;

/// A program, or an argument of a program. No shell expands it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Argument(String);

impl Argument {
    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Argument {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        if text.contains('\0') {
            return Err(ValueError::Control);
        }
        if text.len() > MAX_ARGUMENT_LEN {
            return Err(ValueError::TooLong(MAX_ARGUMENT_LEN));
        }
        Ok(Self(text.to_owned()))
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

impl fmt::Display for Argument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

serde_as_text!(Argument);

/// A log level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LogLevel {
    /// Failures only.
    Error,
    /// Also conditions that may lead to a failure.
    Warn,
    /// Also completed work.
    #[default]
    Info,
    /// Also the steps of the work.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// Names of all levels.
    pub const NAMES: &'static [&'static str] = &["error", "warn", "info", "debug", "trace"];

    /// Returns the name of the level.
    pub fn as_str(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

impl FromStr for LogLevel {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        // The node API writes levels in upper case.
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

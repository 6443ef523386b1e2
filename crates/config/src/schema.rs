//! The types of the key table: what a key accepts, its unit, and whether a
//! running instance applies a change.
//!
//! The table itself is written in `config.rs`, in the declaration that also
//! makes the structs and their defaults, so no second list has to be kept in
//! step. `keys.rs` looks keys up in it. The checks, the messages, the commented
//! default file, `docs/config.md`, `config get` and `config set`, and the forms
//! of the web UI read it.

use serde::Serialize;

use crate::age::Age;
use crate::size::{ByteSize, Rate};
use crate::values::{LogLevel, MAX_NAME_CHARS};

/// When a change of a key takes effect in a running instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Apply {
    /// Immediately.
    Live,
    /// At the next start.
    NeedsRestart,
}

/// The type of a value, with its range.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Bool,
    /// A port of this computer; 0 lets the system choose a free one.
    Port,
    /// An integer in a unit.
    Number {
        min: u64,
        max: u64,
        unit: Unit,
    },
    /// A number of bytes; 0 is always allowed.
    Size {
        min: u64,
        max: u64,
    },
    /// Bytes per second; 0 is always allowed.
    Rate {
        min: u64,
        max: u64,
    },
    /// An age in minutes, hours, days or weeks; 0 is always allowed.
    Age {
        max: Age,
    },
    LogLevel,
    Name,
    FolderId,
    FolderPath,
    Pattern,
    /// A program, or one of its arguments.
    Argument,
    Url,
    PeerId,
    IpAddr,
    Network,
    /// A multiaddr with a host and a port.
    Address,
    /// A multiaddr with a host, a port and a peer id, or the empty string.
    PeerAddressOrNone,
    /// A multiaddr with a host, a port and a peer id.
    PeerAddress,
    List {
        of: &'static Kind,
        min: usize,
        max: usize,
    },
    Table(&'static [KeySpec]),
    Tables {
        of: &'static [KeySpec],
        max: usize,
    },
}

/// The unit of a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// No unit: a count.
    Count,
    /// A TCP or UDP port.
    Port,
    /// Seconds.
    Seconds,
    /// Milliseconds.
    Milliseconds,
    /// Bytes.
    Bytes,
    /// Bytes per second.
    BytesPerSecond,
}

/// One key, as `config.rs` declares it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeySpec {
    pub(crate) name: &'static str,
    pub(crate) doc: &'static str,
    pub(crate) kind: Kind,
    pub(crate) apply: Apply,
    /// True if the key has no default.
    pub(crate) required: bool,
}

/// Default of `folders_max` of a source.
pub(crate) const FOLDERS_MAX_DEFAULT: u32 = 256;

/// The key in a table of a list that is true by default. All other booleans there are
/// false.
pub(crate) const ON_BY_DEFAULT: &str = "one_file_system";

impl Kind {
    /// Maximum number of values in a list of single values.
    pub(crate) const LIST_LEN_MAX: usize = 1_000;

    /// Returns the name of the type, for programs.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::Port => "port",
            Self::Number { .. } => "number",
            Self::Size { .. } => "size",
            Self::Rate { .. } => "rate",
            Self::Age { .. } => "age",
            Self::LogLevel => "log_level",
            Self::Name => "name",
            Self::FolderId => "folder_id",
            Self::FolderPath => "path",
            Self::Pattern => "pattern",
            Self::Argument => "argument",
            Self::Url => "url",
            Self::PeerId => "peer_id",
            Self::IpAddr => "ip_addr",
            Self::Network => "network",
            Self::Address | Self::PeerAddress | Self::PeerAddressOrNone => "multiaddr",
            Self::List { .. } => "list",
            Self::Table(_) => "table",
            Self::Tables { .. } => "tables",
        }
    }

    /// Returns the allowed values as a phrase: "an integer from 1 to 64".
    pub(crate) fn allowed(self) -> String {
        match self {
            Self::Bool => "true or false".to_owned(),
            Self::Port => "a port from 0 to 65535 (0: any free port)".to_owned(),
            Self::Number { min, max, unit: Unit::Port } => format!("a port from {min} to {max}"),
            Self::Number { min, max, unit: Unit::Count } => {
                format!("an integer from {min} to {max}")
            }
            Self::Number { min, max, .. } => format!("{min} to {max}{}", self.unit_suffix()),
            Self::Size { min, max } => {
                let (min, max) = (ByteSize::from_bytes(min), ByteSize::from_bytes(max));
                format!("a size such as \"500GB\" or \"1GiB\", from {min} to {max}, or \"0\"")
            }
            Self::Rate { min, max } => {
                let (min, max) = (Rate::from_bytes_per_sec(min), Rate::from_bytes_per_sec(max));
                format!("a rate such as \"10MB/s\", from {min} to {max}, or \"0\"")
            }
            Self::Age { max } => {
                format!("an age such as \"7d\" or \"48h\", at most {max}, or \"0\"")
            }
            Self::LogLevel => format!("one of {}", LogLevel::NAMES.join(", ")),
            Self::Name => format!("a string of 1 to {MAX_NAME_CHARS} characters"),
            Self::FolderId => "1 to 64 letters, digits, `-` or `_`".to_owned(),
            Self::FolderPath => "the absolute path of a directory".to_owned(),
            Self::Pattern => "a pattern in .gitignore syntax".to_owned(),
            Self::Argument => "a program or an argument".to_owned(),
            Self::Url => "a URL such as \"http://192.0.2.10:8085\"".to_owned(),
            Self::PeerId => "a peer id such as \"16Uiu2HAm…\"".to_owned(),
            Self::IpAddr => "an IP address such as \"0.0.0.0\" or \"::1\"".to_owned(),
            Self::Network => "an IP address or a network such as \"192.0.2.0/24\"".to_owned(),
            Self::Address => "a multiaddr such as \"/ip4/192.0.2.10/tcp/8070\"".to_owned(),
            Self::PeerAddress => {
                "a multiaddr such as \"/ip4/192.0.2.10/tcp/8070/p2p/16Uiu2HAm…\"".to_owned()
            }
            Self::PeerAddressOrNone => format!("\"\" or {}", Self::PeerAddress.allowed()),
            Self::List { of, min: 0, max } => {
                format!("a list of at most {max} values, each {}", of.allowed())
            }
            Self::List { of, min, max } => {
                format!("a list of {min} to {max} values, each {}", of.allowed())
            }
            Self::Table(keys) => {
                let names: Vec<_> = keys.iter().map(|key| key.name).collect();
                format!("a table with the keys {}", names.join(", "))
            }
            Self::Tables { of, max } => {
                format!("at most {max} `[[…]]` tables, each {}", Self::Table(of).allowed())
            }
        }
    }

    /// Returns the smallest and the largest number, if the value is one.
    pub(crate) fn range(self) -> Option<(u64, u64)> {
        match self {
            Self::Port => Some((0, u64::from(u16::MAX))),
            Self::Number { min, max, .. } | Self::Size { min, max } | Self::Rate { min, max } => {
                Some((min, max))
            }
            _ => None,
        }
    }

    /// Returns the unit of a number that has one.
    pub(crate) fn unit(self) -> Option<Unit> {
        match self {
            Self::Port => Some(Unit::Port),
            Self::Number { unit, .. } => (unit != Unit::Count).then_some(unit),
            Self::Size { .. } => Some(Unit::Bytes),
            Self::Rate { .. } => Some(Unit::BytesPerSecond),
            _ => None,
        }
    }

    /// Returns the unit to write behind a number: " seconds".
    pub(crate) fn unit_suffix(self) -> &'static str {
        match self.unit() {
            Some(Unit::Seconds) => " seconds",
            Some(Unit::Milliseconds) => " milliseconds",
            _ => "",
        }
    }

    /// Returns the default of the optional key `name` in a table of a list: false
    /// (except for `one_file_system`), the empty list, no limit, or the default number of folders.
    pub(crate) fn item_default(self, name: &str) -> Option<serde_json::Value> {
        match self {
            Self::Bool => Some((name == ON_BY_DEFAULT).into()),
            Self::List { .. } => Some(serde_json::Value::Array(Vec::new())),
            Self::Size { .. } => Some("0".into()),
            Self::Number { .. } => Some(FOLDERS_MAX_DEFAULT.into()),
            _ => None,
        }
    }

    /// Reports whether TOML writes the value as a string.
    pub(crate) fn is_text(self) -> bool {
        !matches!(
            self,
            Self::Bool
                | Self::Port
                | Self::Number { .. }
                | Self::List { .. }
                | Self::Table(_)
                | Self::Tables { .. }
        )
    }
}

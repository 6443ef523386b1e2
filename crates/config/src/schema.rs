//! The keys of the configuration as data: path, type, range, unit, what they
//! are for, and whether a running instance can apply a change.
//!
//! The table is written in `config.rs`, in the same declaration that makes the
//! structs and the defaults, so that there is no second list to keep in step.
//! What reads it: the check of a file, the messages, the commented default
//! file, `docs/config.md`, `config get/set` and the forms of the UI.

use std::sync::LazyLock;

use serde::Serialize;

use crate::Config;
use crate::config::ROOT;

/// Whether a running instance can apply a change of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Apply {
    /// At once.
    Live,
    /// When it is started the next time.
    NeedsRestart,
}

/// What a key holds.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Bool,
    /// A port of this machine; 0 lets the system choose a free one.
    Port,
    /// A whole number, in a unit.
    Number {
        min: u64,
        max: u64,
        unit: Unit,
    },
    /// An amount of data; 0 is always allowed.
    Size {
        min: u64,
        max: u64,
    },
    /// Data per second; 0 is always allowed.
    Rate {
        min: u64,
        max: u64,
    },
    LogLevel,
    Name,
    FolderId,
    FolderPath,
    Pattern,
    Url,
    PeerId,
    IpAddr,
    Network,
    /// A multiaddr that can be reached.
    Address,
    /// A multiaddr that names its peer, or nothing.
    PeerAddressOrNone,
    /// A multiaddr that names its peer.
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

/// What a number counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Nothing that has a name of its own.
    Count,
    /// A port of TCP or UDP.
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
    /// Whether it has no default.
    pub(crate) required: bool,
}

impl Kind {
    /// The largest list of single values.
    pub(crate) const LIST_LEN_MAX: usize = 1_000;

    /// The name of the type, for programs.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::Port => "port",
            Self::Number { .. } => "number",
            Self::Size { .. } => "size",
            Self::Rate { .. } => "rate",
            Self::LogLevel => "log_level",
            Self::Name => "name",
            Self::FolderId => "folder_id",
            Self::FolderPath => "path",
            Self::Pattern => "pattern",
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

    /// What is allowed, as a phrase: "a whole number from 1 to 64".
    pub(crate) fn allowed(self) -> String {
        match self {
            Self::Bool => "true or false".to_owned(),
            Self::Port => "a port from 0 to 65535, where 0 is any free one".to_owned(),
            Self::Number { min, max, unit: Unit::Port } => format!("a port from {min} to {max}"),
            Self::Number { min, max, unit } => {
                let unit = match unit {
                    Unit::Seconds => " of seconds",
                    Unit::Milliseconds => " of milliseconds",
                    _ => "",
                };
                format!("a whole number{unit} from {min} to {max}")
            }
            Self::Size { min, max } => {
                let (min, max) =
                    (crate::ByteSize::from_bytes(min), crate::ByteSize::from_bytes(max));
                format!("a size such as \"500GB\" or \"1GiB\", from {min} to {max}, or \"0\"")
            }
            Self::Rate { min, max } => {
                let min = crate::Rate::from_bytes_per_sec(min);
                let max = crate::Rate::from_bytes_per_sec(max);
                format!("a rate such as \"10MB/s\", from {min} to {max}, or \"0\"")
            }
            Self::LogLevel => format!("one of {}", crate::LogLevel::NAMES.join(", ")),
            Self::Name => format!("a text of 1 to {} characters", crate::MAX_NAME_CHARS),
            Self::FolderId => "1 to 64 letters, digits, `-` or `_`".to_owned(),
            Self::FolderPath => "the path of a folder, from `/` on".to_owned(),
            Self::Pattern => "a pattern of .gitignore syntax".to_owned(),
            Self::Url => "a URL such as \"http://192.0.2.10:8085\"".to_owned(),
            Self::PeerId => "a peer id such as \"16Uiu2HAm…\"".to_owned(),
            Self::IpAddr => "an IP address such as \"0.0.0.0\" or \"::1\"".to_owned(),
            Self::Network => "an address or a network such as \"192.0.2.0/24\"".to_owned(),
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
                format!("a table with {}", names.join(", "))
            }
            Self::Tables { of, max } => {
                format!(
                    "at most {max} tables, as `[[…]]` begins them, each {}",
                    Self::Table(of).allowed()
                )
            }
        }
    }

    fn range(self) -> Option<(u64, u64)> {
        match self {
            Self::Port => Some((0, u64::from(u16::MAX))),
            Self::Number { min, max, .. } | Self::Size { min, max } | Self::Rate { min, max } => {
                Some((min, max))
            }
            _ => None,
        }
    }

    fn unit(self) -> Option<Unit> {
        match self {
            Self::Port => Some(Unit::Port),
            Self::Number { unit, .. } => (unit != Unit::Count).then_some(unit),
            Self::Size { .. } => Some(Unit::Bytes),
            Self::Rate { .. } => Some(Unit::BytesPerSecond),
            _ => None,
        }
    }
}

/// One key, for a person or a program that shows or edits the configuration.
#[derive(Clone, Debug, Serialize)]
pub struct KeyInfo {
    /// The path, such as `node.listen_port`. `[]` stands for each table of a
    /// list, as in `sync.folders[].path`.
    pub path: String,
    /// The type: `bool`, `port`, `number`, `size`, `list`, `tables`, …
    #[serde(rename = "type")]
    pub type_name: &'static str,
    /// For a list, the type of its values.
    pub item_type: Option<&'static str>,
    /// Whether it has to be given: a key of a table in a list that has no
    /// default.
    pub required: bool,
    /// The default, where there is a fixed one.
    pub default: Option<serde_json::Value>,
    /// The smallest value of a number or an amount, beside 0 for an amount.
    pub min: Option<u64>,
    /// The largest value of a number or an amount.
    pub max: Option<u64>,
    /// What the number counts.
    pub unit: Option<Unit>,
    /// The words to choose from, where there is a choice.
    pub choices: Option<&'static [&'static str]>,
    /// What is allowed, in words.
    pub allowed: String,
    /// What it is for, in a line.
    pub description: &'static str,
    /// Whether a running instance applies a change.
    pub apply: Apply,
}

/// Every key, in the order of the file.
pub fn keys() -> &'static [KeyInfo] {
    static KEYS: LazyLock<Vec<KeyInfo>> = LazyLock::new(|| {
        let defaults = serde_json::to_value(Config::default()).unwrap_or_default();
        let mut keys = Vec::new();
        collect(ROOT, "", Some(&defaults), &mut keys);
        keys
    });
    &KEYS
}

fn collect(
    specs: &[KeySpec],
    prefix: &str,
    defaults: Option<&serde_json::Value>,
    keys: &mut Vec<KeyInfo>,
) {
    for spec in specs {
        let path = format!("{prefix}{}", spec.name);
        let default = defaults.and_then(|table| table.get(spec.name));
        if let Kind::Table(of) = spec.kind {
            collect(of, &format!("{path}."), default, keys);
            continue;
        }
        let item = if let Kind::List { of, .. } = spec.kind { Some(of.name()) } else { None };
        let is_level = matches!(spec.kind, Kind::LogLevel);
        keys.push(KeyInfo {
            type_name: spec.kind.name(),
            item_type: item,
            required: spec.required,
            default: match default {
                None if !spec.required => spec.kind.item_default(),
                default => default.cloned(),
            },
            min: spec.kind.range().map(|(min, _)| min),
            max: spec.kind.range().map(|(_, max)| max),
            unit: spec.kind.unit(),
            choices: is_level.then_some(crate::LogLevel::NAMES),
            allowed: spec.kind.allowed(),
            description: spec.doc.trim(),
            apply: spec.apply,
            path: path.clone(),
        });
        if let Kind::Tables { of, .. } = spec.kind {
            collect(of, &format!("{path}[]."), None, keys);
        }
    }
}

impl Kind {
    /// The default of a key of a table in a list: nothing, of its kind.
    fn item_default(self) -> Option<serde_json::Value> {
        match self {
            Self::Bool => Some(false.into()),
            Self::List { .. } => Some(serde_json::Value::Array(Vec::new())),
            _ => None,
        }
    }
}

/// A key or a section, with the tables on the way to it.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) tables: Vec<&'static str>,
    pub(crate) spec: &'static KeySpec,
}

/// Looks a path such as `backup_server.keep.last` up.
pub(crate) fn find(path: &str) -> Option<Found> {
    let mut specs = ROOT;
    let mut tables = Vec::new();
    let mut names = path.split('.').peekable();
    while let Some(name) = names.next() {
        let spec = specs.iter().find(|spec| spec.name == name)?;
        if names.peek().is_none() {
            return Some(Found { tables, spec });
        }
        specs = if let Kind::Table(of) = spec.kind { of } else { &[] };
        tables.push(spec.name);
    }
    None
}

/// The path that was probably meant: with the right section, or without a
/// slip of the pen.
pub(crate) fn suggest_path(path: &str) -> Option<String> {
    let paths = || keys().iter().map(|key| key.path.as_str()).filter(|path| !path.contains("[]"));
    let name = path.rsplit('.').next().unwrap_or(path);
    let mut elsewhere = paths().filter(|known| known.rsplit('.').next() == Some(name));
    let found = match (elsewhere.next(), elsewhere.next()) {
        (Some(only), None) => Some(only),
        _ => similar(path, paths()),
    };
    let found = found.or_else(|| {
        let names = paths().filter_map(|path| path.rsplit('.').next());
        let name = similar(name, names)?;
        paths().find(|path| path.rsplit('.').next() == Some(name))
    });
    found.map(str::to_owned)
}

/// The candidate that a misspelt word was probably meant to be.
pub(crate) fn similar<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    // A long word may come from a file that is not ours at all.
    let word: String = word.to_lowercase().replace(['-', ' '], "_").chars().take(80).collect();
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 5)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

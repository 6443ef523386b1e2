//! From text to a [`Config`], or to everything that is wrong with the text.
//!
//! Three passes, each over the whole text, so that one look at the messages
//! is enough to mend a file: the syntax; every key and value by itself, by the
//! table in `schema.rs`; then what has to fit together. A pass runs only where
//! the one before found nothing, because it would report consequences.

use std::net::IpAddr;
use std::ops::Range;
use std::str::FromStr;

use libp2p_identity::PeerId;
use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Deserializer};

use crate::addresses::{AddressUse, ManifestUrl, Network, parse_address};
use crate::config::{Config, ROOT};
use crate::error::{Fault, Place, Problem};
use crate::schema::{KeySpec, Kind, similar};
use crate::values::{FolderPath, LogLevel, Name, Pattern, ValueError};
use crate::{ByteSize, FolderId, Rate};

/// How many errors of syntax are reported: the later ones mostly follow from
/// the first.
const SYNTAX_ERRORS_MAX: usize = 5;

/// How many problems are collected. Each costs a walk over the file.
const PROBLEMS_MAX: usize = 200;

/// How many characters of a value a message shows.
const FOUND_CHARS_MAX: usize = 160;

/// Reads a configuration.
pub(crate) fn parse(text: &str) -> Result<Config, Vec<Problem>> {
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        return Err(syntax_problems(text, errors));
    }
    let mut check = Check { text, problems: Vec::new() };
    check.table(ROOT, "", table.get_ref(), 0..0);
    check.finish()?;

    let config = match Config::deserialize(Deserializer::from(table.clone())) {
        Ok(config) => config,
        Err(error) => {
            let place = place(text, error.span().unwrap_or(0..0).start);
            let fault = Fault::Refused(error.message().to_owned());
            return Err(vec![Problem { place, key: String::new(), fault }]);
        }
    };
    let mut check = Check { text, problems: Vec::new() };
    check.conflicts(&config, table.get_ref());
    check.finish()?;
    Ok(config)
}

/// The place of a byte of `text`.
pub(crate) fn place(text: &str, offset: usize) -> Place {
    // A file from Windows may begin with a mark that no editor shows.
    let text = text.strip_prefix('\u{feff}').map_or((text, 0), |rest| (rest, 3));
    let (text, offset) = (text.0, offset.saturating_sub(text.1));
    let before = &text.as_bytes()[..offset.min(text.len())];
    let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    Place {
        line: 1 + before.iter().filter(|byte| **byte == b'\n').count(),
        column: 1 + String::from_utf8_lossy(&before[line_start..]).chars().count(),
    }
}

/// At most one a line, because the others on it follow from the first.
fn syntax_problems(text: &str, mut errors: Vec<toml::de::Error>) -> Vec<Problem> {
    let start = |error: &toml::de::Error| error.span().map_or(0, |span| span.start);
    errors.sort_by_key(start);
    let mut problems: Vec<Problem> = Vec::new();
    let mut line_end = None;
    for error in errors {
        let at = start(&error).min(text.len());
        if line_end.is_some_and(|end| at <= end) {
            continue;
        }
        line_end = Some(text[at..].find('\n').map_or(text.len(), |newline| at + newline));
        let found = error.span().and_then(|span| text.get(span)).map(clip).unwrap_or_default();
        let message = match error.message() {
            "duplicate key" => format!("`{found}` is given a second time"),
            message if message.starts_with("string values must be quoted") => {
                "a text has to stand in quotes".to_owned()
            }
            message => message.trim_end_matches(", expected nothing").to_owned(),
        };
        let fault = Fault::Syntax(message);
        problems.push(Problem { place: place(text, at), key: String::new(), fault });
        if problems.len() == SYNTAX_ERRORS_MAX {
            break;
        }
    }
    problems
}

/// A value of a known kind, in the text that stands for it in every spelling:
/// what an item of a list is compared by.
pub(crate) fn canonical(kind: Kind, text: &str) -> Option<String> {
    fn read<T: FromStr + ToString>(text: &str) -> Option<String> {
        text.parse::<T>().ok().map(|value| value.to_string())
    }
    match kind {
        Kind::IpAddr => read::<IpAddr>(text),
        Kind::Network => read::<Network>(text),
        Kind::Address | Kind::PeerAddress => read::<multiaddr::Multiaddr>(text),
        _ => Some(text.to_owned()),
    }
}

/// The problems of one pass over `text`.
pub(crate) struct Check<'t> {
    text: &'t str,
    problems: Vec<Problem>,
}

impl Check<'_> {
    fn finish(&mut self) -> Result<(), Vec<Problem>> {
        if self.problems.is_empty() {
            return Ok(());
        }
        let mut problems = std::mem::take(&mut self.problems);
        problems.sort_by_key(|problem| problem.place);
        Err(problems)
    }

    pub(crate) fn report(&mut self, key: &str, span: &Range<usize>, fault: Fault) {
        if self.problems.len() == PROBLEMS_MAX {
            return;
        }
        let place = place(self.text, span.start);
        self.problems.push(Problem { place, key: key.to_owned(), fault });
    }

    /// What stands at `span`, short enough for a message.
    fn found(&self, span: &Range<usize>) -> String {
        clip(self.text.get(span.clone()).unwrap_or_default())
    }

    fn table(
        &mut self,
        specs: &'static [KeySpec],
        path: &str,
        table: &DeTable<'_>,
        span: Range<usize>,
    ) {
        let prefix = if path.is_empty() { String::new() } else { format!("{path}.") };
        for (key, value) in table {
            let name: &str = key.get_ref();
            match specs.iter().find(|spec| spec.name == name) {
                Some(spec) => self.value(spec.kind, &format!("{prefix}{name}"), value),
                None => {
                    let known: Vec<_> = specs.iter().map(|spec| spec.name).collect();
                    let suggestion = suggest(&prefix, name, &known);
                    let path = format!("{prefix}{}", clip(name));
                    self.report(&path, &key.span(), Fault::UnknownKey { suggestion, known });
                }
            }
        }
        for spec in specs.iter().filter(|spec| spec.required) {
            if !table.contains_key(spec.name) {
                let fault = Fault::MissingKey { allowed: spec.kind.allowed() };
                self.report(&format!("{prefix}{}", spec.name), &span, fault);
            }
        }
    }

    fn value(&mut self, kind: Kind, path: &str, value: &Spanned<DeValue<'_>>) {
        let span = value.span();
        match (kind, value.get_ref()) {
            (Kind::Table(specs), DeValue::Table(table)) => self.table(specs, path, table, span),
            (Kind::Tables { of, max }, DeValue::Array(items)) => {
                for (at, item) in items.iter().enumerate() {
                    let path = format!("{path}[{at}]");
                    match item.get_ref() {
                        DeValue::Table(table) => self.table(of, &path, table, item.span()),
                        _ => self.wrong_type(Kind::Table(of), &path, item),
                    }
                }
                if items.len() > max {
                    self.out_of_range(kind, path, format!("{} tables", items.len()), &span);
                }
            }
            (Kind::List { of, min, max }, DeValue::Array(items)) => {
                for (at, item) in items.iter().enumerate() {
                    self.value(*of, &format!("{path}[{at}]"), item);
                }
                if items.len() < min || items.len() > max {
                    self.out_of_range(kind, path, format!("{} values", items.len()), &span);
                }
            }
            (Kind::Bool, DeValue::Boolean(_)) => {}
            (Kind::Port, DeValue::Integer(number)) => {
                self.number(kind, path, number, 0..=u64::from(u16::MAX), &span);
            }
            (Kind::Number { min, max, .. }, DeValue::Integer(number)) => {
                self.number(kind, path, number, min..=max, &span);
            }
            (Kind::Size { min, max } | Kind::Rate { min, max }, DeValue::Integer(number)) => {
                match integer(number) {
                    Some(0) => {}
                    _ => self.number(kind, path, number, min..=max, &span),
                }
            }
            (_, DeValue::String(text)) if kind.is_text() => match check_text(kind, text) {
                Ok(()) => {}
                Err(TextFault::Range) => {
                    let found = self.found(&span);
                    self.out_of_range(kind, path, found, &span);
                }
                Err(TextFault::Malformed(reason)) => {
                    let (found, allowed) = (self.found(&span), kind.allowed());
                    self.report(path, &span, Fault::Malformed { found, reason, allowed });
                }
            },
            _ => self.wrong_type(kind, path, value),
        }
    }

    fn number(
        &mut self,
        kind: Kind,
        path: &str,
        number: &toml::de::DeInteger<'_>,
        range: std::ops::RangeInclusive<u64>,
        span: &Range<usize>,
    ) {
        let value = integer(number).and_then(|number| u64::try_from(number).ok());
        if !value.is_some_and(|value| range.contains(&value)) {
            let found = self.found(span);
            self.out_of_range(kind, path, found, span);
        }
    }

    fn out_of_range(&mut self, kind: Kind, path: &str, found: String, span: &Range<usize>) {
        self.report(path, span, Fault::OutOfRange { found, allowed: kind.allowed() });
    }

    fn wrong_type(&mut self, kind: Kind, path: &str, value: &Spanned<DeValue<'_>>) {
        let type_name = match value.get_ref() {
            DeValue::String(_) => "a text",
            DeValue::Integer(_) => "a number",
            DeValue::Float(_) => "a number with a fraction",
            DeValue::Boolean(_) => "a boolean",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        let (found, allowed) = (self.found(&value.span()), kind.allowed());
        self.report(path, &value.span(), Fault::WrongType { found, type_name, allowed });
    }
}

enum TextFault {
    Range,
    Malformed(ValueError),
}

impl Kind {
    /// Whether the value is written as a text.
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

fn check_text(kind: Kind, text: &str) -> Result<(), TextFault> {
    fn read<T: FromStr<Err: Into<ValueError>>>(text: &str) -> Result<T, TextFault> {
        text.parse::<T>().map_err(|error| TextFault::Malformed(error.into()))
    }
    fn read_or<T: FromStr>(text: &str, error: ValueError) -> Result<T, TextFault> {
        text.parse::<T>().map_err(|_| TextFault::Malformed(error))
    }
    let in_range = |amount: u64, min: u64, max: u64| {
        if amount == 0 || (min..=max).contains(&amount) { Ok(()) } else { Err(TextFault::Range) }
    };
    let address = |purpose| parse_address(text, purpose).map_err(TextFault::Malformed);
    match kind {
        Kind::Size { min, max } => in_range(read::<ByteSize>(text)?.bytes(), min, max),
        Kind::Rate { min, max } => in_range(read::<Rate>(text)?.bytes_per_sec(), min, max),
        Kind::LogLevel => read::<LogLevel>(text).map(drop),
        Kind::Name => read::<Name>(text).map(drop),
        Kind::FolderId => read::<FolderId>(text).map(drop),
        Kind::FolderPath => read::<FolderPath>(text).map(drop),
        Kind::Pattern => read::<Pattern>(text).map(drop),
        Kind::Url => read::<ManifestUrl>(text).map(drop),
        Kind::Network => read::<Network>(text).map(drop),
        Kind::PeerId => read_or::<PeerId>(text, ValueError::PeerId).map(drop),
        Kind::IpAddr => read_or::<IpAddr>(text, ValueError::IpAddr).map(drop),
        Kind::PeerAddressOrNone if text.is_empty() => Ok(()),
        Kind::PeerAddressOrNone | Kind::PeerAddress => address(AddressUse::Peer).map(drop),
        Kind::Address => address(AddressUse::Reach).map(drop),
        Kind::Bool
        | Kind::Port
        | Kind::Number { .. }
        | Kind::List { .. }
        | Kind::Table(_)
        | Kind::Tables { .. } => Ok(()),
    }
}

fn integer(number: &toml::de::DeInteger<'_>) -> Option<i128> {
    i128::from_str_radix(number.as_str(), number.radix()).ok()
}

/// The key that was probably meant, here or in another section.
fn suggest(prefix: &str, name: &str, known: &[&'static str]) -> Option<String> {
    if let Some(here) = similar(name, known.iter().copied()) {
        return Some(here.to_owned());
    }
    let is_it = |path: &&str| !path.contains("[]") && path.rsplit('.').next() == Some(name);
    let mut elsewhere = crate::keys().iter().map(|key| key.path.as_str()).filter(is_it);
    match (elsewhere.next(), elsewhere.next()) {
        (Some(path), None) if !prefix.contains('[') => Some(path.to_owned()),
        _ => None,
    }
}

/// A value as a message shows it: on one line, without control characters.
fn clip(text: &str) -> String {
    let mut shown = String::new();
    for (at, c) in text.chars().enumerate() {
        if at == FOUND_CHARS_MAX {
            shown.push('…');
            break;
        }
        if c.is_control() { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    shown
}

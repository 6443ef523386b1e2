//! Checks every key and value on its own against the key table.

use std::net::IpAddr;
use std::ops::Range;
use std::str::FromStr;

use libp2p_identity::PeerId;
use toml::Spanned;
use toml::de::{DeTable, DeValue};
use types::FolderId;

use crate::addresses::{AddressUse, ManifestUrl, Network, parse_address};
use crate::age::Age;
use crate::error::{Fault, Place, Problem};
use crate::keys::{keys, similar};
use crate::schema::{KeySpec, Kind};
use crate::size::{ByteSize, Rate};
use crate::values::{Argument, FolderPath, LogLevel, Name, Pattern, ValueError};

/// Maximum number of collected problems. Each costs a walk over the file.
const PROBLEMS_MAX: usize = 200;

/// Maximum number of characters of a value in a message.
const FOUND_CHARS_MAX: usize = 160;

/// Returns the canonical spelling of a value, to compare list items that are
/// spelled differently.
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

/// Collects the problems of one pass over a text.
pub(crate) struct Check<'t> {
    text: &'t str,
    problems: Vec<Problem>,
}

impl<'t> Check<'t> {
    pub(crate) fn new(text: &'t str) -> Self {
        Self { text, problems: Vec::new() }
    }

    /// Returns the collected problems in the order of the text, if there are
    /// any.
    pub(crate) fn finish(mut self) -> Result<(), Vec<Problem>> {
        if self.problems.is_empty() {
            return Ok(());
        }
        self.problems.sort_by_key(|problem| problem.place);
        Err(self.problems)
    }

    pub(crate) fn report(&mut self, key: &str, span: &Range<usize>, fault: Fault) {
        if self.problems.len() == PROBLEMS_MAX {
            return;
        }
        let place = Place::of(self.text, span.start);
        self.problems.push(Problem { place, key: key.to_owned(), fault });
    }

    /// Returns the text at `span`, shortened for a message.
    fn found(&self, span: &Range<usize>) -> String {
        clip(self.text.get(span.clone()).unwrap_or_default())
    }

    /// Checks a table and everything in it.
    pub(crate) fn table(
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
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "an integer",
            DeValue::Float(_) => "a floating-point number",
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
        Kind::Age { max } => in_range(read::<Age>(text)?.seconds(), 0, max.seconds()),
        Kind::LogLevel => read::<LogLevel>(text).map(drop),
        Kind::Name => read::<Name>(text).map(drop),
        Kind::FolderId => read::<FolderId>(text).map(drop),
        Kind::FolderPath => read::<FolderPath>(text).map(drop),
        Kind::Pattern => read::<Pattern>(text).map(drop),
        Kind::Argument => read::<Argument>(text).map(drop),
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

/// Suggests a key for an unknown one, in this table or in another section.
fn suggest(prefix: &str, name: &str, known: &[&'static str]) -> Option<String> {
    if let Some(here) = similar(name, known.iter().copied()) {
        return Some(here.to_owned());
    }
    let is_it = |path: &&str| !path.contains("[]") && path.rsplit('.').next() == Some(name);
    let mut elsewhere = keys().iter().map(|key| key.path.as_str()).filter(is_it);
    match (elsewhere.next(), elsewhere.next()) {
        (Some(path), None) if !prefix.contains('[') => Some(path.to_owned()),
        _ => None,
    }
}

/// Returns a value as shown in a message: one line, without control characters.
pub(crate) fn clip(text: &str) -> String {
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

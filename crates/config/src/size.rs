//! Sizes and rates in human notation: `500GB`, `1GiB`, `10MB/s`.
//!
//! Units are case-sensitive. `500gb` and `10Mb/s` are rejected with a
//! suggestion, because a guess would be wrong by a factor of eight if the user
//! meant bits.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The units, each with its number of bytes.
const UNITS: [(&str, u64); 11] = [
    ("B", 1),
    ("KB", 1_000),
    ("KiB", 1 << 10),
    ("MB", 1_000_000),
    ("MiB", 1 << 20),
    ("GB", 1_000_000_000),
    ("GiB", 1 << 30),
    ("TB", 1_000_000_000_000),
    ("TiB", 1 << 40),
    ("PB", 1_000_000_000_000_000),
    ("PiB", 1 << 50),
];

/// A number of bytes. Its text form is exact: it parses to the same number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(u64);

/// Bytes per second. Its text form is exact: it parses to the same number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rate(u64);

/// The reason why a text is not a size, or not a rate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// The text does not begin with a number.
    #[error("a number must come first")]
    NoNumber,
    /// The unit is unknown.
    #[error("`{found}` is not a unit{}", hint(.found, .suggestion.as_deref()))]
    Unit {
        /// The text behind the number.
        found: String,
        /// A similar unit that exists.
        suggestion: Option<String>,
    },
    /// The unit of a rate lacks `/s`.
    #[error("a rate is per second; write `{0}/s`")]
    NotPerSecond(String),
    /// The value is not a whole number of bytes.
    #[error("not a whole number of bytes")]
    NotWhole,
    /// The value exceeds 64 bits.
    #[error("the number is too large")]
    TooLarge,
}

fn hint(found: &str, suggestion: Option<&str>) -> String {
    let bits = found.contains('b') && found.contains(['i', 'p', 'M', 'G']);
    match suggestion {
        Some(unit) if bits => {
            format!(" (did you mean `{unit}`? `B` means bytes; 1 byte is 8 bits)")
        }
        Some(unit) => format!(" (did you mean `{unit}`?)"),
        None => String::new(),
    }
}

impl ByteSize {
    /// Creates a size of `bytes` bytes.
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// Returns the number of bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// Returns the number of bytes, or `None` for 0, which means "no limit".
    pub const fn limit(self) -> Option<u64> {
        if self.0 == 0 { None } else { Some(self.0) }
    }
}

impl Rate {
    /// Creates a rate of `bytes` bytes per second.
    pub const fn from_bytes_per_sec(bytes: u64) -> Self {
        Self(bytes)
    }

    /// Returns the number of bytes per second.
    pub const fn bytes_per_sec(self) -> u64 {
        self.0
    }

    /// Returns the number of bytes per second, or `None` for 0, which means "no
    /// limit".
    pub const fn limit(self) -> Option<u64> {
        if self.0 == 0 { None } else { Some(self.0) }
    }
}

/// Splits a text into the number and the unit behind it.
fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    (&text[..end], text[end..].trim_start())
}

fn parse(number: &str, unit: &str) -> Result<u64, SizeError> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let has_fraction = number.contains('.');
    if whole.is_empty() || fraction.contains('.') || has_fraction && fraction.is_empty() {
        return Err(SizeError::NoNumber);
    }
    let scale = match unit {
        "" => 1,
        // The SI prefix is a lower-case k.
        "kB" => 1_000,
        _ => UNITS.iter().find(|(name, _)| *name == unit).map(|(_, bytes)| *bytes).ok_or_else(
            || SizeError::Unit { found: clip(unit), suggestion: similar(unit).map(str::to_owned) },
        )?,
    };
    let scale = u128::from(scale);
    let whole: u128 = whole.parse().map_err(|_| SizeError::TooLarge)?;
    let fraction = fraction.trim_end_matches('0');
    let mut bytes = whole.checked_mul(scale).ok_or(SizeError::TooLarge)?;
    if !fraction.is_empty() {
        // Longer fractions cannot be whole: no unit has so many factors of 10.
        let power = u32::try_from(fraction.len()).ok().and_then(|len| 10_u128.checked_pow(len));
        let digits: Option<u128> = fraction.parse().ok();
        let (power, digits) = power.zip(digits).ok_or(SizeError::NotWhole)?;
        let scaled = digits.checked_mul(scale).ok_or(SizeError::NotWhole)?;
        if scaled % power != 0 {
            return Err(SizeError::NotWhole);
        }
        bytes = bytes.checked_add(scaled / power).ok_or(SizeError::TooLarge)?;
    }
    u64::try_from(bytes).map_err(|_| SizeError::TooLarge)
}

/// Suggests a unit for an unknown one.
fn similar(unit: &str) -> Option<&'static str> {
    let lower = unit.to_ascii_lowercase();
    let lower = lower.trim_end_matches("bps").trim_end_matches("it").trim_end_matches("its");
    UNITS.iter().map(|(name, _)| *name).find(|name| {
        let name = name.to_ascii_lowercase();
        name == lower || name.strip_suffix('b') == Some(lower)
    })
}

fn clip(text: &str) -> String {
    text.chars().take(20).collect()
}

/// Writes a number in the largest unit that divides it.
fn write_exact(f: &mut fmt::Formatter<'_>, bytes: u64, suffix: &str) -> fmt::Result {
    if bytes == 0 {
        return f.write_str("0");
    }
    let whole = UNITS.iter().filter(|(_, unit)| bytes.is_multiple_of(*unit));
    let (name, unit) = whole.max_by_key(|(_, unit)| *unit).unwrap_or(&UNITS[0]);
    write!(f, "{}{name}{suffix}", bytes / unit)
}

impl FromStr for ByteSize {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        let (number, unit) = split(text);
        parse(number, unit).map(Self)
    }
}

impl FromStr for Rate {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        let (number, unit) = split(text);
        match unit.strip_suffix("/s") {
            Some(unit) => parse(number, unit.trim_end()).map_err(|error| match error {
                SizeError::Unit { found, suggestion } => SizeError::Unit {
                    found: format!("{found}/s"),
                    suggestion: suggestion.map(|unit| format!("{unit}/s")),
                },
                other => other,
            }),
            None if unit.is_empty() => parse(number, unit),
            None => match parse(number, unit) {
                Ok(_) => Err(SizeError::NotPerSecond(format!("{number}{unit}"))),
                Err(SizeError::Unit { found, suggestion }) => Err(SizeError::Unit {
                    found,
                    suggestion: suggestion.map(|unit| format!("{unit}/s")),
                }),
                Err(error) => Err(error),
            },
        }
        .map(Self)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_exact(f, self.0, "")
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_exact(f, self.0, "/s")
    }
}

/// The serialized forms of both types: a text, or a number of bytes.
#[derive(Deserialize)]
#[serde(untagged)]
enum NumberOrText {
    Number(u64),
    Text(String),
}

macro_rules! serde_as_text {
    ($name:ident) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                match NumberOrText::deserialize(deserializer)? {
                    NumberOrText::Number(bytes) => Ok(Self(bytes)),
                    NumberOrText::Text(text) => text.parse().map_err(serde::de::Error::custom),
                }
            }
        }
    };
}

serde_as_text!(ByteSize);
serde_as_text!(Rate);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn size(text: &str) -> u64 {
        text.parse::<ByteSize>().unwrap().bytes()
    }

    #[test]
    fn sizes_as_people_write_them() {
        assert_eq!(size("0"), 0);
        assert_eq!(size("500GB"), 500_000_000_000);
        assert_eq!(size(" 500 GB "), 500_000_000_000);
        assert_eq!(size("1KiB"), 1024);
        assert_eq!(size("2kB"), 2000);
        assert_eq!(size("1.5GB"), 1_500_000_000);
        assert_eq!(size("1.50GB"), 1_500_000_000);
        assert_eq!(size("0.5KiB"), 512);
        assert_eq!(size("12345"), 12345);
        assert_eq!(size("1.0"), 1);
        assert_eq!(size("18446744073709551615B"), u64::MAX);
        assert_eq!("10MB/s".parse::<Rate>().unwrap().bytes_per_sec(), 10_000_000);
        assert_eq!("0".parse::<Rate>().unwrap().limit(), None);
    }

    #[test]
    fn what_is_refused_and_what_is_suggested() {
        let errors: Vec<String> = [
            "",
            "GB",
            ".5GB",
            "5.",
            "1.2.3GB",
            "-1GB",
            "5G",
            "5Gi",
            "500gb",
            "5XB",
            "1e9",
            "18446744073709551616",
            "999999999999999999999999999999999999999999GB",
            "0.3B",
            "1.0000000000000000000000000000000000000000000001GB",
            "1_000",
            "5 G B",
            "10MB/s",
        ]
        .iter()
        .map(|text| format!("{text:?}: {}", text.parse::<ByteSize>().unwrap_err()))
        .chain(["10MB", "10Mb/s", "10mbps", "10Mbit/s", "10 MB / s", "MB/s", "1.5"].iter().map(
            |text| {
                format!(
                    "{text:?}: {}",
                    text.parse::<Rate>().map_or_else(|e| e.to_string(), |r| r.to_string())
                )
            },
        ))
        .collect();
        insta::assert_snapshot!(errors.join("\n"));
    }

    #[test]
    fn the_text_is_short_and_exact() {
        for text in ["0", "1B", "999B", "1KB", "1KiB", "1500MB", "500GB", "1TiB", "1234567B"] {
            assert_eq!(text.parse::<ByteSize>().unwrap().to_string(), text);
        }
        assert_eq!(ByteSize::from_bytes(1_000_000_000_000).to_string(), "1TB");
        assert_eq!(Rate::from_bytes_per_sec(10_000_000).to_string(), "10MB/s");
    }

    proptest! {
        #[test]
        fn every_size_reads_back(bytes: u64, shift in 0_u32..64) {
            for bytes in [bytes, bytes >> shift << shift, (bytes >> 20) * 1000] {
                let size = ByteSize::from_bytes(bytes);
                prop_assert_eq!(size.to_string().parse(), Ok(size));
                let rate = Rate::from_bytes_per_sec(bytes);
                prop_assert_eq!(rate.to_string().parse(), Ok(rate));
            }
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,40}", number in "[0-9.]{0,60}", unit in "[KMGTPkibB/s]{0,6}") {
            let _ = text.parse::<ByteSize>();
            let _ = text.parse::<Rate>();
            let _ = format!("{number}{unit}").parse::<ByteSize>();
            let _ = format!("{number}{unit}").parse::<Rate>();
        }
    }
}

//! Ages in human notation: `7d`, `48h`, `0`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::values::{ValueError, serde_as_text};

/// The units, each with its number of seconds, longest first.
const UNITS: [(&str, u64); 4] = [("w", 604_800), ("d", 86_400), ("h", 3600), ("m", 60)];

/// An age in whole minutes. Its text form is exact: it parses to the same age.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Age(u64);

impl Age {
    /// No time.
    pub const ZERO: Self = Self(0);

    /// Creates an age of some days.
    pub const fn from_days(days: u32) -> Self {
        Self(days as u64 * 86_400)
    }

    /// Returns the number of seconds.
    pub const fn seconds(self) -> u64 {
        self.0
    }
}

impl FromStr for Age {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let text = text.trim();
        if text == "0" {
            return Ok(Self::ZERO);
        }
        let unit =
            UNITS.iter().find_map(|(unit, seconds)| Some((text.strip_suffix(unit)?, seconds)));
        let (number, seconds) = unit.ok_or(ValueError::Age)?;
        let number: u64 = number.trim_end().parse().map_err(|_| ValueError::Age)?;
        number.checked_mul(*seconds).map(Self).ok_or(ValueError::Age)
    }
}

impl fmt::Display for Age {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Weeks are read, but not written: "7d" is what the documents say.
        let unit = UNITS[1..].iter().find(|(_, seconds)| self.0.is_multiple_of(*seconds));
        match unit {
            Some((unit, seconds)) if self.0 > 0 => write!(f, "{}{unit}", self.0 / seconds),
            _ => f.write_str("0"),
        }
    }
}

serde_as_text!(Age);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_a_number_and_a_unit() {
        for (text, seconds, shown) in [
            ("0", 0, "0"),
            ("0d", 0, "0"),
            ("7d", 604_800, "7d"),
            ("1w", 604_800, "7d"),
            ("48h", 172_800, "2d"),
            ("36 h", 129_600, "36h"),
            ("90m", 5400, "90m"),
        ] {
            let age: Age = text.parse().unwrap();
            assert_eq!((age.seconds(), age.to_string().as_str()), (seconds, shown), "{text}");
        }
        for text in ["", "7", "d", "7 days", "-1d", "1.5d", "1y", "99999999999999999w"] {
            assert_eq!(text.parse::<Age>(), Err(ValueError::Age), "{text}");
        }
    }
}

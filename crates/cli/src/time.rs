//! Parsing of times that users type.

use anyhow::{Result, anyhow};
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, Zoned};

/// Parses a time: RFC 3339, a local time, a date, or an age such as `2h ago`.
///
/// Missing parts mean the end of the period: `10:30` is the last nanosecond of
/// that minute, so that it includes the snapshot that a list shows with 10:30.
///
/// # Errors
///
/// Returns an error that lists the accepted forms if `text` has none of them.
pub(crate) fn parse(text: &str, now: &Zoned) -> Result<Timestamp> {
    let text = text.trim();
    let unknown = || {
        anyhow!(
            "{text:?} is not a valid time; accepted forms: `2026-11-22 10:30`, `2026-11-22`, \
             `2026-11-22T10:30:00Z`, `2h ago`"
        )
    };
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    let zone: &TimeZone = now.time_zone();
    if let Some(span) = text.strip_suffix("ago") {
        let span: Span = span.trim().parse().map_err(|_| unknown())?;
        let time = now.checked_sub(span.abs()).map_err(|_| unknown())?;
        return Ok(time.timestamp());
    }
    let last = match text {
        "now" => return Ok(now.timestamp()),
        "today" => end_of(now.date()),
        "yesterday" => end_of(now.date().yesterday().map_err(|_| unknown())?),
        _ if text.len() <= "2026-11-22".len() => {
            end_of(text.parse::<Date>().map_err(|_| unknown())?)
        }
        _ => {
            let time: DateTime = text.parse().map_err(|_| unknown())?;
            let has_seconds = text.bytes().filter(|byte| *byte == b':').count() > 1;
            let time = match (has_seconds, text.contains('.')) {
                (_, true) => Ok(time),
                (true, false) => time.with().subsec_nanosecond(999_999_999).build(),
                (false, false) => time.with().second(59).subsec_nanosecond(999_999_999).build(),
            };
            time.map_err(|_| unknown())?
        }
    };
    zone.to_timestamp(last).map_err(|_| unknown())
}

fn end_of(date: Date) -> DateTime {
    date.at(23, 59, 59, 999_999_999)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_mean_them() {
        let now: Zoned = "2026-11-22T12:00:00+01:00[Europe/Berlin]".parse().unwrap();
        let cases = [
            ("2026-11-22T10:30:00Z", "2026-11-22T10:30:00Z"),
            ("2026-11-22T10:30:00.5+02:00", "2026-11-22T08:30:00.5Z"),
            ("2026-11-22 10:30", "2026-11-22T09:30:59.999999999Z"),
            ("2026-11-22T10:30:05", "2026-11-22T09:30:05.999999999Z"),
            ("2026-11-22 10:30:05.25", "2026-11-22T09:30:05.25Z"),
            ("2026-11-22", "2026-11-22T22:59:59.999999999Z"),
            ("2026-07-01", "2026-07-01T21:59:59.999999999Z"),
            ("yesterday", "2026-11-21T22:59:59.999999999Z"),
            ("2h ago", "2026-11-22T09:00:00Z"),
            ("3 days ago", "2026-11-19T11:00:00Z"),
            ("now", "2026-11-22T11:00:00Z"),
        ];
        for (text, meant) in cases {
            let read = parse(text, &now).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(read.to_string(), meant, "{text}");
        }
        for text in ["", "soon", "2026-13-01", "2026-11-22 25:00", "ago", "h ago", "10:30"] {
            assert!(parse(text, &now).is_err(), "{text}");
        }
    }

    #[test]
    fn fuzz_time() {
        let now: Zoned = "2026-11-22T12:00:00+01:00[Europe/Berlin]".parse().unwrap();
        let examples = [
            "2026-11-22T10:30:00Z",
            "2026-11-22 10:30:05.25",
            "2026-11-22",
            "3 days ago",
            "-9999-01-01",
            "P1Y2M3DT4H ago",
        ];
        fuzzing::target!(&examples, |bytes: &[u8]| {
            let _ = parse(&String::from_utf8_lossy(bytes), &now);
        });
    }
}

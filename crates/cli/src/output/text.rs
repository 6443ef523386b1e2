//! Formatting of sizes, times, names and messages.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use types::{RelPath, is_unsafe_to_show};

/// Escapes every character that moves the cursor, colours the screen, is
/// invisible or reorders text. Line feeds stay.
pub(crate) fn safe(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for char in text.chars() {
        if is_unsafe_to_show(char) && char != '\n' {
            shown.extend(char.escape_unicode());
        } else {
            shown.push(char);
        }
    }
    shown
}

/// Formats a path of any bytes on one line.
pub(crate) fn path(bytes: &[u8]) -> String {
    match RelPath::new(bytes) {
        Ok(path) => path.to_string(),
        Err(_) => safe(&String::from_utf8_lossy(bytes)).replace('\n', "\\n"),
    }
}

/// Formats a number of bytes in binary units, with at most four digits.
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut unit = 0;
    let mut value = bytes as f64;
    while value >= 1023.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = usize::from(unit > 0 && value < 99.95);
    format!("{value:.digits$} {}", UNITS[unit])
}

/// Formats a number with the singular or plural of its noun.
pub(crate) fn count(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// Formats a time in the system's time zone.
pub(crate) fn local_time(time: Timestamp) -> String {
    time.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// Formats a time of the API: nanoseconds since 1970, as text. Text that is not a
/// valid time is returned as is.
pub(crate) fn ns_time(ns: &str) -> String {
    let time = ns.parse().ok().and_then(|ns: i128| Timestamp::from_nanosecond(ns).ok());
    time.map_or_else(|| safe(ns), local_time)
}

/// Formats the type and the permissions of an entry like `ls -l`.
pub(crate) fn mode(kind: &str, mode: u32) -> String {
    let kind = match kind {
        "file" => '-',
        "dir" => 'd',
        "symlink" => 'l',
        "fifo" => 'p',
        "socket" => 's',
        "char_device" => 'c',
        "block_device" => 'b',
        _ => '?',
    };
    let mut shown = String::from(kind);
    let special = [(0o4000, 's'), (0o2000, 's'), (0o1000, 't')];
    for (class, (special, letter)) in special.into_iter().enumerate() {
        let bits = mode >> (6 - 3 * class);
        shown.push(if bits & 4 == 0 { '-' } else { 'r' });
        shown.push(if bits & 2 == 0 { '-' } else { 'w' });
        shown.push(match (mode & special != 0, bits & 1 != 0) {
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short_and_binary() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (100 << 10, "100 KiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (5_000_000_000, "4.7 GiB"),
            (u64::MAX, "16.0 EiB"),
        ];
        for (bytes, shown) in cases {
            assert_eq!(size(bytes), shown, "{bytes}");
        }
    }

    #[test]
    fn nothing_on_a_screen_is_what_it_does_not_look_like() {
        assert_eq!(safe("plain é 漢\nnext"), "plain é 漢\nnext");
        assert_eq!(safe("\u{1b}[31mred\u{202e}cod\r"), "\\u{1b}[31mred\\u{202e}cod\\u{d}");
        assert_eq!(path(b"a\nb\xff"), "a\\u{a}b\\xff");
        assert_eq!(path(b"/abs\nolute"), "/abs\\nolute");
    }

    #[test]
    fn modes_are_those_of_ls() {
        assert_eq!(mode("file", 0o644), "-rw-r--r--");
        assert_eq!(mode("dir", 0o1777), "drwxrwxrwt");
        assert_eq!(mode("file", 0o4755), "-rwsr-xr-x");
        assert_eq!(mode("symlink", 0o2640), "lrw-r-S---");
    }

    #[test]
    fn a_time_beyond_the_calendar_is_shown_as_it_is() {
        assert_eq!(
            ns_time("170000000000000000000000000000000"),
            "170000000000000000000000000000000"
        );
        assert_eq!(ns_time("0").len(), "1970-01-01 00:00:00".len());
    }
}

//! Cleans text from other machines before it is logged or shown.

use crate::is_unsafe_to_show;

/// Maximum number of characters that are kept.
const CHARS_MAX: usize = 200;

/// Returns the first 200 characters of `text` on one line, followed by `…` if
/// there are more.
///
/// White space at the ends is removed, and becomes blanks within. Characters that [`is_unsafe_to_show`] reports,
/// such as terminal escapes and direction overrides, are removed.
#[must_use]
pub fn printable_line(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.trim().chars();
    for char in chars.by_ref().take(CHARS_MAX) {
        match char {
            char if char.is_whitespace() => out.push(' '),
            char if is_unsafe_to_show(char) => {}
            char => out.push(char),
        }
    }
    if chars.next().is_some() {
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_it_moves_a_cursor() {
        assert_eq!(printable_line(" a\r\nb\x1b[31m\u{202e}c\t"), "a  b[31mc");
        assert_eq!(printable_line(&"x".repeat(1000)).chars().count(), CHARS_MAX + 1);
    }
}

//! Cleans text from other machines before it is logged or shown.
//!
//! Names, error messages and other text from elsewhere may contain characters
//! that control a terminal or hide other text.

/// Maximum number of characters that are kept.
const CHARS_MAX: usize = 200;

/// Returns the first 200 characters of `text` on one line, followed by `…` if
/// there are more.
///
/// White space at the ends is removed; other white space becomes blanks.
/// Characters that [`is_unsafe_to_show`] reports, such as terminal escapes and
/// direction overrides, are removed.
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

/// Reports whether a character could make a text on a screen look like another
/// one: control characters, invisible characters, and those that change the
/// direction of text.
pub fn is_unsafe_to_show(char: char) -> bool {
    char.is_control()
        || matches!(
            char,
            '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{2069}'
                | '\u{feff}'
                | '\u{061c}'
        )
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

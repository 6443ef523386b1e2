//! Texts from elsewhere, made fit for a log, a terminal and a page.

use crate::is_unsafe_to_show;

/// What is kept of a text from elsewhere, in characters.
const CHARS_MAX: usize = 200;

/// The beginning of `text` on one line, at most some 200 characters, with
/// nothing in it that moves a cursor or turns the direction of writing.
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

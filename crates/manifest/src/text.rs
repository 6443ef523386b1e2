//! Texts from elsewhere, made fit for a log, a terminal and a page.

/// What is kept of a text from elsewhere, in characters.
const CHARS_MAX: usize = 200;

/// The beginning of `text` on one line, with nothing in it that moves a
/// cursor or turns the direction of writing.
pub(crate) fn for_people(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.trim().chars();
    for char in chars.by_ref().take(CHARS_MAX) {
        match char {
            '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' => {}
            char if char.is_whitespace() => out.push(' '),
            char if char.is_control() => {}
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
        assert_eq!(for_people(" a\r\nb\x1b[31m\u{202e}c\t"), "a  b[31mc");
        assert_eq!(for_people(&"x".repeat(1000)).chars().count(), CHARS_MAX + 1);
    }
}

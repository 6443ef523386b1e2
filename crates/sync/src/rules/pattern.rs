//! Rewrites a line of an ignore file so that the matcher of the crate `ignore` treats it as git
//! does.
//!
//! The matcher differs from git: it supports `{a,b}`; it does not support `[[:digit:]]`, `\]`
//! in a class, or `***`; its classes match `/`; and it removes more than blanks from the end
//! of a line. A line that cannot be rewritten is refused, and excludes nothing: a backup with
//! too many files is the lesser harm.

use std::fmt::Write as _;

/// The reason why a line is invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PatternError {
    /// The line is not UTF-8.
    #[error("it is not UTF-8")]
    Encoding,
    /// The line contains a NUL byte.
    #[error("it contains a NUL byte")]
    Nul,
    /// The line ends with a backslash that escapes nothing.
    #[error("the backslash at its end escapes nothing")]
    Escape,
    /// The line contains `\/`.
    #[error("a slash cannot be escaped")]
    EscapedSlash,
    /// A class has no end, or contains an unknown name.
    #[error("a `[` has no `]`, or a class contains an unknown name")]
    Class,
    /// A class contains characters beyond ASCII; git would match single bytes of them.
    #[error("a class contains characters beyond ASCII")]
    NotAscii,
    /// The matcher refused the line.
    #[error("it is not a valid pattern")]
    Refused,
}

/// Returns the line for the matcher; `None` if the line contains no pattern.
pub(super) fn rewrite(line: &[u8]) -> Result<Option<String>, PatternError> {
    if line.starts_with(b"#") {
        return Ok(None);
    }
    let line = trimmed(line);
    if line.contains(&0) {
        return Err(PatternError::Nul);
    }
    let line = std::str::from_utf8(line).map_err(|_| PatternError::Encoding)?;
    let (again, line) = match line.strip_prefix('!') {
        Some(rest) => ("!", rest),
        None => ("", line),
    };
    let (line, dirs) = match line.strip_suffix('/') {
        Some(rest) => (rest, "/"),
        None => (line, ""),
    };
    let anchored = line.contains('/');
    let line = line.strip_prefix('/').unwrap_or(line);
    if line.is_empty() {
        return Ok(None);
    }
    let Some(body) = Body::of(line, anchored)? else { return Ok(None) };
    // Without the prefix, the matcher would search for a slash, and find those that were put
    // into classes.
    let place = if anchored { "/" } else { "**/" };
    Ok(Some(format!("{again}{place}{body}{dirs}")))
}

/// Returns the line without the blanks at its end, except for an escaped one.
fn trimmed(line: &[u8]) -> &[u8] {
    let mut end = 0;
    let mut at = 0;
    while at < line.len() {
        let step = if line[at] == b'\\' { 2 } else { 1 };
        // A backslash that escapes nothing: git does not trim such a line.
        if at + step > line.len() {
            return line;
        }
        if line[at] != b' ' {
            end = at + step;
        }
        at += step;
    }
    &line[..end]
}

/// The part of a pattern between the slashes at its ends.
struct Body {
    text: String,
    /// The end of the last `**` in `text`.
    double_star_end: Option<usize>,
}

impl Body {
    /// Returns `None` if the pattern contains an empty name, which matches no path.
    fn of(pattern: &str, anchored: bool) -> Result<Option<String>, PatternError> {
        let mut body =
            Self { text: String::with_capacity(pattern.len() + 8), double_star_end: None };
        let mut rest = pattern.chars();
        let mut last = None;
        let mut is_empty = pattern.starts_with('/') || pattern.ends_with('/');
        while let Some(letter) = rest.next() {
            match letter {
                '*' => {
                    let after = rest.as_str().trim_start_matches('*');
                    let is_long = after.len() < rest.as_str().len();
                    let is_alone = matches!(last, None | Some('/'))
                        && (after.is_empty() || after.starts_with('/'));
                    body.stars(anchored && is_long && is_alone);
                    rest = after.chars();
                }
                '?' => body.text.push('?'),
                '[' => {
                    let (class, after) = class(rest.as_str())?;
                    body.text.push_str(&class);
                    rest = after.chars();
                }
                '\\' => match rest.next() {
                    None => return Err(PatternError::Escape),
                    Some('/') => return Err(PatternError::EscapedSlash),
                    Some(escaped) => body.literal(escaped),
                },
                '/' => {
                    is_empty |= last == Some('/');
                    body.text.push('/');
                }
                letter => body.literal(letter),
            }
            last = Some(letter);
        }
        Ok((!is_empty).then_some(body.text))
    }

    fn stars(&mut self, double: bool) {
        if !double {
            self.text.push('*');
            return;
        }
        // `**/**` is the same as `**`.
        if let Some(end) = self.double_star_end
            && end + 1 == self.text.len()
        {
            self.text.truncate(end);
        } else {
            self.text.push_str("**");
        }
        self.double_star_end = Some(self.text.len());
    }

    fn literal(&mut self, letter: char) {
        match letter {
            '{' | '}' | '[' | ']' | '*' | '?' | '!' | '#' => {
                self.text.push('\\');
                self.text.push(letter);
            }
            // The matcher would remove it from the end of a line. A group with one
            // alternative is the same as that alternative.
            '\\' => self.text.push_str("{\\\\}"),
            letter if letter.is_whitespace() => {
                // Writing to a string cannot fail.
                let _ = write!(self.text, "{{{letter}}}");
            }
            letter => self.text.push(letter),
        }
    }
}

/// Rewrites a class, given the text after its `[`. Also returns the text after the class.
fn class(pattern: &str) -> Result<(String, &str), PatternError> {
    let (negated, mut rest) = match pattern.strip_prefix(['!', '^']) {
        Some(rest) => (true, rest),
        None => (false, pattern),
    };
    let mut members = [false; 128];
    let mut before: Option<u8> = None;
    let mut first = true;
    loop {
        let letter = next_ascii(&mut rest)?;
        match letter {
            b']' if !first => break,
            b'\\' => {
                let escaped = next_ascii(&mut rest)?;
                members[usize::from(escaped)] = true;
                before = Some(escaped);
            }
            b'-' if before.is_some() && !rest.is_empty() && !rest.starts_with(']') => {
                let mut last = next_ascii(&mut rest)?;
                if last == b'\\' {
                    last = next_ascii(&mut rest)?;
                }
                for member in before.unwrap_or(last)..=last {
                    members[usize::from(member)] = true;
                }
                before = None;
            }
            b'[' if rest.starts_with(':') => {
                let end = rest.find(']').ok_or(PatternError::Class)?;
                // A name extends from `[:` to the next `]`; `[:]` is not a name.
                match rest[1..end].strip_suffix(':') {
                    Some(name) => {
                        add_named(&mut members, name)?;
                        rest = &rest[end + 1..];
                        before = None;
                    }
                    None => {
                        members[usize::from(b'[')] = true;
                        before = Some(b'[');
                    }
                }
            }
            letter => {
                members[usize::from(letter)] = true;
                before = Some(letter);
            }
        }
        first = false;
    }
    // A class never matches a slash.
    members[usize::from(b'/')] = negated;
    let mut class = String::from(if negated { "[!" } else { "[" });
    // First a `]`, which would end the class at any other place. Otherwise NUL, which no name
    // contains: the other members would have a special meaning at this place.
    class.push(if members[usize::from(b']')] { ']' } else { '\0' });
    for member in (1..128_u8).filter(|member| members[usize::from(*member)]) {
        if !matches!(member, b']' | b'-') {
            class.push(char::from(member));
        }
    }
    if members[usize::from(b'-')] {
        class.push('-');
    }
    class.push(']');
    Ok((class, rest))
}

fn next_ascii(rest: &mut &str) -> Result<u8, PatternError> {
    let byte = *rest.as_bytes().first().ok_or(PatternError::Class)?;
    if !byte.is_ascii() {
        return Err(PatternError::NotAscii);
    }
    *rest = &rest[1..];
    Ok(byte)
}

fn add_named(members: &mut [bool; 128], name: &str) -> Result<(), PatternError> {
    let is_member: fn(&u8) -> bool = match name {
        "alnum" => u8::is_ascii_alphanumeric,
        "alpha" => u8::is_ascii_alphabetic,
        "blank" => |byte| matches!(byte, b' ' | b'\t'),
        "cntrl" => u8::is_ascii_control,
        "digit" => u8::is_ascii_digit,
        "graph" => u8::is_ascii_graphic,
        "lower" => u8::is_ascii_lowercase,
        "print" => |byte| matches!(byte, b' '..=b'~'),
        "punct" => u8::is_ascii_punctuation,
        // The table of git contains neither vertical tab nor form feed.
        "space" => |byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r'),
        "upper" => u8::is_ascii_uppercase,
        "xdigit" => u8::is_ascii_hexdigit,
        _ => return Err(PatternError::Class),
    };
    for (member, byte) in members.iter_mut().zip(0..) {
        *member |= is_member(&byte);
    }
    Ok(())
}

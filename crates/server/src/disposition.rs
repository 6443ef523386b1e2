//! Parses and writes `Content-Disposition` (RFC 6266).
//!
//! The file name in the header comes from the client that uploads and goes to the
//! client that downloads, so both directions are strict: a parsed name is the
//! plain name of one file, and a written name cannot end the header or the quotes.

use std::fmt::Write as _;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use types::MAX_FILENAME_LEN;

/// The characters that RFC 5987 allows in `filename*` without percent-encoding.
const ATTR_CHAR: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'!')
    .remove(b'#')
    .remove(b'$')
    .remove(b'&')
    .remove(b'+')
    .remove(b'-')
    .remove(b'.')
    .remove(b'^')
    .remove(b'_')
    .remove(b'`')
    .remove(b'|')
    .remove(b'~');

/// Why a header has no usable file name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DispositionError {
    #[error("the Content-Disposition header is malformed")]
    Syntax,
    #[error(
        "the filename is not valid: it must be the name of one file, of 1 to 255 bytes, \
         without `/`, `\\` or control characters, and neither `.` nor `..`"
    )]
    Name,
}

/// Returns the file name in a header, or `None` if it has none.
pub(crate) fn parse(header: &[u8]) -> Result<Option<String>, DispositionError> {
    // Many clients, the SDK of the node API among them, send names as raw UTF-8.
    let text = std::str::from_utf8(header).map_err(|_| DispositionError::Syntax)?;
    let mut parts = Parts { rest: text };
    let _kind = parts.token()?;
    let mut plain = None;
    let mut extended = None;
    while parts.separator()? {
        let name = parts.token()?.to_ascii_lowercase();
        parts.expect('=')?;
        let value = parts.value()?;
        match name.as_str() {
            "filename" => plain = Some(value),
            "filename*" => extended = Some(decode_extended(&value)?),
            _ => {}
        }
    }
    // RFC 6266, 4.3: if both are present, `filename*` is used.
    match extended.or(plain) {
        None => Ok(None),
        Some(name) if is_name(&name) => Ok(Some(name)),
        Some(_) => Err(DispositionError::Name),
    }
}

fn is_name(name: &str) -> bool {
    (1..=MAX_FILENAME_LEN).contains(&name.len())
        && name != "."
        && name != ".."
        && !name.chars().any(|char| char.is_control() || char == '/' || char == '\\')
}

/// `UTF-8'en'%e2%82%ac%20rates`
fn decode_extended(value: &str) -> Result<String, DispositionError> {
    let mut parts = value.splitn(3, '\'');
    let (Some(charset), Some(_), Some(encoded)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(DispositionError::Syntax);
    };
    let bytes = percent_decode_str(encoded);
    match charset.to_ascii_lowercase().as_str() {
        "utf-8" => bytes
            .decode_utf8()
            .map(std::borrow::Cow::into_owned)
            .map_err(|_| DispositionError::Syntax),
        "iso-8859-1" => Ok(bytes.map(char::from).collect()),
        _ => Err(DispositionError::Syntax),
    }
}

struct Parts<'a> {
    rest: &'a str,
}

impl Parts<'_> {
    fn skip_blanks(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t']);
    }

    fn token(&mut self) -> Result<String, DispositionError> {
        self.skip_blanks();
        let is_token =
            |char: char| char.is_ascii_graphic() && !"()<>@,;:\\\"/[]?={}".contains(char);
        let end = self.rest.find(|char| !is_token(char)).unwrap_or(self.rest.len());
        if end == 0 {
            return Err(DispositionError::Syntax);
        }
        let (token, rest) = self.rest.split_at(end);
        self.rest = rest;
        Ok(token.to_owned())
    }

    fn expect(&mut self, wanted: char) -> Result<(), DispositionError> {
        self.skip_blanks();
        self.rest = self.rest.strip_prefix(wanted).ok_or(DispositionError::Syntax)?;
        Ok(())
    }

    /// Reports whether another parameter follows.
    fn separator(&mut self) -> Result<bool, DispositionError> {
        self.skip_blanks();
        if self.rest.is_empty() {
            return Ok(false);
        }
        self.expect(';')?;
        self.skip_blanks();
        Ok(!self.rest.is_empty())
    }

    fn value(&mut self) -> Result<String, DispositionError> {
        self.skip_blanks();
        let Some(quoted) = self.rest.strip_prefix('"') else {
            // A bare value: some clients omit the quotes around names with
            // characters that a token must not have.
            let end = self.rest.find(';').unwrap_or(self.rest.len());
            let (value, rest) = self.rest.split_at(end);
            self.rest = rest;
            return Ok(value.trim_end().to_owned());
        };
        let mut value = String::new();
        let mut chars = quoted.char_indices();
        while let Some((at, char)) = chars.next() {
            match char {
                '"' => {
                    self.rest = &quoted[at + 1..];
                    return Ok(value);
                }
                '\\' => value.push(chars.next().ok_or(DispositionError::Syntax)?.1),
                char => value.push(char),
            }
        }
        Err(DispositionError::Syntax)
    }
}

/// Returns the header of a download with this file name.
pub(crate) fn attachment(filename: Option<&str>) -> String {
    let mut header = String::from("attachment");
    let Some(name) = filename else { return header };
    let is_plain = |char: char| char == ' ' || (char.is_ascii_graphic() && !"\"\\%".contains(char));
    let fallback: String =
        name.chars().map(|char| if is_plain(char) { char } else { '_' }).collect();
    let _ = write!(header, "; filename=\"{fallback}\"");
    if fallback != name {
        let _ = write!(header, "; filename*=UTF-8''{}", utf8_percent_encode(name, ATTR_CHAR));
    }
    header
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(header: &str) -> Result<Option<String>, DispositionError> {
        parse(header.as_bytes())
    }

    #[test]
    fn names_are_read_in_every_form() {
        for (header, expected) in [
            ("attachment; filename=\"a.txt\"", "a.txt"),
            ("attachment; filename=a.txt", "a.txt"),
            ("ATTACHMENT;FileName = \"a b.txt\" ; size=3", "a b.txt"),
            (r#"attachment; filename="say \"hi\".txt""#, "say \"hi\".txt"),
            ("attachment; filename=\"Grüße.txt\"", "Grüße.txt"),
            ("attachment; filename*=UTF-8''%e2%82%ac%20rates", "€ rates"),
            ("attachment; filename=\"eu\"; filename*=utf-8'en'%E2%82%AC", "€"),
            ("attachment; filename*=iso-8859-1''%A3", "£"),
            ("attachment; filename=a b;", "a b"),
            ("attachment; filename=\"semi;colon.txt\"", "semi;colon.txt"),
        ] {
            assert_eq!(name(header), Ok(Some(expected.into())), "{header}");
        }
        for header in ["attachment", "inline;", "attachment; x=y"] {
            assert_eq!(name(header), Ok(None), "{header}");
        }
    }

    #[test]
    fn what_is_no_name_of_one_file_is_refused() {
        for bad in ["", ".", "..", "a/b", "../x", "a\\\\b", "a\tb", &"x".repeat(256)] {
            let header = format!("attachment; filename=\"{bad}\"");
            assert_eq!(name(&header), Err(DispositionError::Name), "{header}");
        }
        for header in [
            "",
            ";",
            "attachment; filename",
            "attachment; filename=\"open",
            "attachment; filename*=UTF-8",
            "attachment; filename*=KOI8-R''x",
            "attachment; filename*=UTF-8''%ff",
        ] {
            assert_eq!(name(header), Err(DispositionError::Syntax), "{header}");
        }
        assert_eq!(
            name("attachment; filename*=UTF-8''..%2Fetc%2Fpasswd"),
            Err(DispositionError::Name)
        );
        assert!(parse(b"attachment; filename=\"\xff\"").is_err());
    }

    #[test]
    fn a_download_cannot_end_the_header() {
        assert_eq!(attachment(None), "attachment");
        assert_eq!(attachment(Some("a b.txt")), "attachment; filename=\"a b.txt\"");
        assert_eq!(
            attachment(Some("x\"; evil=\"1\r\nSet-Cookie: a")),
            "attachment; filename=\"x_; evil=_1__Set-Cookie: a\"; \
             filename*=UTF-8''x%22%3B%20evil%3D%221%0D%0ASet-Cookie%3A%20a"
        );
    }

    proptest! {
        #[test]
        fn every_good_name_survives_the_round_trip(original in "\\PC{1,60}") {
            prop_assume!(is_name(&original));
            let header = attachment(Some(&original));
            prop_assert!(header.bytes().all(|b| (0x20..0x7f).contains(&b)), "{}", header);
            prop_assert_eq!(name(&header), Ok(Some(original)));
        }

    }

    #[test]
    fn fuzz_disposition() {
        let examples = [attachment(Some("a b.txt")), attachment(Some("\u{20ac} \"x\".txt"))];
        fuzzing::target!(&examples, |bytes: &[u8]| {
            if let Ok(Some(found)) = parse(bytes) {
                assert_eq!(name(&attachment(Some(&found))), Ok(Some(found)));
            }
        });
    }
}

//! The notation of bytes on the terminal and in text files.
//!
//! Keys and values may have any bytes; terminals and text files may not. So one notation is used
//! everywhere: on the command line, in the output of `get`, `prefix` and `scan`, and in TSV files.
//!
//! * **Plain text is written as it is.** Text is plain if it is UTF-8, has no control character
//!   (including tab and line feed), and does not start with `b"` or with a byte order mark, which
//!   readers of files skip. Backslashes and quotes have no special meaning, so JSON stays
//!   unchanged.
//! * **Everything else is a byte-string literal**, as Rust and Python write it: `b"` … `"`, holding
//!   printable ASCII and the escapes `\t \n \r \0 \\ \"` and `\xNN` (two hex digits, any case, any
//!   byte).
//!
//! [`show`] writes plain text as it is, and other bytes as a literal; [`parse`] reads both.
//! `parse(show(bytes)) == bytes` for all bytes. Text that starts with `b"` and is not a literal is
//! an error. Outside a literal, bytes that are not UTF-8 are accepted as they are.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::fmt;

use clap::builder::{OsStringValueParser, TypedValueParser, ValueParser};

/// U+FEFF in UTF-8.
pub(crate) const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

const OPENING: &[u8] = b"b\"";

/// The error in a text that starts with `b"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadLiteral {
    /// The position in the text, in bytes.
    at: usize,
    problem: &'static str,
}

impl fmt::Display for BadLiteral {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, problem } = self;
        write!(
            formatter,
            "text that starts with b\" is read as a byte-string literal, and at byte {at} {problem}; \
             the escapes are \\t \\n \\r \\0 \\\\ \\\" \\xNN, and a literal ends with \""
        )
    }
}

/// The bytes as text, if they are plain.
pub(crate) fn plain(bytes: &[u8]) -> Option<&str> {
    if bytes.starts_with(OPENING) || bytes.starts_with(BYTE_ORDER_MARK) {
        return None;
    }
    let text = std::str::from_utf8(bytes).ok()?;
    let printable_ascii = bytes.iter().all(|byte| (b' '..=b'~').contains(byte));
    (printable_ascii || !text.chars().any(char::is_control)).then_some(text)
}

/// Writes bytes in the notation above.
pub(crate) fn show(bytes: &[u8]) -> Cow<'_, str> {
    plain(bytes).map_or_else(|| Cow::Owned(literal(bytes)), Cow::Borrowed)
}

/// A key within a sentence; visible also if it is empty.
pub(crate) fn named(key: &[u8]) -> Cow<'_, str> {
    if key.is_empty() { Cow::Owned(literal(key)) } else { show(key) }
}

/// Bytes as a literal, even if they are plain.
pub(crate) fn literal(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() + 16);
    text.push_str("b\"");
    for &byte in bytes {
        match byte {
            b'\t' => text.push_str("\\t"),
            b'\n' => text.push_str("\\n"),
            b'\r' => text.push_str("\\r"),
            0 => text.push_str("\\0"),
            b'\\' => text.push_str("\\\\"),
            b'"' => text.push_str("\\\""),
            b' '..=b'~' => text.push(char::from(byte)),
            _ => {
                text.push_str("\\x");
                text.push(hex_digit(byte >> 4));
                text.push(hex_digit(byte & 0xf));
            }
        }
    }
    text.push('"');
    text
}

fn hex_digit(nibble: u8) -> char {
    char::from(if nibble < 10 { b'0' + nibble } else { b'a' + (nibble - 10) })
}

/// Reads text in the notation above.
pub(crate) fn parse(text: &[u8]) -> Result<Cow<'_, [u8]>, BadLiteral> {
    match text.strip_prefix(OPENING) {
        None => Ok(Cow::Borrowed(text)),
        Some(body) => parse_body(body).map(Cow::Owned).map_err(|bad| BadLiteral { at: bad.at + OPENING.len(), ..bad }),
    }
}

/// Reads the rest after `b"`, which must end with the closing quote.
fn parse_body(body: &[u8]) -> Result<Vec<u8>, BadLiteral> {
    let mut bytes = Vec::with_capacity(body.len());
    let mut at = 0;
    loop {
        let bad = |problem| BadLiteral { at, problem };
        match body.get(at..).unwrap_or_default() {
            [] => return Err(bad("the closing quote is missing")),
            [b'"'] => return Ok(bytes),
            [b'"', ..] => return Err(bad("something follows the closing quote")),
            [b'\\', escape @ ..] => {
                let (byte, len) = parse_escape(escape).ok_or_else(|| bad("the escape is unknown"))?;
                bytes.push(byte);
                at += 1 + len;
            }
            [byte @ b' '..=b'~', ..] => {
                bytes.push(*byte);
                at += 1;
            }
            _ => return Err(bad("a byte must be written as \\xNN")),
        }
    }
}

/// The byte of an escape, and the length of the escape without its backslash.
fn parse_escape(escape: &[u8]) -> Option<(u8, usize)> {
    let byte = match escape {
        [b't', ..] => b'\t',
        [b'n', ..] => b'\n',
        [b'r', ..] => b'\r',
        [b'0', ..] => 0,
        [b'\\', ..] => b'\\',
        [b'"', ..] => b'"',
        [b'x', high, low, ..] => return Some((hex_value(*high)? << 4 | hex_value(*low)?, 3)),
        _ => return None,
    };
    Some((byte, 1))
}

fn hex_value(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// Bytes from an argument in the tool's notation.
#[derive(Clone, Debug)]
pub(crate) struct Text(pub(crate) Vec<u8>);

impl Text {
    pub(crate) fn parser() -> ValueParser {
        ValueParser::new(OsStringValueParser::new().try_map(|argument| Self::of(&argument)))
    }

    fn of(argument: &OsStr) -> Result<Self, String> {
        parse(argument.as_encoded_bytes()).map(|bytes| Self(bytes.into_owned())).map_err(|bad| bad.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::{parse, plain, show};
    use proptest::prelude::*;

    #[test]
    fn ordinary_text_stands_for_itself() {
        for text in ["", "pkg/admin/9mount", r#"{"summary":"\"secure\" \\ world"}"#, "Málaga", "b'x'", "\\section"] {
            assert_eq!(show(text.as_bytes()), text);
            assert_eq!(parse(text.as_bytes()).unwrap(), text.as_bytes());
        }
    }

    #[test]
    fn everything_else_is_a_literal() {
        for (bytes, text) in [
            (&b"a\tb"[..], r#"b"a\tb""#),
            (b"\xff\x00\n", r#"b"\xff\0\n""#),
            (b"b\"", r#"b"b\"""#),
            (b"\x1b[31m", r#"b"\x1b[31m""#),
            ("\u{9b}".as_bytes(), r#"b"\xc2\x9b""#),
        ] {
            assert_eq!(show(bytes), text);
            assert_eq!(parse(text.as_bytes()).unwrap(), bytes);
        }
        assert_eq!(parse(br#"b"\xFf""#).unwrap(), &b"\xff"[..]);
    }

    #[test]
    fn half_a_literal_is_an_error_that_says_where() {
        for (text, at) in [
            (&br#"b""#[..], 2),
            (br#"b"ab"#, 4),
            (br#"b"a"b"#, 3),
            (br#"b"a\q""#, 3),
            (br#"b"\x1""#, 2),
            (br#"b"\xg0""#, 2),
            (b"b\"\xff\"", 2),
            (b"b\"a\\", 3),
        ] {
            assert_eq!(parse(text).unwrap_err().at, at, "{}", text.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let text = show(&bytes).into_owned();
            prop_assert_eq!(&*parse(text.as_bytes()).unwrap(), &bytes[..]);
            prop_assert!(!text.chars().any(char::is_control));
        }

        #[test]
        fn text_reads_back_and_is_plain_or_has_a_reason(text in "(b\")?[\\PC\t\n\"\\\\]{0,12}") {
            let shown = show(text.as_bytes()).into_owned();
            prop_assert_eq!(&*parse(shown.as_bytes()).unwrap(), text.as_bytes());
            let odd = text.starts_with("b\"") || text.contains(['\t', '\n']);
            prop_assert_eq!(plain(text.as_bytes()).is_none(), odd);
        }

        #[test]
        fn no_text_makes_it_panic(text in prop::collection::vec(any::<u8>(), 0..32)) {
            let _ = parse(&text);
            let _ = parse(&[b"b\"".as_slice(), &text].concat());
        }
    }
}

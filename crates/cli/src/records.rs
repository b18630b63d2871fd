//! Records as lines of text: the input of `import`, and the output of `export`, `prefix` and
//! `scan`.
//!
//! **TSV**: key, one tab, value, in the common [notation]. Neither field can contain a raw tab or
//! line feed, so a line has exactly one tab.
//!
//! **JSON Lines**: `{"key":K,"value":V}`, where `K` and `V` are a string if the bytes are UTF-8,
//! else `{"base64":"…"}` (RFC 4648, with padding). Both members are required, and others are
//! refused.
//!
//! Both formats preserve keys and values byte for byte. Empty lines are skipped.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, Write};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::ValueEnum;
use hightower_kv::limits;
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::notation;

/// The format of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// key, a tab, value; bytes that are not plain text as b"..."
    Tsv,
    /// one JSON object per line: {"key": "...", "value": "..."}; bytes that are not UTF-8 as
    /// {"base64": "..."}
    Jsonl,
}

impl Format {
    /// The format by a file's name: JSON Lines for `.jsonl`, `.ndjson` and `.json`, otherwise TSV.
    pub(crate) fn of_name(path: &Path) -> Self {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("jsonl" | "ndjson" | "json") => Self::Jsonl,
            _ => Self::Tsv,
        }
    }

    /// Reads one line, which must not be empty.
    pub(crate) fn parse(self, line: &[u8]) -> Result<Record<'_>, String> {
        match self {
            Self::Tsv => parse_tsv(line),
            Self::Jsonl => serde_json::from_slice(line).map_err(|error| explain_json(&error)),
        }
    }

    /// Writes one line.
    pub(crate) fn write(self, out: &mut dyn Write, key: &[u8], value: &[u8]) -> io::Result<()> {
        match self {
            Self::Tsv => {
                out.write_all(notation::show(key).as_bytes())?;
                out.write_all(b"\t")?;
                out.write_all(notation::show(value).as_bytes())?;
            }
            Self::Jsonl => {
                let record = Record { key: Cow::Borrowed(key), value: Cow::Borrowed(value) };
                serde_json::to_writer(&mut *out, &record)?;
            }
        }
        out.write_all(b"\n")
    }

    /// Writes one line with the key alone: a bare key, or in JSON Lines `{"key":K}`.
    pub(crate) fn write_key(self, out: &mut dyn Write, key: &[u8]) -> io::Result<()> {
        match self {
            Self::Tsv => out.write_all(notation::show(key).as_bytes())?,
            Self::Jsonl => serde_json::to_writer(&mut *out, &KeyLine { key: Bytes(key.into()) })?,
        }
        out.write_all(b"\n")
    }
}

#[derive(serde::Serialize)]
struct KeyLine<'a> {
    key: Bytes<'a>,
}

/// One key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record<'a> {
    pub(crate) key: Cow<'a, [u8]>,
    pub(crate) value: Cow<'a, [u8]>,
}

/// Whether the store accepts a key and a value of these lengths.
pub(crate) fn check_limits(key: &[u8], value: &[u8]) -> Result<(), String> {
    let (longest_key, longest_value) = (limits::MAX_KEY_LEN_BYTES, limits::MAX_VALUE_LEN_BYTES);
    if key.is_empty() || key.len() > longest_key {
        return Err(format!("the key has {} bytes: it must have 1 to {longest_key}", key.len()));
    }
    if value.len() > longest_value {
        return Err(format!("the value is longer than {longest_value} bytes"));
    }
    Ok(())
}

fn parse_tsv(line: &[u8]) -> Result<Record<'_>, String> {
    let mut fields = line.split(|byte| *byte == b'\t');
    let (Some(key), Some(value), None) = (fields.next(), fields.next(), fields.next()) else {
        let tabs = line.iter().filter(|byte| **byte == b'\t').count();
        return Err(format!(
            "{tabs} tabs instead of the one between key and value (a tab within a key or value is written b\"\\t\")"
        ));
    };
    let field = |name, text| notation::parse(text).map_err(|bad| format!("{name}: {bad}"));
    Ok(Record { key: field("key", key)?, value: field("value", value)? })
}

/// The parser's message without its line number, which is always 1.
fn explain_json(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let words = text.rsplit_once(" at line ").map_or(&text[..], |(words, _)| words);
    format!("{words}, at column {}; expected {{\"key\":\"...\",\"value\":\"...\"}}", error.column())
}

/// Bytes in JSON: a string if they are UTF-8, else `{"base64":"…"}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bytes<'a>(pub(crate) Cow<'a, [u8]>);

impl<'a> Bytes<'a> {
    pub(crate) fn of(bytes: &'a [u8]) -> Self {
        Self(Cow::Borrowed(bytes))
    }
}

impl Serialize for Bytes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if let Ok(text) = std::str::from_utf8(&self.0) {
            return serializer.serialize_str(text);
        }
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry("base64", &STANDARD.encode(&self.0))?;
        map.end()
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Bytes<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(BytesVisitor)
    }
}

struct BytesVisitor;

impl<'de> Visitor<'de> for BytesVisitor {
    type Value = Bytes<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a string or {\"base64\":\"...\"}")
    }

    fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Bytes(Cow::Borrowed(text.as_bytes())))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Bytes(Cow::Owned(text.as_bytes().to_vec())))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let member = map.next_entry::<Cow<'_, str>, Cow<'_, str>>()?;
        let Some(text) = member.and_then(|(name, text)| (name == "base64").then_some(text)) else {
            return Err(de::Error::custom("bytes are a string or {\"base64\":\"...\"}"));
        };
        let bytes = STANDARD.decode(&*text).map_err(|bad| de::Error::custom(format!("base64: {bad}")))?;
        match map.next_key::<de::IgnoredAny>()? {
            None => Ok(Bytes(Cow::Owned(bytes))),
            Some(_) => Err(de::Error::custom("\"base64\" must be the only member")),
        }
    }
}

impl Serialize for Record<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("key", &Bytes::of(&self.key))?;
        map.serialize_entry("value", &Bytes::of(&self.value))?;
        map.end()
    }
}

/// A record in JSON.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct RecordLine<'a> {
    #[serde(borrow)]
    key: Bytes<'a>,
    #[serde(borrow)]
    value: Bytes<'a>,
}

impl<'de: 'a, 'a> Deserialize<'de> for Record<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let RecordLine { key, value } = RecordLine::deserialize(deserializer)?;
        Ok(Self { key: key.0, value: value.0 })
    }
}

#[cfg(test)]
mod tests {
    use super::Format;
    use proptest::prelude::*;
    use std::path::Path;

    fn line(format: Format, key: &[u8], value: &[u8]) -> Vec<u8> {
        let mut line = Vec::new();
        format.write(&mut line, key, value).unwrap();
        line
    }

    #[test]
    fn the_forms_are_as_documented() {
        assert_eq!(line(Format::Tsv, b"k", b"v"), b"k\tv\n");
        assert_eq!(line(Format::Tsv, b"k\xff", b"a\tb"), b"b\"k\\xff\"\tb\"a\\tb\"\n");
        assert_eq!(line(Format::Jsonl, b"k", "é".as_bytes()), "{\"key\":\"k\",\"value\":\"é\"}\n".as_bytes());
        assert_eq!(line(Format::Jsonl, b"k", b"\xff"), b"{\"key\":\"k\",\"value\":{\"base64\":\"/w==\"}}\n");
    }

    #[test]
    fn json_strings_may_use_any_escape() {
        let record = Format::Jsonl.parse(br#"{"value":"a\nb","key":"\u00e9"}"#).unwrap();
        assert_eq!((&*record.key, &*record.value), ("é".as_bytes(), &b"a\nb"[..]));
    }

    #[test]
    fn malformed_lines_say_what_is_wrong() {
        for (format, line, words) in [
            (Format::Tsv, &b"no tab"[..], "0 tabs"),
            (Format::Tsv, b"a\tb\tc", "2 tabs"),
            (Format::Tsv, b"a\tb\"", "value: text that starts with b\""),
            (Format::Jsonl, b"{\"key\":\"a\"}", "missing field `value`"),
            (Format::Jsonl, b"{\"key\":\"a\",\"value\":\"b\",\"x\":1}", "unknown field `x`"),
            (Format::Jsonl, b"{\"key\":\"a\",\"value\":1}", "invalid type"),
            (Format::Jsonl, b"{\"key\":\"a\",\"value\":{\"base64\":\"*\"}}", "base64:"),
            (Format::Jsonl, b"{\"key\":\"a\",\"value\":{\"base64\":\"\",\"x\":1}}", "the only member"),
            (Format::Jsonl, b"{\"key\":\"a\",\"value\":{}}", "bytes are a string or"),
            (Format::Jsonl, b"{\"key\":\"\\ud800\",\"value\":\"\"}", "column"),
            (Format::Jsonl, b"[1]", "expected"),
        ] {
            let message = format.parse(line).unwrap_err();
            assert!(message.contains(words), "{message:?} should contain {words:?}");
        }
    }

    #[test]
    fn the_name_tells_the_format() {
        assert_eq!(Format::of_name(Path::new("a.jsonl")), Format::Jsonl);
        assert_eq!(Format::of_name(Path::new("a.tsv")), Format::Tsv);
        assert_eq!(Format::of_name(Path::new("-")), Format::Tsv);
    }

    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            prop::collection::vec(any::<u8>(), 0..40),
            "(b\")?[\\PC\t\r\n\0\"\\\\]{0,12}".prop_map(String::into_bytes),
            Just(b"b\"".to_vec()),
        ]
    }

    proptest! {
        #[test]
        fn every_record_comes_back(key in bytes(), value in bytes(), format in prop_oneof![Just(Format::Tsv), Just(Format::Jsonl)]) {
            let line = line(format, &key, &value);
            let (end, text) = line.split_last().unwrap();
            prop_assert_eq!(*end, b'\n');
            prop_assert!(!text.contains(&b'\n'));
            prop_assert!(!text.ends_with(b"\r"));
            let record = format.parse(text).unwrap();
            prop_assert_eq!((&*record.key, &*record.value), (&key[..], &value[..]));
        }

        #[test]
        fn plain_lines_are_their_own_export(key in "[ -a]{1,9}", value in "[ -~]{0,30}") {
            prop_assume!(!key.starts_with("b\"") && !value.starts_with("b\""));
            let text = format!("{key}\t{value}\n");
            let record = Format::Tsv.parse(text.trim_end_matches('\n').as_bytes()).unwrap();
            prop_assert_eq!(line(Format::Tsv, &record.key, &record.value), text.into_bytes());
        }

        #[test]
        fn no_line_makes_it_panic(text in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = Format::Tsv.parse(&text);
            let _ = Format::Jsonl.parse(&text);
        }
    }
}

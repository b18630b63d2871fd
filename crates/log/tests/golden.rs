//! The format, pinned: the same commands must give the bytes in `tests/golden/records.txt`, byte
//! for byte.
//!
//! These lines are a promise to every existing store. Regenerate them only after raising the format
//! version: `HIGHTOWER_REGENERATE_GOLDEN=1 cargo test -p hightower-log --test golden`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking, and may say what it did"
)]

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use hightower_log::{
    CommandRef, DecodeError, FORMAT_VERSION, Placement, RecordBody, RecordContext, SegmentHeader, SegmentKind, decode,
    encode, encode_seal, probe,
};

const APPENDED: Placement = Placement::Appended { durable: 64, continues: false };
const CONTINUES: Placement = Placement::Appended { durable: 0, continues: true };

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/records.txt")
}

fn header(kind: SegmentKind) -> SegmentHeader {
    SegmentHeader {
        id: 3,
        kind,
        features: 0,
        salt: 0x0123_4567_89ab_cdef,
        base_seq: 1_000,
        base_version: 5_000,
        base_timestamp: 1_700_000_000_000,
        created_ms: 1_700_000_000_456,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn commands() -> Vec<(&'static str, u32, Placement, CommandRef<'static>)> {
    static LONG_KEY: [u8; 300] = [b'k'; 300];
    static LONG_VALUE: [u8; 70_000] = [b'v'; 70_000];
    let now = 1_700_000_000_123;
    vec![
        ("set", 64, APPENDED, CommandRef::Set { key: b"key", value: b"value", version: 5_001, timestamp: now }),
        ("set-empty-value", 64, APPENDED, CommandRef::Set { key: b"key", value: b"", version: 5_001, timestamp: now }),
        ("set-continues", 200, CONTINUES, CommandRef::Set { key: b"a", value: b"b", version: 6_000, timestamp: now }),
        (
            "set-relocated",
            64,
            Placement::Relocated,
            CommandRef::Set { key: b"key", value: b"value", version: 5_001, timestamp: now },
        ),
        ("set-below-base", 90, APPENDED, CommandRef::Set { key: b"key", value: b"v", version: 4_999, timestamp: -1 }),
        (
            "set-extremes",
            4_000_000_000,
            APPENDED,
            CommandRef::Set { key: &[0, 255], value: &[0], version: u64::MAX, timestamp: i64::MIN },
        ),
        ("set-long-key", 64, APPENDED, CommandRef::Set { key: &LONG_KEY, value: b"v", version: 5_000, timestamp: now }),
        (
            "set-long-value",
            64,
            APPENDED,
            CommandRef::Set { key: b"key", value: &LONG_VALUE, version: 5_000, timestamp: now },
        ),
        ("delete", 97, APPENDED, CommandRef::Delete { key: b"key", version: 5_002, timestamp: now }),
        (
            "delete-relocated",
            97,
            Placement::Relocated,
            CommandRef::Delete { key: b"key", version: 5_002, timestamp: now },
        ),
    ]
}

/// All golden lines: a name and the bytes in hex. A long record has its head and a digest of the
/// rest.
fn lines() -> String {
    let mut text = String::new();
    for (name, kind) in [("header-append", SegmentKind::Append), ("header-compacted", SegmentKind::Compacted)] {
        writeln!(text, "{name} {}", hex(&header(kind).encode())).unwrap();
    }
    let context = header(SegmentKind::Append).context();
    for (name, offset, placement, command) in commands() {
        let mut bytes = Vec::new();
        encode(&mut bytes, &context, offset, &command, placement).unwrap();
        let shown = bytes.len().min(400);
        writeln!(text, "{name} @{offset} len={} {}", bytes.len(), hex(&bytes[..shown])).unwrap();
    }
    let seal = encode_seal(&context, 500, 64, 7_777, 1_700_000_000_500).unwrap();
    writeln!(text, "seal @500 len={} {}", seal.as_ref().len(), hex(seal.as_ref())).unwrap();
    text
}

/// The bytes of a name in the golden file.
fn golden(name: &str) -> Vec<u8> {
    let text = fs::read_to_string(path()).unwrap();
    let line = text.lines().find(|line| line.split(' ').next() == Some(name)).unwrap();
    let mut bytes = unhex(line.rsplit(' ').next().unwrap());
    // The rest of a long record is its value, which the file does not contain.
    if let Some(len) = line.split("len=").nth(1) {
        bytes.resize(len.split(' ').next().unwrap().parse().unwrap(), b'v');
    }
    bytes
}

#[test]
fn encodings_are_the_golden_ones() {
    if std::env::var_os("HIGHTOWER_REGENERATE_GOLDEN").is_some() {
        fs::write(path(), lines()).unwrap();
    }
    let golden = fs::read_to_string(path()).unwrap();
    for (golden, now) in golden.lines().zip(lines().lines()) {
        assert_eq!(golden, now);
    }
    assert_eq!(golden, lines());
}

#[test]
fn golden_bytes_decode_to_their_commands() {
    let context = header(SegmentKind::Append).context();
    for (name, offset, placement, command) in commands() {
        let bytes = golden(name);
        let record = decode(&bytes, &context, offset).unwrap();
        assert_eq!(record.body, RecordBody::Command(command), "{name}");
        assert_eq!(record.placement, placement, "{name}");
        assert_eq!(probe(&bytes, &context, offset).is_some(), placement != Placement::Relocated, "{name}");
    }
    let sealed = RecordBody::Seal { max_version: 7_777, timestamp: 1_700_000_000_500 };
    assert_eq!(decode(&golden("seal"), &context, 500).unwrap().body, sealed);
    for (name, kind) in [("header-append", SegmentKind::Append), ("header-compacted", SegmentKind::Compacted)] {
        assert_eq!(SegmentHeader::decode(&golden(name)), Ok(header(kind)), "{name}");
    }
}

#[test]
fn another_version_is_refused() {
    let mut bytes = golden("header-append");
    for version in [0, FORMAT_VERSION + 1] {
        bytes[8..10].copy_from_slice(&version.to_le_bytes());
        let check = crc32fast::hash(&bytes[..60]);
        bytes[60..].copy_from_slice(&check.to_le_bytes());
        let refused = DecodeError::UnsupportedVersion { found: version, supported: FORMAT_VERSION };
        assert_eq!(SegmentHeader::decode(&bytes), Err(refused));
    }
}

#[test]
fn a_put_of_a_16_byte_key_costs_at_most_32_bytes() {
    let command =
        CommandRef::Set { key: &[b'k'; 16], value: &[b'v'; 100], version: 4_000_000_000, timestamp: 90 * 86_400_000 };
    let mut bytes = Vec::new();
    let cost = encode(&mut bytes, &RecordContext::new(1, 0, 0), 64, &command, APPENDED).unwrap() - 116;
    assert!(cost <= 32, "{cost}");

    // The cost of the common case: up to 16 M versions and four hours from the segment's start.
    let command = CommandRef::Set { key: &[b'k'; 16], value: &[b'v'; 100], version: 1 << 23, timestamp: 1 << 23 };
    let cost = encode(&mut bytes, &RecordContext::new(1, 0, 0), 64, &command, APPENDED).unwrap() - 116;
    assert_eq!(cost, 20);
    let cost = encode(&mut bytes, &RecordContext::new(1, 0, 0), 64, &command, Placement::Relocated).unwrap() - 116;
    assert_eq!(cost, 14);
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.chars().map(|digit| u8::try_from(digit.to_digit(16).unwrap()).unwrap()).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

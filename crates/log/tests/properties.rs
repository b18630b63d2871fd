//! Properties of every record: one encoding, no other decoding, no panic.
//!
//! `HIGHTOWER_TEST_CASES` sets the number of cases per property (default 256).

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking, and may say what it did"
)]

use hightower_log::limits::{MAX_KEY_LEN_BYTES, MAX_VALUE_LEN_BYTES};
use hightower_log::{
    Command, CommandRef, DecodeError, EncodeError, FORMAT_VERSION, Placement, RecordBody, RecordContext, SegmentHeader,
    SegmentKind, SetValue, decode, decode_value, encode, encode_seal, encoded_len, probe,
};
use proptest::collection::vec;
use proptest::prelude::*;

fn config() -> ProptestConfig {
    let cases = std::env::var("HIGHTOWER_TEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(256);
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![vec(any::<u8>(), 1..40), vec(any::<u8>(), 250..260), Just(vec![0xff; MAX_KEY_LEN_BYTES])]
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        vec(any::<u8>(), 0..200),
        vec(any::<u8>(), 250..260),
        (65_530_usize..65_540).prop_map(|len_bytes| vec![0; len_bytes])
    ]
}

/// Numbers near the places where their width changes, and any other.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        (0_u32..64, 0_u64..3).prop_map(|(bit, add)| (1_u64 << bit).wrapping_add(add).wrapping_sub(1))
    ]
}

fn timestamp() -> impl Strategy<Value = i64> {
    number().prop_map(u64::cast_signed)
}

fn command() -> impl Strategy<Value = Command> {
    (key(), proptest::option::of(value()), number(), timestamp()).prop_map(|(key, value, version, timestamp)| {
        match value {
            Some(value) => Command::Set { key, value, version, timestamp },
            None => Command::Delete { key, version, timestamp },
        }
    })
}

fn context() -> impl Strategy<Value = RecordContext> {
    (any::<u64>(), number(), timestamp())
        .prop_map(|(salt, version, timestamp)| RecordContext::new(salt, version, timestamp))
}

/// An offset, and a placement that is possible there.
fn place() -> impl Strategy<Value = (u32, Placement)> {
    let appended =
        (64_u32..1 << 30, any::<prop::sample::Index>(), any::<bool>()).prop_map(|(offset, durable, continues)| {
            let durable = u32::try_from(durable.index(offset as usize + 1)).unwrap();
            (offset, Placement::Appended { durable, continues })
        });
    prop_oneof![3 => appended, 1 => (64_u32..1 << 30).prop_map(|offset| (offset, Placement::Relocated))]
}

/// A record in a segment, with its command and place.
fn record() -> impl Strategy<Value = (Command, RecordContext, u32, Placement, Vec<u8>)> {
    (command(), context(), place()).prop_map(|(command, context, (offset, placement))| {
        let mut bytes = Vec::new();
        encode(&mut bytes, &context, offset, &command.borrow(), placement).unwrap();
        (command, context, offset, placement, bytes)
    })
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn decoding_gives_the_command_back((command, context, offset, placement, mut bytes) in record(), behind in vec(any::<u8>(), 0..20)) {
        let len = bytes.len();
        prop_assert_eq!(encoded_len(&context, &command.borrow(), placement).unwrap(), len);
        bytes.extend(behind);
        let record = decode(&bytes, &context, offset).unwrap();
        prop_assert_eq!(record.body, RecordBody::Command(command.borrow()));
        prop_assert_eq!(record.placement, placement);
        prop_assert_eq!(record.len as usize, len);
        match (placement, probe(&bytes, &context, offset)) {
            (Placement::Relocated, found) => prop_assert_eq!(found, None),
            (Placement::Appended { durable, continues }, Some(found)) => {
                prop_assert_eq!((found.durable, found.continues, found.len), (durable, continues, len as u64));
            }
            (Placement::Appended { .. }, None) => prop_assert!(false, "not found by its head"),
        }
    }

    #[test]
    fn the_short_way_to_a_value_agrees_with_the_long_one(
        (_, context, offset, _, mut bytes) in record(), behind in vec(any::<u8>(), 0..40),
        flips in vec((any::<prop::sample::Index>(), 0_u32..8), 0..2),
    ) {
        bytes.extend(behind);
        for (at, bit) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= 1_u8 << bit;
        }
        let long = decode(&bytes, &context, offset).map(|record| match record.body {
            RecordBody::Command(CommandRef::Set { value, version, .. }) => Some(SetValue { value, version }),
            RecordBody::Command(CommandRef::Delete { .. }) | RecordBody::Seal { .. } => None,
        });
        prop_assert_eq!(decode_value(&bytes, &context, offset), long);
    }

    #[test]
    fn a_flipped_bit_is_an_error((_, context, offset, _, mut bytes) in record(), at in any::<prop::sample::Index>(), bit in 0_u32..8) {
        let at = at.index(bytes.len());
        bytes[at] ^= 1_u8 << bit;
        prop_assert!(decode(&bytes, &context, offset).is_err());
    }

    #[test]
    fn a_flipped_bit_in_the_head_is_an_error((_, context, offset, _, mut bytes) in record(), at in 0_usize..34, bit in 0_u32..8) {
        let at = at.min(bytes.len() - 1);
        bytes[at] ^= 1_u8 << bit;
        prop_assert!(decode(&bytes, &context, offset).is_err());
    }

    #[test]
    fn a_cut_record_is_an_error((_, context, offset, _, bytes) in record(), at in any::<prop::sample::Index>()) {
        let cut = &bytes[..at.index(bytes.len())];
        let is_truncated = matches!(decode(cut, &context, offset), Err(DecodeError::Truncated { .. }));
        prop_assert!(is_truncated);
    }

    #[test]
    fn a_record_counts_only_in_its_place((_, context, offset, _, bytes) in record(), other in any::<u32>(), salt in any::<u64>()) {
        prop_assume!(other != offset);
        prop_assert!(decode(&bytes, &context, other).is_err());
        let elsewhere = RecordContext::new(salt, 0, 0);
        prop_assert!(decode(&bytes, &elsewhere, offset).is_err());
    }

    #[test]
    fn a_record_with_other_bytes_is_an_error(
        (_, context, offset, _, bytes) in record(),
        edits in vec((prop_oneof![0_usize..34, any::<usize>()], any::<u8>()), 1..6),
        more in vec(any::<u8>(), 0..40),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        // Most edits hit the head, with the kind, the widths and the lengths. The next property
        // corrects the checks.
        let mut mutated = bytes.clone();
        for (at, byte) in edits {
            let at = at % mutated.len();
            mutated[at] = byte;
        }
        prop_assume!(mutated != bytes);
        mutated.extend(more);
        mutated.truncate(cut.map_or(mutated.len(), |cut| cut.index(mutated.len())));
        let _ = probe(&mutated, &context, offset);
        prop_assert!(decode(&mutated, &context, offset).is_err());
        prop_assert!(decode_value(&mutated, &context, offset).is_err());
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in vec(any::<u8>(), 0..200)) {
        prop_assert!(SegmentHeader::decode(&bytes).is_err());
    }

    #[test]
    fn what_decodes_encodes_to_the_same_bytes(
        tag in 0_u8..=255, widths in any::<u8>(), rest in vec(any::<u8>(), 40..80), context in context(), offset in 100_u32..1_000
    ) {
        // Bytes with corrected checks: the strictest test that each command has one encoding.
        let bytes = with_checks_mended(tag, widths, rest, &context, offset);
        if let Ok(record) = decode(&bytes, &context, offset) {
            let again = match record.body {
                RecordBody::Command(command) => {
                    let mut again = Vec::new();
                    encode(&mut again, &context, offset, &command, record.placement).unwrap();
                    again
                }
                RecordBody::Seal { max_version, timestamp } => {
                    let durable = record.durable().unwrap();
                    encode_seal(&context, offset, durable, max_version, timestamp).unwrap().as_ref().to_vec()
                }
            };
            prop_assert_eq!(&again[..], &bytes[..record.len as usize]);
        }
    }

    /// A compaction of one segment needs no more bytes than that segment has: its output has the
    /// same bases.
    #[test]
    fn a_relocated_record_is_not_longer_under_the_same_bases(
        base_version in edge_u64(), base_timestamp in edge_u64(), version in edge_u64(), timestamp in edge_u64(),
        key_len in 1_usize..600, value_len in prop::option::of(0_usize..70_000),
    ) {
        let (key, value) = (vec![b'k'; key_len], vec![b'v'; value_len.unwrap_or(0)]);
        let timestamp = timestamp.cast_signed();
        let command = match value_len {
            Some(_) => CommandRef::Set { key: &key, value: &value, version, timestamp },
            None => CommandRef::Delete { key: &key, version, timestamp },
        };
        let context = |salt| RecordContext::new(salt, base_version, base_timestamp.cast_signed());
        let len = |salt, placement| encoded_len(&context(salt), &command, placement).unwrap();
        let appended = len(1, Placement::Appended { durable: 64, continues: false });
        prop_assert_eq!(len(2, Placement::Relocated), appended - 6);
        prop_assert_eq!(len(3, Placement::Relocated), len(2, Placement::Relocated));
        let mut bytes = Vec::new();
        encode(&mut bytes, &context(2), 4096, &command, Placement::Relocated).unwrap();
        prop_assert_eq!(bytes.len(), appended - 6);
    }

    #[test]
    fn a_flipped_bit_in_a_header_is_an_error(id in any::<u32>(), salt in any::<u64>(), seq in any::<u64>(), at in 0_usize..64, bit in 0_u32..8) {
        let header = SegmentHeader { id, kind: SegmentKind::Append, features: 0, salt, base_seq: seq, base_version: seq, base_timestamp: -1, created_ms: -2 };
        let mut bytes = header.encode();
        prop_assert_eq!(SegmentHeader::decode(&bytes), Ok(header));
        bytes[at] ^= 1_u8 << bit;
        prop_assert!(SegmentHeader::decode(&bytes).is_err());
    }
}

/// Any number, most often one where a difference wraps or changes its width.
fn edge_u64() -> impl Strategy<Value = u64> {
    let edges = [0, 1, 255, 256, 1_700_000_000_000, i64::MAX.cast_unsigned(), i64::MIN.cast_unsigned(), u64::MAX];
    prop_oneof![prop::sample::select(edges.to_vec()), any::<u64>()]
}

/// A record-like string of bytes with both checks corrected from the errors.
fn with_checks_mended(tag: u8, widths: u8, rest: Vec<u8>, context: &RecordContext, offset: u32) -> Vec<u8> {
    let mut bytes = vec![0, 0, 0, 0, tag, widths];
    bytes.extend(rest);
    let long_key = usize::from(tag & 0x40 != 0);
    // Short lengths, so that the record fits the bytes.
    if long_key == 0 {
        bytes[6] %= 12;
    }
    let value_width = if tag & 0x0f == 1 { usize::from(widths & 3) + 1 } else { 0 };
    let value_at = 7 + long_key;
    bytes[value_at..value_at + value_width].fill(0);
    if value_width == 1 {
        bytes[value_at] = 5;
    }
    let fields_end = value_at + value_width + usize::from(widths >> 2 & 7) + 1 + usize::from(widths >> 5) + 1;
    bytes[fields_end..fields_end + 4].copy_from_slice(&64_u32.to_le_bytes());
    for _ in 0..2 {
        match decode(&bytes, context, offset) {
            Err(DecodeError::Checksum { expected, .. }) if expected <= 0xffff && tag & 0x20 == 0 => {
                bytes[fields_end + 4..fields_end + 6].copy_from_slice(&expected.to_le_bytes()[..2]);
            }
            Err(DecodeError::Checksum { expected, .. }) => bytes[..4].copy_from_slice(&expected.to_le_bytes()),
            _ => break,
        }
    }
    bytes
}

#[test]
fn limits_are_refused_when_encoding() {
    let context = RecordContext::new(0, 0, 0);
    let placement = Placement::Relocated;
    let mut buffer = vec![7];
    let mut refused = |key: &[u8], value: &[u8], offset| {
        let command = CommandRef::Set { key, value, version: 1, timestamp: 1 };
        encode(&mut buffer, &context, offset, &command, placement).unwrap_err()
    };
    assert_eq!(refused(b"", b"", 64), EncodeError::EmptyKey);
    assert_eq!(refused(&[0; MAX_KEY_LEN_BYTES + 1], b"", 64), EncodeError::KeyTooLong { len_bytes: 65_536 });
    assert!(matches!(refused(b"k", b"", u32::MAX - 5), EncodeError::BeyondSegment { .. }));
    assert_eq!(
        refused(b"k", &vec![0; MAX_VALUE_LEN_BYTES + 1], 64),
        EncodeError::ValueTooLong { len_bytes: MAX_VALUE_LEN_BYTES + 1 }
    );
    assert_eq!(buffer, [7], "a refused command leaves nothing behind");
    let claim = Placement::Appended { durable: 65, continues: false };
    let command = CommandRef::Delete { key: b"k", version: 1, timestamp: 1 };
    assert!(matches!(
        encode(&mut buffer, &context, 64, &command, claim),
        Err(EncodeError::DurableBeyondRecord { offset: 64, durable: 65 })
    ));
}

#[test]
fn zeros_are_no_record() {
    let context = RecordContext::new(3, 0, 0);
    assert_eq!(decode(&[0; 64], &context, 64), Err(DecodeError::NoRecord { offset: 64 }));
}

#[test]
fn later_formats_are_refused_by_name() {
    let header = SegmentHeader {
        id: 1,
        kind: SegmentKind::Append,
        features: 0,
        salt: 0,
        base_seq: 0,
        base_version: 0,
        base_timestamp: 0,
        created_ms: 0,
    };
    for found in [0, 3] {
        let other = header_with(header, 8, found);
        let refused = DecodeError::UnsupportedVersion { found: found.into(), supported: FORMAT_VERSION };
        assert_eq!(SegmentHeader::decode(&other), Err(refused));
    }
    let featured = header_with(header, 12, 4);
    assert_eq!(SegmentHeader::decode(&featured), Err(DecodeError::UnsupportedFeatures { found: 4 }));
    assert!(matches!(SegmentHeader::decode(&header_with(header, 10, 9)), Err(DecodeError::Impossible { .. })));
    assert!(matches!(SegmentHeader::decode(b"sqlite f"), Err(DecodeError::Truncated { .. })));
    assert!(matches!(SegmentHeader::decode(&[b'x'; 64]), Err(DecodeError::BadMagic { .. })));
}

/// A header with the byte at `at` replaced, and a checksum that fits.
fn header_with(header: SegmentHeader, at: usize, byte: u8) -> [u8; 64] {
    let mut bytes = header.encode();
    bytes[at] = byte;
    if let Err(DecodeError::Checksum { expected, .. }) = SegmentHeader::decode(&bytes) {
        bytes[60..].copy_from_slice(&expected.to_le_bytes());
    }
    bytes
}

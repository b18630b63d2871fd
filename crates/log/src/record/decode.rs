//! Decoding of records from untrusted bytes.

use super::{
    APPENDED_TAIL_LEN_BYTES, FLAG_CONTINUES, FLAG_LONG_KEY, FLAG_RELOCATED, FLAG_RESERVED, KEY_LEN_AT, KIND_AT,
    KIND_DELETE, KIND_MASK, KIND_SEAL, KIND_SET, Placement, Record, RecordBody, width,
};
use crate::checksum::{HeadSum, payload_checksum};
use crate::command::CommandRef;
use crate::error::{DecodeError, Field};
use crate::header::RecordContext;
use crate::limits::MAX_VALUE_LEN_BYTES;

/// The numbers in the head of an appended record whose own check matches: see [`probe`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The length of the record in bytes, payload included.
    pub len: u64,
    /// The durable offset of the segment at the write of the record.
    pub durable: u32,
    /// Whether more records of the same commit follow.
    pub continues: bool,
}

/// A head with valid fields, before the checksum is compared.
struct DecodedHead {
    kind: u8,
    key_len: usize,
    value_len: usize,
    version: u64,
    timestamp: i64,
    placement: Placement,
    /// The offset of the key.
    len: usize,
    /// The checksum of the head's fields, from which the record's check continues.
    sum: HeadSum,
}

/// Reads the record at `offset` of a segment from the bytes at that offset, and verifies it
/// completely. It borrows and does not allocate. The cost is a checksum of the record.
///
/// # Errors
///
/// [`DecodeError::NoRecord`] for an unwritten place, [`Truncated`](DecodeError::Truncated) for
/// missing bytes, and [`UnknownKind`](DecodeError::UnknownKind),
/// [`Impossible`](DecodeError::Impossible) or [`Checksum`](DecodeError::Checksum) for bytes that no
/// writer of this format wrote at this place.
pub fn decode<'a>(bytes: &'a [u8], context: &RecordContext, offset: u32) -> Result<Record<'a>, DecodeError> {
    let head = parse_head(bytes, context, offset)?;
    let value_at = head.len + head.key_len;
    let end = value_at + head.value_len;
    // A kind other than Set has an empty value, so one slice serves all.
    let (Some(key), Some(value)) = (bytes.get(head.len..value_at), bytes.get(value_at..end)) else {
        return Err(truncated(offset, end, bytes));
    };
    let expected = head.sum.check(payload_checksum(key, value));
    let found = u32::from_le_bytes(chunk(bytes, 0).ok_or_else(|| truncated(offset, KIND_AT, bytes))?);
    if expected != found {
        return Err(mismatch(offset, expected, found));
    }
    let (version, timestamp) = (head.version, head.timestamp);
    let body = match head.kind {
        KIND_SET => RecordBody::Command(CommandRef::Set { key, value, version, timestamp }),
        KIND_DELETE => RecordBody::Command(CommandRef::Delete { key, version, timestamp }),
        _ => RecordBody::Seal { max_version: version, timestamp },
    };
    let len = u32::try_from(end)
        .map_err(|_| impossible(offset, Field::ValueLength, "a record within a segment", end as u64))?;
    Ok(Record { body, placement: head.placement, len })
}

/// Checks by the head alone whether an appended record may start here: the head has a 16-bit check.
///
/// Recovery uses it to find records behind a damaged place without a checksum of a payload at every
/// byte. A found record must still pass [`decode`]. Relocated records have no head check, so they
/// are never found.
#[must_use]
pub fn probe(bytes: &[u8], context: &RecordContext, offset: u32) -> Option<Probe> {
    // Most bytes of a segment are not a valid kind: check this first.
    if !matches!(bytes.get(KIND_AT)? & KIND_MASK, KIND_SET | KIND_DELETE | KIND_SEAL) {
        return None;
    }
    let head = parse_head(bytes, context, offset).ok()?;
    let Placement::Appended { durable, continues } = head.placement else { return None };
    let len = (head.len + head.key_len + head.value_len) as u64;
    Some(Probe { len, durable, continues })
}

#[inline(always)]
fn parse_head(bytes: &[u8], context: &RecordContext, offset: u32) -> Result<DecodedHead, DecodeError> {
    let Some(&[tag, widths]) = bytes.get(KIND_AT..).and_then(|rest| rest.first_chunk::<2>()) else {
        return Err(truncated(offset, KEY_LEN_AT + 1, bytes));
    };
    let kind = tag & KIND_MASK;
    check_tag(tag, widths, offset)?;

    let long_key = tag & FLAG_LONG_KEY != 0;
    let value_width = if kind == KIND_SET { usize::from(widths & 3) + 1 } else { 0 };
    let version_width = usize::from(widths >> 2 & 7) + 1;
    let timestamp_width = usize::from(widths >> 5) + 1;
    let appended = tag & FLAG_RELOCATED == 0;

    let value_len_at = KEY_LEN_AT + if long_key { 2 } else { 1 };
    let version_at = value_len_at + value_width;
    let timestamp_at = version_at + version_width;
    let fields_end = timestamp_at + timestamp_width;
    let len = fields_end + if appended { APPENDED_TAIL_LEN_BYTES } else { 0 };
    if bytes.len() < len {
        return Err(truncated(offset, len, bytes));
    }

    let key_len = number(bytes, KEY_LEN_AT, value_len_at - KEY_LEN_AT);
    let value_len = number(bytes, value_len_at, value_width);
    check_lengths(kind, long_key, key_len, value_len, offset)?;
    let version_delta = number(bytes, version_at, version_width);
    let timestamp_delta = number(bytes, timestamp_at, timestamp_width);
    let narrow = (kind != KIND_SET || width(value_len) == value_width)
        && width(version_delta) == version_width
        && width(timestamp_delta) == timestamp_width;
    if !narrow {
        return Err(impossible(offset, Field::Widths, "the smallest widths of the numbers", widths.into()));
    }

    let checked_end = if appended { fields_end + size_of::<u32>() } else { fields_end };
    let sum = HeadSum::new(context, offset, bytes.get(KIND_AT..checked_end).unwrap_or_default());
    let placement = if appended {
        let tail = chunk::<4>(bytes, fields_end).zip(chunk::<2>(bytes, checked_end));
        let (durable, head_check) = tail.ok_or_else(|| truncated(offset, len, bytes))?;
        check_head(sum.head_check(), u16::from_le_bytes(head_check), u32::from_le_bytes(durable), offset)?;
        Placement::Appended { durable: u32::from_le_bytes(durable), continues: tag & FLAG_CONTINUES != 0 }
    } else {
        Placement::Relocated
    };
    Ok(DecodedHead {
        kind,
        // Both were checked against limits that fit `usize` on every platform with 32 bits or more.
        #[allow(clippy::cast_possible_truncation, reason = "checked against the limits above")]
        key_len: key_len as usize,
        #[allow(clippy::cast_possible_truncation, reason = "checked against the limits above")]
        value_len: value_len as usize,
        version: context.base_version.wrapping_add(version_delta),
        timestamp: context.base_timestamp.wrapping_add(timestamp_delta.cast_signed()),
        placement,
        len,
        sum,
    })
}

#[inline(always)]
fn check_tag(tag: u8, widths: u8, offset: u32) -> Result<(), DecodeError> {
    let kind = tag & KIND_MASK;
    if tag == 0 {
        return Err(no_record(offset));
    }
    if !matches!(kind, KIND_SET | KIND_DELETE | KIND_SEAL) {
        return Err(unknown(offset, kind));
    }
    let both = FLAG_CONTINUES | FLAG_RELOCATED;
    let seal_flags = FLAG_CONTINUES | FLAG_RELOCATED | FLAG_LONG_KEY;
    if tag & FLAG_RESERVED != 0 || tag & both == both || (kind == KIND_SEAL && tag & seal_flags != 0) {
        return Err(impossible(offset, Field::Flags, "a combination that writers use", tag.into()));
    }
    if kind != KIND_SET && widths & 3 != 0 {
        return Err(impossible(offset, Field::Widths, "no width of a value length", widths.into()));
    }
    Ok(())
}

#[inline(always)]
fn check_lengths(kind: u8, long_key: bool, key_len: u64, value_len: u64, offset: u32) -> Result<(), DecodeError> {
    if kind == KIND_SEAL {
        if key_len != 0 {
            return Err(impossible(offset, Field::KeyLength, "0 in a seal", key_len));
        }
        return Ok(());
    }
    if key_len == 0 || long_key != (key_len > 0xff) {
        return Err(impossible(offset, Field::KeyLength, "1 to 255, or more in the long form", key_len));
    }
    if value_len > MAX_VALUE_LEN_BYTES as u64 {
        return Err(impossible(offset, Field::ValueLength, "at most 1073741824", value_len));
    }
    Ok(())
}

#[inline(always)]
fn check_head(expected: u16, found: u16, durable: u32, offset: u32) -> Result<(), DecodeError> {
    if expected != found {
        return Err(mismatch(offset, expected.into(), found.into()));
    }
    if durable > offset {
        return Err(impossible(offset, Field::Durable, "at most the record's own offset", durable.into()));
    }
    Ok(())
}

/// The little-endian number of `width` bytes at `at`, which must be in bounds.
#[inline(always)]
fn number(bytes: &[u8], at: usize, width: usize) -> u64 {
    if width == 0 {
        return 0;
    }
    // Eight bytes in one load, if available, which is the usual case; the surplus is shifted out.
    if let Some(wide) = chunk::<8>(bytes, at) {
        return u64::from_le_bytes(wide) << (64 - 8 * width) >> (64 - 8 * width);
    }
    let narrow = bytes.get(at..at + width).unwrap_or_default();
    narrow.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[inline(always)]
fn chunk<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk::<N>().copied()
}

// The error path is kept out of line, so that it does not slow down the others.

#[cold]
fn no_record(offset: u32) -> DecodeError {
    DecodeError::NoRecord { offset }
}

#[cold]
fn unknown(offset: u32, found: u8) -> DecodeError {
    DecodeError::UnknownKind { offset, found }
}

#[cold]
fn mismatch(offset: u32, expected: u32, found: u32) -> DecodeError {
    DecodeError::Checksum { offset, expected, found }
}

#[cold]
fn truncated(offset: u32, needed: usize, bytes: &[u8]) -> DecodeError {
    DecodeError::Truncated { offset, needed: needed as u64, available: bytes.len() as u64 }
}

#[cold]
fn impossible(offset: u32, field: Field, expected: &'static str, found: u64) -> DecodeError {
    DecodeError::Impossible { offset, field, expected, found }
}

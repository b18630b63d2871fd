//! A fast decoder for reads, which need only the value of a set.

use super::{
    APPENDED_TAIL_LEN_BYTES, FLAG_CONTINUES, FLAG_RELOCATED, KEY_LEN_AT, KIND_AT, KIND_SET, MAX_HEAD_LEN_BYTES,
    RecordBody, WIDTHS_AT, decode,
};
use crate::checksum::{HeadSum, payload_checksum};
use crate::command::CommandRef;
use crate::error::DecodeError;
use crate::header::RecordContext;

/// The value of a set, borrowed from the bytes of the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetValue<'a> {
    /// The value.
    pub value: &'a [u8],
    /// The version of the command.
    pub version: u64,
}

/// Reads the value of the record at `offset` of a segment from the bytes at that offset, and
/// verifies all bytes of the record; `None` if it is not a set. It takes half of the time of
/// [`decode`].
///
/// # Errors
///
/// As [`decode`], except that the widths of numbers are not checked if the checksums are valid.
///
/// ```
/// use hightower_log::{CommandRef, Placement, RecordContext, decode_value, encode};
///
/// let context = RecordContext::new(7, 0, 0);
/// let command = CommandRef::Set { key: b"key", value: b"value", version: 1, timestamp: 2 };
/// let mut bytes = Vec::new();
/// encode(&mut bytes, &context, 64, &command, Placement::Relocated).unwrap();
/// let found = decode_value(&bytes, &context, 64).unwrap().unwrap();
/// assert_eq!((found.value, found.version), (&b"value"[..], 1));
/// ```
#[inline]
pub fn decode_value<'a>(
    bytes: &'a [u8],
    context: &RecordContext,
    offset: u32,
) -> Result<Option<SetValue<'a>>, DecodeError> {
    match verified(bytes, context, offset) {
        Some(value) => Ok(Some(value)),
        None => decode_slowly(bytes, context, offset),
    }
}

/// The value in the common case: a complete, valid set with a short key, not at the very end of the
/// bytes.
#[inline]
fn verified<'a>(bytes: &'a [u8], context: &RecordContext, offset: u32) -> Option<SetValue<'a>> {
    let head = bytes.first_chunk::<MAX_HEAD_LEN_BYTES>()?;
    let (tag, widths) = (head[KIND_AT], head[WIDTHS_AT]);
    if tag & !(FLAG_CONTINUES | FLAG_RELOCATED) != KIND_SET {
        return None;
    }
    let value_width = usize::from(widths & 3) + 1;
    let version_at = KEY_LEN_AT + 1 + value_width;
    let version_width = usize::from(widths >> 2 & 7) + 1;
    let fields_end = version_at + version_width + usize::from(widths >> 5) + 1;
    let appended = usize::from(tag & FLAG_RELOCATED == 0);
    let checked_end = fields_end + appended * size_of::<u32>();
    let key_at = fields_end + appended * APPENDED_TAIL_LEN_BYTES;

    let value_at = key_at + usize::from(head[KEY_LEN_AT]);
    let value_len = u32::from_le_bytes(*head[KEY_LEN_AT + 1..].first_chunk()?) << (32 - 8 * value_width);
    let value_end = value_at + (value_len >> (32 - 8 * value_width)) as usize;
    let (key, value) = (bytes.get(key_at..value_at)?, bytes.get(value_at..value_end)?);

    let sum = HeadSum::new(context, offset, head.get(KIND_AT..checked_end)?);
    let head_fits = appended == 0 || sum.head_check() == u16::from_le_bytes(*head.get(checked_end..)?.first_chunk()?);
    if !head_fits || sum.check(payload_checksum(key, value)) != u32::from_le_bytes(*head.first_chunk()?) {
        return None;
    }
    let version = u64::from_le_bytes(*head.get(version_at..)?.first_chunk()?) << (64 - 8 * version_width);
    Some(SetValue { value, version: context.base_version.wrapping_add(version >> (64 - 8 * version_width)) })
}

#[cold]
fn decode_slowly<'a>(
    bytes: &'a [u8],
    context: &RecordContext,
    offset: u32,
) -> Result<Option<SetValue<'a>>, DecodeError> {
    match decode(bytes, context, offset)?.body {
        RecordBody::Command(CommandRef::Set { value, version, .. }) => Ok(Some(SetValue { value, version })),
        RecordBody::Command(CommandRef::Delete { .. }) | RecordBody::Seal { .. } => Ok(None),
    }
}

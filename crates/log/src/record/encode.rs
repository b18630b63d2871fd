//! Encoding of records.

use super::{
    APPENDED_TAIL_LEN_BYTES, FLAG_CONTINUES, FLAG_LONG_KEY, FLAG_RELOCATED, KEY_LEN_AT, KIND_AT, KIND_DELETE,
    KIND_SEAL, KIND_SET, MAX_HEAD_LEN_BYTES, Placement, WIDTHS_AT, width,
};
use crate::checksum::{HeadSum, payload_checksum};
use crate::command::CommandRef;
use crate::error::EncodeError;
use crate::header::RecordContext;
use crate::limits::{MAX_KEY_LEN_BYTES, MAX_VALUE_LEN_BYTES};

/// The head of a record, on the stack. A record is its head, the key and the value.
#[derive(Clone, Copy, Debug)]
pub struct RecordHead {
    bytes: [u8; MAX_HEAD_LEN_BYTES],
    len: usize,
}

impl RecordHead {
    fn new() -> Self {
        Self { bytes: [0; MAX_HEAD_LEN_BYTES], len: KEY_LEN_AT }
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    fn push_number(&mut self, number: u64, width: usize) {
        // Eight bytes are always copied, because a copy of fixed length is one store; the next
        // field overwrites the surplus. The last place is 16 bytes before the array's end, so eight
        // bytes always fit.
        self.bytes[self.len..self.len + 8].copy_from_slice(&number.to_le_bytes());
        self.len += width;
    }

    /// Writes the checks. They depend on all other fields, so they are last.
    fn seal(&mut self, context: &RecordContext, offset: u32, placement: Placement, payload_checksum: u64) {
        if let Placement::Appended { durable, .. } = placement {
            self.push(&durable.to_le_bytes());
        }
        let sum = HeadSum::new(context, offset, &self.bytes[KIND_AT..self.len]);
        if let Placement::Appended { .. } = placement {
            self.push(&sum.head_check().to_le_bytes());
        }
        self.bytes[..KIND_AT].copy_from_slice(&sum.check(payload_checksum).to_le_bytes());
    }
}

impl AsRef<[u8]> for RecordHead {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// The numbers of a head: a command's, or a seal's.
struct RecordParts {
    kind: u8,
    key_len: usize,
    value_len: Option<usize>,
    version: u64,
    timestamp: i64,
}

impl RecordParts {
    fn of(command: &CommandRef<'_>) -> Result<Self, EncodeError> {
        let key_len = command.key().len();
        if key_len == 0 {
            return Err(EncodeError::EmptyKey);
        }
        if key_len > MAX_KEY_LEN_BYTES {
            return Err(EncodeError::KeyTooLong { len_bytes: key_len });
        }
        let value_len = command.value().map(<[u8]>::len);
        if let Some(len_bytes) = value_len
            && len_bytes > MAX_VALUE_LEN_BYTES
        {
            return Err(EncodeError::ValueTooLong { len_bytes });
        }
        Ok(Self {
            kind: if value_len.is_some() { KIND_SET } else { KIND_DELETE },
            key_len,
            value_len,
            version: command.version(),
            timestamp: command.timestamp(),
        })
    }

    fn version_delta(&self, context: &RecordContext) -> u64 {
        self.version.wrapping_sub(context.base_version)
    }

    fn timestamp_delta(&self, context: &RecordContext) -> u64 {
        self.timestamp.wrapping_sub(context.base_timestamp).cast_unsigned()
    }

    fn head_len(&self, context: &RecordContext, placement: Placement) -> usize {
        KEY_LEN_AT
            + if self.key_len > 0xff { 2 } else { 1 }
            + self.value_len.map_or(0, |len| width(len as u64))
            + width(self.version_delta(context))
            + width(self.timestamp_delta(context))
            + match placement {
                Placement::Appended { .. } => APPENDED_TAIL_LEN_BYTES,
                Placement::Relocated => 0,
            }
    }

    fn head(&self, context: &RecordContext, offset: u32, placement: Placement, payload: u64) -> RecordHead {
        let mut head = RecordHead::new();
        let mut kind = self.kind;
        match placement {
            Placement::Appended { continues: true, .. } => kind |= FLAG_CONTINUES,
            Placement::Appended { continues: false, .. } => {}
            Placement::Relocated => kind |= FLAG_RELOCATED,
        }
        match u8::try_from(self.key_len) {
            Ok(short) => head.push(&[short]),
            Err(_) => {
                kind |= FLAG_LONG_KEY;
                // The limit on keys makes the length fit two bytes.
                head.push_number(self.key_len as u64, 2);
            }
        }
        let (version, timestamp) = (self.version_delta(context), self.timestamp_delta(context));
        let mut widths = width_bits(width(version)) << 2 | width_bits(width(timestamp)) << 5;
        if let Some(value_len) = self.value_len {
            let value_width = width(value_len as u64);
            widths |= width_bits(value_width);
            head.push_number(value_len as u64, value_width);
        }
        head.push_number(version, width(version));
        head.push_number(timestamp, width(timestamp));
        head.bytes[KIND_AT] = kind;
        head.bytes[WIDTHS_AT] = widths;
        head.seal(context, offset, placement, payload);
        head
    }
}

/// A width of 1 to 8 bytes as the number 0 to 7.
#[allow(clippy::cast_possible_truncation, reason = "a width is at most 8")]
fn width_bits(width: usize) -> u8 {
    width as u8 - 1
}

/// The length of the record of `command`, in bytes.
///
/// # Errors
///
/// [`EncodeError`] if the key is empty, or the key or value is too long.
pub fn encoded_len(
    context: &RecordContext,
    command: &CommandRef<'_>,
    placement: Placement,
) -> Result<usize, EncodeError> {
    let parts = RecordParts::of(command)?;
    Ok(parts.head_len(context, placement) + parts.key_len + parts.value_len.unwrap_or(0))
}

/// Builds the head of the record of `command` at `offset`. The record is the head, the key and the
/// value, in this order. It does not allocate and costs some tens of nanoseconds, because
/// [`payload_checksum`](crate::payload_checksum) is computed before.
///
/// # Errors
///
/// [`EncodeError`] if the key is empty, the key or value is too long, the record would end behind
/// the largest segment, or its durable offset is behind its own offset.
///
/// ```
/// use hightower_log::{CommandRef, Placement, RecordContext, encode, encode_head, payload_checksum};
///
/// let context = RecordContext::new(7, 0, 0);
/// let command = CommandRef::Set { key: b"key", value: b"value", version: 1, timestamp: 2 };
/// let placement = Placement::Appended { durable: 64, continues: false };
/// let head = encode_head(&context, 64, &command, placement, payload_checksum(b"key", b"value"))?;
///
/// let mut whole = Vec::new();
/// encode(&mut whole, &context, 64, &command, placement)?;
/// assert_eq!(whole, [head.as_ref(), b"key", b"value"].concat());
/// # Ok::<(), hightower_log::EncodeError>(())
/// ```
pub fn encode_head(
    context: &RecordContext,
    offset: u32,
    command: &CommandRef<'_>,
    placement: Placement,
    payload_checksum: u64,
) -> Result<RecordHead, EncodeError> {
    let parts = RecordParts::of(command)?;
    let head = parts.head(context, offset, placement, payload_checksum);
    let len_bytes = head.len + parts.key_len + parts.value_len.unwrap_or(0);
    if u32::try_from(offset as usize + len_bytes).is_err() {
        return Err(EncodeError::BeyondSegment { offset, len_bytes });
    }
    if let Placement::Appended { durable, .. } = placement
        && durable > offset
    {
        return Err(EncodeError::DurableBeyondRecord { offset, durable });
    }
    Ok(head)
}

/// Appends the record of `command` at `offset` to `buffer` and returns its length in bytes.
///
/// # Errors
///
/// As [`encode_head`]; `buffer` is then unchanged.
pub fn encode(
    buffer: &mut Vec<u8>,
    context: &RecordContext,
    offset: u32,
    command: &CommandRef<'_>,
    placement: Placement,
) -> Result<usize, EncodeError> {
    let (key, value) = (command.key(), command.value().unwrap_or_default());
    let head = encode_head(context, offset, command, placement, payload_checksum(key, value))?;
    buffer.reserve(head.len + key.len() + value.len());
    buffer.extend_from_slice(head.as_ref());
    buffer.extend_from_slice(key);
    buffer.extend_from_slice(value);
    Ok(head.len + key.len() + value.len())
}

/// Builds the record that ends a segment at `offset`. It has no key and no value, so the head is
/// the whole record.
///
/// # Errors
///
/// [`EncodeError::BeyondSegment`] or [`EncodeError::DurableBeyondRecord`].
pub fn encode_seal(
    context: &RecordContext,
    offset: u32,
    durable: u32,
    max_version: u64,
    timestamp: i64,
) -> Result<RecordHead, EncodeError> {
    if durable > offset {
        return Err(EncodeError::DurableBeyondRecord { offset, durable });
    }
    let parts = RecordParts { kind: KIND_SEAL, key_len: 0, value_len: None, version: max_version, timestamp };
    let placement = Placement::Appended { durable, continues: false };
    let head = parts.head(context, offset, placement, payload_checksum(b"", b""));
    if u32::try_from(offset as usize + head.len).is_err() {
        return Err(EncodeError::BeyondSegment { offset, len_bytes: head.len });
    }
    Ok(head)
}

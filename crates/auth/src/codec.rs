//! The plain encoding inside records: fixed-width little-endian integers, and byte strings with
//! their length in front. Reading never allocates more than the input holds.

use crate::error::{Error, Result};

const MALFORMED: Error = Error::Crypto("a record is authentic but malformed");

/// Writes fields one after the other.
#[derive(Debug, Default)]
pub(crate) struct FieldWriter {
    bytes: Vec<u8>,
}

impl FieldWriter {
    pub(crate) fn u8(&mut self, value: u8) -> &mut Self {
        self.bytes.push(value);
        self
    }

    pub(crate) fn u16(&mut self, value: u16) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }

    pub(crate) fn u32(&mut self, value: u32) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }

    pub(crate) fn u64(&mut self, value: u64) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }

    pub(crate) fn i64(&mut self, value: i64) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }

    /// Bytes whose length the reader knows.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// Bytes with their length, a `u32`, in front.
    ///
    /// # Errors
    /// [`Error::LimitExceeded`] from 4 GiB on.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Result<&mut Self> {
        let Ok(len) = u32::try_from(bytes.len()) else {
            return Err(Error::LimitExceeded("a field of a record is too long"));
        };
        Ok(self.u32(len).raw(bytes))
    }

    /// A presence byte, then the value if there is one.
    pub(crate) fn optional_i64(&mut self, value: Option<i64>) -> &mut Self {
        match value {
            Some(value) => self.u8(1).i64(value),
            None => self.u8(0),
        }
    }

    /// A presence byte, then the bytes if there are any.
    ///
    /// # Errors
    /// As [`FieldWriter::bytes`].
    pub(crate) fn optional_bytes(&mut self, bytes: Option<&[u8]>) -> Result<&mut Self> {
        match bytes {
            Some(bytes) => self.u8(1).bytes(bytes),
            None => Ok(self.u8(0)),
        }
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.bytes
    }

    /// The bytes, padded with zeros to a multiple of `unit_bytes`. The padding hides the length,
    /// and also the time of a MAC over the bytes.
    pub(crate) fn finish_padded(mut self, unit_bytes: usize) -> Vec<u8> {
        self.bytes.resize(self.bytes.len().next_multiple_of(unit_bytes), 0);
        self.bytes
    }
}

/// Reads fields in the order of writing. A missing byte is an error.
#[derive(Debug)]
pub(crate) struct FieldReader<'a> {
    bytes: &'a [u8],
}

impl<'a> FieldReader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let Some((taken, rest)) = self.bytes.split_at_checked(len) else {
            return Err(MALFORMED);
        };
        self.bytes = rest;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let Some((taken, rest)) = self.bytes.split_first_chunk() else {
            return Err(MALFORMED);
        };
        self.bytes = rest;
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self) -> Result<u8> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub(crate) fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(crate) fn i64(&mut self) -> Result<i64> {
        Ok(i64::from_le_bytes(self.array()?))
    }

    pub(crate) fn flag(&mut self) -> Result<bool> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(MALFORMED),
        }
    }

    pub(crate) fn bytes(&mut self) -> Result<&'a [u8]> {
        let Ok(len) = usize::try_from(self.u32()?) else {
            return Err(MALFORMED);
        };
        self.take(len)
    }

    pub(crate) fn text(&mut self) -> Result<&'a str> {
        std::str::from_utf8(self.bytes()?).map_err(|_| MALFORMED)
    }

    pub(crate) fn optional_i64(&mut self) -> Result<Option<i64>> {
        if self.flag()? { Ok(Some(self.i64()?)) } else { Ok(None) }
    }

    pub(crate) fn optional_bytes(&mut self) -> Result<Option<&'a [u8]>> {
        if self.flag()? { Ok(Some(self.bytes()?)) } else { Ok(None) }
    }

    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.bytes)
    }

    /// Checks that only padding is left.
    ///
    /// # Errors
    /// [`Error::Crypto`] if a byte that is left is not 0.
    pub(crate) fn end_padded(&self) -> Result<()> {
        if self.bytes.iter().all(|byte| *byte == 0) { Ok(()) } else { Err(MALFORMED) }
    }

    /// Checks that no byte is left.
    ///
    /// # Errors
    /// [`Error::Crypto`] if bytes are left.
    pub(crate) fn end(&self) -> Result<()> {
        if self.bytes.is_empty() { Ok(()) } else { Err(MALFORMED) }
    }
}

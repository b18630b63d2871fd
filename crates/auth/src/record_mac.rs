//! The MAC of each record. A record that was not written by the service, was changed, or was copied
//! under another key is refused.
//!
//! ```text
//! value = format u8 = 1 | body | HMAC-SHA-256(record key, store id [16] | key length u32 | key | format | body)
//! ```
//!
//! It does not detect an older value of the same key: see docs/SECURITY.md.

use crate::codec::FieldReader;
use crate::crypto::{MacKey, TAG_LEN_BYTES};
use crate::error::{Error, Result};

const FORMAT: u8 = 1;
const REFUSED: Error = Error::Crypto("a stored record was not written by the service, or was changed since");

/// Seals and opens the records of one store.
#[derive(Clone, Debug)]
pub(crate) struct RecordSealer {
    mac: MacKey,
    /// The previous key, while records are moved to the current one.
    previous: Option<MacKey>,
    store_id: [u8; 16],
}

impl RecordSealer {
    pub(crate) fn new(mac: MacKey, store_id: [u8; 16]) -> Self {
        Self { mac, previous: None, store_id }
    }

    /// Adds a previous key, which also opens records.
    #[must_use]
    pub(crate) fn with_previous(mut self, previous: Option<MacKey>) -> Self {
        self.previous = previous;
        self
    }

    /// Whether a value is sealed with the current key.
    pub(crate) fn is_current(&self, key: &[u8], value: &[u8]) -> bool {
        value.split_last_chunk::<TAG_LEN_BYTES>().is_some_and(|(signed, tag)| self.verify(&self.mac, key, signed, tag))
    }

    fn verify(&self, mac: &MacKey, key: &[u8], signed: &[u8], tag: &[u8; TAG_LEN_BYTES]) -> bool {
        mac.verify(&[&self.store_id, &length(key), key, signed], tag)
    }

    /// The value to store under `key`.
    pub(crate) fn seal(&self, key: &[u8], body: &[u8]) -> Vec<u8> {
        let mut value = Vec::with_capacity(1 + body.len() + TAG_LEN_BYTES);
        value.push(FORMAT);
        value.extend_from_slice(body);
        let tag = self.mac.tag(&[&self.store_id, &length(key), key, &value]);
        value.extend_from_slice(&tag);
        value
    }

    /// The body of the value of `key`.
    ///
    /// # Errors
    /// [`Error::Crypto`] unless [`RecordSealer::seal`] made the value for this key in this store.
    pub(crate) fn open<'v>(&self, key: &[u8], value: &'v [u8]) -> Result<FieldReader<'v>> {
        let Some((signed, tag)) = value.split_last_chunk::<TAG_LEN_BYTES>() else {
            return Err(REFUSED);
        };
        let by_previous = || self.previous.as_ref().is_some_and(|mac| self.verify(mac, key, signed, tag));
        if !self.verify(&self.mac, key, signed, tag) && !by_previous() {
            return Err(REFUSED);
        }
        match signed.split_first() {
            Some((&FORMAT, body)) => Ok(FieldReader::new(body)),
            Some((&found, _)) => Err(Error::VersionUnsupported { what: "a stored record", found, known: FORMAT }),
            None => Err(REFUSED),
        }
    }
}

fn length(key: &[u8]) -> [u8; 4] {
    u32::try_from(key.len()).unwrap_or(u32::MAX).to_le_bytes()
}

/// The associated data of an encrypted field: its store, record and name.
pub(crate) fn identity(store_id: &[u8; 16], kind: &str, id: &[u8], field: &str) -> Vec<u8> {
    let mut bytes = store_id.to_vec();
    for part in [kind.as_bytes(), id, field.as_bytes()] {
        bytes.extend_from_slice(&length(part));
        bytes.extend_from_slice(part);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_every_cut_and_every_other_key_is_refused() {
        let sealer = RecordSealer::new(MacKey::new(&[1; 32]).unwrap(), [2; 16]);
        let value = sealer.seal(b"key", b"body");
        assert_eq!(sealer.open(b"key", &value).unwrap().rest(), b"body");
        for bit in 0..value.len() * 8 {
            let mut changed = value.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(sealer.open(b"key", &changed).unwrap_err().code(), "crypto", "bit {bit}");
        }
        for len in 0..value.len() {
            assert_eq!(sealer.open(b"key", &value[..len]).unwrap_err().code(), "crypto");
        }
        assert_eq!(sealer.open(b"kez", &value).unwrap_err().code(), "crypto");
        let other_store = RecordSealer::new(MacKey::new(&[1; 32]).unwrap(), [3; 16]);
        assert_eq!(other_store.open(b"key", &value).unwrap_err().code(), "crypto");
    }

    #[test]
    fn the_border_between_key_and_body_counts() {
        let sealer = RecordSealer::new(MacKey::new(&[1; 32]).unwrap(), [2; 16]);
        let value = sealer.seal(b"ab", b"c");
        assert!(sealer.open(b"a", &value).is_err());
        assert_ne!(identity(&[0; 16], "user", b"ab", "c"), identity(&[0; 16], "user", b"a", "bc"));
    }
}

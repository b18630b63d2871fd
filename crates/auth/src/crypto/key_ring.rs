//! Master keys: the ring of keys, the current key, and the sources of keys.
//!
//! A master key only wraps data keys (see [`super::envelope`]), so a rotation re-wraps 32 bytes per
//! record and does not touch the data. Ids only grow; the key with the highest id is current.

use std::collections::BTreeMap;
use std::fmt;

use zeroize::Zeroizing;

use super::aead::KEY_LEN_BYTES;
use super::secret_file::entries;
use crate::error::{Error, Result};

/// The id of a master key. A newer key has a higher id.
pub type MasterKeyId = u32;

/// Maximum number of keys in a ring.
pub const MAX_MASTER_KEYS: usize = 256;

/// One or more master keys; the one with the highest id is current.
///
/// The keys are zeroized when the ring is dropped, and `Debug` shows only the ids.
///
/// # Examples
/// ```
/// use hightower_auth::crypto::KeyRing;
/// let mut ring = KeyRing::single([7; 32]);
/// ring.insert(2, [8; 32])?;
/// assert_eq!(ring.current_id(), 2);
/// # Ok::<(), hightower_auth::Error>(())
/// ```
#[derive(Clone)]
pub struct KeyRing {
    current: MasterKeyId,
    keys: BTreeMap<MasterKeyId, Zeroizing<[u8; KEY_LEN_BYTES]>>,
}

impl KeyRing {
    /// A ring with one key, of id 1.
    pub fn single(key: [u8; KEY_LEN_BYTES]) -> Self {
        Self::with_id(1, key)
    }

    /// A ring with one key.
    pub fn with_id(id: MasterKeyId, key: [u8; KEY_LEN_BYTES]) -> Self {
        Self { current: id, keys: BTreeMap::from([(id, Zeroizing::new(key))]) }
    }

    /// Adds a key. It becomes current if its id is the highest.
    ///
    /// # Errors
    /// [`Error::Conflict`] if another key has the id, [`Error::LimitExceeded`] past
    /// [`MAX_MASTER_KEYS`].
    pub fn insert(&mut self, id: MasterKeyId, key: [u8; KEY_LEN_BYTES]) -> Result<()> {
        let key = Zeroizing::new(key);
        if let Some(present) = self.keys.get(&id) {
            if **present == *key {
                return Ok(());
            }
            return Err(Error::Conflict("another master key has this id; ids are never reused"));
        }
        if self.keys.len() >= MAX_MASTER_KEYS {
            return Err(Error::LimitExceeded("too many master keys; remove retired ones"));
        }
        self.keys.insert(id, key);
        self.current = self.current.max(id);
        Ok(())
    }

    /// Removes a retired key. Data that it still wraps becomes unreadable.
    ///
    /// # Errors
    /// [`Error::Conflict`] for the current key, [`Error::NotFound`] for an unknown id.
    pub fn remove(&mut self, id: MasterKeyId) -> Result<()> {
        if id == self.current {
            return Err(Error::Conflict("the current master key cannot be removed"));
        }
        match self.keys.remove(&id) {
            Some(_) => Ok(()),
            None => Err(Error::NotFound("no master key has this id")),
        }
    }

    /// The id of the current key.
    pub fn current_id(&self) -> MasterKeyId {
        self.current
    }

    /// The ids of all keys, ascending.
    pub fn ids(&self) -> impl Iterator<Item = MasterKeyId> + '_ {
        self.keys.keys().copied()
    }

    /// The key with this id.
    pub(crate) fn key(&self, id: MasterKeyId) -> Result<&[u8; KEY_LEN_BYTES]> {
        match self.keys.get(&id) {
            Some(key) => Ok(key),
            None => Err(Error::Crypto("the master key that wraps this record is not in the key ring")),
        }
    }

    /// Parses `id:hex` entries, one per line or separated by commas. Blank lines and lines that
    /// start with `#` are skipped; each key is 64 hexadecimal digits.
    ///
    /// # Errors
    /// [`Error::Validation`] for another form, or if there is no key.
    pub fn parse(text: &str) -> Result<Self> {
        let mut ring: Option<Self> = None;
        for entry in entries(text) {
            let (id, key) = parse_entry(entry)?;
            match &mut ring {
                Some(ring) => ring.insert(id, *key)?,
                None => ring = Some(Self::with_id(id, *key)),
            }
        }
        ring.ok_or(Error::Validation("no master key found; write one as id:64-hex-digits"))
    }
}

/// One entry in the form of [`KeyRing::parse`].
pub(super) fn entry_text(id: MasterKeyId, key: &[u8; KEY_LEN_BYTES]) -> Zeroizing<String> {
    // The full capacity at once: a reallocation would leave a copy of a secret in freed memory.
    let mut text = Zeroizing::new(String::with_capacity(16 + 2 * KEY_LEN_BYTES));
    text.push_str(&id.to_string());
    text.push(':');
    crate::hex::encode(key, &mut text);
    text
}

pub(super) fn parse_entry(entry: &str) -> Result<(MasterKeyId, Zeroizing<[u8; KEY_LEN_BYTES]>)> {
    let shape = Error::Validation("a master key is written id:64-hex-digits");
    let Some((id, hex)) = entry.split_once(':') else {
        return Err(shape);
    };
    let Ok(id) = id.trim().parse() else {
        return Err(shape);
    };
    let mut key = Zeroizing::new([0; KEY_LEN_BYTES]);
    if !crate::hex::decode(hex.trim().as_bytes(), key.as_mut_slice()) {
        return Err(shape);
    }
    Ok((id, key))
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids: Vec<_> = self.ids().collect();
        f.debug_struct("KeyRing").field("current", &self.current).field("ids", &ids).finish_non_exhaustive()
    }
}

/// Where master keys come from: a file, the environment, a key management service.
pub trait KeyProvider: Send + Sync {
    /// Returns the current master keys.
    ///
    /// # Errors
    /// The provider's: the keys could not be read.
    fn load(&self) -> Result<KeyRing>;
}

/// Reads master keys from an environment variable, in the format of [`KeyRing::parse`].
///
/// A process's environment can be read by its user and by root; prefer a file, with
/// [`crypto::KeyFile`](crate::crypto::KeyFile).
#[derive(Clone, Debug)]
pub struct KeyEnvironment {
    variable: String,
}

impl KeyEnvironment {
    /// Keys from the environment variable `variable`.
    pub fn new(variable: impl Into<String>) -> Self {
        Self { variable: variable.into() }
    }
}

impl KeyProvider for KeyEnvironment {
    fn load(&self) -> Result<KeyRing> {
        match std::env::var(&self.variable) {
            Ok(text) if !text.is_empty() => KeyRing::parse(&Zeroizing::new(text)),
            _ => Err(Error::NotFound("the environment variable with the master keys is not set")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

    #[test]
    fn parses_lines_commas_and_comments() {
        let other = HEX.replace('0', "f");
        let ring = KeyRing::parse(&format!("# keys\n\n3:{HEX}\n 9:{other} , 4:{HEX}\n")).unwrap();
        assert_eq!(ring.ids().collect::<Vec<_>>(), [3, 4, 9]);
        assert_eq!(ring.current_id(), 9);
        assert_eq!(ring.key(3).unwrap()[31], 0x1f);
    }

    #[test]
    fn refuses_what_is_not_a_key() {
        for text in [
            "",
            "#1:00",
            "1",
            "1:abcd",
            &format!("x:{HEX}"),
            &format!("1:{HEX}00"),
            &format!("1:{}", HEX.replace('0', "g")),
        ] {
            assert_eq!(KeyRing::parse(text).unwrap_err().code(), "validation", "{text}");
        }
        let twice = format!("1:{HEX},1:{}", HEX.replace('0', "1"));
        assert_eq!(KeyRing::parse(&twice).unwrap_err().code(), "conflict");
    }

    #[test]
    fn the_current_key_stays_and_unknown_ids_are_told() {
        let mut ring = KeyRing::single([1; 32]);
        assert_eq!(ring.remove(1).unwrap_err().code(), "conflict");
        ring.insert(5, [2; 32]).unwrap();
        ring.remove(1).unwrap();
        assert_eq!(ring.remove(1).unwrap_err().code(), "not_found");
        assert_eq!(ring.key(1).unwrap_err().code(), "crypto");
    }

    #[test]
    fn debug_shows_no_key() {
        let shown = format!("{:?}", KeyRing::single([0xab; 32]));
        assert!(shown.contains("current: 1"), "{shown}");
        assert!(!shown.contains("171") && !shown.contains("ab, "), "{shown}");
    }
}

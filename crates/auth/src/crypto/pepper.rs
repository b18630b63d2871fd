//! Peppers: secrets that go into every password hash and live outside the store, so that a stolen
//! store alone gives nothing to guess against. Each has an id, kept next to the hash; a login
//! re-hashes with the current one.

use std::collections::BTreeMap;
use std::fmt;

use secrecy::{ExposeSecret, SecretSlice};

use crate::error::{Error, Result};

/// The id of a pepper; the highest is current.
pub type PepperId = u32;

/// Shortest pepper, in bytes.
pub const MIN_PEPPER_LEN_BYTES: usize = 16;

/// One or more peppers; the one with the highest id goes into new hashes.
///
/// # Examples
/// ```
/// use hightower_auth::crypto::Pepper;
/// let mut pepper = Pepper::new(1, vec![7; 32])?;
/// pepper.insert(2, vec![8; 32])?; // hashes with pepper 1 stay valid and move to 2 at login
/// # Ok::<(), hightower_auth::Error>(())
/// ```
pub struct Pepper {
    current: PepperId,
    secrets: BTreeMap<PepperId, SecretSlice<u8>>,
}

impl Pepper {
    /// One pepper.
    ///
    /// # Errors
    /// [`Error::Validation`] below [`MIN_PEPPER_LEN_BYTES`].
    pub fn new(id: PepperId, secret: Vec<u8>) -> Result<Self> {
        let mut pepper = Self { current: id, secrets: BTreeMap::new() };
        pepper.insert(id, secret)?;
        Ok(pepper)
    }

    /// Adds another; it becomes current if its id is the highest.
    ///
    /// # Errors
    /// [`Error::Validation`] below [`MIN_PEPPER_LEN_BYTES`], [`Error::Conflict`] if the id is taken.
    pub fn insert(&mut self, id: PepperId, secret: Vec<u8>) -> Result<()> {
        let secret = SecretSlice::from(secret);
        if secret.expose_secret().len() < MIN_PEPPER_LEN_BYTES {
            return Err(Error::Validation("a pepper has at least 16 bytes"));
        }
        if self.secrets.contains_key(&id) {
            return Err(Error::Conflict("another pepper has this id"));
        }
        self.secrets.insert(id, secret);
        self.current = self.current.max(id);
        Ok(())
    }

    /// The id of the pepper that goes into new hashes.
    pub fn current_id(&self) -> PepperId {
        self.current
    }

    pub(super) fn secret(&self, id: PepperId) -> Result<&[u8]> {
        match self.secrets.get(&id) {
            Some(secret) => Ok(secret.expose_secret()),
            None => Err(Error::Crypto("the pepper of this password hash is not configured")),
        }
    }
}

impl fmt::Debug for Pepper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pepper").field("current", &self.current).field("count", &self.secrets.len()).finish()
    }
}

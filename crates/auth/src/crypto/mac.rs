//! HMAC-SHA-256 (RFC 2104, FIPS 198-1) with a key that is expanded once.
//!
//! It authenticates records, API key and session secrets, and the audit chain. Subkeys are derived
//! from one root by HKDF-Expand (RFC 5869) with one block of output.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::error::{Error, Result};

/// Length of an HMAC-SHA-256 tag, in bytes.
pub const TAG_LEN_BYTES: usize = 32;

/// An HMAC-SHA-256 key, ready for use.
///
/// `Debug` does not show it, and it is zeroized when dropped.
///
/// # Examples
/// ```
/// use hightower_auth::crypto::MacKey;
/// let key = MacKey::new(b"Jefe")?;
/// let tag = key.tag(&[b"what do ya want ", b"for nothing?"]);
/// assert_eq!(tag[..4], [0x5b, 0xdc, 0xc1, 0x46]); // RFC 4231, test case 2
/// # Ok::<(), hightower_auth::Error>(())
/// ```
#[derive(Clone)]
pub struct MacKey {
    keyed: Hmac<Sha256>,
}

impl MacKey {
    /// A key from bytes of any length; fewer than 32 are weaker than the tag.
    ///
    /// # Errors
    /// [`Error::Crypto`] if the MAC refuses the key's length (HMAC takes every length).
    pub fn new(key: &[u8]) -> Result<Self> {
        match Hmac::<Sha256>::new_from_slice(key) {
            Ok(keyed) => Ok(Self { keyed }),
            Err(_) => Err(Error::Crypto("the MAC key has a length that HMAC refuses")),
        }
    }

    /// The tag of the parts' concatenation.
    ///
    /// Two lists of parts with the same concatenation have the same tag. Where this matters, give
    /// every part but the last a fixed or prefixed length. The cost is about two SHA-256 blocks
    /// plus one per 64 bytes.
    pub fn tag(&self, parts: &[&[u8]]) -> [u8; TAG_LEN_BYTES] {
        let mut mac = self.keyed.clone();
        for part in parts {
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }

    /// Whether `tag` is the tag of the parts. The comparison takes constant time.
    pub fn verify(&self, parts: &[&[u8]], tag: &[u8]) -> bool {
        self.tag(parts).ct_eq(tag).into()
    }

    /// A subkey for the purpose that `label` names: HKDF-Expand with `info = label`, 32 bytes.
    ///
    /// # Errors
    /// As [`MacKey::new`].
    pub fn derive(&self, label: &[u8]) -> Result<Self> {
        let subkey = Zeroizing::new(self.tag(&[label, &[1]]));
        Self::new(subkey.as_slice())
    }
}

impl fmt::Debug for MacKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MacKey(redacted)")
    }
}

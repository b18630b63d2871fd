//! AES-256-GCM (NIST SP 800-38D) with 96-bit nonces and 128-bit tags.
//!
//! Each key here seals few messages: a data key exactly one, a master key one wrap per record.
//! Random 96-bit nonces are safe for 2^32 messages per key (SP 800-38D, 8.3).

use aes_gcm::Aes256Gcm;
use aes_gcm::aead::{Aead, AeadInOut, KeyInit, Nonce, Payload, Tag};
use zeroize::Zeroizing;

use crate::error::{Error, Result};

/// Length of a key, in bytes.
pub const KEY_LEN_BYTES: usize = 32;
/// Length of a nonce, in bytes.
pub const NONCE_LEN_BYTES: usize = 12;
/// Length of the tag that follows the ciphertext, in bytes.
pub const GCM_TAG_LEN_BYTES: usize = 16;

/// Encrypts `plaintext` and authenticates it together with `associated_data`; the result ends with
/// the tag.
///
/// A pair of key and nonce must never seal two messages.
///
/// # Errors
/// [`Error::Crypto`] past GCM's length limit (64 GiB).
pub fn seal(
    key: &[u8; KEY_LEN_BYTES],
    nonce: &[u8; NONCE_LEN_BYTES],
    associated_data: &[u8],
    plaintext: &[u8],
) -> Result<Vec<u8>> {
    let cipher = Aes256Gcm::new(key.into());
    let payload = Payload { msg: plaintext, aad: associated_data };
    match cipher.encrypt(&Nonce::<Aes256Gcm>::from(*nonce), payload) {
        Ok(sealed) => Ok(sealed),
        Err(_) => Err(Error::Crypto("the plaintext is too long to encrypt")),
    }
}

/// Decrypts a result of [`seal`]. The plaintext is zeroized when dropped.
///
/// # Errors
/// [`Error::Crypto`] if the key, nonce, associated data, ciphertext or tag differs.
pub fn open(
    key: &[u8; KEY_LEN_BYTES],
    nonce: &[u8; NONCE_LEN_BYTES],
    associated_data: &[u8],
    sealed: &[u8],
) -> Result<Zeroizing<Vec<u8>>> {
    let refused = Error::Crypto("decryption failed: wrong master key, or the data was changed or moved");
    let Some(len) = sealed.len().checked_sub(GCM_TAG_LEN_BYTES) else {
        return Err(refused);
    };
    let (ciphertext, tag) = sealed.split_at(len);
    let Ok(tag) = Tag::<Aes256Gcm>::try_from(tag) else {
        return Err(refused);
    };
    let mut plaintext = Zeroizing::new(ciphertext.to_vec());
    let cipher = Aes256Gcm::new(key.into());
    let nonce = Nonce::<Aes256Gcm>::from(*nonce);
    match cipher.decrypt_inout_detached(&nonce, associated_data, plaintext.as_mut_slice().into(), &tag) {
        Ok(()) => Ok(plaintext),
        Err(_) => Err(refused),
    }
}

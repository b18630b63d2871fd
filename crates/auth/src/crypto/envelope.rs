//! Envelope encryption: each blob has its own data key, wrapped by a master key.
//!
//! ```text
//! blob = format u8 = 1 | master key id u32 | wrap nonce [12] | wrapped data key [32 + 16]
//!      | nonce [12] | ciphertext | tag [16]                                (integers little-endian)
//! ```
//!
//! Both AES-256-GCM calls bind the caller's associated data (store, kind, id, field), and the wrap
//! also binds the master key's id. A blob or wrapped key that was moved to another record or field,
//! or has another key id, is refused.

use std::fmt;
use std::sync::Arc;

use hightower_seams::{Entropy, OsEntropy};
use parking_lot::RwLock;
use zeroize::Zeroizing;

use super::aead::{self, GCM_TAG_LEN_BYTES, KEY_LEN_BYTES, NONCE_LEN_BYTES};
use super::key_ring::{KeyProvider, KeyRing, MasterKeyId};
use crate::entropy::random;
use crate::error::{Error, Result};

/// Longest plaintext of a blob, in bytes.
pub const MAX_PLAINTEXT_LEN_BYTES: usize = 64 * 1024;

const FORMAT: u8 = 1;
const WRAPPED_LEN_BYTES: usize = KEY_LEN_BYTES + GCM_TAG_LEN_BYTES;
const HEAD_LEN_BYTES: usize = 1 + 4 + NONCE_LEN_BYTES + WRAPPED_LEN_BYTES + NONCE_LEN_BYTES;
const DATA_LABEL: &[u8] = b"hightower-auth data v1\0";
const WRAP_LABEL: &[u8] = b"hightower-auth wrap v1\0";

/// Encrypts small values under keys that can be rotated.
pub trait EnvelopeEncryptor: Send + Sync {
    /// Encrypts `plaintext`, bound to `associated_data`.
    ///
    /// # Errors
    /// [`Error::LimitExceeded`] past [`MAX_PLAINTEXT_LEN_BYTES`], [`Error::Randomness`].
    fn seal(&self, plaintext: &[u8], associated_data: &[u8]) -> Result<EncryptedBlob>;

    /// Decrypts a blob that [`EnvelopeEncryptor::seal`] made with the same `associated_data`.
    ///
    /// # Errors
    /// [`Error::Crypto`] if the blob was changed, the associated data differs, or the master key is
    /// missing.
    fn open(&self, blob: &EncryptedBlob, associated_data: &[u8]) -> Result<Zeroizing<Vec<u8>>>;

    /// The blob with its data key wrapped by the current master key; `None` if the current master
    /// key wraps it already. The ciphertext does not change.
    ///
    /// # Errors
    /// [`Error::Crypto`] if the wrapped key cannot be opened, [`Error::Randomness`].
    fn rewrap(&self, blob: &EncryptedBlob, associated_data: &[u8]) -> Result<Option<EncryptedBlob>>;

    /// The id of the current master key.
    fn current_key_id(&self) -> MasterKeyId;

    /// Encrypts without associated data. Prefer [`EnvelopeEncryptor::seal`].
    ///
    /// # Errors
    /// As [`EnvelopeEncryptor::seal`].
    fn encrypt(&self, plaintext: &[u8]) -> Result<EncryptedBlob> {
        self.seal(plaintext, b"")
    }

    /// Decrypts a result of [`EnvelopeEncryptor::encrypt`].
    ///
    /// # Errors
    /// As [`EnvelopeEncryptor::open`].
    fn decrypt(&self, blob: &EncryptedBlob) -> Result<Vec<u8>> {
        Ok(self.open(blob, b"")?.to_vec())
    }
}

impl<T: EnvelopeEncryptor + ?Sized> EnvelopeEncryptor for Arc<T> {
    fn seal(&self, plaintext: &[u8], associated_data: &[u8]) -> Result<EncryptedBlob> {
        (**self).seal(plaintext, associated_data)
    }
    fn open(&self, blob: &EncryptedBlob, associated_data: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        (**self).open(blob, associated_data)
    }
    fn rewrap(&self, blob: &EncryptedBlob, associated_data: &[u8]) -> Result<Option<EncryptedBlob>> {
        (**self).rewrap(blob, associated_data)
    }
    fn current_key_id(&self) -> MasterKeyId {
        (**self).current_key_id()
    }
}

/// An encrypted value with its wrapped data key. It contains no plaintext secret.
#[derive(Clone, PartialEq, Eq)]
pub struct EncryptedBlob {
    key_id: MasterKeyId,
    wrap_nonce: [u8; NONCE_LEN_BYTES],
    wrapped_key: [u8; WRAPPED_LEN_BYTES],
    nonce: [u8; NONCE_LEN_BYTES],
    sealed: Vec<u8>,
}

impl EncryptedBlob {
    /// The id of the master key that wraps this blob's data key.
    pub fn key_id(&self) -> MasterKeyId {
        self.key_id
    }

    /// The nonce of the ciphertext. Each data key seals one message.
    pub fn nonce(&self) -> &[u8; NONCE_LEN_BYTES] {
        &self.nonce
    }

    /// The ciphertext with its tag.
    pub fn ciphertext(&self) -> &[u8] {
        &self.sealed
    }

    /// The serialized form, which [`EncryptedBlob::from_bytes`] reads.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD_LEN_BYTES + self.sealed.len());
        bytes.push(FORMAT);
        bytes.extend_from_slice(&self.key_id.to_le_bytes());
        bytes.extend_from_slice(&self.wrap_nonce);
        bytes.extend_from_slice(&self.wrapped_key);
        bytes.extend_from_slice(&self.nonce);
        bytes.extend_from_slice(&self.sealed);
        bytes
    }

    /// Reads a serialized blob. [`EnvelopeEncryptor::open`] checks that it is authentic.
    ///
    /// # Errors
    /// [`Error::Crypto`] for a wrong length, [`Error::VersionUnsupported`] for a newer format.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let lengths = HEAD_LEN_BYTES + GCM_TAG_LEN_BYTES..=HEAD_LEN_BYTES + MAX_PLAINTEXT_LEN_BYTES + GCM_TAG_LEN_BYTES;
        if !lengths.contains(&bytes.len()) {
            return Err(Error::Crypto("an encrypted blob has an impossible length"));
        }
        let mut reader = crate::codec::FieldReader::new(bytes);
        match reader.u8()? {
            FORMAT => {}
            found => return Err(Error::VersionUnsupported { what: "an encrypted blob", found, known: FORMAT }),
        }
        Ok(Self {
            key_id: reader.u32()?,
            wrap_nonce: reader.array()?,
            wrapped_key: reader.array()?,
            nonce: reader.array()?,
            sealed: reader.rest().to_vec(),
        })
    }
}

impl fmt::Debug for EncryptedBlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let len_bytes = self.sealed.len();
        f.debug_struct("EncryptedBlob")
            .field("key_id", &self.key_id)
            .field("len_bytes", &len_bytes)
            .finish_non_exhaustive()
    }
}

/// AES-256-GCM envelope encryption with a ring of master keys.
///
/// # Examples
/// ```
/// use hightower_auth::crypto::{AesGcmEncryptor, EnvelopeEncryptor, KeyRing};
/// let encryptor = AesGcmEncryptor::new([42; 32]);
/// let blob = encryptor.seal(b"payload", b"user/7/metadata")?;
/// assert_eq!(encryptor.open(&blob, b"user/7/metadata")?.as_slice(), b"payload");
/// assert!(encryptor.open(&blob, b"user/8/metadata").is_err());
///
/// encryptor.add_key(2, [43; 32])?; // from now on the current one
/// let newer = encryptor.rewrap(&blob, b"user/7/metadata")?.expect("was wrapped by key 1");
/// assert_eq!(newer.key_id(), 2);
/// # Ok::<(), hightower_auth::Error>(())
/// ```
pub struct AesGcmEncryptor {
    ring: RwLock<KeyRing>,
    entropy: Arc<dyn Entropy>,
}

impl AesGcmEncryptor {
    /// An encryptor with one master key, of id 1.
    pub fn new(master_key: [u8; KEY_LEN_BYTES]) -> Self {
        Self::with_ring(KeyRing::single(master_key))
    }

    /// An encryptor with one master key, of id 1, from a slice.
    ///
    /// # Errors
    /// [`Error::Crypto`] unless it is exactly 32 bytes.
    pub fn from_slice(master_key: &[u8]) -> Result<Self> {
        match master_key.try_into() {
            Ok(key) => Ok(Self::new(key)),
            Err(_) => Err(Error::Crypto("a master key has 32 bytes")),
        }
    }

    /// An encryptor with these master keys.
    pub fn with_ring(ring: KeyRing) -> Self {
        Self::with_entropy(ring, Arc::new(OsEntropy))
    }

    /// An encryptor with these master keys, and `entropy` for data keys and nonces.
    pub fn with_entropy(ring: KeyRing, entropy: Arc<dyn Entropy>) -> Self {
        Self { ring: RwLock::new(ring), entropy }
    }

    /// An encryptor with the current keys of `provider`.
    ///
    /// # Errors
    /// The provider's.
    pub fn from_provider(provider: &dyn KeyProvider) -> Result<Self> {
        Ok(Self::with_ring(provider.load()?))
    }

    /// Replaces all keys by the current keys of `provider`. Other threads may use the encryptor
    /// meanwhile.
    ///
    /// # Errors
    /// The provider's. On an error the old keys stay.
    pub fn reload(&self, provider: &dyn KeyProvider) -> Result<()> {
        let ring = provider.load()?;
        *self.ring.write() = ring;
        Ok(())
    }

    /// Adds a master key. The key with the highest id is current.
    ///
    /// # Errors
    /// As [`KeyRing::insert`].
    pub fn add_key(&self, id: MasterKeyId, key: [u8; KEY_LEN_BYTES]) -> Result<()> {
        self.ring.write().insert(id, key)
    }

    /// Removes a retired master key. Re-wrap every record first.
    ///
    /// # Errors
    /// As [`KeyRing::remove`].
    pub fn remove_key(&self, id: MasterKeyId) -> Result<()> {
        self.ring.write().remove(id)
    }

    fn wrap(&self, data_key: &[u8; KEY_LEN_BYTES], associated_data: &[u8]) -> Result<Wrapped> {
        let nonce = random(&*self.entropy)?;
        let ring = self.ring.read();
        let key_id = ring.current_id();
        let sealed = aead::seal(ring.key(key_id)?, &nonce, &wrap_context(key_id, associated_data), data_key)?;
        match sealed.try_into() {
            Ok(wrapped_key) => Ok(Wrapped { key_id, nonce, wrapped_key }),
            Err(_) => Err(Error::Crypto("a wrapped key has an impossible length")),
        }
    }

    fn unwrap_key(&self, blob: &EncryptedBlob, associated_data: &[u8]) -> Result<Zeroizing<[u8; KEY_LEN_BYTES]>> {
        let context = wrap_context(blob.key_id, associated_data);
        let ring = self.ring.read();
        let opened = aead::open(ring.key(blob.key_id)?, &blob.wrap_nonce, &context, &blob.wrapped_key)?;
        let mut key = Zeroizing::new([0; KEY_LEN_BYTES]);
        if opened.len() != KEY_LEN_BYTES {
            return Err(Error::Crypto("a wrapped key has an impossible length"));
        }
        key.copy_from_slice(&opened);
        Ok(key)
    }
}

struct Wrapped {
    key_id: MasterKeyId,
    nonce: [u8; NONCE_LEN_BYTES],
    wrapped_key: [u8; WRAPPED_LEN_BYTES],
}

fn wrap_context(key_id: MasterKeyId, associated_data: &[u8]) -> Vec<u8> {
    [WRAP_LABEL, &key_id.to_le_bytes(), associated_data].concat()
}

fn data_context(associated_data: &[u8]) -> Vec<u8> {
    [DATA_LABEL, associated_data].concat()
}

impl EnvelopeEncryptor for AesGcmEncryptor {
    fn seal(&self, plaintext: &[u8], associated_data: &[u8]) -> Result<EncryptedBlob> {
        if plaintext.len() > MAX_PLAINTEXT_LEN_BYTES {
            return Err(Error::LimitExceeded("data to encrypt is longer than 64 KiB"));
        }
        let data_key = Zeroizing::new(random(&*self.entropy)?);
        let nonce = random(&*self.entropy)?;
        let sealed = aead::seal(&data_key, &nonce, &data_context(associated_data), plaintext)?;
        let wrapped = self.wrap(&data_key, associated_data)?;
        Ok(EncryptedBlob {
            key_id: wrapped.key_id,
            wrap_nonce: wrapped.nonce,
            wrapped_key: wrapped.wrapped_key,
            nonce,
            sealed,
        })
    }

    fn open(&self, blob: &EncryptedBlob, associated_data: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        let data_key = self.unwrap_key(blob, associated_data)?;
        aead::open(&data_key, &blob.nonce, &data_context(associated_data), &blob.sealed)
    }

    fn rewrap(&self, blob: &EncryptedBlob, associated_data: &[u8]) -> Result<Option<EncryptedBlob>> {
        if blob.key_id == self.current_key_id() {
            return Ok(None);
        }
        let data_key = self.unwrap_key(blob, associated_data)?;
        let wrapped = self.wrap(&data_key, associated_data)?;
        Ok(Some(EncryptedBlob {
            key_id: wrapped.key_id,
            wrap_nonce: wrapped.nonce,
            wrapped_key: wrapped.wrapped_key,
            nonce: blob.nonce,
            sealed: blob.sealed.clone(),
        }))
    }

    fn current_key_id(&self) -> MasterKeyId {
        self.ring.read().current_id()
    }
}

impl fmt::Debug for AesGcmEncryptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AesGcmEncryptor").field("ring", &*self.ring.read()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_and_every_cut_is_refused() {
        let encryptor = AesGcmEncryptor::new([1; 32]);
        let bytes = encryptor.seal(b"some metadata", b"place").unwrap().to_bytes();
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let outcome = EncryptedBlob::from_bytes(&changed).and_then(|blob| encryptor.open(&blob, b"place"));
            let kind = outcome.unwrap_err().code();
            let expected = if bit < 8 { "version_unsupported" } else { "crypto" };
            assert_eq!(kind, expected, "bit {bit}");
        }
        for len in 0..bytes.len() {
            let outcome = EncryptedBlob::from_bytes(&bytes[..len]).and_then(|blob| encryptor.open(&blob, b"place"));
            assert_eq!(outcome.unwrap_err().code(), "crypto", "len {len}");
        }
    }

    #[test]
    fn a_blob_is_bound_to_its_place_and_so_is_its_wrapped_key() {
        let encryptor = AesGcmEncryptor::new([1; 32]);
        let here = encryptor.seal(b"here", b"a").unwrap();
        let there = encryptor.seal(b"ther", b"b").unwrap();
        assert!(encryptor.open(&here, b"b").is_err());
        let mixed = EncryptedBlob { nonce: there.nonce, sealed: there.sealed.clone(), ..here.clone() };
        assert!(encryptor.open(&mixed, b"a").is_err());
        assert!(encryptor.open(&mixed, b"b").is_err());
    }

    #[test]
    fn rotation_keeps_the_data_and_frees_the_old_key() {
        let encryptor = AesGcmEncryptor::new([1; 32]);
        let old = encryptor.seal(b"data", b"p").unwrap();
        assert!(encryptor.rewrap(&old, b"p").unwrap().is_none());
        encryptor.add_key(7, [2; 32]).unwrap();
        assert!(encryptor.rewrap(&old, b"q").is_err());
        let new = encryptor.rewrap(&old, b"p").unwrap().unwrap();
        assert_eq!((new.key_id(), new.ciphertext()), (7, old.ciphertext()));
        encryptor.remove_key(1).unwrap();
        assert_eq!(encryptor.open(&new, b"p").unwrap().as_slice(), b"data");
        assert_eq!(encryptor.open(&old, b"p").unwrap_err().code(), "crypto");
    }

    #[test]
    fn data_past_the_limit_is_refused() {
        let encryptor = AesGcmEncryptor::new([1; 32]);
        let longest = vec![0; MAX_PLAINTEXT_LEN_BYTES];
        let blob = encryptor.seal(&longest, b"").unwrap();
        assert_eq!(EncryptedBlob::from_bytes(&blob.to_bytes()).unwrap(), blob);
        let longer = vec![0; MAX_PLAINTEXT_LEN_BYTES + 1];
        assert_eq!(encryptor.seal(&longer, b"").unwrap_err().code(), "limit_exceeded");
    }
}

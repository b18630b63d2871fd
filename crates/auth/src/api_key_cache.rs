//! A cache of verified API keys, with the bytes that were verified.
//!
//! Verification is a pure function of the stored key record, the stored owner record and the
//! presented secret. An entry counts only if the engine's current bytes equal the entry's, so it
//! can neither outlive a revocation nor hide a change. It saves the MACs and the decoding, not the
//! look-ups. For the secret it has a 128-bit tag under a key of this process: AES-256 CBC-MAC,
//! which is a pseudorandom function on inputs of one fixed length, here two blocks.

use std::fmt;
use std::sync::Arc;

use aes::Aes256;
use aes::cipher::{BlockCipherEncrypt, KeyInit};
use hightower_engine::Value;
use hightower_seams::Entropy;
use parking_lot::Mutex;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::entropy::random;
use crate::error::Result;
use crate::record::{StoredApiKey, StoredUser};
use crate::token::SECRET_LEN_BYTES;

/// Longest records in the cache, in bytes, key and owner together.
const MAX_REMEMBERED_LEN_BYTES: usize = 4096;

/// The input and result of one verification.
pub(crate) struct CachedApiKey {
    pub(crate) id: [u8; 16],
    pub(crate) key_bytes: Value,
    pub(crate) owner_bytes: Value,
    pub(crate) key: StoredApiKey,
    pub(crate) owner: StoredUser,
    /// Whether the secret is the one before the last rotation, which is valid for a limited time.
    pub(crate) by_previous_secret: bool,
    secret_tag: [u8; 16],
}

impl CachedApiKey {
    pub(crate) fn is_of(&self, secret_tag: &[u8; 16]) -> bool {
        self.secret_tag.ct_eq(secret_tag).into()
    }
}

/// Number of entries per set.
const WAYS: usize = 4;

/// The entries of one set, the latest first.
type Set = [Option<Arc<CachedApiKey>>; WAYS];

/// A fixed number of entries in sets of four. In sets of one, two keys of the same set would evict
/// each other at every use.
pub(crate) struct ApiKeyCache {
    sets: Box<[Mutex<Set>]>,
    cipher: Aes256,
}

impl ApiKeyCache {
    pub(crate) fn new(entries: usize, entropy: &dyn Entropy) -> Result<Self> {
        let key = Zeroizing::new(random::<32>(entropy)?);
        Ok(Self {
            sets: (0..entries.div_ceil(WAYS)).map(|_| Mutex::default()).collect(),
            cipher: Aes256::new((&*key).into()),
        })
    }

    /// The tag of a secret in this process.
    pub(crate) fn secret_tag(&self, secret: &[u8; SECRET_LEN_BYTES]) -> [u8; 16] {
        let mut state = [0; 16];
        for block in secret.as_chunks::<16>().0 {
            state.iter_mut().zip(block).for_each(|(state, byte)| *state ^= byte);
            let mut encrypted = aes::Block::from(state);
            self.cipher.encrypt_block(&mut encrypted);
            state = encrypted.into();
        }
        state
    }

    pub(crate) fn get(&self, id: &[u8; 16]) -> Option<Arc<CachedApiKey>> {
        let set = self.set(id)?.lock();
        set.iter().flatten().find(|verified| verified.id == *id).cloned()
    }

    #[allow(clippy::too_many_arguments, reason = "one constructor for one private record")]
    pub(crate) fn remember(
        &self,
        id: [u8; 16],
        secret_tag: [u8; 16],
        key_bytes: Value,
        owner_bytes: Value,
        key: StoredApiKey,
        owner: StoredUser,
        by_previous_secret: bool,
    ) -> Arc<CachedApiKey> {
        let small = key_bytes.len() + owner_bytes.len() <= MAX_REMEMBERED_LEN_BYTES;
        let verified =
            Arc::new(CachedApiKey { id, key_bytes, owner_bytes, key, owner, by_previous_secret, secret_tag });
        if let (true, Some(set)) = (small, self.set(&id)) {
            let mut set = set.lock();
            // Replace the entry of the same key, or else the oldest.
            let leaving = set.iter().position(|held| held.as_ref().is_none_or(|held| held.id == id));
            set[..=leaving.unwrap_or(WAYS - 1)].rotate_right(1);
            set[0] = Some(Arc::clone(&verified));
        }
        verified
    }

    /// Removes all entries.
    pub(crate) fn clear(&self) {
        self.sets.iter().for_each(|set| *set.lock() = Set::default());
    }

    fn set(&self, id: &[u8; 16]) -> Option<&Mutex<Set>> {
        // Ids are random, so their low bytes are spread evenly over the sets.
        let low = u32::from_le_bytes([id[0], id[1], id[2], id[3]]) as usize;
        self.sets.get(low.checked_rem(self.sets.len())?)
    }
}

impl fmt::Debug for ApiKeyCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKeyCache").field("sets", &self.sets.len()).finish_non_exhaustive()
    }
}

//! API keys that were verified, remembered together with the very bytes that were verified.
//!
//! Verifying is a pure function of the stored key record, the stored owner record and the secret
//! presented. An entry is used only if the engine's bytes *now* equal the entry's, so it can
//! neither outlive a revocation nor hide a change: it saves the MACs and the decoding, not the
//! look-ups. Of the secret it keeps a 128-bit tag under a key of this process: AES-256 CBC-MAC,
//! which is a pseudorandom function on inputs of one fixed length, here two blocks.

use std::fmt;
use std::sync::Arc;

use aes::Aes256;
use aes::cipher::{BlockCipherEncrypt, KeyInit};
use hightower_engine::Value;
use parking_lot::Mutex;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::error::Result;
use crate::record::{StoredApiKey, StoredUser};
use crate::seam::{Entropy, random};
use crate::token::SECRET_LEN_BYTES;

/// Longest records that are remembered, in bytes, key and owner together.
const MAX_REMEMBERED_LEN_BYTES: usize = 4096;

/// What one verification saw and found.
pub(crate) struct Verified {
    pub(crate) id: [u8; 16],
    pub(crate) key_bytes: Value,
    pub(crate) owner_bytes: Value,
    pub(crate) key: StoredApiKey,
    pub(crate) owner: StoredUser,
    /// Whether the secret was the one before the last rotation, which works for a limited time.
    pub(crate) by_previous_secret: bool,
    secret_tag: [u8; 16],
}

impl Verified {
    pub(crate) fn is_of(&self, secret_tag: &[u8; 16]) -> bool {
        self.secret_tag.ct_eq(secret_tag).into()
    }
}

/// How many keys share a place in the table before one has to make room for another.
const WAYS: usize = 4;

/// The entries of one place in the table, the latest first.
type Set = [Option<Arc<Verified>>; WAYS];

/// A fixed number of entries in sets of four: with one entry per place, keys whose ids happen to
/// share a place would push each other out at every use.
pub(crate) struct VerifiedCache {
    sets: Box<[Mutex<Set>]>,
    cipher: Aes256,
}

impl VerifiedCache {
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

    pub(crate) fn get(&self, id: &[u8; 16]) -> Option<Arc<Verified>> {
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
    ) -> Arc<Verified> {
        let small = key_bytes.len() + owner_bytes.len() <= MAX_REMEMBERED_LEN_BYTES;
        let verified = Arc::new(Verified { id, key_bytes, owner_bytes, key, owner, by_previous_secret, secret_tag });
        if let (true, Some(set)) = (small, self.set(&id)) {
            let mut set = set.lock();
            // The entry of the same key makes room, else the oldest.
            let leaving = set.iter().position(|held| held.as_ref().is_none_or(|held| held.id == id));
            set[..=leaving.unwrap_or(WAYS - 1)].rotate_right(1);
            set[0] = Some(Arc::clone(&verified));
        }
        verified
    }

    /// Forgets everything.
    pub(crate) fn clear(&self) {
        self.sets.iter().for_each(|set| *set.lock() = Set::default());
    }

    fn set(&self, id: &[u8; 16]) -> Option<&Mutex<Set>> {
        // Ids are random, so their low bytes choose sets evenly; only ids that exist come here.
        let low = u32::from_le_bytes([id[0], id[1], id[2], id[3]]) as usize;
        self.sets.get(low.checked_rem(self.sets.len())?)
    }
}

impl fmt::Debug for VerifiedCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifiedCache").field("sets", &self.sets.len()).finish_non_exhaustive()
    }
}

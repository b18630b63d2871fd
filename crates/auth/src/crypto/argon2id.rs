//! Password hashing with Argon2id (RFC 9106): parameters with a floor, an optional pepper, and a
//! limit of concurrent hashes.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use argon2::{Algorithm, Argon2, Block, ParamsBuilder, Version};
use hightower_seams::{Entropy, OsEntropy};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use super::argon2_params::Argon2Params;
use super::gate::Gate;
use super::pepper::Pepper;
use super::phc::{HASH_LEN_BYTES, Phc, SALT_LEN_BYTES};
use crate::entropy::random;
use crate::error::{Error, Result};

const DEFAULT_CONCURRENCY: usize = 4;

/// Hashes and verifies passwords.
pub trait SecretHasher: Send + Sync {
    /// Returns a salted, slow hash of `secret`.
    ///
    /// # Errors
    /// [`Error::Randomness`], [`Error::Crypto`].
    fn hash_secret(&self, secret: &[u8]) -> Result<SecretHash>;

    /// Whether `hash` is a hash of `secret`.
    ///
    /// # Errors
    /// [`Error::Crypto`] if `hash` has another format, or its pepper is missing.
    fn verify_secret(&self, secret: &[u8], hash: &SecretHash) -> Result<bool>;

    /// Whether `hash` is weaker than a new hash, so that the next login should replace it.
    fn needs_rehash(&self, hash: &SecretHash) -> bool;

    /// Returns a new hash that replaces `old` and is not weaker. The default implementation is
    /// [`SecretHasher::hash_secret`].
    ///
    /// # Errors
    /// As [`SecretHasher::hash_secret`].
    fn rehash_secret(&self, secret: &[u8], old: &SecretHash) -> Result<SecretHash> {
        let _old = old;
        self.hash_secret(secret)
    }
}

impl<T: SecretHasher + ?Sized> SecretHasher for Arc<T> {
    fn hash_secret(&self, secret: &[u8]) -> Result<SecretHash> {
        (**self).hash_secret(secret)
    }
    fn verify_secret(&self, secret: &[u8], hash: &SecretHash) -> Result<bool> {
        (**self).verify_secret(secret, hash)
    }
    fn needs_rehash(&self, hash: &SecretHash) -> bool {
        (**self).needs_rehash(hash)
    }
    fn rehash_secret(&self, secret: &[u8], old: &SecretHash) -> Result<SecretHash> {
        (**self).rehash_secret(secret, old)
    }
}

/// The stored form of a password: a PHC string. `Debug` does not show it, and it is zeroized when
/// dropped, because a hash allows offline guessing.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretHash(Zeroizing<String>);

impl SecretHash {
    /// The PHC string.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for SecretHash {
    fn from(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

impl AsRef<str> for SecretHash {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretHash(redacted)")
    }
}

/// Argon2id.
///
/// # Examples
/// ```
/// use hightower_auth::crypto::{Argon2Params, Argon2SecretHasher, SecretHasher};
/// let hasher = Argon2SecretHasher::with_params(Argon2Params::default()).concurrency(2);
/// let hash = hasher.hash_secret(b"correct horse battery staple")?;
/// assert!(hasher.verify_secret(b"correct horse battery staple", &hash)?);
/// assert!(!hasher.verify_secret(b"incorrect horse", &hash)?);
/// # Ok::<(), hightower_auth::Error>(())
/// ```
#[derive(Debug)]
pub struct Argon2SecretHasher {
    params: Argon2Params,
    pepper: Option<Pepper>,
    gate: Gate,
    entropy: Arc<dyn Entropy>,
}

impl Default for Argon2SecretHasher {
    fn default() -> Self {
        Self::new()
    }
}

impl Argon2SecretHasher {
    /// The default parameters, no pepper, at most 4 hashes at once (76 MiB).
    pub fn new() -> Self {
        Self::with_params(Argon2Params::default())
    }

    /// These parameters, no pepper, at most 4 hashes at once.
    pub fn with_params(params: Argon2Params) -> Self {
        Self { params, pepper: None, gate: Gate::new(DEFAULT_CONCURRENCY), entropy: Arc::new(OsEntropy) }
    }

    /// Limits the concurrent hashes to `hashes` (at least 1); other callers wait. The memory is at
    /// most `hashes` times the memory of one hash.
    #[must_use]
    pub fn concurrency(mut self, hashes: usize) -> Self {
        self.gate = Gate::new(hashes);
        self
    }

    /// Adds a pepper to every new hash.
    #[must_use]
    pub fn pepper(mut self, pepper: Pepper) -> Self {
        self.pepper = Some(pepper);
        self
    }

    /// Takes salts from `entropy`.
    #[must_use]
    pub fn entropy(mut self, entropy: Arc<dyn Entropy>) -> Self {
        self.entropy = entropy;
        self
    }

    /// The parameters of new hashes.
    pub fn params(&self) -> Argon2Params {
        self.params
    }

    fn hash_with(&self, params: Argon2Params, secret: &[u8]) -> Result<SecretHash> {
        let salt: [u8; SALT_LEN_BYTES] = random(&*self.entropy)?;
        let mut phc = Phc {
            params,
            pepper: self.pepper.as_ref().map(Pepper::current_id),
            salt: salt.to_vec(),
            hash: [0; HASH_LEN_BYTES],
        };
        self.derive(secret, &mut phc)?;
        Ok(SecretHash::from(phc.to_text()))
    }

    fn derive(&self, secret: &[u8], phc: &mut Phc) -> Result<()> {
        let pepper = match (phc.pepper, &self.pepper) {
            (None, _) => None,
            (Some(id), Some(pepper)) => Some(pepper.secret(id)?),
            (Some(_), None) => return Err(Error::Crypto("the pepper of this password hash is not configured")),
        };
        let _inside = self.gate.enter();
        argon2id(phc.params, pepper.unwrap_or_default(), b"", secret, &phc.salt, &mut phc.hash)
    }
}

impl SecretHasher for Argon2SecretHasher {
    fn hash_secret(&self, secret: &[u8]) -> Result<SecretHash> {
        self.hash_with(self.params, secret)
    }

    /// Uses the parameters of `old` if they are not weaker, so that a change of the pepper does not
    /// weaken a hash.
    fn rehash_secret(&self, secret: &[u8], old: &SecretHash) -> Result<SecretHash> {
        let old = Phc::parse(old.as_str())?.params;
        self.hash_with(if old.weaker_than(self.params) { self.params } else { old }, secret)
    }

    fn verify_secret(&self, secret: &[u8], hash: &SecretHash) -> Result<bool> {
        let stored = Phc::parse(hash.as_str())?;
        let mut computed = stored.clone();
        self.derive(secret, &mut computed)?;
        Ok(computed.hash.ct_eq(&stored.hash).into())
    }

    fn needs_rehash(&self, hash: &SecretHash) -> bool {
        match Phc::parse(hash.as_str()) {
            Ok(phc) => {
                phc.params.weaker_than(self.params) || phc.pepper != self.pepper.as_ref().map(Pepper::current_id)
            }
            Err(_) => true,
        }
    }
}

/// Argon2id, version 0x13, of RFC 9106: `key` is the secret value K, `associated_data` is X. The
/// memory is allocated for this call and zeroized before it is freed.
///
/// # Errors
/// [`Error::Crypto`] for lengths that the RFC excludes.
pub fn argon2id(
    params: Argon2Params,
    key: &[u8],
    associated_data: &[u8],
    password: &[u8],
    salt: &[u8],
    out: &mut [u8],
) -> Result<()> {
    let refused = |_| Error::Crypto("Argon2id refuses the length of an input");
    let mut builder = ParamsBuilder::new();
    builder.m_cost(params.memory_kib).t_cost(params.iterations).p_cost(params.lanes).output_len(out.len());
    if !associated_data.is_empty() {
        builder.data(argon2::AssociatedData::new(associated_data).map_err(refused)?);
    }
    let params = builder.build().map_err(refused)?;
    let mut memory = vec![Block::default(); params.block_count()];
    let argon2 = Argon2::new_with_secret(key, Algorithm::Argon2id, Version::V0x13, params).map_err(refused)?;
    let outcome = argon2.hash_password_into_with_memory(password, salt, out, &mut memory[..]).map_err(refused);
    memory.iter_mut().for_each(Zeroize::zeroize);
    outcome
}

/// The strongest parameters, with one lane, whose hash takes at most `goal` on this machine and at
/// most `memory_limit_kib`. Memory is raised first, then iterations (RFC 9106, section 4). The
/// result is never weaker than the default, even if the default takes longer than `goal`.
///
/// Takes a small multiple of `goal`. Run it alone, because concurrent hashes compete for memory
/// bandwidth.
///
/// # Errors
/// [`Error::Validation`] for a limit below the default's 19 MiB.
pub fn calibrate(goal: Duration, memory_limit_kib: u32) -> Result<Argon2Params> {
    calibrate_by(goal, memory_limit_kib, time_one_hash)
}

#[allow(clippy::disallowed_methods, reason = "measures real time, decides nothing else")]
fn time_one_hash(params: Argon2Params) -> Result<Duration> {
    let start = Instant::now();
    argon2id(params, b"", b"", b"calibration", &[0; SALT_LEN_BYTES], &mut [0; HASH_LEN_BYTES])?;
    Ok(start.elapsed())
}

fn calibrate_by(
    goal: Duration,
    memory_limit_kib: u32,
    mut measure: impl FnMut(Argon2Params) -> Result<Duration>,
) -> Result<Argon2Params> {
    let mut best = Argon2Params::default();
    if memory_limit_kib < best.memory_kib {
        return Err(Error::Validation("calibration needs a memory limit of at least 19 MiB"));
    }
    loop {
        let more = Argon2Params { memory_kib: best.memory_kib.saturating_mul(2), ..best };
        if more.memory_kib > memory_limit_kib || !more.within_ceiling() || measure(more)? > goal {
            break;
        }
        best = more;
    }
    loop {
        let more = Argon2Params { iterations: best.iterations + 1, ..best };
        if !more.within_ceiling() || measure(more)? > goal {
            return Ok(best);
        }
        best = more;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cheap() -> Argon2Params {
        Argon2Params::insecure(8, 1, 1).unwrap()
    }

    #[test]
    fn floors_and_ceilings() {
        for (memory_kib, iterations, lanes, fine) in [
            (47_104, 1, 1, true),
            (47_103, 1, 1, false),
            (19_456, 2, 1, true),
            (19_455, 2, 1, false),
            (7_168, 5, 1, true),
            (7_168, 64, 1, true),
            (7_167, 9, 1, false),
            (47_104, 0, 1, false),
            (47_104, 1, 0, false),
            (47_104, 65, 1, false),
            (4 * 1024 * 1024 + 1, 1, 1, false),
            (47_104, 1, 17, false),
        ] {
            assert_eq!(
                Argon2Params::new(memory_kib, iterations, lanes).is_ok(),
                fine,
                "{memory_kib} {iterations} {lanes}"
            );
        }
    }

    #[test]
    fn peppers_rotate() {
        let plain = Argon2SecretHasher::with_params(cheap());
        let first = Argon2SecretHasher::with_params(cheap()).pepper(Pepper::new(1, vec![1; 16]).unwrap());
        let hash = first.hash_secret(b"secret").unwrap();
        assert!(first.verify_secret(b"secret", &hash).unwrap());
        assert!(!first.needs_rehash(&hash));
        assert!(plain.verify_secret(b"secret", &hash).is_err());
        let mut both = Pepper::new(1, vec![1; 16]).unwrap();
        both.insert(2, vec![2; 16]).unwrap();
        let second = Argon2SecretHasher::with_params(cheap()).pepper(both);
        assert!(second.verify_secret(b"secret", &hash).unwrap());
        assert!(second.needs_rehash(&hash));
        assert!(second.needs_rehash(&plain.hash_secret(b"secret").unwrap()));
        let other = Argon2SecretHasher::with_params(cheap()).pepper(Pepper::new(1, vec![9; 16]).unwrap());
        assert!(!other.verify_secret(b"secret", &hash).unwrap());
    }

    #[test]
    fn weaker_hashes_are_to_be_replaced() {
        let old = Argon2SecretHasher::with_params(cheap()).hash_secret(b"x").unwrap();
        let new = Argon2SecretHasher::with_params(Argon2Params::insecure(16, 1, 1).unwrap());
        assert!(new.needs_rehash(&old));
        assert!(new.verify_secret(b"x", &old).unwrap());
        assert!(!format!("{old:?}").contains("argon2id"));
    }

    /// More lanes or passes with less memory are no reason to replace a hash, and a new pepper must
    /// not make it weaker.
    #[test]
    fn stronger_hashes_are_never_replaced_by_weaker() {
        let with = |memory_kib, iterations, lanes| {
            Argon2SecretHasher::with_params(Argon2Params::insecure(memory_kib, iterations, lanes).unwrap())
        };
        let strong = with(512, 1, 4).hash_secret(b"x").unwrap();
        for weaker in [with(19, 2, 1), with(64, 3, 8), with(256, 4, 1), with(512, 1, 1), with(512, 1, 8)] {
            assert!(!weaker.needs_rehash(&strong), "{:?}", weaker.params());
        }
        assert!(with(512, 2, 1).needs_rehash(&strong) && with(513, 1, 1).needs_rehash(&strong));
        let peppered = with(19, 2, 1).pepper(Pepper::new(1, vec![1; 16]).unwrap());
        assert!(peppered.needs_rehash(&strong));
        let replaced = peppered.rehash_secret(b"x", &strong).unwrap();
        assert!(replaced.as_str().contains("m=512,t=1,p=4") && peppered.verify_secret(b"x", &replaced).unwrap());
    }

    #[test]
    fn calibration_takes_memory_first_and_keeps_the_goal() {
        let cost = |params: Argon2Params| Ok(Duration::from_micros(u64::from(params.memory_kib * params.iterations)));
        let goal = Duration::from_micros(19_456 * 4 * 3 + 5);
        let params = calibrate_by(goal, 100_000, cost).unwrap();
        assert_eq!((params.memory_kib, params.iterations), (19_456 * 4, 3));
        let floor = calibrate_by(Duration::ZERO, 19_456, cost).unwrap();
        assert_eq!(floor, Argon2Params::default());
        assert!(calibrate_by(goal, 19_455, cost).is_err());
    }
}

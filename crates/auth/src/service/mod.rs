//! The service: records on an engine, changed only by conditional batches.
//!
//! Each change reads what it needs, builds one batch that requires every record to be as it was
//! read, adds its audit entry, and commits; if somebody was faster it starts over. So each change
//! is whole or absent, at any concurrency and any crash, without a lock held across the engine.

mod admin;
mod api_keys;
mod audit_search;
mod audit_trail;
mod change;
mod factors;
mod logins;
mod look_alikes;
mod maintenance;
mod permissions;
mod quotas;
mod second_step;
mod sessions;
mod single_use;
mod store_keys;
mod users;

use std::fmt;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use hightower_engine::KvEngine;

pub use admin::AdminService;
pub use api_keys::ApiKeyOptions;
pub use audit_search::{AuditFilter, AuditPage};
pub use audit_trail::MAX_AUDIT_PAGE;
pub use factors::FactorCheck;
pub use logins::{Login, PasswordCheck};
pub use maintenance::{Purged, Rotation};
pub(crate) use permissions::AccessRights;
pub use permissions::Principal;
use quotas::Quotas;
pub use second_step::{Proof, StepUp};
pub use single_use::ResetRequest;
pub use users::MAX_PAGE;

use crate::api_key_cache::ApiKeyCache;
use crate::audit::{Actor, AuditAction, AuditEntry};
use crate::clock::Timestamp;
use crate::crypto::{AesGcmEncryptor, Argon2SecretHasher, EnvelopeEncryptor, SecretHasher};
use crate::error::Result;
use crate::login_delays::GuessCounters;
use crate::options::AuthOptions;
use crate::rate_limiter::KeyedRateLimiter;
use crate::record::{SourceTag, check_label};
use parking_lot::RwLock;
#[cfg(fuzzing)]
pub(crate) use store_keys::Meta;
use store_keys::{ProcessKeys, StoreKeys};

/// Authentication and authorisation on an engine.
///
/// Its calls trust their caller: they are for the program that embeds the service. What others may
/// manage goes through [`AdminService`].
///
/// Cloning is cheap; clones share everything but who they act for (see [`AuthService::acting_as`]
/// and [`AuthService::from_source`]).
pub struct AuthService<E, H, C> {
    shared: Arc<AuthInner<E, H, C>>,
    caller: Arc<CallContext>,
}

impl<E, H, C> Clone for AuthService<E, H, C> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), caller: Arc::clone(&self.caller) }
    }
}

/// Who calls, for the audit trail and the guessing delays.
#[derive(Clone, Debug, Default)]
struct CallContext {
    actor: Actor,
    source: Option<String>,
    /// The generation as of which the caller's authority was checked: changes commit only if it
    /// still is this one.
    guard: Option<u64>,
}

struct AuthInner<E, H, C> {
    engine: E,
    hasher: H,
    crypto: C,
    options: AuthOptions,
    /// Those of the store, as of the last look; and those of this process.
    keys: RwLock<Option<Arc<StoreKeys>>>,
    process_keys: OnceLock<ProcessKeys>,
    guesses: GuessCounters,
    /// Entries of refusals in the trail: by action and tag of the principal, account or source.
    refusals: KeyedRateLimiter<(AuditAction, SourceTag)>,
    /// Writes of counters of wrong passwords: by account.
    persists: KeyedRateLimiter<SourceTag>,
    /// Uses of the engine's reserve by what users and managers do: by principal.
    reserve_uses: KeyedRateLimiter<String>,
    counts: ServiceCounters,
    quotas: Quotas,
}

/// What happened besides the answers, since the service was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct AuthStats {
    /// Last uses of API keys and sessions that could not be written; the requests went through.
    pub last_used_failures: u64,
    /// Commits tried again because another was faster.
    pub commit_retries: u64,
    /// API keys verified without the help of the cache.
    pub api_keys_verified_cold: u64,
    /// Panics of the listener that were contained.
    pub listener_panics: u64,
    /// Refusals without an entry of their own in the audit trail: too many came at once, or the
    /// entry could not be written.
    pub refusals_suppressed: u64,
    /// Passwords that could not be checked, because their hash is broken or its pepper missing.
    /// They were refused as wrong ones are.
    pub passwords_uncheckable: u64,
}

#[derive(Debug, Default)]
struct ServiceCounters {
    last_used_failures: AtomicU64,
    commit_retries: AtomicU64,
    cold: AtomicU64,
    listener_panics: AtomicU64,
    refusals_suppressed: AtomicU64,
    uncheckable: AtomicU64,
}

impl<E: KvEngine, H: SecretHasher, C: EnvelopeEncryptor> AuthService<E, H, C> {
    /// A service with default options. The first call that needs them makes or loads the store's
    /// keys.
    pub fn new(engine: E, hasher: H, crypto: C) -> Self {
        Self::assemble(engine, hasher, crypto, AuthOptions::default())
    }

    /// A service with these options.
    ///
    /// # Errors
    /// [`crate::Error::Validation`] for an option out of range.
    pub fn with_options(engine: E, hasher: H, crypto: C, options: AuthOptions) -> Result<Self> {
        options.validate()?;
        Ok(Self::assemble(engine, hasher, crypto, options))
    }

    fn assemble(engine: E, hasher: H, crypto: C, options: AuthOptions) -> Self {
        let now_ms = options.clock.now_ms();
        let shared = AuthInner {
            engine,
            hasher,
            crypto,
            guesses: GuessCounters::new(options.guess_policy.half_life_ms),
            refusals: KeyedRateLimiter::new(now_ms),
            persists: KeyedRateLimiter::new(now_ms),
            reserve_uses: KeyedRateLimiter::new(now_ms),
            counts: ServiceCounters::default(),
            quotas: Quotas::default(),
            keys: RwLock::default(),
            process_keys: OnceLock::new(),
            options,
        };
        Self { shared: Arc::new(shared), caller: Arc::default() }
    }

    /// This service, acting for `actor`: the audit trail names it.
    #[must_use]
    pub fn acting_as(&self, actor: Actor) -> Self {
        let caller = CallContext { actor, ..(*self.caller).clone() };
        Self { shared: Arc::clone(&self.shared), caller: Arc::new(caller) }
    }

    /// This service, for a request from `source` (an address, say): guessing is counted per source,
    /// and the audit trail names it.
    ///
    /// # Errors
    /// [`crate::Error::Validation`] past 256 bytes or with control characters.
    pub fn from_source(&self, source: &str) -> Result<Self> {
        check_label(Some(source))?;
        let caller = CallContext { source: Some(source.to_owned()), ..(*self.caller).clone() };
        Ok(Self { shared: Arc::clone(&self.shared), caller: Arc::new(caller) })
    }

    /// This service, whose changes commit only as long as the generation is this one.
    fn guarded_by(&self, generation: u64) -> Self {
        let caller = CallContext { guard: Some(generation), ..(*self.caller).clone() };
        Self { shared: Arc::clone(&self.shared), caller: Arc::new(caller) }
    }

    /// The engine below.
    pub fn engine(&self) -> &E {
        &self.shared.engine
    }

    /// The encryptor, to add or remove master keys.
    pub fn encryptor(&self) -> &C {
        &self.shared.crypto
    }

    /// Makes or loads the store's keys now rather than at the first call.
    ///
    /// # Errors
    /// [`crate::Error::Crypto`] if the master key is not the one of this store.
    pub fn prepare(&self) -> Result<()> {
        self.keys().map(drop)
    }

    /// Whether the store has the service's keys. Without them any other call makes them, which a
    /// store that is open for reading only refuses.
    ///
    /// # Errors
    /// The engine's.
    pub fn is_initialised(&self) -> Result<bool> {
        Ok(self.shared.keys.read().is_some() || self.load_meta()?.is_some())
    }

    /// What happened besides the answers.
    pub fn stats(&self) -> AuthStats {
        let counts = &self.shared.counts;
        AuthStats {
            last_used_failures: counts.last_used_failures.load(Ordering::Relaxed),
            commit_retries: counts.commit_retries.load(Ordering::Relaxed),
            api_keys_verified_cold: counts.cold.load(Ordering::Relaxed),
            listener_panics: counts.listener_panics.load(Ordering::Relaxed),
            refusals_suppressed: counts.refusals_suppressed.load(Ordering::Relaxed),
            passwords_uncheckable: counts.uncheckable.load(Ordering::Relaxed),
        }
    }

    /// Tells the listener what was committed; no lock is held here.
    fn tell_listener(&self, entries: &[AuditEntry]) {
        let Some(listener) = &self.options().listener else { return };
        for entry in entries {
            let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| listener.committed(entry)));
            if told.is_err() {
                self.shared.counts.listener_panics.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn options(&self) -> &AuthOptions {
        &self.shared.options
    }

    fn now_ms(&self) -> Timestamp {
        self.shared.options.clock.now_ms()
    }

    fn cache(&self) -> Result<&ApiKeyCache> {
        Ok(&self.process_keys()?.verified)
    }
}

/// A service with the usual parts: Argon2id for passwords, AES-256-GCM for what is encrypted.
///
/// # Examples
/// ```
/// use hightower_auth::{AuthService, DefaultAuthService};
/// use hightower_engine::{SingleNodeEngine, StoreConfig};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = tempfile::tempdir()?;
/// let engine = SingleNodeEngine::with_config(StoreConfig::at(directory.path()))?;
/// let auth: DefaultAuthService<_> = AuthService::open(engine, [7; 32])?;
/// auth.create_user("Alice", "violet teapot orbit 9")?;
/// # Ok(())
/// # }
/// ```
pub type DefaultAuthService<E> = AuthService<E, Argon2SecretHasher, AesGcmEncryptor>;

impl<E: KvEngine> DefaultAuthService<E> {
    /// A service with the usual parts and default options, under this master key. Makes or loads
    /// the store's keys.
    ///
    /// # Errors
    /// [`crate::Error::Crypto`] if the master key is not the one of this store; the engine's.
    pub fn open(engine: E, master_key: [u8; 32]) -> Result<Self> {
        let service = Self::new(engine, Argon2SecretHasher::new(), AesGcmEncryptor::new(master_key));
        service.prepare()?;
        Ok(service)
    }
}

impl<E, H, C> fmt::Debug for AuthService<E, H, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthService")
            .field("caller", &self.caller)
            .field("options", &self.shared.options)
            .finish_non_exhaustive()
    }
}

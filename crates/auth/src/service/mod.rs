//! The service: records on an engine, changed only by conditional batches.
//!
//! Each change reads its records, builds one batch that requires them to be unchanged, adds its
//! audit entry, and commits. After a conflict it starts over. So each change is atomic under
//! concurrency and in a crash, and no lock is held during a call of the engine.

mod admin;
mod api_keys;
mod audit_search;
mod audit_trail;
mod change;
mod factors;
mod key_loading;
mod logins;
mod look_alikes;
mod maintenance;
mod permissions;
mod quota_counts;
mod quotas;
mod records;
mod second_step;
mod sessions;
mod single_use;
mod store_keys;
mod users;

use std::fmt;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use hightower_engine::{Keyspace, KeyspaceEngine};

pub use admin::AdminService;
pub use api_keys::ApiKeyOptions;
pub use audit_search::{AuditFilter, AuditPage};
pub use audit_trail::MAX_AUDIT_PAGE;
pub use factors::FactorCheck;
pub use logins::{Login, PasswordCheck};
pub use maintenance::{Purged, Rotation};
pub(crate) use permissions::AccessRights;
pub use permissions::Principal;
use quota_counts::QuotaCounts;
use records::ServiceRecords;
pub use second_step::{Proof, StepUp};
pub use single_use::ResetRequest;
pub use users::MAX_PAGE;

use crate::api_key_cache::ApiKeyCache;
use crate::audit::{Actor, AuditAction, AuditEntry};
use crate::crypto::{AesGcmEncryptor, Argon2SecretHasher, EnvelopeEncryptor, SecretHasher};
use crate::error::Result;
use crate::login_delays::GuessCounters;
use crate::options::AuthOptions;
use crate::rate_limiter::KeyedRateLimiter;
use crate::record::{SourceTag, check_label};
use crate::record_keys;
use crate::timestamp::Timestamp;
use parking_lot::RwLock;
#[cfg(fuzzing)]
pub(crate) use store_keys::Meta;
use store_keys::{ProcessKeys, StoreKeys};

/// Authentication and authorisation on an engine.
///
/// Its calls trust their caller, the embedding program. Use [`AdminService`] for calls with the
/// rights of a principal.
///
/// Cloning is cheap; clones share everything except the actor and the source
/// ([`AuthService::acting_as`], [`AuthService::from_source`]).
pub struct AuthService<E, H, C> {
    shared: Arc<AuthInner<E, H, C>>,
    caller: Arc<CallContext>,
}

impl<E, H, C> Clone for AuthService<E, H, C> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), caller: Arc::clone(&self.caller) }
    }
}

/// The caller, for the audit trail and the guessing delays.
#[derive(Clone, Debug, Default)]
struct CallContext {
    actor: Actor,
    source: Option<String>,
    /// The generation of the check of the caller's rights: changes commit only if the generation is
    /// unchanged.
    guard: Option<u64>,
}

struct AuthInner<E, H, C> {
    engine: E,
    /// The keyspace of the records.
    records: Keyspace<()>,
    hasher: H,
    crypto: C,
    options: AuthOptions,
    /// The keys of the store, as of the last read, and the keys of this process.
    keys: RwLock<Option<Arc<StoreKeys>>>,
    process_keys: OnceLock<ProcessKeys>,
    guesses: GuessCounters,
    /// Entries of refusals in the trail: by action and tag of the principal, account or source.
    refusals: KeyedRateLimiter<(AuditAction, SourceTag)>,
    /// Writes of counters of wrong passwords: by account.
    persists: KeyedRateLimiter<SourceTag>,
    /// Uses of the engine's reserve in calls of users and managers: by principal.
    reserve_uses: KeyedRateLimiter<String>,
    counts: ServiceCounters,
    quotas: QuotaCounts,
}

/// Counters of events since the creation of the service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct AuthStats {
    /// Failed writes of the last use of an API key or session. The requests themselves succeeded.
    pub last_used_failures: u64,
    /// Commits repeated after a conflict.
    pub commit_retries: u64,
    /// API keys verified without the cache.
    pub api_keys_verified_cold: u64,
    /// Caught panics of the listener.
    pub listener_panics: u64,
    /// Refusals without an audit entry, because of the rate limiter or a failed write.
    pub refusals_suppressed: u64,
    /// Passwords that could not be checked, because the hash is broken or its pepper is missing.
    /// They were refused like wrong passwords.
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

impl<E: KeyspaceEngine, H: SecretHasher, C: EnvelopeEncryptor> AuthService<E, H, C> {
    /// A service with default options. The first call that needs the store's keys creates or loads
    /// them.
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
            records: record_keys::records(),
            hasher,
            crypto,
            guesses: GuessCounters::new(options.guess_policy.half_life_ms),
            refusals: KeyedRateLimiter::new(now_ms),
            persists: KeyedRateLimiter::new(now_ms),
            reserve_uses: KeyedRateLimiter::new(now_ms),
            counts: ServiceCounters::default(),
            quotas: QuotaCounts::default(),
            keys: RwLock::default(),
            process_keys: OnceLock::new(),
            options,
        };
        Self { shared: Arc::new(shared), caller: Arc::default() }
    }

    /// The service with `actor` as the actor of its audit entries.
    #[must_use]
    pub fn acting_as(&self, actor: Actor) -> Self {
        let caller = CallContext { actor, ..(*self.caller).clone() };
        Self { shared: Arc::clone(&self.shared), caller: Arc::new(caller) }
    }

    /// The service with `source` (for instance a network address) as the source of its requests.
    /// Failures are counted per source, and audit entries contain the source.
    ///
    /// # Errors
    /// [`crate::Error::Validation`] if the source is longer than 256 bytes or has control
    /// characters.
    pub fn from_source(&self, source: &str) -> Result<Self> {
        check_label(Some(source))?;
        let caller = CallContext { source: Some(source.to_owned()), ..(*self.caller).clone() };
        Ok(Self { shared: Arc::clone(&self.shared), caller: Arc::new(caller) })
    }

    /// The service with a guard: its changes commit only while the generation is unchanged.
    fn guarded_by(&self, generation: u64) -> Self {
        let caller = CallContext { guard: Some(generation), ..(*self.caller).clone() };
        Self { shared: Arc::clone(&self.shared), caller: Arc::new(caller) }
    }

    pub(crate) fn records(&self) -> ServiceRecords<'_, E> {
        ServiceRecords::new(&self.shared.engine, &self.shared.records)
    }

    /// The engine.
    pub fn engine(&self) -> &E {
        &self.shared.engine
    }

    /// The encryptor, for adding and removing master keys.
    pub fn encryptor(&self) -> &C {
        &self.shared.crypto
    }

    /// Creates or loads the store's keys now instead of in the first call.
    ///
    /// # Errors
    /// [`crate::Error::Crypto`] if the master key is not the one of this store.
    pub fn prepare(&self) -> Result<()> {
        self.keys().map(drop)
    }

    /// Whether the store has the service's keys. Any other call creates missing keys, which fails
    /// in a read-only store.
    ///
    /// # Errors
    /// The engine's.
    pub fn is_initialised(&self) -> Result<bool> {
        Ok(self.shared.keys.read().is_some() || self.load_meta()?.is_some())
    }

    /// The counters of events.
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

    /// Passes committed entries to the listener. No lock is held.
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

/// A service with the default parts: Argon2id for passwords, AES-256-GCM for encryption.
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

impl<E: KeyspaceEngine> DefaultAuthService<E> {
    /// A service with the default parts and options under `master_key`. Creates or loads the
    /// store's keys.
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

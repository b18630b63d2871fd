//! Settings of the service, its clock, its source of random bytes and its listener.

use std::sync::Arc;

use hightower_seams::{Clock, SystemClock};
use hightower_seams::{Entropy, OsEntropy};

use crate::error::{Error, Result};
use crate::factor::TotpOptions;
use crate::listener::AuditListener;
use crate::login_delays::GuessPolicy;
use crate::password::PasswordPolicy;
use crate::single_use::TokenLifetimes;
use crate::username::LookAlikes;

/// Settings of an `AuthService`. Start from [`AuthOptions::default`] and set fields.
///
/// # Examples
/// ```
/// use hightower_auth::{AuthOptions, PasswordPolicy};
/// let options = AuthOptions { password_policy: PasswordPolicy::with_lengths(12, 128)?, ..AuthOptions::default() };
/// assert_eq!(options.session_idle_ms, 30 * 60 * 1000);
/// # Ok::<(), hightower_auth::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct AuthOptions {
    /// Rules for new passwords.
    pub password_policy: PasswordPolicy,
    /// Whether a new username may look like an existing one; default: no.
    pub look_alikes: LookAlikes,
    /// Delays after wrong passwords.
    pub guess_policy: GuessPolicy,
    /// Idle time after which a session ends, in ms; default 30 min.
    pub session_idle_ms: i64,
    /// Time after the login at which a session ends, in ms; default 12 h.
    pub session_absolute_ms: i64,
    /// Maximum number of sessions per user, 1 to 1,024; default 64. A new session ends the oldest.
    pub max_sessions_per_user: usize,
    /// Maximum number of API keys per user, 1 to 8,192; default 256.
    pub max_api_keys_per_user: usize,
    /// Minimum interval between writes of the last use of an API key or session, in ms; default 1
    /// min. 0 writes each use. At most half of `session_idle_ms`, because a session in use must not
    /// expire.
    pub last_used_interval_ms: i64,
    /// Capacity of the cache of verified API keys; 0 for none, default 16,384.
    pub verified_cache_entries: usize,
    /// Parameters of one-time passwords.
    pub totp: TotpOptions,
    /// Lifetimes of single-use tokens.
    pub token_lifetimes: TokenLifetimes,
    /// Receives each entry of the audit trail after its commit; default none.
    pub listener: Option<Arc<dyn AuditListener>>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// The source of ids, secrets and tokens.
    pub entropy: Arc<dyn Entropy>,
}

impl Default for AuthOptions {
    fn default() -> Self {
        Self {
            password_policy: PasswordPolicy::default(),
            look_alikes: LookAlikes::default(),
            guess_policy: GuessPolicy::default(),
            session_idle_ms: 30 * 60 * 1000,
            session_absolute_ms: 12 * 60 * 60 * 1000,
            max_sessions_per_user: 64,
            max_api_keys_per_user: 256,
            last_used_interval_ms: 60 * 1000,
            verified_cache_entries: 16_384,
            totp: TotpOptions::default(),
            token_lifetimes: TokenLifetimes::default(),
            listener: None,
            clock: Arc::new(SystemClock::new()),
            entropy: Arc::new(OsEntropy),
        }
    }
}

impl AuthOptions {
    /// Checks every range.
    ///
    /// # Errors
    /// [`Error::Validation`] for a setting out of range.
    pub fn validate(&self) -> Result<()> {
        self.totp.validate()?;
        self.token_lifetimes.validate()?;
        if self.session_idle_ms <= 0 || self.session_absolute_ms <= 0 || self.last_used_interval_ms < 0 {
            return Err(Error::Validation(
                "session_idle_ms, session_absolute_ms and last_used_interval_ms must not be negative or 0",
            ));
        }
        if !(1..=1024).contains(&self.max_sessions_per_user) || !(1..=8192).contains(&self.max_api_keys_per_user) {
            return Err(Error::Validation("max_sessions_per_user is 1 to 1024, and max_api_keys_per_user 1 to 8192"));
        }
        if self.last_used_interval_ms > self.session_idle_ms / 2 {
            return Err(Error::Validation("last_used_interval_ms is at most half of session_idle_ms"));
        }
        self.guess_policy.validate()
    }
}

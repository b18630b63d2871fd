//! Settings of the service, and the parts it is made of besides engine, hasher and encryptor.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::factor::TotpOptions;
use crate::guess::GuessPolicy;
use crate::listener::AuditListener;
use crate::password::PasswordPolicy;
use crate::seam::{Clock, Entropy, OsEntropy, SystemClock};
use crate::single_use::TokenLifetimes;
use crate::username::LookAlikes;

/// Settings of an `AuthService`; start from [`AuthOptions::default`] and change fields.
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
    /// What to do about a new username that looks like another; default: refuse it.
    pub look_alikes: LookAlikes,
    /// Delays for guessing.
    pub guess_policy: GuessPolicy,
    /// A session ends after this long without use, in ms; default 30 min.
    pub session_idle_ms: i64,
    /// A session ends this long after its login, in ms; default 12 h.
    pub session_absolute_ms: i64,
    /// Most sessions of one user; the oldest ends for a new one. 1 to 1024, default 64.
    pub max_sessions_per_user: usize,
    /// Most API keys of one user. 1 to 8192, default 256.
    pub max_api_keys_per_user: usize,
    /// Last use of an API key or session is written at most once in this time, in ms; 0 for at each use, at most half of
    /// `session_idle_ms`, so that a session that is used does not end; default 1 min.
    pub last_used_interval_ms: i64,
    /// How many verified API keys are remembered, with the bytes that were verified; 0 for none, default 16,384.
    pub verified_cache_entries: usize,
    /// How one-time passwords are made and checked.
    pub totp: TotpOptions,
    /// How long single-use tokens count.
    pub token_lifetimes: TokenLifetimes,
    /// Hears of each entry of the audit trail once it is committed; default none.
    pub listener: Option<Arc<dyn AuditListener>>,
    /// Where the time comes from.
    pub clock: Arc<dyn Clock>,
    /// Where ids, secrets and tokens come from.
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
            clock: Arc::new(SystemClock),
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
            return Err(Error::Validation("session and last-used times must be positive"));
        }
        if !(1..=1024).contains(&self.max_sessions_per_user) || !(1..=8192).contains(&self.max_api_keys_per_user) {
            return Err(Error::Validation("1 to 1024 sessions and 1 to 8192 API keys per user are possible"));
        }
        if self.last_used_interval_ms > self.session_idle_ms / 2 {
            return Err(Error::Validation("the interval of last uses is at most half of the idle time of a session"));
        }
        self.guess_policy.validate()
    }
}

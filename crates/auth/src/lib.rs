//! Users, passwords, sessions, API keys, permissions and an audit trail, on any Hightower KV
//! engine.
//!
//! An [`AuthService`] stores its records in an engine, in a [keyspace](records) of their own, which no
//! key of a user reaches, and changes them only by conditional batches: each change is atomic, also
//! under concurrency and in a crash.
//! Records are authenticated and metadata is encrypted. Records that the service did not write are
//! refused ([`Error::Crypto`]).
//!
//! docs/SECURITY.md lists the attacks, the defences, what stays open, and the sources of the
//! parameters.
//!
//! # Example
//!
//! ```
//! use hightower_auth::{Action, AuthorizedEngine, Grant, IntoAuthService, KeyRange, Login};
//! use hightower_engine::{KvEngine, SingleNodeEngine, StoreConfig};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let directory = tempfile::tempdir()?;
//! let engine = SingleNodeEngine::with_config(StoreConfig::at(directory.path()))?;
//! let (_engine, auth) = engine.into_argon2_hasher_aes_gcm_auth_service([7; 32]);
//!
//! // A user who may read and write jobs.
//! auth.set_role("operator", &[Grant::new([Action::Read, Action::Write], KeyRange::prefix("jobs/"))?])?;
//! let user = auth.create_user("Alice", "violet teapot orbit 9")?;
//! auth.set_user_roles(&user.user_id, &["operator".into()])?;
//!
//! // A person logs in; a program has a key.
//! let Login::Accepted { token, .. } = auth.login("alice", "violet teapot orbit 9")? else { panic!() };
//! let (_record, api_key) = auth.create_api_key(&user.user_id, Some("ci"))?;
//! assert!(auth.authenticate_api_key(&api_key)?.is_some());
//!
//! // A view of the engine has the principal's rights.
//! let principal = auth.authenticate(&token)?.ok_or("the session has just begun")?;
//! let view = AuthorizedEngine::new(&auth, principal);
//! view.put(b"jobs/7", b"queued")?;
//! assert!(view.get(b"secrets/root").is_err());
//! # Ok(())
//! # }
//! ```
//!
//! # What it is not
//!
//! This crate is no identity provider. It has no HTTP, OAuth, LDAP or WebAuthn, and sends no mail;
//! the transport is the caller's.
//!
//! # At a glance
//!
//! | | |
//! | --- | --- |
//! | limits | names of up to 64 code points, passwords of 15 to 256 characters by default, 64 sessions and 256 API keys per user by default (at most 1,024 and 8,192), 64 roles per user, 256 grants per role, 64 KiB of metadata |
//! | durability | each change has the durability of the engine's store |
//! | memory | the engine's memory for the keys; a cache of up to 16,384 verified API keys (`verified_cache_entries`); the use of up to 4,096 ranges with quotas; 19 MiB per running password hash by default |
//! | threads | `AuthService` and `AuthorizedEngine` are `Sync`; all calls may run concurrently |
//! | features | none. In `hightower-kv` the whole crate is the feature `auth` |
//! | format | records carry a version; an unknown one is refused |

#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod api_key_cache;
mod audit;
mod authorized;
mod codec;
pub mod crypto;
mod entropy;
mod error;
mod factor;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod hex;
mod id;
mod listener;
mod login_delays;
mod options;
mod password;
mod permission;
mod quota;
mod rate_limiter;
mod record;
mod record_keys;
mod record_mac;
mod role_names;
mod service;
mod single_use;
mod timestamp;
mod token;
mod username;

use hightower_seams::mutants;
pub use hightower_seams::{Clock, Entropy, OsEntropy, SystemClock};

pub use audit::{Actor, AuditAction, AuditAnchor, AuditEntry, AuditHash, AuditOutcome, AuditVerdict};
pub use authorized::{AuthorizedEngine, IntoAuthService};
pub use crypto::{
    AesGcmEncryptor, Argon2Params, Argon2SecretHasher, EncryptedBlob, EnvelopeEncryptor, KeyProvider, KeyRing, Pepper,
    SecretHash, SecretHasher,
};
pub use error::{Error, Result};
pub use factor::{
    Enrolment, Factor, FactorPolicy, FactorStatus, FactorUse, MAX_TOTP_WINDOW_STEPS, RECOVERY_CODES, TotpAlgorithm,
    TotpOptions,
};
pub use id::{ApiKeyId, SessionId, UserId};
pub use listener::AuditListener;
pub use login_delays::GuessPolicy;
pub use options::AuthOptions;
pub use password::{BreachCheck, MAX_PASSWORD_LEN_BYTES, MIN_PASSWORD_FLOOR, PasswordPolicy};
pub use permission::{Action, Grant, KeyRange, MAX_GRANT_KEY_LEN_BYTES, MAX_GRANTS, PermissionSet};
pub use quota::{Quota, QuotaUse};
pub use record::{ApiKeyAccess, ApiKeyRecord, MAX_LABEL_LEN_BYTES, RoleRecord, SessionRecord, UserRecord};
pub use record_keys::records;
pub use role_names::{MAX_ROLE_NAME_LEN_BYTES, MAX_ROLES};
pub use service::{
    AdminService, ApiKeyOptions, AuditFilter, AuditPage, AuthService, AuthStats, DefaultAuthService, FactorCheck,
    Login, MAX_AUDIT_PAGE, MAX_PAGE, PasswordCheck, Principal, Proof, Purged, ResetRequest, Rotation, StepUp,
};
pub use single_use::{MAX_TOKEN_LIFETIME_MS, MAX_TOKENS_PER_PURPOSE, TokenLifetimes, TokenPurpose, TokenRecord};
pub use timestamp::Timestamp;
pub use token::{SECRET_LEN_BYTES, Token};
pub use username::{LookAlikes, MAX_USERNAME_CODE_POINTS, MAX_USERNAME_LEN_BYTES, normalize_username};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

//! Users, passwords, sessions, API keys, permissions and an audit trail, on any Hightower KV engine.
//!
//! An [`AuthService`] keeps its records in the engine that it is given, under one reserved prefix,
//! and changes them only by conditional batches: each change is whole or absent, at any
//! concurrency and any crash. Records as a whole are authenticated and metadata is encrypted, so
//! that what was not written by the service is refused ([`ErrorKind::Crypto`]).
//!
//! What it defends against, what it does not, and where its parameters come from: docs/SECURITY.md.
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
//! // Somebody who may read and write jobs.
//! auth.set_role("operator", &[Grant::new([Action::Read, Action::Write], KeyRange::prefix("jobs/"))?])?;
//! let user = auth.create_user("Alice", "violet teapot orbit 9")?;
//! auth.set_user_roles(&user.user_id, &["operator".into()])?;
//!
//! // A person logs in; a program has a key.
//! let Login::Accepted { token, .. } = auth.login("alice", "violet teapot orbit 9")? else { panic!() };
//! let (_record, api_key) = auth.create_api_key(&user.user_id, Some("ci"))?;
//! assert!(auth.authenticate_api_key(&api_key)?.is_some());
//!
//! // And each sees the engine as far as it may.
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
//! An identity provider. It speaks no HTTP, OAuth or LDAP, sends no mail, and knows no WebAuthn; the transport is the caller's.
//!
//! # At a glance
//!
//! | | |
//! | --- | --- |
//! | limits | names of up to 64 code points, passwords of 15 to 256 characters by default, 64 sessions and 256 API keys a user by default (at most 1,024 and 8,192), 64 roles a user, 256 grants a role, 64 KiB of metadata |
//! | durability | each change has the level of the engine's store |
//! | memory | what the engine takes for the keys; up to 16,384 verified API keys are remembered (`verified_cache_entries`), and the use of up to 4,096 ranges with quotas; each running password hash takes 19 MiB by default |
//! | threads | `AuthService` and `AuthorizedEngine` are shared; all calls may run at once |
//! | features | none. In `hightower-kv` the whole crate is the feature `auth` |
//! | format | records carry a version; an unknown one is refused |

#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod audit;
mod authorized;
mod codec;
pub mod crypto;
mod error;
mod factor;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod guess;
mod hex;
mod id;
mod layout;
mod listener;
mod options;
mod password;
mod permission;
mod quota;
mod record;
mod sealed;
mod seam;
mod service;
mod single_use;
mod token;
mod username;
mod verified;

use hightower_seams::mutants;

pub use audit::{Actor, AuditAction, AuditAnchor, AuditEntry, AuditHash, AuditOutcome, AuditVerdict};
pub use authorized::{AuthorizedEngine, IntoAuthService};
pub use crypto::{
    AesGcmEncryptor, Argon2Params, Argon2SecretHasher, EncryptedBlob, EnvelopeEncryptor, KeyProvider, KeyRing, Pepper,
    SecretHash, SecretHasher,
};
pub use error::{Error, ErrorKind, Result};
pub use factor::{
    Enrolment, Factor, FactorPolicy, FactorStatus, FactorUse, MAX_TOTP_WINDOW_STEPS, RECOVERY_CODES, TotpAlgorithm,
    TotpOptions,
};
pub use guess::GuessPolicy;
pub use id::{ApiKeyId, SessionId, UserId};
pub use layout::{RESERVED_PREFIX, reserved_keys};
pub use listener::AuditListener;
pub use options::AuthOptions;
pub use password::{BreachCheck, MAX_PASSWORD_LEN_BYTES, MIN_PASSWORD_FLOOR, PasswordPolicy};
pub use permission::{Action, Grant, KeyRange, MAX_GRANT_KEY_LEN_BYTES, MAX_GRANTS, PermissionSet};
pub use quota::{Quota, QuotaUse};
pub use record::{
    ApiKeyAccess, ApiKeyRecord, MAX_LABEL_LEN_BYTES, MAX_ROLE_NAME_LEN_BYTES, MAX_ROLES, RoleRecord, SessionRecord,
    UserRecord,
};
pub use seam::{Clock, Entropy, OsEntropy, SystemClock, Timestamp};
pub use service::{
    AdminService, ApiKeyOptions, AuditFilter, AuditPage, AuthService, AuthStats, DefaultAuthService, FactorCheck,
    Login, MAX_AUDIT_PAGE, MAX_PAGE, PasswordCheck, Principal, Proof, Purged, ResetRequest, Rotation, StepUp,
};
pub use single_use::{MAX_TOKEN_LIFETIME_MS, MAX_TOKENS_PER_PURPOSE, TokenLifetimes, TokenPurpose, TokenRecord};
pub use token::{SECRET_LEN_BYTES, Token};
pub use username::{LookAlikes, MAX_USERNAME_CODE_POINTS, MAX_USERNAME_LEN_BYTES, normalize_username};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

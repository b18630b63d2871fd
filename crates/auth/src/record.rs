//! Users, API keys, sessions and roles: the stored forms and the public forms.
//!
//! The stored forms contain hashes and are private. The public forms contain nothing that helps to
//! guess a secret.

use subtle::ConstantTimeEq;

use crate::codec::{FieldReader, FieldWriter};
use crate::crypto::{SecretHash, TAG_LEN_BYTES};
use crate::error::{Error, Result};
use crate::factor::{Factor, FactorUse, decode_uses, encode_uses};
use crate::id::{ApiKeyId, SessionId, UserId};
use crate::permission::{Grant, decode_grants, encode_grants};
use crate::role_names::{decode_names, encode_names};
use crate::timestamp::Timestamp;
use crate::username::disturbs_text;

/// Longest label of an API key or source of a request, in bytes.
pub const MAX_LABEL_LEN_BYTES: usize = 256;
/// Number of remembered sources of a user's successful logins.
pub(crate) const MAX_TRUSTED_SOURCES: usize = 8;

/// User records are padded to a multiple of this length, in bytes. So nearly all user records have
/// one length, and a login takes the same time for each.
const USER_UNIT_BYTES: usize = 256;

/// A 128-bit keyed tag of a name or a source.
pub(crate) type SourceTag = [u8; 16];

/// A user, without data that helps to guess the password.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct UserRecord {
    /// The id, which never changes.
    pub user_id: UserId,
    /// The name as given, trimmed.
    pub username: String,
    /// Whether the user is disabled: its logins, sessions and API keys are refused.
    pub disabled: bool,
    /// The roles, sorted.
    pub roles: Vec<String>,
    /// Whether the user has encrypted metadata; see `AuthService::decrypt_user_metadata`.
    pub has_metadata: bool,
    /// When the user was created, in Unix ms.
    pub created_at_ms: Timestamp,
    /// When the password was last set, in Unix ms.
    pub password_changed_at_ms: Timestamp,
    /// When a right password was last presented, in Unix ms.
    pub last_login_ms: Option<Timestamp>,
}

#[derive(Clone, Debug)]
pub(crate) struct StoredUser {
    pub(crate) public: UserRecord,
    pub(crate) normal_name: String,
    /// The epoch of the user's sessions. Each session has the epoch of its start; raising the
    /// user's epoch ends all sessions.
    pub(crate) epoch: u64,
    /// The epoch of the counter of wrong passwords. Raising it clears the account's delays.
    pub(crate) guess_epoch: u64,
    /// The epoch of the counter of wrong codes. It is separate, so that a password reset by mail
    /// does not clear the delays after wrong codes.
    pub(crate) code_epoch: u64,
    pub(crate) password_hash: SecretHash,
    /// Sources of recent successful logins, latest first.
    pub(crate) trusted: Vec<SourceTag>,
}

impl StoredUser {
    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        let user = &self.public;
        let mut writer = FieldWriter::default();
        writer.u8(user.disabled.into()).u64(self.epoch).u64(self.guess_epoch).u64(self.code_epoch);
        writer.i64(user.created_at_ms).i64(user.password_changed_at_ms);
        writer.optional_i64(user.last_login_ms);
        writer.bytes(user.username.as_bytes())?.bytes(self.normal_name.as_bytes())?;
        writer.bytes(self.password_hash.as_str().as_bytes())?;
        encode_names(&user.roles, &mut writer)?;
        writer.bytes(&self.trusted.concat())?;
        writer.u8(user.has_metadata.into());
        Ok(writer.finish_padded(USER_UNIT_BYTES))
    }

    pub(crate) fn decode(id: [u8; 16], mut reader: FieldReader<'_>) -> Result<Self> {
        let disabled = reader.flag()?;
        let (epoch, guess_epoch, code_epoch) = (reader.u64()?, reader.u64()?, reader.u64()?);
        let (created_at_ms, password_changed_at_ms) = (reader.i64()?, reader.i64()?);
        let last_login_ms = reader.optional_i64()?;
        let (username, normal_name) = (reader.text()?.to_owned(), reader.text()?.to_owned());
        let password_hash = SecretHash::from(reader.text()?.to_owned());
        let roles = decode_names(&mut reader)?;
        let trusted = reader.bytes()?.as_chunks().0.to_vec();
        let has_metadata = reader.flag()?;
        reader.end_padded()?;
        let user_id = UserId::from_bytes(id);
        let public = UserRecord {
            user_id,
            username,
            disabled,
            roles,
            has_metadata,
            created_at_ms,
            password_changed_at_ms,
            last_login_ms,
        };
        Ok(Self { public, normal_name, epoch, guess_epoch, code_epoch, password_hash, trusted })
    }
}

/// The rights of an API key. It never has more rights than its owner.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ApiKeyAccess {
    /// All rights of the owner.
    #[default]
    LikeOwner,
    /// The rights that both the owner and these roles and grants have; none if both lists are
    /// empty.
    Limited {
        /// Names of roles.
        roles: Vec<String>,
        /// Grants of the key itself.
        grants: Vec<Grant>,
    },
}

/// An API key, without its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ApiKeyRecord {
    /// The id, which is also the beginning of the token.
    pub key_id: ApiKeyId,
    /// The owner.
    pub owner_id: UserId,
    /// A note for people.
    pub label: Option<String>,
    /// The limits of the key's rights.
    pub access: ApiKeyAccess,
    /// Whether the key has encrypted metadata; see `AuthService::decrypt_api_key_metadata`.
    pub has_metadata: bool,
    /// When the key was created, in Unix ms.
    pub created_at_ms: Timestamp,
    /// When the key expires, in Unix ms.
    pub expires_at_ms: Option<Timestamp>,
    /// The approximate time of the last use, in Unix ms; written at most once per
    /// `last_used_interval_ms`.
    pub last_used_ms: Option<Timestamp>,
    /// When the secret before the last rotation expires, in Unix ms.
    pub previous_secret_until_ms: Option<Timestamp>,
}

#[derive(Clone, Debug)]
pub(crate) struct StoredApiKey {
    pub(crate) public: ApiKeyRecord,
    pub(crate) secret_mac: [u8; TAG_LEN_BYTES],
    pub(crate) previous_mac: [u8; TAG_LEN_BYTES],
}

impl StoredApiKey {
    /// Whether `mac` is that of a valid secret: the current one, or the previous one during the
    /// overlap of a rotation.
    pub(crate) fn has_secret(&self, mac: &[u8; TAG_LEN_BYTES]) -> bool {
        let previous = self.public.previous_secret_until_ms.is_some() && bool::from(self.previous_mac.ct_eq(mac));
        bool::from(self.secret_mac.ct_eq(mac)) || previous
    }

    /// When this secret expires, if it does.
    pub(crate) fn expiry_of(&self, mac: &[u8; TAG_LEN_BYTES]) -> Option<Timestamp> {
        let ApiKeyRecord { expires_at_ms, previous_secret_until_ms, .. } = &self.public;
        if self.secret_mac.ct_eq(mac).into() {
            return *expires_at_ms;
        }
        expires_at_ms.iter().chain(previous_secret_until_ms).min().copied()
    }

    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        let key = &self.public;
        let mut writer = FieldWriter::default();
        writer.raw(key.owner_id.as_bytes()).raw(&self.secret_mac);
        writer.optional_i64(key.previous_secret_until_ms).raw(&self.previous_mac);
        writer.i64(key.created_at_ms).optional_i64(key.expires_at_ms).optional_i64(key.last_used_ms);
        writer.optional_bytes(key.label.as_deref().map(str::as_bytes))?;
        match &key.access {
            ApiKeyAccess::LikeOwner => {
                writer.u8(0);
            }
            ApiKeyAccess::Limited { roles, grants } => {
                writer.u8(1);
                encode_names(roles, &mut writer)?;
                encode_grants(grants, &mut writer)?;
            }
        }
        writer.u8(key.has_metadata.into());
        Ok(writer.finish())
    }

    pub(crate) fn decode(id: [u8; 16], mut reader: FieldReader<'_>) -> Result<Self> {
        let (owner_id, secret_mac) = (UserId::from_bytes(reader.array()?), reader.array()?);
        let (previous_secret_until_ms, previous_mac) = (reader.optional_i64()?, reader.array()?);
        let (created_at_ms, expires_at_ms, last_used_ms) =
            (reader.i64()?, reader.optional_i64()?, reader.optional_i64()?);
        let label = decode_optional_text(&mut reader)?;
        let access = if reader.flag()? {
            ApiKeyAccess::Limited { roles: decode_names(&mut reader)?, grants: decode_grants(&mut reader)? }
        } else {
            ApiKeyAccess::LikeOwner
        };
        let has_metadata = reader.flag()?;
        reader.end()?;
        let public = ApiKeyRecord {
            key_id: ApiKeyId::from_bytes(id),
            owner_id,
            label,
            access,
            has_metadata,
            created_at_ms,
            expires_at_ms,
            last_used_ms,
            previous_secret_until_ms,
        };
        Ok(Self { public, secret_mac, previous_mac })
    }
}

/// A session, without its token.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionRecord {
    /// The id. It is not part of the token.
    pub session_id: SessionId,
    /// The user of the session.
    pub user_id: UserId,
    /// When the session began, in Unix ms.
    pub created_at_ms: Timestamp,
    /// The approximate time of the last use, in Unix ms; written at most once per
    /// `last_used_interval_ms`.
    pub last_seen_ms: Timestamp,
    /// When the session ends unless it is used again, in Unix ms.
    pub idle_expires_at_ms: Timestamp,
    /// When the session ends in any case, in Unix ms.
    pub expires_at_ms: Timestamp,
    /// The source of the login.
    pub source: Option<String>,
    /// The factors of the session, with the time of the last use of each.
    pub factors: Vec<FactorUse>,
}

impl SessionRecord {
    /// Whether the session has a second factor.
    pub fn has_second_factor(&self) -> bool {
        self.factors.iter().any(|used| Factor::SECOND.contains(&used.factor))
    }
}

#[derive(Clone, Debug)]
pub(crate) struct StoredSession {
    pub(crate) public: SessionRecord,
    pub(crate) epoch: u64,
}

impl StoredSession {
    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        let session = &self.public;
        let mut writer = FieldWriter::default();
        writer.raw(session.session_id.as_bytes()).raw(session.user_id.as_bytes()).u64(self.epoch);
        writer.i64(session.created_at_ms).i64(session.last_seen_ms);
        writer.i64(session.idle_expires_at_ms).i64(session.expires_at_ms);
        writer.optional_bytes(session.source.as_deref().map(str::as_bytes))?;
        encode_uses(&session.factors, &mut writer)?;
        Ok(writer.finish())
    }

    pub(crate) fn decode(mut reader: FieldReader<'_>) -> Result<Self> {
        let session_id = SessionId::from_bytes(reader.array()?);
        let (user_id, epoch) = (UserId::from_bytes(reader.array()?), reader.u64()?);
        let (created_at_ms, last_seen_ms) = (reader.i64()?, reader.i64()?);
        let (idle_expires_at_ms, expires_at_ms) = (reader.i64()?, reader.i64()?);
        let source = decode_optional_text(&mut reader)?;
        let factors = decode_uses(&mut reader)?;
        reader.end()?;
        let public = SessionRecord {
            session_id,
            user_id,
            created_at_ms,
            last_seen_ms,
            idle_expires_at_ms,
            expires_at_ms,
            source,
            factors,
        };
        Ok(Self { public, epoch })
    }

    /// Whether the session is expired, or was ended together with all sessions of the user.
    pub(crate) fn is_over(&self, now_ms: Timestamp, user_epoch: u64) -> bool {
        let session = &self.public;
        now_ms >= session.expires_at_ms || now_ms >= session.idle_expires_at_ms || self.epoch != user_epoch
    }
}

/// A named list of grants.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RoleRecord {
    /// The name.
    pub name: String,
    /// The grants.
    pub grants: Vec<Grant>,
}

impl RoleRecord {
    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        let mut writer = FieldWriter::default();
        encode_grants(&self.grants, &mut writer)?;
        Ok(writer.finish())
    }

    pub(crate) fn decode(name: &str, mut reader: FieldReader<'_>) -> Result<Self> {
        let grants = decode_grants(&mut reader)?;
        reader.end()?;
        Ok(Self { name: name.to_owned(), grants })
    }
}

fn decode_optional_text(reader: &mut FieldReader<'_>) -> Result<Option<String>> {
    if reader.flag()? { Ok(Some(reader.text()?.to_owned())) } else { Ok(None) }
}

pub(crate) fn check_label(label: Option<&str>) -> Result<()> {
    match label {
        Some(label) if label.len() > MAX_LABEL_LEN_BYTES || disturbs_text(label) => {
            Err(Error::Validation("a label or source has at most 256 bytes and no control or direction characters"))
        }
        _ => Ok(()),
    }
}

//! Single-use tokens, each for one purpose and a short time. A user gets them by mail or from an
//! operator.
//!
//! ```text
//! hto_<secret: 64 digits>_<checksum: 8 digits>
//! record under t/ and the secret's MAC = purpose u8 | user id [16] | created_at_ms i64 | expires_at_ms i64
//!                                      | epoch u64 | binding [32]
//! ```
//!
//! A token is valid while its user is enabled, the user's epoch equals the token's, and the binding
//! is the MAC of the user's name and of the token's subject. The epoch rises with each new
//! password, when the user is disabled, and when all sessions are ended.

use std::fmt;

use crate::codec::{FieldReader, FieldWriter};
use crate::crypto::TAG_LEN_BYTES;
use crate::error::{Error, Result};
use crate::id::UserId;
use crate::timestamp::Timestamp;

/// Maximum number of single-use tokens of one purpose per user. A new token replaces the oldest.
pub const MAX_TOKENS_PER_PURPOSE: usize = 4;
/// Longest lifetime of a single-use token, in ms: 30 days.
pub const MAX_TOKEN_LIFETIME_MS: i64 = 30 * 24 * 60 * 60 * 1000;

/// The purpose of a single-use token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TokenPurpose {
    /// Set a new password without the old one.
    PasswordReset,
    /// Set the first password of an invited user.
    Invitation,
    /// Prove that the user receives messages at an address.
    Verification,
    /// Continue a login after the right password.
    Login,
}

impl TokenPurpose {
    fn code(self) -> u8 {
        match self {
            Self::PasswordReset => 1,
            Self::Invitation => 2,
            Self::Verification => 3,
            Self::Login => 4,
        }
    }

    fn from_code(code: u8) -> Result<Self> {
        match code {
            1 => Ok(Self::PasswordReset),
            2 => Ok(Self::Invitation),
            3 => Ok(Self::Verification),
            4 => Ok(Self::Login),
            found => Err(Error::VersionUnsupported { what: "a single-use token", found, known: 4 }),
        }
    }
}

impl fmt::Display for TokenPurpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::PasswordReset => "password_reset",
            Self::Invitation => "invitation",
            Self::Verification => "verification",
            Self::Login => "login",
        })
    }
}

/// Lifetimes of single-use tokens, in ms; each 1 ms to 30 days.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenLifetimes {
    /// Default 30 min.
    pub password_reset_ms: i64,
    /// Default 7 days.
    pub invitation_ms: i64,
    /// Default 24 h.
    pub verification_ms: i64,
    /// From the password to the second factor; default 5 min.
    pub login_ms: i64,
}

impl Default for TokenLifetimes {
    fn default() -> Self {
        const MINUTE_MS: i64 = 60 * 1000;
        Self {
            password_reset_ms: 30 * MINUTE_MS,
            invitation_ms: 7 * 24 * 60 * MINUTE_MS,
            verification_ms: 24 * 60 * MINUTE_MS,
            login_ms: 5 * MINUTE_MS,
        }
    }
}

impl TokenLifetimes {
    pub(crate) fn of(&self, purpose: TokenPurpose) -> i64 {
        match purpose {
            TokenPurpose::PasswordReset => self.password_reset_ms,
            TokenPurpose::Invitation => self.invitation_ms,
            TokenPurpose::Verification => self.verification_ms,
            TokenPurpose::Login => self.login_ms,
        }
    }

    /// Checks every range.
    ///
    /// # Errors
    /// [`Error::Validation`] for a lifetime out of range.
    pub fn validate(&self) -> Result<()> {
        let all = [self.password_reset_ms, self.invitation_ms, self.verification_ms, self.login_ms];
        if all.iter().all(|ms| (1..=MAX_TOKEN_LIFETIME_MS).contains(ms)) {
            return Ok(());
        }
        Err(Error::Validation("the lifetime of a single-use token is 1 ms to 30 days"))
    }
}

/// A single-use token, without its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TokenRecord {
    /// The purpose.
    pub purpose: TokenPurpose,
    /// The user of the token.
    pub user_id: UserId,
    /// When it was issued, in Unix ms.
    pub created_at_ms: Timestamp,
    /// When it expires, in Unix ms.
    pub expires_at_ms: Timestamp,
}

#[derive(Clone, Debug)]
pub(crate) struct StoredToken {
    pub(crate) public: TokenRecord,
    pub(crate) epoch: u64,
    pub(crate) binding: [u8; TAG_LEN_BYTES],
}

impl StoredToken {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let token = &self.public;
        let mut writer = FieldWriter::default();
        writer.u8(token.purpose.code()).raw(token.user_id.as_bytes());
        writer.i64(token.created_at_ms).i64(token.expires_at_ms).u64(self.epoch).raw(&self.binding);
        writer.finish()
    }

    pub(crate) fn decode(mut reader: FieldReader<'_>) -> Result<Self> {
        let public = TokenRecord {
            purpose: TokenPurpose::from_code(reader.u8()?)?,
            user_id: UserId::from_bytes(reader.array()?),
            created_at_ms: reader.i64()?,
            expires_at_ms: reader.i64()?,
        };
        let token = Self { public, epoch: reader.u64()?, binding: reader.array()? };
        reader.end()?;
        Ok(token)
    }
}

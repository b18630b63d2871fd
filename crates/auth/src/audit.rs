//! The audit trail's entries and their chain.
//!
//! Each entry contains the hash of the previous entry. The head, written in the same commit,
//! contains the hash of the last entry. A changed, removed, inserted or moved entry breaks the
//! chain. The hashes are HMACs under a key of the store, so nobody can forge a chain without the
//! master key.
//!
//! ```text
//! entry body = seq u64 | hash of the entry before [32] | at_ms i64 | actor | action u8 | outcome u8
//!            | suppressed u32 | target | user id (u8 0, or 1 and 16 bytes) | source
//! hash       = HMAC-SHA-256(audit key, entry body)
//! ```

use std::fmt;
use std::str::FromStr;

use crate::codec::{FieldReader, FieldWriter};
use crate::crypto::MacKey;
use crate::error::{Error, Result};
use crate::id::{ApiKeyId, NOBODY, UserId};
use crate::timestamp::Timestamp;

/// A hash in the chain.
pub type AuditHash = [u8; 32];

/// The actor of an audit entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Actor {
    /// The embedding program, or a caller that it did not name.
    #[default]
    System,
    /// A user.
    User(UserId),
    /// An API key.
    ApiKey(ApiKeyId),
}

impl Actor {
    /// `system`, or the user's or key's id.
    pub(crate) fn as_str(&self) -> &str {
        match self {
            Self::System => "system",
            Self::User(id) => id.as_str(),
            Self::ApiKey(id) => id.as_str(),
        }
    }
}

macro_rules! actions {
    ($($name:ident = $code:literal, $docs:literal;)*) => {
        /// The action of an audit entry.
        ///
        /// Its text form is the name in lower case with underscores.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum AuditAction {
            $(#[doc = $docs] $name,)*
        }

        impl AuditAction {
            /// All actions of this build.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            fn code(self) -> u8 {
                match self { $(Self::$name => $code,)* }
            }

            fn from_code(code: u8) -> Result<Self> {
                match code {
                    $($code => Ok(Self::$name),)*
                    found => Err(Error::VersionUnsupported { what: "an audit action", found, known: [$($code),*].into_iter().fold(0, u8::max) }),
                }
            }
        }
    };
}

actions! {
    StoreInitialised = 1, "The service's keys were made.";
    UserCreated = 2, "A user was created.";
    UserRenamed = 3, "A user got another name.";
    UserDisabled = 4, "A user was disabled; all sessions ended.";
    UserEnabled = 5, "A user was enabled.";
    UserDeleted = 6, "A user was deleted, with its sessions and API keys.";
    UserRolesSet = 7, "A user's roles were set.";
    UserMetadataSet = 8, "A user's metadata was set.";
    PasswordVerified = 9, "A password was checked.";
    PasswordChanged = 10, "A user changed the password; all sessions ended.";
    PasswordReset = 11, "A password was set without the old one; all sessions ended.";
    SessionStarted = 12, "A login started a session.";
    SessionEnded = 13, "A session was ended.";
    AllSessionsEnded = 14, "All sessions of a user were ended.";
    ApiKeyCreated = 15, "An API key was created.";
    ApiKeyRotated = 16, "An API key got a new secret.";
    ApiKeyRevoked = 17, "An API key was revoked.";
    RoleSet = 18, "A role was created or changed.";
    RoleDeleted = 19, "A role was deleted.";
    AccessDenied = 20, "A principal's operation was denied.";
    MasterKeyRotated = 21, "Records were re-wrapped by the current master key.";
    AuditPruned = 22, "Old entries of the trail were removed.";
    DelaysCleared = 30, "The delays of a user or source after wrong passwords were cleared.";
    LoginDelayed = 31, "A password or code was not checked, because of the delay after failures.";
    PasswordUncheckable = 32, "A password could not be checked: its hash is broken, or its pepper is missing.";
    ApiKeyRefused = 33, "A token with the form of an API key's was refused: unknown, revoked, expired, or of a disabled user.";
    SessionRefused = 34, "A token with the form of a session's was refused: unknown, ended, expired, or of a disabled user.";
    RootKeyRotated = 35, "Every record was sealed again under a new root key.";
    NewSource = 40, "A user logged in from a source that is new for the user.";
    FactorEnrolled = 41, "A second factor was enrolled; it waits for its confirmation.";
    FactorConfirmed = 42, "A second factor was confirmed; each login requires it from now on.";
    FactorDisabled = 43, "All second factors of a user were removed; all sessions ended.";
    FactorVerified = 44, "A code was checked.";
    RecoveryCodeUsed = 45, "A recovery code was used.";
    RecoveryCodesMade = 46, "A user got new recovery codes.";
    FactorRequired = 47, "The requirement of a second factor for one user was set or removed.";
    FactorPolicySet = 48, "The policy of required second factors was set.";
    SteppedUp = 49, "A session was stepped up by a factor.";
    TokenIssued = 50, "A single-use token was issued.";
    TokenUsed = 51, "A single-use token was used.";
    TokensRevoked = 52, "All single-use tokens of a user were revoked.";
    ManagementRead = 53, "A principal read users, roles or the trail.";
    ManagementFailed = 54, "A principal's management call failed, or found nothing to do.";
}

impl fmt::Display for AuditAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = format!("{self:?}");
        let mut text = String::with_capacity(name.len() + 4);
        for letter in name.chars() {
            if letter.is_ascii_uppercase() && !text.is_empty() {
                text.push('_');
            }
            text.push(letter.to_ascii_lowercase());
        }
        f.pad(&text)
    }
}

impl FromStr for AuditAction {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let found = Self::ALL.iter().find(|action| action.to_string() == text);
        found.copied().ok_or(Error::Validation("no action of the audit trail has this name"))
    }
}

/// The outcome of the action.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AuditOutcome {
    /// The action was done.
    Done,
    /// The action was refused.
    Refused,
}

/// One entry of the audit trail. Never holds a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AuditEntry {
    /// The number of the entry. Numbers have no gaps.
    pub seq: u64,
    /// The time, in Unix ms.
    pub at_ms: Timestamp,
    /// Who.
    pub actor: Actor,
    /// What.
    pub action: AuditAction,
    /// The target of the action: an id or a name.
    pub target: String,
    /// The user whose account is concerned, if any.
    pub user_id: Option<UserId>,
    /// The source of the request.
    pub source: Option<String>,
    /// The outcome of the action.
    pub outcome: AuditOutcome,
    /// The number of refusals before this one that the rate limiter suppressed.
    pub suppressed: u32,
}

impl AuditEntry {
    pub(crate) fn encode(&self, previous: &AuditHash) -> Result<Vec<u8>> {
        let mut writer = FieldWriter::default();
        writer.u64(self.seq).raw(previous).i64(self.at_ms);
        match &self.actor {
            Actor::System => writer.u8(0),
            Actor::User(id) => writer.u8(1).raw(id.as_bytes()),
            Actor::ApiKey(id) => writer.u8(2).raw(id.as_bytes()),
        };
        writer.u8(self.action.code()).u8((self.outcome == AuditOutcome::Refused).into()).u32(self.suppressed);
        writer.bytes(self.target.as_bytes())?;
        match &self.user_id {
            Some(id) => writer.u8(1).raw(id.as_bytes()),
            None => writer.u8(0),
        };
        writer.optional_bytes(self.source.as_deref().map(str::as_bytes))?;
        Ok(writer.finish())
    }

    /// The entry, and the hash of its predecessor.
    pub(crate) fn decode(body: &[u8]) -> Result<(Self, AuditHash)> {
        let mut reader = FieldReader::new(body);
        let (seq, previous, at_ms) = (reader.u64()?, reader.array()?, reader.i64()?);
        let actor = match reader.u8()? {
            0 => Actor::System,
            1 => Actor::User(UserId::from_bytes(reader.array()?)),
            2 => Actor::ApiKey(ApiKeyId::from_bytes(reader.array()?)),
            found => return Err(Error::VersionUnsupported { what: "an audit actor", found, known: 2 }),
        };
        let action = AuditAction::from_code(reader.u8()?)?;
        let outcome = if reader.flag()? { AuditOutcome::Refused } else { AuditOutcome::Done };
        let suppressed = reader.u32()?;
        let target = reader.text()?.to_owned();
        let user_id = if reader.flag()? { Some(UserId::from_bytes(reader.array()?)) } else { None };
        let source = if reader.flag()? { Some(reader.text()?.to_owned()) } else { None };
        reader.end()?;
        let entry = Self { seq, at_ms, actor, action, target, user_id, source, outcome, suppressed };
        Ok((entry.shown(), previous))
    }

    /// The public form. An entry about an unknown user is stored with the id of nobody, so that its
    /// length is that of other entries; the public form has no user.
    pub(crate) fn shown(mut self) -> Self {
        if self.user_id.take_if(|id| *id.as_bytes() == NOBODY).is_some() {
            self.target = "unknown user".into();
        }
        self
    }
}

pub(crate) fn chain_hash(key: &MacKey, body: &[u8]) -> AuditHash {
    key.tag(&[body])
}

/// The begin and end of the trail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) first_seq: u64,
    pub(crate) next_seq: u64,
    /// The predecessor hash in the first entry.
    pub(crate) anchor: AuditHash,
    /// The hash of the last entry; the anchor if there is none.
    pub(crate) last: AuditHash,
}

impl Head {
    pub(crate) const EMPTY: Self = Self { first_seq: 0, next_seq: 0, anchor: [0; 32], last: [0; 32] };

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut writer = FieldWriter::default();
        writer.u64(self.first_seq).u64(self.next_seq).raw(&self.anchor).raw(&self.last);
        writer.finish()
    }

    pub(crate) fn decode(mut reader: FieldReader<'_>) -> Result<Self> {
        let head =
            Self { first_seq: reader.u64()?, next_seq: reader.u64()?, anchor: reader.array()?, last: reader.array()? };
        reader.end()?;
        Ok(head)
    }
}

/// The end of a trail at some moment. Keep it outside the store. Without it, verification cannot
/// detect that the whole trail was rolled back to an earlier state, or erased and started again.
///
/// Its text form is the store's id (32 hexadecimal digits), the number and the hash (64 hexadecimal
/// digits), separated by colons. It contains no secret.
///
/// # Examples
/// ```
/// use hightower_auth::AuditAnchor;
/// let anchor = AuditAnchor { store_id: [0xcd; 16], next_seq: 12, hash: [0xab; 32] };
/// assert_eq!(anchor.to_string().parse::<AuditAnchor>()?, anchor);
/// # Ok::<(), hightower_auth::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct AuditAnchor {
    /// The id of the store.
    pub store_id: [u8; 16],
    /// The number of the next entry.
    pub next_seq: u64,
    /// The hash of the last entry.
    pub hash: AuditHash,
}

impl fmt::Debug for AuditAnchor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AuditAnchor({self})")
    }
}

impl fmt::Display for AuditAnchor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut store_id, mut hash) = (String::with_capacity(32), String::with_capacity(64));
        crate::hex::encode(&self.store_id, &mut store_id);
        crate::hex::encode(&self.hash, &mut hash);
        write!(f, "{store_id}:{}:{hash}", self.next_seq)
    }
}

impl FromStr for AuditAnchor {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        const SHAPE: Error = Error::Validation(
            "an anchor is 32 hexadecimal digits, a number and 64 hexadecimal digits, with colons between",
        );
        let mut parts = text.split(':');
        let (Some(store), Some(next_seq), Some(digits), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(SHAPE);
        };
        let (mut store_id, mut hash) = ([0; 16], AuditHash::default());
        let fits =
            crate::hex::decode(store.as_bytes(), &mut store_id) && crate::hex::decode(digits.as_bytes(), &mut hash);
        match next_seq.parse() {
            Ok(next_seq) if fits => Ok(Self { store_id, next_seq, hash }),
            _ => Err(SHAPE),
        }
    }
}

/// The result of a verification.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum AuditVerdict {
    /// Every entry is unchanged. With an anchor, this includes every entry that the anchor covers.
    ///
    /// Without an anchor, a trail counts as intact even if the whole trail and its head were rolled
    /// back to an earlier state, or erased with the store's records and started again.
    Intact {
        /// The number of entries.
        entries: u64,
        /// The end of the trail. Keep it for the next verification.
        anchor: AuditAnchor,
    },
    /// The existing entries are unchanged, but the trail begins behind the anchor. The entries
    /// before it were pruned, so a comparison with the anchor is no longer possible. Take a new
    /// anchor after each pruning.
    PrunedPast {
        /// The first existing entry.
        first_seq: u64,
    },
    /// The trail was tampered with, or damaged.
    Broken {
        /// The first entry that breaks the chain.
        seq: u64,
        /// What is wrong with it.
        problem: &'static str,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_have_names_and_codes_that_lead_back() {
        for action in AuditAction::ALL {
            assert_eq!(action.to_string().parse::<AuditAction>().unwrap(), *action);
            assert_eq!(AuditAction::from_code(action.code()).unwrap(), *action);
        }
        assert_eq!(AuditAction::ApiKeyCreated.to_string(), "api_key_created");
        assert!("ApiKeyCreated".parse::<AuditAction>().is_err());
    }

    #[test]
    fn half_an_anchor_is_refused() {
        let (store, digits) = ("cd".repeat(16), "ab".repeat(32));
        assert!(format!("{store}:0:{digits}").parse::<AuditAnchor>().is_ok());
        for text in [
            "",
            "7",
            "::",
            &format!("{store}:7:"),
            &format!("7:{digits}"),
            &format!("{store}:x:{digits}"),
            &format!("{store}:7:{digits}0"),
            &format!("{store}:-1:{digits}"),
            &format!("{digits}:7:{digits}"),
            &format!("{store}:7:{digits}:"),
        ] {
            assert!(text.parse::<AuditAnchor>().is_err(), "{text}");
        }
    }
}

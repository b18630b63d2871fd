//! Keys of the service's records in their keyspace: a letter per kind, or a word.
//!
//! | key | record |
//! | --- | --- |
//! | `meta` | store id, wrapped root keys |
//! | `gen` | rewritten with each change of access rights |
//! | `u/` user id | user |
//! | `n/` keyed tag of the normal username, 32 bytes | the user id; the last one is nobody's |
//! | `k/` key id | API key |
//! | `K/` user id, key id | index of a user's API keys |
//! | `s/` session token hash | session |
//! | `S/` user id, session id | index of a user's sessions: the token hash |
//! | `r/` role name | role |
//! | `deleted` | rewritten with each deletion of a role |
//! | `f/` user id | the user's second factors |
//! | `factors` | the policy of required second factors |
//! | `t/` token hash | single-use token |
//! | `T/` user id, token hash | index of a user's single-use tokens |
//! | `g/` slot, 2 bytes | persisted counter of wrong passwords |
//! | `a/` seq, 8 bytes big-endian | audit entry |
//! | `head` | head of the audit trail |
//! | `x/` skeleton | ids of users whose names have this skeleton |
//! | `m/` `u` or `k`, id | encrypted metadata of a user or an API key |

use hightower_engine::{Keyspace, ReservedKeyspace};

use crate::crypto::TAG_LEN_BYTES;
use crate::id::ID_LEN_BYTES;

/// The keyspace of the service's records in every store. Only the service should change them.
///
/// # Examples
/// ```
/// use hightower_auth::{AuthService, DefaultAuthService, records};
/// use hightower_engine::{KeyspaceEngine, SingleNodeEngine};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// let auth: DefaultAuthService<_> = AuthService::open(SingleNodeEngine::open(dir.path())?, [7; 32])?;
/// assert!(auth.engine().get_versioned_in(&records(), b"meta")?.is_some());
/// assert!(auth.engine().is_empty(), "no key of a user");
/// # Ok(())
/// # }
/// ```
#[must_use]
pub fn records() -> Keyspace<()> {
    Keyspace::reserved(ReservedKeyspace::Auth)
}

pub(crate) const META: &[u8] = b"meta";
pub(crate) const GENERATION: &[u8] = b"gen";
pub(crate) const ROLE_DELETIONS: &[u8] = b"deleted";
pub(crate) const AUDIT_HEAD: &[u8] = b"head";
pub(crate) const NAMES: &[u8] = b"n/";
pub(crate) const USERS: &[u8] = b"u/";
pub(crate) const ROLES: &[u8] = b"r/";
pub(crate) const AUDIT: &[u8] = b"a/";
pub(crate) const API_KEYS: &[u8] = b"k/";
pub(crate) const METADATA: &[u8] = b"m/";
pub(crate) const SESSIONS: &[u8] = b"s/";

pub(crate) const FACTORS: &[u8] = b"f/";
pub(crate) const FACTOR_POLICY: &[u8] = b"factors";
pub(crate) const SINGLE_USES: &[u8] = b"t/";

/// The index entry of a normal username, by its keyed tag.
pub(crate) type NameTag = [u8; TAG_LEN_BYTES];

/// Sorts before every name.
pub(crate) const FIRST_NAME: NameTag = [0; TAG_LEN_BYTES];
/// Sorts after every name: the entry of the user nobody.
pub(crate) const LAST_NAME: NameTag = [0xff; TAG_LEN_BYTES];

fn join(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

pub(crate) fn user(id: &[u8; ID_LEN_BYTES]) -> Vec<u8> {
    join(&[USERS, id])
}

/// Tags of names are pseudorandom, so a caller cannot predict which entry is the first at or after
/// the tag of an unknown name: see `AuthService::user_or_other`.
pub(crate) fn name(tag: &NameTag) -> Vec<u8> {
    join(&[NAMES, tag])
}

pub(crate) fn look_alikes(skeleton: &str) -> Vec<u8> {
    join(&[b"x/", skeleton.as_bytes()])
}

pub(crate) fn api_key(id: &[u8; ID_LEN_BYTES]) -> Vec<u8> {
    join(&[API_KEYS, id])
}

pub(crate) fn api_keys_of(user: &[u8; ID_LEN_BYTES]) -> Vec<u8> {
    join(&[b"K/", user])
}

pub(crate) fn api_key_of(user: &[u8; ID_LEN_BYTES], key: &[u8; ID_LEN_BYTES]) -> Vec<u8> {
    join(&[&api_keys_of(user), key])
}

pub(crate) fn session(token_hash: &[u8]) -> Vec<u8> {
    join(&[SESSIONS, token_hash])
}

pub(crate) fn sessions_of(user: &[u8; ID_LEN_BYTES]) -> Vec<u8> {
    join(&[b"S/", user])
}

pub(crate) fn session_of(user: &[u8; ID_LEN_BYTES], session: &[u8; ID_LEN_BYTES]) -> Vec<u8> {
    join(&[&sessions_of(user), session])
}

/// The kind of record that metadata belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MetadataOf {
    User,
    ApiKey,
}

impl MetadataOf {
    fn letter(self) -> u8 {
        match self {
            Self::User => b'u',
            Self::ApiKey => b'k',
        }
    }

    /// The kind with this letter in its keys.
    pub(crate) fn of_letter(letter: u8) -> Option<Self> {
        [Self::User, Self::ApiKey].into_iter().find(|kind| kind.letter() == letter)
    }

    /// The kind in the associated data of the encryption.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::ApiKey => "api key",
        }
    }
}

pub(crate) fn metadata(of: MetadataOf, id: &[u8; ID_LEN_BYTES]) -> Vec<u8> {
    join(&[METADATA, &[of.letter()], id])
}

pub(crate) fn role(name: &str) -> Vec<u8> {
    join(&[ROLES, name.as_bytes()])
}

pub(crate) fn factors(user: &[u8; ID_LEN_BYTES]) -> Vec<u8> {
    join(&[FACTORS, user])
}

pub(crate) fn single_use(token_hash: &[u8]) -> Vec<u8> {
    join(&[SINGLE_USES, token_hash])
}

pub(crate) fn single_uses_of(user: &[u8; ID_LEN_BYTES]) -> Vec<u8> {
    join(&[b"T/", user])
}

pub(crate) fn single_use_of(user: &[u8; ID_LEN_BYTES], token_hash: &[u8]) -> Vec<u8> {
    join(&[&single_uses_of(user), token_hash])
}

pub(crate) fn guess_slot(slot: u16) -> Vec<u8> {
    join(&[b"g/", &slot.to_be_bytes()])
}

pub(crate) fn audit(seq: u64) -> Vec<u8> {
    join(&[AUDIT, &seq.to_be_bytes()])
}

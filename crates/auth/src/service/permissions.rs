//! Roles, principals and `authorize`.
//!
//! A principal caches its rights with the version of one record, the generation. Every change that
//! may revoke access rewrites this record in the same commit. A check looks the record up, and
//! reads the rights again if the version differs.

use std::fmt;
use std::ops::{Bound, Range};
use std::sync::Arc;

use hightower_engine::{Expect, KeyspaceEngine};
use parking_lot::RwLock;
use secrecy::ExposeSecret;

use super::AuthService;
use super::change::{ConditionalCommit, Decision};
use super::users::MAX_PAGE;
use crate::audit::{Actor, AuditAction};
use crate::crypto::{EnvelopeEncryptor, SecretHasher, TAG_LEN_BYTES};
use crate::error::{Error, Result};
use crate::id::{ApiKeyId, UserId};
use crate::mutants::planted;
use crate::permission::{Action, Grant, KeyRange, PermissionSet, check_grants, prefix_end};
use crate::record::{ApiKeyAccess, RoleRecord};
use crate::record_keys;
use crate::role_names::check_role_name;
use crate::timestamp::Timestamp;
use crate::token::{API_KEY_PREFIX, parse_session};

/// Maximum number of attempts to create a role while roles are deleted concurrently.
const MAX_TRIES: u32 = 1000;

/// The rights of an API key change only with the generation.
const ALWAYS: Range<Timestamp> = Timestamp::MIN..Timestamp::MAX;

/// An authenticated user or API key. Only [`AuthService::authenticate`] creates it.
pub struct Principal {
    user_id: UserId,
    credential: Credential,
    access: RwLock<Arc<AccessRights>>,
}

/// The credential of a principal.
#[derive(Clone)]
enum Credential {
    /// An API key, with the MAC of the presented secret, so that the principal ends when the secret
    /// does.
    ApiKey(ApiKeyId, [u8; TAG_LEN_BYTES]),
    Session([u8; TAG_LEN_BYTES]),
}

/// The rights of a principal, as of one generation.
pub(crate) struct AccessRights {
    pub(crate) generation: u64,
    alive: bool,
    expires_at_ms: Option<Timestamp>,
    /// The times at which the rights are valid without another check of the credential. The check
    /// records the use of a session, and finds uses of the session elsewhere.
    fresh: Range<Timestamp>,
    owner: PermissionSet,
    limit: Option<PermissionSet>,
}

impl AccessRights {
    fn none(generation: u64) -> Self {
        let (fresh, owner) = (ALWAYS, PermissionSet::default());
        Self { generation, alive: false, expires_at_ms: None, fresh, owner, limit: None }
    }

    /// Whether the action is allowed on every key of `range`.
    pub(crate) fn allows_range(&self, action: Action, range: &KeyRange, now_ms: Timestamp) -> bool {
        if !self.alive || self.expires_at_ms.is_some_and(|at_ms| now_ms >= at_ms) {
            return false;
        }
        range.is_empty()
            || self.owner.allows_range(action, range)
                && self.limit.as_ref().is_none_or(|limit| limit.allows_range(action, range))
    }

    /// Whether all of these rights are included.
    pub(super) fn covers(&self, rights: &PermissionSet) -> bool {
        let has = |(action, range)| {
            self.owner.allows_range(action, range)
                && self.limit.as_ref().is_none_or(|limit| limit.allows_range(action, range))
        };
        let quotas_hold = |held: &PermissionSet| held.quotas_hold(rights) || planted("auth_quota_given_away");
        rights.ranges().all(has) && quotas_hold(&self.owner) && self.limit.as_ref().is_none_or(quotas_hold)
    }

    /// The sets of grants. Each of them must allow an operation.
    pub(super) fn sets(&self) -> impl Iterator<Item = &PermissionSet> {
        std::iter::once(&self.owner).chain(&self.limit)
    }

    /// Whether `action` is allowed on any key.
    pub(super) fn allows_any(&self, action: Action, now_ms: Timestamp) -> bool {
        let has = |set: &PermissionSet| set.ranges().any(|(held, _)| held == action);
        self.alive
            && self.expires_at_ms.is_none_or(|at_ms| now_ms < at_ms)
            && has(&self.owner)
            && self.limit.as_ref().is_none_or(has)
    }

    pub(crate) fn allows(&self, action: Action, key: &[u8], now_ms: Timestamp) -> bool {
        self.alive
            && self.expires_at_ms.is_none_or(|at_ms| now_ms < at_ms)
            && self.owner.allows(action, key)
            && self.limit.as_ref().is_none_or(|limit| limit.allows(action, key))
    }
}

impl Principal {
    /// The user, or the owner of the API key.
    pub fn user_id(&self) -> &UserId {
        &self.user_id
    }

    /// The hash of the session's token, if the principal has a session.
    pub(super) fn session(&self) -> Option<&[u8; TAG_LEN_BYTES]> {
        match &self.credential {
            Credential::Session(token_hash) => Some(token_hash),
            Credential::ApiKey(..) => None,
        }
    }

    /// The actor for the audit trail.
    pub fn actor(&self) -> Actor {
        match &self.credential {
            Credential::ApiKey(id, _) => Actor::ApiKey(id.clone()),
            Credential::Session(_) => Actor::User(self.user_id.clone()),
        }
    }
}

impl fmt::Debug for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Principal").field("actor", &self.actor()).finish_non_exhaustive()
    }
}

impl<E: KeyspaceEngine, H: SecretHasher, C: EnvelopeEncryptor> AuthService<E, H, C> {
    /// The principal of a token of an API key or a session; `None` if the token is invalid.
    ///
    /// # Errors
    /// [`Error::Crypto`] if a record is not authentic, or the engine's.
    pub fn authenticate(&self, token: &str) -> Result<Option<Principal>> {
        let (user_id, credential) = if token.starts_with(API_KEY_PREFIX) {
            let Some((key, secret_mac)) = self.authenticate_secret(token)? else {
                return Ok(None);
            };
            (key.owner_id, Credential::ApiKey(key.key_id, secret_mac))
        } else {
            let (Some(session), Some(secret)) = (self.authenticate_session(token)?, parse_session(token)) else {
                return Ok(None);
            };
            (session.user_id, Credential::Session(self.keys()?.session.tag(&[secret.expose_secret()])))
        };
        let access = self.resolve(&credential)?;
        Ok(access.alive.then(|| Principal { user_id, credential, access: RwLock::new(Arc::new(access)) }))
    }

    /// Whether `principal` may do `action` on `key` now. Revocations, disabled users and changed
    /// roles take effect at once.
    ///
    /// # Errors
    /// [`Error::Crypto`] if a record is not authentic, or the engine's.
    pub fn authorize(&self, principal: &Principal, action: Action, key: &[u8]) -> Result<bool> {
        Ok(self.access_of(principal)?.allows(action, key, self.now_ms()))
    }

    /// Whether `principal` may do `action` on every key of `range` outside the service's own
    /// prefix.
    ///
    /// # Errors
    /// As [`AuthService::authorize`].
    pub fn authorize_range(&self, principal: &Principal, action: Action, range: &KeyRange) -> Result<bool> {
        Ok(self.access_of(principal)?.allows_range(action, range, self.now_ms()))
    }

    /// The current rights of a principal.
    pub(crate) fn access_of(&self, principal: &Principal) -> Result<Arc<AccessRights>> {
        let access = Arc::clone(&principal.access.read());
        if access.generation == self.generation()? && access.fresh.contains(&self.now_ms()) {
            return Ok(access);
        }
        let access = Arc::new(self.resolve(&principal.credential)?);
        *principal.access.write() = Arc::clone(&access);
        Ok(access)
    }

    fn generation(&self) -> Result<u64> {
        match self.records().get_versioned(record_keys::GENERATION)? {
            Some((_, version)) => Ok(version),
            None => Err(Error::Crypto("a record that always exists is missing")),
        }
    }

    pub(crate) fn time_ms(&self) -> Timestamp {
        self.now_ms()
    }

    /// Reads the generation first, so that a concurrent change makes the next check read again.
    fn resolve(&self, credential: &Credential) -> Result<AccessRights> {
        let generation = self.generation()?;
        let (user_id, expires_at_ms, fresh, limit) = match credential {
            Credential::ApiKey(id, secret_mac) => {
                let Some(key) = self.load_api_key(id.as_bytes())?.map(|key| key.value) else {
                    return Ok(AccessRights::none(generation));
                };
                if !key.has_secret(secret_mac) && !planted("auth_secret_unbound") {
                    return Ok(AccessRights::none(generation));
                }
                let limit = self.limit_of(&key.public.access)?;
                (key.public.owner_id.clone(), key.expiry_of(secret_mac), ALWAYS, limit)
            }
            Credential::Session(token_hash) => {
                let Some(session) = self.live_session(token_hash)? else {
                    return Ok(AccessRights::none(generation));
                };
                let expires_at_ms = session.idle_expires_at_ms.min(session.expires_at_ms);
                let touched_again_at_ms = session.last_seen_ms.saturating_add(self.options().last_used_interval_ms);
                let fresh = self.now_ms()..touched_again_at_ms.min(expires_at_ms);
                let (expires_at_ms, fresh) = match planted("auth_idle_ignored_by_views") {
                    true => (session.expires_at_ms, ALWAYS),
                    false => (expires_at_ms, fresh),
                };
                (session.user_id, Some(expires_at_ms), fresh, None)
            }
        };
        let Some(user) = self.load_user(user_id.as_bytes())? else {
            return Ok(AccessRights::none(generation));
        };
        let owner = PermissionSet::new(&self.grants_of(&user.value.public.roles)?);
        Ok(AccessRights { generation, alive: !user.value.public.disabled, expires_at_ms, fresh, owner, limit })
    }

    fn limit_of(&self, access: &ApiKeyAccess) -> Result<Option<PermissionSet>> {
        match access {
            ApiKeyAccess::LikeOwner => Ok(None),
            ApiKeyAccess::Limited { roles, grants } => {
                let by_roles = self.grants_of(roles)?;
                Ok(Some(PermissionSet::new(by_roles.iter().chain(grants))))
            }
        }
    }

    pub(super) fn grants_of(&self, roles: &[String]) -> Result<Vec<Grant>> {
        let mut grants = Vec::new();
        for name in roles {
            grants.extend(self.load_role(name)?.into_iter().flat_map(|role| role.value.grants));
        }
        Ok(grants)
    }

    /// Creates or replaces a role.
    ///
    /// A user with a deleted role of the same name does not get the new one: before a role is
    /// created, its name is removed from all users and API keys, which reads each of them once. If
    /// a role is deleted meanwhile, this starts over.
    ///
    /// # Errors
    /// [`Error::Validation`] for the name, [`Error::LimitExceeded`] for more than 256 grants.
    pub fn set_role(&self, name: &str, grants: &[Grant]) -> Result<RoleRecord> {
        check_role_name(name)?;
        check_grants(grants)?;
        let role = RoleRecord { name: name.to_owned(), grants: grants.to_vec() };
        // The version of the deletions record at which no user or key has the name of the new role.
        let mut forgotten_as_of = None;
        for _ in 0..MAX_TRIES {
            let made = self.change(|change| {
                let body = role.encode()?;
                match (self.load_role(name)?, forgotten_as_of) {
                    (Some(old), _) => change.replace(&record_keys::role(name), old.version, &body),
                    (None, Some(expected)) => {
                        if self.role_deletions()? != expected && !planted("auth_role_deleted_meanwhile") {
                            return Ok(Decision::Stop(None));
                        }
                        change.create(&record_keys::role(name), &body);
                        if !planted("auth_role_deleted_meanwhile") {
                            change.batch.require(record_keys::ROLE_DELETIONS, expected);
                        }
                    }
                    (None, None) if planted("auth_role_revived") => change.create(&record_keys::role(name), &body),
                    (None, None) => return Ok(Decision::Stop(None)),
                }
                change.takes_access();
                change.audit(AuditAction::RoleSet, name);
                Ok(Decision::Commit(Some(role.clone())))
            })?;
            if let Some(made) = made {
                return Ok(made);
            }
            // A role that does not exist cannot be given. So a user can get the name from now on
            // only if the role is created in between, and then it must be deleted before this
            // creation.
            forgotten_as_of = Some(self.role_deletions()?);
            self.forget_role(name)?;
        }
        Err(Error::Conflict("roles keep being deleted; try again"))
    }

    /// The requirement that no role was deleted since.
    fn role_deletions(&self) -> Result<Expect> {
        let held = self.load(record_keys::ROLE_DELETIONS, |reader| reader.end())?;
        Ok(held.map_or(Expect::Absent, |held| Expect::Version(held.version)))
    }

    /// Removes the name of a role that does not exist from all users and API keys. It gave them no
    /// rights.
    fn forget_role(&self, name: &str) -> Result<()> {
        self.for_each_key(record_keys::USERS, |_, id| {
            self.change(|change| {
                let Some(mut user) = self.load_user(id)? else { return Ok(Decision::Stop(())) };
                let roles = &mut user.value.public.roles;
                let before = roles.len();
                roles.retain(|role| role != name);
                if roles.len() == before || self.load_role(name)?.is_some() {
                    return Ok(Decision::Stop(()));
                }
                self.replace_user(change, &user)?;
                Ok(Decision::Commit(()))
            })
        })?;
        self.for_each_key(record_keys::API_KEYS, |_, id| {
            self.change(|change| {
                let Some(mut key) = self.load_api_key(id)? else { return Ok(Decision::Stop(())) };
                let ApiKeyAccess::Limited { roles, .. } = &mut key.value.public.access else {
                    return Ok(Decision::Stop(()));
                };
                let before = roles.len();
                roles.retain(|role| role != name);
                if roles.len() == before || self.load_role(name)?.is_some() {
                    return Ok(Decision::Stop(()));
                }
                self.replace_api_key(change, &key)?;
                Ok(Decision::Commit(()))
            })
        })
    }

    /// Requires roles to exist, up to the commit of `change`.
    ///
    /// # Errors
    /// [`Error::NotFound`] if one does not.
    pub(super) fn require_roles(&self, change: &mut ConditionalCommit<'_>, roles: &[String]) -> Result<()> {
        for name in roles {
            let Some(role) = self.load_role(name)? else {
                return Err(Error::NotFound("no role has this name"));
            };
            change.require(&record_keys::role(name), role.version);
        }
        Ok(())
    }

    /// The role of this name.
    ///
    /// # Errors
    /// [`Error::Crypto`] if the record is not authentic, or the engine's.
    pub fn get_role(&self, name: &str) -> Result<Option<RoleRecord>> {
        check_role_name(name)?;
        Ok(self.load_role(name)?.map(|role| role.value))
    }

    /// Up to `limit` (at most 1,000) roles in the order of their names, after the name `after`.
    ///
    /// # Errors
    /// As [`AuthService::get_role`].
    pub fn list_roles(&self, after: Option<&str>, limit: usize) -> Result<Vec<RoleRecord>> {
        let after = record_keys::role(after.unwrap_or(""));
        let end = prefix_end(record_keys::ROLES);
        let to = end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        self.with_keys(|keys| {
            let page = self.records().scan(Bound::Excluded(&after), to, limit.min(MAX_PAGE))?;
            let decode = |(key, value): &(Vec<u8>, hightower_engine::Value)| match std::str::from_utf8(
                &key[record_keys::ROLES.len()..],
            ) {
                Ok(name) => RoleRecord::decode(name, keys.sealer.open(key, value)?),
                Err(_) => Err(Error::Crypto("a stored record is not what the service wrote")),
            };
            page.iter().map(decode).collect()
        })
    }

    /// Deletes a role, and thereby revokes its rights; `false` if no such role exists.
    ///
    /// # Errors
    /// As [`AuthService::get_role`].
    pub fn delete_role(&self, name: &str) -> Result<bool> {
        check_role_name(name)?;
        self.change(|change| {
            let Some(role) = self.load_role(name)? else {
                return Ok(Decision::Stop(false));
            };
            change.remove(&record_keys::role(name), role.version);
            // A concurrent creation of a role then searches again for users and keys with its name.
            change.batch.put(record_keys::ROLE_DELETIONS, change.keys.sealer.seal(record_keys::ROLE_DELETIONS, &[]));
            change.takes_access();
            change.audit(AuditAction::RoleDeleted, name);
            Ok(Decision::Commit(true))
        })
    }

    /// Adds an audit entry without a change.
    pub(super) fn note(&self, action: AuditAction, target: &str) -> Result<()> {
        self.change(|change| {
            change.audit(action, target);
            Ok(Decision::Commit(()))
        })
    }

    /// Adds an audit entry for a denied operation of a principal.
    pub(crate) fn audit_denial(&self, principal: &Principal, what: &str) {
        let who = match &principal.credential {
            Credential::ApiKey(id, _) => id.as_str(),
            Credential::Session(_) => principal.user_id.as_str(),
        };
        self.acting_as(principal.actor()).audit_refusal(AuditAction::AccessDenied, who, what);
    }
}

//! A view of an engine with the rights of one principal.

use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

use hightower_engine::{
    ApplyOutcome, Batch, BatchOutcome, Committed, Error as EngineError, Expect, KvEngine, Rejected, Result, Value,
};
use hightower_log::Command;

use crate::crypto::{EnvelopeEncryptor, SecretHasher};
use crate::mutants::planted;
use crate::permission::{Action, KeyRange};
use crate::record_keys;
use crate::service::{AccessRights, AuthService, Principal};

/// Maximum number of attempts of a write while access rights change concurrently.
const MAX_TRIES: u32 = 1000;

/// An engine with the rights of one principal. It is a [`KvEngine`] itself.
///
/// | operation | needs |
/// | --- | --- |
/// | `get`, `get_versioned` | `Read` on the key |
/// | `get_prefix`, `scan` | `Read` on the whole range, also where no key exists |
/// | `put`, `delete`, and such changes in a batch | `Write` on the key |
/// | `submit`, `submit_batch`, and such changes in a batch | `Admin` on the key |
/// | each requirement of a batch | `Read` on its key |
///
/// A batch is allowed as a whole or not at all. The service's own keys are out of reach: single
/// keys are refused, and ranges skip them.
///
/// Every operation checks the principal's current rights. A write commits only if no access rights
/// have changed since its check. So after a revocation returns, no write that was allowed before it
/// commits.
///
/// A write under a [`Quota`](crate::Quota) must fit in it, or fails with [`EngineError::Full`],
/// which names the quota, its limit and its use. Deletes always succeed. Such a write reads each
/// key that it changes, and waits for the commits of other writes under the same quota. The first
/// write counts the range by a scan. Later counts find the writes that the quota did not limit.
/// They begin 60 s after the last count, by at most 128 keys per write. A refusal first counts the
/// whole range, unless the last count is younger than 1 s or, if longer, ten times its duration.
/// Writes without a quota have no extra cost.
///
/// # Examples
/// See `examples/auth_flow.rs`.
pub struct AuthorizedEngine<E, H, C> {
    service: AuthService<E, H, C>,
    principal: Principal,
}

impl<E: KvEngine, H: SecretHasher, C: EnvelopeEncryptor> AuthorizedEngine<E, H, C> {
    /// The service's engine with the rights of `principal`.
    pub fn new(service: &AuthService<E, H, C>, principal: Principal) -> Self {
        Self { service: service.clone(), principal }
    }

    /// The principal of the view.
    pub fn principal(&self) -> &Principal {
        &self.principal
    }

    fn check(&self, action: Action, key: &[u8]) -> Result<()> {
        if self.service.authorize(&self.principal, action, key)? { Ok(()) } else { self.refuse(action, key) }
    }

    fn check_range(&self, range: &KeyRange) -> Result<()> {
        if self.service.authorize_range(&self.principal, Action::Read, range)? {
            return Ok(());
        }
        self.refuse(Action::Read, range.start())
    }

    fn refuse<T>(&self, action: Action, key: &[u8]) -> Result<T> {
        let key = &key[..key.len().min(64)];
        self.service.audit_denial(&self.principal, &format!("{action:?} {}", key.escape_ascii()));
        Err(EngineError::Denied("the principal lacks the right for this operation on this key".into()))
    }

    /// Refuses a batch with an operation that is not allowed; returns the rights that allow it.
    fn check_batch(&self, batch: &Batch) -> Result<Arc<AccessRights>> {
        let access = self.service.access_of(&self.principal)?;
        let now_ms = self.service.time_ms();
        let changes = batch.changes().map(|change| {
            let action = if change.given.is_some() { Action::Admin } else { Action::Write };
            (action, change.key)
        });
        let needed = changes.chain(batch.requirements().map(|(key, _)| (Action::Read, key)));
        for (action, key) in needed {
            if !access.allows(action, key, now_ms) {
                return self.refuse(action, key);
            }
        }
        Ok(access)
    }

    fn one(&self, batch: &Batch) -> Result<ApplyOutcome> {
        self.all(batch)?.pop().ok_or_else(|| EngineError::Conflict("the engine returned no outcome".into()))
    }

    fn all(&self, batch: &Batch) -> Result<Vec<ApplyOutcome>> {
        match self.commit(batch)? {
            BatchOutcome::Committed(Committed { outcomes, .. }) => Ok(outcomes),
            BatchOutcome::Rejected(_) => Err(EngineError::Conflict("a write without requirements was rejected".into())),
        }
    }
}

impl<E: KvEngine, H: SecretHasher, C: EnvelopeEncryptor> KvEngine for AuthorizedEngine<E, H, C> {
    fn submit(&self, command: Command) -> Result<ApplyOutcome> {
        let mut batch = Batch::new();
        batch.submit(&command);
        self.one(&batch)
    }

    fn submit_batch<I>(&self, commands: I) -> Result<Vec<ApplyOutcome>>
    where
        I: IntoIterator<Item = Command>,
    {
        let mut batch = Batch::new();
        for command in commands {
            batch.submit(&command);
        }
        if batch.is_empty() { Ok(Vec::new()) } else { self.all(&batch) }
    }

    fn commit(&self, batch: &Batch) -> Result<BatchOutcome> {
        // The engine's reserve is for changes that revoke access; a principal must not use it.
        let uses_reserve = planted("auth_reserve_for_all") && batch.uses_reserve();
        for _ in 0..MAX_TRIES {
            let access = self.check_batch(batch)?;
            let mut guarded = batch.clone();
            guarded.use_reserve(uses_reserve).require(record_keys::GENERATION, Expect::Version(access.generation));
            match self.service.commit_within_quotas(&access, guarded)? {
                BatchOutcome::Rejected(Rejected { key, .. }) if key == record_keys::GENERATION => {}
                outcome => return Ok(outcome),
            }
        }
        Err(EngineError::Conflict("permissions keep changing; try again".into()))
    }

    fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<ApplyOutcome> {
        self.one(Batch::new().put(key, value))
    }

    fn delete(&self, key: impl AsRef<[u8]>) -> Result<ApplyOutcome> {
        self.one(Batch::new().delete(key))
    }

    fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Value>> {
        self.check(Action::Read, key.as_ref())?;
        self.service.engine().get(key)
    }

    fn get_versioned(&self, key: impl AsRef<[u8]>) -> Result<Option<(Value, u64)>> {
        self.check(Action::Read, key.as_ref())?;
        self.service.engine().get_versioned(key)
    }

    fn get_prefix(&self, prefix: impl AsRef<[u8]>) -> Result<Vec<(Vec<u8>, Value)>> {
        self.check_range(&KeyRange::prefix(prefix.as_ref()))?;
        let mut found = self.service.engine().get_prefix(prefix)?;
        found.retain(|(key, _)| !key.starts_with(record_keys::RESERVED_PREFIX));
        Ok(found)
    }

    /// A range around the service's own keys is read in two scans, before and after them.
    fn scan(&self, from: Bound<&[u8]>, to: Bound<&[u8]>, limit: usize) -> Result<Vec<(Vec<u8>, Value)>> {
        let range = KeyRange::bounds(from, to);
        self.check_range(&range)?;
        let mut found = Vec::new();
        for part in range.without(&record_keys::reserved_keys()) {
            let to = part.end().map_or(Bound::Unbounded, Bound::Excluded);
            found.extend(self.service.engine().scan(Bound::Included(part.start()), to, limit - found.len())?);
        }
        Ok(found)
    }
}

impl<E, H, C> fmt::Debug for AuthorizedEngine<E, H, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthorizedEngine").field("principal", &self.principal).finish_non_exhaustive()
    }
}

/// Creates an authentication service with the default parts on an engine.
pub trait IntoAuthService: KvEngine + Sized {
    /// Returns the shared engine, and a service on it with [`crate::Argon2SecretHasher`] and
    /// [`crate::AesGcmEncryptor`] under `master_key`.
    fn into_argon2_hasher_aes_gcm_auth_service(
        self,
        master_key: [u8; 32],
    ) -> (Arc<Self>, AuthService<Arc<Self>, crate::Argon2SecretHasher, crate::AesGcmEncryptor>);
}

impl<E: KvEngine> IntoAuthService for E {
    fn into_argon2_hasher_aes_gcm_auth_service(
        self,
        master_key: [u8; 32],
    ) -> (Arc<Self>, AuthService<Arc<Self>, crate::Argon2SecretHasher, crate::AesGcmEncryptor>) {
        let engine = Arc::new(self);
        let (hasher, encryptor) = (crate::Argon2SecretHasher::new(), crate::AesGcmEncryptor::new(master_key));
        let service = AuthService::new(Arc::clone(&engine), hasher, encryptor);
        (engine, service)
    }
}

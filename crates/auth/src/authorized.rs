//! A view of an engine that does only what a principal may do.

use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

use hightower_engine::{
    ApplyOutcome, Batch, BatchOutcome, Committed, Error as EngineError, Expect, KvEngine, Rejected, Result, Value,
};
use hightower_log::Command;

use crate::crypto::{EnvelopeEncryptor, SecretHasher};
use crate::layout;
use crate::mutants::planted;
use crate::permission::{Action, KeyRange};
use crate::service::{Access, AuthService, Principal};

/// How often a write is tried again because somebody's access changed at the same time.
const MAX_TRIES: u32 = 1000;

/// An engine as one principal may use it. It is a [`KvEngine`] itself.
///
/// | operation | needs |
/// | --- | --- |
/// | `get`, `get_versioned` | `Read` on the key |
/// | `get_prefix`, `scan` | `Read` on every key in the range, there or not |
/// | `put`, `delete`, and such changes in a batch | `Write` on the key |
/// | `submit`, `submit_batch`, and such changes in a batch | `Admin` on the key |
/// | each requirement of a batch | `Read` on its key |
///
/// A batch is allowed whole or not at all. The service's own keys cannot be reached: a single key
/// of them is refused, and ranges leave them out.
///
/// Every operation looks at what the principal may do *now*. A write is committed only if nobody's
/// access has changed since that look, so once a revocation has returned, no write that was
/// allowed before it is committed.
///
/// A write that a [`Quota`](crate::Quota) holds must fit in it, else it fails with [`EngineError::Full`], which names the
/// quota, its limit and its use; deletes always go through. Such a write reads each key that it changes, and waits for
/// others under the same quota, up to the end of their commits. The first one counts the range by a scan. Others' writes
/// under the range are noticed when it is counted again: 60 s after the last count by at most 128 keys a write, and whole
/// before a refusal, unless that was done in the last second (where counting takes longer than 0.1 s: in the last ten
/// times that long). Writes that no quota holds cost what they cost without.
///
/// # Examples
/// See `examples/auth_flow.rs`.
pub struct AuthorizedEngine<E, H, C> {
    service: AuthService<E, H, C>,
    principal: Principal,
}

impl<E: KvEngine, H: SecretHasher, C: EnvelopeEncryptor> AuthorizedEngine<E, H, C> {
    /// The service's engine, as `principal` may use it.
    pub fn new(service: &AuthService<E, H, C>, principal: Principal) -> Self {
        Self { service: service.clone(), principal }
    }

    /// Whose view it is.
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
        Err(EngineError::Denied("the principal may not do this to this key".into()))
    }

    /// Refuses a batch with anything that is not allowed; gives what allows it.
    fn check_batch(&self, batch: &Batch) -> Result<Arc<Access>> {
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
        self.all(batch)?.pop().ok_or_else(|| EngineError::Conflict("the engine told no outcome".into()))
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
        // The engine's reserve is for what takes access away, which is not a principal's to say.
        let uses_reserve = planted("auth_reserve_for_all") && batch.uses_reserve();
        for _ in 0..MAX_TRIES {
            let access = self.check_batch(batch)?;
            let mut guarded = batch.clone();
            guarded.use_reserve(uses_reserve).require(layout::GENERATION, Expect::Version(access.generation));
            match self.service.commit_within_quotas(&access, guarded)? {
                BatchOutcome::Rejected(Rejected { key, .. }) if key == layout::GENERATION => {}
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
        found.retain(|(key, _)| !key.starts_with(layout::RESERVED_PREFIX));
        Ok(found)
    }

    /// A range that reaches over the service's own keys is read in two scans, before and behind them.
    fn scan(&self, from: Bound<&[u8]>, to: Bound<&[u8]>, limit: usize) -> Result<Vec<(Vec<u8>, Value)>> {
        let range = KeyRange::bounds(from, to);
        self.check_range(&range)?;
        let mut found = Vec::new();
        for part in range.without(&layout::reserved_keys()) {
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

/// Puts an authentication service with the usual parts on an engine.
pub trait IntoAuthService: KvEngine + Sized {
    /// The engine, shared, and a service on it with [`crate::Argon2SecretHasher`] and
    /// [`crate::AesGcmEncryptor`] under this master key.
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

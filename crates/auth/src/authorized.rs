//! A view of an engine with the rights of one principal.

use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

use hightower_engine::{
    ApplyOutcome, Batch, BatchOutcome, Committed, Durability, Error as EngineError, Expect, KeyBounds, KeyspaceEngine,
    KvEngine, KvReader, KvWriter, Pairs, Rejected, Result, Value, prefix_end,
};
use hightower_log::Command;

use crate::crypto::{EnvelopeEncryptor, SecretHasher};
use crate::mutants::planted;
use crate::permission::{Action, KeyRange};
use crate::record_keys;
use crate::service::{AccessRights, AuthService, Principal};

/// Maximum number of attempts of a write while access rights change concurrently.
const MAX_TRIES: u32 = 1000;

/// An engine with the rights of one principal. It is a [`KvEngine`], and a [`KvReader`] and
/// [`KvWriter`]: an `Arc<dyn KvWriter>` may be a view.
///
/// | operation | needs |
/// | --- | --- |
/// | `get`, `get_versioned`, `contains_key` | `Read` on the key |
/// | `range`, `prefix`, `get_prefix`, `scan` | `Read` on the whole range, also where no key exists |
/// | `put`, `delete`, and such changes in a batch | `Write` on the key |
/// | `submit`, `submit_batch`, and such changes in a batch | `Admin` on the key |
/// | each requirement of a batch | `Read` on its key |
///
/// A batch is allowed as a whole or not at all. The service's records are in a keyspace of their
/// own, out of reach.
///
/// Every operation checks the principal's current rights. A write commits only if no access rights
/// have changed since its check. So after a revocation returns, no write that was allowed before it
/// commits. The iterator of a range checks the rights at each item: after a revocation it returns
/// [`EngineError::Denied`] and ends.
///
/// A write under a [`Quota`](crate::Quota) must fit in it, or fails with [`EngineError::Full`],
/// which names the quota, its limit and its use. Deletes always succeed. Such a write reads each
/// key that it changes, and waits for the commits of other writes under the same quota. The first
/// write counts the range by a scan. Later counts find the writes that the quota did not limit.
/// They begin 60 s after the last count, by at most 128 keys per write. A refusal first counts the
/// whole range, unless the last count is younger than 1 s or, if longer, ten times its duration.
/// Writes without a quota have no extra cost.
///
/// ```
/// # use hightower_auth::{Action, AuthorizedEngine, Grant, IntoAuthService, KeyRange};
/// # use hightower_engine::{KvReader, SingleNodeEngine};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let engine = SingleNodeEngine::open(dir.path())?;
/// # let (engine, auth) = engine.into_argon2_hasher_aes_gcm_auth_service([7; 32]);
/// # engine.put("jobs/7", "queued")?;
/// # auth.set_role("reader", &[Grant::new([Action::Read], KeyRange::prefix("jobs/"))?])?;
/// # let user = auth.create_user("Alice", "violet teapot orbit 9")?;
/// # auth.set_user_roles(&user.user_id, &["reader".into()])?;
/// # let (_record, api_key) = auth.create_api_key(&user.user_id, None)?;
/// # let principal = auth.authenticate(&api_key)?.ok_or("the key is new")?;
/// let view = AuthorizedEngine::new(&auth, principal);
/// for pair in view.prefix("jobs/")? {
///     let (key, value) = pair?;
///     assert_eq!((&key[..], value), (&b"jobs/7"[..], "queued".into()));
/// }
/// let reader: &dyn KvReader = &view;
/// assert!(reader.get(b"secrets/root").is_err());
/// # Ok(())
/// # }
/// ```
pub struct AuthorizedEngine<E, H, C> {
    service: AuthService<E, H, C>,
    principal: Principal,
}

impl<E: KeyspaceEngine, H: SecretHasher, C: EnvelopeEncryptor> AuthorizedEngine<E, H, C> {
    /// The service's engine with the rights of `principal`.
    pub fn new(service: &AuthService<E, H, C>, principal: Principal) -> Self {
        Self { service: service.clone(), principal }
    }

    /// The principal of the view.
    pub fn principal(&self) -> &Principal {
        &self.principal
    }

    /// The value of `key`.
    ///
    /// # Errors
    /// [`EngineError::Denied`] without the right to read it; those of the engine.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Value>> {
        self.check(Action::Read, key.as_ref())?;
        self.service.engine().get(key)
    }

    /// The value of `key`, and its version.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn get_versioned(&self, key: impl AsRef<[u8]>) -> Result<Option<(Value, u64)>> {
        self.check(Action::Read, key.as_ref())?;
        self.service.engine().get_versioned(key)
    }

    /// Whether `key` has a value. Costs a copy of the value.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn contains_key(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        Ok(self.get(key)?.is_some())
    }

    /// The keys in `bounds` with their values, in key order, from either end, as of one moment.
    ///
    /// # Errors
    /// [`EngineError::Denied`] without the right to read the whole range; those of the engine. An
    /// item is an error if the right is gone by then, or the value does not verify.
    pub fn range(&self, bounds: impl KeyBounds) -> Result<Pairs<'_>> {
        let (from, to) = bounds.key_bounds();
        self.check_range(&KeyRange::bounds(from, to))?;
        let pairs = self.service.engine().pairs(from, to)?;
        Ok(Box::new(CheckedPairs { view: self, pairs, is_refused: false }))
    }

    /// The keys that begin with `prefix`, otherwise as [`range`](Self::range).
    ///
    /// # Errors
    /// As [`range`](Self::range).
    pub fn prefix(&self, prefix: impl AsRef<[u8]>) -> Result<Pairs<'_>> {
        let (prefix, end) = (prefix.as_ref(), prefix_end(prefix.as_ref()));
        self.range((Bound::Included(prefix), end.as_deref().map_or(Bound::Unbounded, Bound::Excluded)))
    }

    /// Sets the value of `key`.
    ///
    /// # Errors
    /// [`EngineError::Denied`] without the right to write it, [`EngineError::Full`] over a quota;
    /// those of the engine.
    pub fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<ApplyOutcome> {
        self.one(Batch::new().put(key, value))
    }

    /// Deletes `key`.
    ///
    /// # Errors
    /// [`EngineError::Denied`] without the right to write it; those of the engine.
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Result<ApplyOutcome> {
        self.one(Batch::new().delete(key))
    }

    /// Commits a batch atomically, if its requirements hold. The batch must not name keyspaces.
    ///
    /// # Errors
    /// [`EngineError::Denied`] without one of the rights that it needs, [`EngineError::Full`] over
    /// a quota; those of the engine.
    pub fn commit(&self, batch: &Batch) -> Result<BatchOutcome> {
        self.commit_checked(batch, None)
    }

    /// As [`commit`](Self::commit), with a durability for this call.
    ///
    /// # Errors
    /// As [`commit`](Self::commit).
    pub fn commit_with(&self, batch: &Batch, durability: Durability) -> Result<BatchOutcome> {
        self.commit_checked(batch, Some(durability))
    }

    fn commit_checked(&self, batch: &Batch, durability: Option<Durability>) -> Result<BatchOutcome> {
        // The engine's reserve is for changes that revoke access; a principal must not use it.
        let uses_reserve = planted("auth_reserve_for_all") && batch.uses_reserve();
        let records = self.service.records().keyspace();
        for _ in 0..MAX_TRIES {
            let access = self.check_batch(batch)?;
            let mut guarded = batch.clone();
            let unchanged = Expect::Version(access.generation);
            guarded.use_reserve(uses_reserve).require_in(records, record_keys::GENERATION, unchanged);
            match self.service.commit_within_quotas(&access, guarded, durability)? {
                BatchOutcome::Rejected(Rejected { keyspace, key, .. })
                    if key == record_keys::GENERATION
                        && (keyspace == records.id() || planted("auth_keyspace_of_rejections_ignored")) => {}
                outcome => return Ok(outcome),
            }
        }
        Err(EngineError::Conflict("permissions keep changing; try again".into()))
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
        if !batch.names_no_keyspace() && !planted("auth_keyspaces_unchecked") {
            self.service.audit_denial(&self.principal, "a batch that names a keyspace");
            let what = "rights are about the keys of one keyspace: a batch must not name others";
            return Err(EngineError::Denied(what.into()));
        }
        let access = self.service.access_of(&self.principal)?;
        let now_ms = self.service.time_ms();
        let changes = batch.changes().flat_map(|change| {
            let action = if change.given.is_some() { Action::Admin } else { Action::Write };
            // A merge returns the value.
            let is_read = change.merge.is_some() && !planted("auth_merges_read_unchecked");
            [Some((action, change.key)), is_read.then_some((Action::Read, change.key))].into_iter().flatten()
        });
        let needed = changes.chain(batch.requirements().map(|requirement| (Action::Read, requirement.key)));
        for (action, key) in needed {
            if !access.allows(action, key, now_ms) {
                return self.refuse(action, key);
            }
        }
        for (from, to, _) in batch.range_requirements() {
            let range = KeyRange::bounds(from, to);
            let is_refused = !access.allows_range(Action::Read, &range, now_ms);
            if is_refused && !planted("auth_range_requirements_unchecked") {
                return self.refuse(Action::Read, range.start());
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

impl<E: KeyspaceEngine, H: SecretHasher, C: EnvelopeEncryptor> KvEngine for AuthorizedEngine<E, H, C> {
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
        Self::commit(self, batch)
    }

    fn commit_with(&self, batch: &Batch, durability: Durability) -> Result<BatchOutcome> {
        Self::commit_with(self, batch, durability)
    }

    fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<ApplyOutcome> {
        Self::put(self, key, value)
    }

    fn delete(&self, key: impl AsRef<[u8]>) -> Result<ApplyOutcome> {
        Self::delete(self, key)
    }

    fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Value>> {
        Self::get(self, key)
    }

    fn get_versioned(&self, key: impl AsRef<[u8]>) -> Result<Option<(Value, u64)>> {
        Self::get_versioned(self, key)
    }

    fn get_prefix(&self, prefix: impl AsRef<[u8]>) -> Result<Vec<(Vec<u8>, Value)>> {
        self.check_range(&KeyRange::prefix(prefix.as_ref()))?;
        self.service.engine().get_prefix(prefix)
    }

    fn scan(&self, from: Bound<&[u8]>, to: Bound<&[u8]>, limit: usize) -> Result<Vec<(Vec<u8>, Value)>> {
        self.check_range(&KeyRange::bounds(from, to))?;
        self.service.engine().scan(from, to, limit)
    }

    fn pairs(&self, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Result<Pairs<'_>> {
        self.range((from, to))
    }
}

impl<E: KeyspaceEngine, H: SecretHasher, C: EnvelopeEncryptor> KvReader for AuthorizedEngine<E, H, C> {
    fn get(&self, key: &[u8]) -> Result<Option<Value>> {
        Self::get(self, key)
    }

    fn get_versioned(&self, key: &[u8]) -> Result<Option<(Value, u64)>> {
        Self::get_versioned(self, key)
    }

    fn range(&self, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Result<Pairs<'_>> {
        Self::range(self, (from, to))
    }
}

impl<E: KeyspaceEngine, H: SecretHasher, C: EnvelopeEncryptor> KvWriter for AuthorizedEngine<E, H, C> {
    fn commit(&self, batch: &Batch) -> Result<BatchOutcome> {
        Self::commit(self, batch)
    }

    fn commit_with(&self, batch: &Batch, durability: Durability) -> Result<BatchOutcome> {
        Self::commit_with(self, batch, durability)
    }
}

/// The pairs of a range, each under the rights that the principal has when it is read.
struct CheckedPairs<'a, E, H, C> {
    view: &'a AuthorizedEngine<E, H, C>,
    pairs: Pairs<'a>,
    is_refused: bool,
}

impl<E: KeyspaceEngine, H: SecretHasher, C: EnvelopeEncryptor> CheckedPairs<'_, E, H, C> {
    /// The next pair of `next`.
    fn checked(
        &mut self,
        next: impl Fn(&mut Pairs<'_>) -> Option<Result<(Vec<u8>, Value)>>,
    ) -> Option<<Self as Iterator>::Item> {
        if self.is_refused {
            return None;
        }
        let pair = next(&mut self.pairs)?;
        let Ok((key, _)) = &pair else { return Some(pair) };
        match self.view.check(Action::Read, key) {
            Err(error) if !planted("auth_range_after_revocation") => {
                self.is_refused = true;
                Some(Err(error))
            }
            _ => Some(pair),
        }
    }
}

impl<E: KeyspaceEngine, H: SecretHasher, C: EnvelopeEncryptor> Iterator for CheckedPairs<'_, E, H, C> {
    type Item = Result<(Vec<u8>, Value)>;

    fn next(&mut self) -> Option<Self::Item> {
        self.checked(|pairs| pairs.next())
    }
}

impl<E: KeyspaceEngine, H: SecretHasher, C: EnvelopeEncryptor> DoubleEndedIterator for CheckedPairs<'_, E, H, C> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.checked(|pairs| pairs.next_back())
    }
}

impl<E, H, C> fmt::Debug for AuthorizedEngine<E, H, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthorizedEngine").field("principal", &self.principal).finish_non_exhaustive()
    }
}

/// Creates an authentication service with the default parts on an engine.
pub trait IntoAuthService: KeyspaceEngine + Sized {
    /// Returns the shared engine, and a service on it with [`crate::Argon2SecretHasher`] and
    /// [`crate::AesGcmEncryptor`] under `master_key`.
    fn into_argon2_hasher_aes_gcm_auth_service(
        self,
        master_key: [u8; 32],
    ) -> (Arc<Self>, AuthService<Arc<Self>, crate::Argon2SecretHasher, crate::AesGcmEncryptor>);
}

impl<E: KeyspaceEngine> IntoAuthService for E {
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

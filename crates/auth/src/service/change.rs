//! Reading records and changing them in one conditional commit with its audit entry.

use std::sync::atomic::Ordering;

use hightower_engine::{BatchOutcome, Expect, KeyspaceEngine, Rejected};

use super::AuthService;
use super::records::RecordBatch;
use super::store_keys::StoreKeys;
use crate::audit::{AuditAction, AuditEntry, AuditHash, AuditOutcome, Head, chain_hash};
use crate::codec::FieldReader;
use crate::crypto::{EnvelopeEncryptor, SecretHasher};
use crate::error::{Error, Result};
use crate::id::{NOBODY, UserId};
use crate::mutants::planted;
use crate::record::{ApiKeyRecord, RoleRecord, StoredApiKey, StoredSession, StoredUser};
use crate::record_keys;

/// Maximum number of attempts of a change against concurrent changes.
const MAX_TRIES: u32 = 10_000;

/// The conflict of a change when access rights may have changed since the check of the caller.
pub(super) const AUTHORITY_MOVED: &str = "access rights changed since the caller's were checked";

/// A record with its version, which a replacement requires.
#[derive(Clone, Debug)]
pub(super) struct Loaded<T> {
    pub(super) value: T,
    pub(super) version: u64,
}

/// The decision of a change after its reads.
pub(super) enum Decision<T> {
    /// Commit the collected changes, then return this.
    Commit(T),
    /// Change nothing and return this.
    Stop(T),
    /// The reads are inconsistent because of a concurrent change: start over.
    Again,
}

/// The audit entry of a commit.
struct Event {
    action: AuditAction,
    target: String,
    user_id: Option<UserId>,
    outcome: AuditOutcome,
    suppressed: u32,
}

/// A commit under construction.
pub(super) struct ConditionalCommit<'k> {
    pub(super) keys: &'k StoreKeys,
    pub(super) batch: RecordBatch<'k>,
    events: Vec<Event>,
    pruned: Option<(u64, AuditHash)>,
    access_changed: bool,
    takes_access: bool,
}

impl ConditionalCommit<'_> {
    /// Writes a new record. The key must not exist.
    pub(super) fn create(&mut self, key: &[u8], body: &[u8]) {
        if !planted("auth_taken_not_required") {
            self.batch.require(key, Expect::Absent);
        }
        self.batch.put(key, self.keys.sealer.seal(key, body));
    }

    /// Replaces a record, which must be unchanged since it was read.
    pub(super) fn replace(&mut self, key: &[u8], version: u64, body: &[u8]) {
        self.batch.require(key, Expect::Version(version));
        self.batch.put(key, self.keys.sealer.seal(key, body));
    }

    /// Removes a record, which must be unchanged since it was read.
    pub(super) fn remove(&mut self, key: &[u8], version: u64) {
        self.batch.require(key, Expect::Version(version));
        self.batch.delete(key);
    }

    /// Requires that a record is unchanged since it was read.
    pub(super) fn require(&mut self, key: &[u8], version: u64) {
        self.batch.require(key, Expect::Version(version));
    }

    /// Marks a commit that may revoke access: afterwards every principal's rights are read again.
    pub(super) fn access_changes(&mut self) {
        self.access_changed = true;
    }

    /// Marks a commit that revokes access: as [`access_changes`](Self::access_changes), and the
    /// commit may use the engine's reserve, so that nobody keeps access by filling the store.
    pub(super) fn takes_access(&mut self) {
        self.access_changed = true;
        self.takes_access = true;
    }

    /// Does not use the engine's reserve: a user who revokes its own access repeatedly would
    /// exhaust it.
    pub(super) fn leaves_reserve(&mut self) {
        self.takes_access = false;
    }

    /// Adds an entry to the audit trail. If the target is a user's id, the entry concerns that
    /// user.
    pub(super) fn audit(&mut self, action: AuditAction, target: impl Into<String>) {
        let target = target.into();
        let user_id = UserId::parse(&target);
        self.events.push(Event { action, target, user_id, outcome: AuditOutcome::Done, suppressed: 0 });
    }

    /// Adds an entry that concerns this user.
    pub(super) fn audit_of(&mut self, user_id: &UserId, action: AuditAction, target: impl Into<String>) {
        let (target, user_id) = (target.into(), Some(user_id.clone()));
        self.events.push(Event { action, target, user_id, outcome: AuditOutcome::Done, suppressed: 0 });
    }

    pub(super) fn audit_refusal(&mut self, action: AuditAction, target: impl Into<String>, suppressed: u32) {
        let target = target.into();
        let user_id = UserId::parse(&target);
        self.events.push(Event { action, target, user_id, outcome: AuditOutcome::Refused, suppressed });
    }

    /// Sets the begin of the trail to `first_seq`, whose predecessor has the hash `anchor`.
    pub(super) fn audit_begins_at(&mut self, first_seq: u64, anchor: AuditHash) {
        self.pruned = Some((first_seq, anchor));
    }
}

impl<E: KeyspaceEngine, H: SecretHasher, C: EnvelopeEncryptor> AuthService<E, H, C> {
    /// Whether a call of a principal may use the engine's reserve: a burst of 16, then one per 10
    /// s, so that a principal who filled the store cannot exhaust the reserve.
    pub(super) fn may_use_reserve(&self, principal: &str) -> bool {
        self.shared.reserve_uses.pass(principal.to_owned(), self.now_ms()).is_some()
            || planted("auth_own_calls_use_up_reserve")
    }

    /// Runs `step` until its commit succeeds without a conflict.
    pub(super) fn change<T>(
        &self,
        mut step: impl FnMut(&mut ConditionalCommit<'_>) -> Result<Decision<T>>,
    ) -> Result<T> {
        let mut may_use_reserve = None;
        for _ in 0..MAX_TRIES {
            let keys = &*self.keys()?;
            let mut change = ConditionalCommit {
                keys,
                batch: self.records().batch(),
                events: Vec::new(),
                pruned: None,
                access_changed: false,
                takes_access: false,
            };
            let result = match step(&mut change)? {
                Decision::Stop(result) => return Ok(result),
                Decision::Commit(result) => result,
                Decision::Again => continue,
            };
            // Only calls of a principal have a guard; those of the embedding program have none.
            if change.takes_access && self.caller.guard.is_some() {
                let actor = self.caller.actor.as_str();
                change.takes_access = *may_use_reserve.get_or_insert_with(|| self.may_use_reserve(actor));
            }
            let (batch, entries) = self.finish(change)?;
            match self.records().commit(&batch)? {
                BatchOutcome::Committed(_) => {
                    self.tell_listener(&entries);
                    return Ok(result);
                }
                BatchOutcome::Rejected(Rejected { key, .. })
                    if key == record_keys::GENERATION && self.caller.guard.is_some() =>
                {
                    return Err(Error::Conflict(AUTHORITY_MOVED));
                }
                BatchOutcome::Rejected(Rejected { key, .. }) => {
                    if key == record_keys::META {
                        self.refresh_keys(keys)?;
                    }
                    self.shared.counts.commit_retries.fetch_add(1, Ordering::Relaxed);
                    std::thread::yield_now();
                }
            }
        }
        Err(Error::Conflict("concurrent changes of the same records; try again"))
    }

    /// The batch of the commit, and its audit entries.
    fn finish<'k>(&self, change: ConditionalCommit<'k>) -> Result<(RecordBatch<'k>, Vec<AuditEntry>)> {
        let keys = change.keys;
        let mut batch = change.batch;
        if !planted("auth_stale_keys_write") {
            batch.require(record_keys::META, Expect::Version(keys.meta_version));
        }
        batch.use_reserve(change.takes_access && !planted("auth_without_reserve"));
        if let Some(generation) = self.caller.guard.filter(|_| !planted("auth_admin_not_guarded")) {
            batch.require(record_keys::GENERATION, Expect::Version(generation));
        }
        if change.access_changed {
            batch.put(record_keys::GENERATION, keys.sealer.seal(record_keys::GENERATION, &[]));
        }
        if change.events.is_empty() && change.pruned.is_none() {
            return Ok((batch, Vec::new()));
        }
        let head = self.audit_head()?;
        let mut next = head.value;
        if let Some((first_seq, anchor)) = change.pruned {
            (next.first_seq, next.anchor) = (first_seq, anchor);
        }
        let mut entries = Vec::with_capacity(change.events.len());
        for Event { action, target, user_id, outcome, suppressed } in change.events {
            let entry = AuditEntry {
                seq: next.next_seq,
                at_ms: self.now_ms(),
                actor: self.caller.actor.clone(),
                action,
                target,
                user_id,
                source: self.caller.source.clone(),
                outcome,
                suppressed,
            };
            let body = entry.encode(&next.last)?;
            let key = record_keys::audit(entry.seq);
            if planted("auth_audit_apart") {
                let mut apart = self.records().batch();
                apart.put(&key, keys.sealer.seal(&key, &body));
                let _outcome = self.records().commit(&apart)?;
            } else {
                batch.put(&key, keys.sealer.seal(&key, &body));
            }
            next.last = chain_hash(&keys.audit, &body);
            next.next_seq += 1;
            entries.push(entry.shown());
        }
        batch.require(record_keys::AUDIT_HEAD, Expect::Version(head.version));
        batch.put(record_keys::AUDIT_HEAD, keys.sealer.seal(record_keys::AUDIT_HEAD, &next.encode()));
        Ok((batch, entries))
    }

    /// Reads, checks and decodes a record.
    pub(super) fn load<T>(
        &self,
        key: &[u8],
        decode: impl Fn(FieldReader<'_>) -> Result<T>,
    ) -> Result<Option<Loaded<T>>> {
        self.with_keys(|keys| {
            let Some((bytes, version)) = self.records().get_versioned(key)? else {
                return Ok(None);
            };
            let value = decode(keys.sealer.open(key, &bytes)?)?;
            Ok(Some(Loaded { value, version }))
        })
    }

    pub(super) fn audit_head(&self) -> Result<Loaded<Head>> {
        match self.load(record_keys::AUDIT_HEAD, Head::decode)? {
            Some(head) => Ok(head),
            None => Err(Error::Crypto("the head of the audit trail is missing")),
        }
    }

    pub(super) fn load_user(&self, id: &[u8; 16]) -> Result<Option<Loaded<StoredUser>>> {
        self.load(&record_keys::user(id), |reader| StoredUser::decode(*id, reader))
    }

    /// The user with this id, which must exist.
    pub(super) fn user_by_id(&self, user_id: &str) -> Result<Loaded<StoredUser>> {
        let unknown = Error::NotFound("no user has this id");
        let Some(id) = UserId::parse(user_id).filter(|id| *id.as_bytes() != NOBODY) else {
            return Err(unknown);
        };
        self.load_user(id.as_bytes())?.ok_or(unknown)
    }

    /// The id in the name index, with the version of the index entry.
    pub(super) fn load_name(&self, normal: &str) -> Result<Option<Loaded<[u8; 16]>>> {
        self.load(&self.keys()?.name_key(normal), |mut reader| {
            let id = reader.array()?;
            reader.end()?;
            Ok(id)
        })
    }

    /// The name index entry of a user; `None` if the user was changed since it was read.
    pub(super) fn name_of(&self, user: &Loaded<StoredUser>) -> Result<Option<Loaded<[u8; 16]>>> {
        let name = self.load_name(&user.value.normal_name)?;
        let id = user.value.public.user_id.as_bytes();
        if name.as_ref().is_some_and(|name| name.value == *id) {
            return Ok(name);
        }
        match self.load_user(id)? {
            Some(now) if now.version == user.version => {
                Err(Error::Crypto("a user's entry in the name index is missing or another's"))
            }
            _ => Ok(None),
        }
    }

    pub(super) fn load_api_key(&self, id: &[u8; 16]) -> Result<Option<Loaded<StoredApiKey>>> {
        self.load(&record_keys::api_key(id), |reader| StoredApiKey::decode(*id, reader))
    }

    pub(super) fn load_session(&self, token_hash: &[u8]) -> Result<Option<Loaded<StoredSession>>> {
        self.load(&record_keys::session(token_hash), StoredSession::decode)
    }

    pub(super) fn load_role(&self, name: &str) -> Result<Option<Loaded<RoleRecord>>> {
        self.load(&record_keys::role(name), |reader| RoleRecord::decode(name, reader))
    }

    /// Writes a user back, if it is unchanged since it was read.
    pub(super) fn replace_user(&self, change: &mut ConditionalCommit<'_>, user: &Loaded<StoredUser>) -> Result<()> {
        let key = record_keys::user(user.value.public.user_id.as_bytes());
        change.replace(&key, user.version, &user.value.encode()?);
        Ok(())
    }

    /// Writes an API key back, if it is unchanged since it was read.
    pub(super) fn replace_api_key(&self, change: &mut ConditionalCommit<'_>, key: &Loaded<StoredApiKey>) -> Result<()> {
        let ApiKeyRecord { key_id, .. } = &key.value.public;
        change.replace(&record_keys::api_key(key_id.as_bytes()), key.version, &key.value.encode()?);
        Ok(())
    }
}

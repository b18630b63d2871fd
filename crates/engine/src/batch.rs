//! Batches: several changes in one atomic commit, with requirements.

mod merging;

use std::borrow::Cow;
use std::ops::Bound;
use std::sync::Arc;

use hightower_log::{Command, payload_checksum};
use hightower_state::{ApplyOutcome, LeveledSnapshot};

use crate::bounds::KeyBounds;
use crate::error::{Error, Result};
use crate::expect::{Expect, Rejected};
use crate::keyspace::{
    Keyspace, KeyspaceId, LivingKeyspace, Scope, StoredBounds, StoredKey, UserKey, check_key, id_of, user_bounds,
};
use crate::limits;
use crate::merge::BatchMerge;
use crate::mutants::planted;
use crate::place::Place;
use crate::value::Value;
use crate::watch::RangeRequirement;

/// The outcome of a batch. No variant will be added; the content of the two may grow.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a batch with requirements may have been rejected; `committed()?` makes that an error"]
pub enum BatchOutcome {
    /// The batch is committed.
    Committed(Committed),
    /// The batch is not committed, because a requirement did not hold.
    Rejected(Rejected),
}

impl BatchOutcome {
    /// Whether the batch was committed.
    #[must_use]
    pub fn is_committed(&self) -> bool {
        matches!(self, Self::Committed(_))
    }

    /// The commit, for callers that treat a rejection as an error.
    ///
    /// ```
    /// # use hightower_engine::{Batch, Error, Expect, SingleNodeEngine};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// let mut claim = Batch::new();
    /// claim.put("leader", "node-1").require("leader", Expect::Absent);
    /// let seq = engine.commit(&claim)?.committed()?.seq;
    /// let refused = || -> Result<u64, Error> { Ok(engine.commit(&claim)?.committed()?.seq) };
    /// assert!(matches!(refused(), Err(Error::Rejected(_))));
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The violated requirement; `?` converts it to [`Error::Rejected`].
    pub fn committed(self) -> Result<Committed, Rejected> {
        match self {
            Self::Committed(committed) => Ok(committed),
            Self::Rejected(rejected) => Err(rejected),
        }
    }
}

impl BatchOutcome {
    /// The value after the only merge of the batch.
    pub(crate) fn merged(self) -> Result<Option<Value>> {
        self.committed()?.merged.pop().ok_or_else(|| Error::Internal("a commit has no merge".into()))
    }
}

/// A committed batch.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Committed {
    /// The seq of the commit. If every command was stale, nothing was written, and this is the
    /// latest seq.
    pub seq: u64,
    /// The outcome of each command, in the order in which commands were added.
    pub outcomes: Vec<ApplyOutcome>,
    /// The version of each command, in the same order; 0 for a merge that has written nothing.
    pub versions: Vec<u64>,
    /// The value after each merge, in the order in which merges were added; `None` if the key has
    /// none.
    pub merged: Vec<Option<Value>>,
}

impl Committed {
    /// Constructs it without merges, for implementations of [`KvEngine`](crate::KvEngine) other
    /// than the store.
    #[must_use]
    pub fn new(seq: u64, outcomes: Vec<ApplyOutcome>, versions: Vec<u64>) -> Self {
        Self { seq, outcomes, versions, merged: Vec::new() }
    }
}

/// Changes and requirements, collected for one atomic commit.
///
/// Its methods return the batch and can be chained: `engine.commit(Batch::new().put("a", "1"))`.
///
/// All keys and values are copied into one buffer, which [`clear`](Batch::clear) keeps for the next
/// use. Limits (keys of 1 to 65,520 bytes, values up to 1 GiB, versions of submitted commands below
/// 2^63, 65,536 commands, 4 GiB in all) are checked when the batch is committed.
///
/// ```
/// use hightower_engine::{Batch, Expect};
///
/// let mut batch = Batch::new();
/// batch.put("accounts/alice", "90").put("accounts/bob", "110");
/// batch.delete("transfers/17").require("transfers/17", Expect::Present);
/// assert_eq!(batch.len(), 3);
/// ```
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// The keys and values of all commands, concatenated.
    pub(crate) bytes: Vec<u8>,
    pub(crate) operations: Vec<BatchOperation>,
    /// In the order of their operations.
    pub(crate) merges: Vec<BatchMerge>,
    pub(crate) requirements: Vec<Requirement>,
    /// Shared with the watch of a commit.
    pub(crate) ranges: Option<Arc<Vec<RangeRequirement>>>,
    /// Keeps the tombstones that the requirements need, until they are checked.
    pub(crate) snapshot: Option<LeveledSnapshot<Place>>,
    /// The named keyspaces of the keys, each once.
    pub(crate) keyspaces: Vec<Arc<LivingKeyspace>>,
    /// The keyspace that the commit drops.
    pub(crate) dropped: Option<Arc<LivingKeyspace>>,
    uses_reserve: bool,
    /// Whether it is a copy of another store's commands, with their versions.
    is_copy: bool,
}

/// One command of a batch; its key and value are in the batch's buffer.
#[derive(Clone, Debug)]
pub(crate) struct BatchOperation {
    at: usize,
    key_len: usize,
    /// `None` for a delete.
    value_len: Option<usize>,
    /// `None` if the engine assigns version and time.
    pub(crate) given: Option<(u64, i64)>,
    pub(crate) payload_checksum: u64,
}

/// One change of a [`Batch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BatchChange<'a> {
    /// The id of the keyspace; [`KeyspaceId::DEFAULT`] if the batch names none.
    pub keyspace: KeyspaceId,
    /// The changed key.
    pub key: &'a [u8],
    /// The new value, or the operand of a merge; `None` for a delete.
    pub value: Option<&'a [u8]>,
    /// The name of the operator, if the change is a merge: the new value, which the caller of the
    /// commit gets, depends on the present one. [`Batch::add`] has the operator `add`.
    pub merge: Option<&'a str>,
    /// The caller's version and timestamp; `None` if the engine assigns them.
    pub given: Option<(u64, i64)>,
}

/// One requirement of a [`Batch`] on a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BatchRequirement<'a> {
    /// The id of the keyspace; [`KeyspaceId::DEFAULT`] if the batch names none.
    pub keyspace: KeyspaceId,
    /// The key.
    pub key: &'a [u8],
    /// The requirement.
    pub expect: Expect,
}

#[derive(Clone, Debug)]
pub(crate) struct Requirement {
    pub(crate) key: Vec<u8>,
    pub(crate) expect: Expect,
}

/// A batch of puts.
///
/// ```
/// use hightower_engine::Batch;
///
/// let batch: Batch = (0..10).map(|number| (format!("jobs/{number}"), "queued")).collect();
/// assert_eq!(batch.len(), 10);
/// ```
impl<K: AsRef<[u8]>, V: AsRef<[u8]>> FromIterator<(K, V)> for Batch {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        let mut batch = Self::new();
        batch.extend(pairs);
        batch
    }
}

/// Adds puts.
impl<K: AsRef<[u8]>, V: AsRef<[u8]>> Extend<(K, V)> for Batch {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, pairs: I) {
        for (key, value) in pairs {
            self.put(key, value);
        }
    }
}

impl From<Batch> for Cow<'_, Batch> {
    fn from(batch: Batch) -> Self {
        Self::Owned(batch)
    }
}

impl<'a> From<&'a Batch> for Cow<'a, Batch> {
    fn from(batch: &'a Batch) -> Self {
        Self::Borrowed(batch)
    }
}

/// For chained calls, which return a mutable borrow of the batch.
impl<'a> From<&'a mut Batch> for Cow<'a, Batch> {
    fn from(batch: &'a mut Batch) -> Self {
        Self::Borrowed(batch)
    }
}

impl Batch {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a put of `key`.
    pub fn put(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> &mut Self {
        self.push(&KeyspaceId::DEFAULT.stored(key.as_ref()), Some(value.as_ref()), None)
    }

    /// Adds a delete of `key`.
    pub fn delete(&mut self, key: impl AsRef<[u8]>) -> &mut Self {
        self.push(&KeyspaceId::DEFAULT.stored(key.as_ref()), None, None)
    }

    /// Adds a command with an explicit version below 2^63, which may be stale.
    pub fn submit(&mut self, command: &Command) -> &mut Self {
        let given = Some((command.version(), command.timestamp()));
        self.push(&KeyspaceId::DEFAULT.stored(command.key()), command.value(), given)
    }

    /// Adds a requirement on the state of `key` before the batch. If one requirement does not hold,
    /// nothing is committed.
    pub fn require(&mut self, key: impl AsRef<[u8]>, expect: Expect) -> &mut Self {
        self.require_key(None, key.as_ref(), expect)
    }

    /// Adds a requirement that no commit after the seqno `since` has set or deleted a key in
    /// `bounds`. It protects a decision that depends on a whole range: a key that appears or
    /// disappears there violates the requirement.
    ///
    /// The check costs a walk over the range before the commit, and nothing under the commit lock.
    /// The store remembers the changes since the last flush, which a compaction or a full memtable
    /// may cause at any time, and since its open. It rejects a batch with an earlier `since`: see
    /// [`Rejected::known_since`]. A [`Transaction`](crate::Transaction) is never rejected so,
    /// because it compares its snapshot with the present. A `since` above the seqno of the latest
    /// commit is a mistake, and fails with [`Error::Validation`].
    ///
    /// ```
    /// # use hightower_engine::{Batch, SingleNodeEngine};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// let read = engine.snapshot()?;
    /// let seats = read.prefix("seats/").count();
    /// let mut take = Batch::new();
    /// take.put(format!("seats/{seats}"), "Alice").require_prefix("seats/", read.seq());
    /// engine.put("seats/0", "Bob")?;
    /// let rejected = engine.commit(&take)?.committed().unwrap_err();
    /// assert_eq!((rejected.key, rejected.found), (b"seats/0".to_vec(), Some(1)));
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    pub fn require_range(&mut self, bounds: impl KeyBounds, since: u64) -> &mut Self {
        let (from, to) = bounds.key_bounds();
        self.require_stored(KeyspaceId::DEFAULT.stored_bounds(from, to), since)
    }

    /// Like [`require_range`](Self::require_range), for the keys that begin with `prefix`.
    pub fn require_prefix(&mut self, prefix: impl AsRef<[u8]>, since: u64) -> &mut Self {
        self.require_stored(KeyspaceId::DEFAULT.stored_prefix(prefix.as_ref()), since)
    }

    /// Allows the batch to use the reserve of a full store. This is for changes that revoke access,
    /// such as a logout: a user who has filled the store must not keep access because of that. A
    /// wrapper that passes on the batches of other users must first clear this flag.
    ///
    /// With the reserve, such batches may exceed `max_index_memory_bytes` by a 16th and
    /// `max_disk_bytes` by an 8th, and on a full device use the room reserved for deletes. Deletes
    /// and compaction refill the reserve.
    ///
    /// ```
    /// use hightower_engine::Batch;
    ///
    /// let mut batch = Batch::new();
    /// batch.delete("sessions/17").put("audit/90", "ended").use_reserve(true);
    /// assert!(batch.uses_reserve());
    /// ```
    pub fn use_reserve(&mut self, may_use: bool) -> &mut Self {
        self.uses_reserve = may_use;
        self
    }

    /// Whether the batch may [use the reserve](Self::use_reserve).
    #[must_use]
    pub fn uses_reserve(&self) -> bool {
        self.uses_reserve
    }

    /// The number of its commands.
    #[must_use]
    pub fn len(&self) -> usize {
        self.operations.len()
    }

    /// Whether it has no command.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// Empties the batch and keeps its memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.operations.clear();
        self.merges.clear();
        self.requirements.clear();
        self.ranges = None;
        self.snapshot = None;
        self.keyspaces.clear();
        self.dropped = None;
        self.uses_reserve = false;
        self.is_copy = false;
    }

    /// Its changes, in the order in which they were added. A view with permissions checks them.
    pub fn changes(&self) -> impl Iterator<Item = BatchChange<'_>> + '_ {
        let mut merges = self.merges.iter().peekable();
        self.operations.iter().enumerate().map(move |(at, operation)| {
            let (key, value) = self.parts(operation);
            let UserKey { keyspace, key } = UserKey::of(key);
            let merge = merges.next_if(|merge| merge.operation == at).map(|merge| merge.operator.name());
            BatchChange { keyspace, key, value, merge, given: operation.given }
        })
    }

    /// Its requirements, in the order in which they were added.
    pub fn requirements(&self) -> impl Iterator<Item = BatchRequirement<'_>> + '_ {
        self.requirements.iter().map(|requirement| {
            let UserKey { keyspace, key } = UserKey::of(&requirement.key);
            BatchRequirement { keyspace, key, expect: requirement.expect }
        })
    }

    /// Its requirements on ranges, in the order in which they were added, each with the seqno after
    /// which nothing in the range may have changed. They include each requirement of
    /// [`Expect::UnchangedSince`].
    pub fn range_requirements(&self) -> impl Iterator<Item = (Bound<&[u8]>, Bound<&[u8]>, u64)> + '_ {
        self.ranges.iter().flat_map(|ranges| ranges.iter()).map(|range| {
            let (from, to) = user_bounds(range.from(), range.to());
            (from, to, range.since)
        })
    }

    /// A copy of another store's commands. Their versions may be above the limit of submitted
    /// versions.
    pub(crate) fn copy_of<'a>(commands: impl IntoIterator<Item = &'a Command>) -> Self {
        let mut batch = Self { is_copy: true, ..Self::new() };
        for command in commands {
            let given = Some((command.version(), command.timestamp()));
            batch.push(&StoredKey::AsIs(command.key()), command.value(), given);
        }
        batch
    }

    /// A batch of one command.
    pub(crate) fn of_one(
        keyspace: Scope<'_>,
        key: &StoredKey<'_>,
        value: Option<&[u8]>,
        given: Option<(u64, i64)>,
    ) -> Self {
        let mut batch = Self::new();
        batch.note_keyspace(keyspace);
        batch.push(key, value, given);
        batch
    }

    /// As [`put`](Self::put), in a keyspace.
    ///
    /// ```
    /// # use hightower_engine::{Batch, KeyspaceOptions, SingleNodeEngine};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// let users = engine.create_keyspace("users", KeyspaceOptions::default())?;
    /// let names = engine.create_keyspace("names", KeyspaceOptions::default())?;
    /// let mut batch = Batch::new();
    /// batch.put_in(&users, "17", "Ada").put_in(&names, "Ada", "17").put("last", "17");
    /// assert!(engine.commit(&batch)?.is_committed());
    /// assert_eq!(names.get("Ada")?.unwrap(), "17");
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    pub fn put_in<E>(&mut self, keyspace: &Keyspace<E>, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> &mut Self {
        self.push_in(Some(keyspace.living()), key.as_ref(), Some(value.as_ref()), None)
    }

    /// As [`delete`](Self::delete), in a keyspace.
    pub fn delete_in<E>(&mut self, keyspace: &Keyspace<E>, key: impl AsRef<[u8]>) -> &mut Self {
        self.push_in(Some(keyspace.living()), key.as_ref(), None, None)
    }

    /// As [`submit`](Self::submit), in a keyspace.
    pub fn submit_in<E>(&mut self, keyspace: &Keyspace<E>, command: &Command) -> &mut Self {
        let given = Some((command.version(), command.timestamp()));
        self.push_in(Some(keyspace.living()), command.key(), command.value(), given)
    }

    /// As [`require`](Self::require), in a keyspace.
    pub fn require_in<E>(&mut self, keyspace: &Keyspace<E>, key: impl AsRef<[u8]>, expect: Expect) -> &mut Self {
        self.require_key(Some(keyspace.living()), key.as_ref(), expect)
    }

    /// As [`require_range`](Self::require_range), in a keyspace.
    pub fn require_range_in<E>(&mut self, keyspace: &Keyspace<E>, bounds: impl KeyBounds, since: u64) -> &mut Self {
        let (from, to) = bounds.key_bounds();
        self.note_keyspace(Some(keyspace.living())).require_stored(keyspace.id().stored_bounds(from, to), since)
    }

    /// As [`require_prefix`](Self::require_prefix), in a keyspace.
    pub fn require_prefix_in<E>(&mut self, keyspace: &Keyspace<E>, prefix: impl AsRef<[u8]>, since: u64) -> &mut Self {
        let bounds = keyspace.id().stored_prefix(prefix.as_ref());
        self.note_keyspace(Some(keyspace.living())).require_stored(bounds, since)
    }

    /// Whether all changes and requirements are in the keyspace that commits the batch, because
    /// none of them names one.
    #[must_use]
    pub fn names_no_keyspace(&self) -> bool {
        self.keyspaces.is_empty()
    }

    /// The same batch; what names no keyspace is in this one.
    pub(crate) fn within(&self, keyspace: &Arc<LivingKeyspace>) -> Self {
        let mut batch = Self { keyspaces: self.keyspaces.clone(), snapshot: self.snapshot.clone(), ..Self::new() };
        batch.note_keyspace(Some(keyspace));
        let of = |stored| match UserKey::of(stored) {
            UserKey { keyspace: KeyspaceId::DEFAULT, key } => keyspace.id.stored(key),
            _ => StoredKey::AsIs(stored),
        };
        for operation in &self.operations {
            let (key, value) = self.parts(operation);
            batch.push(&of(key), value, operation.given);
        }
        batch.merges.clone_from(&self.merges);
        for Requirement { key, expect } in &self.requirements {
            batch.requirements.push(Requirement { key: of(key).into_vec(), expect: *expect });
        }
        for range in self.ranges.iter().flat_map(|ranges| ranges.iter()) {
            if range.keyspace() == KeyspaceId::DEFAULT {
                let (from, to) = user_bounds(range.from(), range.to());
                batch.require_stored(keyspace.id.stored_bounds(from, to), range.since);
            } else {
                Arc::make_mut(batch.ranges.get_or_insert_default()).push(range.clone());
            }
        }
        (batch.uses_reserve, batch.is_copy) = (self.uses_reserve, self.is_copy);
        batch
    }

    /// Changes a record of the catalogue.
    pub(crate) fn system_put(&mut self, key: &[u8], value: &[u8]) -> &mut Self {
        self.push(&KeyspaceId::SYSTEM.stored(key), Some(value), None)
    }

    pub(crate) fn system_delete(&mut self, key: &[u8]) -> &mut Self {
        self.push(&KeyspaceId::SYSTEM.stored(key), None, None)
    }

    /// The commit drops a keyspace; it must not have been dropped before.
    pub(crate) fn drops(&mut self, keyspace: &Arc<LivingKeyspace>) -> &mut Self {
        self.dropped = Some(Arc::clone(keyspace));
        self.note_keyspace(Some(keyspace))
    }

    /// The commit is refused if this keyspace was dropped.
    pub(crate) fn note_keyspace(&mut self, scope: Scope<'_>) -> &mut Self {
        if let Some(keyspace) = scope
            && !self.keyspaces.iter().any(|known| Arc::ptr_eq(known, keyspace))
        {
            self.keyspaces.push(Arc::clone(keyspace));
        }
        self
    }

    pub(crate) fn push_in(
        &mut self,
        scope: Scope<'_>,
        key: &[u8],
        value: Option<&[u8]>,
        given: Option<(u64, i64)>,
    ) -> &mut Self {
        self.note_keyspace(scope).push(&id_of(scope).stored(key), value, given)
    }

    pub(crate) fn require_key(&mut self, scope: Scope<'_>, key: &[u8], expect: Expect) -> &mut Self {
        self.note_keyspace(scope);
        if let Expect::UnchangedSince(since) = expect {
            let bounds = id_of(scope).stored_bounds(Bound::Included(key), Bound::Included(key));
            return self.require_stored(bounds, since);
        }
        self.requirements.push(Requirement { key: id_of(scope).stored(key).into_vec(), expect });
        self
    }

    fn require_stored(&mut self, bounds: StoredBounds<'_>, since: u64) -> &mut Self {
        let bounds = bounds.into_owned();
        Arc::make_mut(self.ranges.get_or_insert_default()).push(RangeRequirement { bounds, since });
        self
    }

    pub(crate) fn push(&mut self, key: &StoredKey<'_>, value: Option<&[u8]>, given: Option<(u64, i64)>) -> &mut Self {
        let key = key.as_bytes();
        let at = self.bytes.len();
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value.unwrap_or_default());
        self.operations.push(BatchOperation {
            at,
            key_len: key.len(),
            value_len: value.map(<[u8]>::len),
            given,
            payload_checksum: payload_checksum(key, value.unwrap_or_default()),
        });
        self
    }

    #[inline]
    pub(crate) fn key(&self, operation: &BatchOperation) -> &[u8] {
        &self.bytes[operation.at..operation.at + operation.key_len]
    }

    /// The key and value of an operation of this batch; `None` for a delete.
    pub(crate) fn parts(&self, operation: &BatchOperation) -> (&[u8], Option<&[u8]>) {
        let value_at = operation.at + operation.key_len;
        let value = operation.value_len.map(|len| &self.bytes[value_at..value_at + len]);
        (&self.bytes[operation.at..value_at], value)
    }

    /// Checks every limit that does not depend on the store.
    pub(crate) fn validate(&self) -> Result<()> {
        let (found, limit) = (self.operations.len(), limits::MAX_BATCH_COMMANDS);
        if found > limit {
            return Err(Error::LimitExceeded { what: "batch (commands)", found: found as u64, limit: limit as u64 });
        }
        for operation in &self.operations {
            check_key(self.key(operation))?;
            check_value_len(operation.value_len.unwrap_or(0))?;
            check_version(operation.given.filter(|_| !self.is_copy))?;
        }
        self.requirements.iter().try_for_each(|requirement| check_key(&requirement.key))
    }
}

/// Checks the length of a value.
#[inline]
pub(crate) fn check_value_len(value_len: usize) -> Result<()> {
    if value_len > limits::MAX_VALUE_LEN_BYTES {
        let limit = limits::MAX_VALUE_LEN_BYTES as u64;
        return Err(Error::LimitExceeded { what: "value (bytes)", found: value_len as u64, limit });
    }
    Ok(())
}

/// Refuses a caller's version that only the store may assign.
pub(crate) fn check_version(given: Option<(u64, i64)>) -> Result<()> {
    let limit = limits::MAX_SUBMITTED_VERSION;
    match given {
        Some((found, _)) if found > limit && !planted("any_version_submitted") => {
            Err(Error::LimitExceeded { what: "submitted version", found, limit })
        }
        _ => Ok(()),
    }
}

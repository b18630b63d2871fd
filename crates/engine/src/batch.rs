//! Several changes that commit as one, if what they require holds.

use std::borrow::Cow;

use hightower_log::{Command, payload_checksum};
use hightower_state::ApplyOutcome;

use crate::error::{Error, Result};
use crate::expect::{Expect, Rejected};
use crate::limits;
use crate::mutants::planted;

/// What became of a batch. There are these two outcomes; what may grow is what they hold.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a batch with requirements may have been rejected; `committed()?` makes that an error"]
pub enum BatchOutcome {
    /// All of it is committed.
    Committed(Committed),
    /// Nothing is committed, because a requirement did not hold.
    Rejected(Rejected),
}

impl BatchOutcome {
    /// Whether the batch was committed.
    #[must_use]
    pub fn is_committed(&self) -> bool {
        matches!(self, Self::Committed(_))
    }

    /// What was committed, for callers to whom a rejection is an error.
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
    /// What was not as required; `?` makes an [`Error::Rejected`] of it.
    pub fn committed(self) -> Result<Committed, Rejected> {
        match self {
            Self::Committed(committed) => Ok(committed),
            Self::Rejected(rejected) => Err(rejected),
        }
    }
}

/// A batch that was committed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Committed {
    /// The seq of the commit. Where every command was stale, nothing was written, and this is the
    /// latest seq there was.
    pub seq: u64,
    /// What became of each command, in the order they were added.
    pub outcomes: Vec<ApplyOutcome>,
    /// The version of each command, in the same order.
    pub versions: Vec<u64>,
}

impl Committed {
    /// For engines other than the store's own.
    #[must_use]
    pub fn new(seq: u64, outcomes: Vec<ApplyOutcome>, versions: Vec<u64>) -> Self {
        Self { seq, outcomes, versions }
    }
}

/// Changes and requirements, collected to be committed as one.
///
/// Its methods add to it and give it back, for chains: `engine.commit(Batch::new().put("a", "1"))`.
///
/// All keys and values are copied into one buffer, which [`clear`](Batch::clear) keeps for the next
/// use. Limits (keys of 1 to 65,535 bytes, values up to 1 GiB, versions of submitted commands below
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
    /// Key and value of every command, one behind the other.
    pub(crate) bytes: Vec<u8>,
    pub(crate) operations: Vec<Operation>,
    pub(crate) requirements: Vec<Requirement>,
    uses_reserve: bool,
    /// It copies commands of another store, with the versions that they have there.
    is_copy: bool,
}

/// One command of a batch; its key and value lie in the batch's buffer.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    at: usize,
    key_len: usize,
    /// `None` for a delete.
    value_len: Option<usize>,
    /// `None`: the engine gives the version and the time.
    pub(crate) given: Option<(u64, i64)>,
    pub(crate) payload_checksum: u64,
}

/// One change of a [`Batch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BatchChange<'a> {
    /// The key that it changes.
    pub key: &'a [u8],
    /// The value that it gives; `None` takes the value away.
    pub value: Option<&'a [u8]>,
    /// The version and the timestamp that its maker chose; `None` if the engine does.
    pub given: Option<(u64, i64)>,
}

#[derive(Clone, Debug)]
pub(crate) struct Requirement {
    pub(crate) key: Vec<u8>,
    pub(crate) expect: Expect,
}

/// A batch that gives each key its value.
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

/// For chains, which end with a batch that is borrowed so.
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

    /// Adds: give `key` this value.
    pub fn put(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> &mut Self {
        self.push(key.as_ref(), Some(value.as_ref()), None)
    }

    /// Adds: take `key`'s value away.
    pub fn delete(&mut self, key: impl AsRef<[u8]>) -> &mut Self {
        self.push(key.as_ref(), None, None)
    }

    /// Adds a command with a version of its own, below 2^63, which may turn out to be stale.
    pub fn submit(&mut self, command: &Command) -> &mut Self {
        self.push(command.key(), command.value(), Some((command.version(), command.timestamp())))
    }

    /// Requires something of `key`, as it is before the batch. If one requirement does not hold,
    /// nothing is committed.
    pub fn require(&mut self, key: impl AsRef<[u8]>, expect: Expect) -> &mut Self {
        self.requirements.push(Requirement { key: key.as_ref().to_vec(), expect });
        self
    }

    /// Lets the batch use the reserve of a store that is full: for what takes access away (a
    /// logout, a revocation), so that whoever has filled the store cannot keep it. A view of an
    /// engine for others must take this mark away before it passes a batch on.
    ///
    /// The reserve lets such batches go beyond `max_index_memory_bytes` by a 16th, beyond
    /// `max_disk_bytes` by an 8th, and on a full device into the room that is kept for deletes.
    /// It is there again once deletes and compaction have made room.
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

    /// How many commands it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.operations.len()
    }

    /// Whether it holds no command.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// Empties the batch and keeps its memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.operations.clear();
        self.requirements.clear();
        self.uses_reserve = false;
        self.is_copy = false;
    }

    /// The changes it holds, in the order they were added. A checked view of an engine decides by
    /// them.
    pub fn changes(&self) -> impl Iterator<Item = BatchChange<'_>> + '_ {
        self.operations.iter().map(|operation| {
            let (key, value) = self.parts(operation);
            BatchChange { key, value, given: operation.given }
        })
    }

    /// What it requires, in the order it was added.
    pub fn requirements(&self) -> impl Iterator<Item = (&[u8], Expect)> + '_ {
        self.requirements.iter().map(|requirement| (requirement.key.as_slice(), requirement.expect))
    }

    /// A copy of commands of another store. Some of their versions may be the store's own, above
    /// what callers may submit.
    pub(crate) fn copy_of<'a>(commands: impl IntoIterator<Item = &'a Command>) -> Self {
        let mut batch = Self { is_copy: true, ..Self::new() };
        for command in commands {
            batch.submit(command);
        }
        batch
    }

    /// A batch of one command.
    pub(crate) fn of_one(key: &[u8], value: Option<&[u8]>, given: Option<(u64, i64)>) -> Self {
        let mut batch = Self::new();
        batch.push(key, value, given);
        batch
    }

    fn push(&mut self, key: &[u8], value: Option<&[u8]>, given: Option<(u64, i64)>) -> &mut Self {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value.unwrap_or_default());
        self.operations.push(Operation {
            at,
            key_len: key.len(),
            value_len: value.map(<[u8]>::len),
            given,
            payload_checksum: payload_checksum(key, value.unwrap_or_default()),
        });
        self
    }

    #[inline]
    pub(crate) fn key(&self, operation: &Operation) -> &[u8] {
        &self.bytes[operation.at..operation.at + operation.key_len]
    }

    /// The key and value (`None`: a delete) of an operation of this batch.
    pub(crate) fn parts(&self, operation: &Operation) -> (&[u8], Option<&[u8]>) {
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
            check_lengths(operation.key_len, operation.value_len.unwrap_or(0))?;
            check_version(operation.given.filter(|_| !self.is_copy))?;
        }
        self.requirements.iter().try_for_each(|requirement| check_lengths(requirement.key.len(), 0))
    }
}

/// Refuses keys and values that are outside the limits.
pub(crate) fn check_lengths(key_len: usize, value_len: usize) -> Result<()> {
    if key_len == 0 {
        return Err(Error::Validation("the key is empty: a key has 1 to 65,535 bytes".into()));
    }
    if key_len > limits::MAX_KEY_LEN_BYTES && !planted("limits_unchecked") {
        let limit = limits::MAX_KEY_LEN_BYTES as u64;
        return Err(Error::LimitExceeded { what: "key (bytes)", found: key_len as u64, limit });
    }
    if value_len > limits::MAX_VALUE_LEN_BYTES {
        let limit = limits::MAX_VALUE_LEN_BYTES as u64;
        return Err(Error::LimitExceeded { what: "value (bytes)", found: value_len as u64, limit });
    }
    Ok(())
}

/// Refuses a version and timestamp that a caller gives if the version is the store's own to give.
pub(crate) fn check_version(given: Option<(u64, i64)>) -> Result<()> {
    let limit = limits::MAX_SUBMITTED_VERSION;
    match given {
        Some((found, _)) if found > limit && !planted("any_version_submitted") => {
            Err(Error::LimitExceeded { what: "submitted version", found, limit })
        }
        _ => Ok(()),
    }
}

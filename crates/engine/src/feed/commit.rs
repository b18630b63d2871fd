//! A commit, as a change feed returns it.

use std::fmt;
use std::sync::Arc;

use hightower_log::CommandRef;
use hightower_segment::Segment;

use crate::entry_key::EntryKey;
use crate::error::{Error, Result};
use crate::keyspace::{KeyspaceId, UserKey, user_part};
use crate::value::Value;

/// The kind of a change.
///
/// Example: [`FeedCommit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ChangeKind {
    /// The key has got a value.
    Set,
    /// The key has lost its value, or had none.
    Delete,
}

/// One commit of a [`ChangeFeed`](crate::ChangeFeed): its changes in the range of the feed, in the
/// order of the commit, at least one.
///
/// Values are read from the log on access. While a commit exists, the file of its segment is kept.
///
/// ```
/// use hightower_engine::{Batch, ChangeKind, SingleNodeEngine};
///
/// # let dir = tempfile::tempdir().unwrap();
/// # let engine = SingleNodeEngine::open(dir.path())?;
/// let mut feed = engine.watch("a".."c", engine.latest_seq())?;
/// engine.commit(Batch::new().put("a", "1").delete("b").put("c", "outside"))?;
/// let commit = feed.try_next()?.unwrap();
/// assert_eq!(commit.seqno(), engine.latest_seq());
/// let changes: Vec<_> = commit.changes().map(|change| (change.key(), change.kind())).collect();
/// assert_eq!(changes, [(&b"a"[..], ChangeKind::Set), (b"b", ChangeKind::Delete)]);
/// assert_eq!(commit.changes().next().unwrap().value()?.unwrap(), "1");
/// # Ok::<(), hightower_engine::Error>(())
/// ```
#[derive(Clone)]
pub struct FeedCommit {
    seqno: u64,
    segment: Arc<Segment>,
    changes: Vec<ChangeRecord>,
}

/// A change, with the place of its value.
#[derive(Clone)]
pub(crate) struct ChangeRecord {
    key: EntryKey,
    kind: ChangeKind,
    version: u64,
    timestamp_ms: i64,
    offset: u32,
}

impl ChangeRecord {
    pub(crate) fn of(offset: u32, command: CommandRef<'_>) -> Self {
        Self {
            key: command.key().into(),
            kind: if command.value().is_some() { ChangeKind::Set } else { ChangeKind::Delete },
            version: command.version(),
            timestamp_ms: command.timestamp(),
            offset,
        }
    }
}

impl FeedCommit {
    pub(crate) fn new(seqno: u64, segment: Arc<Segment>, changes: Vec<ChangeRecord>) -> Self {
        Self { seqno, segment, changes }
    }

    /// The seqno of the commit. A feed that begins after it continues with the next commit.
    #[must_use]
    pub fn seqno(&self) -> u64 {
        self.seqno
    }

    /// The changes in the range of the feed, in the order of the commit.
    #[must_use]
    pub fn changes(&self) -> impl ExactSizeIterator<Item = FeedChange<'_>> + DoubleEndedIterator {
        self.changes.iter().map(|change| FeedChange { commit: self, change })
    }

    /// The number of these changes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    /// Always false: a commit without a change in the range is not returned.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

impl fmt::Debug for FeedCommit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let changes: Vec<_> = self.changes().collect();
        formatter.debug_struct("FeedCommit").field("seqno", &self.seqno).field("changes", &changes).finish()
    }
}

/// One change of a commit.
///
/// Example: [`FeedCommit`].
#[derive(Clone, Copy)]
pub struct FeedChange<'a> {
    commit: &'a FeedCommit,
    change: &'a ChangeRecord,
}

impl<'a> FeedChange<'a> {
    /// The key.
    #[must_use]
    pub fn key(&self) -> &'a [u8] {
        user_part(self.change.key.as_bytes())
    }

    /// The id of the key's keyspace.
    #[must_use]
    pub fn keyspace(&self) -> KeyspaceId {
        UserKey::of(self.change.key.as_bytes()).keyspace
    }

    /// Whether the key has got or lost a value.
    #[must_use]
    pub fn kind(&self) -> ChangeKind {
        self.change.kind
    }

    /// The version of the change: higher than that of every earlier change of the key.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.change.version
    }

    /// The timestamp of the change, in Unix milliseconds.
    #[must_use]
    pub fn timestamp_ms(&self) -> i64 {
        self.change.timestamp_ms
    }

    /// The new value; `None` for a delete. It costs a read of the record, and a copy.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] if the record does not verify.
    pub fn value(&self) -> Result<Option<Value>> {
        self.value_with(|value| Value::from(value))
    }

    /// Calls `use_value` with the new value, without copying it; `None` for a delete.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] if the record does not verify.
    pub fn value_with<R>(&self, use_value: impl FnOnce(&[u8]) -> R) -> Result<Option<R>> {
        if self.change.kind == ChangeKind::Delete {
            return Ok(None);
        }
        let found = self.commit.segment.value_at(self.change.offset)?;
        let found = found.ok_or(Error::Internal("a change has lost its value".into()))?;
        Ok(Some(use_value(found.value)))
    }
}

impl fmt::Debug for FeedChange<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("FeedChange")
            .field("key", &format_args!("{}", self.key().escape_ascii()))
            .field("kind", &self.kind())
            .field("version", &self.version())
            .finish_non_exhaustive()
    }
}

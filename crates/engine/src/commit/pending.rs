//! A pending commit: its records, requirements and outcome.

use std::collections::HashMap;
use std::sync::Arc;

use hightower_log::{CommandRef, Placement, RecordContext, RecordHead, encode_head};
use hightower_state::{ApplyOutcome, Change, CommandKind, LeveledSnapshot, LeveledWriter, LookedBelow, Replaced};

use crate::batch::{Batch, BatchOperation, BatchOutcome, Committed, Requirement};
use crate::config::Durability;
use crate::error::{Error, Result};
use crate::expect::{Expect, Rejected};
use crate::keyspace::{LivingKeyspace, Scope, UserKey, user_bounds};
use crate::mutants::planted;
use crate::place::Place;
use crate::watch::{RangeFinding, RangeRequirement, RangeWatch};

/// One change of one key, before its place in the order of commits is known.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Write<'a> {
    pub(crate) key: &'a [u8],
    /// `None` for a delete.
    pub(crate) value: Option<&'a [u8]>,
    /// The caller's version and timestamp, if any.
    pub(crate) given: Option<(u64, i64)>,
    /// The keyspace of the key, if it has a name.
    pub(crate) keyspace: Scope<'a>,
}

/// A record of a commit. It has key, value, checksum and time before the lock is taken, and gets a
/// version, an outcome and a place under the lock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PendingRecord<'a> {
    pub(crate) key: &'a [u8],
    value: Option<&'a [u8]>,
    pub(crate) payload_checksum: u64,
    pub(crate) timestamp: i64,
    /// The caller's version if `is_given`; otherwise the engine's, after the evaluation.
    version: u64,
    /// Its offset in the active segment and its length; set when it is encoded.
    offset: u32,
    pub(crate) len_bytes: u32,
    /// The replaced version in the index; set when it is applied.
    pub(crate) replaced: Option<Replaced<Place>>,
    is_given: bool,
    outcome: ApplyOutcome,
}

impl<'a> PendingRecord<'a> {
    /// `now` is the timestamp of a write without one.
    #[inline]
    pub(crate) fn new(write: Write<'a>, payload_checksum: u64, now: i64) -> Self {
        let (version, timestamp) = write.given.unwrap_or((0, now));
        Self {
            key: write.key,
            value: write.value,
            payload_checksum,
            timestamp,
            version,
            offset: 0,
            len_bytes: 0,
            replaced: None,
            is_given: write.given.is_some(),
            outcome: ApplyOutcome::IgnoredStale,
        }
    }

    /// Whether it won, and is therefore written.
    #[inline]
    pub(crate) fn is_written(&self) -> bool {
        self.outcome.changed()
    }

    pub(crate) fn outcome(&self) -> ApplyOutcome {
        self.outcome
    }

    #[inline]
    pub(crate) fn kind(&self) -> CommandKind {
        if self.value.is_some() { CommandKind::Set } else { CommandKind::Delete }
    }

    /// The version of the value that it gives its key; `None` for a delete.
    pub(crate) fn version_of_value(&self) -> Option<u64> {
        self.value.map(|_| self.version)
    }

    #[inline]
    pub(crate) fn value_bytes(&self) -> &'a [u8] {
        self.value.unwrap_or_default()
    }

    /// The maximum length of its record, in bytes.
    #[inline]
    pub(crate) fn len_max(&self) -> usize {
        hightower_log::MAX_HEAD_LEN_BYTES + self.key.len() + self.value_bytes().len()
    }

    /// Encodes its head for this offset of the active segment.
    #[inline]
    pub(crate) fn encode_head(
        &mut self,
        context: &RecordContext,
        offset: u32,
        placement: Placement,
    ) -> Result<RecordHead> {
        let (key, version, timestamp) = (self.key, self.version, self.timestamp);
        let command = match self.value {
            Some(value) => CommandRef::Set { key, value, version, timestamp },
            None => CommandRef::Delete { key, version, timestamp },
        };
        let head = encode_head(context, offset, &command, placement, self.payload_checksum);
        // If the codec refuses a record within the limits, that is a bug.
        let head = head.map_err(|error| Error::Internal(error.to_string().into()))?;
        self.offset = offset;
        let len = head.as_ref().len() + key.len() + self.value_bytes().len();
        // At most a segment.
        self.len_bytes = u32::try_from(len).unwrap_or(u32::MAX);
        Ok(head)
    }

    /// The change of the state by this record, which was encoded for this segment.
    #[inline]
    pub(crate) fn change(&self, segment: u32) -> Change<'a, Place> {
        let location = Place { segment, offset: self.offset };
        Change { key: self.key, version: self.version, kind: self.kind(), location, len_bytes: self.len_bytes }
    }
}

/// The outcome of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CommitVerdict {
    /// The commit is published with this seqno. If every record was stale, nothing was written, and
    /// this is the latest seqno.
    Committed { seqno: u64, is_written: bool },
    /// The requirement at this index did not hold. `found` is the version of the key's value, if it
    /// has one.
    Rejected { requirement: usize, found: Option<u64> },
    /// A required range has changed, or may have: [`PendingCommit::range_finding`].
    RangeChanged,
    /// The levels have changed since its keys were looked up below the active memtable: look again.
    ViewChanged,
}

/// The records of a commit: an array of one record for a single put, so that its length is known,
/// otherwise a vector.
pub(crate) trait Records<'a>: AsRef<[PendingRecord<'a>]> + AsMut<[PendingRecord<'a>]> {}

impl<'a, R: AsRef<[PendingRecord<'a>]> + AsMut<[PendingRecord<'a>]>> Records<'a> for R {}

/// One commit of a group.
#[derive(Debug)]
pub(crate) struct PendingCommit<'a, R> {
    pub(crate) records: R,
    pub(crate) requirements: &'a [Requirement],
    pub(crate) ranges: Option<&'a Arc<Vec<RangeRequirement>>>,
    /// The snapshot that the ranges were read at, if the caller has kept it.
    pub(crate) snapshot: Option<&'a LeveledSnapshot<Place>>,
    /// What the levels below the active memtable have of the keys of the requirements, and then of
    /// the records with explicit versions. Empty if they were not looked up.
    pub(crate) below: Vec<LookedBelow>,
    /// Watches the ranges until the commit is decided.
    pub(crate) watch: Option<RangeWatch>,
    /// The reason for [`CommitVerdict::RangeChanged`].
    pub(crate) range_finding: Option<RangeFinding>,
    pub(crate) uses_reserve: bool,
    /// The named keyspaces that must not have been dropped.
    pub(crate) keyspaces: &'a [Arc<LivingKeyspace>],
    /// The keyspace that the commit drops.
    pub(crate) dropped: Scope<'a>,
    pub(crate) durability: Durability,
    /// The outcome; [`Error::Closed`] until it is known.
    pub(crate) result: Result<CommitVerdict>,
}

/// The result of the evaluation of a commit.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Evaluated {
    /// The highest version seen.
    pub(crate) max_version: u64,
    /// Number of written records.
    pub(crate) written: usize,
    /// Their maximum total length, in bytes.
    pub(crate) len_max: usize,
    /// Whether the levels have changed since its keys were looked up below the active memtable.
    /// Then the rest is not known.
    pub(crate) is_view_changed: bool,
}

impl<'a, R: Records<'a>> PendingCommit<'a, R> {
    /// A commit without requirements.
    #[inline]
    pub(crate) fn new(records: R, durability: Durability) -> Self {
        Self {
            records,
            requirements: &[],
            ranges: None,
            snapshot: None,
            below: Vec::new(),
            watch: None,
            range_finding: None,
            uses_reserve: false,
            keyspaces: &[],
            dropped: None,
            durability,
            result: Err(Error::Closed),
        }
    }

    /// The first violated requirement.
    #[inline]
    pub(crate) fn first_unmet(&self, state: &LeveledWriter<'_, Place>) -> Option<CommitVerdict> {
        self.requirements.iter().enumerate().find_map(|(at, requirement)| {
            let Ok(newest) = state.newest_of(&requirement.key, self.below.get(at)) else {
                return Some(CommitVerdict::ViewChanged);
            };
            let found = newest.and_then(|newest| newest.version_of_value());
            (!requirement.expect.holds(found)).then_some(CommitVerdict::Rejected { requirement: at, found })
        })
    }

    /// Looks up, with `look`, the keys that the evaluation needs.
    pub(crate) fn look_below(&mut self, look: impl Fn(&[u8]) -> Result<LookedBelow>) -> Result<()> {
        self.below.clear();
        let required = self.requirements.iter().map(|requirement| requirement.key.as_slice());
        let given = self.records.as_ref().iter().filter(|record| record.is_given).map(|record| record.key);
        for key in required.chain(given) {
            self.below.push(look(key)?);
        }
        Ok(())
    }

    /// The finding of the watch on the required ranges, which ends the watch. Only for the holder
    /// of the commit lock.
    #[cold]
    pub(crate) fn range_verdict(&mut self) -> Result<Option<CommitVerdict>> {
        let Some(watch) = self.watch.take() else { return Ok(None) };
        match watch.finding()? {
            None => Ok(None),
            Some(finding @ (RangeFinding::Changed { .. } | RangeFinding::Forgotten { .. })) => {
                self.range_finding = Some(finding);
                Ok(Some(CommitVerdict::RangeChanged))
            }
            Some(RangeFinding::Ahead { since, latest }) => Err(Error::Validation(
                format!("the batch requires a range unchanged since seqno {since}, but the latest commit is {latest}")
                    .into(),
            )),
        }
    }

    /// Sets the version and the outcome of each record. Only this function decides which record
    /// wins.
    #[inline]
    pub(crate) fn evaluate(&mut self, state: &LeveledWriter<'_, Place>, max_version: u64) -> Result<Evaluated> {
        let mut evaluated = Evaluated { max_version, ..Evaluated::default() };
        // Versions assigned by the engine always win. Only records with explicit versions are
        // compared with the key's version, and with those of earlier records of the commit.
        let mut earlier: Option<HashMap<&[u8], u64>> = None;
        let mut below = self.below.get(self.requirements.len()..).unwrap_or_default().iter();
        let records = self.records.as_mut();
        for at in 0..records.len() {
            let (before, rest) = records.split_at_mut(at);
            let Some(record) = rest.first_mut() else { break };
            let mut known = None;
            if record.is_given {
                if at > 0 {
                    let written = before.iter().filter(|record| record.is_written());
                    let earlier =
                        earlier.get_or_insert_with(|| written.map(|record| (record.key, record.version)).collect());
                    known = earlier.get(record.key).copied();
                }
                let below = below.next();
                if known.is_none() {
                    let Ok(newest) = state.newest_of(record.key, below) else {
                        return Ok(Evaluated { is_view_changed: true, ..Evaluated::default() });
                    };
                    known = newest.map(|newest| newest.version);
                }
            } else {
                record.version = next_version(evaluated.max_version)?;
            }
            record.outcome = ApplyOutcome::decide(known, record.version, record.kind());
            if !record.is_written() {
                continue;
            }
            if let Some(earlier) = &mut earlier {
                earlier.insert(record.key, record.version);
            }
            evaluated.written += 1;
            evaluated.len_max += record.len_max();
            if !(record.is_given && planted("given_version_forgotten")) {
                evaluated.max_version = evaluated.max_version.max(record.version);
            }
        }
        Ok(evaluated)
    }

    /// The written records.
    #[inline]
    pub(crate) fn written(&self) -> impl Iterator<Item = &PendingRecord<'a>> {
        self.records.as_ref().iter().filter(|record| record.is_written())
    }
}

impl<'a> PendingCommit<'a, Vec<PendingRecord<'a>>> {
    /// The commit of a batch. `now` is the timestamp of records without one.
    pub(crate) fn of(batch: &'a Batch, durability: Durability, now: i64) -> Self {
        let record = |operation: &'a BatchOperation| {
            let (key, value) = batch.parts(operation);
            let write = Write { key, value, given: operation.given, keyspace: None };
            PendingRecord::new(write, operation.payload_checksum, now)
        };
        let records = batch.operations.iter().map(record).collect();
        let (requirements, uses_reserve) = (&batch.requirements[..], batch.uses_reserve());
        let ranges = batch.ranges.as_ref().filter(|_| !planted("range_requirement_ignored"));
        let snapshot = batch.snapshot.as_ref();
        let (keyspaces, dropped) = (&batch.keyspaces[..], batch.dropped.as_ref());
        Self { requirements, ranges, snapshot, uses_reserve, keyspaces, dropped, ..Self::new(records, durability) }
    }

    /// The outcome for the batch's caller.
    pub(crate) fn into_outcome(self) -> Result<BatchOutcome> {
        Ok(match self.result? {
            CommitVerdict::Committed { seqno: seq, .. } => {
                let (outcomes, versions) = self.records.iter().map(|record| (record.outcome, record.version)).unzip();
                BatchOutcome::Committed(Committed { seq, outcomes, versions })
            }
            CommitVerdict::Rejected { requirement, found } => {
                let Requirement { key, expect } = &self.requirements[requirement];
                let UserKey { keyspace, key } = UserKey::of(key);
                BatchOutcome::Rejected(Rejected { keyspace, ..Rejected::new(key.to_vec(), *expect, found) })
            }
            CommitVerdict::ViewChanged => return Err(Error::Internal("a commit was not decided".into())),
            CommitVerdict::RangeChanged => {
                let (at, key, found, known_since) = match self.range_finding {
                    Some(RangeFinding::Changed { requirement, key, found }) => (requirement, key, found, None),
                    Some(RangeFinding::Forgotten { requirement, known_since }) => {
                        (requirement, Vec::new(), None, Some(known_since))
                    }
                    _ => return Err(Error::Internal("a changed range is not known".into())),
                };
                let range = self.ranges.and_then(|ranges| ranges.get(at));
                let range = range.ok_or_else(|| Error::Internal("a changed range was not required".into()))?;
                let (RangeRequirement { bounds, since }, keyspace) = (range, range.keyspace());
                let user_key = UserKey::of(&key).key.to_vec();
                let rejected = Rejected::new(user_key, Expect::UnchangedSince(*since), found);
                let (from, to) = (bounds.0.as_ref().map(Vec::as_slice), bounds.1.as_ref().map(Vec::as_slice));
                let (from, to) = user_bounds(from, to);
                let range = Some(Box::new((from.map(<[u8]>::to_vec), to.map(<[u8]>::to_vec))));
                BatchOutcome::Rejected(Rejected { keyspace, range, known_since, ..rejected })
            }
        })
    }
}

/// The version of a command without one.
fn next_version(max_version: u64) -> Result<u64> {
    max_version.checked_add(1).ok_or_else(|| {
        Error::Validation(
            "cannot assign a version: the store has used the last one, 2^64 - 1, so its files were not written by this program".into(),
        )
    })
}

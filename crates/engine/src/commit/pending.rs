//! A pending commit: its records, requirements and outcome.

use std::collections::HashMap;
use std::sync::Arc;

use hightower_log::{CommandRef, Placement, RecordContext, RecordHead, encode_head, payload_checksum};
use hightower_state::{
    ApplyOutcome, Change, CommandKind, LeveledSnapshot, LeveledWriter, LookedBelow, NewestRecord, Replaced, ViewChanged,
};

use super::limited::LimitedChanges;
use crate::batch::{Batch, BatchOperation, BatchOutcome, Committed, Requirement};
use crate::commit::merging::{Basis, MergeValues, PendingMerge};
use crate::config::Durability;
use crate::error::{Error, Result};
use crate::expect::{Expect, Rejected};
use crate::keyspace::{LivingKeyspace, Scope, UserKey, user_bounds};
use crate::mutants::planted;
use crate::place::Place;
use crate::value::Value;
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
    /// Whether value and checksum come from the next merge of the commit.
    pub(crate) is_merged: bool,
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
            is_merged: false,
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

    /// Takes the result of its merge. Returns whether there is something to write.
    #[cold]
    fn adopt(&mut self, merge: &PendingMerge<'a>, basis: &Basis<'a>) -> Result<bool> {
        let merged = merge.result_from(basis).ok_or_else(lost_merge)??;
        self.value = merged.value;
        self.payload_checksum = payload_checksum(self.key, self.value_bytes());
        (self.version, self.outcome) = (0, ApplyOutcome::IgnoredStale);
        Ok(merged.is_change)
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
/// and no merge; otherwise [`BatchRecords`].
pub(crate) trait Records<'a>: AsRef<[PendingRecord<'a>]> + AsMut<[PendingRecord<'a>]> {
    /// Whether some may be merged.
    const MAY_MERGE: bool;

    /// The records, and the merges in the order of their records.
    fn parts(&mut self) -> (&mut [PendingRecord<'a>], &mut [PendingMerge<'a>]);
}

impl<'a> Records<'a> for [PendingRecord<'a>; 1] {
    const MAY_MERGE: bool = false;

    fn parts(&mut self) -> (&mut [PendingRecord<'a>], &mut [PendingMerge<'a>]) {
        (self, &mut [])
    }
}

/// The records of a batch, or of a merge.
#[derive(Debug)]
pub(crate) struct BatchRecords<'a> {
    pub(crate) records: Vec<PendingRecord<'a>>,
    pub(crate) merges: Vec<PendingMerge<'a>>,
}

impl<'a> Records<'a> for BatchRecords<'a> {
    const MAY_MERGE: bool = true;

    fn parts(&mut self) -> (&mut [PendingRecord<'a>], &mut [PendingMerge<'a>]) {
        (&mut self.records, &mut self.merges)
    }
}

impl<'a> AsRef<[PendingRecord<'a>]> for BatchRecords<'a> {
    fn as_ref(&self) -> &[PendingRecord<'a>] {
        &self.records
    }
}

impl<'a> AsMut<[PendingRecord<'a>]> for BatchRecords<'a> {
    fn as_mut(&mut self) -> &mut [PendingRecord<'a>] {
        &mut self.records
    }
}

/// One commit of a group.
#[derive(Debug)]
pub(crate) struct PendingCommit<'a, R> {
    pub(crate) records: R,
    pub(crate) requirements: &'a [Requirement],
    pub(crate) ranges: Option<&'a Arc<Vec<RangeRequirement>>>,
    /// The snapshot that the ranges were read at, if the caller has kept it.
    pub(crate) snapshot: Option<&'a LeveledSnapshot<Place>>,
    /// What the levels below the active memtable have of the keys of the requirements, and then of
    /// the records with explicit versions and of merges. Empty if they were not looked up.
    pub(crate) below: Vec<LookedBelow>,
    /// Watches the ranges until the commit is decided.
    pub(crate) watch: Option<RangeWatch>,
    /// The reason for [`CommitVerdict::RangeChanged`].
    pub(crate) range_finding: Option<RangeFinding>,
    pub(crate) uses_reserve: bool,
    /// What it changes in keyspaces with a quota.
    pub(crate) limited: Option<Box<LimitedChanges>>,
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

impl Evaluated {
    /// Sets the version and the outcome of the next record, whose key has the version `known`. Only
    /// this function decides which record wins.
    #[inline]
    fn decide(&mut self, record: &mut PendingRecord<'_>, known: Option<u64>) -> Result<()> {
        // Versions assigned by the engine always win.
        if !record.is_given {
            record.version = next_version(self.max_version)?;
        }
        record.outcome = ApplyOutcome::decide(known, record.version, record.kind());
        if !record.is_written() {
            return Ok(());
        }
        self.written += 1;
        self.len_max += record.len_max();
        if !(record.is_given && planted("given_version_forgotten")) {
            self.max_version = self.max_version.max(record.version);
        }
        Ok(())
    }
}

/// What the evaluation of a commit has looked at.
struct Looks<'a> {
    /// The latest written record of each key so far, once one is needed.
    earlier: Option<HashMap<&'a [u8], usize>>,
    /// The next item of `below`.
    looked: usize,
    /// The next merge.
    merged: usize,
}

/// What is known of a record's key.
enum Look {
    /// The version that it must exceed, if there is one.
    Known(Option<u64>),
    /// A merge has changed nothing.
    Unchanged,
    ViewChanged,
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
            limited: None,
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
        let records = self.records.as_ref().iter().filter(|record| record.is_given || record.is_merged);
        for key in required.chain(records.map(|record| record.key)) {
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

    /// Sets the version and the outcome of each record.
    ///
    /// `newest` returns the newest command of a key. `merge` evaluates a merge; it returns `false`
    /// if it must be evaluated without the commit lock.
    #[inline]
    pub(crate) fn evaluate(
        &mut self,
        newest: impl Fn(&[u8], Option<&LookedBelow>) -> Result<Option<NewestRecord<Place>>, ViewChanged>,
        max_version: u64,
        mut merge: impl FnMut(&mut PendingMerge<'a>, &[u8], Basis<'a>) -> Result<bool>,
    ) -> Result<Evaluated> {
        let mut evaluated = Evaluated { max_version, ..Evaluated::default() };
        for record in self.records.as_mut() {
            if record.is_given || (R::MAY_MERGE && record.is_merged) {
                return self.evaluate_each(&newest, max_version, &mut merge);
            }
            evaluated.decide(record, None)?;
        }
        Ok(evaluated)
    }

    /// The evaluation of a commit that needs to know its keys.
    #[cold]
    #[inline(never)]
    fn evaluate_each(
        &mut self,
        newest: &impl Fn(&[u8], Option<&LookedBelow>) -> Result<Option<NewestRecord<Place>>, ViewChanged>,
        max_version: u64,
        merge: &mut impl FnMut(&mut PendingMerge<'a>, &[u8], Basis<'a>) -> Result<bool>,
    ) -> Result<Evaluated> {
        let mut evaluated = Evaluated { max_version, ..Evaluated::default() };
        let mut looks = Looks { earlier: None, looked: self.requirements.len(), merged: 0 };
        for at in 0..self.records.as_ref().len() {
            let known = match self.look_at(at, &mut looks, newest, merge)? {
                Look::Known(version) => version,
                Look::Unchanged => continue,
                Look::ViewChanged => return Ok(Evaluated { is_view_changed: true, ..Evaluated::default() }),
            };
            let Some(record) = self.records.as_mut().get_mut(at) else { break };
            evaluated.decide(record, known)?;
            if let Some(earlier) = looks.earlier.as_mut().filter(|_| record.is_written()) {
                earlier.insert(record.key, at);
            }
        }
        Ok(evaluated)
    }

    /// What a record needs to know of its key. Only explicit versions are compared with the key's
    /// version, and with those of earlier records of the commit. Merges need the value of the key
    /// in the same way.
    fn look_at(
        &mut self,
        at: usize,
        looks: &mut Looks<'a>,
        newest: &impl Fn(&[u8], Option<&LookedBelow>) -> Result<Option<NewestRecord<Place>>, ViewChanged>,
        merge: &mut impl FnMut(&mut PendingMerge<'a>, &[u8], Basis<'a>) -> Result<bool>,
    ) -> Result<Look> {
        let (records, merges) = self.records.parts();
        let (before, rest) = records.split_at_mut(at);
        let Some(record) = rest.first_mut() else { return Ok(Look::Unchanged) };
        if !record.is_given && !record.is_merged {
            return Ok(Look::Known(None));
        }
        let below = self.below.get(looks.looked);
        looks.looked += 1;
        let mut overtaken = None;
        if at > 0 {
            let written = before.iter().enumerate().filter(|(_, record)| record.is_written());
            let earlier = looks.earlier.get_or_insert_with(|| written.map(|(at, record)| (record.key, at)).collect());
            overtaken = earlier.get(record.key).and_then(|&at| before.get(at));
        }
        if !record.is_merged {
            return Ok(match overtaken {
                Some(overtaken) => Look::Known(Some(overtaken.version)),
                None => match newest(record.key, below) {
                    Ok(newest) => Look::Known(newest.map(|newest| newest.command.version)),
                    Err(ViewChanged) => Look::ViewChanged,
                },
            });
        }
        let basis = match overtaken.filter(|_| !planted("merges_of_a_batch_unseen")) {
            Some(overtaken) => Basis::Earlier(overtaken.value),
            None => match newest(record.key, below) {
                Ok(newest) => Basis::stored(newest),
                Err(ViewChanged) => return Ok(Look::ViewChanged),
            },
        };
        let pending = merges.get_mut(looks.merged).ok_or_else(lost_merge)?;
        looks.merged += 1;
        if pending.result_from(&basis).is_none() && !merge(pending, record.key, basis)? {
            return Ok(Look::ViewChanged);
        }
        Ok(if record.adopt(pending, &basis)? { Look::Known(None) } else { Look::Unchanged })
    }

    /// The written records.
    #[inline]
    pub(crate) fn written(&self) -> impl Iterator<Item = &PendingRecord<'a>> {
        self.records.as_ref().iter().filter(|record| record.is_written())
    }
}

impl<'a> PendingCommit<'a, BatchRecords<'a>> {
    /// The commit of a batch. `now` is the timestamp of records without one. `values` has an item
    /// for each of its merges.
    pub(crate) fn of(batch: &'a Batch, values: &'a [MergeValues], durability: Durability, now: i64) -> Self {
        let record = |operation: &'a BatchOperation| {
            let (key, value) = batch.parts(operation);
            let write = Write { key, value, given: operation.given, keyspace: None };
            PendingRecord::new(write, operation.payload_checksum, now)
        };
        let mut records: Vec<_> = batch.operations.iter().map(record).collect();
        let mut merges = Vec::with_capacity(batch.merges.len());
        for (merge, values) in batch.merges.iter().zip(values) {
            let Some(record) = records.get_mut(merge.operation) else { continue };
            record.is_merged = true;
            merges.push(PendingMerge::new(&merge.operator, record.value_bytes(), values));
        }
        let (requirements, uses_reserve) = (&batch.requirements[..], batch.uses_reserve());
        let ranges = batch.ranges.as_ref().filter(|_| !planted("range_requirement_ignored"));
        let snapshot = batch.snapshot.as_ref();
        let (keyspaces, dropped) = (&batch.keyspaces[..], batch.dropped.as_ref());
        let plain = Self::new(BatchRecords { records, merges }, durability);
        Self { requirements, ranges, snapshot, uses_reserve, keyspaces, dropped, ..plain }
    }

    /// The outcome for the batch's caller.
    pub(crate) fn into_outcome(self) -> Result<BatchOutcome> {
        Ok(match self.result? {
            CommitVerdict::Committed { seqno: seq, .. } => {
                let BatchRecords { records, merges } = self.records;
                let (outcomes, versions) = records.iter().map(|record| (record.outcome, record.version)).unzip();
                let merged = merges.iter().map(|merge| merge.value().map(Value::from)).collect();
                BatchOutcome::Committed(Committed { seq, outcomes, versions, merged })
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

#[cold]
fn lost_merge() -> Error {
    Error::Internal("a merge was not evaluated".into())
}

/// The version of a command without one.
fn next_version(max_version: u64) -> Result<u64> {
    max_version.checked_add(1).ok_or_else(|| {
        Error::Validation(
            "cannot assign a version: the store has used the last one, 2^64 - 1, so its files were not written by this program".into(),
        )
    })
}

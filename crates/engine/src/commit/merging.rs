//! The merges of a commit: evaluated before the commit lock, validated under it.

use std::cell::OnceCell;
use std::ptr;

use hightower_state::NewestRecord;

use crate::batch::{Batch, check_value_len};
use crate::error::Result;
use crate::merge::{MergeOutcome, Operator};
use crate::mutants::planted;
use crate::place::Place;

/// How often the caller's operator is called again without the commit lock, before it is called
/// under it.
const TRIES_WITHOUT_LOCK: u32 = 3;

/// The values that a merge has had, in the order of its evaluations. They stay, because the records
/// of the commit borrow them.
#[derive(Debug, Default)]
pub(crate) struct MergeValues {
    value: OnceCell<Vec<u8>>,
    next: OnceCell<Box<Self>>,
}

impl MergeValues {
    /// Room for the values of a batch's merges.
    pub(crate) fn of(batch: &Batch) -> Vec<Self> {
        batch.merges.iter().map(|_| Self::default()).collect()
    }

    fn keep(&self, value: Vec<u8>) -> &[u8] {
        let mut last = self;
        while last.value.get().is_some() {
            last = last.next.get_or_init(Box::default);
        }
        last.value.get_or_init(|| value)
    }
}

/// What a merge was evaluated from. If it is the same again, so is the result: places are never
/// used twice, and values of records stay where they are during a commit.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Basis<'a> {
    /// The value in the store, if the key has one, and whether it was written lately.
    Stored(Option<Place>, bool),
    /// The value after an earlier record of the same commit.
    Earlier(Option<&'a [u8]>),
}

impl Basis<'_> {
    /// The value that the newest command of a key has left.
    pub(crate) fn stored(newest: Option<NewestRecord<Place>>) -> Self {
        let is_recent = newest.is_some_and(|newest| newest.is_recent);
        Self::Stored(newest.and_then(|newest| newest.location_of_value()), is_recent)
    }

    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Stored(place, _), Self::Stored(other, _)) => place == other || planted("merge_keeps_stale_value"),
            (Self::Earlier(Some(value)), Self::Earlier(Some(other))) => ptr::eq(*value, *other),
            (Self::Earlier(value), Self::Earlier(other)) => value.is_none() && other.is_none(),
            _ => false,
        }
    }
}

/// The result of a merge.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MergedValue<'a> {
    /// The value of the key afterwards.
    pub(crate) value: Option<&'a [u8]>,
    /// Whether it differs from before, and so is written.
    pub(crate) is_change: bool,
}

/// One merge of a commit.
#[derive(Debug)]
pub(crate) struct PendingMerge<'a> {
    pub(crate) operator: &'a Operator,
    pub(crate) operand: &'a [u8],
    values: &'a MergeValues,
    /// The result of the latest evaluation, and what it was evaluated from.
    evaluated: Option<(Basis<'a>, Result<MergedValue<'a>>)>,
    /// How often it was outdated under the commit lock.
    outdated: u32,
}

impl<'a> PendingMerge<'a> {
    pub(crate) fn new(operator: &'a Operator, operand: &'a [u8], values: &'a MergeValues) -> Self {
        Self { operator, operand, values, evaluated: None, outdated: 0 }
    }

    /// The result, if it was evaluated from this.
    pub(crate) fn result_from(&self, basis: &Basis<'a>) -> Option<Result<MergedValue<'a>>> {
        let (known, result) = self.evaluated.as_ref()?;
        known.is_same(basis).then(|| result.clone())
    }

    /// Whether an outdated result may be replaced under the commit lock. The value must be at hand,
    /// so that no page is missing, and the caller's code must have had its tries without the lock.
    pub(crate) fn may_run_under_lock(&mut self, basis: &Basis<'a>) -> bool {
        self.outdated += 1;
        let is_at_hand = !matches!(basis, Basis::Stored(Some(_), false));
        is_at_hand && (!self.operator.is_foreign() || self.outdated > TRIES_WITHOUT_LOCK)
    }

    /// Keeps the result of an evaluation, for a key that had the value `existing`.
    pub(crate) fn keep(&mut self, basis: Basis<'a>, existing: Option<&[u8]>, merged: Result<MergeOutcome>) {
        let result = merged.and_then(|merged| {
            let (value, is_change) = match merged {
                MergeOutcome::Put(value) => (Some(value), true),
                MergeOutcome::Delete => (None, existing.is_some()),
                MergeOutcome::Keep => {
                    (existing.map(<[u8]>::to_vec), planted("kept_values_written") && existing.is_some())
                }
            };
            check_value_len(value.as_ref().map_or(0, Vec::len))?;
            let values = self.values;
            Ok(MergedValue { value: value.map(|value| values.keep(value)), is_change })
        });
        self.evaluated = Some((basis, result));
    }

    /// The value of the key after the merge. Only after the commit.
    pub(crate) fn value(&self) -> Option<&'a [u8]> {
        self.evaluated.as_ref().and_then(|(_, result)| result.as_ref().ok()?.value)
    }
}

//! Ranges of a transaction: the snapshot's keys merged with the transaction's own writes.

use std::cmp::Ordering;
use std::collections::btree_map;
use std::fmt;
use std::iter::FusedIterator;
use std::ops::Bound;

use crate::error::Result;
use crate::keyspace::{StoredBounds, user_part};
use crate::mutants::planted;
use crate::snapshot::{Entry, Range};
use crate::transaction::local::LocalState;
use crate::transaction::reads::RangeNumber;
use crate::transaction::writes::OwnValue;
use crate::value::Value;

/// An iterator of [`TransactionEntry`]s in key order, from either end, as a transaction sees them:
/// from [`Transaction::range`](crate::Transaction::range) and
/// [`Transaction::prefix`](crate::Transaction::prefix).
///
/// An item is an error if a transaction with writes is over its memory limit. The iterator then
/// continues, but the transaction cannot be committed. An item is also an error if a table is
/// damaged; the iterator then ends.
pub struct TransactionRange<'t> {
    local: &'t LocalState<'t>,
    number: RangeNumber,
    stored: PeekedEnds<Range>,
    own: PeekedEnds<btree_map::Range<'t, Vec<u8>, OwnValue>>,
    is_done: bool,
}

/// A key found by a [`TransactionRange`]. Its value is read on request.
#[derive(Clone, Debug)]
pub struct TransactionEntry<'t>(FoundEntry<'t>);

#[derive(Clone, Debug)]
enum FoundEntry<'t> {
    Stored(Entry),
    Own(&'t [u8], &'t Value),
}

impl TransactionEntry<'_> {
    fn stored_key(&self) -> &[u8] {
        match &self.0 {
            FoundEntry::Stored(entry) => entry.stored_key(),
            FoundEntry::Own(key, _) => key,
        }
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        match &self.0 {
            FoundEntry::Stored(entry) => entry.key(),
            FoundEntry::Own(key, _) => user_part(key),
        }
    }

    /// The value. Costs a copy.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`](crate::Error::Corrupt) if the record does not verify.
    pub fn value(&self) -> Result<Value> {
        match &self.0 {
            FoundEntry::Stored(entry) => entry.value(),
            FoundEntry::Own(_, value) => Ok((*value).clone()),
        }
    }

    /// The key and the value.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`](crate::Error::Corrupt) if the record does not verify.
    pub fn into_pair(self) -> Result<(Vec<u8>, Value)> {
        match self.0 {
            FoundEntry::Stored(entry) => entry.into_pair(),
            FoundEntry::Own(key, value) => Ok((user_part(key).to_vec(), value.clone())),
        }
    }
}

impl<'t> TransactionRange<'t> {
    pub(super) fn new(local: &'t LocalState<'_>, bounds: &StoredBounds<'_>) -> Result<Self> {
        let (from, to) = (bounds.from(), bounds.to());
        let is_empty = is_empty(from, to);
        let number = local.note_read(|reads| reads.open_range(from, to)).inspect_err(|_| local.close_range())?;
        let number = number.filter(|_| !is_empty && !planted("range_reads_forgotten"));
        let own = if is_empty { btree_map::Range::default() } else { local.writes.range(from, to) };
        let own = if planted("own_writes_unseen_in_ranges") { btree_map::Range::default() } else { own };
        let stored = local.snapshot.stored_range(bounds);
        Ok(Self { local, number, stored: PeekedEnds::new(stored), own: PeekedEnds::new(own), is_done: is_empty })
    }

    fn advance(&mut self, is_from_back: bool) -> Option<Result<TransactionEntry<'t>>> {
        while !self.is_done {
            let stored = match self.stored.peek(is_from_back) {
                Some(Ok(entry)) => Some(entry.stored_key()),
                None => None,
                Some(Err(_)) => {
                    // The rest of the range is unknown, so nothing of it may be returned.
                    self.is_done = true;
                    return self.stored.take(is_from_back).and_then(Result::err).map(Err);
                }
            };
            let own = self.own.peek(is_from_back).map(|(key, _)| key.as_slice());
            let order = match (stored, own) {
                (None, None) => break,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(stored), Some(own)) if is_from_back && !planted("merged_forwards_only") => own.cmp(stored),
                (Some(stored), Some(own)) => stored.cmp(own),
            };
            let stored = if order.is_le() { self.stored.take(is_from_back).transpose() } else { Ok(None) };
            let own = if order.is_ge() { self.own.take(is_from_back) } else { None };
            let found = match (own, stored.unwrap_or_default()) {
                (Some((key, Some(value))), _) => FoundEntry::Own(key, value),
                (Some((_, None)), _) if !planted("own_deletes_unseen_in_ranges") => continue,
                (_, Some(entry)) => FoundEntry::Stored(entry),
                (_, None) => continue,
            };
            let entry = TransactionEntry(found);
            let noted =
                self.local.note_read(|reads| reads.note_range_to(self.number, entry.stored_key(), is_from_back));
            return Some(noted.map(|()| entry));
        }
        if !self.is_done {
            self.is_done = true;
            // If the transaction is over its limit, its commit returns the error.
            let _kept = self.local.note_read(|reads| reads.note_whole_range(self.number));
        }
        None
    }
}

impl<'t> Iterator for TransactionRange<'t> {
    type Item = Result<TransactionEntry<'t>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.advance(false)
    }
}

impl DoubleEndedIterator for TransactionRange<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.advance(true)
    }
}

impl FusedIterator for TransactionRange<'_> {}

impl Drop for TransactionRange<'_> {
    fn drop(&mut self) {
        self.local.close_range();
    }
}

impl fmt::Debug for TransactionRange<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("TransactionRange").field("seq", &self.local.snapshot.seq()).finish_non_exhaustive()
    }
}

/// Whether no key can lie between two bounds.
fn is_empty(from: Bound<&[u8]>, to: Bound<&[u8]>) -> bool {
    match (from, to) {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        (Bound::Included(from), Bound::Included(to)) => from > to,
        (Bound::Included(from) | Bound::Excluded(from), Bound::Included(to) | Bound::Excluded(to)) => from >= to,
    }
}

/// An iterator that can be peeked at both ends.
struct PeekedEnds<I: Iterator> {
    rest: I,
    front: Option<I::Item>,
    back: Option<I::Item>,
}

impl<I: DoubleEndedIterator> PeekedEnds<I> {
    fn new(rest: I) -> Self {
        Self { rest, front: None, back: None }
    }

    /// The next item from an end. When the rest is used up, this is the item that the other end has
    /// peeked.
    fn peek(&mut self, is_from_back: bool) -> Option<&I::Item> {
        let Self { rest, front, back } = self;
        if is_from_back {
            if back.is_none() {
                *back = rest.next_back().or_else(|| front.take());
            }
            back.as_ref()
        } else {
            if front.is_none() {
                *front = rest.next().or_else(|| back.take());
            }
            front.as_ref()
        }
    }

    /// Takes the peeked item of an end.
    fn take(&mut self, is_from_back: bool) -> Option<I::Item> {
        if is_from_back { self.back.take() } else { self.front.take() }
    }
}

//! The buffered writes of a transaction, and its savepoints.

use std::collections::BTreeMap;
use std::collections::btree_map;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::batch::Batch;
use crate::error::{Error, Result};
use crate::keyspace::StoredKey;
use crate::mutants::planted;
use crate::value::Value;

/// Memory of a buffered write besides its key and value, in bytes.
const ENTRY_BYTES: usize = 64;

/// The number of the next savepoint, of any transaction.
static NEXT_SAVEPOINT: AtomicU64 = AtomicU64::new(1);

/// A point of a transaction, from [`Transaction::savepoint`](crate::Transaction::savepoint).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Savepoint {
    number: u64,
}

/// An own value, or `None` for a delete.
pub(super) type OwnValue = Option<Value>;

/// The latest own write of each key, in key order.
#[derive(Debug, Default)]
pub(super) struct WriteBuffer {
    entries: BTreeMap<Vec<u8>, OwnValue>,
    /// The replaced writes since the first savepoint, oldest first.
    undo: Vec<(Vec<u8>, Option<OwnValue>)>,
    /// Each live savepoint: its number, and the length of `undo` when it was set.
    savepoints: Vec<(u64, usize)>,
    len_bytes: usize,
}

impl WriteBuffer {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The memory of the buffer, approximately.
    pub(super) fn len_bytes(&self) -> usize {
        self.len_bytes
    }

    /// The maximum memory that a write adds.
    pub(super) fn cost_bytes(key_len: usize, value_len: usize) -> usize {
        key_len + value_len + ENTRY_BYTES
    }

    /// The own write of a key.
    pub(super) fn get(&self, key: &[u8]) -> Option<&OwnValue> {
        self.entries.get(key)
    }

    /// The own writes between two bounds, which must not be inverted.
    pub(super) fn range(&self, from: Bound<&[u8]>, to: Bound<&[u8]>) -> btree_map::Range<'_, Vec<u8>, OwnValue> {
        self.entries.range::<[u8], _>((from, to))
    }

    pub(super) fn write(&mut self, key: &[u8], value: OwnValue) {
        let replaced = self.set(key, Some(value));
        if !self.savepoints.is_empty() {
            self.len_bytes += cost_of(key, replaced.as_ref());
            self.undo.push((key.to_vec(), replaced));
        }
    }

    /// Sets or removes the own write of a key; returns the previous one.
    fn set(&mut self, key: &[u8], write: Option<OwnValue>) -> Option<OwnValue> {
        let added_bytes = write.as_ref().map_or(0, |value| cost_of(key, Some(value)));
        let replaced = match write {
            None => self.entries.remove(key),
            Some(value) => match self.entries.get_mut(key) {
                Some(own) => Some(std::mem::replace(own, value)),
                None => self.entries.insert(key.to_vec(), value),
            },
        };
        let removed_bytes = replaced.as_ref().map_or(0, |value| cost_of(key, Some(value)));
        self.len_bytes = self.len_bytes + added_bytes - removed_bytes;
        replaced
    }

    pub(super) fn savepoint(&mut self) -> Savepoint {
        let number = NEXT_SAVEPOINT.fetch_add(1, Ordering::Relaxed);
        self.savepoints.push((number, self.undo.len()));
        Savepoint { number }
    }

    pub(super) fn rollback_to(&mut self, savepoint: &Savepoint) -> Result<()> {
        let at = self
            .savepoints
            .iter()
            .position(|(number, _)| *number == savepoint.number)
            .ok_or_else(|| Error::Validation("the savepoint has ended or belongs to another transaction".into()))?;
        self.savepoints.truncate(at + 1);
        let kept = self.savepoints.last().map_or(0, |(_, len)| *len);
        while self.undo.len() > kept {
            let Some((key, replaced)) = self.undo.pop() else { break };
            self.len_bytes -= cost_of(&key, replaced.as_ref());
            if planted("rollback_forgets_deletes") && replaced == Some(None) {
                continue;
            }
            self.set(&key, replaced);
        }
        Ok(())
    }

    /// The writes as a batch, in key order.
    pub(super) fn take(&mut self) -> Batch {
        let mut batch = Batch::new();
        for (key, value) in std::mem::take(&mut self.entries) {
            match value {
                Some(value) => batch.push(&StoredKey::Heap(key), Some(&value), None),
                None => batch.push(&StoredKey::Heap(key), None, None),
            };
        }
        *self = Self::default();
        batch
    }
}

fn cost_of(key: &[u8], value: Option<&OwnValue>) -> usize {
    let value_len = value.and_then(Option::as_ref).map_or(0, |value| value.len());
    WriteBuffer::cost_bytes(key.len(), value_len)
}

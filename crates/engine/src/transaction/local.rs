//! The data of a transaction: its snapshot, its read set and its buffered writes, within a limit.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::batch::{Batch, check_value_len};
use crate::error::{Error, Result};
use crate::keyspace::{LivingKeyspace, StoredKey, check_key, user_part};
use crate::limits;
use crate::mutants::planted;
use crate::snapshot::Snapshot;
use crate::sync::Mutex;
use crate::transaction::counters::{ACCOUNTED_STEP_BYTES, TransactionCounters, over_limit};
use crate::transaction::reads::ReadSet;
use crate::transaction::writes::{Savepoint, WriteBuffer};
use crate::value::Value;

/// The data of a transaction.
#[derive(Debug)]
pub(super) struct LocalState<'e> {
    pub(super) snapshot: Snapshot,
    reads: Mutex<ReadSet>,
    /// The named keyspaces that it has read or written.
    keyspaces: Mutex<Vec<Arc<LivingKeyspace>>>,
    pub(super) writes: WriteBuffer,
    /// The memory that the store's counters include for it.
    accounted_bytes: AtomicUsize,
    limit_bytes: usize,
    counters: &'e TransactionCounters,
}

impl<'e> LocalState<'e> {
    pub(super) fn new(snapshot: Snapshot, limit_bytes: usize, counters: &'e TransactionCounters) -> Self {
        counters.begin();
        Self {
            snapshot,
            reads: Mutex::default(),
            keyspaces: Mutex::default(),
            writes: WriteBuffer::default(),
            accounted_bytes: AtomicUsize::new(0),
            limit_bytes,
            counters,
        }
    }

    pub(super) fn len_bytes(&self) -> usize {
        self.reads.lock().len_bytes() + self.writes.len_bytes()
    }

    /// Notes that the next call is about a named keyspace.
    pub(super) fn enter(&self, keyspace: &Arc<LivingKeyspace>) -> Result<()> {
        keyspace.check_in(self.snapshot.store_number())?;
        let mut keyspaces = self.keyspaces.lock();
        if !keyspaces.iter().any(|known| Arc::ptr_eq(known, keyspace)) {
            keyspaces.push(Arc::clone(keyspace));
        }
        Ok(())
    }

    /// The value of a key and its version; 0 for an own write.
    pub(super) fn read(&self, key: &StoredKey<'_>) -> Result<Option<(Value, u64)>> {
        if let Some(own) = self.writes.get(key.as_bytes()).filter(|_| !planted("own_write_unseen")) {
            return Ok(own.clone().map(|value| (value, 0)));
        }
        let found = self.snapshot.stored_value(key)?;
        self.note_key(key, found.as_ref().map(|(_, version)| *version))?;
        Ok(found)
    }

    pub(super) fn contains_key(&self, key: &StoredKey<'_>) -> Result<bool> {
        if let Some(own) = self.writes.get(key.as_bytes()) {
            return Ok(own.is_some());
        }
        let version = self.snapshot.stored_version(key)?;
        self.note_key(key, version)?;
        Ok(version.is_some())
    }

    fn note_key(&self, key: &StoredKey<'_>, version: Option<u64>) -> Result<()> {
        // The store never holds an empty key or a key over the limit.
        let is_possible = (1..=limits::MAX_KEY_LEN_BYTES).contains(&user_part(key.as_bytes()).len());
        if !is_possible || (version.is_none() && planted("absent_reads_forgotten")) {
            return Ok(());
        }
        self.note_read(|reads| reads.note_key(key.as_bytes(), version))
    }

    /// Changes the read set and enforces the limit. Beyond the limit, the transaction forgets its
    /// reads; without writes it can continue, because it needs no validation.
    pub(super) fn note_read<R>(&self, note: impl FnOnce(&mut ReadSet) -> R) -> Result<R> {
        let mut reads = self.reads.lock();
        let noted = note(&mut reads);
        let len_bytes = reads.len_bytes() + self.writes.len_bytes();
        if len_bytes > self.limit_bytes && !planted("transaction_without_limit") {
            reads.forget();
        }
        self.account(reads.len_bytes() + self.writes.len_bytes());
        if self.writes.len() > 0 {
            reads.check_kept(self.limit_bytes)?;
        }
        Ok(noted)
    }

    /// A range over the read set has ended.
    pub(super) fn close_range(&self) {
        self.reads.lock().close_range();
    }

    pub(super) fn write(&mut self, key: &StoredKey<'_>, value: Option<&[u8]>) -> Result<()> {
        let value_len = value.map_or(0, <[u8]>::len);
        let key = key.as_bytes();
        check_key(key)?;
        check_value_len(value_len)?;
        let limit = limits::MAX_BATCH_COMMANDS;
        if self.writes.len() >= limit && self.writes.get(key).is_none() {
            let found = self.writes.len() as u64 + 1;
            return Err(Error::LimitExceeded { what: "transaction (written keys)", found, limit: limit as u64 });
        }
        let reads_bytes = {
            let reads = self.reads.lock();
            reads.check_kept(self.limit_bytes)?;
            reads.len_bytes()
        };
        let len_bytes = reads_bytes + self.writes.len_bytes() + WriteBuffer::cost_bytes(key.len(), value_len);
        if len_bytes > self.limit_bytes && !planted("transaction_without_limit") {
            return Err(over_limit(len_bytes, self.limit_bytes));
        }
        self.writes.write(key, value.map(Value::from));
        self.account(reads_bytes + self.writes.len_bytes());
        Ok(())
    }

    /// Keeps the reads since the savepoint: the transaction may have acted on them.
    pub(super) fn rollback_to(&mut self, savepoint: &Savepoint) -> Result<()> {
        self.writes.rollback_to(savepoint)?;
        let mut reads = self.reads.lock();
        if planted("rollback_drops_reads") {
            *reads = ReadSet::default();
        }
        self.account(reads.len_bytes() + self.writes.len_bytes());
        Ok(())
    }

    /// The writes as a batch whose requirements are the reads; `None` without writes.
    pub(super) fn take_batch(&mut self) -> Result<Option<Batch>> {
        if self.writes.len() == 0 {
            return Ok(None);
        }
        let mut reads = self.reads.lock();
        reads.check_kept(self.limit_bytes)?;
        let mut batch = self.writes.take();
        if !planted("keyspaces_of_transactions_forgotten") {
            batch.keyspaces = std::mem::take(&mut *self.keyspaces.lock());
        }
        reads.take_into(&mut batch, self.snapshot.seq());
        if !planted("tombstones_not_kept_for_transactions") {
            batch.snapshot = Some(self.snapshot.state().clone());
        }
        Ok(Some(batch))
    }

    /// Reports its memory to the store's counters.
    fn account(&self, len_bytes: usize) {
        let len_bytes = len_bytes - len_bytes % ACCOUNTED_STEP_BYTES;
        if len_bytes != self.accounted_bytes.load(Ordering::Relaxed) {
            let before = self.accounted_bytes.swap(len_bytes, Ordering::Relaxed);
            self.counters.resize(before, len_bytes);
        }
    }
}

impl Drop for LocalState<'_> {
    fn drop(&mut self) {
        self.account(0);
        self.counters.end();
    }
}

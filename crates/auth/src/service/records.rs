//! The service's records: a reserved keyspace of the store, out of reach of users' keys.

use std::ops::Bound;

use hightower_engine::{Batch, BatchOutcome, Expect, Keyspace, KeyspaceEngine, Result as EngineResult, Value};

use crate::permission::prefix_end;

/// The records of a service, in its engine.
pub(crate) struct ServiceRecords<'a, E> {
    engine: &'a E,
    keyspace: &'a Keyspace<()>,
}

/// A batch of records.
#[derive(Clone, Debug)]
pub(super) struct RecordBatch<'a> {
    batch: Batch,
    keyspace: &'a Keyspace<()>,
}

impl<'a, E: KeyspaceEngine> ServiceRecords<'a, E> {
    pub(super) fn new(engine: &'a E, keyspace: &'a Keyspace<()>) -> Self {
        Self { engine, keyspace }
    }

    /// The keyspace.
    pub(crate) fn keyspace(&self) -> &'a Keyspace<()> {
        self.keyspace
    }

    pub(super) fn get_versioned(&self, key: impl AsRef<[u8]>) -> EngineResult<Option<(Value, u64)>> {
        self.engine.get_versioned_in(self.keyspace, key.as_ref())
    }

    pub(super) fn get(&self, key: impl AsRef<[u8]>) -> EngineResult<Option<Value>> {
        Ok(self.get_versioned(key)?.map(|(value, _)| value))
    }

    pub(super) fn scan(
        &self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        limit: usize,
    ) -> EngineResult<Vec<(Vec<u8>, Value)>> {
        self.engine.scan_in(self.keyspace, from, to, limit)
    }

    pub(super) fn get_prefix(&self, prefix: &[u8]) -> EngineResult<Vec<(Vec<u8>, Value)>> {
        let end = prefix_end(prefix);
        self.scan(Bound::Included(prefix), end.as_deref().map_or(Bound::Unbounded, Bound::Excluded), usize::MAX)
    }

    /// An empty batch.
    pub(super) fn batch(&self) -> RecordBatch<'a> {
        RecordBatch { batch: Batch::new(), keyspace: self.keyspace }
    }

    pub(super) fn commit(&self, batch: &RecordBatch<'_>) -> EngineResult<BatchOutcome> {
        self.engine.commit(&batch.batch)
    }
}

impl RecordBatch<'_> {
    pub(super) fn put(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        self.batch.put_in(self.keyspace, key, value);
    }

    pub(super) fn delete(&mut self, key: impl AsRef<[u8]>) {
        self.batch.delete_in(self.keyspace, key);
    }

    pub(super) fn require(&mut self, key: impl AsRef<[u8]>, expect: Expect) {
        self.batch.require_in(self.keyspace, key, expect);
    }

    pub(super) fn use_reserve(&mut self, uses_reserve: bool) {
        self.batch.use_reserve(uses_reserve);
    }
}

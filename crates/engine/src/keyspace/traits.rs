//! The traits of engines, readers and writers, for a keyspace.

use std::borrow::Borrow;
use std::ops::Bound;

use hightower_log::Command;
use hightower_state::ApplyOutcome;

use crate::batch::{Batch, BatchOutcome};
use crate::config::Durability;
use crate::engine::SingleNodeEngine;
use crate::error::Result;
use crate::keyspace::Keyspace;
use crate::traits::{KvEngine, KvReader, KvWriter, Pairs};
use crate::value::Value;

impl<E: Borrow<SingleNodeEngine> + Send + Sync> KvEngine for Keyspace<E> {
    fn submit(&self, command: Command) -> Result<ApplyOutcome> {
        Self::submit(self, command)
    }

    fn submit_batch<I>(&self, commands: I) -> Result<Vec<ApplyOutcome>>
    where
        I: IntoIterator<Item = Command>,
    {
        Self::submit_batch(self, commands)
    }

    fn commit(&self, batch: &Batch) -> Result<BatchOutcome> {
        Self::commit(self, batch)
    }

    fn commit_with(&self, batch: &Batch, durability: Durability) -> Result<BatchOutcome> {
        Self::commit_with(self, batch, durability)
    }

    fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<ApplyOutcome> {
        Self::put(self, key, value)
    }

    fn delete(&self, key: impl AsRef<[u8]>) -> Result<ApplyOutcome> {
        Self::delete(self, key)
    }

    fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Value>> {
        Self::get(self, key)
    }

    fn get_versioned(&self, key: impl AsRef<[u8]>) -> Result<Option<(Value, u64)>> {
        Self::get_versioned(self, key)
    }

    fn get_prefix(&self, prefix: impl AsRef<[u8]>) -> Result<Vec<(Vec<u8>, Value)>> {
        Self::get_prefix(self, prefix)
    }

    fn scan(&self, from: Bound<&[u8]>, to: Bound<&[u8]>, limit: usize) -> Result<Vec<(Vec<u8>, Value)>> {
        self.range((from, to))?.collect_pairs(limit)
    }

    fn pairs(&self, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Result<Pairs<'_>> {
        Ok(Box::new(self.range((from, to))?.map(|entry| entry?.into_pair())))
    }
}

impl<E: Borrow<SingleNodeEngine> + Send + Sync> KvReader for Keyspace<E> {
    fn get(&self, key: &[u8]) -> Result<Option<Value>> {
        Self::get(self, key)
    }

    fn get_versioned(&self, key: &[u8]) -> Result<Option<(Value, u64)>> {
        Self::get_versioned(self, key)
    }

    fn contains_key(&self, key: &[u8]) -> Result<bool> {
        Self::contains_key(self, key)
    }

    fn range(&self, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Result<Pairs<'_>> {
        self.pairs(from, to)
    }
}

impl<E: Borrow<SingleNodeEngine> + Send + Sync> KvWriter for Keyspace<E> {
    fn commit(&self, batch: &Batch) -> Result<BatchOutcome> {
        Self::commit(self, batch)
    }

    fn commit_with(&self, batch: &Batch, durability: Durability) -> Result<BatchOutcome> {
        Self::commit_with(self, batch, durability)
    }

    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        Self::put(self, key, value).map(drop)
    }

    fn delete(&self, key: &[u8]) -> Result<()> {
        Self::delete(self, key).map(drop)
    }
}

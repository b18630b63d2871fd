//! Merges: counters, and the caller's operators.

use crate::batch::Batch;
use crate::commit::Write;
#[cfg(doc)]
use crate::components::Components;
use crate::config::Durability;
use crate::engine::SingleNodeEngine;
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::keyspace::{Scope, id_of};
#[cfg(doc)]
use crate::merge::MergeOperator;
use crate::merge::{Operator, counter};
use crate::merger::Merger;
use crate::observe::{Operation, observe};
use crate::value::Value;

/// # Merging
///
/// Updates that depend on the value of their key, without a conflict: they are evaluated at the
/// commit. What is written is an ordinary value.
impl SingleNodeEngine {
    /// Adds `delta` to the counter `key`, and returns the sum. No addition is lost, however many
    /// threads add, and none is repeated.
    ///
    /// A counter is a decimal number as text, from −2^63 to 2^63 − 1. A key without a value counts
    /// as 0. To read a counter, [`get`](Self::get) and parse it.
    ///
    /// It costs a read and a write, and is faster than [`fetch_update`](Self::fetch_update), above
    /// all with several threads.
    ///
    /// ```
    /// # use hightower_engine::SingleNodeEngine;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// assert_eq!(engine.add("visits", 1)?, 1);
    /// assert_eq!(engine.add("visits", 41)?, 42);
    /// assert_eq!(engine.get("visits")?.unwrap(), "42");
    /// engine.put("name", "Ada")?;
    /// assert_eq!(engine.add("name", 1).unwrap_err().code(), "not_a_counter");
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::NotACounter`], [`Error::CounterOverflow`]; as [`put`](Self::put) and
    /// [`get`](Self::get). Nothing has changed then.
    pub fn add(&self, key: impl AsRef<[u8]>, delta: i64) -> Result<i64> {
        self.add_with(key, delta, self.durability)
    }

    /// As [`add`](Self::add), with a durability for this call.
    ///
    /// ```
    /// # use hightower_engine::{Durability, SingleNodeEngine};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// assert_eq!(engine.add_with("orders", 1, Durability::Sync)?, 1);
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`add`](Self::add).
    pub fn add_with(&self, key: impl AsRef<[u8]>, delta: i64, durability: Durability) -> Result<i64> {
        self.add_in(None, key.as_ref(), delta, durability)
    }

    /// Merges `operand` into the value of `key` by the [`MergeOperator`] of this name, and returns
    /// the new value; `None` if the key has none afterwards. The merge is atomic, and no merge is
    /// lost, however many threads merge.
    ///
    /// It costs a read, a write and a call of the operator, and more calls if others write the key
    /// at the same time. Example: [`MergeOperator`].
    ///
    /// # Errors
    ///
    /// [`Error::MergeRefused`], [`Error::Panicked`]; [`Error::Validation`] if
    /// [`Components::merge_operators`] has no operator of this name; as [`put`](Self::put) and
    /// [`get`](Self::get). Nothing has changed then.
    pub fn merge(&self, key: impl AsRef<[u8]>, operator: &str, operand: impl AsRef<[u8]>) -> Result<Option<Value>> {
        self.merge_with(key, operator, operand, self.durability)
    }

    /// As [`merge`](Self::merge), with a durability for this call.
    ///
    /// # Errors
    ///
    /// As [`merge`](Self::merge).
    pub fn merge_with(
        &self,
        key: impl AsRef<[u8]>,
        operator: &str,
        operand: impl AsRef<[u8]>,
        durability: Durability,
    ) -> Result<Option<Value>> {
        self.merge_in(None, key.as_ref(), Operator::named(operator), operand.as_ref(), durability)
    }

    /// The operators of this store.
    pub(crate) fn merger(&self) -> &Merger {
        self.write.merger()
    }

    pub(crate) fn add_in(&self, scope: Scope<'_>, key: &[u8], delta: i64, durability: Durability) -> Result<i64> {
        let sum = self.merge_in(scope, key, Operator::Add(delta), &[], durability)?;
        counter(key, sum.as_deref().unwrap_or_default())
    }

    pub(crate) fn merge_in(
        &self,
        scope: Scope<'_>,
        key: &[u8],
        operator: Operator,
        operand: &[u8],
        durability: Durability,
    ) -> Result<Option<Value>> {
        observe(Operation::Merge, || {
            let Some(pipeline) = self.pipeline()? else {
                let stored = id_of(scope).stored(key);
                let write = Write { key: stored.as_bytes(), value: Some(operand), given: None, keyspace: scope };
                return self.write.commit_merge(write, &operator, durability);
            };
            let mut batch = Batch::new();
            batch.push_merge(scope, key, operator, operand);
            pipeline.commit(batch, durability)?.merged()
        })
    }
}

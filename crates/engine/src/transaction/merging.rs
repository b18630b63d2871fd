//! Merges in a transaction: a read and a write.

use crate::error::Result;
use crate::keyspace::{Keyspace, KeyspaceId, StoredKey, user_part};
use crate::merge::{MergeOutcome, Operator, counter};
use crate::transaction::Transaction;
use crate::value::Value;

impl Transaction<'_> {
    /// Adds `delta` to the counter `key`, and returns the sum, as
    /// [`SingleNodeEngine::add`](crate::SingleNodeEngine::add). Here it is a read and a write: the
    /// commit conflicts if others change the key meanwhile.
    ///
    /// ```
    /// # use hightower_engine::SingleNodeEngine;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// let number = engine.update(|transaction| {
    ///     let number = transaction.add("jobs", 1)?;
    ///     transaction.put(format!("queue/{number:08}"), "a job")?;
    ///     Ok(number)
    /// })?;
    /// assert_eq!((number, engine.len()), (1, 2));
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::NotACounter`](crate::Error::NotACounter),
    /// [`Error::CounterOverflow`](crate::Error::CounterOverflow); as [`get`](Self::get) and
    /// [`put`](Self::put).
    pub fn add(&mut self, key: impl AsRef<[u8]>, delta: i64) -> Result<i64> {
        self.add_stored(&KeyspaceId::DEFAULT.stored(key.as_ref()), delta)
    }

    /// Merges `operand` into the value of `key` by a registered operator, and returns the new
    /// value, as [`SingleNodeEngine::merge`](crate::SingleNodeEngine::merge). Here it is a read and
    /// a write: the commit conflicts if others change the key meanwhile.
    ///
    /// # Errors
    ///
    /// Those of [`SingleNodeEngine::merge`](crate::SingleNodeEngine::merge); as [`get`](Self::get)
    /// and [`put`](Self::put).
    pub fn merge(&mut self, key: impl AsRef<[u8]>, operator: &str, operand: impl AsRef<[u8]>) -> Result<Option<Value>> {
        let key = KeyspaceId::DEFAULT.stored(key.as_ref());
        self.merge_stored(&key, &Operator::named(operator), operand.as_ref())
    }

    /// As [`add`](Self::add), in a keyspace.
    ///
    /// # Errors
    ///
    /// As [`add`](Self::add) and [`get_in`](Self::get_in).
    pub fn add_in<E>(&mut self, keyspace: &Keyspace<E>, key: impl AsRef<[u8]>, delta: i64) -> Result<i64> {
        self.local.enter(keyspace.living())?;
        self.add_stored(&keyspace.id().stored(key.as_ref()), delta)
    }

    /// As [`merge`](Self::merge), in a keyspace.
    ///
    /// # Errors
    ///
    /// As [`merge`](Self::merge) and [`get_in`](Self::get_in).
    pub fn merge_in<E>(
        &mut self,
        keyspace: &Keyspace<E>,
        key: impl AsRef<[u8]>,
        operator: &str,
        operand: impl AsRef<[u8]>,
    ) -> Result<Option<Value>> {
        self.local.enter(keyspace.living())?;
        let key = keyspace.id().stored(key.as_ref());
        self.merge_stored(&key, &Operator::named(operator), operand.as_ref())
    }

    fn add_stored(&mut self, key: &StoredKey<'_>, delta: i64) -> Result<i64> {
        let sum = self.merge_stored(key, &Operator::Add(delta), &[])?;
        counter(user_part(key.as_bytes()), sum.as_deref().unwrap_or_default())
    }

    fn merge_stored(&mut self, key: &StoredKey<'_>, operator: &Operator, operand: &[u8]) -> Result<Option<Value>> {
        let existing = self.local.read(key)?.map(|(value, _)| value);
        let user_key = user_part(key.as_bytes());
        match self.engine.merger().merge(operator, user_key, existing.as_deref(), operand)? {
            MergeOutcome::Put(value) => {
                self.local.write(key, Some(&value))?;
                Ok(Some(value.into()))
            }
            MergeOutcome::Delete if existing.is_none() => Ok(None),
            MergeOutcome::Delete => self.local.write(key, None).map(|()| None),
            MergeOutcome::Keep => Ok(existing),
        }
    }
}

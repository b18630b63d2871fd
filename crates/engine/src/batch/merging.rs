//! Adding merges to a batch.

use crate::batch::Batch;
use crate::keyspace::{Keyspace, Scope};
use crate::merge::{BatchMerge, Operator};

impl Batch {
    /// Adds an addition of `delta` to the counter `key`, as
    /// [`SingleNodeEngine::add`](crate::SingleNodeEngine::add). It sees what the batch has done to
    /// the key before.
    ///
    /// ```
    /// # use hightower_engine::{Batch, SingleNodeEngine};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// let mut sale = Batch::new();
    /// sale.put("sales/17", "apples").add("sold", 2).add("sold", 3).add("stock", -5);
    /// let committed = engine.commit(&sale)?.committed()?;
    /// assert_eq!(committed.merged[1].as_ref().unwrap(), "5");
    /// assert_eq!(engine.get("stock")?.unwrap(), "-5");
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    pub fn add(&mut self, key: impl AsRef<[u8]>, delta: i64) -> &mut Self {
        self.push_add(None, key.as_ref(), delta)
    }

    /// Adds a merge of `operand` into the value of `key` by a registered operator, as
    /// [`SingleNodeEngine::merge`](crate::SingleNodeEngine::merge). It sees what the batch has done
    /// to the key before.
    pub fn merge(&mut self, key: impl AsRef<[u8]>, operator: &str, operand: impl AsRef<[u8]>) -> &mut Self {
        self.push_merge(None, key.as_ref(), Operator::named(operator), operand.as_ref())
    }

    /// As [`add`](Self::add), in a keyspace.
    pub fn add_in<E>(&mut self, keyspace: &Keyspace<E>, key: impl AsRef<[u8]>, delta: i64) -> &mut Self {
        self.push_add(Some(keyspace.living()), key.as_ref(), delta)
    }

    /// As [`merge`](Self::merge), in a keyspace.
    pub fn merge_in<E>(
        &mut self,
        keyspace: &Keyspace<E>,
        key: impl AsRef<[u8]>,
        operator: &str,
        operand: impl AsRef<[u8]>,
    ) -> &mut Self {
        self.push_merge(Some(keyspace.living()), key.as_ref(), Operator::named(operator), operand.as_ref())
    }

    fn push_add(&mut self, scope: Scope<'_>, key: &[u8], delta: i64) -> &mut Self {
        // The operand shows in the changes of the batch.
        self.push_merge(scope, key, Operator::Add(delta), delta.to_string().as_bytes())
    }

    pub(crate) fn push_merge(&mut self, scope: Scope<'_>, key: &[u8], operator: Operator, operand: &[u8]) -> &mut Self {
        self.merges.push(BatchMerge { operation: self.operations.len(), operator });
        self.push_in(scope, key, Some(operand), None)
    }
}

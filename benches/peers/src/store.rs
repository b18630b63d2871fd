//! What a store must do to take part: one small trait, so that every workload runs the same code
//! over every store.

use anyhow::Result;
use serde::{Deserialize, Serialize};

/// What a returned write must survive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Guarantee {
    /// The death of the process (`kill -9`).
    Process,
    /// Power loss: synced before the call returns.
    Power,
}

/// What is called with a key and its value.
pub(crate) type Visit<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> Result<()>;

/// A store under test. All methods may be called from several threads.
pub(crate) trait Store: Send + Sync {
    /// Writes one pair at the guarantee that the store was opened with.
    fn put(&self, key: &[u8], value: &[u8]) -> Result<()>;

    /// Writes one pair whose key is above all others; stores with a faster way for that use it.
    fn put_last(&self, key: &[u8], value: &[u8]) -> Result<()> {
        self.put(key, value)
    }

    /// Writes all pairs as one commit.
    fn put_batch(&self, pairs: &[(Vec<u8>, Vec<u8>)]) -> Result<()>;

    /// Removes one key at the guarantee that the store was opened with.
    fn delete(&self, key: &[u8]) -> Result<()>;

    /// Removes all keys, as one commit where the store can.
    fn delete_batch(&self, keys: &[Vec<u8>]) -> Result<()> {
        keys.iter().try_for_each(|key| self.delete(key))
    }

    /// Calls `visit` with the latest value of `key`, borrowed where the store can; whether there
    /// was one.
    fn get(&self, key: &[u8], visit: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<bool>;

    /// Calls `visit` with every pair whose key starts with `prefix`, in key order.
    fn scan_prefix(&self, prefix: &[u8], visit: Visit<'_>) -> Result<()>;

    /// Calls `visit` with the first `limit` pairs from `start` on, in key order; `false` if the
    /// store cannot.
    fn scan_from(&self, start: &[u8], limit: usize, visit: Visit<'_>) -> Result<bool>;

    /// Waits until work in the background is done.
    fn settle(&self) -> Result<()> {
        Ok(())
    }

    /// Gives back what garbage takes on disk; `false` if the store cannot.
    fn compact(&mut self) -> Result<bool>;

    /// Closes the store cleanly.
    fn close(self: Box<Self>) -> Result<()>;
}

/// The smallest byte string above all that start with `prefix`; `None` if there is none.
#[cfg_attr(not(any(feature = "rocksdb", feature = "redb")), allow(dead_code))]
pub(crate) fn end_of_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|&byte| byte != u8::MAX)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

//! The trait of a store under test, so that every workload runs the same code on every store.

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

/// The event that a returned write must survive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Guarantee {
    /// The death of the process (`kill -9`).
    Process,
    /// Power loss: synced before the call returns.
    Power,
}

/// A callback with a key and its value.
pub(crate) type Visit<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> Result<()>;

/// What is called with the place of a key and its value.
pub(crate) type Check<'a> = &'a mut dyn FnMut(usize, &[u8]) -> Result<()>;

/// A store under test. All methods may be called from several threads.
pub(crate) trait Store: Send + Sync {
    /// Writes one pair with the guarantee of the open.
    fn put(&self, key: &[u8], value: &[u8]) -> Result<()>;

    /// Writes one pair whose key is above all others, by the store's faster call if it has one.
    fn put_last(&self, key: &[u8], value: &[u8]) -> Result<()> {
        self.put(key, value)
    }

    /// Writes all pairs as one commit.
    fn put_batch(&self, pairs: &[(Vec<u8>, Vec<u8>)]) -> Result<()>;

    /// Removes one key with the guarantee of the open.
    fn delete(&self, key: &[u8]) -> Result<()>;

    /// Removes all keys, in one commit if the store can.
    fn delete_batch(&self, keys: &[Vec<u8>]) -> Result<()> {
        keys.iter().try_for_each(|key| self.delete(key))
    }

    /// Calls `visit` with the latest value of `key`, borrowed if the store can; returns whether it
    /// exists.
    fn get(&self, key: &[u8], visit: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<bool>;

    /// Calls `visit` with every pair whose key starts with `prefix`, in key order.
    fn scan_prefix(&self, prefix: &[u8], visit: Visit<'_>) -> Result<()>;

    /// Calls `visit` with the first `limit` pairs from `start` on, in key order; `false` if the
    /// store cannot.
    fn scan_from(&self, start: &[u8], limit: usize, visit: Visit<'_>) -> Result<bool>;

    /// Reads both keys, which are there, calls `check` with the place and the value of each, and
    /// gives the first key a new value: as one serializable transaction, repeated after conflicts.
    /// Returns the number of repetitions. Only for stores opened for transactions.
    fn transact(&self, keys: [&[u8]; 2], value: &[u8], check: Check<'_>) -> Result<u32> {
        let _ = (keys, value, check);
        bail!("the store has no transactions")
    }

    /// Waits for the end of background work.
    fn settle(&self) -> Result<()> {
        Ok(())
    }

    /// Frees the disk space of garbage; `false` if the store cannot.
    fn compact(&mut self) -> Result<bool>;

    /// Closes the store cleanly.
    fn close(self: Box<Self>) -> Result<()>;
}

/// The smallest byte string above all strings with the prefix `prefix`; `None` if none exists.
#[cfg_attr(not(any(feature = "rocksdb", feature = "redb")), allow(dead_code))]
pub(crate) fn end_of_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|&byte| byte != u8::MAX)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

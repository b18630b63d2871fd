//! Deletes of all keys in a range.

use std::ops::{Bound, ControlFlow};

use crate::batch::Batch;
use crate::bounds::{KeyBounds, prefix_end};
use crate::engine::SingleNodeEngine;
use crate::error::Result;
use crate::mutants::planted;
use crate::snapshot::Entry;

/// The maximum number of keys in one commit of a range's deletion: enough that a key's share of the
/// commit's cost is small, few enough that other writers wait for less than a millisecond.
const KEYS_PER_COMMIT: usize = 1024;

/// The keys of one commit may have this total length, in bytes, or consist of one key.
const KEY_BYTES_PER_COMMIT: usize = 1 << 20;

/// How far the deletion of a range came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RangeDeletion {
    /// The number of keys that it deleted.
    pub deleted_keys: u64,
    /// Whether it reached the end of the range. If not, a call with the same bounds continues.
    pub is_complete: bool,
}

/// # Deleting ranges
///
/// Steps of up to 1,024 keys, each one atomic commit with the durability of the store. Between
/// steps other writes take effect: a key that is written behind the current step stays, and one
/// that is written ahead of it is deleted. Memory does not depend on the number of keys, and no
/// snapshot is held. After an error or a crash the deletes that were committed count; the same call
/// again deletes the rest.
impl SingleNodeEngine {
    /// Deletes all keys with the prefix `prefix`, and returns their number. An empty prefix means
    /// all keys.
    ///
    /// ```
    /// # use hightower_engine::SingleNodeEngine;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// for key in ["tenant-1/a", "tenant-1/b", "tenant-2/a"] {
    ///     engine.put(key, "")?;
    /// }
    /// assert_eq!(engine.delete_prefix("tenant-1/")?, 2);
    /// assert_eq!(engine.iter()?.count(), 1);
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`delete`](Self::delete).
    pub fn delete_prefix(&self, prefix: impl AsRef<[u8]>) -> Result<u64> {
        let prefix = prefix.as_ref();
        let end = prefix_end(prefix).map_or(Bound::Unbounded, Bound::Excluded);
        self.delete_range((Bound::Included(prefix.to_vec()), end))
    }

    /// Deletes all keys in `bounds`, and returns their number.
    ///
    /// ```
    /// # use hightower_engine::SingleNodeEngine;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// for day in ["2025-12-30", "2025-12-31", "2026-01-01"] {
    ///     engine.put(day, "")?;
    /// }
    /// assert_eq!(engine.delete_range(.."2026")?, 2);
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`delete`](Self::delete).
    pub fn delete_range(&self, bounds: impl KeyBounds) -> Result<u64> {
        let deletion = self.delete_range_with_progress(bounds, |_| ControlFlow::Continue(()))?;
        Ok(deletion.deleted_keys)
    }

    /// As [`delete_range`](Self::delete_range); after each step `watch` receives the number of keys
    /// that were deleted, and may end the deletion. It may call the store.
    ///
    /// ```
    /// use std::ops::ControlFlow;
    /// # use hightower_engine::SingleNodeEngine;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// for number in 0..3000 {
    ///     engine.put(format!("jobs/{number:04}"), "")?;
    /// }
    /// let part = engine.delete_range_with_progress("jobs/".."jobs0", |_| ControlFlow::Break(()))?;
    /// assert!(!part.is_complete);
    /// let rest = engine.delete_range("jobs/".."jobs0")?;
    /// assert_eq!(part.deleted_keys + rest, 3000);
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`delete`](Self::delete).
    pub fn delete_range_with_progress(
        &self,
        bounds: impl KeyBounds,
        mut watch: impl FnMut(u64) -> ControlFlow<()>,
    ) -> Result<RangeDeletion> {
        let (from, to) = bounds.key_bounds();
        let to = to.map(<[u8]>::to_vec);
        let mut from = from.map(<[u8]>::to_vec);
        let mut deletion = RangeDeletion { deleted_keys: 0, is_complete: false };
        let mut step = Batch::new();
        loop {
            step.clear();
            let last = fill(&mut step, self.range((from.clone(), to.clone()))?);
            let Some(last) = last else {
                deletion.is_complete = true;
                return Ok(deletion);
            };
            self.commit(&step)?.committed()?;
            deletion.deleted_keys += step.len() as u64;
            if watch(deletion.deleted_keys).is_break() {
                return Ok(deletion);
            }
            let last = last.key().to_vec();
            from = if planted("range_deletion_skips_a_key") {
                Bound::Excluded([&last[..], &[u8::MAX]].concat())
            } else {
                Bound::Excluded(last)
            };
        }
    }
}

/// Adds deletes of the next keys of `range`, and returns the last of them.
fn fill(step: &mut Batch, range: impl Iterator<Item = Entry>) -> Option<Entry> {
    let (mut last, mut key_bytes) = (None, 0);
    for entry in range.take(KEYS_PER_COMMIT) {
        key_bytes += entry.key().len();
        if last.is_some() && key_bytes > KEY_BYTES_PER_COMMIT {
            break;
        }
        step.delete(entry.key());
        last = Some(entry);
    }
    last
}

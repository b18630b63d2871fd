//! Deletes of all keys in a range.

use std::ops::{Bound, ControlFlow};

use crate::batch::Batch;
use crate::bounds::{KeyBounds, prefix_end};
use crate::config::Durability;
use crate::engine::SingleNodeEngine;
use crate::error::{Error, Result};
use crate::keyspace::{Scope, id_of};
use crate::mutants::planted;
use crate::snapshot::{Entry, Range};

/// The maximum number of keys in one commit of a range's deletion: enough that a key's share of the
/// commit's cost is small, few enough that other writers wait for less than a millisecond.
const KEYS_PER_COMMIT: usize = 1024;

/// The keys of one commit may have this total length, in bytes, or consist of one key.
const KEY_BYTES_PER_COMMIT: usize = 1 << 20;

/// How far the deletion of a range came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RangeDeletion {
    /// The number of keys that it found and deleted. A key that several callers delete at the same
    /// moment counts for each of them.
    pub deleted_keys: u64,
    /// Whether it reached the end of the range. If not, a call with the same bounds continues.
    pub is_complete: bool,
}

/// # Deleting ranges
///
/// Steps of up to 1,024 keys, each one atomic commit with the durability of the store. Other writes
/// take effect between steps. So a key that is written meanwhile is deleted if it lies between the
/// current step and the last key that the range had at the beginning; otherwise it stays. Memory
/// does not depend on the number of keys, and no snapshot is held between steps.
///
/// After an error or a crash the deletes that were committed count; the same call again deletes the
/// rest. On a full device the steps become as short as necessary. If not even one key can be
/// deleted, the error is [`Error::Full`]: [compact](Self::run_compaction_now), and call again.
///
/// For all keys of a range in one commit, delete them in a [transaction](Self::transaction), which
/// writes up to 65,536 keys.
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
        self.delete_prefix_in(None, prefix.as_ref(), self.durability)
    }

    pub(crate) fn delete_prefix_in(&self, scope: Scope<'_>, prefix: &[u8], durability: Durability) -> Result<u64> {
        let end = prefix_end(prefix);
        let bounds = (Bound::Included(prefix), end.as_deref().map_or(Bound::Unbounded, Bound::Excluded));
        let deletion = self.delete_range_in(scope, bounds, durability, |_| ControlFlow::Continue(()))?;
        Ok(deletion.deleted_keys)
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
        watch: impl FnMut(u64) -> ControlFlow<()>,
    ) -> Result<RangeDeletion> {
        self.delete_range_in(None, bounds.key_bounds(), self.durability, watch)
    }

    pub(crate) fn delete_range_in(
        &self,
        scope: Scope<'_>,
        (from, to): (Bound<&[u8]>, Bound<&[u8]>),
        durability: Durability,
        mut watch: impl FnMut(u64) -> ControlFlow<()>,
    ) -> Result<RangeDeletion> {
        scope.map_or(Ok(()), |keyspace| keyspace.check())?;
        let range_now = |bounds: (Bound<&[u8]>, Bound<&[u8]>)| -> Result<Range> {
            Ok(self.snapshot()?.of(id_of(scope)).range(bounds))
        };
        let mut deletion = RangeDeletion { deleted_keys: 0, is_complete: false };
        // Without an end, the deletion could follow a writer that appends keys for ever.
        let Some(end) = range_now((from, to))?.next_back().transpose()?.map(|last| last.key().to_vec()) else {
            deletion.is_complete = true;
            return Ok(deletion);
        };
        let to = if planted("range_deletion_without_end") { to } else { Bound::Included(end.as_slice()) };
        let mut from = from.map(<[u8]>::to_vec);
        let (mut step, mut keys_max) = (Batch::new(), KEYS_PER_COMMIT);
        while !deletion.is_complete {
            let _held = if planted("range_deletion_holds_a_snapshot") { self.snapshot().ok() } else { None };
            step.clear();
            let range = range_now((from.as_ref().map(Vec::as_slice), to))?;
            let Some(last) = fill(&mut step, scope, range, keys_max)? else {
                deletion.is_complete = true;
                break;
            };
            match self.commit_with(&step, durability) {
                Ok(outcome) => drop(outcome.committed()?),
                // On a full device the reserve for deletes may have room for fewer.
                Err(Error::Full { .. }) if step.len() > 1 && !planted("range_deletion_in_full_steps") => {
                    keys_max = step.len() / 2;
                    continue;
                }
                Err(failure) => return Err(failure),
            }
            keys_max = (keys_max * 2).min(KEYS_PER_COMMIT);
            deletion.deleted_keys += step.len() as u64;
            deletion.is_complete = last >= end && !planted("range_deletion_without_end");
            if watch(deletion.deleted_keys).is_break() {
                break;
            }
            let is_skipping = planted("range_deletion_skips_a_key");
            from = Bound::Excluded(if is_skipping { [&last[..], &[u8::MAX]].concat() } else { last });
        }
        Ok(deletion)
    }
}

/// Adds deletes of the next keys of `range`, at most `keys_max`, and returns the last of them.
fn fill(
    step: &mut Batch,
    scope: Scope<'_>,
    range: impl Iterator<Item = Result<Entry>>,
    keys_max: usize,
) -> Result<Option<Vec<u8>>> {
    let (mut last, mut key_bytes) = (None, 0);
    for entry in range.take(keys_max) {
        let entry = entry?;
        key_bytes += entry.key().len();
        if last.is_some() && key_bytes > KEY_BYTES_PER_COMMIT {
            break;
        }
        step.push_in(scope, entry.key(), None, None);
        last = Some(entry);
    }
    // Not the entry: it holds a snapshot.
    Ok(last.map(|entry: Entry| entry.key().to_vec()))
}

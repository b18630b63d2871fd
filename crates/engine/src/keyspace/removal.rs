//! The removal of dropped keyspaces: deletes their keys in steps, then the record that asks for it.
//!
//! The commit that drops a keyspace writes the record, so no crash loses it. Nothing writes into a
//! dropped keyspace, so its range stays empty once it is empty.

use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::batch::Batch;
use crate::commit::WritePath;
use crate::config::Durability;
use crate::error::{Error, Result};
use crate::keyspace::record::{DROPPED, dropped_id, dropped_key};
use crate::keyspace::{KeyspaceId, StoredKey};
use crate::mutants::planted;
use crate::read_path::ReadPath;
use crate::snapshot::{Range, Snapshot};

/// Maximum number of keys in one step, and of their bytes: other writers wait for less than a
/// millisecond.
const KEYS_PER_STEP: usize = 1024;
const KEY_BYTES_PER_STEP: usize = 1 << 20;

/// The removal of the dropped keyspaces of a store.
#[derive(Debug)]
pub(crate) struct KeyspaceRemoval {
    read: Arc<ReadPath>,
    write: Arc<WritePath>,
    /// Whether there may be a dropped keyspace with keys.
    may_be_due: AtomicBool,
}

impl KeyspaceRemoval {
    /// An earlier process may have left some.
    pub(crate) fn new(read: &Arc<ReadPath>, write: &Arc<WritePath>) -> Self {
        Self { read: Arc::clone(read), write: Arc::clone(write), may_be_due: AtomicBool::new(true) }
    }

    pub(crate) fn note_drop(&self) {
        self.may_be_due.store(true, Ordering::Relaxed);
    }

    /// Does all that is due, also what another thread has begun: both delete what they find, and
    /// a key that both delete is gone.
    pub(crate) fn finish(&self) -> Result<()> {
        if planted("removal_of_others_not_awaited") {
            while self.step()? {}
            return Ok(());
        }
        while self.step_of_first()? {}
        Ok(())
    }

    /// Deletes some keys; returns whether there may be more.
    pub(crate) fn step(&self) -> Result<bool> {
        if !self.may_be_due.swap(false, Ordering::Relaxed) {
            return Ok(false);
        }
        let stepped = self.step_of_first();
        if !matches!(stepped, Ok(false)) {
            self.note_drop();
        }
        stepped
    }

    fn step_of_first(&self) -> Result<bool> {
        // No snapshot outlives the reading of a step: it would keep what the steps delete.
        let id = match Snapshot::new(&self.read)?.of(KeyspaceId::SYSTEM).prefix(DROPPED).next().transpose()? {
            Some(first) => dropped_id(first.key())?,
            None => return Ok(false),
        };
        let mut keys_max = KEYS_PER_STEP;
        loop {
            let mut batch = Batch::new();
            let keys = Snapshot::new(&self.read)?.of(id).range((Bound::Unbounded, Bound::<&[u8]>::Unbounded));
            let is_all = fill(&mut batch, keys, keys_max)?;
            if is_all || planted("removal_ends_early") {
                batch.system_delete(&dropped_key(id));
            }
            match self.write.commit_batch(&batch, Durability::Os) {
                Ok(outcome) => return outcome.committed().map(|_| true).map_err(Error::from),
                // On a full device the reserve for deletes may have room for fewer.
                Err(Error::Full { .. }) if keys_max > 1 => keys_max = keys_max.min(batch.len()) / 2,
                Err(failure) => return Err(failure),
            }
            keys_max = keys_max.max(1);
        }
    }
}

/// Adds deletes of the first keys; returns whether these are all.
fn fill(batch: &mut Batch, keys: Range, keys_max: usize) -> Result<bool> {
    let mut key_bytes = 0;
    for entry in keys {
        let entry = entry?;
        if batch.len() >= keys_max || key_bytes > KEY_BYTES_PER_STEP {
            return Ok(false);
        }
        key_bytes += entry.stored_key().len();
        batch.push(&StoredKey::AsIs(entry.stored_key()), None, None);
    }
    Ok(true)
}

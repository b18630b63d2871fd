//! The queue of old versions to drop, grouped by the snapshot that retains them.
//!
//! Each retained version is on the list of the newest snapshot that needs it. After a snapshot
//! ends, its list is processed incrementally, a few versions per commit. A version that an older
//! snapshot also needs moves to that snapshot's list; the others are dropped from their entries. A
//! version is therefore examined once per snapshot that needed it, in any order in which snapshots
//! end. A long-lived snapshot retains only the versions that it needs itself.

use std::collections::{BTreeMap, VecDeque};

use crate::mutants::planted;
use crate::snapshot_registry::LiveSnapshots;

/// The lists.
#[derive(Debug, Default)]
pub(crate) struct GcQueue {
    /// The lists of live snapshots, by seq.
    owned: BTreeMap<u64, GcItems>,
    /// The lists of ended snapshots, for commits to process.
    orphaned: VecDeque<GcItems>,
}

/// Retained versions by seq and key, first in first out, packed into chunks: adding one copies only
/// the key, and processed chunks are freed one by one.
#[derive(Debug, Default)]
struct GcItems {
    chunks: VecDeque<Vec<u8>>,
    /// The bytes of the first chunk that have been taken.
    taken: usize,
}

impl GcQueue {
    /// Adds a retained version to the list of the newest snapshot that needs it. While a snapshot
    /// is registering, the version goes to the orphaned lists, which are examined again.
    pub(crate) fn push(&mut self, key: &[u8], seq: u64, until: u64, live: &LiveSnapshots) {
        match live.newest_reader(seq, until) {
            Some(owner) if !live.has_pending() => self.owned.entry(owner).or_default().push(seq, key),
            _ => {
                if self.orphaned.is_empty() {
                    self.orphaned.push_back(GcItems::default());
                }
                if let Some(items) = self.orphaned.back_mut() {
                    items.push(seq, key);
                }
            }
        }
    }

    /// Moves the lists of ended snapshots to the orphaned lists.
    pub(crate) fn orphan(&mut self, live: &LiveSnapshots) {
        let ended = self.owned.extract_if(.., |&owner, _| !live.contains(owner) && !planted("list_forgotten"));
        self.orphaned.extend(ended.map(|(_, items)| items));
    }

    /// Takes one orphaned version, and writes its key to `key`.
    pub(crate) fn pop_orphan(&mut self, key: &mut Vec<u8>) -> Option<u64> {
        loop {
            let items = self.orphaned.front_mut()?;
            if let Some(seq) = items.pop(key) {
                return Some(seq);
            }
            self.orphaned.pop_front();
        }
    }

    pub(crate) fn has_orphans(&self) -> bool {
        !self.orphaned.is_empty()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.orphaned.is_empty() && self.owned.is_empty()
    }

    /// The memory of the lists, in bytes.
    pub(crate) fn len_bytes(&self) -> usize {
        self.owned.values().chain(&self.orphaned).map(GcItems::len_bytes).sum()
    }
}

/// Maximum size of a chunk, which bounds the bytes that an addition copies.
const CHUNK_LEN_BYTES: usize = 16 * 1024;

impl GcItems {
    fn push(&mut self, seq: u64, key: &[u8]) {
        let needed = size_of::<u64>() + size_of::<u32>() + key.len();
        let fits = |chunk: &Vec<u8>| chunk.is_empty() || chunk.len() + needed <= CHUNK_LEN_BYTES;
        if !self.chunks.back().is_some_and(fits) {
            self.chunks.push_back(Vec::new());
        }
        if let Some(chunk) = self.chunks.back_mut() {
            chunk.extend_from_slice(&seq.to_le_bytes());
            chunk.extend_from_slice(&u32::try_from(key.len()).unwrap_or(u32::MAX).to_le_bytes());
            chunk.extend_from_slice(key);
        }
    }

    fn pop(&mut self, key: &mut Vec<u8>) -> Option<u64> {
        loop {
            let chunk = self.chunks.front()?;
            if let Some((seq, found, rest)) = chunk.get(self.taken..).and_then(split) {
                key.clear();
                key.extend_from_slice(found);
                self.taken = chunk.len() - rest.len();
                return Some(seq);
            }
            self.chunks.pop_front();
            self.taken = 0;
        }
    }

    fn len_bytes(&self) -> usize {
        self.chunks.iter().map(Vec::capacity).sum()
    }
}

/// The first item of a chunk, and the rest.
fn split(chunk: &[u8]) -> Option<(u64, &[u8], &[u8])> {
    let (seq, rest) = chunk.split_first_chunk()?;
    let (len_bytes, rest) = rest.split_first_chunk()?;
    let (key, rest) = rest.split_at_checked(usize::try_from(u32::from_le_bytes(*len_bytes)).ok()?)?;
    Some((u64::from_le_bytes(*seq), key, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_come_back_in_order_across_chunks() {
        let mut items = GcItems::default();
        let key = |at: u64| vec![b'k'; usize::try_from(at % 700).unwrap()];
        (0..500).for_each(|at| items.push(at, &key(at)));
        items.push(500, &vec![7; 3 * CHUNK_LEN_BYTES]);
        let mut found = Vec::new();
        for at in 0..250 {
            assert_eq!(items.pop(&mut found), Some(at));
            assert_eq!(found, key(at));
        }
        assert_eq!(std::iter::from_fn(|| items.pop(&mut found)).count(), 251);
        assert_eq!((found.len(), items.len_bytes()), (3 * CHUNK_LEN_BYTES, 0));
    }
}

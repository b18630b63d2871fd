//! The quotas of keyspaces: what the keyspaces with a quota hold.
//!
//! Nothing is stored: the first write of a value into a keyspace counts it by a scan of a snapshot,
//! and later commits change the count under the commit lock. A commit that is published while the
//! scan runs is noted with its seqno, and counts if it came after the snapshot.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hightower_seams::lock_order::Rank;

use crate::error::{Error, Result};
use crate::keyspace::{KeyspaceId, LivingKeyspace};
use crate::mutants::planted;
use crate::sync::{Mutex, MutexGuard};
use crate::turn::{CheckedMutex, HasRank};

/// What a keyspace holds: see [`KeyspaceOptions::max_bytes`](crate::KeyspaceOptions::max_bytes).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyspaceUse {
    /// Keys that have a value.
    pub keys: u64,
    /// Bytes of these keys, as the caller gave them, and of their values.
    pub bytes: u64,
}

impl KeyspaceUse {
    /// The use with one more key.
    pub(crate) fn and(self, key_len: usize, value_len: usize) -> Self {
        Self { keys: self.keys + 1, bytes: self.bytes + (key_len + value_len) as u64 }
    }
}

/// What a commit adds to a keyspace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct KeyspaceGrowth {
    pub(crate) keys: i64,
    pub(crate) bytes: i64,
    /// A damaged value was deleted, so the count must be made anew.
    pub(crate) is_unknown: bool,
}

impl KeyspaceGrowth {
    fn after(self, used: KeyspaceUse) -> KeyspaceUse {
        KeyspaceUse {
            keys: used.keys.saturating_add_signed(self.keys),
            bytes: used.bytes.saturating_add_signed(self.bytes),
        }
    }
}

/// The count of a keyspace with a quota.
#[derive(Debug)]
pub(crate) struct CountedKeyspace {
    living: Arc<LivingKeyspace>,
    count: UseCount,
}

#[derive(Debug)]
enum UseCount {
    Unknown,
    /// A scan runs. The commits since its begin, by seqno.
    Counting(Vec<(u64, KeyspaceGrowth)>),
    /// The use as of the last commit; the scan saw the commits up to `scanned_seqno`.
    Known {
        used: KeyspaceUse,
        scanned_seqno: u64,
    },
}

/// The right to count a keyspace: one scan at a time.
#[derive(Debug, Default)]
pub(crate) struct CountTurn;

impl HasRank for CountTurn {
    const RANK: Rank = Rank::Counting;
}

/// The keyspaces with a quota.
#[derive(Debug, Default)]
pub(crate) struct KeyspaceQuotas {
    /// The number of counts, which commits look at without the lock.
    limited: AtomicUsize,
    counts: Mutex<HashMap<KeyspaceId, CountedKeyspace>>,
    pub(crate) turn: CheckedMutex<CountTurn>,
}

/// The counts, locked.
pub(crate) type LockedCounts<'a> = MutexGuard<'a, HashMap<KeyspaceId, CountedKeyspace>>;

impl KeyspaceQuotas {
    /// Whether any keyspace in use has a quota.
    #[inline]
    pub(crate) fn are_any(&self) -> bool {
        self.limited.load(Ordering::Relaxed) != 0
    }

    /// The counts. No lock is taken while they are locked.
    pub(crate) fn counts(&self) -> LockedCounts<'_> {
        self.counts.lock()
    }

    /// The options of a keyspace have been read or changed.
    pub(crate) fn note_options(&self, living: &Arc<LivingKeyspace>) {
        if !living.options().has_quota() {
            return self.forget(living.id);
        }
        let mut counts = self.counts();
        let new = || CountedKeyspace { living: Arc::clone(living), count: UseCount::Unknown };
        counts.entry(living.id).or_insert_with(new);
        self.limited.store(counts.len(), Ordering::Relaxed);
    }

    /// A keyspace has no quota any more, or was dropped.
    pub(crate) fn forget(&self, id: KeyspaceId) {
        let mut counts = self.counts();
        counts.remove(&id);
        self.limited.store(counts.len(), Ordering::Relaxed);
    }

    /// The use of a keyspace, if it is known.
    pub(crate) fn known(&self, id: KeyspaceId) -> Option<KeyspaceUse> {
        self.counts().get(&id).and_then(CountedKeyspace::known)
    }

    /// Whether a value can be written only after a count.
    pub(crate) fn needs_count(&self, id: KeyspaceId) -> bool {
        self.counts().get(&id).is_some_and(|counted| counted.known().is_none())
    }

    /// From now on commits are noted. The caller has the turn; it waits for the commit in progress
    /// before it takes the snapshot.
    pub(crate) fn begin_count(&self, id: KeyspaceId) {
        if let Some(counted) = self.counts().get_mut(&id) {
            counted.count = UseCount::Counting(Vec::new());
        }
    }

    /// A scan of a snapshot as of `seqno` has ended; `None` if it has failed.
    pub(crate) fn end_count(&self, id: KeyspaceId, scanned: Option<(KeyspaceUse, u64)>) {
        let mut counts = self.counts();
        let Some(counted) = counts.get_mut(&id) else { return };
        let UseCount::Counting(noted) = &counted.count else { return };
        let is_later =
            |seqno: u64, scanned_seqno| seqno > scanned_seqno && !planted("quota_forgets_commits_of_a_count");
        counted.count = match scanned {
            Some((scanned, scanned_seqno)) if !noted.iter().any(|(_, growth)| growth.is_unknown) => {
                let later = noted.iter().filter(|(seqno, _)| is_later(*seqno, scanned_seqno));
                UseCount::Known { used: later.fold(scanned, |used, (_, growth)| growth.after(used)), scanned_seqno }
            }
            _ => UseCount::Unknown,
        };
    }
}

impl CountedKeyspace {
    pub(crate) fn known(&self) -> Option<KeyspaceUse> {
        match self.count {
            UseCount::Known { used, .. } => Some(used),
            UseCount::Unknown | UseCount::Counting(_) => None,
        }
    }

    /// Refuses a commit that exceeds the quota. What shrinks is never refused.
    pub(crate) fn check(&self, growth: KeyspaceGrowth) -> Result<()> {
        let Some(used) = self.known() else { return Ok(()) };
        let (options, next) = (self.living.options(), growth.after(used));
        let limits = [
            ("keys", options.max_keys, growth.keys, next.keys),
            ("bytes", options.max_bytes, growth.bytes, next.bytes),
        ];
        for (what, limit, grown, next) in limits {
            if let Some(limit) = limit
                && (grown > 0 || planted("quota_refuses_what_shrinks"))
                && next > limit
            {
                return Err(Error::KeyspaceFull { name: self.living.name(), what, limit, next });
            }
        }
        Ok(())
    }

    /// A commit was published. The caller holds the commit lock.
    pub(crate) fn note(&mut self, seqno: u64, growth: KeyspaceGrowth) {
        match &mut self.count {
            UseCount::Unknown => {}
            UseCount::Counting(noted) => noted.push((seqno, growth)),
            UseCount::Known { used, scanned_seqno } => {
                if growth.is_unknown {
                    self.count = UseCount::Unknown;
                } else if seqno > *scanned_seqno {
                    *used = growth.after(*used);
                }
            }
        }
    }
}

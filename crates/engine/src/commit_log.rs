//! The tail of the log under the commit lock: one commit at a time.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use hightower_seams::lock_order::{self, HeldRank, Rank};
use hightower_segment::Appender;

use crate::error::{Error, Result};
use crate::feed::FeedHub;
use crate::merger::is_merging;
use crate::sync::{MappedMutexGuard, Mutex, MutexGuard};
use crate::table::{Segments, Tracked};
use crate::turn::called_from_within;

/// The data of the holder of the commit lock.
#[derive(Debug)]
pub(crate) struct CommitLog {
    pub(crate) appender: Appender,
    /// The active segment's entry in the table.
    pub(crate) active: Arc<Tracked>,
    /// The seqno of the latest commit.
    pub(crate) last_seq: u64,
    /// The highest version ever seen.
    pub(crate) max_version: u64,
    /// The buffer for encoding batches; kept while it is short, so that most batches do not
    /// allocate.
    pub(crate) scratch: Vec<u8>,
    /// Approximate growth of the index beyond its cap, from the reserve.
    pub(crate) index_reserve_used_bytes: u64,
}

impl CommitLog {
    pub(crate) fn new(appender: Appender, active: Arc<Tracked>, last_seq: u64, max_version: u64) -> Self {
        Self { appender, active, last_seq, max_version, scratch: Vec::new(), index_reserve_used_bytes: 0 }
    }

    /// Adds the appender's new segment to the table, so that readers and feeds find its records.
    pub(crate) fn adopt_segment(&mut self, segments: &Segments, feeds: &FeedHub) -> Result<()> {
        self.active = segments.add(Arc::clone(self.appender.segment()))?;
        feeds.log().add(self.appender.segment());
        Ok(())
    }
}

/// The commit lock and the log that it protects.
#[derive(Debug)]
pub(crate) struct CommitLock {
    /// `None` in a read-only or closed store.
    log: Mutex<Option<CommitLog>>,
    is_read_only: bool,
}

impl CommitLock {
    /// `None` for a read-only store.
    pub(crate) fn new(log: Option<CommitLog>) -> Self {
        Self { is_read_only: log.is_none(), log: Mutex::new(log) }
    }

    /// Takes the lock.
    ///
    /// # Errors
    ///
    /// [`Error::ReadOnly`], [`Error::Closed`]; [`Error::Validation`] in a merge operator, which may
    /// hold the lock.
    #[inline]
    pub(crate) fn lock(&self) -> Result<CommitGuard<'_>> {
        if is_merging() {
            return Err(called_from_within());
        }
        let held = lock_order::take(Rank::Commit);
        let log = MutexGuard::try_map(self.log.lock(), Option::as_mut)
            .map_err(|_| if self.is_read_only { Error::ReadOnly } else { Error::Closed })?;
        Ok(CommitGuard { log, _held: held })
    }

    /// Takes the log out, so that no commit follows.
    pub(crate) fn close(&self) -> Option<CommitLog> {
        let _held = lock_order::take(Rank::Commit);
        self.log.lock().take()
    }

    /// The highest version ever seen; 0 once the log is closed.
    pub(crate) fn max_version(&self) -> u64 {
        let _held = lock_order::take(Rank::Commit);
        self.log.lock().as_ref().map_or(0, |log| log.max_version)
    }
}

/// The commit log, while its lock is held.
#[derive(Debug)]
pub(crate) struct CommitGuard<'a> {
    log: MappedMutexGuard<'a, CommitLog>,
    _held: HeldRank,
}

impl Deref for CommitGuard<'_> {
    type Target = CommitLog;

    #[inline]
    fn deref(&self) -> &CommitLog {
        &self.log
    }
}

impl DerefMut for CommitGuard<'_> {
    #[inline]
    fn deref_mut(&mut self) -> &mut CommitLog {
        &mut self.log
    }
}

//! Durability of commits: immediate, or by a background sync within an interval.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use hightower_seams::Clock;

use crate::components::{Background, Components};
use crate::config::Durability;
use crate::error::{Error, Result};
use crate::feed::FeedBell;
use crate::flusher::Flusher;
use crate::group_commit::GroupCommit;
use crate::mutants::planted;
use crate::observe::{Operation, observe};
use crate::open_store::OpenStore;
use crate::read_path::ReadPath;

/// The syncs of a store. Writers that wait share a sync; a thread syncs at intervals for the
/// others.
#[derive(Debug)]
pub(crate) struct SyncPath {
    group: GroupCommit,
    flusher: Flusher,
    background: Background,
    clock: Arc<dyn Clock>,
    read: Arc<ReadPath>,
    store: Arc<OpenStore>,
    bell: Arc<FeedBell>,
}

impl SyncPath {
    /// The syncs of a store that was just opened: all commits visible in `read` are durable.
    pub(crate) fn new(
        components: &Components,
        read: &Arc<ReadPath>,
        store: &Arc<OpenStore>,
        bell: &Arc<FeedBell>,
    ) -> Self {
        Self {
            group: GroupCommit::starting_at(read.index.visible_seq()),
            flusher: Flusher::default(),
            background: components.background,
            clock: Arc::clone(&components.clock),
            read: Arc::clone(read),
            store: Arc::clone(store),
            bell: Arc::clone(bell),
        }
    }

    /// Gives commit `seq` the requested durability: waits for a sync, or leaves it to the flusher.
    #[inline]
    pub(crate) fn make_durable(&self, seq: u64, durability: Durability) -> Result<()> {
        match durability {
            Durability::Os => Ok(()),
            Durability::Interval(_) if self.background == Background::Caller => self.sync_to(seq),
            Durability::Interval(interval) => {
                if !planted("interval_forgotten") {
                    self.flusher.request(interval);
                }
                Ok(())
            }
            Durability::Sync => self.sync_to(seq),
        }
    }

    /// Waits until commit `seq` is durable.
    pub(crate) fn sync_to(&self, seq: u64) -> Result<()> {
        let synced = self.group.wait(
            seq,
            self.store.poison(),
            || self.clock.elapsed(),
            || self.read.index.visible_seq(),
            || observe(Operation::Sync, || self.store.in_use()?.sync_point().sync().map_err(Error::from)),
        );
        fence(Ordering::SeqCst);
        self.bell.ring();
        synced
    }

    /// Waits until every published commit is durable.
    pub(crate) fn sync_all(&self) -> Result<()> {
        self.sync_to(self.read.index.visible_seq())
    }

    /// The thread that syncs at intervals; runs until [`close`](Self::close).
    pub(crate) fn run_flusher(&self) {
        self.flusher.run(|| {
            let began = self.clock.elapsed();
            // A failure is latched: the next write gets it.
            let _latched = self.sync_all();
            self.clock.elapsed().saturating_sub(began)
        });
    }

    /// Ends the thread. The caller syncs the pending commits.
    pub(crate) fn close(&self) {
        self.flusher.close();
    }

    /// Notes that closing the log has made all commits up to `seq` durable.
    pub(crate) fn note_durable(&self, seq: u64) {
        self.group.note_durable(seq);
    }

    /// All commits up to this one are durable.
    pub(crate) fn durable_seq(&self) -> u64 {
        self.group.durable_seq()
    }

    /// The number of syncs since the store was opened.
    pub(crate) fn syncs(&self) -> u64 {
        self.group.syncs()
    }
}

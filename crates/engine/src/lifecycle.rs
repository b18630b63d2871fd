//! The threads of an open store, and its close.

use std::sync::{Arc, OnceLock};

use hightower_seams::lock_order::Rank;

use crate::commit::WritePath;
use crate::commit_log::{CommitLock, CommitLog};
use crate::compaction::{Compaction, CompactionRunner};
use crate::components::Background;
use crate::config::StoreConfig;
use crate::error::{Error, Result};
use crate::feed::FeedHub;
use crate::guarded::Panics;
use crate::maintenance::Maintenance;
use crate::mutants::planted;
use crate::open_store::OpenStore;
use crate::pipeline::Pipeline;
use crate::read_path::{READERS_WAIT_MS, ReadPath};
use crate::sync::Mutex;
use crate::sync::thread::{self, JoinHandle, ThreadId};
use crate::sync_path::SyncPath;
use crate::table_flusher::TableFlusher;
use crate::tail_upkeep::TailUpkeep;
use crate::time::StoreTime;
use crate::turn::{CheckedMutex, HasRank, called_from_within};

impl HasRank for Option<Result<()>> {
    const RANK: Rank = Rank::Closing;
}

/// Starts the threads of a store, and closes its parts in order.
#[derive(Debug)]
pub(crate) struct Lifecycle {
    /// The outcome of closing. Later closers wait here for it.
    outcome: CheckedMutex<Option<Result<()>>>,
    pipeline: OnceLock<Pipeline>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// The ids of these threads and of the pipeline's thread. They stay after the threads are
    /// joined.
    own: Mutex<Vec<ThreadId>>,
    parts: LifeParts,
}

/// The parts that are closed with the store.
#[derive(Debug)]
pub(crate) struct LifeParts {
    pub(crate) panics: Arc<Panics>,
    pub(crate) time: Arc<StoreTime>,
    pub(crate) read: Arc<ReadPath>,
    pub(crate) log: Arc<CommitLock>,
    pub(crate) store: Arc<OpenStore>,
    pub(crate) sync: Arc<SyncPath>,
    pub(crate) tail: Arc<TailUpkeep>,
    pub(crate) maintenance: Arc<Maintenance>,
    pub(crate) flusher: Arc<TableFlusher>,
    pub(crate) runner: Arc<CompactionRunner>,
    pub(crate) feeds: Arc<FeedHub>,
}

impl Lifecycle {
    pub(crate) fn new(parts: LifeParts) -> Self {
        Self {
            outcome: CheckedMutex::default(),
            pipeline: OnceLock::new(),
            threads: Mutex::default(),
            own: Mutex::default(),
            parts,
        }
    }

    /// Starts the threads of a store that is open for writing.
    pub(crate) fn start(
        &self,
        config: &StoreConfig,
        background: Background,
        write: &Arc<WritePath>,
        compaction: &Arc<Compaction>,
    ) -> Result<()> {
        if background == Background::Threads {
            let LifeParts { sync, tail, feeds, .. } = &self.parts;
            self.spawn("hightower-flush", sync, SyncPath::run_flusher)?;
            self.spawn("hightower-tail", tail, TailUpkeep::run_preparing)?;
            self.spawn("hightower-pages", tail, TailUpkeep::run_touching)?;
            self.spawn("hightower-seal", tail, TailUpkeep::run_sealing)?;
            self.spawn("hightower-feed", feeds, FeedHub::run)?;
            self.spawn("hightower-compact", compaction, Compaction::run)?;
        }
        let depth = config.effective_queue_depth();
        if depth > 0 {
            let pipeline = Pipeline::start(depth, Arc::clone(write) as Arc<_>, Arc::clone(&self.parts.panics))?;
            self.own.lock().push(pipeline.thread_id());
            self.pipeline.get_or_init(|| pipeline);
        }
        Ok(())
    }

    /// Starts a thread that works with `part`. A panic of it is a bug with unknown effects, so
    /// writes are refused afterwards.
    fn spawn<P>(&self, name: &'static str, part: &Arc<P>, run: impl FnOnce(&P) + Send + 'static) -> Result<()>
    where
        P: Send + Sync + 'static,
    {
        let (part, panics, store) = (Arc::clone(part), Arc::clone(&self.parts.panics), Arc::clone(&self.parts.store));
        let guarded = move || {
            if let Err(message) = panics.catch(name, || run(&part)) {
                store.poison_by_panic(name, &message);
            }
        };
        let thread = thread::Builder::new()
            .name(name.into())
            .spawn(guarded)
            .map_err(|source| Error::Io { action: format!("cannot start the thread {name}"), source: source.into() })?;
        self.own.lock().push(thread.thread().id());
        self.threads.lock().push(thread);
        Ok(())
    }

    /// The queue in front of the commit, if the store has one.
    #[inline]
    pub(crate) fn pipeline(&self) -> Option<&Pipeline> {
        self.pipeline.get()
    }

    /// Whether this is a thread of the store, which cannot wait for the end of the store's threads.
    pub(crate) fn is_own_thread(&self) -> bool {
        self.own.lock().contains(&thread::current().id())
    }

    /// Closes the store. Later calls wait for the first, and get its outcome.
    pub(crate) fn close(&self) -> Result<()> {
        self.parts.store.check_not_forked()?;
        if self.is_own_thread() {
            return Err(called_from_within());
        }
        self.parts.maintenance.turn.refuse_holder()?;
        let mut outcome = self.outcome.lock()?;
        if let Some(outcome) = &*outcome
            && !planted("close_again_closes_again")
        {
            return outcome.clone();
        }
        let closed = self.shut_down();
        *outcome = Some(closed.clone());
        closed
    }

    fn shut_down(&self) -> Result<()> {
        let LifeParts { read, log, store, sync, tail, maintenance, flusher, runner, feeds, .. } = &self.parts;
        if let Some(pipeline) = self.pipeline() {
            pipeline.close();
        }
        store.begin_closing();
        feeds.close();
        sync.close();
        tail.close();
        maintenance.close();
        for thread in std::mem::take(&mut *self.threads.lock()) {
            // Its panic was caught, and has poisoned the store.
            let _ended = thread.join();
        }
        // Under the turn, so that other work on the files has ended.
        let mut turn = maintenance.turn.lock()?;
        let flushed = if store.is_read_only() || store.poison().check().is_err() {
            Ok(())
        } else {
            let freed = runner.free_patiently(&mut turn);
            // This also rebuilds damaged tables.
            freed.and_then(|()| flusher.try_flush(&mut turn)).map(drop)
        };
        let log = log.close();
        let version_floor = log.as_ref().map_or(0, |log| log.max_version);
        let closed = log.map_or(Ok(()), |log| self.close_log(log));
        // What snapshots still read stays mapped; the next open removes the files.
        turn.retired.clear();
        turn.waiting.clear();
        turn.frozen.clear();
        store.close();
        read.index.close(version_floor);
        // The index maps the tables. If a guard outlives this wait, a later one frees it.
        let _ended = hightower_index::synchronize(if planted("close_awaits_no_guard") { 0 } else { READERS_WAIT_MS });
        // A store whose tables are old is complete, but the caller should know why the next open is
        // slow.
        closed.and(flushed)
    }

    fn close_log(&self, log: CommitLog) -> Result<()> {
        let LifeParts { time, store, sync, read, .. } = &self.parts;
        store.poison().check()?;
        let CommitLog { appender, active, last_seq, max_version, .. } = log;
        if active.segment.is_empty() {
            // Its file becomes a reserve again, unless a reader still holds it.
            drop((read.segments.remove(&[active.segment.id()]), active));
            let _ended = hightower_index::synchronize(0);
        }
        let stamp = time.stamp(max_version);
        appender.close(stamp).map_err(|failure| {
            // For writers that wait for a sync; the caller gets the failure.
            let _latched = store.poison().latch(&failure);
            Error::from(failure)
        })?;
        // Before the segment store is dropped, so that commits waiting for a sync see that they are
        // durable.
        sync.note_durable(last_seq);
        Ok(())
    }
}

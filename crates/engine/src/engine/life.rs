//! How a store's life begins and ends: opening it, starting the threads that work beside its
//! callers, and closing it.

use std::ops::ControlFlow;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use hightower_seams::lock_order::Rank;

use crate::builder::StoreBuilder;
use crate::checkpoint::{OpenProgress, Watch};
use crate::commit::CommitLog;
use crate::components::{Background, Components};
use crate::config::StoreConfig;
use crate::core::Core;
use crate::engine::SingleNodeEngine;
use crate::error::{Error, Result};
use crate::mutants::planted;
use crate::observe::{Operation, observe};
use crate::open::open;
use crate::pace::Pace;
use crate::pipeline::Pipeline;
use crate::sync::Mutex;
use crate::sync::thread::{self, JoinHandle, ThreadId};
use crate::turn::{CheckedMutex, HasRank, called_from_within};

/// # Opening and closing
///
/// One process has a store open for writing, or any number have it open for reading.
impl SingleNodeEngine {
    /// Opens the store in `.hightower` of the current directory with the default settings, making
    /// it if there is none: the spelling of hightower-kv 0.1. New programs name a directory,
    /// with [`open`](Self::open).
    ///
    /// # Errors
    ///
    /// As [`with_config`](Self::with_config).
    pub fn new() -> Result<Self> {
        Self::with_config(StoreConfig::default())
    }

    /// Opens the store in `data_dir` with the default settings, making it if there is none. Costs a
    /// read of the index checkpoint and of what was written since it.
    ///
    /// ```
    /// use hightower_engine::SingleNodeEngine;
    ///
    /// # let dir = tempfile::tempdir().unwrap();
    /// let engine = SingleNodeEngine::open(dir.path().join("kv"))?;
    /// engine.put("key", "value")?;
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`with_config`](Self::with_config).
    pub fn open(data_dir: impl Into<std::path::PathBuf>) -> Result<Self> {
        Self::with_config(StoreConfig::at(data_dir))
    }

    /// A store in `data_dir` that is opened step by step: settings, components, progress.
    ///
    /// ```
    /// # use hightower_engine::{Durability, SingleNodeEngine};
    /// # let dir = tempfile::tempdir().unwrap();
    /// let engine = SingleNodeEngine::builder(dir.path()).durability(Durability::Sync).open()?;
    /// assert_eq!(engine.config().effective_durability(), Durability::Sync);
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    pub fn builder(data_dir: impl Into<std::path::PathBuf>) -> StoreBuilder {
        StoreBuilder::new(data_dir)
    }

    /// Opens a store, making it if there is none. What a crash left unfinished is dropped, and told
    /// in [`open_report`](Self::open_report). Costs a pass over the log.
    ///
    /// # Errors
    ///
    /// [`Error::Locked`] if it is open elsewhere, [`Error::Corrupt`] naming file and offset,
    /// [`Error::VersionUnsupported`], [`Error::Full`], [`Error::Io`], or [`Error::Validation`]
    /// for a setting out of its range.
    pub fn with_config(config: StoreConfig) -> Result<Self> {
        Self::with_components(config, Components::default())
    }

    /// Opens a store for reading only: nothing on disk is created or changed. Other readers may
    /// have it open too, a writer may not, until the engine and its snapshots are dropped.
    ///
    /// # Errors
    ///
    /// As [`with_config`](Self::with_config), and [`Error::NotFound`] if there is no store.
    pub fn open_read_only(data_dir: impl Into<std::path::PathBuf>) -> Result<Self> {
        Self::with_config(StoreConfig::at(data_dir).with_read_only(true))
    }

    /// Opens a store on a file system, clock and source of randomness of the caller's.
    ///
    /// # Errors
    ///
    /// As [`with_config`](Self::with_config).
    pub fn with_components(config: StoreConfig, components: Components) -> Result<Self> {
        Self::open_with_progress(config, components, |_| ControlFlow::Continue(()))
    }

    /// As [`with_components`](Self::with_components); `watch` is told again and again how far
    /// opening has come, and may end it.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// use std::ops::ControlFlow;
    /// use hightower_engine::{Components, SingleNodeEngine, StoreConfig};
    ///
    /// let (config, components) = (StoreConfig::at(dir.path()), Components::default());
    /// let engine = SingleNodeEngine::open_with_progress(config, components, |progress| {
    ///     println!("{:?}: {} of {}", progress.phase, progress.done, progress.total);
    ///     ControlFlow::Continue(())
    /// })?;
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`with_config`](Self::with_config), and [`Error::Aborted`] if `watch` has ended it; the
    /// store is then as it was.
    pub fn open_with_progress(
        config: StoreConfig,
        components: Components,
        mut watch: impl FnMut(OpenProgress) -> ControlFlow<()>,
    ) -> Result<Self> {
        Self::open_in(config, components, false, &mut watch)
    }

    /// Opens a store that is being made as a copy of another.
    pub(crate) fn open_copy(config: StoreConfig, components: Components) -> Result<Self> {
        Self::open_in(config, components, true, &mut |_| ControlFlow::Continue(()))
    }

    fn open_in(config: StoreConfig, components: Components, is_copy: bool, watch: Watch<'_>) -> Result<Self> {
        let durability = config.effective_durability();
        let (core, report) = observe(Operation::Open, || open(config, components, is_copy, watch))?;
        let engine = Self { core: Arc::new(core), durability, report };
        if !engine.core.config.read_only {
            start_threads(&engine.core)?;
        }
        Ok(engine)
    }

    /// Commits what was handed in, syncs, and closes the store; the next open has nothing to
    /// recover. Later calls get [`Error::Closed`], but for those that only tell numbers, such
    /// as [`len`](Self::len) and [`stats`](Self::stats): they go on telling the last ones.
    /// Snapshots, ranges and backups that were begun before stay whole, and hold the memory that
    /// they need; all else is freed.
    ///
    /// It waits: for what was handed in, for a sync, for the end of the step that a compaction is
    /// at, and while an index checkpoint is written. In asynchronous code call it where
    /// blocking is allowed: see the project's `docs/ASYNC.md`.
    ///
    /// Closing again is no error: whoever comes second waits for the first, and gets the same
    /// outcome.
    ///
    /// # Errors
    ///
    /// [`Error::Poisoned`] or [`Error::Io`] if something could not be written or synced; the store
    /// is closed all the same, and recovers at the next open. [`Error::Validation`] if it is
    /// called from code that the store is calling, such as a compaction policy; then nothing has
    /// happened.
    pub fn close(&self) -> Result<()> {
        observe(Operation::Close, || self.core.close())
    }
}

/// Drops the handle, and closes the store: see [`close`](SingleNodeEngine::close) for what that
/// waits for. What could not be written is recovered, or reported, at the next open; call `close`
/// to hear of it.
impl Drop for SingleNodeEngine {
    fn drop(&mut self) {
        if self.core.fork_guard.is_forked() {
            // The threads and the files are the parent's: nothing is joined, unlocked or removed here.
            std::mem::forget(Arc::clone(&self.core));
            return;
        }
        if self.core.life.is_own_thread() {
            // The last handle was the policy's, say. This thread cannot wait for itself, so another closes the
            // store.
            let core = Arc::clone(&self.core);
            let _started = thread::Builder::new().name("hightower-close".into()).spawn(move || drop(core.close()));
            return;
        }
        // Nobody is left to be told.
        let _closed = self.close();
    }
}

impl HasRank for Option<Result<()>> {
    const RANK: Rank = Rank::Closing;
}

/// What begins with the store's life and ends with it.
#[derive(Debug, Default)]
pub(crate) struct Life {
    /// What closing came to; whoever comes later waits here for it.
    outcome: CheckedMutex<Option<Result<()>>>,
    pipeline: OnceLock<Pipeline>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// The ids of these threads and of the pipeline's, which stay when they are joined.
    own: Mutex<Vec<ThreadId>>,
}

impl Life {
    /// The queue in front of the commit, if the store has one.
    #[inline]
    pub(crate) fn pipeline(&self) -> Option<&Pipeline> {
        self.pipeline.get()
    }

    /// Whether this is a thread of the store's, which nobody may have wait for the end of all of
    /// them.
    fn is_own_thread(&self) -> bool {
        self.own.lock().contains(&thread::current().id())
    }

    /// A thread of the store's. It has no reason to panic: if it does, by a bug, nothing is known
    /// of what it was at, and writes are refused from then on.
    fn spawn(&self, core: &Arc<Core>, name: &'static str, run: impl FnOnce() + Send + 'static) -> Result<()> {
        let core = Arc::clone(core);
        let guarded = move || {
            if core.panics.catch(name, run).is_err() {
                core.poison_by_panic(name);
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
}

fn start_threads(core: &Arc<Core>) -> Result<()> {
    if core.components.background == Background::Threads {
        start_background(core)?;
    }
    let depth = core.config.effective_queue_depth();
    if depth > 0 {
        let pipeline = Pipeline::start(depth, Arc::clone(core) as Arc<_>)?;
        core.life.own.lock().push(pipeline.thread_id());
        core.life.pipeline.get_or_init(|| pipeline);
    }
    Ok(())
}

fn start_background(this: &Arc<Core>) -> Result<()> {
    let core = Arc::clone(this);
    this.life.spawn(this, "hightower-flush", move || {
        core.flusher.run(|| {
            let began = core.components.clock.elapsed();
            // A failure is latched: the next write gets it.
            let _latched = core.sync_to(core.index.visible_seq());
            core.components.clock.elapsed().saturating_sub(began)
        });
    })?;
    let core = Arc::clone(this);
    this.life.spawn(this, "hightower-tail", move || {
        core.maintenance.run(|| core.prepare_files(), || core.rest());
    })?;
    let core = Arc::clone(this);
    this.life.spawn(this, "hightower-pages", move || {
        let mut pace = Pace::default();
        core.touching.run(|| core.touch_ahead(&mut pace), || {});
    })?;
    let core = Arc::clone(this);
    this.life.spawn(this, "hightower-seal", move || core.sealing.run(|| core.seal(), || {}))?;
    if !this.config.compaction_interval.is_zero() {
        let core = Arc::clone(this);
        this.life.spawn(this, "hightower-compact", move || core.keep_up())?;
    }
    Ok(())
}

impl Core {
    fn close(&self) -> Result<()> {
        self.check_not_forked()?;
        if self.life.is_own_thread() {
            return Err(called_from_within());
        }
        self.upkeep.turn.refuse_holder()?;
        let mut outcome = self.life.outcome.lock()?;
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
        if let Some(pipeline) = self.life.pipeline() {
            pipeline.close();
        }
        self.closed.store(true, Ordering::Release);
        self.flusher.close();
        self.maintenance.close();
        self.touching.close();
        self.sealing.close();
        self.upkeep.close();
        for thread in std::mem::take(&mut *self.life.threads.lock()) {
            // A panic of it was caught, and has poisoned the store.
            let _ended = thread.join();
        }
        // Under the turn, so that whatever else works on the files has ended.
        let mut turn = self.upkeep.turn.lock()?;
        let checkpointed = if self.config.read_only || self.poison.check().is_err() {
            Ok(())
        } else {
            let freed = self.free_patiently(&mut turn);
            freed.and_then(|()| self.try_checkpoint(&mut turn)).map(drop)
        };
        let log = self.commit.lock().take();
        let version_floor = log.as_ref().map_or(0, |log| log.max_version);
        let closed = log.map_or(Ok(()), |log| self.close_log(log));
        turn.retired.clear();
        self.store.close();
        self.index.close(version_floor);
        // A store without a checkpoint is whole, but the caller should know why the next open is slow.
        closed.and(checkpointed)
    }

    fn close_log(&self, log: CommitLog) -> Result<()> {
        self.poison.check()?;
        let stamp = self.stamp_of(log.max_version);
        log.appender.close(stamp).map_err(|failure| {
            // For those who wait for a sync; the caller hears what has failed.
            let _latched = self.poison.latch(&failure);
            Error::from(failure)
        })?;
        // Before the store is let go of: whoever waits for one of them then learns that it is durable.
        self.group.note_durable(log.last_seq);
        Ok(())
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use hightower_seams::Clock;
    use hightower_state::ConcurrentKvState;

    use crate::components::Components;
    use crate::config::StoreConfig;
    use crate::core::Core;
    use crate::snapshot::Snapshot;
    use crate::table::Segments;
    use crate::time::StoreTime;

    /// Sees when the index is freed, which owns it.
    #[derive(Debug)]
    struct Witness(Arc<AtomicBool>);

    impl Clock for Witness {
        fn now_ms(&self) -> i64 {
            0
        }

        fn elapsed(&self) -> Duration {
            Duration::ZERO
        }
    }

    impl Drop for Witness {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    /// Other tests may keep an epoch from ending for a while.
    fn is_freed(flag: &AtomicBool) -> bool {
        (0..1000).any(|_| {
            hightower_index::pin().flush();
            std::thread::sleep(Duration::from_millis(1));
            flag.load(Ordering::SeqCst)
        })
    }

    #[test]
    fn a_closed_store_frees_its_index_with_the_last_snapshot() {
        for has_snapshot in [false, true] {
            let flag = Arc::new(AtomicBool::new(false));
            let state = ConcurrentKvState::with_clock(Arc::new(Witness(Arc::clone(&flag))));
            let config = StoreConfig::default().with_read_only(true);
            let (components, segments) = (Components::default(), Segments::default());
            let time = StoreTime::resume(Arc::clone(&components.clock), &segments);
            let core = Arc::new(Core::new(config, components, time, state, segments, None).unwrap());
            let snapshot = has_snapshot.then(|| Snapshot::new(&core).unwrap());
            core.close().unwrap();
            if let Some(snapshot) = snapshot {
                hightower_index::pin().flush();
                assert!(!flag.load(Ordering::SeqCst) && !snapshot.contains_key("a"), "the snapshot reads it");
            }
            assert!(is_freed(&flag), "the engine is still there, and its index should not be");
            assert!(Snapshot::new(&core).is_err());
        }
    }
}

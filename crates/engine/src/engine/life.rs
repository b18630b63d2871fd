//! How a store's life begins and ends: opening it, starting the threads that work beside its callers, and closing it.

use std::ops::ControlFlow;
use std::sync::Arc;

use hightower_segment::Stamp;

use crate::checkpoint::OpenProgress;
use crate::components::{Background, Components};
use crate::config::StoreConfig;
use crate::engine::SingleNodeEngine;
use crate::error::{Error, Result};
use crate::observe::{Operation, observe};
use crate::open::open;
use crate::pace::Pace;
use crate::pipeline::Pipeline;
use crate::sync::Mutex;
use crate::sync::thread;

impl SingleNodeEngine {
    /// Opens the store in `.hightower` of the current directory with the default settings, making it if there is none.
    ///
    /// # Errors
    ///
    /// As [`with_config`](Self::with_config).
    pub fn new() -> Result<Self> {
        Self::with_config(StoreConfig::default())
    }

    /// Opens a store, making it if there is none. What a crash left unfinished is dropped, and told in
    /// [`open_report`](Self::open_report). Costs a pass over the log.
    ///
    /// # Errors
    ///
    /// [`Error::Locked`] if it is open elsewhere, [`Error::Corrupt`] naming file and offset, [`Error::VersionUnsupported`],
    /// [`Error::Full`], [`Error::Io`], or [`Error::Validation`] for a setting out of its range.
    pub fn with_config(config: StoreConfig) -> Result<Self> {
        Self::with_components(config, Components::default())
    }

    /// Opens a store for reading only: nothing on disk is created or changed. Other readers may have it open
    /// too, a writer may not, until the engine and its snapshots are dropped.
    ///
    /// # Errors
    ///
    /// As [`with_config`](Self::with_config), and [`Error::NotFound`] if there is no store.
    pub fn open_read_only(data_dir: impl Into<std::path::PathBuf>) -> Result<Self> {
        Self::with_config(StoreConfig { read_only: true, ..StoreConfig::at(data_dir) })
    }

    /// Opens a store on a file system, clock and source of randomness of the caller's.
    ///
    /// # Errors
    ///
    /// As [`with_config`](Self::with_config).
    pub fn with_components(config: StoreConfig, components: Components) -> Result<Self> {
        Self::open_with_progress(config, components, |_| ControlFlow::Continue(()))
    }

    /// As [`with_components`](Self::with_components); `watch` is told again and again how far opening has come, and may end it.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// use std::ops::ControlFlow;
    /// use hightower_engine::{Components, SingleNodeEngine, StoreConfig};
    ///
    /// let engine = SingleNodeEngine::open_with_progress(StoreConfig::at(dir.path()), Components::default(), |progress| {
    ///     println!("{:?}: {} of {}", progress.phase, progress.done, progress.total);
    ///     ControlFlow::Continue(())
    /// })?;
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`with_config`](Self::with_config), and [`Error::Aborted`] if `watch` has ended it; the store is then as it was.
    pub fn open_with_progress(
        config: StoreConfig,
        components: Components,
        mut watch: impl FnMut(OpenProgress) -> ControlFlow<()>,
    ) -> Result<Self> {
        let durability = config.effective_durability();
        let (core, report) = observe(Operation::Open, || open(config, components, &mut watch))?;
        let core = Arc::new(core);
        let mut engine = Self { core, durability, pipeline: None, threads: Mutex::default(), report };
        if !engine.core.config.read_only {
            engine.start_threads()?;
        }
        Ok(engine)
    }

    fn start_threads(&mut self) -> Result<()> {
        if self.core.components.background == Background::Threads {
            self.start_background()?;
        }
        let workers = self.core.config.worker_threads;
        if workers > 0 {
            self.pipeline = Some(Pipeline::start(1024 * workers, Arc::clone(&self.core) as Arc<_>)?);
        }
        Ok(())
    }

    fn start_background(&self) -> Result<()> {
        let core = Arc::clone(&self.core);
        self.spawn("hightower-flush", move || {
            core.flusher.run(|| {
                let began = core.components.clock.elapsed();
                // A failure is latched: the next write gets it.
                let _latched = core.sync_to(core.state.visible_seq());
                core.components.clock.elapsed().saturating_sub(began)
            });
        })?;
        let core = Arc::clone(&self.core);
        self.spawn("hightower-tail", move || {
            core.maintenance.run(|| core.prepare_files(), || core.rest());
        })?;
        let core = Arc::clone(&self.core);
        self.spawn("hightower-pages", move || {
            let mut pace = Pace::default();
            core.touching.run(|| core.touch_ahead(&mut pace), || {});
        })?;
        let core = Arc::clone(&self.core);
        self.spawn("hightower-seal", move || core.sealing.run(|| core.seal(), || {}))?;
        if !self.core.config.compaction_interval.is_zero() {
            let core = Arc::clone(&self.core);
            self.spawn("hightower-compact", move || core.keep_up())?;
        }
        Ok(())
    }

    fn spawn(&self, name: &str, run: impl FnOnce() + Send + 'static) -> Result<()> {
        let thread = thread::Builder::new()
            .name(name.into())
            .spawn(run)
            .map_err(|source| Error::Io { action: format!("cannot start the thread {name}"), source })?;
        self.threads.lock().push(thread);
        Ok(())
    }

    /// Commits what was handed in, syncs, and closes the store; the next open has nothing to recover. Later calls get
    /// [`Error::Closed`]; snapshots stay readable. Closing twice is no error.
    ///
    /// # Errors
    ///
    /// [`Error::Poisoned`] or [`Error::Io`] if something could not be written or synced; the store is closed all the same, and recovers at the next open.
    pub fn close(&self) -> Result<()> {
        observe(Operation::Close, || self.close_unobserved())
    }

    fn close_unobserved(&self) -> Result<()> {
        if let Some(pipeline) = &self.pipeline {
            pipeline.close();
        }
        let was_closed = self.core.closed.swap(true, std::sync::atomic::Ordering::AcqRel);
        self.core.flusher.close();
        self.core.maintenance.close();
        self.core.touching.close();
        self.core.sealing.close();
        self.core.upkeep.close();
        for thread in std::mem::take(&mut *self.threads.lock()) {
            // The threads do not panic; if one had, there would be nothing left to stop.
            let _ended = thread.join();
        }
        // Under the turn, so that whatever else works on the files has ended.
        let mut turn = self.core.upkeep.turn.lock();
        let checkpointed = if was_closed || self.core.config.read_only || self.core.poison.check().is_err() {
            Ok(())
        } else {
            let freed = self.core.free_patiently(&mut turn);
            freed.and_then(|()| self.core.try_checkpoint(&mut turn)).map(drop)
        };
        let log = self.core.commit.lock().take();
        let closed = match log {
            Some(log) if !was_closed => self.core.poison.check().and_then(|()| {
                let stamp = Stamp { max_version: log.max_version, timestamp: self.core.components.clock.now_ms() };
                log.appender.close(stamp).map_err(|failure| self.core.poison.latch(&failure))?;
                // Before the store is let go of: whoever waits for one of them then learns that it is durable.
                self.core.group.note_durable(log.last_seq);
                Ok(())
            }),
            _ => Ok(()),
        };
        turn.retired.clear();
        self.core.release_store();
        // A store without a checkpoint is whole, but the caller should know why the next open is slow.
        closed.and(checkpointed)
    }
}

impl Drop for SingleNodeEngine {
    fn drop(&mut self) {
        // Nobody is left to be told; what could not be written now is recovered, or reported, at the next open.
        let _closed = self.close();
    }
}

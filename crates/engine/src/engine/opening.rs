//! Opening and closing a store.

use std::ops::ControlFlow;
use std::sync::Arc;

use crate::builder::StoreBuilder;
use crate::components::Components;
use crate::config::StoreConfig;
use crate::engine::SingleNodeEngine;
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::load::{OpenProgress, Watch};
use crate::observe::{Operation, observe};
use crate::open::open;
use crate::sync::thread;

/// # Opening and closing
///
/// Either one process has a store open for writing, or any number have it open for reading.
impl SingleNodeEngine {
    /// Opens the store in `.hightower` of the current directory with the default settings, and
    /// creates it if none exists: the spelling of hightower-kv 0.1. New programs use
    /// [`open`](Self::open) with a directory.
    ///
    /// # Errors
    ///
    /// As [`with_config`](Self::with_config).
    pub fn new() -> Result<Self> {
        Self::with_config(StoreConfig::default())
    }

    /// Opens the store in `data_dir` with the default settings, and creates it if none exists. It
    /// costs a read of the log behind what its tables cover; their keys are not read.
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

    /// A builder for opening the store in `data_dir`, with settings, components and progress.
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

    /// Opens a store, and creates it if none exists. Unfinished writes of a crash are dropped and
    /// reported in [`open_report`](Self::open_report). It costs a read of the log
    /// behind what its tables cover; their keys are not read.
    ///
    /// # Errors
    ///
    /// [`Error::Locked`] if it is open elsewhere, [`Error::Corrupt`] with file and offset,
    /// [`Error::VersionUnsupported`], [`Error::Full`], [`Error::Io`], or [`Error::Validation`] for
    /// a setting out of its range.
    pub fn with_config(config: StoreConfig) -> Result<Self> {
        Self::with_components(config, Components::default())
    }

    /// Opens a store for reading only: nothing on disk is created or changed. Until the engine and
    /// its snapshots are dropped, other readers may have it open too, a writer may not.
    ///
    /// # Errors
    ///
    /// As [`with_config`](Self::with_config), and [`Error::NotFound`] if no store exists.
    pub fn open_read_only(data_dir: impl Into<std::path::PathBuf>) -> Result<Self> {
        Self::with_config(StoreConfig::at(data_dir).with_read_only(true))
    }

    /// Opens a store with the caller's file system, clock and source of randomness.
    ///
    /// # Errors
    ///
    /// As [`with_config`](Self::with_config).
    pub fn with_components(config: StoreConfig, components: Components) -> Result<Self> {
        Self::open_with_progress(config, components, |_| ControlFlow::Continue(()))
    }

    /// As [`with_components`](Self::with_components); `watch` is called repeatedly with the
    /// progress, and may abort the open.
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
    /// As [`with_config`](Self::with_config), and [`Error::Aborted`] if `watch` aborted it; the
    /// store is then unchanged.
    pub fn open_with_progress(
        config: StoreConfig,
        components: Components,
        mut watch: impl FnMut(OpenProgress) -> ControlFlow<()>,
    ) -> Result<Self> {
        Self::open_in(config, components, false, &mut watch)
    }

    /// Opens a store under construction as a copy of another.
    pub(crate) fn open_copy(config: StoreConfig, components: Components) -> Result<Self> {
        Self::open_in(config, components, true, &mut |_| ControlFlow::Continue(()))
    }

    fn open_in(config: StoreConfig, components: Components, is_copy: bool, watch: Watch<'_>) -> Result<Self> {
        let opened = observe(Operation::Open, || open(config, components, is_copy, watch))?;
        let engine = Self::compose(opened);
        if !engine.config.read_only {
            engine.life.start(&engine.config, engine.components.background, &engine.write, &engine.compaction)?;
        }
        Ok(engine)
    }

    /// Commits queued writes, syncs, and closes the store; the next open has nothing to recover.
    /// Later calls return [`Error::Closed`], except for counters such as [`len`](Self::len) and
    /// [`stats`](Self::stats), which return the last numbers. Snapshots, ranges and backups that
    /// began before stay complete, and keep the memory that they need; everything else is freed.
    ///
    /// It waits for queued writes, a sync, the current step of a compaction, and the writing of a
    /// table. In asynchronous code call it where blocking is allowed: see the project's
    /// `docs/ASYNC.md`.
    ///
    /// Closing again is not an error: a later call waits for the first, and returns the same
    /// outcome.
    ///
    /// # Errors
    ///
    /// [`Error::Poisoned`] or [`Error::Io`] if a write or sync failed; the store is closed anyway,
    /// and recovers at the next open. [`Error::Validation`] if it is called from code that the
    /// store is calling, such as a compaction policy; then it has no effect.
    pub fn close(&self) -> Result<()> {
        observe(Operation::Close, || self.life.close())
    }
}

/// Drops the handle, and closes the store, with the waits of [`close`](SingleNodeEngine::close).
/// The next open recovers or reports failed writes; call `close` to get the error.
impl Drop for SingleNodeEngine {
    fn drop(&mut self) {
        if self.store.is_forked() {
            // The threads and the files belong to the parent: nothing is joined, unlocked or
            // removed here. The lifecycle has every part that would.
            std::mem::forget(Arc::clone(&self.life));
            return;
        }
        if self.life.is_own_thread() {
            // The last handle may have been the policy's. This thread cannot wait for itself, so
            // another closes the store.
            let life = Arc::clone(&self.life);
            let _started = thread::Builder::new().name("hightower-close".into()).spawn(move || drop(life.close()));
            return;
        }
        // No caller is left for the error.
        let _closed = self.close();
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use hightower_seams::Clock;
    use hightower_segment::{ForkGuard, RecoveryReport};
    use hightower_state::{LeveledKvState, SeededHasher};

    use crate::components::Components;
    use crate::config::StoreConfig;
    use crate::engine::SingleNodeEngine;
    use crate::load::TablesUse;
    use crate::open::{OpenReport, Opened};
    use crate::table::Segments;
    use crate::tables::CurrentTables;
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
            let state = LeveledKvState::with_hasher(SeededHasher::random(), Arc::new(Witness(Arc::clone(&flag))));
            let config = StoreConfig::default().with_read_only(true);
            let (components, segments) = (Components::default(), Segments::default());
            let time = StoreTime::resume(Arc::clone(&components.clock), &segments);
            let engine = SingleNodeEngine::compose(Opened {
                fork_guard: ForkGuard::new().unwrap(),
                panics: Arc::default(),
                config,
                components,
                time,
                state,
                segments,
                history: Default::default(),
                retained: Vec::new(),
                log: None,
                lock: None,
                tables: CurrentTables::default(),
                report: OpenReport {
                    recovery: RecoveryReport::default(),
                    tables: TablesUse::None,
                    replayed_records: 0,
                    elapsed: Duration::ZERO,
                },
            });
            let snapshot = has_snapshot.then(|| engine.snapshot().unwrap());
            engine.close().unwrap();
            if let Some(snapshot) = snapshot {
                hightower_index::pin().flush();
                assert!(!flag.load(Ordering::SeqCst) && !snapshot.contains_key("a").unwrap(), "the snapshot reads it");
            }
            assert!(is_freed(&flag), "the engine is still there, and its index should not be");
            assert!(engine.snapshot().is_err());
        }
    }
}

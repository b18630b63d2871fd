//! A builder for opening a store.

use std::convert::identity;
use std::fmt;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Duration;

use hightower_compactor::CompactionConfig;

use crate::components::Components;
use crate::config::{AppendMode, Durability, RecoveryMode, StoreConfig, settings};
use crate::engine::SingleNodeEngine;
use crate::error::Result;
use crate::load::OpenProgress;

type Watcher = Box<dyn FnMut(OpenProgress) -> ControlFlow<()> + Send>;

/// The options of an open, from [`SingleNodeEngine::builder`].
///
/// ```
/// use hightower_engine::{Durability, SingleNodeEngine};
///
/// # let dir = tempfile::tempdir().unwrap();
/// let engine = SingleNodeEngine::builder(dir.path().join("kv"))
///     .durability(Durability::Sync)
///     .max_disk_bytes(10 << 30)
///     .open()?;
/// # Ok::<(), hightower_engine::Error>(())
/// ```
#[must_use = "a builder opens nothing before `open` is called"]
pub struct StoreBuilder {
    config: StoreConfig,
    components: Components,
    watch: Option<Watcher>,
}

impl StoreBuilder {
    pub(crate) fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self { config: StoreConfig::at(data_dir), components: Components::default(), watch: None }
    }

    /// Sets the file system, the clock, the source of randomness and the compaction policy.
    pub fn components(mut self, components: Components) -> Self {
        self.components = components;
        self
    }

    /// Calls `watch` repeatedly with the progress of the open; `Break` aborts it.
    ///
    /// ```
    /// use std::ops::ControlFlow;
    /// use hightower_engine::SingleNodeEngine;
    ///
    /// # let dir = tempfile::tempdir().unwrap();
    /// let engine = SingleNodeEngine::builder(dir.path())
    ///     .on_progress(|progress| {
    ///         println!("{:?}: {} of {}", progress.phase, progress.done, progress.total);
    ///         ControlFlow::Continue(())
    ///     })
    ///     .open()?;
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    pub fn on_progress(mut self, watch: impl FnMut(OpenProgress) -> ControlFlow<()> + Send + 'static) -> Self {
        self.watch = Some(Box::new(watch));
        self
    }

    /// The current settings.
    #[must_use]
    pub fn config(&self) -> &StoreConfig {
        &self.config
    }

    /// Opens the store. Creates it if none exists, unless [`read_only`](Self::read_only) is set.
    ///
    /// # Errors
    ///
    /// As [`SingleNodeEngine::with_config`]; [`Error::Aborted`](crate::Error::Aborted) if the
    /// watcher aborted it; [`Error::NotFound`](crate::Error::NotFound) if no store exists for a
    /// read-only open.
    pub fn open(self) -> Result<SingleNodeEngine> {
        let Self { config, components, mut watch } = self;
        SingleNodeEngine::open_with_progress(config, components, |progress| {
            watch.as_mut().map_or(ControlFlow::Continue(()), |watch| watch(progress))
        })
    }
}

macro_rules! builder_methods {
    ($($setting:ident, $with:ident, $value:ty, $into:expr;)*) => {
        /// # Settings
        ///
        /// Each sets the field of [`StoreConfig`] with the same name, whose documentation has its
        /// effect, unit, range and default. [`open`](Self::open) checks them.
        impl StoreBuilder {
            $(
                #[doc = concat!("Sets [`", stringify!($setting), "`](StoreConfig::", stringify!($setting), ").")]
                pub fn $setting(mut self, value: $value) -> Self {
                    self.config.$setting = $into(value);
                    self
                }
            )*
        }
    };
}

settings!(builder_methods);

/// A builder may be sent to the thread that opens the store.
const _: () = {
    const fn is_sent<T: Send>() {}
    is_sent::<StoreBuilder>();
};

impl fmt::Debug for StoreBuilder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("StoreBuilder").field("config", &self.config).finish_non_exhaustive()
    }
}

//! The components of a store besides its settings: a file system, a clock, a source of randomness.
//! Tests can replace them.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use hightower_compactor::{CompactionPolicy, CostBenefit};
use hightower_seams::{Clock, Entropy, OsEntropy, SystemClock};
use hightower_segment::{Fs, RealFs};
use hightower_state::{LeveledKvState, Location, SeededHasher};

use crate::error::{Error, Result};
use crate::merge::MergeOperator;

/// The executor of background work: interval syncs, sealing, preparing the next segment,
/// compaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Background {
    /// Threads of the store, so that callers do not wait.
    #[default]
    Threads,
    /// The caller of a write, before it returns: an interval is an immediate sync, and compaction
    /// is explicit only. It is slower, but the file system operations of one caller have a
    /// deterministic order, which reproducible tests need.
    Caller,
}

/// The components of a store. [`Default`] has the real ones.
///
/// The store calls them under its locks and on its threads. So they must not call the store; only a
/// policy may, and gets an error for a call that would wait for itself. If one of them panics, only
/// the current call fails: the panic of a file system is an I/O error, a clock returns its previous
/// time, a policy's run is aborted, a merge is refused. [`Stats::caught_panics`](crate::Stats::caught_panics) counts
/// them. (A program that is built to abort on panics aborts.)
///
/// ```
/// use hightower_engine::{Components, SingleNodeEngine, StoreConfig};
///
/// # let dir = tempfile::tempdir().unwrap();
/// let components = Components::default();
/// let engine = SingleNodeEngine::with_components(StoreConfig::at(dir.path()), components)?;
/// # Ok::<(), hightower_engine::Error>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Components {
    /// The file system.
    pub fs: Arc<dyn Fs>,
    /// The clock: timestamps of commands, ages in `stats`, the grace of tombstones and the rate of
    /// compaction.
    ///
    /// It may step back, or return any value: the store's time never goes back. Until the clock has
    /// caught up, the store's time passes at half the pace of [`elapsed`](Clock::elapsed). A time
    /// before 1970 or after the year 9999 is ignored, and an elapsed time of more than 1,000 years
    /// counts as 1,000 years. A clock that steps forward ends graces early.
    pub clock: Arc<dyn Clock>,
    /// The source of salts and identities.
    pub entropy: Arc<dyn Entropy>,
    /// The policy that chooses segments for compaction.
    pub policy: Arc<dyn CompactionPolicy>,
    /// The operators of [`SingleNodeEngine::merge`](crate::SingleNodeEngine::merge), by name.
    pub merge_operators: BTreeMap<String, Arc<dyn MergeOperator>>,
    /// The executor of background work.
    pub background: Background,
}

/// Setters, each of which returns a copy with one changed component.
macro_rules! parts {
    ($($part:ident, $with:ident, $value:ty;)*) => {
        impl Components {
            $(
                #[doc = concat!("The same with [`", stringify!($part), "`](Self::", stringify!($part), ").")]
                #[must_use]
                pub fn $with(mut self, value: $value) -> Self {
                    self.$part = value;
                    self
                }
            )*
        }
    };
}

parts! {
    fs, with_fs, Arc<dyn Fs>;
    clock, with_clock, Arc<dyn Clock>;
    entropy, with_entropy, Arc<dyn Entropy>;
    policy, with_policy, Arc<dyn CompactionPolicy>;
    background, with_background, Background;
}

impl Components {
    /// The same with a merge operator of this name, in place of another one of the same name.
    /// Example: [`MergeOperator`].
    #[must_use]
    pub fn with_merge_operator(mut self, name: impl Into<String>, operator: Arc<dyn MergeOperator>) -> Self {
        self.merge_operators.insert(name.into(), operator);
        self
    }

    /// An empty state. The seed of its index's hasher is drawn for each open, so that nobody can
    /// choose colliding keys.
    pub(crate) fn empty_state<L: Location>(&self) -> Result<LeveledKvState<L>> {
        let seed = self
            .entropy
            .next_u64()
            .map_err(|source| Error::Io { action: "cannot draw a random number".into(), source: source.into() })?;
        Ok(LeveledKvState::with_hasher(SeededHasher::new(seed), Arc::clone(&self.clock)))
    }
}

impl Default for Components {
    fn default() -> Self {
        Self {
            fs: Arc::new(RealFs),
            clock: Arc::new(SystemClock::default()),
            entropy: Arc::new(OsEntropy),
            policy: Arc::new(CostBenefit),
            merge_operators: BTreeMap::new(),
            background: Background::default(),
        }
    }
}

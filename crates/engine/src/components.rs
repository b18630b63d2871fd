//! What a store is built from besides its settings: a file system, a clock, a source of randomness.
//! Tests bring their own.

use std::fmt::Debug;
use std::sync::Arc;

use hightower_compactor::{CompactionPolicy, CostBenefit};
use hightower_seams::{Clock, Entropy, OsEntropy, SystemClock};
use hightower_segment::{Fs, RealFs};
use hightower_state::{ConcurrentKvState, Location, SeededHasher};

use crate::error::{Error, Result};

/// Who does what commits leave behind: syncing at intervals, sealing, making the next segment
/// ready, compacting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Background {
    /// Threads of the store, so that callers need not wait for it.
    #[default]
    Threads,
    /// The caller of a write, before it returns: an interval is a sync at once, and nothing
    /// compacts by itself. Slower, but the operations of one caller reach the file system in
    /// the same order each time, which tests that must repeat need.
    Caller,
}

/// The parts that a store is built from. [`Default`] takes the real ones.
///
/// They are called in the middle of the store's work, under its locks and on its own threads. So
/// they must not call the store; only a policy may, which gets an error where a call would wait for
/// itself. If one of them panics, that call of it has failed and nothing else: a file system that
/// panics has failed with an I/O error, a clock stands still, a policy's run is given up.
/// [`Stats::caught_panics`](crate::Stats::caught_panics) counts them. (A program that is built to
/// abort on panics aborts.)
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
    /// Where files live.
    pub fs: Arc<dyn Fs>,
    /// The clock: timestamps of commands, ages in `stats`, the grace of tombstones and the rate of
    /// compaction.
    ///
    /// It may step back, or return any value: within a store time never goes back. Until this clock
    /// has caught up, time passes at half the pace of [`elapsed`](Clock::elapsed). A time before
    /// 1970 or after the year 9999 is ignored, and an elapsed time of more than 1,000 years counts
    /// as 1,000 years. A clock that steps forward ends graces early.
    pub clock: Arc<dyn Clock>,
    /// Where salts and identities come from.
    pub entropy: Arc<dyn Entropy>,
    /// What decides which segments compaction rewrites.
    pub policy: Arc<dyn CompactionPolicy>,
    /// Who works in the background.
    pub background: Background,
}

/// The parts one by one, each as a copy of the others with a new one.
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
    /// A state without keys. The seed of its index's hasher is drawn anew for each opening, so that
    /// nobody can choose keys that collide.
    pub(crate) fn empty_state<L: Location>(&self) -> Result<ConcurrentKvState<L>> {
        let seed = self
            .entropy
            .next_u64()
            .map_err(|source| Error::Io { action: "cannot draw a random number".into(), source: source.into() })?;
        Ok(ConcurrentKvState::with_hasher(SeededHasher::new(seed), Arc::clone(&self.clock)))
    }
}

impl Default for Components {
    fn default() -> Self {
        Self {
            fs: Arc::new(RealFs),
            clock: Arc::new(SystemClock::default()),
            entropy: Arc::new(OsEntropy),
            policy: Arc::new(CostBenefit),
            background: Background::default(),
        }
    }
}

//! What a store is built from besides its settings: a file system, a clock, a source of randomness.
//! Tests bring their own.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hightower_compactor::{CompactionPolicy, CostBenefit};
use hightower_segment::{Entropy, Fs, OsEntropy, RealFs};
use hightower_state::SeededHasher;

use crate::error::{Error, Result};

/// Tells the time. Timestamps of commands and the ages in `stats` come from here, and the grace of
/// tombstones is measured by it.
///
/// It may step back, or say anything: within a store time never goes back. Until this clock has
/// caught up, time passes at a half of the pace of [`elapsed`](Self::elapsed). A time before 1970
/// or after the year 9999 is not believed. A clock that steps forward ends graces early.
pub trait Clock: Debug + Send + Sync {
    /// Unix time in milliseconds.
    fn now_ms(&self) -> i64;

    /// Time since some fixed moment, never going back. If it does, it stands still for the store;
    /// more than 1,000 years are not believed.
    fn elapsed(&self) -> Duration;
}

/// The clock of the operating system.
#[derive(Debug)]
pub struct SystemClock {
    started: Instant,
}

impl Default for SystemClock {
    fn default() -> Self {
        Self { started: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn now_ms(&self) -> i64 {
        now_ms()
    }

    fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}

/// The time of the kernel's last tick, a few milliseconds ago at most: every write asks, and this
/// takes a quarter of what the exact time takes.
#[cfg(target_os = "linux")]
fn now_ms() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
    now.tv_sec.saturating_mul(1000).saturating_add(now.tv_nsec / 1_000_000)
}

#[cfg(not(target_os = "linux"))]
fn now_ms() -> i64 {
    use std::time::{SystemTime, UNIX_EPOCH};
    // A clock set before 1970 counts backwards from there; one set beyond the year 292 million stands
    // still.
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_millis()).map_or(i64::MIN, |ms| -ms),
    }
}

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
    /// What time it is.
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
    /// The hasher of an index: its seed is drawn anew for each opening, so that nobody can choose
    /// keys that collide.
    pub(crate) fn hasher(&self) -> Result<SeededHasher> {
        let seed = self.entropy.next_u64();
        seed.map(SeededHasher::new)
            .map_err(|source| Error::Io { action: "cannot draw a random number".into(), source: source.into() })
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

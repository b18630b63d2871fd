//! Settings of compaction.

use std::num::NonZeroU64;
use std::time::Duration;

use thiserror::Error;

/// Settings of compaction: the tolerated garbage, the rate, and the lifetime of tombstones.
///
/// ```
/// use std::time::Duration;
/// use hightower_compactor::CompactionConfig;
///
/// let config = CompactionConfig::default().with_tombstone_grace(Duration::from_secs(86_400));
/// assert!(config.validate().is_ok());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CompactionConfig {
    /// Compaction begins when it can free more than this share of the log, in percent: 1 to 90.
    /// Default: 20.
    pub start_percent: u8,
    /// Background compaction continues until at most this share can be freed: 0 to `start_percent`.
    /// Default: 12.
    pub stop_percent: u8,
    /// Background compaction ignores segments of which it can free less than this share, in
    /// percent: 1 to 90. Default: 10.
    pub min_victim_percent: u8,
    /// Approximate maximum of live bytes in the segments of one run, which bounds the additional
    /// disk space of the run: 1 MiB to 1 TiB. A run takes at least one segment. Default: 128 MiB.
    pub max_run_bytes: u64,
    /// Maximum rate of background runs, reads and writes together, in bytes per second; `None` for
    /// no limit. The limit is lifted while more than half of the log can be freed, or space is
    /// short. Explicit runs have no limit. Default: 128 MiB.
    pub rate_limit_bytes_per_s: Option<NonZeroU64>,
    /// Minimum lifetime of a tombstone after the delete, so that an older command that arrives late
    /// has no effect: 0 to 100 years. It counts from the delete's timestamp if that is plausible,
    /// otherwise from a time at which the store certainly had the tombstone, so that a caller's
    /// timestamp cannot change it at will. Default: one hour.
    pub tombstone_grace: Duration,
    /// Whether an explicit compaction also rewrites segments in commit order that have nothing to
    /// free, once and in key order, so that scans read records sequentially. It costs one
    /// additional write of such segments. Background compaction never does this. Default: true.
    pub order_when_explicit: bool,
}

/// Setters, each of which returns a copy with one changed setting.
macro_rules! settings {
    ($($setting:ident, $with:ident, $value:ty;)*) => {
        impl CompactionConfig {
            $(
                #[doc = concat!("The same with [`", stringify!($setting), "`](Self::", stringify!($setting), ").")]
                #[must_use]
                pub fn $with(mut self, value: $value) -> Self {
                    self.$setting = value;
                    self
                }
            )*
        }
    };
}

settings! {
    start_percent, with_start_percent, u8;
    stop_percent, with_stop_percent, u8;
    min_victim_percent, with_min_victim_percent, u8;
    max_run_bytes, with_max_run_bytes, u64;
    rate_limit_bytes_per_s, with_rate_limit_bytes_per_s, Option<NonZeroU64>;
    tombstone_grace, with_tombstone_grace, Duration;
    order_when_explicit, with_order_when_explicit, bool;
}

impl Default for CompactionConfig {
    fn default() -> Self {
        Self {
            start_percent: 20,
            stop_percent: 12,
            min_victim_percent: 10,
            max_run_bytes: 128 << 20,
            rate_limit_bytes_per_s: NonZeroU64::new(128 << 20),
            tombstone_grace: Duration::from_secs(3600),
            order_when_explicit: true,
        }
    }
}

/// A setting is out of its range.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("compaction.{setting} is {found}: it must be {range}")]
pub struct ConfigError {
    /// The name of the setting.
    pub setting: &'static str,
    /// The invalid value.
    pub found: u64,
    /// The allowed values.
    pub range: &'static str,
}

impl CompactionConfig {
    /// Checks the range of every setting.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] names the setting and its range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let out = |setting, found, range| Err(ConfigError { setting, found, range });
        if !(1..=90).contains(&self.start_percent) {
            return out("start_percent", self.start_percent.into(), "1 to 90");
        }
        if self.stop_percent > self.start_percent {
            return out("stop_percent", self.stop_percent.into(), "0 to start_percent");
        }
        if !(1..=90).contains(&self.min_victim_percent) {
            return out("min_victim_percent", self.min_victim_percent.into(), "1 to 90");
        }
        if !((1 << 20)..=(1 << 40)).contains(&self.max_run_bytes) {
            return out("max_run_bytes", self.max_run_bytes, "1 MiB to 1 TiB");
        }
        if self.tombstone_grace > Duration::from_secs(100 * 366 * 86_400) {
            return out("tombstone_grace (seconds)", self.tombstone_grace.as_secs(), "0 to 100 years");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::CompactionConfig;

    #[test]
    fn every_setting_is_checked() {
        let good = CompactionConfig::default();
        assert_eq!(good.validate(), Ok(()));
        let bad = [
            good.clone().with_start_percent(0),
            good.clone().with_start_percent(91),
            good.clone().with_stop_percent(26),
            good.clone().with_min_victim_percent(0),
            good.clone().with_max_run_bytes(1),
            good.clone().with_tombstone_grace(Duration::MAX),
        ];
        let names = [
            "start_percent",
            "start_percent",
            "stop_percent",
            "min_victim_percent",
            "max_run_bytes",
            "tombstone_grace",
        ];
        for (config, name) in bad.into_iter().zip(names) {
            let error = config.validate().unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("it must be"), "{error}");
        }
    }
}

//! Compaction of the Hightower KV log: the choice of segments to rewrite, the records to keep, the
//! rule for dropping tombstones, and a rate limiter.
//!
//! The log only grows. Overwritten and deleted records stay in it until compaction copies the live
//! records into new segments and drops the old ones. This crate has the decisions and the loop. It
//! opens no file and takes no lock: the engine provides figures of the segments ([`SegmentUsage`]),
//! reads and writes records ([`Host`]), and installs the result.
//!
//! * [`CompactionPolicy`] chooses the segments; [`CostBenefit`] is the default.
//! * [`rewrite`] copies the survivors in key order, in memory that does not depend on the size of a
//!   segment.
//! * [`TombstoneRule`] decides when a tombstone can be dropped without reviving an older command.
//! * [`RateLimiter`] limits the rate.
//!
//! ```
//! use std::time::Duration;
//! use hightower_compactor::{CompactionConfig, CompactionPolicy, CostBenefit, Goal, SegmentUsage};
//! use hightower_log::SegmentKind;
//!
//! let overwritten = SegmentUsage {
//!     id: 1,
//!     kind: SegmentKind::Append,
//!     is_sealed: true,
//!     base_seq: 1,
//!     len_bytes: 64 << 20,
//!     records: 400_000,
//!     live_records: 100_000,
//!     live_bytes: 16 << 20,
//!     retained_records: 0,
//!     expired_tombstone_bytes: 0,
//!     age: Duration::from_secs(60),
//! };
//! let config = CompactionConfig::default();
//! assert_eq!(CostBenefit.choose(&[overwritten], Goal::Background, &config), [1]);
//! ```
//!
//! # What it is not
//!
//! It opens no file and takes no lock. `hightower-engine` provides the segments, reads and writes
//! the records, and installs the result.
//!
//! # At a glance
//!
//! | | |
//! | --- | --- |
//! | limits | a run takes up to 65,536 input segments, and ends early when its budget of survivors or key bytes is exhausted; the next run continues |
//! | durability | none: a run takes effect when the engine has synced and installed the outputs |
//! | memory | the budget of a run, independent of the size of a segment: about 11 MiB by default |
//! | threads | a run stays on the thread that calls it; policies are `Send` and `Sync` |
//! | features | none |
//! | format | none: it sees commands, not bytes |

#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod config;
pub mod conformance;
mod policy;
mod rate_limiter;
mod rewrite;
mod tombstone;
mod usage;

use hightower_seams::mutants;

pub use config::{CompactionConfig, ConfigError};
pub use policy::{CompactionPolicy, CostBenefit, SizeTiered};
pub use rate_limiter::RateLimiter;
pub use rewrite::{Budget, Host, Moved, Need, RecordPlace, Rewritten, Visit, Visitor, rewrite};
pub use tombstone::{TombstoneRule, output_base_seq};
pub use usage::{Goal, SegmentUsage};

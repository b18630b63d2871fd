//! The seams that the crates of a Hightower KV store share, so that tests control them: the
//! [`Clock`], random bytes ([`Entropy`]), planted bugs ([`mutants`]), the order of locks
//! ([`lock_order`]) and of threads ([`schedule`]).
//!
//! Planted bugs and both orders cost nothing in a release build. The file system is a seam
//! of its own: `Fs` in `hightower-segment`.
//!
//! # At a glance
//!
//! | | |
//! | --- | --- |
//! | limits | none |
//! | durability | none |
//! | memory | in tests, one byte per thread and held lock |
//! | threads | everything here may be called from any thread |
//! | features | `os-entropy`: [`OsEntropy`], by the crate `getrandom`. `coarse-clock`: a cheaper [`SystemClock`] on Linux, by the crate `rustix` |
//! | format | none |

#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod clock;
mod entropy;
pub mod lock_order;
pub mod mutants;
pub mod schedule;

pub use clock::{Clock, ManualClock, SystemClock};
#[cfg(feature = "os-entropy")]
pub use entropy::OsEntropy;
pub use entropy::{Entropy, SeededEntropy, mix64};

/// The README's example, run as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

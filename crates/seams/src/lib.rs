//! Seams that the crates of a Hightower KV store share: planted bugs and the order of locks.
//!
//! Both are for tests and cost nothing in a release build. Other seams stand where they are used:
//! `Fs` and `Entropy` in `hightower-segment`, `Clock` in `hightower-engine`.
//!
//! # At a glance
//!
//! | | |
//! | --- | --- |
//! | limits | none |
//! | durability | none |
//! | memory | in tests, a byte per thread and lock that it holds |
//! | threads | everything here may be called from any thread |
//! | features | none |
//! | format | none |

#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod lock_order;
pub mod mutants;

/// The README's example, run as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

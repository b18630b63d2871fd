//! The write-ahead log: against a model, through crashes, through faults.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    unreachable_pub,
    reason = "a test that cannot go on ends here, and says what it saw"
)]

mod crash;
mod faults;
mod golden;
mod life;
mod model;
#[path = "../common/sweep.rs"]
mod sweep;
mod world;

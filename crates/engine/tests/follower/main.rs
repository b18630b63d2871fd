//! A follower beside its writer: it shows a prefix of the commits, whole batches only, and never
//! goes back unless the store has lost commits.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, clippy::cast_possible_truncation, reason = "a test")]

#[path = "../common/mod.rs"]
mod common;
mod feeds;
mod histories;
mod moving_dir;
mod processes;
mod rules;
mod witness;

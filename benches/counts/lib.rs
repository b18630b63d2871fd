//! What is counted is in `benches/counts.rs`; `cargo xtask counts` runs it.
#![forbid(unsafe_code)]

//! Times in records.

/// Unix time in milliseconds. The [`Clock`](crate::Clock) may step back: delays and expiries then
/// shift by the same amount.
pub type Timestamp = i64;

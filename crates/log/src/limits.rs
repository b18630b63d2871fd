//! The limits of keys, values, batches and segments.
//!
//! Every limit is checked twice: when a command enters the store, and when it is decoded, before
//! its content is read.

/// The longest key, in bytes (64 KiB − 1). Keys are never empty.
pub const MAX_KEY_LEN_BYTES: usize = 65_535;

/// The longest value, in bytes (1 GiB). Values may be empty.
pub const MAX_VALUE_LEN_BYTES: usize = 1 << 30;

/// Maximum number of commands in a batch.
pub const MAX_BATCH_COMMANDS: usize = 65_536;

/// The highest version that a caller may submit: 2^63 − 1. Only the store assigns higher versions,
/// so that a put or delete without a version always wins over every earlier submitted command.
pub const MAX_SUBMITTED_VERSION: u64 = (1 << 63) - 1;

/// The longest segment file, in bytes: offsets in a segment are `u32`.
pub const MAX_SEGMENT_LEN_BYTES: u32 = u32::MAX;

//! Checks of the limits of keys, values, versions and batches; see also [`hightower_log::limits`].

pub use hightower_log::limits::{MAX_BATCH_COMMANDS, MAX_SUBMITTED_VERSION, MAX_VALUE_LEN_BYTES};

/// Maximum length of a key, in bytes, in every keyspace. A record has room for 15 bytes more, for
/// the id of the keyspace.
pub const MAX_KEY_LEN_BYTES: usize = hightower_log::limits::MAX_KEY_LEN_BYTES - 15;

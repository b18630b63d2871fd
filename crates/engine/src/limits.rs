//! Checks of the limits of keys, values, versions and batches; see also [`hightower_log::limits`].

pub use hightower_log::limits::{MAX_BATCH_COMMANDS, MAX_KEY_LEN_BYTES, MAX_SUBMITTED_VERSION, MAX_VALUE_LEN_BYTES};

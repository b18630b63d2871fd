//! Keyspaces: named sets of keys with one log, one order of commits, and common batches.
//!
//! | file | content |
//! | --- | --- |
//! | `id.rs` | the id of a keyspace |
//! | `stored_key.rs` | the keys of the store: the id of the keyspace, then the user's key |

mod id;
mod stored_key;

pub use id::KeyspaceId;
pub(crate) use stored_key::{
    StoredBounds, StoredKey, UserKey, check_key, is_stored_as_is, of_user, user_bounds, user_part,
};

//! Keyspaces: named sets of keys with one log, one order of commits, and common batches.
//!
//! | file | content |
//! | --- | --- |
//! | `id.rs` | the id of a keyspace |
//! | `stored_key.rs` | the keys of the store: the id of the keyspace, then the user's key |
//! | `options.rs`, `record.rs` | the options of a keyspace; the records of the catalogue |
//! | `reserved.rs` | keyspaces of the layers above the engine |
//! | `living.rs` | a keyspace in use: handles and commits see in it whether it was dropped |
//! | `quota.rs` | what the keyspaces with a quota hold |
//! | `catalogue.rs` | which keyspaces there are: creating, renaming, clearing and dropping them |
//! | `snapshots.rs` | snapshots of keyspaces |
//! | `removal.rs` | deletes the keys of dropped keyspaces in the background |
//! | `named.rs`, `handle.rs`, `traits.rs` | [`Keyspace`], the handle for callers; its calls; its traits |

mod catalogue;
mod handle;
mod id;
mod living;
mod named;
mod options;
mod quota;
mod record;
mod removal;
mod reserved;
mod snapshots;
mod stored_key;

pub(crate) use catalogue::{Catalogue, CatalogueParts};
pub use handle::{KeyspaceInfo, SharedKeyspace};
pub use id::KeyspaceId;
pub(crate) use living::{LivingKeyspace, Scope, id_of, next_store_number};
pub use named::Keyspace;
pub use options::KeyspaceOptions;
pub use quota::KeyspaceUse;
pub(crate) use quota::{KeyspaceGrowth, KeyspaceQuotas};
pub(crate) use record::CatalogueRecord;
pub(crate) use removal::KeyspaceRemoval;
pub use reserved::ReservedKeyspace;
pub(crate) use stored_key::{
    StoredBounds, StoredKey, UserKey, check_key, is_stored_as_is, of_user, user_bounds, user_part, with_default_key,
};

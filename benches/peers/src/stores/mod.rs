//! The stores that can take part, each in its own module behind its own feature.

use anyhow::{Context, Result};

mod entry;
#[cfg(feature = "fjall")]
mod fjall;
#[cfg(feature = "lmdb")]
mod lmdb;
#[cfg(feature = "own")]
mod own;
#[cfg(feature = "predecessor")]
mod predecessor;
#[cfg(feature = "redb")]
mod redb;
#[cfg(feature = "rocksdb")]
mod rocksdb;
#[cfg(feature = "sled")]
mod sled;
#[cfg(feature = "sled-alpha")]
mod sled_alpha;

pub(crate) use entry::{Entry, OWN};

/// Every store that was compiled in, the own one first.
pub(crate) fn entries() -> Vec<Entry> {
    vec![
        #[cfg(feature = "own")]
        own::ENTRY,
        #[cfg(feature = "predecessor")]
        predecessor::ENTRY,
        #[cfg(feature = "fjall")]
        fjall::ENTRY,
        #[cfg(feature = "redb")]
        redb::ENTRY,
        #[cfg(feature = "sled")]
        sled::ENTRY,
        #[cfg(feature = "sled-alpha")]
        sled_alpha::ENTRY,
        #[cfg(feature = "rocksdb")]
        rocksdb::ENTRY,
        #[cfg(feature = "lmdb")]
        lmdb::ENTRY,
    ]
}

/// The store called `id`.
pub(crate) fn entry(id: &str) -> Result<Entry> {
    entries()
        .into_iter()
        .find(|entry| entry.id == id)
        .with_context(|| format!("no store `{id}` in this build: compile it in with its feature, or with `all-peers`"))
}

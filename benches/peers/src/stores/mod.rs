//! The stores that can take part, each in its own module behind its own feature.

use std::path::Path;

use anyhow::{Context, Result};

use crate::store::{Guarantee, Store};

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

/// The id of the store of this workspace.
pub(crate) const OWN: &str = "hightower";

/// Bytes of cache for the stores that have one: larger than the data of every workload.
#[cfg(any(feature = "fjall", feature = "redb", feature = "rocksdb", feature = "sled", feature = "sled-alpha"))]
const CACHE_BYTES: u64 = 2 << 30;

/// How a store is opened.
type Open = fn(&Path, Guarantee) -> Result<Box<dyn Store>>;

/// A store that can take part.
#[derive(Clone, Copy)]
pub(crate) struct Entry {
    /// Its name in options, results and tables.
    pub(crate) id: &'static str,
    /// The package whose version `Cargo.lock` has.
    pub(crate) package: &'static str,
    /// The first part of the version, where the lock file has several of one package.
    pub(crate) version: &'static str,
    /// Whether a returned write survives `kill -9` in the workloads that are not synced.
    pub(crate) survives_kill: bool,
    /// Whether it takes part where no stores are named.
    pub(crate) by_default: bool,
    /// How it is used here, and what its guarantee is.
    pub(crate) usage: &'static str,
    /// Opens it, creating it if missing.
    pub(crate) open: Open,
}

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

//! What a store brings to take part.

use std::path::Path;

use anyhow::Result;

use crate::store::{Guarantee, Store};

/// The id of the store of this workspace.
pub(crate) const OWN: &str = "hightower";

/// Bytes of cache for the stores that have one: larger than the data of every workload.
#[cfg(any(feature = "fjall", feature = "redb", feature = "rocksdb", feature = "sled", feature = "sled-alpha"))]
pub(super) const CACHE_BYTES: u64 = 2 << 30;

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

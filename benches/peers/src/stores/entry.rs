//! The description of a store under test.

use std::path::Path;

use anyhow::Result;

use crate::store::{Guarantee, Store};

/// The id of the store of this workspace.
pub(crate) const OWN: &str = "hightower";

/// Cache size of stores with a cache, in bytes: larger than the data of every workload.
#[cfg(any(feature = "fjall", feature = "redb", feature = "rocksdb", feature = "sled", feature = "sled-alpha"))]
pub(super) const CACHE_BYTES: u64 = 2 << 30;

/// Opens a store.
type Open = fn(&Path, Guarantee) -> Result<Box<dyn Store>>;

/// Opens a store within a memory limit in bytes.
type OpenLimited = fn(&Path, Guarantee, u64) -> Result<Box<dyn Store>>;

/// A store that can take part.
#[derive(Clone, Copy)]
pub(crate) struct Entry {
    /// Its name in options, results and tables.
    pub(crate) id: &'static str,
    /// The package whose version `Cargo.lock` has.
    pub(crate) package: &'static str,
    /// The first part of the version, if the lock file has several versions of the package.
    pub(crate) version: &'static str,
    /// Whether a returned write survives `kill -9` in workloads without syncs.
    pub(crate) survives_kill: bool,
    /// Whether it takes part by default.
    pub(crate) by_default: bool,
    /// Its settings and its guarantee.
    pub(crate) usage: &'static str,
    /// Opens it, creating it if missing.
    pub(crate) open: Open,
    /// Opens it with settings for a process whose memory and page cache are limited to a number of
    /// bytes, if it takes part in `beyond`.
    pub(crate) open_limited: Option<OpenLimited>,
    /// Opens it for serializable transactions, if it has them.
    pub(crate) open_for_transactions: Option<Open>,
}

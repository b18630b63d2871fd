//! fjall: an LSM tree in Rust. A put goes to the operating system before it returns.

use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, ensure};
use fjall::config::{
    BloomConstructionPolicy, CompressionPolicy, FilterPolicy, FilterPolicyEntry, HashRatioPolicy, PartitioningPolicy,
    PinningPolicy,
};
use fjall::{CompressionType, Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use super::entry::{CACHE_BYTES, Entry};
use crate::store::{Guarantee, Store, Visit};

pub(super) const ENTRY: Entry = Entry {
    id: "fjall",
    package: "fjall",
    version: "",
    survives_kill: true,
    by_default: true,
    usage: "cache of 2 GiB, larger than the data; filters and indexes pinned; no compression (the values do not compress); synced: \
            `persist(SyncData)` after the write, batches with `durability(SyncData)`; compaction: memtable flushed, then a major one",
    open,
};

struct Fjall {
    database: Database,
    keyspace: Keyspace,
    guarantee: Guarantee,
}

fn open(dir: &Path, guarantee: Guarantee) -> Result<Box<dyn Store>> {
    let database = Database::builder(dir).cache_size(CACHE_BYTES).worker_threads(2).open()?;
    let keyspace = database.keyspace("peers", || {
        KeyspaceCreateOptions::default()
            .data_block_compression_policy(CompressionPolicy::all(CompressionType::None))
            .data_block_hash_ratio_policy(HashRatioPolicy::all(0.75))
            .index_block_pinning_policy(PinningPolicy::all(true))
            .filter_block_pinning_policy(PinningPolicy::all(true))
            .index_block_partitioning_policy(PartitioningPolicy::all(false))
            .filter_block_partitioning_policy(PartitioningPolicy::all(false))
            .filter_policy(FilterPolicy::all(FilterPolicyEntry::Bloom(BloomConstructionPolicy::BitsPerKey(10.0))))
    })?;
    Ok(Box::new(Fjall { database, keyspace, guarantee }))
}

impl Fjall {
    fn sync_if_asked(&self) -> Result<()> {
        if self.guarantee == Guarantee::Power {
            self.database.persist(PersistMode::SyncData)?;
        }
        Ok(())
    }
}

impl Store for Fjall {
    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        self.keyspace.insert(key, value)?;
        self.sync_if_asked()
    }

    fn put_batch(&self, pairs: &[(Vec<u8>, Vec<u8>)]) -> Result<()> {
        let durability = (self.guarantee == Guarantee::Power).then_some(PersistMode::SyncData);
        let mut batch = self.database.batch().durability(durability);
        for (key, value) in pairs {
            batch.insert(&self.keyspace, key.as_slice(), value.as_slice());
        }
        Ok(batch.commit()?)
    }

    fn delete(&self, key: &[u8]) -> Result<()> {
        self.keyspace.remove(key)?;
        self.sync_if_asked()
    }

    fn get(&self, key: &[u8], visit: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<bool> {
        match self.keyspace.get(key)? {
            Some(value) => visit(&value).map(|()| true),
            None => Ok(false),
        }
    }

    fn scan_prefix(&self, prefix: &[u8], visit: Visit<'_>) -> Result<()> {
        for guard in self.keyspace.prefix(prefix) {
            let (key, value) = guard.into_inner()?;
            visit(&key, &value)?;
        }
        Ok(())
    }

    fn scan_from(&self, start: &[u8], limit: usize, visit: Visit<'_>) -> Result<bool> {
        for guard in self.keyspace.range(start..).take(limit) {
            let (key, value) = guard.into_inner()?;
            visit(&key, &value)?;
        }
        Ok(true)
    }

    fn settle(&self) -> Result<()> {
        let mut quiet = 0;
        for _ in 0..3000 {
            let busy = self.database.outstanding_flushes() > 0 || self.database.active_compactions() > 0;
            quiet = if busy { 0 } else { quiet + 1 };
            if quiet == 10 {
                return Ok(());
            }
            sleep(Duration::from_millis(20));
        }
        ensure!(quiet > 0, "work in the background did not end within a minute");
        Ok(())
    }

    fn compact(&mut self) -> Result<bool> {
        self.keyspace.rotate_memtable_and_wait()?;
        self.settle()?;
        self.keyspace.major_compact()?;
        self.settle()?;
        Ok(true)
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(self.database.persist(PersistMode::SyncAll)?)
    }
}

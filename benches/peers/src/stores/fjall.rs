//! fjall: an LSM tree in Rust. A put goes to the operating system before it returns.

use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use fjall::config::{
    BloomConstructionPolicy, CompressionPolicy, FilterPolicy, FilterPolicyEntry, HashRatioPolicy, PartitioningPolicy,
    PinningPolicy,
};
use fjall::{
    CompressionType, Database, Keyspace, KeyspaceCreateOptions, OptimisticTxDatabase, OptimisticTxKeyspace,
    PersistMode, Readable,
};

use super::entry::{CACHE_BYTES, Entry};
use crate::store::{Check, Guarantee, Store, Visit};

pub(super) const ENTRY: Entry = Entry {
    id: "fjall",
    package: "fjall",
    version: "",
    survives_kill: true,
    by_default: true,
    usage: "cache of 2 GiB, larger than the data; filters and indexes pinned; no compression (the values do not compress); synced: \
            `persist(SyncData)` after the write, batches with `durability(SyncData)`; compaction: memtable flushed, then a major one",
    open,
    open_limited: Some(open_limited),
    open_for_transactions: Some(open_for_transactions),
};

struct Fjall {
    database: Database,
    keyspace: Keyspace,
    guarantee: Guarantee,
}

fn open(dir: &Path, guarantee: Guarantee) -> Result<Box<dyn Store>> {
    let database = Database::builder(dir).cache_size(CACHE_BYTES).worker_threads(2).open()?;
    let keyspace = database.keyspace("peers", keyspace_options)?;
    Ok(Box::new(Fjall { database, keyspace, guarantee }))
}

/// With an eighth of the memory for memtables and a quarter for its cache.
fn open_limited(dir: &Path, guarantee: Guarantee, limit_bytes: u64) -> Result<Box<dyn Store>> {
    let database = Database::builder(dir).cache_size(limit_bytes / 4).worker_threads(2).open()?;
    // Half for the active one, half for the one that is flushed.
    let keyspace = database.keyspace("peers", || keyspace_options().max_memtable_size(limit_bytes / 16))?;
    Ok(Box::new(Fjall { database, keyspace, guarantee }))
}

fn keyspace_options() -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default()
        .data_block_compression_policy(CompressionPolicy::all(CompressionType::None))
        .data_block_hash_ratio_policy(HashRatioPolicy::all(0.75))
        .index_block_pinning_policy(PinningPolicy::all(true))
        .filter_block_pinning_policy(PinningPolicy::all(true))
        .index_block_partitioning_policy(PartitioningPolicy::all(false))
        .filter_block_partitioning_policy(PartitioningPolicy::all(false))
        .filter_policy(FilterPolicy::all(FilterPolicyEntry::Bloom(BloomConstructionPolicy::BitsPerKey(10.0))))
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

/// Its database with optimistic transactions, which is a type of its own.
struct Transactional {
    database: OptimisticTxDatabase,
    keyspace: OptimisticTxKeyspace,
    plain: Fjall,
}

fn open_for_transactions(dir: &Path, guarantee: Guarantee) -> Result<Box<dyn Store>> {
    let database = OptimisticTxDatabase::builder(dir).cache_size(CACHE_BYTES).worker_threads(2).open()?;
    let keyspace = database.keyspace("peers", keyspace_options)?;
    let plain = Fjall { database: database.inner().clone(), keyspace: keyspace.inner().clone(), guarantee };
    Ok(Box::new(Transactional { database, keyspace, plain }))
}

/// Only [`transact`](Store::transact) differs; the others are for the time without transactions.
impl Store for Transactional {
    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        self.plain.put(key, value)
    }

    fn put_batch(&self, pairs: &[(Vec<u8>, Vec<u8>)]) -> Result<()> {
        self.plain.put_batch(pairs)
    }

    fn delete(&self, key: &[u8]) -> Result<()> {
        self.plain.delete(key)
    }

    fn get(&self, key: &[u8], visit: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<bool> {
        self.plain.get(key, visit)
    }

    fn scan_prefix(&self, prefix: &[u8], visit: Visit<'_>) -> Result<()> {
        self.plain.scan_prefix(prefix, visit)
    }

    fn scan_from(&self, start: &[u8], limit: usize, visit: Visit<'_>) -> Result<bool> {
        self.plain.scan_from(start, limit, visit)
    }

    fn transact(&self, keys: [&[u8]; 2], value: &[u8], check: Check<'_>) -> Result<u32> {
        for retries in 0.. {
            let mut transaction = self.database.write_tx()?;
            for (at, key) in keys.into_iter().enumerate() {
                check(at, &transaction.get(&self.keyspace, key)?.context("a key is not there")?)?;
            }
            transaction.insert(&self.keyspace, keys[0], value);
            if transaction.commit()?.is_ok() {
                return Ok(retries);
            }
        }
        bail!("too many conflicts")
    }

    fn settle(&self) -> Result<()> {
        self.plain.settle()
    }

    fn compact(&mut self) -> Result<bool> {
        self.plain.compact()
    }

    fn close(self: Box<Self>) -> Result<()> {
        Box::new(self.plain).close()
    }
}

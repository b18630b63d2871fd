//! RocksDB: the LSM tree that most engines are compared with. A put does one write(2) to its log
//! before it returns.

use std::path::Path;

use anyhow::Result;
use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, BottommostLevelCompaction, Cache, CompactOptions, DB, DBCompressionType,
    DBRawIterator, DataBlockIndexType, FlushOptions, Options, ReadOptions, WaitForCompactOptions, WriteBatch,
    WriteOptions,
};

use super::entry::{CACHE_BYTES, Entry};
use crate::store::{Guarantee, Store, Visit, end_of_prefix};

pub(super) const ENTRY: Entry = Entry {
    id: "rocksdb",
    package: "rocksdb",
    version: "",
    survives_kill: true,
    by_default: true,
    usage: "by its tuning guide: level style, 512 MiB for memtables, pipelined and concurrent memtable writes, bloom filters \
            of 10 bits, hash index in 4 KiB blocks, hyper-clock block cache of 2 GiB, no compression (the values do not compress); \
            synced: `sync` with recycled logs; compaction: `compact_range` down to the last level",
    open,
    open_limited: Some(open_limited),
    open_for_transactions: None,
};

struct Rocks {
    database: DB,
    write_options: WriteOptions,
    read_options: ReadOptions,
}

fn open(dir: &Path, guarantee: Guarantee) -> Result<Box<dyn Store>> {
    open_with(dir, guarantee, 512 << 20, CACHE_BYTES)
}

/// With an eighth of the memory for memtables and a quarter for its block cache.
fn open_limited(dir: &Path, guarantee: Guarantee, limit_bytes: u64) -> Result<Box<dyn Store>> {
    open_with(dir, guarantee, limit_bytes / 8, limit_bytes / 4)
}

fn open_with(dir: &Path, guarantee: Guarantee, memtables_bytes: u64, cache_bytes: u64) -> Result<Box<dyn Store>> {
    let mut write_options = WriteOptions::default();
    write_options.set_sync(guarantee == Guarantee::Power);
    let database = DB::open(&options(guarantee, memtables_bytes, cache_bytes), dir)?;
    Ok(Box::new(Rocks { database, write_options, read_options: ReadOptions::default() }))
}

fn options(guarantee: Guarantee, memtables_bytes: u64, cache_bytes: u64) -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.increase_parallelism(2);
    options.optimize_level_style_compaction(memtables_bytes as usize);
    options.set_compression_per_level(&[DBCompressionType::None; 7]);
    options.set_compression_type(DBCompressionType::None);
    options.set_level_compaction_dynamic_level_bytes(true);
    options.set_bytes_per_sync(1 << 20);
    options.set_enable_pipelined_write(true);
    options.set_allow_concurrent_memtable_write(true);
    options.set_memtable_prefix_bloom_ratio(0.05);
    options.set_memtable_whole_key_filtering(true);
    if guarantee == Guarantee::Power {
        options.set_recycle_log_file_num(4);
    }
    options.set_block_based_table_factory(&table_options(cache_bytes));
    options
}

fn table_options(cache_bytes: u64) -> BlockBasedOptions {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&Cache::new_hyper_clock_cache(cache_bytes as usize, 0));
    table.set_bloom_filter(10.0, false);
    table.set_whole_key_filtering(true);
    table.set_block_size(4 << 10);
    table.set_index_type(BlockBasedIndexType::BinarySearch);
    table.set_data_block_index_type(DataBlockIndexType::BinaryAndHash);
    table.set_data_block_hash_ratio(0.75);
    table.set_format_version(6);
    table
}

impl Rocks {
    fn visit_all(&self, mut iterator: DBRawIterator<'_>, limit: usize, visit: Visit<'_>) -> Result<()> {
        for _ in 0..limit {
            let Some((key, value)) = iterator.item() else { break };
            visit(key, value)?;
            iterator.next();
        }
        Ok(iterator.status()?)
    }
}

impl Store for Rocks {
    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        Ok(self.database.put_opt(key, value, &self.write_options)?)
    }

    fn put_batch(&self, pairs: &[(Vec<u8>, Vec<u8>)]) -> Result<()> {
        let mut batch = WriteBatch::default();
        for (key, value) in pairs {
            batch.put(key, value);
        }
        Ok(self.database.write_opt(batch, &self.write_options)?)
    }

    fn delete(&self, key: &[u8]) -> Result<()> {
        Ok(self.database.delete_opt(key, &self.write_options)?)
    }

    fn get(&self, key: &[u8], visit: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<bool> {
        match self.database.get_pinned_opt(key, &self.read_options)? {
            Some(value) => visit(&value).map(|()| true),
            None => Ok(false),
        }
    }

    fn scan_prefix(&self, prefix: &[u8], visit: Visit<'_>) -> Result<()> {
        let mut options = ReadOptions::default();
        if let Some(end) = end_of_prefix(prefix) {
            options.set_iterate_upper_bound(end);
        }
        let mut iterator = self.database.raw_iterator_opt(options);
        iterator.seek(prefix);
        self.visit_all(iterator, usize::MAX, visit)
    }

    fn scan_from(&self, start: &[u8], limit: usize, visit: Visit<'_>) -> Result<bool> {
        let mut iterator = self.database.raw_iterator_opt(ReadOptions::default());
        iterator.seek(start);
        self.visit_all(iterator, limit, visit).map(|()| true)
    }

    fn settle(&self) -> Result<()> {
        Ok(self.database.wait_for_compact(&WaitForCompactOptions::default())?)
    }

    fn compact(&mut self) -> Result<bool> {
        let mut flush = FlushOptions::default();
        flush.set_wait(true);
        self.database.flush_opt(&flush)?;
        let mut options = CompactOptions::default();
        options.set_bottommost_level_compaction(BottommostLevelCompaction::Force);
        self.database.compact_range_opt(None::<&[u8]>, None::<&[u8]>, &options);
        self.settle().map(|()| true)
    }

    fn close(self: Box<Self>) -> Result<()> {
        self.database.flush_wal(true)?;
        Ok(())
    }
}

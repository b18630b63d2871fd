//! redb: a copy-on-write B-tree in Rust. A commit is durable, or lost if the process dies before
//! the next durable one.

use std::path::Path;

use anyhow::{Context, Result};
use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};

use super::entry::{CACHE_BYTES, Entry};
use crate::store::{Check, Guarantee, Store, Visit, end_of_prefix};

pub(super) const ENTRY: Entry = Entry {
    id: "redb",
    package: "redb",
    version: "",
    survives_kill: false,
    by_default: true,
    usage: "cache of 2 GiB, one transaction per operation; not synced: `Durability::None`, whose commits a killed process loses \
            (there is nothing between that and a sync); synced: `Durability::Immediate`; compaction: `compact`",
    open,
    open_limited: Some(open_limited),
    open_for_transactions: Some(open),
};

const TABLE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("peers");

struct Redb {
    database: Database,
    durability: Durability,
}

fn open(dir: &Path, guarantee: Guarantee) -> Result<Box<dyn Store>> {
    open_with(dir, guarantee, CACHE_BYTES)
}

/// With a cache of a quarter of the memory.
fn open_limited(dir: &Path, guarantee: Guarantee, limit_bytes: u64) -> Result<Box<dyn Store>> {
    open_with(dir, guarantee, limit_bytes / 4)
}

fn open_with(dir: &Path, guarantee: Guarantee, cache_bytes: u64) -> Result<Box<dyn Store>> {
    let database = Database::builder().set_cache_size(usize::try_from(cache_bytes)?).create(dir.join("peers.redb"))?;
    let durability = match guarantee {
        Guarantee::Process => Durability::None,
        Guarantee::Power => Durability::Immediate,
    };
    let store = Redb { database, durability };
    store.sync()?;
    Ok(Box::new(store))
}

impl Redb {
    /// Makes all earlier writes durable, and creates the table if missing.
    fn sync(&self) -> Result<()> {
        let transaction = self.database.begin_write()?;
        transaction.open_table(TABLE)?;
        Ok(transaction.commit()?)
    }

    fn write(&self, change: impl FnOnce(&mut redb::Table<'_, &[u8], &[u8]>) -> Result<()>) -> Result<()> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(self.durability)?;
        change(&mut transaction.open_table(TABLE)?)?;
        Ok(transaction.commit()?)
    }
}

impl Store for Redb {
    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        self.write(|table| table.insert(key, value).map(|_| ()).map_err(Into::into))
    }

    fn put_batch(&self, pairs: &[(Vec<u8>, Vec<u8>)]) -> Result<()> {
        self.write(|table| {
            for (key, value) in pairs {
                table.insert(key.as_slice(), value.as_slice())?;
            }
            Ok(())
        })
    }

    fn delete(&self, key: &[u8]) -> Result<()> {
        self.write(|table| table.remove(key).map(|_| ()).map_err(Into::into))
    }

    fn delete_batch(&self, keys: &[Vec<u8>]) -> Result<()> {
        self.write(|table| {
            for key in keys {
                table.remove(key.as_slice())?;
            }
            Ok(())
        })
    }

    fn get(&self, key: &[u8], visit: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<bool> {
        let table = self.database.begin_read()?.open_table(TABLE)?;
        match table.get(key)? {
            Some(value) => visit(value.value()).map(|()| true),
            None => Ok(false),
        }
    }

    fn scan_prefix(&self, prefix: &[u8], visit: Visit<'_>) -> Result<()> {
        let table = self.database.begin_read()?.open_table(TABLE)?;
        let end = end_of_prefix(prefix);
        let range = match &end {
            Some(end) => table.range(prefix..end.as_slice())?,
            None => table.range(prefix..)?,
        };
        for pair in range {
            let (key, value) = pair?;
            visit(key.value(), value.value())?;
        }
        Ok(())
    }

    fn scan_from(&self, start: &[u8], limit: usize, visit: Visit<'_>) -> Result<bool> {
        let table = self.database.begin_read()?.open_table(TABLE)?;
        for pair in table.range(start..)?.take(limit) {
            let (key, value) = pair?;
            visit(key.value(), value.value())?;
        }
        Ok(true)
    }

    fn transact(&self, keys: [&[u8]; 2], value: &[u8], check: Check<'_>) -> Result<u32> {
        self.write(|table| {
            for (at, key) in keys.into_iter().enumerate() {
                check(at, table.get(key)?.context("a key is not there")?.value())?;
            }
            table.insert(keys[0], value)?;
            Ok(())
        })?;
        Ok(0)
    }

    fn settle(&self) -> Result<()> {
        self.sync()
    }

    fn compact(&mut self) -> Result<bool> {
        self.sync()?;
        self.database.compact()?;
        Ok(true)
    }

    fn close(self: Box<Self>) -> Result<()> {
        self.sync()
    }
}

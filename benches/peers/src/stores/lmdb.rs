//! LMDB by heed: a copy-on-write B-tree in a memory map. With the write map, a commit is in the
//! page cache when it returns.

use std::ops::Bound;
use std::path::Path;

use anyhow::{Context, Result};
use heed::types::Bytes;
use heed::{CommitOrAbort, Database, Env, EnvFlags, EnvOpenOptions, PutFlags, WithTls};

use super::entry::Entry;
use crate::store::{Check, Guarantee, Store, Visit};

pub(super) const ENTRY: Entry = Entry {
    id: "lmdb",
    package: "heed",
    version: "",
    survives_kill: true,
    by_default: true,
    usage: "`WRITEMAP`, one transaction per operation, `APPEND` for sorted loads; not synced: `NOSYNC`, whose commits are in the page \
            cache and survive a killed process, but after power loss the file may be damaged as a whole; synced: its default; it \
            offers no compaction in place",
    open,
    open_limited: Some(open_limited),
    open_for_transactions: Some(open),
};

/// Address space for the map, in bytes, not memory: larger than the data of every workload.
const MAP_BYTES: usize = 16 << 30;

struct Lmdb {
    environment: Env<WithTls>,
    database: Database<'static, Bytes, Bytes>,
}

/// Unsafe, because heed has no safe form of this call.
#[allow(unsafe_code)]
fn open_environment(dir: &Path, flags: EnvFlags) -> Result<Env<WithTls>> {
    let mut options = EnvOpenOptions::new();
    options.map_size(MAP_BYTES).max_readers(64);
    // SAFETY: only this process uses the directory while the environment is open, so only LMDB
    // changes the map; a file damaged by a power loss is never opened here.
    Ok(unsafe { options.flags(flags).open(dir)? })
}

fn open(dir: &Path, guarantee: Guarantee) -> Result<Box<dyn Store>> {
    open_with(dir, guarantee, EnvFlags::empty())
}

fn open_with(dir: &Path, guarantee: Guarantee, more: EnvFlags) -> Result<Box<dyn Store>> {
    let flags = more
        | match guarantee {
            Guarantee::Process => EnvFlags::WRITE_MAP | EnvFlags::NO_SYNC | EnvFlags::NO_META_SYNC,
            Guarantee::Power => EnvFlags::WRITE_MAP,
        };
    let environment = open_environment(dir, flags)?;
    let created = environment.create_databases_and_commit(environment.write_txn()?, |opener, transaction| {
        Ok::<_, heed::Error>(CommitOrAbort::<_, ()>::Commit(opener.create_database::<Bytes, Bytes>(transaction, None)?))
    })?;
    let database = created.commit().context("the database was not created")?;
    Ok(Box::new(Lmdb { environment, database }))
}

/// It has no cache of its own. The kernel's read-ahead would read megabytes for each get.
fn open_limited(dir: &Path, guarantee: Guarantee, _limit_bytes: u64) -> Result<Box<dyn Store>> {
    open_with(dir, guarantee, EnvFlags::NO_READ_AHEAD)
}

impl Lmdb {
    fn put_with(&self, flags: PutFlags, key: &[u8], value: &[u8]) -> Result<()> {
        let mut transaction = self.environment.write_txn()?;
        self.database.put_with_flags(&mut transaction, flags, key, value)?;
        Ok(transaction.commit()?)
    }
}

impl Store for Lmdb {
    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        self.put_with(PutFlags::empty(), key, value)
    }

    fn put_last(&self, key: &[u8], value: &[u8]) -> Result<()> {
        self.put_with(PutFlags::APPEND, key, value)
    }

    fn put_batch(&self, pairs: &[(Vec<u8>, Vec<u8>)]) -> Result<()> {
        let mut transaction = self.environment.write_txn()?;
        for (key, value) in pairs {
            self.database.put(&mut transaction, key, value)?;
        }
        Ok(transaction.commit()?)
    }

    fn delete(&self, key: &[u8]) -> Result<()> {
        let mut transaction = self.environment.write_txn()?;
        self.database.delete(&mut transaction, key)?;
        Ok(transaction.commit()?)
    }

    fn delete_batch(&self, keys: &[Vec<u8>]) -> Result<()> {
        let mut transaction = self.environment.write_txn()?;
        for key in keys {
            self.database.delete(&mut transaction, key)?;
        }
        Ok(transaction.commit()?)
    }

    fn get(&self, key: &[u8], visit: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<bool> {
        let transaction = self.environment.read_txn()?;
        match self.database.get(&transaction, key)? {
            Some(value) => visit(value).map(|()| true),
            None => Ok(false),
        }
    }

    fn scan_prefix(&self, prefix: &[u8], visit: Visit<'_>) -> Result<()> {
        let transaction = self.environment.read_txn()?;
        for pair in self.database.prefix_iter(&transaction, prefix)? {
            let (key, value) = pair?;
            visit(key, value)?;
        }
        Ok(())
    }

    fn scan_from(&self, start: &[u8], limit: usize, visit: Visit<'_>) -> Result<bool> {
        let transaction = self.environment.read_txn()?;
        if start.is_empty() {
            for pair in self.database.iter(&transaction)?.take(limit) {
                let (key, value) = pair?;
                visit(key, value)?;
            }
            return Ok(true);
        }
        for pair in self.database.range(&transaction, &(Bound::Included(start), Bound::Unbounded))?.take(limit) {
            let (key, value) = pair?;
            visit(key, value)?;
        }
        Ok(true)
    }

    fn transact(&self, keys: [&[u8]; 2], value: &[u8], check: Check<'_>) -> Result<u32> {
        let mut transaction = self.environment.write_txn()?;
        for (at, key) in keys.into_iter().enumerate() {
            check(at, self.database.get(&transaction, key)?.context("a key is not there")?)?;
        }
        self.database.put(&mut transaction, keys[0], value)?;
        transaction.commit()?;
        Ok(0)
    }

    fn compact(&mut self) -> Result<bool> {
        Ok(false)
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(self.environment.force_sync()?)
    }
}

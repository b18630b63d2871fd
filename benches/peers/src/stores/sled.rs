//! sled 0.34: a lock-free B-tree over a log. Writes stay in a buffer of the process until it is
//! flushed.

use std::path::Path;

use anyhow::Result;
use sled::{Batch, Config, Db, Mode};

use super::entry::{CACHE_BYTES, Entry};
use crate::store::{Guarantee, Store, Visit};

pub(super) const ENTRY: Entry = Entry {
    id: "sled",
    package: "sled",
    version: "0.34.",
    survives_kill: false,
    by_default: true,
    usage: "cache of 2 GiB, `Mode::HighThroughput`; not synced: the flush every 500 ms that is its default, so a killed process \
            loses what came after the last one; synced: `flush` after the write; it offers no compaction",
    open,
    open_limited: None,
    open_for_transactions: None,
};

struct Sled {
    tree: Db,
    guarantee: Guarantee,
}

fn open(dir: &Path, guarantee: Guarantee) -> Result<Box<dyn Store>> {
    let tree = Config::new().path(dir).cache_capacity(CACHE_BYTES).mode(Mode::HighThroughput).open()?;
    Ok(Box::new(Sled { tree, guarantee }))
}

impl Sled {
    fn flush_if_synced(&self) -> Result<()> {
        if self.guarantee == Guarantee::Power {
            self.tree.flush()?;
        }
        Ok(())
    }
}

impl Store for Sled {
    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        self.tree.insert(key, value)?;
        self.flush_if_synced()
    }

    fn put_batch(&self, pairs: &[(Vec<u8>, Vec<u8>)]) -> Result<()> {
        let mut batch = Batch::default();
        for (key, value) in pairs {
            batch.insert(key.as_slice(), value.as_slice());
        }
        self.tree.apply_batch(batch)?;
        self.flush_if_synced()
    }

    fn delete(&self, key: &[u8]) -> Result<()> {
        self.tree.remove(key)?;
        self.flush_if_synced()
    }

    fn delete_batch(&self, keys: &[Vec<u8>]) -> Result<()> {
        let mut batch = Batch::default();
        keys.iter().for_each(|key| batch.remove(key.as_slice()));
        self.tree.apply_batch(batch)?;
        self.flush_if_synced()
    }

    fn get(&self, key: &[u8], visit: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<bool> {
        match self.tree.get(key)? {
            Some(value) => visit(&value).map(|()| true),
            None => Ok(false),
        }
    }

    fn scan_prefix(&self, prefix: &[u8], visit: Visit<'_>) -> Result<()> {
        for pair in self.tree.scan_prefix(prefix) {
            let (key, value) = pair?;
            visit(&key, &value)?;
        }
        Ok(())
    }

    fn scan_from(&self, start: &[u8], limit: usize, visit: Visit<'_>) -> Result<bool> {
        for pair in self.tree.range(start..).take(limit) {
            let (key, value) = pair?;
            visit(&key, &value)?;
        }
        Ok(true)
    }

    fn settle(&self) -> Result<()> {
        self.tree.flush()?;
        Ok(())
    }

    fn compact(&mut self) -> Result<bool> {
        self.tree.flush()?;
        Ok(false)
    }

    fn close(self: Box<Self>) -> Result<()> {
        self.tree.flush()?;
        Ok(())
    }
}

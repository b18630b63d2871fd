//! sled 1.0 (a pre-release): leaves of a chosen fan-out in memory, written by epochs in the
//! background.

use std::cell::RefCell;
use std::path::Path;
use std::sync::Mutex;

use anyhow::{Result, anyhow};
use sled_alpha::{Batch, Config, Db};

use super::entry::{CACHE_BYTES, Entry};
use crate::store::{Guarantee, Store, Visit};

pub(super) const ENTRY: Entry = Entry {
    id: "sled-1.0-alpha",
    package: "sled",
    version: "1.0.",
    survives_kill: false,
    by_default: false,
    usage: "a pre-release, beside the stable 0.34: cache of 2 GiB, a fan-out of 64 (the default of 1,024 is for sorted work), the least \
            compression; not synced: the flush every 200 ms that is its default, so a killed process loses what came after the last \
            one; synced: `flush` after the write; it offers no compaction",
    open,
    open_limited: None,
    open_for_transactions: None,
};

/// Number of keys in a leaf: few, because every change rewrites the whole leaf.
const FANOUT: usize = 64;

/// A handle belongs to one thread, so each thread clones its own.
struct SledAlpha {
    tree: Mutex<Db<FANOUT>>,
    guarantee: Guarantee,
}

thread_local! {
    static HANDLE: RefCell<Option<Db<FANOUT>>> = const { RefCell::new(None) };
}

fn open(dir: &Path, guarantee: Guarantee) -> Result<Box<dyn Store>> {
    let config = Config::new().path(dir).cache_capacity_bytes(usize::try_from(CACHE_BYTES)?).zstd_compression_level(1);
    let tree = Mutex::new(config.open::<FANOUT>()?);
    HANDLE.set(None);
    Ok(Box::new(SledAlpha { tree, guarantee }))
}

impl SledAlpha {
    /// Calls `act` with this thread's handle. A process opens one store at a time, so the handle is
    /// of this store.
    fn with<T>(&self, act: impl FnOnce(&Db<FANOUT>) -> Result<T>) -> Result<T> {
        HANDLE.with_borrow_mut(|handle| {
            if let Some(tree) = handle {
                return act(tree);
            }
            let tree = self.tree.lock().map_err(|_| anyhow!("a thread panicked with the handle"))?.clone();
            act(handle.insert(tree))
        })
    }

    fn write(&self, change: impl FnOnce(&Db<FANOUT>) -> Result<()>) -> Result<()> {
        self.with(|tree| {
            change(tree)?;
            if self.guarantee == Guarantee::Power {
                tree.flush()?;
            }
            Ok(())
        })
    }
}

impl Store for SledAlpha {
    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        self.write(|tree| tree.insert(key, value).map(|_| ()).map_err(Into::into))
    }

    fn put_batch(&self, pairs: &[(Vec<u8>, Vec<u8>)]) -> Result<()> {
        let mut batch = Batch::default();
        for (key, value) in pairs {
            batch.insert(key.as_slice(), value.as_slice());
        }
        self.write(|tree| Ok(tree.apply_batch(batch)?))
    }

    fn delete(&self, key: &[u8]) -> Result<()> {
        self.write(|tree| tree.remove(key).map(|_| ()).map_err(Into::into))
    }

    fn delete_batch(&self, keys: &[Vec<u8>]) -> Result<()> {
        let mut batch = Batch::default();
        keys.iter().for_each(|key| batch.remove(key.as_slice()));
        self.write(|tree| Ok(tree.apply_batch(batch)?))
    }

    fn get(&self, key: &[u8], visit: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<bool> {
        self.with(|tree| match tree.get(key)? {
            Some(value) => visit(&value).map(|()| true),
            None => Ok(false),
        })
    }

    fn scan_prefix(&self, prefix: &[u8], visit: Visit<'_>) -> Result<()> {
        self.with(|tree| {
            for pair in tree.scan_prefix(prefix) {
                let (key, value) = pair?;
                visit(&key, &value)?;
            }
            Ok(())
        })
    }

    fn scan_from(&self, start: &[u8], limit: usize, visit: Visit<'_>) -> Result<bool> {
        self.with(|tree| {
            for pair in tree.range(start..).take(limit) {
                let (key, value) = pair?;
                visit(&key, &value)?;
            }
            Ok(true)
        })
    }

    fn settle(&self) -> Result<()> {
        self.with(|tree| tree.flush().map(|_| ()).map_err(Into::into))
    }

    fn compact(&mut self) -> Result<bool> {
        self.settle().map(|()| false)
    }

    fn close(self: Box<Self>) -> Result<()> {
        self.settle()?;
        HANDLE.set(None);
        Ok(())
    }
}

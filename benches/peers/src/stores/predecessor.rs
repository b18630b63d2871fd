//! hightower-kv 0.1.5, the predecessor. Its values are on the heap; a put does one write(2) to the
//! log.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use predecessor::{KvEngine, SingleNodeEngine, StoreConfig};

use super::entry::Entry;
use crate::store::{Guarantee, Store, Visit};

pub(super) const ENTRY: Entry = Entry {
    id: "hightower-kv-0.1",
    package: "hightower-kv",
    version: "0.1.",
    survives_kill: true,
    by_default: true,
    usage: "inline (0 worker threads, its fastest for callers that wait), compaction only when asked for; synced: `put`, then \
            `flush`. A batch is not atomic; the only scan that it offers is `get_prefix`, which looks at every key, copies and has no \
            order, so it is sorted here",
    open,
    open_limited: None,
    open_for_transactions: None,
};

struct Predecessor {
    engine: SingleNodeEngine,
    guarantee: Guarantee,
}

fn open(dir: &Path, guarantee: Guarantee) -> Result<Box<dyn Store>> {
    let engine = SingleNodeEngine::with_config(StoreConfig {
        data_dir: dir.to_str().context("the path is not UTF-8")?.to_owned(),
        worker_threads: 0,
        compaction_interval: Duration::ZERO,
        ..StoreConfig::default()
    })?;
    Ok(Box::new(Predecessor { engine, guarantee }))
}

impl Predecessor {
    fn flush_if_synced(&self) -> Result<()> {
        if self.guarantee == Guarantee::Power {
            self.engine.flush()?;
        }
        Ok(())
    }
}

impl Store for Predecessor {
    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        self.engine.put(key.to_vec(), value.to_vec())?;
        self.flush_if_synced()
    }

    fn put_batch(&self, pairs: &[(Vec<u8>, Vec<u8>)]) -> Result<()> {
        for (key, value) in pairs {
            self.engine.put(key.clone(), value.clone())?;
        }
        self.flush_if_synced()
    }

    fn delete(&self, key: &[u8]) -> Result<()> {
        self.engine.delete(key.to_vec())?;
        self.flush_if_synced()
    }

    fn get(&self, key: &[u8], visit: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<bool> {
        match self.engine.get(key)? {
            Some(value) => visit(&value).map(|()| true),
            None => Ok(false),
        }
    }

    fn scan_prefix(&self, prefix: &[u8], visit: Visit<'_>) -> Result<()> {
        let mut pairs = self.engine.get_prefix(prefix)?;
        pairs.sort_unstable();
        pairs.iter().try_for_each(|(key, value)| visit(key, value))
    }

    fn scan_from(&self, start: &[u8], limit: usize, visit: Visit<'_>) -> Result<bool> {
        if !start.is_empty() || limit != usize::MAX {
            return Ok(false);
        }
        self.scan_prefix(&[], visit).map(|()| true)
    }

    fn compact(&mut self) -> Result<bool> {
        self.engine.run_compaction_now()?;
        Ok(true)
    }

    fn close(self: Box<Self>) -> Result<()> {
        self.engine.flush()?;
        Ok(())
    }
}

//! The store of this workspace.

use std::ops::ControlFlow;
use std::path::Path;

use anyhow::{Result, bail, ensure};
use hightower_engine::{Batch, Durability, Range, SingleNodeEngine, StoreConfig};

use super::entry::{Entry, OWN};
use crate::store::{Check, Guarantee, Store, Visit};

pub(super) const ENTRY: Entry = Entry {
    id: OWN,
    package: "hightower-engine",
    version: "",
    survives_kill: true,
    by_default: true,
    usage: "default settings but the durability: `Os`, or `Sync` where synced; compaction: `run_compaction_now`",
    open,
    open_limited: Some(open_limited),
    open_for_transactions: Some(open),
};

struct Own {
    engine: SingleNodeEngine,
    /// Whether work in the background ends with a checkpoint, after which all keys are in tables.
    settles_to_tables: bool,
}

fn open(dir: &Path, guarantee: Guarantee) -> Result<Box<dyn Store>> {
    let engine = SingleNodeEngine::with_config(config(dir, guarantee))?;
    Ok(Box::new(Own { engine, settles_to_tables: false }))
}

/// With an eighth of the memory for memtables: 64 MiB of 512.
fn open_limited(dir: &Path, guarantee: Guarantee, limit_bytes: u64) -> Result<Box<dyn Store>> {
    let config = config(dir, guarantee).with_index_memory_bytes(limit_bytes / 8);
    Ok(Box::new(Own { engine: SingleNodeEngine::with_config(config)?, settles_to_tables: true }))
}

fn config(dir: &Path, guarantee: Guarantee) -> StoreConfig {
    let durability = match guarantee {
        Guarantee::Process => Durability::Os,
        Guarantee::Power => Durability::Sync,
    };
    StoreConfig::at(dir).with_durability(durability)
}

fn visit_pairs(mut range: Range, limit: usize, visit: Visit<'_>) -> Result<()> {
    let (mut left, mut result) = (limit, Ok(()));
    if left == 0 {
        return result;
    }
    range.for_each_pair(|key, value| {
        result = visit(key, value);
        left -= 1;
        if left == 0 || result.is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    result
}

impl Store for Own {
    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        self.engine.put(key, value)?;
        Ok(())
    }

    fn put_batch(&self, pairs: &[(Vec<u8>, Vec<u8>)]) -> Result<()> {
        let mut batch = Batch::new();
        for (key, value) in pairs {
            batch.put(key, value);
        }
        ensure!(self.engine.commit(&batch)?.is_committed(), "a batch without requirements was rejected");
        Ok(())
    }

    fn delete(&self, key: &[u8]) -> Result<()> {
        self.engine.delete(key)?;
        Ok(())
    }

    fn get(&self, key: &[u8], visit: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<bool> {
        self.engine.get_with(key, visit)?.transpose().map(|found| found.is_some())
    }

    fn scan_prefix(&self, prefix: &[u8], visit: Visit<'_>) -> Result<()> {
        visit_pairs(self.engine.prefix(prefix)?, usize::MAX, visit)
    }

    fn scan_from(&self, start: &[u8], limit: usize, visit: Visit<'_>) -> Result<bool> {
        visit_pairs(self.engine.range(start..)?, limit, visit).map(|()| true)
    }

    fn transact(&self, keys: [&[u8]; 2], value: &[u8], check: Check<'_>) -> Result<u32> {
        let (mut runs, mut checked) = (0, Ok(()));
        self.engine.update(|transaction| {
            runs += 1;
            for (at, key) in keys.into_iter().enumerate() {
                let found = transaction.get(key)?;
                checked = found.map_or_else(|| bail!("a key is not there"), |found| check(at, &found));
            }
            transaction.put(keys[0], value)
        })?;
        checked.map(|()| runs - 1)
    }

    fn settle(&self) -> Result<()> {
        if self.settles_to_tables {
            // Waits for a merge that runs, too.
            self.engine.checkpoint()?;
        }
        Ok(self.engine.flush()?)
    }

    fn compact(&mut self) -> Result<bool> {
        self.engine.run_compaction_now()?;
        Ok(true)
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(self.engine.close()?)
    }
}

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
    open_for_transactions: Some(open),
};

struct Own(SingleNodeEngine);

fn open(dir: &Path, guarantee: Guarantee) -> Result<Box<dyn Store>> {
    let durability = match guarantee {
        Guarantee::Process => Durability::Os,
        Guarantee::Power => Durability::Sync,
    };
    let config = StoreConfig::at(dir).with_durability(durability);
    Ok(Box::new(Own(SingleNodeEngine::with_config(config)?)))
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
        self.0.put(key, value)?;
        Ok(())
    }

    fn put_batch(&self, pairs: &[(Vec<u8>, Vec<u8>)]) -> Result<()> {
        let mut batch = Batch::new();
        for (key, value) in pairs {
            batch.put(key, value);
        }
        ensure!(self.0.commit(&batch)?.is_committed(), "a batch without requirements was rejected");
        Ok(())
    }

    fn delete(&self, key: &[u8]) -> Result<()> {
        self.0.delete(key)?;
        Ok(())
    }

    fn get(&self, key: &[u8], visit: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<bool> {
        self.0.get_with(key, visit)?.transpose().map(|found| found.is_some())
    }

    fn scan_prefix(&self, prefix: &[u8], visit: Visit<'_>) -> Result<()> {
        visit_pairs(self.0.prefix(prefix)?, usize::MAX, visit)
    }

    fn scan_from(&self, start: &[u8], limit: usize, visit: Visit<'_>) -> Result<bool> {
        visit_pairs(self.0.range(start..)?, limit, visit).map(|()| true)
    }

    fn transact(&self, keys: [&[u8]; 2], value: &[u8], check: Check<'_>) -> Result<u32> {
        let (mut runs, mut checked) = (0, Ok(()));
        self.0.update(|transaction| {
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
        Ok(self.0.flush()?)
    }

    fn compact(&mut self) -> Result<bool> {
        self.0.run_compaction_now()?;
        Ok(true)
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(self.0.close()?)
    }
}

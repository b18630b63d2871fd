//! Reads during the storm: each result is compared with the model.

use std::ops::ControlFlow;

use anyhow::{Result, anyhow, ensure};
use hightower_engine::{Entry, SingleNodeEngine, SnapshotEngine};

use super::{Caller, GROUPS, HELD, HeldRead, KEYS, group, key};
use crate::hostile::model::Reading;
use crate::hostile::store::{Called, Handle, Store};
use crate::hostile::watch::doing;

impl Caller<'_> {
    pub(super) fn get(&mut self, handle: &Handle) -> Result<()> {
        let key = self.any_key();
        let store = self.store;
        let reading = store.model.read();
        match self.random.below(3) {
            0 => {
                let Called::Done(found) = store.call(handle, "get", &key, |engine| engine.get(&key))? else {
                    return Ok(());
                };
                reading.check(&key, found.as_deref(), None)?;
                if let Some(found) = found {
                    let copy = found.to_vec();
                    self.hold(HeldRead::Value(found, copy));
                }
                Ok(())
            }
            1 => {
                let copy = |engine: &SingleNodeEngine| engine.get_with(&key, <[u8]>::to_vec);
                let Called::Done(found) = store.call(handle, "get", &key, copy)? else { return Ok(()) };
                reading.check(&key, found.as_deref(), None)
            }
            _ => {
                let versioned = |engine: &SingleNodeEngine| engine.get_versioned(&key);
                let Called::Done(found) = store.call(handle, "get", &key, versioned)? else { return Ok(()) };
                let version = found.as_ref().map(|(_, version)| *version);
                reading.check(&key, found.as_ref().map(|(value, _)| &value[..]), version)
            }
        }
    }

    pub(super) fn multi_get(&mut self, handle: &Handle) -> Result<()> {
        let store = self.store;
        let reading = store.model.read();
        let keys = group(self.random.next());
        let Called::Done(found) = store.call(handle, "multi_get", &keys[0], |engine| engine.multi_get(&keys))? else {
            return Ok(());
        };
        check_group(&keys, found.iter().map(|value| value.as_deref()))?;
        keys.iter().zip(&found).try_for_each(|(key, value)| reading.check(key, value.as_deref(), None))
    }

    /// Reads everything in order from either end, as of one moment.
    pub(super) fn range(&mut self, handle: &Handle) -> Result<()> {
        let store = self.store;
        let reading = store.model.read();
        let Called::Done(mut range) = store.call(handle, "range", "", |engine| engine.range(..))? else {
            return Ok(());
        };
        let is_reversed = self.random.once_in(2);
        let mut found: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        {
            let _doing = doing("iterate", "");
            let mut next = || if is_reversed { range.next_back() } else { range.next() };
            while let Some(entry) = next() {
                let entry = entry.map_err(|error| anyhow!("a range cannot be read: {error}"))?;
                let value = entry.value().map_err(|error| anyhow!("an entry cannot be read: {error}"))?;
                found.push((entry.key().to_vec(), value.to_vec()));
                if self.held.len() < HELD && self.random.once_in(40) {
                    let value = value.to_vec();
                    self.held.push(HeldRead::Entry(entry, value));
                }
            }
        }
        if is_reversed {
            found.reverse();
        }
        ensure!(found.is_sorted_by(|(one, _), (next, _)| one < next), "the keys of a range are not in order");
        check_all(store, &found, &reading)
    }

    /// Reads pairs in place, in two visits, and may keep the rest for later.
    pub(super) fn visit(&mut self, handle: &Handle) -> Result<()> {
        let store = self.store;
        let reading = store.model.read();
        let Called::Done(mut range) = store.call(handle, "visit", "", |engine| engine.range(..))? else {
            return Ok(());
        };
        let stop_at = self.random.below(KEYS);
        let mut found = Vec::new();
        let _doing = doing("visit", "");
        let first = range.for_each_pair(|key, value| {
            found.push((key.to_vec(), value.to_vec()));
            if found.len() as u64 > stop_at { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        first.map_err(|error| anyhow!("a visit fails: {error}"))?;
        let kept = self.random.once_in(3);
        if kept {
            // A snapshot of the same moment has the rest.
            let rest = range.snapshot().range(..).collect_pairs(usize::MAX);
            let rest = rest.map_err(|error| anyhow!("a snapshot cannot be read: {error}"))?;
            let rest: Vec<_> = rest.into_iter().map(|(key, value)| (key, value.into_vec())).collect();
            ensure!(rest.starts_with(&found), "a visit and its snapshot differ");
            let rest = rest[found.len()..].to_vec();
            self.hold(HeldRead::Range(Box::new(range), rest));
            return Ok(());
        }
        for pair in &mut range {
            let pair = pair.and_then(Entry::into_pair).map_err(|error| anyhow!("an entry cannot be read: {error}"))?;
            found.push((pair.0, pair.1.into_vec()));
        }
        check_all(store, &found, &reading)
    }

    pub(super) fn presence(&mut self, handle: &Handle) -> Result<()> {
        let key = self.any_key();
        let store = self.store;
        let reading = store.model.read();
        let called = store.call(handle, "presence", &key, |engine| engine.contains_key(&key))?;
        if let Called::Done(is_there) = called {
            reading.check_presence(&key, is_there)?;
        }
        let (len, most) = (handle.engine.len(), store.model.keys().count());
        ensure!(len <= most, "{len} keys have a value, of {most} that were ever written");
        Ok(())
    }

    pub(super) fn snapshot(&mut self, handle: &Handle) -> Result<()> {
        let store = self.store;
        let reading = store.model.read();
        let Called::Done(snapshot) = store.call(handle, "snapshot", "", SingleNodeEngine::snapshot)? else {
            return Ok(());
        };
        let mut seen = Vec::new();
        let keys = group(self.random.next());
        for key in keys.iter().cloned().chain((0..8).map(|_| key(self.random.next()))) {
            let found = snapshot.get_versioned(&key).map_err(|error| anyhow!("a snapshot cannot be read: {error}"))?;
            let version = found.as_ref().map(|(_, version)| *version);
            reading.check(&key, found.as_ref().map(|(value, _)| &value[..]), version)?;
            seen.push((key, found.map(|(value, _)| value.into_vec())));
        }
        check_group(&keys, seen.iter().take(keys.len()).map(|(_, value)| value.as_deref()))?;
        if self.random.once_in(4) {
            store.call(handle, "snapshot", "state", SnapshotEngine::snapshot_state).map(drop)?;
        }
        self.hold(HeldRead::Snapshot(snapshot, seen));
        Ok(())
    }
}

/// All keys of a group have the value of the same write, or none has one.
fn check_group<'v>(keys: &[String], values: impl Iterator<Item = Option<&'v [u8]>>) -> Result<()> {
    let numbers: Vec<_> = values.map(|value| value.and_then(|value| value.first_chunk::<8>().copied())).collect();
    ensure!(numbers.iter().all(|number| *number == numbers[0]), "a batch is there in part: {keys:?} have {numbers:?}");
    Ok(())
}

/// The result of a full range, as of one moment.
pub(super) fn check_all(store: &Store, found: &[(Vec<u8>, Vec<u8>)], reading: &Reading<'_>) -> Result<()> {
    let find = |key: &str| {
        let at = found.binary_search_by(|(known, _)| known.as_slice().cmp(key.as_bytes())).ok()?;
        Some(&found[at].1[..])
    };
    for number in 0..GROUPS {
        let keys = group(number);
        check_group(&keys, keys.iter().map(|key| find(key)))?;
    }
    store.model.keys().try_for_each(|key| reading.check(key, find(key), None))?;
    ensure!(
        found.iter().all(|(key, _)| store.model.keys().any(|known| known.as_bytes() == key)),
        "a range has keys that nobody has written"
    );
    Ok(())
}

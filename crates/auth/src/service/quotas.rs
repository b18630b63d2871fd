//! Quotas of grants: the check of writes.
//!
//! Writes that a quota limits update its count one at a time under the quota's lock, so they never
//! exceed the quota. Other writes (of the embedding program, of other grants, of another service on
//! the same engine) are counted later: see [`quota_counts`](super::quota_counts).

use std::collections::{BTreeMap, HashMap};

use hightower_engine::{
    Batch, BatchChange, BatchOutcome, Committed, Durability, Error as EngineError, KeyspaceEngine,
    Result as EngineResult,
};

use super::AuthService;
use super::permissions::AccessRights;
use super::quota_counts::{RangeCount, WriteGrowth};
use crate::crypto::{EnvelopeEncryptor, SecretHasher};
use crate::error::Result;
use crate::mutants::planted;
use crate::permission::{Action, KeyRange};
use crate::quota::{Quota, QuotaUse};

/// A quota that limits a batch, and the changes that it limits.
struct Holding {
    quota: Quota,
    changes: Vec<usize>,
}

/// The length and version of a key's value.
type HeldQuota = Option<(u64, u64)>;

impl<E: KeyspaceEngine, H: SecretHasher, C: EnvelopeEncryptor> AuthService<E, H, C> {
    /// Commits a batch that `access` allows, if it does not exceed the quotas of its grants.
    ///
    /// # Errors
    /// [`EngineError::Full`] if it exceeds a quota; [`EngineError::Denied`] if it merges a value
    /// that a quota counts, because its length is not known before; the engine's.
    pub(crate) fn commit_within_quotas(
        &self,
        access: &AccessRights,
        batch: Batch,
        durability: Option<Durability>,
    ) -> EngineResult<BatchOutcome> {
        let engine = &self.shared.engine;
        let commit = |batch: &Batch| match durability {
            Some(durability) => engine.commit_with(batch, durability),
            None => engine.commit(batch),
        };
        if !access.sets().any(|set| set.has_quotas()) {
            return commit(&batch);
        }
        let mut holding: BTreeMap<&KeyRange, Holding> = BTreeMap::new();
        for (at, change) in batch.changes().enumerate() {
            let action = if change.given.is_some() { Action::Admin } else { Action::Write };
            for (range, quota) in access.sets().flat_map(|set| set.quotas(action, change.key)) {
                let new = || Holding { quota: quota.clone(), changes: Vec::new() };
                let held = holding.entry(range).or_insert_with(new);
                held.quota = held.quota.and(quota);
                if change.merge.is_some() && !planted("auth_merges_exceed_quotas") {
                    let what = "a quota counts the values of this key, so they must not be merged: put them";
                    return Err(EngineError::Denied(what.into()));
                }
                if held.changes.last() != Some(&at) {
                    held.changes.push(at);
                }
            }
        }
        if holding.is_empty() {
            return commit(&batch);
        }

        // All callers take the locks in the order of the ranges.
        let counts: Vec<_> = holding.keys().map(|range| self.shared.quotas.of(range)).collect();
        let mut guards: Vec<_> = match planted("auth_quota_unlocked") {
            true => Vec::new(),
            false => counts.iter().map(|count| count.lock()).collect(),
        };
        let changes: Vec<BatchChange<'_>> = batch.changes().collect();
        let is_held = |key: &[u8]| holding.keys().any(|range| range.contains(key));
        let mut held: HashMap<&[u8], HeldQuota> = HashMap::new();
        let looked = changes.iter().filter(|change| is_held(change.key)).try_for_each(|change| {
            if !held.contains_key(change.key) {
                let found = engine.get_versioned(change.key)?;
                held.insert(change.key, found.map(|(value, version)| (value.len() as u64, version)));
            }
            Ok(())
        });
        if let Err(error) = looked {
            if changes.iter().any(|change| change.value.is_some()) {
                return Err(error);
            }
            // An unreadable value can still be deleted.
            guards.iter_mut().for_each(|count| **count = RangeCount::default());
            drop(changes);
            return commit(&batch);
        }

        let clock = &*self.options().clock;
        for (at, (range, holding)) in holding.iter().enumerate() {
            let growth = growth(&changes, &holding.changes, &held);
            match guards.get_mut(at) {
                Some(count) => count.admit(engine, range, &holding.quota, growth, clock)?,
                None => counts[at].lock().admit(engine, range, &holding.quota, growth, clock)?,
            }
        }
        let outcome = commit(&batch)?;
        if let BatchOutcome::Committed(Committed { outcomes, .. }) = &outcome {
            let mut lens: HashMap<&[u8], Option<u64>> =
                held.iter().map(|(key, held)| (*key, held.map(|(len, _)| len))).collect();
            for (change, _) in changes.iter().zip(outcomes).filter(|(_, outcome)| outcome.changed()) {
                let Some(len) = lens.get_mut(change.key) else { continue };
                let after = change.value.map(|value| value.len() as u64);
                for (at, _) in holding.keys().enumerate().filter(|(_, range)| range.contains(change.key)) {
                    match guards.get_mut(at) {
                        Some(count) => count.follow(change.key, *len, after),
                        None => counts[at].lock().follow(change.key, *len, after),
                    }
                }
                *len = after;
            }
        }
        Ok(outcome)
    }

    /// The current use of `range`, as a [`Quota`] counts it. It reads the whole range.
    ///
    /// # Errors
    /// The engine's.
    pub fn quota_use(&self, range: &KeyRange) -> Result<QuotaUse> {
        let mut count = RangeCount::default();
        count.whole(&self.shared.engine, range, &*self.options().clock)?;
        Ok(count.used.unwrap_or_default())
    }
}

/// The maximum that some changes of a batch add. A command with an explicit version may be stale; a
/// stale delete frees nothing.
fn growth(changes: &[BatchChange<'_>], bound: &[usize], held: &HashMap<&[u8], HeldQuota>) -> WriteGrowth {
    let is_certain = changes.iter().all(|change| change.given.is_none()) || planted("auth_quota_trusts_versions");
    let mut lens: HashMap<&[u8], Option<u64>> = HashMap::new();
    for change in bound.iter().filter_map(|&at| changes.get(at)) {
        let before = held.get(change.key).copied().flatten();
        if change.given.is_some_and(|(version, _)| before.is_some_and(|(_, held)| version <= held)) {
            continue; // stale
        }
        let after = change.value.map(|value| value.len() as u64);
        let len = lens.entry(change.key).or_insert(before.map(|(len, _)| len));
        *len = if is_certain { after } else { after.max(*len) };
    }
    let mut growth = WriteGrowth::default();
    for (key, after) in lens {
        let before = held.get(key).copied().flatten();
        let len = |value: Option<u64>| value.map_or(0, |len| len.saturating_add(key.len() as u64)).cast_signed();
        growth.keys += i64::from(after.is_some()) - i64::from(before.is_some());
        growth.bytes += len(after) - len(before.map(|(len, _)| len));
    }
    growth
}

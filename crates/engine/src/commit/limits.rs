//! The quotas of keyspaces in a commit.
//!
//! The keys that a commit changes in keyspaces with a quota are read before the lock. Under it,
//! only their versions are compared: if one has changed, or the levels have, the commit is prepared
//! again. So the growth is exact, and no record is read under the lock.

use std::collections::HashMap;

use hightower_index::{Guard, pin};
use hightower_state::{CommandKind, LeveledKvState, LeveledWriter, LookedBelow};

use super::WritePath;
use super::limited::{HeldValue, LimitedChanges, LimitedKey};
use super::pending::{PendingCommit, PendingRecord, Records};
use crate::error::{Error, Result};
use crate::keyspace::{KeyspaceGrowth, KeyspaceId, KeyspaceUse, UserKey, is_stored_as_is};
use crate::mutants::planted;
use crate::place::Place;
use crate::snapshot::Snapshot;
use crate::sync::step;

/// The keyspace of a stored key, unless it is the default one.
fn named_keyspace(key: &[u8]) -> Option<UserKey<'_>> {
    if is_stored_as_is(key) { None } else { Some(UserKey::of(key)) }
}

/// Whether the record may set a value; of a merge that is not known before its evaluation.
fn may_set(record: &PendingRecord<'_>) -> bool {
    record.is_merged || record.kind() == CommandKind::Set
}

impl WritePath {
    /// Counts the keyspaces that get a value and are not counted yet. Before the guard of a commit,
    /// because it may take long.
    #[cold]
    pub(super) fn count_what_is_due<'a, R: Records<'a>>(&self, commit: &PendingCommit<'a, R>) -> Result<()> {
        for record in commit.records.as_ref().iter().filter(|record| may_set(record)) {
            if let Some(UserKey { keyspace, .. }) = named_keyspace(record.key)
                && self.quotas.needs_count(keyspace)
            {
                self.count(keyspace)?;
            }
        }
        Ok(())
    }

    /// Counts a keyspace with a quota, unless another thread has just done so.
    fn count(&self, id: KeyspaceId) -> Result<()> {
        let _turn = self.quotas.turn.lock()?;
        if !self.quotas.needs_count(id) {
            return Ok(());
        }
        self.quotas.begin_count(id);
        let scanned = self.scan_of(id);
        self.quotas.end_count(id, scanned.as_ref().ok().copied());
        scanned.map(drop)
    }

    fn scan_of(&self, id: KeyspaceId) -> Result<(KeyspaceUse, u64)> {
        step();
        // A commit that has not seen that the count has begun is published when this returns.
        drop(self.log.lock()?);
        step();
        let snapshot = Snapshot::new(&self.read)?.of(id);
        Ok((snapshot.keyspace_use()?, snapshot.seq()))
    }

    /// The use of a keyspace: as counted, otherwise by a scan.
    pub(crate) fn use_of(&self, id: KeyspaceId) -> Result<KeyspaceUse> {
        match self.quotas.known(id) {
            Some(used) => Ok(used),
            None => Snapshot::new(&self.read)?.of(id).keyspace_use(),
        }
    }

    /// Reads the keys of the commit that lie in keyspaces with a quota.
    #[cold]
    pub(super) fn prepare_limits<'a, R: Records<'a>>(
        &self,
        commit: &mut PendingCommit<'a, R>,
        state: &LeveledKvState<Place>,
        guard: &Guard,
    ) {
        let mut limited = LimitedChanges::default();
        if let Err(failure) = self.read_limited(&mut limited, commit.records.as_ref(), state, guard) {
            limited.failure = Some(failure);
        }
        let is_limited = !limited.keys.is_empty() || limited.failure.is_some();
        commit.limited = is_limited.then(|| Box::new(limited));
    }

    fn read_limited(
        &self,
        limited: &mut LimitedChanges,
        records: &[PendingRecord<'_>],
        state: &LeveledKvState<Place>,
        guard: &Guard,
    ) -> Result<()> {
        for (at, record) in records.iter().enumerate() {
            let Some(UserKey { keyspace, .. }) = named_keyspace(record.key) else { continue };
            if !self.quotas.counts().contains_key(&keyspace) {
                continue;
            }
            let is_delete = !may_set(record);
            // Only if the quota is new.
            if !is_delete && self.quotas.needs_count(keyspace) {
                self.count(keyspace)?;
            }
            let (below, held) = match self.held(record.key, state, guard) {
                Ok((below, held)) => (Some(below), held),
                // A delete needs no look-up, so it works on what is damaged.
                Err(Error::Corrupt { .. }) if is_delete && !planted("quota_keeps_damaged_values") => {
                    (None, HeldValue::Unknown)
                }
                Err(failure) => return Err(failure),
            };
            limited.keys.push(LimitedKey { at, below, held });
        }
        Ok(())
    }

    /// What the levels have of a key.
    fn held(&self, key: &[u8], state: &LeveledKvState<Place>, guard: &Guard) -> Result<(LookedBelow, HeldValue)> {
        let below = self.below(key, state, guard)?;
        let find = |guard| state.get(key, guard);
        let found = self.read.read(key, &pin(), find, |value, version| (value.len(), version))?;
        Ok((below, found.map_or(HeldValue::Absent, |(len, version)| HeldValue::Present { version, len })))
    }

    /// Checks the quotas of an evaluated commit, under the commit lock; returns whether what was
    /// read before the lock is still so.
    #[cold]
    pub(super) fn check_limits<'a, R: Records<'a>>(
        &self,
        commit: &mut PendingCommit<'a, R>,
        state: &LeveledWriter<'_, Place>,
    ) -> Result<bool> {
        let mut limited = commit.limited.take().unwrap_or_default();
        if let Some(failure) = limited.failure.take() {
            return Err(failure);
        }
        let counts = self.quotas.counts();
        let mut known = limited.keys.iter().peekable();
        // Of each key: its keyspace and user's length, what it had, and what it gets.
        let mut lens: HashMap<&[u8], (UserKey<'_>, HeldValue, Option<usize>)> = HashMap::new();
        for (at, record) in commit.records.as_ref().iter().enumerate() {
            let known = known.next_if(|known| known.at == at);
            let Some(user_key) = named_keyspace(record.key) else { continue };
            let Some(counted) = counts.get(&user_key.keyspace).filter(|_| record.is_written()) else { continue };
            let is_delete = record.kind() == CommandKind::Delete;
            let Some(LimitedKey { below, held, .. }) = known.filter(|_| is_delete || counted.known().is_some()) else {
                return Ok(false);
            };
            let is_same = match held {
                HeldValue::Unknown => true,
                HeldValue::Absent | HeldValue::Present { .. } => {
                    let Ok(newest) = state.newest_of(record.key, below.as_ref()) else { return Ok(false) };
                    newest.and_then(|newest| newest.version_of_value()) == held.version()
                }
            };
            if !is_same && !planted("quota_trusts_the_first_look") {
                return Ok(false);
            }
            let after = (!is_delete).then(|| record.value_bytes().len());
            lens.entry(record.key).or_insert((user_key, *held, after)).2 = after;
            if planted("quota_of_the_first_key_only") {
                break;
            }
        }
        for (UserKey { keyspace, key }, held, after) in lens.into_values() {
            let at = limited.growth.iter().position(|(id, _)| *id == keyspace);
            let at = at.unwrap_or_else(|| {
                limited.growth.push((keyspace, KeyspaceGrowth::default()));
                limited.growth.len() - 1
            });
            let growth = &mut limited.growth[at].1;
            let bytes = |len: Option<usize>| len.map_or(0, |len| (len + key.len()).cast_signed() as i64);
            growth.keys += i64::from(after.is_some()) - i64::from(held.len().is_some());
            growth.bytes += bytes(after) - bytes(held.len());
            growth.is_unknown |= held == HeldValue::Unknown;
        }
        for (keyspace, growth) in &limited.growth {
            counts.get(keyspace).map_or(Ok(()), |counted| counted.check(*growth))?;
        }
        drop(counts);
        commit.limited = Some(limited);
        Ok(true)
    }

    /// Counts a published commit, under the commit lock.
    #[cold]
    pub(super) fn note_limits(&self, limited: &LimitedChanges, seqno: u64) {
        step();
        let mut counts = self.quotas.counts();
        for (keyspace, growth) in &limited.growth {
            if let Some(counted) = counts.get_mut(keyspace) {
                counted.note(seqno, *growth);
            }
        }
    }
}

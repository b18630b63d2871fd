//! The write path of merges.

use hightower_index::Guard;
use hightower_state::{CommandKind, LeveledKvState, LookedBelow, Lookup, NewestCommand, NewestRecord, ViewChanged};

use crate::batch::check_value_len;
use crate::commit::WritePath;
use crate::commit::merging::{Basis, MergeValues, PendingMerge};
use crate::commit::pending::{BatchRecords, PendingCommit, PendingRecord, Records, Write};
use crate::config::Durability;
use crate::error::Result;
use crate::keyspace::{check_key, user_part};
use crate::merge::Operator;
use crate::merger::Merger;
use crate::place::Place;
use crate::value::Value;

impl WritePath {
    /// The operators of merges.
    pub(crate) fn merger(&self) -> &Merger {
        &self.merger
    }

    /// Commits one merge of a key without a value of its own, and waits for `durability`. Returns
    /// the value after it.
    pub(crate) fn commit_merge(
        &self,
        write: Write<'_>,
        operator: &Operator,
        durability: Durability,
    ) -> Result<Option<Value>> {
        let Write { key, value, keyspace, .. } = write;
        let operand = value.unwrap_or_default();
        check_key(key)?;
        check_value_len(operand.len())?;
        let values = MergeValues::default();
        let mut record = PendingRecord::new(write, 0, self.time.now_ms());
        record.is_merged = true;
        let merges = vec![PendingMerge::new(operator, operand, &values)];
        let mut group = [PendingCommit::new(BatchRecords { records: vec![record], merges }, durability)];
        if let Some(keyspace) = keyspace {
            group[0].keyspaces = std::slice::from_ref(keyspace);
        }
        self.commit(&mut group, |_, state, guard| state.prefetch(&[key], |key| key, guard, |_| ()))?;
        let [PendingCommit { records: BatchRecords { merges, .. }, result, .. }] = group;
        result?;
        Ok(merges.first().and_then(PendingMerge::value).map(Value::from))
    }

    /// Evaluates a commit without the lock: what is kept are the results of its merges.
    #[cold]
    pub(super) fn merge_ahead<'a, R: Records<'a>>(
        &self,
        commit: &mut PendingCommit<'a, R>,
        state: &LeveledKvState<Place>,
        guard: &Guard,
    ) -> Result<()> {
        if commit.records.parts().1.is_empty() {
            return Ok(());
        }
        let newest = |key: &[u8], below: Option<&LookedBelow>| match state.get(key, guard) {
            Lookup::Found(found) => {
                let command = NewestCommand { version: found.version, kind: CommandKind::Set };
                Ok(Some(NewestRecord { command, location: found.location, is_recent: true }))
            }
            Lookup::Absent => Ok(None),
            Lookup::Below(_) => below.map(LookedBelow::newest).ok_or(ViewChanged),
        };
        commit.evaluate(newest, 0, |merge, key, basis| self.merge(merge, key, basis, guard).map(|()| true)).map(drop)
    }

    /// Evaluates a merge for a key with this value.
    #[cold]
    pub(super) fn merge<'a>(
        &self,
        merge: &mut PendingMerge<'a>,
        key: &[u8],
        basis: Basis<'a>,
        guard: &Guard,
    ) -> Result<()> {
        let (operator, operand, key) = (merge.operator, merge.operand, user_part(key));
        let mut merge_with = |existing: Option<&[u8]>| {
            merge.keep(basis, existing, self.merger.merge(operator, key, existing, operand));
        };
        match basis {
            Basis::Stored(None, _) => merge_with(None),
            Basis::Stored(Some(place), _) => self.read.value_at(place, guard, |value, _| merge_with(Some(value)))?,
            Basis::Earlier(value) => merge_with(value),
        }
        Ok(())
    }
}

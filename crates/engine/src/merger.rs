//! Calls of merge operators.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::components::Components;
use crate::error::{Error, Result};
use crate::guarded::Panics;
use crate::merge::{MergeOperator, MergeOutcome, Operator, counter};
use crate::mutants::planted;

thread_local! {
    /// Whether an operator runs on this thread.
    static IS_MERGING: Cell<bool> = const { Cell::new(false) };
}

/// Whether an operator runs on this thread. It may hold the commit lock.
#[inline]
pub(crate) fn is_merging() -> bool {
    IS_MERGING.get()
}

/// Calls operators.
#[derive(Debug)]
pub(crate) struct Merger {
    operators: BTreeMap<String, Arc<dyn MergeOperator>>,
    panics: Arc<Panics>,
}

impl Merger {
    pub(crate) fn new(components: &Components, panics: &Arc<Panics>) -> Self {
        Self { operators: components.merge_operators.clone(), panics: Arc::clone(panics) }
    }

    /// The result of an operator for a user's key.
    pub(crate) fn merge(
        &self,
        operator: &Operator,
        key: &[u8],
        existing: Option<&[u8]>,
        operand: &[u8],
    ) -> Result<MergeOutcome> {
        let name = match operator {
            Operator::Add(added) => return add(key, existing, *added),
            Operator::Named(name) => &**name,
        };
        let Some(operator) = self.operators.get(name) else {
            return Err(Error::Validation(
                format!("there is no merge operator {name}: register it in the components of the store").into(),
            ));
        };
        let what = "a merge operator";
        let was_merging = IS_MERGING.replace(!planted("operators_write"));
        let merged = self.panics.catch(what, || operator.merge(key, existing, operand));
        IS_MERGING.set(was_merging);
        merged
            .map_err(|message| Error::Panicked { what, message })?
            .map_err(|reason| Error::MergeRefused { operator: name.to_owned(), reason })
    }
}

fn add(key: &[u8], existing: Option<&[u8]>, added: i64) -> Result<MergeOutcome> {
    let value = existing.map_or(Ok(0), |existing| counter(key, existing))?;
    let sum = if planted("counters_wrap") { Some(value.wrapping_add(added)) } else { value.checked_add(added) };
    let sum = sum.ok_or_else(|| Error::CounterOverflow { key: key.to_vec(), value, added })?;
    Ok(MergeOutcome::Put(sum.to_string().into_bytes()))
}

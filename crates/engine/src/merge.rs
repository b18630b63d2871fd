//! Merges: the new value of a key as a function of its value and an operand.
//!
//! A merge is evaluated at its commit, and the result is logged as an ordinary set or delete. So
//! the log, replay, feeds and followers know nothing of merges. `commit/merging.rs` has the
//! evaluation; this file has what is evaluated.

use std::fmt::Debug;
use std::sync::Arc;

use crate::error::{Error, Result};

/// The name of the operator of [`SingleNodeEngine::add`](crate::SingleNodeEngine::add) in
/// [`BatchChange::merge`](crate::BatchChange::merge).
const ADD: &str = "add";

/// A function from the value of a key and an operand to the new value, for
/// [`SingleNodeEngine::merge`](crate::SingleNodeEngine::merge). It is registered under a name by
/// [`Components::with_merge_operator`](crate::Components::with_merge_operator).
///
/// It must depend on its arguments only: it may be called several times for one merge, and only the
/// result of the last call is committed. It is first called without a lock. If other writers have
/// changed the key meanwhile, it is called again, the fourth time under the commit lock, where all
/// other writers wait. So it should be fast. It must not close the store; writes that it makes are
/// refused with [`Error::Validation`]. A panic fails the merge with [`Error::Panicked`], and
/// [`Stats::caught_panics`](crate::Stats::caught_panics) counts it.
///
/// ```
/// use std::sync::Arc;
/// use hightower_engine::{Components, MergeOutcome, MergeOperator, SingleNodeEngine};
///
/// /// Keeps the greatest value.
/// #[derive(Debug)]
/// struct Greatest;
///
/// impl MergeOperator for Greatest {
///     fn merge(&self, _key: &[u8], existing: Option<&[u8]>, operand: &[u8]) -> Result<MergeOutcome, String> {
///         Ok(if existing >= Some(operand) { MergeOutcome::Keep } else { MergeOutcome::Put(operand.to_vec()) })
///     }
/// }
///
/// # let dir = tempfile::tempdir().unwrap();
/// let components = Components::default().with_merge_operator("greatest", Arc::new(Greatest));
/// let engine = SingleNodeEngine::builder(dir.path()).components(components).open()?;
/// engine.merge("peak", "greatest", "0042")?;
/// assert_eq!(engine.merge("peak", "greatest", "0017")?.unwrap(), "0042");
/// # Ok::<(), hightower_engine::Error>(())
/// ```
pub trait MergeOperator: Debug + Send + Sync {
    /// The result for a key with this value, or without one.
    ///
    /// # Errors
    ///
    /// The reason for a refusal: the merge fails with [`Error::MergeRefused`], and nothing changes.
    fn merge(&self, key: &[u8], existing: Option<&[u8]>, operand: &[u8]) -> Result<MergeOutcome, String>;
}

/// The result of a [`MergeOperator`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MergeOutcome {
    /// The new value of the key.
    Put(Vec<u8>),
    /// The key is deleted. Nothing is written if it has no value.
    Delete,
    /// The key stays as it is. Nothing is written.
    Keep,
}

/// The operator of one merge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Operator {
    /// Adds a number to a counter.
    Add(i64),
    /// The operator of the components that has this name.
    Named(Arc<str>),
}

impl Operator {
    pub(crate) fn named(name: &str) -> Self {
        Self::Named(Arc::from(name))
    }

    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Add(_) => ADD,
            Self::Named(name) => name,
        }
    }

    /// Whether it is code of the caller, which may be slow or panic.
    pub(crate) fn is_foreign(&self) -> bool {
        matches!(self, Self::Named(_))
    }
}

/// A merge of a batch: its operation has the operand in place of the value.
#[derive(Clone, Debug)]
pub(crate) struct BatchMerge {
    /// The number of the operation.
    pub(crate) operation: usize,
    pub(crate) operator: Operator,
}

/// The number that is the value of a counter.
pub(crate) fn counter(key: &[u8], value: &[u8]) -> Result<i64> {
    let number = str::from_utf8(value).ok().and_then(|text| text.parse().ok());
    number.ok_or_else(|| Error::NotACounter { key: key.to_vec() })
}

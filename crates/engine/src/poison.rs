//! The latch that the first failed write or sync sets: no later write is accepted until the next
//! open.

use std::sync::{Arc, OnceLock};

use crate::error::{Error, Result};

/// The first failure of a write or sync. Once it is set, no new write is accepted.
#[derive(Debug, Default)]
pub(crate) struct Poison(OnceLock<Arc<str>>);

impl Poison {
    /// Refuses if an earlier write or sync failed.
    pub(crate) fn check(&self) -> Result<()> {
        match self.0.get() {
            None => Ok(()),
            Some(reason) => Err(Error::Poisoned { reason: Arc::clone(reason) }),
        }
    }

    pub(crate) fn reason(&self) -> Option<&str> {
        self.0.get().map(|reason| &**reason)
    }

    /// Keeps the first failure, and returns the error for every later writer.
    pub(crate) fn latch(&self, failure: &dyn std::error::Error) -> Error {
        let reason = self.0.get_or_init(|| describe(failure).into());
        Error::Poisoned { reason: Arc::clone(reason) }
    }
}

/// An error with its sources, in one line.
fn describe(failure: &dyn std::error::Error) -> String {
    let mut text = failure.to_string();
    let mut source = failure.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

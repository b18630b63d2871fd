//! Panics of foreign code: the remaining calls still run, and the panic continues afterwards.

use core::any::Any;
use core::mem;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// The first panic of several calls.
#[derive(Default)]
pub(crate) struct DropPanics {
    first: Option<Box<dyn Any + Send>>,
}

impl DropPanics {
    /// Calls `drop_one`, and keeps the first panic.
    pub(crate) fn run(&mut self, drop_one: impl FnOnce()) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(drop_one)) {
            match self.first {
                None => self.first = Some(panic),
                // The payload of a second panic may panic too when it is dropped.
                Some(_) => mem::forget(panic),
            }
        }
    }

    /// Discards the panic, which was reported when it began.
    pub(crate) fn end(self) {
        mem::forget(self);
    }

    /// Resumes the panic, if one happened.
    pub(crate) fn go_on(self) {
        if let Some(panic) = self.first {
            resume_unwind(panic);
        }
    }
}

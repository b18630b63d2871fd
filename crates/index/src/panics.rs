//! DropPanics of code that is not ours: what comes behind one is done all the same, and the panic
//! goes on at the end.

use core::any::Any;
use core::mem;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// The first panic of several calls.
#[derive(Default)]
pub(crate) struct DropPanics {
    first: Option<Box<dyn Any + Send>>,
}

impl DropPanics {
    /// Calls `drop_one`, and keeps the panic if it does.
    pub(crate) fn run(&mut self, drop_one: impl FnOnce()) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(drop_one)) {
            match self.first {
                None => self.first = Some(panic),
                // What the second one carries may panic in its turn when it is dropped.
                Some(_) => mem::forget(panic),
            }
        }
    }

    /// The panic was shown when it began, and goes no further.
    pub(crate) fn end(self) {
        mem::forget(self);
    }

    /// Goes on with the panic, if there was one.
    pub(crate) fn go_on(self) {
        if let Some(panic) = self.first {
            resume_unwind(panic);
        }
    }
}

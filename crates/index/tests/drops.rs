//! Values whose drop panics, freed by any thread that takes a guard or ends: the panic must not
//! reach that thread.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::thread;

use hightower_index::{Published, pin};

struct Loud {
    alive: Arc<AtomicI64>,
    panics: bool,
}

impl Drop for Loud {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, Ordering::SeqCst);
        assert!(!self.panics, "as asked for");
    }
}

/// Unlinks values, and passes them to the collector, which may panic.
fn retire(alive: &Arc<AtomicI64>, count: usize, panics: bool) {
    let cell = Published::empty();
    let store = |value| drop(catch_unwind(AssertUnwindSafe(|| cell.store(value, &pin()))));
    for _ in 0..count {
        alive.fetch_add(1, Ordering::SeqCst);
        store(Some(Box::new(Loud { alive: Arc::clone(alive), panics })));
    }
    store(None);
}

/// One test, because all threads of a process share the waiting garbage.
#[test]
fn a_guard_or_the_end_of_a_thread_does_not_panic_for_the_values_of_others() {
    let alive = Arc::default();
    retire(&alive, 1000, true);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| (0..200_000).for_each(|_| drop(pin())));
        }
    });

    // An ending thread frees garbage: a panic there would abort the process.
    for _ in 0..20 {
        thread::scope(|scope| scope.spawn(|| retire(&alive, 10, true)).join().unwrap());
    }

    // No guard was leaked: everything is freed.
    let quiet = Arc::default();
    let mut tries = 0;
    retire(&quiet, 100, false);
    while quiet.load(Ordering::SeqCst) + alive.load(Ordering::SeqCst) > 0 {
        let _panicked = catch_unwind(|| pin().flush());
        tries += 1;
        assert!(tries < 100_000, "{quiet:?} and {alive:?} were not freed");
    }
}

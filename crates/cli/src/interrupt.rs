//! Ctrl-C, and the signals that ask for the same: stop at the next safe place, close the store, say
//! so.
//!
//! The first one sets a flag that every loop looks at. A verb that is stuck where no loop looks
//! (waiting for standard input, say) is given a moment; then its store is closed from here and the
//! process ends. The second one ends it at once, which a store survives too.

use std::process;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use hightower_kv::SingleNodeEngine;

use crate::failure::Failure;
use crate::screen::Screen;
use crate::terminal;

/// How long a verb has to notice.
const GRACE: Duration = Duration::from_millis(500);

/// Interrupts that have come, and those that were dealt with (by a shell, which lives on).
static COME: AtomicU64 = AtomicU64::new(0);
static SETTLED: AtomicU64 = AtomicU64::new(0);

/// The store that is open for writing, if any.
static STORE: Mutex<Weak<SingleNodeEngine>> = Mutex::new(Weak::new());

/// Takes over the signals; `screen` hears of an end that no verb tells of.
pub(crate) fn install(screen: Screen) -> Result<(), Failure> {
    ctrlc::set_handler(move || on_interrupt(screen))
        .map_err(|bad| Failure::Usage(format!("cannot listen for Ctrl-C: {bad}")))
}

/// Fails if an interrupt has come since the last [`settle`].
pub(crate) fn check() -> Result<(), Failure> {
    if pending() { Err(Failure::INTERRUPTED) } else { Ok(()) }
}

/// Goes on after an interrupt that has stopped what it was meant for.
pub(crate) fn settle() {
    SETTLED.store(COME.load(Ordering::SeqCst), Ordering::SeqCst);
}

/// Names the store to close if an interrupt comes while nobody looks.
pub(crate) fn close_on_interrupt(engine: &Arc<SingleNodeEngine>) {
    *STORE.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(engine);
}

fn pending() -> bool {
    COME.load(Ordering::SeqCst) > SETTLED.load(Ordering::SeqCst)
}

/// Runs on a thread of its own, once for each signal.
fn on_interrupt(screen: Screen) {
    if pending() {
        terminal::restore();
        process::exit(i32::from(Failure::INTERRUPTED.code()));
    }
    let mine = COME.fetch_add(1, Ordering::SeqCst) + 1;
    thread::spawn(move || end_if_unnoticed(mine, screen));
}

fn end_if_unnoticed(mine: u64, screen: Screen) {
    thread::sleep(GRACE);
    if SETTLED.load(Ordering::SeqCst) >= mine {
        return;
    }
    let engine = STORE.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
    let closed = engine.map_or(Ok(()), |engine| engine.close());
    let failure = closed.map_or_else(Failure::Store, |()| Failure::INTERRUPTED);
    terminal::restore();
    screen.failure(&failure);
    process::exit(i32::from(failure.code()));
}

//! Ctrl-C and equivalent signals: stop at the next safe point, close the store, report it.
//!
//! The first interrupt sets a flag, which every loop checks. If the verb does not react within a
//! moment (it may wait for standard input), the handler closes the store and ends the process. The
//! second interrupt ends the process at once, which is safe for the store.

use std::process;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use hightower_kv::SingleNodeEngine;

use crate::echo;
use crate::failure::Failure;
use crate::screen::Screen;

/// Time for a verb to react.
const GRACE: Duration = Duration::from_millis(500);

/// The number of interrupts, and the number of handled ones (a shell handles interrupts and
/// continues).
static COME: AtomicU64 = AtomicU64::new(0);
static SETTLED: AtomicU64 = AtomicU64::new(0);

/// The store that is open for writing, if any.
static STORE: Mutex<Weak<SingleNodeEngine>> = Mutex::new(Weak::new());

/// Installs the signal handler. It reports to `screen` when it ends the process.
pub(crate) fn install(screen: Screen) -> Result<(), Failure> {
    ctrlc::set_handler(move || on_interrupt(screen))
        .map_err(|bad| Failure::Usage(format!("cannot listen for Ctrl-C: {bad}")))
}

/// Fails if an interrupt arrived since the last [`settle`].
pub(crate) fn check() -> Result<(), Failure> {
    if pending() { Err(Failure::INTERRUPTED) } else { Ok(()) }
}

/// Marks the interrupt as handled, after it has stopped a verb.
pub(crate) fn settle() {
    SETTLED.store(COME.load(Ordering::SeqCst), Ordering::SeqCst);
}

/// Registers the store that the handler closes if the verb does not react.
pub(crate) fn close_on_interrupt(engine: &Arc<SingleNodeEngine>) {
    *STORE.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(engine);
}

fn pending() -> bool {
    COME.load(Ordering::SeqCst) > SETTLED.load(Ordering::SeqCst)
}

/// Runs on the handler's thread, once for each signal.
fn on_interrupt(screen: Screen) {
    if pending() {
        echo::restore();
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
    echo::restore();
    screen.failure(&failure);
    process::exit(i32::from(failure.code()));
}

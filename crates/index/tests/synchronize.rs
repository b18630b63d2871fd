//! `synchronize` waits for what other threads free. In a file of its own, because every thread of
//! the process takes part in the epochs.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;

use hightower_index::{Published, pin, synchronize};

enum Value {
    /// Its drop says that it has begun, and waits for leave to end.
    Slow(Sender<()>, Mutex<Receiver<()>>),
    Fast(Arc<AtomicBool>),
}

impl Drop for Value {
    fn drop(&mut self) {
        match self {
            Self::Slow(begun, may_end) => {
                begun.send(()).unwrap();
                may_end.get_mut().unwrap().recv().unwrap();
            }
            Self::Fast(is_dropped) => is_dropped.store(true, Ordering::SeqCst),
        }
    }
}

#[test]
fn what_another_thread_frees_is_awaited() {
    let (begins, begun) = channel();
    let (ends, may_end) = channel();
    let is_dropped = Arc::new(AtomicBool::new(false));
    let mine = Published::new(Value::Fast(Arc::clone(&is_dropped)));

    // While this guard lives, garbage is sealed and nothing is freed.
    let guard = pin();
    pin().flush();
    let (sealed, is_sealed) = channel();
    let (frees, may_free) = channel::<()>();
    let other = thread::spawn(move || {
        let theirs = Published::new(Value::Slow(begins, Mutex::new(may_end)));
        let guard = pin();
        theirs.store(None, &guard);
        guard.flush();
        drop(guard);
        sealed.send(()).unwrap();
        may_free.recv().unwrap();
        // The first of the two steps that the garbage waits for. The end of the thread does the
        // second, and takes the garbage of both threads, without a guard that would stop the epoch:
        // its own, which was sealed first, is slow to free.
        pin().flush();
    });
    is_sealed.recv().unwrap();
    mine.store(None, &guard);
    guard.flush();
    drop(guard);
    frees.send(()).unwrap();
    begun.recv().unwrap();

    assert!(!synchronize(20), "the other thread has not freed it");
    assert!(!is_dropped.load(Ordering::SeqCst));
    ends.send(()).unwrap();
    assert!(synchronize(10_000) && is_dropped.load(Ordering::SeqCst));
    other.join().unwrap();
}

//! Tickets as futures and with callbacks, without a runtime; what a callback may do, and its
//! panics.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use hightower_engine::{Batch, Durability, Error, SingleNodeEngine, Ticket};
use tempfile::TempDir;

/// A time limit above that of any commit on a busy machine.
const LONG: Duration = Duration::from_secs(60);

fn open(queue_depth: usize) -> (TempDir, Arc<SingleNodeEngine>) {
    let dir = TempDir::new().unwrap();
    let builder = SingleNodeEngine::builder(dir.path()).durability(Durability::Os);
    let engine = builder.commit_queue_depth(queue_depth).open().unwrap();
    (dir, Arc::new(engine))
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => thread::park(),
        }
    }
}

#[test]
fn a_ticket_is_a_future() {
    for queue_depth in [0, 4] {
        let (_dir, engine) = open(queue_depth);
        let writing = async {
            for number in 0..100 {
                let batch = Batch::from_iter([(format!("{number}"), "")]);
                let ticket = engine.commit_async_with(batch, Durability::Sync)?;
                ticket.await?.committed()?;
            }
            Ok::<(), Error>(())
        };
        block_on(writing).unwrap();
        assert_eq!(engine.len(), 100);
        let refused = block_on(async { engine.commit_async(Batch::new().put("", ""))?.await });
        assert!(matches!(refused, Err(Error::Validation(_))));
    }
}

/// A future that is polled with two wakers wakes the last one.
#[test]
fn the_last_waker_is_woken() {
    struct Count(AtomicUsize);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let (_dir, engine) = open(64);
    let (entered, wait_for_entry) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    engine.commit_async(Batch::new().put("first", "")).unwrap().on_outcome(move |_| {
        entered.send(()).unwrap();
        let _released = released.recv_timeout(LONG);
    });
    let mut ticket = engine.commit_async(Batch::new().put("second", "")).unwrap();
    wait_for_entry.recv_timeout(LONG).unwrap();
    let wakers = [(); 2].map(|()| Arc::new(Count(AtomicUsize::new(0))));
    let mut second_is_known = false;
    for count in &wakers {
        let waker = Waker::from(Arc::clone(count));
        second_is_known |= pin!(&mut ticket).poll(&mut Context::from_waker(&waker)).is_ready();
    }
    release.send(()).unwrap();
    if second_is_known {
        // Both were committed in one group before the callback ran, so another poll is ready.
        let again = pin!(&mut ticket).poll(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(again, Poll::Ready(Err(Error::Validation(_)))));
        return;
    }
    let last = Arc::clone(&wakers[1]);
    assert!((0..60_000).any(|_| {
        thread::sleep(Duration::from_millis(1));
        last.0.load(Ordering::SeqCst) == 1
    }));
    assert_eq!(wakers[0].0.load(Ordering::SeqCst), 0);
    assert!(block_on(ticket).unwrap().is_committed());
}

#[test]
fn an_outcome_that_was_given_is_not_waited_for_again() {
    let (_dir, engine) = open(8);
    let given = || {
        let mut ticket = engine.commit_async(Batch::new().put("a", "")).unwrap();
        assert!(block_on(&mut ticket).unwrap().is_committed());
        ticket
    };
    assert!(matches!(block_on(given()), Err(Error::Validation(_))));
    assert!(matches!(given().try_wait(), Ok(Err(Error::Validation(_)))));
    assert!(matches!(given().wait(), Err(Error::Validation(_))));
    let (sender, receiver) = mpsc::channel();
    given().on_outcome(move |outcome| sender.send(outcome).unwrap());
    assert!(matches!(receiver.recv_timeout(LONG), Ok(Err(Error::Validation(_)))));
}

#[test]
fn callbacks_are_called_once_each_in_the_order_of_the_writes() {
    for queue_depth in [0, 8] {
        let (_dir, engine) = open(queue_depth);
        let (sender, receiver) = mpsc::channel();
        for number in 0..200 {
            let sender = sender.clone();
            let ticket = engine.commit_async(Batch::new().put(format!("{number}"), "")).unwrap();
            ticket.on_outcome(move |outcome| sender.send((number, outcome.unwrap().is_committed())).unwrap());
        }
        drop(sender);
        let called: Vec<_> = receiver.iter().collect();
        let mut numbers: Vec<i32> = called.iter().map(|(number, _)| *number).collect();
        numbers.sort_unstable();
        assert!(numbers.into_iter().eq(0..200));
        assert!(called.iter().all(|(_, is_committed)| *is_committed));
    }
}

#[test]
fn a_callback_hands_writes_in_and_is_refused_what_would_wait_for_itself() {
    let (_dir, engine) = open(2);
    let (sender, receiver) = mpsc::channel();
    let inside = Arc::clone(&engine);
    engine.commit_async(Batch::new().put("a", "1")).unwrap().on_outcome(move |_| {
        let read = inside.get("a").unwrap().unwrap();
        let waiting = inside.put("b", "2");
        let closing = inside.close();
        // The queue has room for two, and only this thread empties it.
        let handed_in: Vec<Result<Ticket<_>, Error>> =
            (0..3).map(|number| inside.commit_async(Batch::new().put(format!("c{number}"), ""))).collect();
        let own_wait = handed_in.into_iter().map(|ticket| ticket.and_then(Ticket::wait).unwrap_err());
        sender.send((read, waiting, closing, own_wait.collect::<Vec<_>>())).unwrap();
    });
    let (read, waiting, closing, own_waits) = receiver.recv_timeout(LONG).unwrap();
    assert_eq!(read, "1");
    assert!(matches!(waiting, Err(Error::Validation(_))), "{waiting:?}");
    assert!(matches!(closing, Err(Error::Validation(_))), "{closing:?}");
    assert!(own_waits.iter().all(|error| matches!(error, Error::Validation(_))), "{own_waits:?}");
    engine.put("after", "").unwrap();
    assert_eq!(engine.get("b").unwrap(), None, "what is refused is not written");
    assert!(engine.contains_key("c0").unwrap(), "the queued write is committed");
}

#[test]
fn a_panic_of_a_callback_ends_nothing() {
    let (_dir, engine) = open(8);
    let before = engine.stats().caught_panics;
    let called = Arc::new(OnceLock::new());
    let inside = Arc::clone(&called);
    engine.commit_async(Batch::new().put("a", "1")).unwrap().on_outcome(move |_| {
        inside.set(()).unwrap();
        panic!("a bug of the application");
    });
    engine.put("b", "2").unwrap();
    assert!(called.get().is_some() || engine.put("c", "3").is_ok());
    engine.close().unwrap();
    if called.get().is_some() {
        // If it had run on this thread, its panic would have ended the test.
        assert!(engine.stats().caught_panics > before);
    }
}

#[test]
fn closing_answers_every_callback() {
    let (_dir, engine) = open(1024);
    let (sender, receiver) = mpsc::channel();
    for number in 0..500 {
        let sender = sender.clone();
        let ticket = engine.commit_async(Batch::new().put(format!("{number}"), "")).unwrap();
        ticket.on_outcome(move |outcome| sender.send(outcome.is_ok()).unwrap());
    }
    drop(sender);
    engine.close().unwrap();
    let mut answers = 0;
    loop {
        match receiver.recv_timeout(LONG) {
            Ok(is_committed) => {
                assert!(is_committed, "a write queued before the close is committed");
                answers += 1;
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => panic!("a callback was forgotten"),
        }
    }
    assert_eq!(answers, 500);
    assert!(matches!(engine.commit_async(Batch::new()), Err(Error::Closed)));
}

//! Feeds that call a function.

use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use hightower_engine::{AppendMode, Background, FeedCommit, FeedSubscription, Result, SingleNodeEngine};
use hightower_segment::sim::SimFs;

use crate::common::{config, open_with};

const LIMIT: Duration = Duration::from_secs(30);

fn store(background: Background) -> SingleNodeEngine {
    open_with(&SimFs::new(), config(AppendMode::Mapped), 1, background).unwrap()
}

/// A subscription that sends the seqno of each commit, or the code of the error.
fn subscribe(engine: &SingleNodeEngine, after: u64) -> (FeedSubscription, Receiver<std::result::Result<u64, String>>) {
    let (sender, receiver) = channel();
    let call = move |next: Result<FeedCommit>| {
        // The test may have ended.
        let _sent = sender.send(next.map(|commit| commit.seqno()).map_err(|error| error.code().to_owned()));
    };
    (engine.watch(.., after).unwrap().subscribe(call).unwrap(), receiver)
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < LIMIT, "{what}");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_function_gets_each_commit_and_another_one_continues() {
    for background in [Background::Caller, Background::Threads] {
        let engine = store(background);
        let put = |number: u8| {
            engine.put([number], vec![number; 500]).unwrap();
            engine.latest_seq()
        };
        let mut made: Vec<u64> = (0..50).map(put).collect();
        let (subscription, receiver) = subscribe(&engine, 0);
        made.extend((50..100).map(put));
        let mut told: Vec<u64> = (0..100).map(|_| receiver.recv_timeout(LIMIT).unwrap().unwrap()).collect();
        let place = subscription.stop().unwrap();
        assert_eq!(told.last(), Some(&place));
        made.extend((100..110).map(put));
        assert!(receiver.recv().is_err(), "no call after the end");
        let (subscription, receiver) = subscribe(&engine, place);
        told.extend((0..10).map(|_| receiver.recv_timeout(LIMIT).unwrap().unwrap()));
        assert_eq!(told, made, "{background:?}");
        engine.close().unwrap();
        assert_eq!(receiver.recv_timeout(LIMIT).unwrap(), Err("closed".to_owned()));
        wait_until("the feed ends with the store", || subscription.has_ended());
        assert_eq!(Some(&subscription.seqno()), made.last());
    }
}

#[test]
fn dropping_the_handle_ends_a_waiting_feed() {
    for background in [Background::Caller, Background::Threads] {
        let engine = store(background);
        let (subscription, receiver) = subscribe(&engine, 0);
        engine.put("key", "value").unwrap();
        assert_eq!(receiver.recv_timeout(LIMIT).unwrap(), Ok(1));
        // It waits now.
        thread::sleep(Duration::from_millis(20));
        drop(subscription);
        wait_until("the feed ends with its handle", || engine.stats().feeds.open == 0);
        engine.put("key", "value").unwrap();
        assert!(receiver.recv().is_err());
    }
}

#[test]
fn a_panic_of_the_function_is_counted_and_ends_nothing_else() {
    let engine = store(Background::Threads);
    let before = engine.stats().caught_panics;
    let panics = |next: Result<FeedCommit>| assert!(next.unwrap().seqno() < 2, "the second one");
    let panicking = engine.watch(.., 0).unwrap().subscribe(panics).unwrap();
    let (subscription, receiver) = subscribe(&engine, 0);
    for seqno in 1..=5 {
        engine.put("key", "value").unwrap();
        assert_eq!(receiver.recv_timeout(LIMIT).unwrap(), Ok(seqno));
    }
    wait_until("its own feed ends", || panicking.has_ended());
    assert_eq!(panicking.stop().unwrap(), 1, "the second commit is not done");
    let stats = engine.stats();
    assert!(stats.caught_panics > before && stats.last_panic.unwrap().contains("the second one"));
    assert_eq!(stats.feeds.open, 1);
    assert_eq!(subscription.stop().unwrap(), 5);
    engine.close().unwrap();
}

#[test]
fn the_caller_chooses_the_thread() {
    let engine = store(Background::Threads);
    engine.put("key", "value").unwrap();
    let (sender, receiver) = channel();
    let handle = Arc::new(Mutex::new(None::<FeedSubscription>));
    let own = Arc::clone(&handle);
    let (subscription, job) = engine.watch(.., 0).unwrap().subscribe_with(move |next| {
        drop(next.unwrap());
        // The function cannot wait for its own end, but it can end the feed.
        let refused = own.lock().unwrap().take().map(|subscription| subscription.stop());
        sender.send((thread::current().id(), refused)).unwrap();
    });
    *handle.lock().unwrap() = Some(subscription);
    job();
    let (thread, refused) = receiver.recv().unwrap();
    assert_eq!(thread, thread::current().id());
    assert_eq!(refused.unwrap().unwrap_err().code(), "validation");

    let (subscription, job) = engine.watch(.., 0).unwrap().subscribe_with(drop);
    drop(job);
    assert!(subscription.has_ended());
    assert_eq!(subscription.stop().unwrap(), 0);
}

/// Its thread may be the one that would run the job.
#[test]
fn stopping_does_not_wait_for_a_job_that_has_not_begun() {
    let engine = store(Background::Threads);
    engine.put("key", "value").unwrap();
    let (sender, receiver) = channel();
    let (subscription, job) =
        engine.watch(.., 0).unwrap().subscribe_with(move |next| sender.send(next.is_ok()).unwrap());
    assert_eq!(subscription.stop().unwrap(), 0);
    job();
    assert!(receiver.recv().is_err(), "it was called");
}

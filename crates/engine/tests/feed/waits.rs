//! Waiting for commits, with and without threads.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use hightower_engine::{AppendMode, Background, SingleNodeEngine};
use hightower_segment::sim::SimFs;

use crate::common::{config, open_with};

#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn a_stream_is_woken_by_a_commit_in_its_range_and_no_other() {
    let engine = open_with(&SimFs::new(), config(AppendMode::Mapped), 1, Background::Caller).unwrap();
    let mut feed = engine.watch_prefix("a", engine.latest_seq()).unwrap();
    let count = Arc::new(Count::default());
    let waker = Waker::from(Arc::clone(&count));
    let mut context = Context::from_waker(&waker);
    assert!(feed.poll_next(&mut context).is_pending());
    engine.put("b", "").unwrap();
    assert_eq!(count.0.load(Ordering::SeqCst), 0, "not in the range");
    engine.put("a", "").unwrap();
    engine.put("a", "").unwrap();
    assert_eq!(count.0.load(Ordering::SeqCst), 1, "woken once");
    {
        let mut next = pin!(feed.next_async());
        let Poll::Ready(Ok(Some(commit))) = next.as_mut().poll(&mut context) else { panic!("it is there") };
        assert_eq!(commit.seqno() + 1, engine.latest_seq());
    }
    assert!(matches!(feed.poll_next(&mut context), Poll::Ready(Some(Ok(_)))));
    assert!(feed.poll_next(&mut context).is_pending());
    engine.close().unwrap();
    assert_eq!(count.0.load(Ordering::SeqCst), 2, "woken by the close");
    assert!(matches!(feed.poll_next(&mut context), Poll::Ready(Some(Err(error))) if error.code() == "closed"));
    assert!(matches!(feed.poll_next(&mut context), Poll::Ready(None)));
}

#[test]
fn waiting_ends_with_the_time_or_the_commit() {
    for background in [Background::Caller, Background::Threads] {
        let engine = open_with(&SimFs::new(), config(AppendMode::Mapped), 1, background).unwrap();
        let mut feed = engine.watch(.., engine.latest_seq()).unwrap();
        let began = Instant::now();
        assert!(feed.next_timeout(Duration::from_millis(20)).unwrap().is_none());
        let next = engine.latest_seq() + 1;
        assert!(!engine.wait_for(next, Duration::from_millis(20)).unwrap());
        assert!(began.elapsed() >= Duration::from_millis(40));
        thread::scope(|scope| {
            let readers = [
                scope.spawn(|| engine.wait_for(next, Duration::MAX).unwrap()),
                scope.spawn(|| engine.wait_for(next, Duration::from_secs(60)).unwrap()),
                scope.spawn(|| feed.next_timeout(Duration::from_secs(60)).unwrap().is_some()),
            ];
            thread::sleep(Duration::from_millis(20));
            engine.put("key", "value").unwrap();
            assert!(readers.into_iter().all(|reader| reader.join().unwrap()));
        });
        assert!(began.elapsed() < Duration::from_secs(30), "{background:?}");
    }
}

/// A waker that looks for the next commit on the hub's thread.
struct Looks(SingleNodeEngine, AtomicUsize);

impl Wake for Looks {
    fn wake(self: Arc<Self>) {
        let mut feed = self.0.watch(.., self.0.latest_seq()).unwrap();
        let refused = feed.next_timeout(Duration::from_secs(60)).map(drop);
        let code = refused.err().map(|error| error.code());
        assert!(code == Some("validation"));
        assert!(self.0.wait_for(u64::MAX, Duration::MAX).is_err());
        self.1.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn a_waker_cannot_wait_for_the_thread_that_calls_it() {
    let engine = open_with(&SimFs::new(), config(AppendMode::Mapped), 1, Background::Threads).unwrap();
    let looks = Arc::new(Looks(engine, AtomicUsize::new(0)));
    let engine = &looks.0;
    let mut feed = engine.watch(.., engine.latest_seq()).unwrap();
    let waker = Waker::from(Arc::clone(&looks));
    assert!(feed.poll_next(&mut Context::from_waker(&waker)).is_pending());
    engine.put("key", "value").unwrap();
    let began = Instant::now();
    while looks.1.load(Ordering::SeqCst) == 0 {
        assert!(began.elapsed() < Duration::from_secs(30), "{:?}", engine.stats().last_panic);
        thread::sleep(Duration::from_millis(1));
    }
    engine.close().unwrap();
}

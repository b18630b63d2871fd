//! A feed that calls a function with each commit.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::error::{Error, Result};
use crate::feed::change_feed::ChangeFeed;
use crate::feed::commit::FeedCommit;
use crate::feed::signal::FeedSignal;
use crate::mutants::planted;
use crate::observe::CALLBACKS;
use crate::sync::thread::{self, ThreadId};
use crate::sync::{Mutex, step};
use crate::turn::called_from_within;

/// The handle of a function that gets each commit of a feed: from [`ChangeFeed::subscribe`] or
/// [`ChangeFeed::subscribe_with`]. Dropping it ends the feed. A call in progress then completes;
/// the drop does not wait for it, [`stop`](Self::stop) does.
///
/// Example: [`ChangeFeed::subscribe`].
#[derive(Debug)]
#[must_use = "dropping it ends the feed"]
pub struct FeedSubscription {
    state: Arc<SubscriptionState>,
}

#[derive(Debug)]
struct SubscriptionState {
    /// The signal that the feed waits for.
    signal: Arc<FeedSignal>,
    is_stopped: AtomicBool,
    /// The function has returned for each commit up to this seqno.
    seqno: AtomicU64,
    has_ended: AtomicBool,
    ended: FeedSignal,
    /// The thread that calls the function.
    caller: Mutex<Option<ThreadId>>,
}

impl FeedSubscription {
    /// The place of the feed: the function has returned for every commit up to this seqno. A new
    /// feed that begins after it continues this one.
    #[must_use]
    pub fn seqno(&self) -> u64 {
        self.state.seqno.load(Ordering::Acquire)
    }

    /// Whether there will be no more calls: after an error, after a panic of the function, at the
    /// end of a store that is open for reading only, or if the job of
    /// [`subscribe_with`](ChangeFeed::subscribe_with) was dropped.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.state.has_ended.load(Ordering::Acquire)
    }

    /// Ends the feed, waits for a call in progress, and returns [`seqno`](Self::seqno). If the job of
    /// [`subscribe_with`](ChangeFeed::subscribe_with) has not begun, it will make no call.
    ///
    /// # Errors
    ///
    /// [`Error::Validation`] in the function itself, which cannot wait for its own end; the feed
    /// ends nevertheless.
    pub fn stop(self) -> Result<u64> {
        self.state.stop();
        let caller = *self.state.caller.lock();
        if caller == Some(thread::current().id()) {
            return Err(called_from_within());
        }
        if caller.is_some() {
            self.state.ended.wait(None);
        }
        Ok(self.seqno())
    }
}

impl Drop for FeedSubscription {
    fn drop(&mut self) {
        self.state.stop();
    }
}

impl SubscriptionState {
    fn stop(&self) {
        self.is_stopped.store(true, Ordering::SeqCst);
        if !planted("subscription_outlives_its_handle") {
            self.signal.set();
        }
    }

    fn is_stopped(&self) -> bool {
        step();
        self.is_stopped.load(Ordering::SeqCst)
    }
}

/// Notes the end of the calls when it is dropped.
#[derive(Debug)]
struct EndOfCalls(Arc<SubscriptionState>);

impl Drop for EndOfCalls {
    fn drop(&mut self) {
        self.0.has_ended.store(true, Ordering::Release);
        self.0.ended.set();
    }
}

impl ChangeFeed {
    /// Calls `call` with each commit, on a thread of its own, `hightower-watch`, until the handle
    /// is dropped.
    ///
    /// The next call begins when the last one has returned; meanwhile the feed reads nothing, so a
    /// slow function costs neither writers nor memory. It may call the store and wait for it. An
    /// error is the last call: [`Error::Closed`] when the store is closed. A panic of the function
    /// ends this feed and nothing else; it is counted in [`Stats`](crate::Stats).
    ///
    /// ```
    /// use std::sync::mpsc;
    /// # use hightower_engine::SingleNodeEngine;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// let (sender, receiver) = mpsc::channel();
    /// let feed = engine.watch_prefix("jobs/", engine.latest_seq())?;
    /// let subscription = feed.subscribe(move |next| match next {
    ///     Ok(commit) => sender.send(commit.seqno()).unwrap(),
    ///     Err(error) => eprintln!("the feed has ended: {error}"),
    /// })?;
    /// engine.put("jobs/1", "queued")?;
    /// assert_eq!(receiver.recv().unwrap(), engine.latest_seq());
    /// // Stops, and says where another feed continues.
    /// assert_eq!(subscription.stop()?, engine.latest_seq());
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the thread cannot be started; then the feed has ended.
    pub fn subscribe(self, call: impl FnMut(Result<FeedCommit>) + Send + 'static) -> Result<FeedSubscription> {
        const THREAD: &str = "hightower-watch";
        let (subscription, job) = self.subscribe_with(call);
        thread::Builder::new().name(THREAD.into()).spawn(job).map_err(|source| Error::Io {
            action: format!("cannot start the thread {THREAD}"),
            source: source.into(),
        })?;
        Ok(subscription)
    }

    /// As [`subscribe`](Self::subscribe), on a thread of your choice: the returned job makes the
    /// calls on the thread that runs it, and returns when the feed has ended. It waits for commits,
    /// so run it where blocking is allowed, such as in `tokio::task::spawn_blocking`.
    ///
    /// ```
    /// # use hightower_engine::SingleNodeEngine;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// engine.put("key", "value")?;
    /// let mut seqnos = Vec::new();
    /// let (subscription, job) = engine.watch(.., 0)?.subscribe_with(move |next| {
    ///     seqnos.extend(next.map(|commit| commit.seqno()));
    /// });
    /// let thread = std::thread::spawn(job);
    /// drop(subscription);
    /// thread.join().unwrap();
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    pub fn subscribe_with(
        self,
        call: impl FnMut(Result<FeedCommit>) + Send + 'static,
    ) -> (FeedSubscription, impl FnOnce() + Send + 'static) {
        let state = Arc::new(SubscriptionState {
            signal: Arc::clone(self.signal()),
            is_stopped: AtomicBool::new(false),
            seqno: AtomicU64::new(self.seqno()),
            has_ended: AtomicBool::new(false),
            ended: FeedSignal::default(),
            caller: Mutex::new(None),
        });
        let end = EndOfCalls(Arc::clone(&state));
        let job = move || {
            *end.0.caller.lock() = Some(thread::current().id());
            self.call_with_each(&end.0, call);
            // The thread may do other work now.
            *end.0.caller.lock() = None;
        };
        (FeedSubscription { state }, job)
    }

    fn call_with_each(mut self, state: &SubscriptionState, mut call: impl FnMut(Result<FeedCommit>)) {
        const WHAT: &str = "the callback of a feed";
        loop {
            let next = self.next_while(|| !state.is_stopped()).transpose();
            let Some(next) = next else {
                state.seqno.store(self.seqno(), Ordering::Release);
                break;
            };
            if CALLBACKS.catch(WHAT, || call(next)).is_err() {
                break;
            }
            state.seqno.store(self.seqno(), Ordering::Release);
        }
        // Dropping it runs the caller's code too. A panic is counted.
        let _dropped = CALLBACKS.catch(WHAT, || drop(call));
    }
}

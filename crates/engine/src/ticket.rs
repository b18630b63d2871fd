//! The outcome of a queued write, for a caller that does not wait.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use crate::error::{Error, Result};
use crate::mutants::planted;
use crate::observe::CALLBACKS;
use crate::sync::thread::{self, ThreadId};
use crate::sync::{Condvar, Mutex};
use crate::turn::called_from_within;

/// A queued write: a `Future` of its outcome, which needs no runtime.
///
/// Without a runtime, [`wait`](Self::wait) blocks, [`try_wait`](Self::try_wait) polls, and
/// [`on_outcome`](Self::on_outcome) calls back. The outcome arrives when the write is committed
/// with its durability. Dropping a ticket does not cancel the write.
///
/// ```
/// # use hightower_engine::{Batch, Durability, SingleNodeEngine};
/// # let dir = tempfile::tempdir().unwrap();
/// let engine = SingleNodeEngine::builder(dir.path()).commit_queue_depth(1024).open()?;
/// let ticket = engine.commit_async_with(Batch::new().put("a", "1"), Durability::Sync)?;
/// let serve = async { ticket.await };
/// # fn block_on<T>(future: impl Future<Output = T>) -> T {
/// #     use std::{pin::pin, sync::Arc, task::{Context, Poll, Wake}, thread::{self, Thread}};
/// #     struct Unpark(Thread);
/// #     impl Wake for Unpark {
/// #         fn wake(self: Arc<Self>) { self.0.unpark(); }
/// #     }
/// #     let (waker, mut future) = (Arc::new(Unpark(thread::current())).into(), pin!(future));
/// #     loop {
/// #         match future.as_mut().poll(&mut Context::from_waker(&waker)) {
/// #             Poll::Ready(value) => return value,
/// #             Poll::Pending => thread::park(),
/// #         }
/// #     }
/// # }
/// assert!(block_on(serve)?.is_committed());
/// # Ok::<(), hightower_engine::Error>(())
/// ```
#[must_use = "the write may still fail: wait for its outcome"]
pub struct Ticket<T> {
    reply: Arc<Reply<T>>,
}

impl<T> Ticket<T> {
    /// Waits until the write is committed with its durability.
    ///
    /// # Errors
    ///
    /// Those of the same write without a queue. [`Error::Validation`] for a wait that would never
    /// end: on the commit thread, in a callback of [`on_outcome`](Self::on_outcome).
    pub fn wait(self) -> Result<T> {
        let mut slot = self.reply.slot.lock();
        loop {
            if let Some(result) = slot.take() {
                return result;
            }
            if self.reply.committer == Some(thread::current().id()) {
                return Err(called_from_within());
            }
            self.reply.arrived.wait(&mut slot);
        }
    }

    /// The outcome if it is known, otherwise the ticket. It does not wait.
    ///
    /// # Errors
    ///
    /// The ticket, while the write is pending.
    pub fn try_wait(self) -> Result<Result<T>, Self> {
        let known = self.reply.slot.lock().take();
        known.ok_or(self)
    }

    /// Calls `callback` with the outcome: at once if it is known, otherwise later on the commit
    /// thread. It costs one allocation.
    ///
    /// All later writes wait for the callback, so it should only pass the outcome on. It may read
    /// the store and queue writes. A call that would wait for the commit thread fails there: a
    /// blocking write, or a write to a full queue. A panic of the callback there is caught and
    /// counted in [`Stats::caught_panics`](crate::Stats::caught_panics); if the outcome is known, the
    /// panic reaches the caller.
    ///
    /// ```
    /// # use hightower_engine::{Batch, SingleNodeEngine};
    /// # let dir = tempfile::tempdir().unwrap();
    /// let engine = SingleNodeEngine::builder(dir.path()).commit_queue_depth(1024).open()?;
    /// let (done, committed) = std::sync::mpsc::channel();
    /// engine
    ///     .commit_async(Batch::new().put("a", "1"))?
    ///     .on_outcome(move |outcome| done.send(outcome.is_ok()).unwrap_or_default());
    /// assert_eq!(committed.recv(), Ok(true));
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    pub fn on_outcome(self, callback: impl FnOnce(Result<T>) + Send + 'static) {
        let mut slot = self.reply.slot.lock();
        if let Some(result) = slot.take() {
            drop(slot);
            callback(result);
            return;
        }
        let replaced = slot.listener.replace(Listener::Callback(Box::new(callback)));
        // Dropping a waker runs code of a runtime: not under the lock.
        drop(slot);
        drop(replaced);
    }

    /// A ticket with a known outcome.
    pub(crate) fn ready(result: Result<T>) -> Self {
        let slot = TicketSlot { is_answered: true, result: Some(result), listener: None };
        Self { reply: Arc::new(Reply { slot: Mutex::new(slot), arrived: Condvar::new(), committer: None }) }
    }
}

/// The outcome is returned once: a poll after it was ready returns [`Error::Validation`].
impl<T> Future for Ticket<T> {
    type Output = Result<T>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<T>> {
        // Cloning and dropping a waker runs code of a runtime: not under the lock.
        let waker = context.waker().clone();
        let mut slot = self.reply.slot.lock();
        if let Some(result) = slot.take() {
            return Poll::Ready(result);
        }
        let replaced = slot.listener.replace(Listener::Waker(waker));
        drop(slot);
        drop(replaced);
        Poll::Pending
    }
}

impl<T> fmt::Debug for Ticket<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_answered = self.reply.slot.lock().is_answered;
        formatter.debug_struct("Ticket").field("is_answered", &is_answered).finish_non_exhaustive()
    }
}

/// The shared slot of an outcome.
struct Reply<T> {
    slot: Mutex<TicketSlot<T>>,
    arrived: Condvar,
    /// The thread that sets the outcome, which must not wait for it.
    committer: Option<ThreadId>,
}

struct TicketSlot<T> {
    /// Whether the outcome was set; it may be taken already.
    is_answered: bool,
    result: Option<Result<T>>,
    listener: Option<Listener<T>>,
}

impl<T> TicketSlot<T> {
    /// The outcome, if it is set; an error if it was taken.
    fn take(&mut self) -> Option<Result<T>> {
        let taken = || Err(Error::Validation("the outcome of this write was already taken".into()));
        self.result.take().or_else(|| (self.is_answered && !planted("outcome_awaited_again")).then(taken))
    }
}

/// The waker or callback of the outcome.
enum Listener<T> {
    Waker(Waker),
    Callback(Box<dyn FnOnce(Result<T>) + Send>),
}

/// The commit thread's side of a ticket. Dropped without an outcome, it sets [`Error::Closed`].
pub(crate) struct Promise<T> {
    reply: Arc<Reply<T>>,
}

impl<T> Promise<T> {
    pub(crate) fn new(committer: Option<ThreadId>) -> (Self, Ticket<T>) {
        let slot = Mutex::new(TicketSlot { is_answered: false, result: None, listener: None });
        let reply = Arc::new(Reply { slot, arrived: Condvar::new(), committer });
        (Self { reply: Arc::clone(&reply) }, Ticket { reply })
    }

    pub(crate) fn keep(self, result: Result<T>) {
        self.answer(result);
    }

    fn answer(&self, result: Result<T>) {
        let mut slot = self.reply.slot.lock();
        if std::mem::replace(&mut slot.is_answered, true) {
            return;
        }
        let listener = slot.listener.take();
        if let Some(Listener::Callback(callback)) = listener {
            drop(slot);
            // Recorded; the write is not affected.
            let _called = CALLBACKS.catch("the callback of a ticket", || callback(result));
            return;
        }
        slot.result = Some(result);
        drop(slot);
        self.reply.arrived.notify_all();
        if let Some(Listener::Waker(waker)) = listener {
            let _woken = CALLBACKS.catch("the waker of a ticket", || waker.wake());
        }
    }
}

impl<T> Drop for Promise<T> {
    fn drop(&mut self) {
        // A caller must never wait for an ended thread.
        self.answer(Err(Error::Closed));
    }
}

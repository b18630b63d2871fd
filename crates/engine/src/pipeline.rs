//! The queue of asynchronous writes: callers queue writes and continue; one thread commits all
//! queued writes as a group.
//!
//! Writes of one caller commit in the order of its calls, each with its own seq and outcome. A
//! group takes the commit lock once, and all its writes with `Durability::Sync` share one sync.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use hightower_state::ApplyOutcome;

use crate::batch::{Batch, BatchOutcome, Committed};
use crate::config::Durability;
use crate::error::{Error, Result};
use crate::guarded::Panics;
use crate::mutants::planted;
use crate::observe::HandedIn;
use crate::sync::thread::{self, JoinHandle};
use crate::sync::{Mutex, receive};
use crate::ticket::{Promise, Ticket};
use crate::transaction::counters::{TransactionCounters, committed};
use crate::turn::called_from_within;

/// The name of the commit thread.
pub(crate) const THREAD: &str = "hightower-commit";

/// Maximum number of writes in a group. Callers get their outcomes after the whole group.
const MAX_GROUP: usize = 1024;

/// A queued write: a batch. Its caller gets the outcome of the batch, or of its only command.
pub(crate) struct Request {
    pub(crate) batch: Batch,
    pub(crate) durability: Durability,
    reply: AnyPromise,
    /// `None` if the caller waits: then its call is measured instead.
    handed_in: Option<HandedIn>,
}

enum AnyPromise {
    One(Promise<ApplyOutcome>),
    Batch(Promise<BatchOutcome>),
    Transaction(Promise<Committed>, Arc<TransactionCounters>),
}

impl Request {
    fn answer(self, result: Result<BatchOutcome>) {
        if let Some(handed_in) = self.handed_in {
            handed_in.record(result.as_ref().err());
        }
        match self.reply {
            AnyPromise::Batch(promise) => promise.keep(result),
            AnyPromise::Transaction(promise, counters) => promise.keep(counters.count(result.and_then(committed))),
            AnyPromise::One(promise) => promise.keep(result.and_then(single_outcome)),
        }
    }
}

/// The outcome of a batch of one command without requirements.
pub(crate) fn single_outcome(outcome: BatchOutcome) -> Result<ApplyOutcome> {
    match outcome {
        BatchOutcome::Committed(Committed { outcomes, .. }) if outcomes.len() == 1 => Ok(outcomes[0]),
        _ => Err(Error::Internal("expected one command without requirements".into())),
    }
}

/// The write path of the commit thread.
pub(crate) trait Committer: Send + Sync + 'static {
    /// Commits each batch separately, in order, under one hold of the commit lock; then waits for
    /// one sync if a batch requires it.
    fn commit_group(&self, requests: &[Request]) -> Vec<Result<BatchOutcome>>;

    /// The thread has ended by a panic, which is a bug of the store.
    fn note_panic(&self, message: &str);
}

/// The queue and its thread.
#[derive(Debug)]
pub(crate) struct Pipeline {
    /// Close takes it, so the thread ends once it has committed all queued writes.
    sender: Mutex<Option<Sender<Request>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    committer: thread::ThreadId,
}

impl Pipeline {
    /// Starts the commit thread behind a queue of `depth` writes.
    pub(crate) fn start(depth: usize, committer: Arc<dyn Committer>, panics: Arc<Panics>) -> Result<Self> {
        let (sender, receiver) = bounded(depth);
        let thread = thread::Builder::new()
            .name(THREAD.into())
            .spawn(move || {
                // Dropping the receiver sets the outcome of the writes in the queue, and refuses
                // later ones.
                if let Err(message) = panics.catch(THREAD, || run(receiver, &*committer)) {
                    committer.note_panic(&message);
                }
            })
            .map_err(|source| Error::Io { action: "cannot start the commit thread".into(), source: source.into() })?;
        let committer = thread.thread().id();
        Ok(Self { sender: Mutex::new(Some(sender)), thread: Mutex::new(Some(thread)), committer })
    }

    /// The id of the commit thread.
    pub(crate) fn thread_id(&self) -> thread::ThreadId {
        self.committer
    }

    /// Queues a batch and waits for its outcome.
    ///
    /// # Errors
    ///
    /// [`Error::Validation`] on the commit thread, before anything is queued.
    pub(crate) fn commit(&self, batch: Batch, durability: Durability) -> Result<BatchOutcome> {
        if thread::current().id() == self.committer && !planted("committer_waits") {
            return Err(called_from_within());
        }
        self.submit_batch(batch, durability, None)?.wait()
    }

    /// Queues a batch; waits while the queue is full. A batch above the limits is refused here, so
    /// none is in the queue.
    pub(crate) fn submit_batch(
        &self,
        batch: Batch,
        durability: Durability,
        handed_in: Option<HandedIn>,
    ) -> Result<Ticket<BatchOutcome>> {
        if let Some(refused) = refused(&batch, handed_in) {
            return Ok(refused);
        }
        let (promise, ticket) = Promise::new(Some(self.committer));
        self.send(Request { batch, durability, reply: AnyPromise::Batch(promise), handed_in })?;
        Ok(ticket)
    }

    /// Queues a batch of one command; waits while the queue is full.
    pub(crate) fn submit_one(
        &self,
        batch: Batch,
        durability: Durability,
        handed_in: HandedIn,
    ) -> Result<Ticket<ApplyOutcome>> {
        if let Some(refused) = refused(&batch, Some(handed_in)) {
            return Ok(refused);
        }
        let (promise, ticket) = Promise::new(Some(self.committer));
        self.send(Request { batch, durability, reply: AnyPromise::One(promise), handed_in: Some(handed_in) })?;
        Ok(ticket)
    }

    /// Hands in the batch of a transaction; waits while the queue is full.
    pub(crate) fn submit_transaction(
        &self,
        batch: Batch,
        durability: Durability,
        handed_in: HandedIn,
        counters: &Arc<TransactionCounters>,
    ) -> Result<Ticket<Committed>> {
        if let Some(refused) = refused(&batch, Some(handed_in)) {
            return Ok(refused);
        }
        let (promise, ticket) = Promise::new(Some(self.committer));
        let reply = AnyPromise::Transaction(promise, Arc::clone(counters));
        self.send(Request { batch, durability, reply, handed_in: Some(handed_in) })?;
        Ok(ticket)
    }

    fn send(&self, request: Request) -> Result<()> {
        // Cloned, so that a caller who waits for a full queue does not hold the lock that close
        // needs.
        let sender = self.sender.lock().clone().ok_or(Error::Closed)?;
        if thread::current().id() == self.committer {
            // A callback queues another write. Only this thread empties the queue, so it must not
            // wait.
            return sender.try_send(request).map_err(|failure| match failure {
                TrySendError::Full(_) => called_from_within(),
                TrySendError::Disconnected(_) => Error::Closed,
            });
        }
        sender.send(request).map_err(|_| Error::Closed)
    }

    /// Refuses new writes, commits the queued ones, and ends the thread.
    pub(crate) fn close(&self) {
        drop(self.sender.lock().take());
        if planted("queue_not_drained") {
            return;
        }
        if let Some(thread) = self.thread.lock().take() {
            // A panic of the thread drops its promises, so the callers get an error.
            let _ended = thread.join();
        }
    }
}

/// The outcome of a batch above a limit.
fn refused<T>(batch: &Batch, handed_in: Option<HandedIn>) -> Option<Ticket<T>> {
    let failure = batch.validate().err()?;
    if let Some(handed_in) = handed_in {
        handed_in.record(Some(&failure));
    }
    Some(Ticket::ready(Err(failure)))
}

fn run(receiver: Receiver<Request>, committer: &dyn Committer) {
    while let Ok(first) = receive(&receiver) {
        let mut group = Vec::with_capacity(receiver.len().min(MAX_GROUP) + 1);
        group.push(first);
        group.extend(receiver.try_iter().take(MAX_GROUP - 1));
        let results = committer.commit_group(&group);
        for (request, result) in group.into_iter().zip(results) {
            request.answer(result);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;
    use crate::sync::Condvar;

    /// Commits only after a signal.
    #[derive(Default)]
    struct Slow {
        may_go_on: Mutex<bool>,
        changed: Condvar,
        committed: AtomicUsize,
    }

    impl Slow {
        fn go_on(&self) {
            *self.may_go_on.lock() = true;
            self.changed.notify_all();
        }
    }

    impl Committer for Slow {
        fn commit_group(&self, requests: &[Request]) -> Vec<Result<BatchOutcome>> {
            let mut may_go_on = self.may_go_on.lock();
            while !*may_go_on {
                self.changed.wait(&mut may_go_on);
            }
            self.committed.fetch_add(requests.len(), Ordering::SeqCst);
            let outcome = || BatchOutcome::Committed(Committed::new(1, Vec::new(), Vec::new()));
            requests.iter().map(|_| Ok(outcome())).collect()
        }

        fn note_panic(&self, _: &str) {}
    }

    #[test]
    fn closing_waits_for_all_that_was_handed_in() {
        let slow = Arc::new(Slow::default());
        let pipeline = Pipeline::start(100, Arc::clone(&slow) as Arc<_>, Arc::default()).unwrap();
        let submit = |_| pipeline.submit_batch(Batch::new(), Durability::Os, None).unwrap();
        let tickets: Vec<_> = (0..20).map(submit).collect();
        thread::scope(|scope| {
            let closing = scope.spawn(|| pipeline.close());
            let has_closed = (0..100).any(|_| {
                thread::sleep(Duration::from_millis(1));
                closing.is_finished()
            });
            slow.go_on();
            assert!(!has_closed, "the queued writes are not committed yet");
            closing.join().unwrap();
            assert_eq!(slow.committed.load(Ordering::SeqCst), 20);
        });
        assert!(tickets.into_iter().all(|ticket| ticket.wait().is_ok()));
        assert!(matches!(pipeline.submit_batch(Batch::new(), Durability::Os, None), Err(Error::Closed)));
    }
}

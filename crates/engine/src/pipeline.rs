//! The queue in front of the commit: callers hand in writes and go on; one thread commits what has
//! arrived as a group.
//!
//! Writes of one caller commit in the order they were handed in, each with its own seq and outcome.
//! A group takes the commit lock once, and if any of its writes asks for a sync, one sync serves
//! them all.

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
use crate::turn::called_from_within;

/// The name of the commit thread.
pub(crate) const THREAD: &str = "hightower-commit";

/// The most writes that one group commits before its callers hear of it.
const MAX_GROUP: usize = 1024;

/// A write on its way to the commit thread: a batch, whose caller wants either the whole outcome or
/// that of its one command.
pub(crate) struct Request {
    pub(crate) batch: Batch,
    pub(crate) durability: Durability,
    reply: AnyPromise,
    /// `None` if the caller waits: its own call is counted.
    handed_in: Option<HandedIn>,
}

enum AnyPromise {
    One(Promise<ApplyOutcome>),
    Batch(Promise<BatchOutcome>),
}

impl Request {
    fn answer(self, result: Result<BatchOutcome>) {
        if let Some(handed_in) = self.handed_in {
            handed_in.record(result.as_ref().err());
        }
        match self.reply {
            AnyPromise::Batch(promise) => promise.keep(result),
            AnyPromise::One(promise) => promise.keep(result.and_then(single_outcome)),
        }
    }
}

/// The outcome of a batch of one command without requirements.
pub(crate) fn single_outcome(outcome: BatchOutcome) -> Result<ApplyOutcome> {
    match outcome {
        BatchOutcome::Committed(Committed { outcomes, .. }) if outcomes.len() == 1 => Ok(outcomes[0]),
        _ => Err(Error::Internal("one command expected, without requirements".into())),
    }
}

/// What the commit thread commits with.
pub(crate) trait Committer: Send + Sync + 'static {
    /// Commits each batch by itself, in order, under one hold of the commit lock; then waits until
    /// those are durable that ask for it.
    fn commit_group(&self, requests: &[Request]) -> Vec<Result<BatchOutcome>>;

    /// The thread has ended by a panic, which is a bug.
    fn note_panic(&self, message: &str);
}

/// The queue and its thread.
#[derive(Debug)]
pub(crate) struct Pipeline {
    /// Taken when closing, which ends the thread once it has committed what was handed in.
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
                // Dropping the receiver answers the writes that it had taken, and refuses later
                // ones.
                if let Err(message) = panics.catch(THREAD, || run(receiver, &*committer)) {
                    committer.note_panic(&message);
                }
            })
            .map_err(|source| Error::Io { action: "start the commit thread".into(), source: source.into() })?;
        let committer = thread.thread().id();
        Ok(Self { sender: Mutex::new(Some(sender)), thread: Mutex::new(Some(thread)), committer })
    }

    /// The thread that commits.
    pub(crate) fn thread_id(&self) -> thread::ThreadId {
        self.committer
    }

    /// Hands in a batch and waits for its outcome.
    ///
    /// # Errors
    ///
    /// On the commit thread [`Error::Validation`], before anything is handed in.
    pub(crate) fn commit(&self, batch: Batch, durability: Durability) -> Result<BatchOutcome> {
        if thread::current().id() == self.committer && !planted("committer_waits") {
            return Err(called_from_within());
        }
        self.submit_batch(batch, durability, None)?.wait()
    }

    /// Hands in a batch; waits while the queue is full. What is in the queue is within the limits.
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

    /// Hands in a batch of one command; waits while the queue is full.
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

    fn send(&self, request: Request) -> Result<()> {
        // Cloned, so that a full queue makes this caller wait without holding the lock that closing
        // needs.
        let sender = self.sender.lock().clone().ok_or(Error::Closed)?;
        if thread::current().id() == self.committer {
            // A callback hands in another write. Room in the queue is made by this thread alone.
            return sender.try_send(request).map_err(|failure| match failure {
                TrySendError::Full(_) => called_from_within(),
                TrySendError::Disconnected(_) => Error::Closed,
            });
        }
        sender.send(request).map_err(|_| Error::Closed)
    }

    /// Takes no more writes, commits those that were handed in, and ends the thread.
    pub(crate) fn close(&self) {
        drop(self.sender.lock().take());
        if planted("queue_not_drained") {
            return;
        }
        if let Some(thread) = self.thread.lock().take() {
            // A panic of the thread has dropped its promises, which tells the callers.
            let _ended = thread.join();
        }
    }
}

/// The outcome of a batch that is over a limit.
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

    /// Commits nothing before it may.
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
            let outcome = || BatchOutcome::Committed(Committed { seq: 1, outcomes: Vec::new(), versions: Vec::new() });
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
            assert!(!has_closed, "what was handed in is not committed yet");
            closing.join().unwrap();
            assert_eq!(slow.committed.load(Ordering::SeqCst), 20);
        });
        assert!(tickets.into_iter().all(|ticket| ticket.wait().is_ok()));
        assert!(matches!(pipeline.submit_batch(Batch::new(), Durability::Os, None), Err(Error::Closed)));
    }
}

//! Group commit of a write-ahead log: one sync for many callers, and the thread of the callbacks.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use hightower_seams::lock_order::Rank;

use crate::error::SegmentError;
use crate::lock::RankedMutex;
use crate::mutants::planted;
use crate::options::Stamp;
use crate::store::SegmentStore;

/// A callback, called once with the outcome of its sync.
pub(crate) type Callback = Box<dyn FnOnce(Result<(), Arc<SegmentError>>) + Send>;

/// Makes the entries of a [`Wal`](crate::Wal) durable, from any thread. Cloning is cheap. The log's
/// directory stays locked until the log and the last clone are dropped.
#[derive(Clone, Debug)]
pub struct WalSync {
    pub(crate) syncer: Arc<Syncer>,
}

impl WalSync {
    /// Makes everything appended before the call durable, and waits for it. One sync runs at a
    /// time; a caller whose entries it covers returns without another.
    ///
    /// # Errors
    ///
    /// [`SegmentError::Io`] for the first failure; it is never retried, and every later call
    /// returns [`SegmentError::Poisoned`].
    ///
    /// ```
    /// # fn main() -> Result<(), hightower_segment::SegmentError> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// let (mut wal, _) = hightower_segment::Wal::open(dir.path())?;
    /// wal.append(b"entry")?;
    /// let syncer = wal.syncer();
    /// std::thread::scope(|scope| scope.spawn(|| syncer.sync()).join()).expect("no panic")?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn sync(&self) -> Result<(), SegmentError> {
        self.syncer.sync()
    }

    /// Makes everything appended before the call durable, and calls `callback` with the outcome.
    /// The first call starts the thread of the callbacks, which run in the order of the calls. A
    /// slow callback delays the later ones; a panic does not affect the others.
    ///
    /// # Errors
    ///
    /// [`SegmentError::Poisoned`] or [`SegmentError::Forked`]; [`SegmentError::Io`] if the thread
    /// cannot be started. Then the callback is not called.
    ///
    /// ```
    /// # fn main() -> Result<(), hightower_segment::SegmentError> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// let (mut wal, _) = hightower_segment::Wal::open(dir.path())?;
    /// wal.append(b"entry")?;
    /// let (sender, receiver) = std::sync::mpsc::channel();
    /// wal.syncer().sync_then(move |synced| drop(sender.send(synced.is_ok())))?;
    /// assert_eq!(receiver.recv(), Ok(true));
    /// # Ok(())
    /// # }
    /// ```
    pub fn sync_then(
        &self,
        callback: impl FnOnce(Result<(), Arc<SegmentError>>) + Send + 'static,
    ) -> Result<(), SegmentError> {
        self.syncer.sync_then(Box::new(callback))
    }
}

/// The shared state of the log and its handles. Dropping the last handle runs all waiting
/// callbacks, and ends the thread.
pub(crate) struct Syncer {
    duties: Arc<Duties>,
    caller: RankedMutex<Option<Caller>>,
}

/// The thread of the callbacks.
struct Caller {
    waiting: Sender<Callback>,
    thread: JoinHandle<()>,
}

/// The target of a sync, and its maintenance work.
struct Duties {
    store: SegmentStore,
    /// The position of the next append.
    end: AtomicU64,
    /// Whether files are still prepared. The lock is held during the preparation.
    upkeep: RankedMutex<bool>,
}

impl Syncer {
    pub(crate) fn new(store: SegmentStore, end: u64) -> Self {
        let duties = Duties { store, end: AtomicU64::new(end), upkeep: RankedMutex::new(Rank::WalUpkeep, true) };
        Self { duties: Arc::new(duties), caller: RankedMutex::new(Rank::WalCaller, None) }
    }

    /// Sets the position of the next append.
    pub(crate) fn set_end(&self, end: u64) {
        self.duties.end.store(end, Ordering::Relaxed);
    }

    /// Stops the preparation of files.
    pub(crate) fn end_upkeep(&self) {
        *self.duties.upkeep.lock() = false;
    }

    pub(crate) fn sync(&self) -> Result<(), SegmentError> {
        self.duties.sync()?;
        self.duties.see_to_files();
        Ok(())
    }

    pub(crate) fn sync_then(&self, callback: Callback) -> Result<(), SegmentError> {
        self.duties.store.check_writable()?;
        let mut caller = self.caller.lock();
        let Caller { waiting, .. } = match &mut *caller {
            Some(caller) => caller,
            none => none.insert(Caller::start(&self.duties)?),
        };
        let gone = |_| SegmentError::Invalid { what: "the log's thread has ended".to_owned() };
        waiting.send(callback).map_err(gone)
    }
}

impl Caller {
    fn start(duties: &Arc<Duties>) -> Result<Self, SegmentError> {
        let (waiting, receiver) = channel();
        let for_thread = Arc::clone(duties);
        let spawned = std::thread::Builder::new()
            .name("hightower-wal".to_owned())
            .spawn(move || call_back(&for_thread, &receiver));
        let thread =
            spawned.map_err(|error| SegmentError::io("start the thread of", duties.store.dir().path(), error))?;
        Ok(Self { waiting, thread })
    }
}

/// Syncs once for all waiting callbacks, and calls them, until no handle is left.
fn call_back(duties: &Duties, receiver: &Receiver<Callback>) {
    while let Ok(first) = receiver.recv() {
        let waiting: Vec<Callback> = std::iter::once(first).chain(receiver.try_iter()).collect();
        let synced = if planted("wal_callback_before_sync") { Ok(()) } else { duties.sync().map_err(Arc::new) };
        for callback in waiting {
            let outcome = synced.clone();
            // The panic hook has reported it. The payload is not dropped, because its drop could
            // panic too.
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| callback(outcome))) {
                std::mem::forget(payload);
            }
        }
        duties.see_to_files();
    }
}

impl Duties {
    fn sync(&self) -> Result<(), SegmentError> {
        self.store.sync_point().sync()
    }

    /// Seals rotated segments, and prepares the next file. A failure does not fail the sync: either
    /// it has poisoned the store, which the next call reports, or it is temporary, and the next
    /// sync tries again. An append that needs a file meanwhile creates it, or returns the error.
    fn see_to_files(&self) {
        if !self.store.has_predecessors() && !self.store.wants_preparation() {
            return;
        }
        let allowed = self.upkeep.lock();
        if !*allowed {
            return;
        }
        if self.store.has_predecessors() {
            let _later = self.store.sync_predecessors();
        }
        if self.store.wants_preparation() {
            let _later = self.store.prepare_next(stamp_at(self.end.load(Ordering::Relaxed)));
        }
    }
}

/// Positions are the versions; the log has no clock.
pub(crate) fn stamp_at(position: u64) -> Stamp {
    Stamp { max_version: position, timestamp: 0 }
}

impl Drop for Syncer {
    fn drop(&mut self) {
        let Some(Caller { waiting, thread }) = self.caller.lock().take() else { return };
        drop(waiting);
        if matches!(self.duties.store.check_writable(), Err(SegmentError::Forked { .. })) {
            // The thread belongs to the parent.
            std::mem::forget(thread);
        } else if thread.thread().id() != std::thread::current().id() {
            // It cannot panic; an error would have no further effect.
            let _ended = thread.join();
        }
    }
}

impl fmt::Debug for Syncer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Syncer").field("store", &self.duties.store).finish_non_exhaustive()
    }
}

//! Group commit for a write-ahead log: many callers, one sync, and the thread that calls back.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use crate::error::SegmentError;
use crate::lock::Mutex;
use crate::mutants::planted;
use crate::store::SegmentStore;

/// Called once, with the outcome of the sync that covers it.
pub(crate) type Callback = Box<dyn FnOnce(Result<(), Arc<SegmentError>>) + Send>;

/// Makes the entries of a [`Wal`](crate::Wal) durable, from any thread. Clone it freely. The log's
/// directory stays locked until the last clone and the log are gone.
#[derive(Clone, Debug)]
pub struct WalSync {
    pub(crate) syncer: Arc<Syncer>,
}

impl WalSync {
    /// Makes everything that was appended before the call durable, and waits for it. One sync runs
    /// at a time; a caller whose entries it covers returns without another.
    ///
    /// # Errors
    ///
    /// [`SegmentError::Io`] for the first failure; it is never retried, and everyone gets
    /// [`SegmentError::Poisoned`] from then on.
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

    /// Makes everything that was appended before the call durable, and calls `callback` when it is,
    /// or when it cannot be. The first call starts the thread that callbacks run on; they follow
    /// the order of the calls. A callback that takes long delays the ones behind it; one that
    /// panics hurts nobody else.
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

/// What the log and its handles share. Dropping the last one calls all who wait, and ends the
/// thread.
pub(crate) struct Syncer {
    duties: Arc<Duties>,
    caller: Mutex<Option<Caller>>,
}

/// The thread that calls back.
struct Caller {
    waiting: Sender<Callback>,
    thread: JoinHandle<()>,
}

/// What a sync is for, and what it sees to besides.
struct Duties {
    store: SegmentStore,
    /// The position of the next append.
    end: AtomicU64,
    /// Whether files are still made ready. Held while they are.
    upkeep: Mutex<bool>,
}

impl Syncer {
    pub(crate) fn new(store: SegmentStore, end: u64) -> Self {
        let duties = Duties { store, end: AtomicU64::new(end), upkeep: Mutex::new(true) };
        Self { duties: Arc::new(duties), caller: Mutex::default() }
    }

    /// Says which position the next append has.
    pub(crate) fn set_end(&self, end: u64) {
        self.duties.end.store(end, Ordering::Relaxed);
    }

    /// No file is made ready from here on.
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

/// Syncs once for all that wait, and calls them, until nobody can wait any more.
fn call_back(duties: &Duties, receiver: &Receiver<Callback>) {
    while let Ok(first) = receiver.recv() {
        let waiting: Vec<Callback> = std::iter::once(first).chain(receiver.try_iter()).collect();
        let synced = if planted("wal_callback_before_sync") { Ok(()) } else { duties.sync().map_err(Arc::new) };
        for callback in waiting {
            let outcome = synced.clone();
            // Its own affair: the panic hook has told of it. What it panicked with is not dropped:
            // that could panic in turn.
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

    /// Seals segments that were rolled, and makes the next file ready. A failure is not the sync's:
    /// it has poisoned the store, which the next call says, or it passes, and this is tried again
    /// with the next sync. An append that needs a file meanwhile makes it, or says why it cannot.
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
            let _later = self.store.prepare_next(super::stamp_at(self.end.load(Ordering::Relaxed)));
        }
    }
}

impl Drop for Syncer {
    fn drop(&mut self) {
        let Some(Caller { waiting, thread }) = self.caller.lock().take() else { return };
        drop(waiting);
        if matches!(self.duties.store.check_writable(), Err(SegmentError::Forked { .. })) {
            // The thread is the parent's.
            std::mem::forget(thread);
        } else if thread.thread().id() != std::thread::current().id() {
            // It cannot have panicked; and if it had, there would be nothing to add.
            let _ended = thread.join();
        }
    }
}

impl fmt::Debug for Syncer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Syncer").field("store", &self.duties.store).finish_non_exhaustive()
    }
}

//! Reclamation by epochs ("Practical lock-freedom", Fraser 2004), with guards that cost two plain
//! stores.
//!
//! # The protocol
//!
//! | reader | collector, under its lock |
//! | --- | --- |
//! | 1. reads the epoch and stores it in its record | 1. fences every thread ([`barrier::heavy`]) |
//! | 2. its side of the fence ([`barrier::light`]) | 2. seals earlier unlinked memory with the epoch, e |
//! | 3. reads pointers and their targets | 3. sets the epoch to e + 1 if every record has e or nothing |
//! | 4. clears its record | 4. frees memory sealed at e − 1 or before |
//!
//! Either the reader's fence or the collector's comes first. If it is the collector's, the reader
//! sees all earlier unlinking, and cannot reach the memory. If it is the reader's, the collector
//! sees the record in that collection and in all later ones until it is cleared, so the epoch
//! advances by at most one step; memory sealed in these collections is freed only after two.
//!
//! A record is cleared, and written again, with release, and the collector reads it with acquire:
//! all reads of a reader come before the free.
//!
//! Records are never freed; an ending thread leaves its record to another. A thread that unlinks
//! memory collects one step per bag of [`BAG_ACTIONS`]; a reader collects once in [`PINS_PER_TURN`]
//! guards, and only if garbage waits.

use core::cell::{Cell, RefCell};
use core::ptr;
use std::collections::VecDeque;

use crate::barrier;
use crate::mutants::planted;
use crate::panics::DropPanics;
use crate::sync::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Mutex, MutexGuard, Ordering};

/// Number of actions in a thread's bag before it is sealed.
const BAG_ACTIONS: usize = 64;
/// Number of guards of a reading thread between two collections.
const PINS_PER_TURN: u32 = 4096;
/// The epoch of a record whose thread has no guard. Epochs begin at 1.
const NOT_PINNED: u64 = 0;

/// A deferred call that frees memory.
pub(crate) struct DeferredAction {
    pub(crate) data: *mut (),
    pub(crate) run: unsafe fn(*mut ()),
}

// SAFETY: the caller of `defer` promises that it may run on any thread.
unsafe impl Send for DeferredAction {}

/// The record of a thread: its shared epoch, and its own data.
#[repr(align(128))]
pub(crate) struct ThreadRecord {
    /// The epoch at which the thread was pinned.
    pinned_at: AtomicU64,
    is_taken: AtomicBool,
    /// Written before the record can be reached.
    next: Cell<*mut ThreadRecord>,
    // From here on the owner's alone.
    guards: Cell<usize>,
    pins: Cell<u32>,
    /// The thread has ended: the drop of its last guard returns the record.
    is_orphan: Cell<bool>,
    bag: RefCell<Vec<DeferredAction>>,
}

/// The waiting garbage, and the records of all threads.
pub(crate) struct Collector {
    epoch: AtomicU64,
    records: AtomicPtr<ThreadRecord>,
    /// Sealed bags with their epochs, the oldest first.
    sealed: Mutex<VecDeque<(u64, Vec<DeferredAction>)>>,
    /// The number of waiting bags.
    waiting: AtomicUsize,
    /// The number of threads that run the actions of bags. Raised under the lock.
    running: AtomicUsize,
}

impl ThreadRecord {
    fn new() -> Self {
        Self {
            pinned_at: AtomicU64::new(NOT_PINNED),
            is_taken: AtomicBool::new(true),
            next: Cell::new(ptr::null_mut()),
            guards: Cell::new(0),
            pins: Cell::new(0),
            is_orphan: Cell::new(false),
            bag: RefCell::new(Vec::new()),
        }
    }
}

impl Collector {
    #[cfg(not(loom))]
    pub(crate) const fn new() -> Self {
        Self {
            epoch: AtomicU64::new(NOT_PINNED + 1),
            records: AtomicPtr::new(ptr::null_mut()),
            sealed: Mutex::new(VecDeque::new()),
            waiting: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
        }
    }

    #[cfg(loom)]
    pub(crate) fn new() -> Self {
        Self {
            epoch: AtomicU64::new(NOT_PINNED + 1),
            records: AtomicPtr::new(ptr::null_mut()),
            sealed: Mutex::new(VecDeque::new()),
            waiting: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
        }
    }

    /// A record for the calling thread: a returned one, or a new one.
    pub(crate) fn take_record(&'static self) -> &'static ThreadRecord {
        barrier::prepare();
        let mut each = self.records.load(Ordering::Acquire);
        // SAFETY: records are never freed, and `next` doesn't change once a record can be reached.
        while let Some(record) = unsafe { each.as_ref() } {
            if record.is_taken.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok() {
                return record;
            }
            each = record.next.get();
        }
        let record: &'static ThreadRecord = Box::leak(Box::new(ThreadRecord::new()));
        let mut first = self.records.load(Ordering::Relaxed);
        loop {
            record.next.set(first);
            let new = ptr::from_ref(record).cast_mut();
            match self.records.compare_exchange(first, new, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return record,
                Err(other) => first = other,
            }
        }
    }

    /// The thread that owns the record has ended; its guards may not have.
    pub(crate) fn end_thread(&self, record: &ThreadRecord) {
        record.is_orphan.set(true);
        if record.guards.get() == 0 {
            self.give_back(record);
        }
    }

    #[cold]
    fn give_back(&self, record: &ThreadRecord) {
        record.is_orphan.set(false);
        // Actions that run here use guards of another record. Garbage that cannot be sealed stays
        // in this record for its next owner.
        self.hand_over(record).end();
        record.is_taken.store(false, Ordering::Release);
    }

    /// Begins a guard.
    #[inline(always)]
    pub(crate) fn enter(&self, record: &ThreadRecord) {
        let guards = record.guards.get();
        record.guards.set(guards + 1);
        if guards == 0 {
            self.announce(record);
        }
    }

    /// Ends a guard.
    #[inline(always)]
    pub(crate) fn leave(&self, record: &ThreadRecord) {
        let guards = record.guards.get() - 1;
        record.guards.set(guards);
        if guards == 0 {
            record.pinned_at.store(NOT_PINNED, Ordering::Release);
            if record.is_orphan.get() {
                self.give_back(record);
            }
        }
    }

    /// Ends the protection of everything read so far, unless the thread has other guards.
    #[inline]
    pub(crate) fn renew(&self, record: &ThreadRecord) {
        if record.guards.get() == 1 {
            self.announce(record);
        }
    }

    #[inline(always)]
    fn announce(&self, record: &ThreadRecord) {
        let epoch = self.epoch.load(Ordering::Acquire);
        // Release, although nothing is published: a collector that reads this value instead of the
        // previous clearing must still come after that clearing.
        record.pinned_at.store(epoch, Ordering::Release);
        if !planted("guard_without_fence") {
            barrier::light();
        }
        let pins = record.pins.get().wrapping_add(1);
        record.pins.set(pins);
        if pins.is_multiple_of(PINS_PER_TURN) {
            self.collect_if_due();
        }
    }

    /// Defers an action until all current guards have ended.
    pub(crate) fn defer(&self, record: &ThreadRecord, action: DeferredAction) {
        let is_full = {
            let mut bag = record.bag.borrow_mut();
            bag.push(action);
            bag.len() >= BAG_ACTIONS
        };
        if is_full {
            self.flush(record);
        }
    }

    /// Seals the thread's bag, and collects one step. Returns the epoch.
    pub(crate) fn flush(&self, record: &ThreadRecord) -> u64 {
        self.hand_over(record).go_on();
        self.epoch.load(Ordering::Acquire)
    }

    fn hand_over(&self, record: &ThreadRecord) -> DropPanics {
        let bag = record.bag.take();
        let ripe = self.turn(lock(&self.sealed), bag).unwrap_or_else(|mut bag| {
            record.bag.borrow_mut().append(&mut bag);
            Ripe::default()
        });
        ripe.run()
    }

    /// Whether some thread, maybe this one, runs actions.
    pub(crate) fn is_running(&self) -> bool {
        self.running.load(Ordering::Acquire) > 0 && !planted("others_actions_not_awaited")
    }

    #[cold]
    fn collect_if_due(&self) {
        if self.waiting.load(Ordering::Relaxed) > 0
            && let Ok(sealed) = self.sealed.try_lock()
        {
            // The caller of `pin` is not responsible for panics of freed values, and a half-built
            // guard would stay forever.
            let panics = self.turn(sealed, Vec::new()).unwrap_or_default().run();
            if planted("pin_panics") { panics.go_on() } else { panics.end() }
        }
    }

    /// Seals a bag, advances the epoch if possible, and returns the bags that can be freed.
    ///
    /// # Errors
    ///
    /// Returns the bag if the system refuses the fence.
    fn turn(
        &self,
        mut sealed: MutexGuard<'_, VecDeque<(u64, Vec<DeferredAction>)>>,
        bag: Vec<DeferredAction>,
    ) -> Result<Ripe<'_>, Vec<DeferredAction>> {
        if !barrier::heavy() {
            return Err(bag);
        }
        // Changed only under the lock.
        let mut epoch = self.epoch.load(Ordering::Relaxed);
        if !bag.is_empty() {
            sealed.push_back((epoch, bag));
        }
        if self.all_say(epoch) {
            epoch += 1;
            self.epoch.store(epoch, Ordering::Release);
        }
        let steps = if planted("freed_a_step_early") { 1 } else { 2 };
        let mut ripe = Ripe::default();
        while sealed.front().is_some_and(|(sealed_at, _)| sealed_at + steps <= epoch) {
            ripe.bags.extend(sealed.pop_front().map(|(_, bag)| bag));
        }
        if !ripe.bags.is_empty() {
            self.running.fetch_add(1, Ordering::Relaxed);
            ripe.running = Some(&self.running);
        }
        self.waiting.store(sealed.len(), Ordering::Relaxed);
        Ok(ripe)
    }

    /// Whether every thread with a guard is pinned at `epoch`.
    fn all_say(&self, epoch: u64) -> bool {
        let mut each = self.records.load(Ordering::Acquire);
        while !each.is_null() {
            // SAFETY: as in `take_record`; of the records of other threads only the atomics are
            // read.
            let (pinned_at, next) = unsafe { ((*each).pinned_at.load(Ordering::Acquire), (*each).next.get()) };
            if pinned_at != NOT_PINNED && pinned_at != epoch {
                return false;
            }
            each = next;
        }
        true
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that may panic happens under the lock but allocations, which leave the queue whole.
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Bags whose actions may run now, by the thread that has taken them.
#[derive(Default)]
struct Ripe<'a> {
    bags: Vec<Vec<DeferredAction>>,
    /// The count of such threads, if there are bags.
    running: Option<&'a AtomicUsize>,
}

impl Ripe<'_> {
    fn run(mut self) -> DropPanics {
        let mut panics = DropPanics::default();
        for action in std::mem::take(&mut self.bags).into_iter().flatten() {
            // SAFETY: the caller of `defer` promised that it may run once the guards of its time
            // have ended; each runs once.
            panics.run(|| unsafe { (action.run)(action.data) });
        }
        panics
    }
}

impl Drop for Ripe<'_> {
    fn drop(&mut self) {
        if let Some(running) = self.running {
            running.fetch_sub(1, Ordering::Release);
        }
    }
}

/// The process's collector, and each thread's record.
#[cfg(not(loom))]
mod process {
    use core::cell::Cell;

    use super::{Collector, DeferredAction, ThreadRecord};

    static COLLECTOR: Collector = Collector::new();

    thread_local! {
        static RECORD: Cell<Option<&'static ThreadRecord>> = const { Cell::new(None) };
        static END: EndOfThread = const { EndOfThread };
    }

    /// Returns the thread's record when the thread ends.
    struct EndOfThread;

    impl Drop for EndOfThread {
        fn drop(&mut self) {
            if let Some(record) = RECORD.take() {
                COLLECTOR.end_thread(record);
            }
        }
    }

    /// Belongs to its thread, as the record is not `Sync`.
    pub(crate) struct PinGuard {
        record: &'static ThreadRecord,
    }

    #[inline(always)]
    pub(crate) fn pin() -> PinGuard {
        let record = RECORD.get().unwrap_or_else(register);
        COLLECTOR.enter(record);
        PinGuard { record }
    }

    #[cold]
    fn register() -> &'static ThreadRecord {
        let record = COLLECTOR.take_record();
        if END.try_with(|_| ()).is_ok() {
            RECORD.set(Some(record));
        } else {
            // The thread is ending, and has returned its record: this one serves a single guard.
            record.leave_with_guard();
        }
        record
    }

    impl PinGuard {
        pub(crate) fn repin(&mut self) {
            COLLECTOR.renew(self.record);
        }

        pub(crate) fn flush(&self) -> u64 {
            COLLECTOR.flush(self.record)
        }

        pub(crate) fn is_running(&self) -> bool {
            COLLECTOR.is_running()
        }

        pub(crate) fn defer(&self, action: DeferredAction) {
            COLLECTOR.defer(self.record, action);
        }
    }

    impl Drop for PinGuard {
        #[inline(always)]
        fn drop(&mut self) {
            COLLECTOR.leave(self.record);
        }
    }
}

#[cfg(not(loom))]
pub(crate) use process::{PinGuard, pin};

impl ThreadRecord {
    /// Marks the record to be returned when its last guard ends.
    #[cfg(not(loom))]
    fn leave_with_guard(&self) {
        self.is_orphan.set(true);
    }
}

#[cfg(all(test, loom))]
mod models {
    use loom::cell::UnsafeCell;
    use loom::sync::Arc;
    use loom::thread;

    use super::*;

    /// A value that loom checks: the model fails if the write is not ordered after every read.
    struct LoomCell(UnsafeCell<u64>);

    unsafe fn free(data: *mut ()) {
        // SAFETY: it came from `Box::into_raw`, and is freed once; loom checks that nobody reads
        // it, and the memory stays.
        unsafe { (*data.cast::<LoomCell>()).0.with_mut(|value| *value = u64::MAX) };
    }

    fn model(run: impl Fn() + Sync + Send + 'static) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        builder.max_branches = 50_000;
        builder.check(run);
    }

    struct SharedPlace {
        collector: &'static Collector,
        place: AtomicPtr<LoomCell>,
    }

    impl SharedPlace {
        fn new() -> Arc<Self> {
            let first = Box::into_raw(Box::new(LoomCell(UnsafeCell::new(1))));
            let collector = Box::leak(Box::new(Collector::new()));
            Arc::new(Self { collector, place: AtomicPtr::new(first) })
        }

        fn read(&self, record: &ThreadRecord) {
            self.collector.enter(record);
            let value = self.place.load(Ordering::Acquire);
            // SAFETY: loom says if it is not.
            let value = unsafe { (*value).0.with(|value| *value) };
            assert!(value == 1 || value == 2, "freed while it was in reach");
            self.collector.leave(record);
        }

        fn replace(&self, record: &ThreadRecord) {
            let new = Box::into_raw(Box::new(LoomCell(UnsafeCell::new(2))));
            let old = self.place.swap(new, Ordering::AcqRel);
            self.collector.defer(record, DeferredAction { data: old.cast(), run: free });
        }
    }

    #[test]
    fn collector_frees_nothing_that_a_guard_sees() {
        model(|| {
            let cell = SharedPlace::new();
            let own = cell.collector.take_record();
            let reader = Arc::clone(&cell);
            let reader = thread::spawn(move || {
                let record = reader.collector.take_record();
                reader.read(record);
                reader.collector.end_thread(record);
            });
            cell.replace(own);
            (0..3).for_each(|_| {
                let _epoch = cell.collector.flush(own);
            });
            reader.join().unwrap();
        });
    }

    #[test]
    fn collector_sees_a_guard_that_comes_again() {
        model(|| {
            let cell = SharedPlace::new();
            let (own, other) = (cell.collector.take_record(), cell.collector.take_record());
            cell.collector.end_thread(other);
            let reader = Arc::clone(&cell);
            let reader = thread::spawn(move || {
                let record = reader.collector.take_record();
                reader.read(record);
                reader.read(record);
            });
            cell.replace(own);
            (0..2).for_each(|_| {
                let _epoch = cell.collector.flush(own);
            });
            reader.join().unwrap();
            (0..3).for_each(|_| {
                let _epoch = cell.collector.flush(own);
            });
            assert_eq!(cell.collector.waiting.load(Ordering::Relaxed), 0, "everything is freed in the end");
        });
    }
}

//! The hub of a store's feeds: it reads new commits once for all feeds, and wakes those that wait.
//!
//! A feed that is behind reads the log by itself. Once it has caught up, it *follows*: the hub
//! examines new commits for it. The thread `hightower-feed` does this while feeds wait, and so does
//! each feed that asks for its next commit, so that a returned write is there at once.

use std::array;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Weak};
use std::time::Duration;

use hightower_seams::Clock;
use hightower_seams::lock_order::{self, Rank};

use crate::components::{Background, Components};
use crate::config::StoreConfig;
use crate::error::Result;
use crate::feed::bell::{FeedBell, Sleeper};
use crate::feed::cursor::{CommitPlace, LogCursor};
use crate::feed::lane::{Lane, Taken};
use crate::feed::log::FeedLog;
use crate::feed::signal::FeedSignal;
use crate::feed::watched_range::WatchedRange;
use crate::mutants::planted;
use crate::open_store::OpenStore;
use crate::read_path::ReadPath;
use crate::sync::thread::{self, ThreadId};
use crate::sync::{Condvar, Mutex, step};
use crate::sync_path::SyncPath;
use crate::turn::called_from_within;

/// The interval at which the hub looks for commits while there are some: a wake-up costs a writer
/// microseconds, and this is well below the promised millisecond.
const LOOK_INTERVAL: Duration = Duration::from_micros(200);
/// After this many looks without a commit, the hub sleeps until a writer wakes it.
const QUIET_LOOKS: u32 = 25;

/// The end of the log that a feed reads up to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FeedReach {
    /// Every commit that reads see.
    Visible,
    /// Every commit that no power loss can take.
    Durable,
}

const REACHES: [FeedReach; 2] = [FeedReach::Visible, FeedReach::Durable];

/// Statistics of a store's change feeds.
///
/// ```
/// # use hightower_engine::SingleNodeEngine;
/// # let dir = tempfile::tempdir().unwrap();
/// # let engine = SingleNodeEngine::open(dir.path())?;
/// let feed = engine.watch(.., engine.latest_seq())?;
/// assert_eq!(engine.stats().feeds.open, 1);
/// # drop(feed);
/// # Ok::<(), hightower_engine::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FeedStats {
    /// Number of open feeds.
    pub open: u64,
    /// The seqno up to which the slowest of them has read.
    pub slowest_seqno: Option<u64>,
    /// The lowest seqno from which a feed can begin: the log has each commit above it.
    pub oldest_seqno: u64,
    /// Bytes of segments that compaction has removed, and that only feeds still hold.
    pub retained_bytes: u64,
    /// Bytes of segments that compaction has removed, and that are kept as [history].
    ///
    /// [history]: crate::StoreConfig::history_bytes
    pub history_bytes: u64,
}

/// The parts of a store that its feeds use.
#[derive(Debug)]
pub(crate) struct FeedParts<'a> {
    pub(crate) read: &'a Arc<ReadPath>,
    pub(crate) store: &'a Arc<OpenStore>,
    pub(crate) sync: &'a Arc<SyncPath>,
    pub(crate) bell: &'a Arc<FeedBell>,
}

/// The hub of a store's feeds.
#[derive(Debug)]
pub(crate) struct FeedHub {
    read: Arc<ReadPath>,
    store: Arc<OpenStore>,
    sync: Arc<SyncPath>,
    bell: Arc<FeedBell>,
    log: FeedLog,
    clock: Arc<dyn Clock>,
    background: Background,
    config: Arc<StoreConfig>,
    lanes: Mutex<[Lane; REACHES.len()]>,
    next_id: AtomicU64,
    alarm: Mutex<Alarm>,
    rung: Condvar,
    seqno_waits: SeqnoWaits,
    thread: Mutex<Option<ThreadId>>,
}

/// The wish to wake the hub's thread.
#[derive(Debug, Default)]
struct Alarm {
    is_rung: bool,
    is_closing: bool,
}

/// The callers that wait for a seqno.
#[derive(Debug, Default)]
struct SeqnoWaits {
    waiters: AtomicUsize,
    /// The visible seqno of which they were told last.
    told: AtomicU64,
    lock: Mutex<()>,
    moved: Condvar,
}

/// Counts a waiter while it lives.
struct Waiting<'a>(&'a SeqnoWaits);

impl<'a> Waiting<'a> {
    fn new(waits: &'a SeqnoWaits) -> Self {
        waits.waiters.fetch_add(1, Ordering::SeqCst);
        Self(waits)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiters.fetch_sub(1, Ordering::SeqCst);
    }
}

impl FeedHub {
    pub(crate) fn new(
        components: &Components,
        config: &Arc<StoreConfig>,
        log: FeedLog,
        parts: &FeedParts<'_>,
    ) -> Arc<Self> {
        let hub = Arc::new(Self {
            read: Arc::clone(parts.read),
            store: Arc::clone(parts.store),
            sync: Arc::clone(parts.sync),
            bell: Arc::clone(parts.bell),
            log,
            clock: Arc::clone(&components.clock),
            background: components.background,
            config: Arc::clone(config),
            lanes: Mutex::new(array::from_fn(|_| Lane::default())),
            next_id: AtomicU64::new(0),
            alarm: Mutex::default(),
            rung: Condvar::new(),
            seqno_waits: SeqnoWaits::default(),
            thread: Mutex::new(None),
        });
        let sleeper: Weak<Self> = Arc::downgrade(&hub);
        parts.bell.connect(sleeper);
        hub
    }

    pub(crate) fn log(&self) -> &FeedLog {
        &self.log
    }

    pub(crate) fn check_open(&self) -> Result<()> {
        self.store.check_open()
    }

    /// Whether no commit will ever follow.
    pub(crate) fn is_read_only(&self) -> bool {
        self.store.is_read_only()
    }

    /// The last commit that a feed may return.
    pub(crate) fn limit(&self, reach: FeedReach) -> u64 {
        match reach {
            FeedReach::Durable if !planted("durable_feed_shows_all") => self.sync.durable_seq(),
            _ => self.read.index.visible_seq(),
        }
    }

    fn with_lane<R>(&self, reach: FeedReach, call: impl FnOnce(&mut Lane) -> R) -> R {
        let _held = lock_order::take(Rank::Feeds);
        let [visible, durable] = &mut *self.lanes.lock();
        call(if reach == FeedReach::Visible { visible } else { durable })
    }

    /// Adds a feed that has read all commits up to `after`. Returns its id and its signal.
    pub(crate) fn add(&self, reach: FeedReach, range: WatchedRange, after: u64) -> (u64, Arc<FeedSignal>) {
        let (id, signal) = (self.next_id.fetch_add(1, Ordering::Relaxed), Arc::default());
        self.with_lane(reach, |lane| lane.add(id, range, &signal, after));
        (id, signal)
    }

    pub(crate) fn remove(&self, reach: FeedReach, id: u64) {
        // In a forked child, a thread that does not exist may hold the lock.
        if !self.store.is_forked() {
            self.with_lane(reach, |lane| lane.remove(id));
        }
    }

    /// The feed reads by itself, and has read all commits up to this seqno.
    pub(crate) fn note_read(&self, reach: FeedReach, id: u64, after: u64) {
        self.with_lane(reach, |lane| lane.note_read(id, after));
    }

    /// See [`Lane::follow`].
    pub(crate) fn follow(&self, reach: FeedReach, id: u64, cursor: &LogCursor) {
        let is_first = self.with_lane(reach, |lane| {
            let is_first = !lane.has_followers();
            lane.follow(id, cursor);
            is_first
        });
        if is_first {
            self.wake();
        }
    }

    /// See [`Lane::take`]. It examines new commits if there are no places yet. The limit is the
    /// last commit that was examined if there is nothing.
    pub(crate) fn take(&self, reach: FeedReach, id: u64, places: &mut VecDeque<CommitPlace>) -> (Taken, u64) {
        let mut signals = Vec::new();
        loop {
            let limit = self.limit(reach);
            let taken = self.with_lane(reach, |lane| match lane.take(id, places) {
                Taken::Nothing if lane.is_behind(limit) => {
                    lane.examine(&self.log, limit, &mut signals);
                    None
                }
                taken => Some(taken),
            });
            signals.drain(..).for_each(|signal| signal.set());
            if let Some(taken) = taken {
                return (taken, limit);
            }
        }
    }

    /// Examines all new commits for all followers, and tells those who wait for a seqno. Returns
    /// whether there was anything new.
    fn look(&self) -> bool {
        let mut signals = Vec::new();
        let mut is_new = false;
        for reach in REACHES {
            let limit = self.limit(reach);
            loop {
                let is_behind = self.with_lane(reach, |lane| {
                    let is_behind = lane.is_behind(limit);
                    if is_behind {
                        lane.examine(&self.log, limit, &mut signals);
                    }
                    is_behind
                });
                signals.drain(..).for_each(|signal| signal.set());
                if !is_behind || self.store.is_closing() {
                    break;
                }
                is_new = true;
            }
        }
        is_new | self.tell_waiters()
    }

    fn tell_waiters(&self) -> bool {
        let SeqnoWaits { waiters, told, lock, moved } = &self.seqno_waits;
        let visible = self.limit(FeedReach::Visible);
        if waiters.load(Ordering::SeqCst) == 0 || told.swap(visible, Ordering::SeqCst) == visible {
            return false;
        }
        // A waiter that has looked before the commit is waiting after this.
        drop(lock.lock());
        moved.notify_all();
        true
    }

    /// Whether anybody waits for commits.
    fn is_wanted(&self) -> bool {
        let waiters = self.seqno_waits.waiters.load(Ordering::SeqCst);
        waiters > 0 || REACHES.iter().any(|reach| self.with_lane(*reach, |lane| lane.has_followers()))
    }

    /// Arms the bell, unless there is something new.
    fn settle(&self) -> bool {
        if planted("bell_armed_after_looking") {
            let is_new = self.look();
            step();
            self.bell.arm();
            return !is_new;
        }
        self.bell.arm();
        fence(Ordering::SeqCst);
        step();
        let is_new = self.look();
        if is_new {
            self.bell.disarm();
        }
        !is_new
    }

    /// The thread of the hub; runs until [`close`](Self::close).
    pub(crate) fn run(&self) {
        *self.thread.lock() = Some(thread::current().id());
        let mut quiet_looks = 0;
        loop {
            quiet_looks = if self.look() { 0 } else { quiet_looks + 1 };
            let is_wanted = self.is_wanted();
            let may_sleep = !is_wanted || (quiet_looks >= QUIET_LOOKS && self.settle());
            let mut alarm = self.alarm.lock();
            if !alarm.is_rung && !alarm.is_closing {
                if may_sleep {
                    self.rung.wait(&mut alarm);
                } else {
                    self.rung.wait_for(&mut alarm, LOOK_INTERVAL);
                }
            }
            if alarm.is_closing {
                return;
            }
            if std::mem::take(&mut alarm.is_rung) {
                quiet_looks = 0;
            }
            drop(alarm);
            self.bell.disarm();
        }
    }

    /// The end of a wait, as a time of the store's clock; `None` if that is never.
    pub(crate) fn deadline(&self, timeout: Duration) -> Option<Duration> {
        self.clock.elapsed().checked_add(timeout)
    }

    pub(crate) fn time_to(&self, deadline: Duration) -> Duration {
        deadline.saturating_sub(self.clock.elapsed())
    }

    /// # Errors
    ///
    /// If the caller is the hub's thread, which would wait for itself.
    pub(crate) fn refuse_own_thread(&self) -> Result<()> {
        let is_own = *self.thread.lock() == Some(thread::current().id());
        if is_own { Err(called_from_within()) } else { Ok(()) }
    }

    /// Waits until reads see the commit with this seqno; see
    /// [`SingleNodeEngine::wait_for`](crate::SingleNodeEngine::wait_for).
    pub(crate) fn wait_for(&self, seqno: u64, timeout: Duration) -> Result<bool> {
        let deadline = self.deadline(timeout);
        let has_come = || self.read.index.visible_seq() >= seqno;
        self.check_open()?;
        if has_come() || self.is_read_only() {
            return Ok(has_come());
        }
        self.refuse_own_thread()?;
        let _waiting = Waiting::new(&self.seqno_waits);
        self.wake();
        let SeqnoWaits { lock, moved, .. } = &self.seqno_waits;
        let mut guard = lock.lock();
        loop {
            self.check_open()?;
            if has_come() {
                return Ok(true);
            }
            match deadline.map(|deadline| self.time_to(deadline)) {
                Some(Duration::ZERO) => return Ok(false),
                Some(left) => {
                    if moved.wait_for(&mut guard, left).timed_out() {
                        return Ok(has_come());
                    }
                }
                None => moved.wait(&mut guard),
            }
        }
    }

    /// Gives up the segments that compaction has removed and that neither a feed nor the history
    /// needs at this time, in Unix milliseconds. `for_feeds` and `for_history` are false if their
    /// room is needed more.
    pub(crate) fn give_up_removed(&self, for_feeds: bool, for_history: bool, now_ms: i64) {
        let lag_bytes = self.config.max_feed_lag_bytes;
        let near = if planted("lag_without_bound") { 0 } else { self.log.within(lag_bytes) };
        let slowest = |reach| {
            self.with_lane(reach, |lane| lane.read_up_to().filter(|after| *after >= near).min().unwrap_or(u64::MAX))
        };
        let by_feeds = || {
            let is_planted = planted("nothing_kept_for_feeds");
            REACHES.map(slowest).into_iter().min().filter(|_| !is_planted).unwrap_or(u64::MAX)
        };
        let by_feeds = if for_feeds { by_feeds() } else { u64::MAX };
        let by_history =
            if for_history || planted("history_fills_the_device") { self.history_after(now_ms) } else { u64::MAX };
        let needed_after = by_feeds.min(by_history);
        self.log.give_up_to(needed_after);
    }

    /// Whether compaction has to retain what it removes.
    pub(crate) fn keeps_history(&self) -> bool {
        self.config.history_bytes > 0
    }

    /// The history needs the commits above this seqno.
    fn history_after(&self, now_ms: i64) -> u64 {
        if !self.keeps_history() {
            return u64::MAX;
        }
        let by_age = self.config.history_age.map_or(0, |age| {
            let age_ms = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
            self.log.ended_before(now_ms.saturating_sub(age_ms))
        });
        let by_age = if planted("history_without_age") { 0 } else { by_age };
        let by_bytes = if planted("history_without_bound") { 0 } else { self.log.within(self.config.history_bytes) };
        by_bytes.max(by_age)
    }

    pub(crate) fn stats(&self) -> FeedStats {
        let of_lane = |reach| self.with_lane(reach, |lane| (lane.len() as u64, lane.read_up_to().min()));
        let [visible, durable] = REACHES.map(of_lane);
        FeedStats {
            open: visible.0 + durable.0,
            slowest_seqno: [visible.1, durable.1].into_iter().flatten().min(),
            oldest_seqno: self.log.complete_after(),
            retained_bytes: self.log.removed_bytes(),
            history_bytes: self.log.retained_bytes(),
        }
    }

    /// Ends the thread, and wakes all who wait. The store is closing already, so they see that.
    pub(crate) fn close(&self) {
        self.alarm.lock().is_closing = true;
        self.rung.notify_all();
        let mut signals = Vec::new();
        REACHES.iter().for_each(|reach| self.with_lane(*reach, |lane| lane.signal_all(&mut signals)));
        signals.into_iter().for_each(|signal| signal.set());
        drop(self.seqno_waits.lock.lock());
        self.seqno_waits.moved.notify_all();
        self.log.close();
    }
}

impl Sleeper for FeedHub {
    fn wake(&self) {
        if self.background == Background::Caller {
            while self.is_wanted() && !self.settle() {}
            return;
        }
        self.alarm.lock().is_rung = true;
        self.rung.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::FeedReach;
    use crate::config::StoreConfig;
    use crate::engine::SingleNodeEngine;

    #[test]
    fn the_memory_of_a_slow_reader_does_not_grow() {
        let dir = tempfile::tempdir().unwrap();
        let engine = SingleNodeEngine::with_config(StoreConfig::at(dir.path())).unwrap();
        let mut feed = engine.watch(.., engine.latest_seq()).unwrap();
        for number in 0..1000_u32 {
            engine.put("key", number.to_le_bytes()).unwrap();
            engine.feeds.look();
        }
        let waiting = engine.feeds.with_lane(FeedReach::Visible, |lane| lane.waiting());
        assert!((1..=64).contains(&waiting), "{waiting} places");
        assert_eq!(std::iter::from_fn(|| feed.try_next().unwrap()).count(), 1000);
    }
}

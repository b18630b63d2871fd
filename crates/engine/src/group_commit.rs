//! Group commit: one sync for all waiting writers.
//!
//! The first writer that needs its commit durable becomes the leader and syncs on its own thread,
//! so a lone writer pays one sync and no hand-over. Writers that arrive during the sync wait. When
//! it ends, the writers that it covers return, and one of the others leads the next sync, which
//! covers everything published by then.
//!
//! Writers that commit again at once would split into two halves, each waiting for the other's
//! sync. A leader therefore waits briefly until as many writers have arrived as took part in the
//! previous sync, including those that arrived while it ran. A lone writer does not wait.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::mutants::planted;
use crate::poison::Poison;
use crate::sync::{Condvar, Mutex, step, thread};

/// Maximum wait of a leader for the next writer: this share of the duration of a sync, and at most
/// this time, because writers need processor time, not device time.
const PATIENCE_SHARE: u64 = 5;
const PATIENCE_MAX: Duration = Duration::from_micros(25);
/// Maximum number of checks for arriving writers while a leader waits.
const LOOKS_MAX: usize = 1000;

/// How a commit became durable.
enum Synced {
    /// By a sync that its writer led.
    Here,
    /// By the close of the store, before such a sync.
    Before,
}

/// Shared syncs of the writers of one store.
#[derive(Debug, Default)]
pub(crate) struct GroupCommit {
    /// Whether a leader is syncing.
    syncing: Mutex<bool>,
    done: Condvar,
    /// All commits up to this one are durable.
    durable_seq: AtomicU64,
    /// Number of syncs.
    syncs: AtomicU64,
    /// Number of writers that had to wait.
    arrivals: AtomicU64,
    last: LastSync,
}

/// Data passed from the leader of a sync to the next one, ordered by the lock in between.
#[derive(Debug, Default)]
struct LastSync {
    /// Number of arrived writers when it began.
    arrivals: AtomicU64,
    /// Number of writers that arrived since the previous sync began: the writers that this sync
    /// covers, and those that arrived while it ran.
    there: AtomicU64,
    took_ns: AtomicU64,
}

/// A running sync. Its end wakes the waiting writers, even after a panic.
struct Leading<'a> {
    group: &'a GroupCommit,
    poison: &'a Poison,
    /// Stays `false` if the sync panics. `thread::panicking` is not usable here, because
    /// destructors may commit.
    has_ended: bool,
}

impl Drop for Leading<'_> {
    fn drop(&mut self) {
        if !self.has_ended || planted("destructor_poisons") && thread::panicking() {
            if planted("panic_keeps_the_lead") {
                return;
            }
            // The result of the sync is unknown, and it must not be repeated.
            let _told = self.poison.latch(&std::io::Error::other("the thread that synced the log panicked"));
        }
        *self.group.syncing.lock() = false;
        self.group.done.notify_all();
    }
}

impl GroupCommit {
    /// Starts with all commits up to `seq` durable.
    pub(crate) fn starting_at(seq: u64) -> Self {
        Self { durable_seq: AtomicU64::new(seq), ..Self::default() }
    }

    pub(crate) fn durable_seq(&self) -> u64 {
        self.durable_seq.load(Ordering::Acquire)
    }

    pub(crate) fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::Relaxed)
    }

    /// Records that all commits up to `seq` are durable, for instance after closing the store.
    pub(crate) fn note_durable(&self, seq: u64) {
        self.durable_seq.fetch_max(seq, Ordering::AcqRel);
    }

    /// Returns when commit `seq` is durable. `published` returns the latest completely appended
    /// commit; `sync` makes it durable.
    ///
    /// [`Error::Closed`] from `sync` is not a failure: the store was closed meanwhile, which made
    /// its commits durable.
    pub(crate) fn wait(
        &self,
        seq: u64,
        poison: &Poison,
        elapsed: impl Fn() -> Duration,
        published: impl Fn() -> u64,
        sync: impl Fn() -> Result<()>,
    ) -> Result<()> {
        let mut syncing = self.syncing.lock();
        if self.durable_seq() < seq {
            self.arrivals.fetch_add(1, Ordering::Relaxed);
        }
        loop {
            if self.durable_seq() >= seq {
                return Ok(());
            }
            poison.check()?;
            if !*syncing {
                break;
            }
            self.done.wait(&mut syncing);
            if planted("failure_told_to_one") && poison.check().is_err() {
                return Ok(());
            }
        }
        *syncing = true;
        drop(syncing);
        let mut leading = Leading { group: self, poison, has_ended: false };

        self.gather(&elapsed);
        let (arrivals, began) = (self.arrivals.load(Ordering::Relaxed), elapsed());
        // Read before the sync: later commits may not be covered.
        let covered = published();
        step();
        let result = match sync() {
            Err(Error::Closed) if !planted("close_fails_waiters") => self.after_close(seq, poison),
            result => result.map(|()| Synced::Here).map_err(|failure| poison.latch(&failure)),
        };
        let covered = if planted("covered_read_after_sync") { published() } else { covered };
        if let Ok(Synced::Here) = result {
            self.note_durable(covered);
            self.syncs.fetch_add(1, Ordering::Relaxed);
            self.note_sync(arrivals, elapsed().saturating_sub(began));
        }
        leading.has_ended = true;
        drop(leading);
        result.map(drop)
    }

    /// Waits briefly for the writers of the last sync, because most of them commit again at once.
    fn gather(&self, elapsed: &impl Fn() -> Duration) {
        let came_since = || self.arrivals.load(Ordering::Relaxed) - self.last.arrivals.load(Ordering::Relaxed);
        let expected = self.last.there.load(Ordering::Relaxed);
        if came_since() >= expected {
            return;
        }
        let share = Duration::from_nanos(self.last.took_ns.load(Ordering::Relaxed) / PATIENCE_SHARE);
        let patience = share.min(PATIENCE_MAX);
        let (mut came, mut came_at) = (came_since(), elapsed());
        for _ in 0..LOOKS_MAX {
            thread::yield_now();
            let (now_came, now) = (came_since(), elapsed());
            if now_came >= expected || (now_came == came && now.saturating_sub(came_at) >= patience) {
                return;
            }
            if now_came > came {
                (came, came_at) = (now_came, now);
            }
        }
    }

    /// Records a sync, with the number of writers that had arrived before it.
    fn note_sync(&self, arrivals: u64, took: Duration) {
        let before = self.last.arrivals.swap(arrivals, Ordering::Relaxed);
        self.last.there.store(self.arrivals.load(Ordering::Relaxed) - before, Ordering::Relaxed);
        self.last.took_ns.store(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// The result without another sync: the close has synced the commit, or has failed, or came
    /// before the commit.
    fn after_close(&self, seq: u64, poison: &Poison) -> Result<Synced> {
        if self.durable_seq() >= seq {
            return Ok(Synced::Before);
        }
        poison.check()?;
        Err(Error::Closed)
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
    use std::thread;
    use std::time::Duration;

    use super::GroupCommit;
    use crate::error::Error;
    use crate::poison::Poison;

    #[test]
    fn waiters_share_syncs_and_each_is_covered() {
        let (group, poison) = (GroupCommit::starting_at(0), Poison::default());
        let (next, durable, syncs) = (AtomicU64::new(0), AtomicU64::new(0), AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        let seq = next.fetch_add(1, Ordering::SeqCst) + 1;
                        let sync = || {
                            let upto = next.load(Ordering::SeqCst);
                            thread::sleep(Duration::from_micros(200));
                            syncs.fetch_add(1, Ordering::SeqCst);
                            durable.fetch_max(upto, Ordering::SeqCst);
                            Ok(())
                        };
                        group.wait(seq, &poison, || Duration::ZERO, || next.load(Ordering::SeqCst), sync).unwrap();
                        assert!(durable.load(Ordering::SeqCst) >= seq, "returned before it was durable");
                    }
                });
            }
        });
        let syncs = syncs.load(Ordering::SeqCst);
        assert!(syncs < 160, "160 commits took {syncs} syncs: none was shared");
    }

    /// Number of times that a leader reads the clock, which advances by 10 µs at each read. `come`
    /// lets writers arrive.
    fn looks(group: &GroupCommit, come: impl Fn(u64)) -> u64 {
        let asked = AtomicU64::new(0);
        group.gather(&|| {
            let asked = asked.fetch_add(1, Ordering::Relaxed) + 1;
            come(asked);
            Duration::from_micros(10 * asked)
        });
        asked.into_inner()
    }

    #[test]
    fn a_leader_waits_for_those_who_were_there_and_for_nobody_who_stays_away() {
        let group = GroupCommit::starting_at(0);
        let one_comes = || {
            group.arrivals.fetch_add(1, Ordering::Relaxed);
        };
        one_comes();
        assert_eq!(looks(&group, |_| ()), 0, "no writer took part in a previous sync");
        group.note_sync(1, Duration::from_millis(1));
        one_comes();
        assert_eq!(looks(&group, |_| ()), 0, "a lone writer was alone");
        // Two writers arrived during the sync, so three took part.
        one_comes();
        one_comes();
        group.note_sync(2, Duration::from_millis(1));
        assert_eq!(looks(&group, |_| ()), 4, "the first read, and 25 us without a writer");
        let third = |asked| {
            if asked == 2 {
                one_comes();
            }
        };
        assert_eq!(looks(&group, third), 3, "the third writer has arrived, and the next read sees it");
    }

    #[test]
    fn a_store_that_is_closed_meanwhile_has_not_failed() {
        let (group, poison) = (GroupCommit::starting_at(0), Poison::default());
        let error = group.wait(1, &poison, || Duration::ZERO, || 1, || Err(Error::Closed)).unwrap_err();
        assert_eq!(error.code(), "closed");
        poison.check().unwrap();
        // Closing syncs all earlier commits.
        let closed = || {
            group.note_durable(2);
            Err(Error::Closed)
        };
        group.wait(2, &poison, || Duration::ZERO, || 3, closed).unwrap();
        assert_eq!((group.durable_seq(), group.syncs()), (2, 0));
        assert_eq!(
            group.wait(3, &poison, || Duration::ZERO, || 3, || Err(Error::Closed)).unwrap_err().code(),
            "closed"
        );
        poison.latch(&io::Error::other("broken disk"));
        assert_eq!(
            group.wait(4, &poison, || Duration::ZERO, || 4, || Err(Error::Closed)).unwrap_err().code(),
            "poisoned"
        );
    }

    #[test]
    fn a_failed_sync_reaches_every_waiter_and_is_not_retried() {
        let (group, poison) = (GroupCommit::starting_at(0), Poison::default());
        let tries = AtomicUsize::new(0);
        let failing = || {
            tries.fetch_add(1, Ordering::SeqCst);
            thread::sleep(Duration::from_millis(5));
            Err(Error::Io { action: "sync".into(), source: io::Error::other("broken disk").into() })
        };
        thread::scope(|scope| {
            let waiters: Vec<_> = (1..=4).map(|seq| scope.spawn(move || seq)).map(|seq| seq.join().unwrap()).collect();
            let waiters: Vec<_> = waiters
                .into_iter()
                .map(|seq| {
                    let (group, poison, failing) = (&group, &poison, &failing);
                    scope.spawn(move || group.wait(seq, poison, || Duration::ZERO, || 4, failing))
                })
                .collect();
            for waiter in waiters {
                let error = waiter.join().unwrap().unwrap_err();
                assert_eq!(error.code(), "poisoned");
                assert!(error.to_string().contains("broken disk"), "{error}");
            }
        });
        assert_eq!(tries.load(Ordering::SeqCst), 1);
        assert_eq!(poison.check().unwrap_err().code(), "poisoned");
    }

    #[test]
    fn a_leader_that_panics_leaves_nobody_waiting() {
        use std::sync::Barrier;

        let (group, poison) = (GroupCommit::starting_at(0), Poison::default());
        let both = Barrier::new(2);
        let arrived = |wanted| {
            while group.arrivals.load(Ordering::Relaxed) < wanted {
                thread::yield_now();
            }
        };
        thread::scope(|scope| {
            let (group, poison, both) = (&group, &poison, &both);
            let leader = scope.spawn(move || {
                let sync = || {
                    both.wait();
                    arrived(2);
                    panic!("a bug");
                };
                group.wait(1, poison, || Duration::ZERO, || 1, sync)
            });
            both.wait();
            let waits = group.wait(1, poison, || Duration::ZERO, || 1, || Ok(()));
            assert_eq!(waits.unwrap_err().code(), "poisoned");
            assert!(leader.join().is_err());
        });
    }
}

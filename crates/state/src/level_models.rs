//! Freezes and flushes, concurrent with readers, under the model checker.
//!
//! As in [`models`](crate::models), the version written by commit n has location n and version n.
//! One key exists since commit 1. The writer commits 2 to the first memtable, freezes it, commits 3
//! to the second one, and makes a table of the first, which has no seqs.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use std::time::Duration;

use loom::sync::Arc;
use loom::thread;

use crate::entry::IndexEntry;
use crate::in_flight::InFlightCommit;
use crate::location::LocationBits;
use crate::mvcc::MvccState;
use crate::outcome::CommandKind;
use crate::snapshot_registry::LiveSnapshots;
use crate::snapshot_view::consistent_snapshot;
use crate::sync::{AtomicU64, AtomicUsize, NoGuard, Ordering};
use crate::version::{Version, Word};

const NOW: Duration = Duration::ZERO;

/// The active memtable is the first.
const BEFORE: usize = 0;
/// The active memtable is the second; the first is frozen.
const FROZEN: usize = 1;
/// The active memtable is the second; a table has the entries of the first.
const FLUSHED: usize = 2;

struct Levels {
    mvcc: MvccState,
    view: AtomicUsize,
    first: IndexEntry,
    second: IndexEntry,
    /// Whether the second memtable has the key.
    is_in_second: AtomicUsize,
    table: AtomicU64,
}

fn version(seq: u64) -> Version {
    let location = LocationBits::from(u32::try_from(seq).unwrap());
    Version { word: Word::new(location, CommandKind::Set).pending(), seq, version: seq, len_bytes: 0 }
}

impl Levels {
    fn new() -> Self {
        let mvcc = MvccState::new();
        mvcc.visible.store(1, Ordering::Release);
        Self {
            mvcc,
            view: AtomicUsize::new(BEFORE),
            first: IndexEntry::new(&Version { word: version(1).word.settled(), ..version(1) }),
            second: IndexEntry::new(&version(3)),
            is_in_second: AtomicUsize::new(0),
            table: AtomicU64::new(0),
        }
    }

    fn write(&self) {
        let mut live = LiveSnapshots::default();
        let mut flight = InFlightCommit::new(2);
        flight.overwrite(&self.mvcc, &self.first, &version(2), &NoGuard);
        flight.publish(&self.mvcc, &mut live, &NoGuard, |_, _| {});

        self.view.store(FROZEN, Ordering::Release);

        let mut flight = InFlightCommit::new(3);
        self.is_in_second.store(1, Ordering::Release);
        flight.added(&self.second);
        flight.publish(&self.mvcc, &mut live, &NoGuard, |_, _| {});

        self.table.store(self.first.newest().version, Ordering::Relaxed);
        self.view.store(FLUSHED, Ordering::Release);
    }

    /// The commit that a lookup in a view sees; `memtable` reads an entry.
    fn look_up(&self, view: usize, memtable: impl Fn(&IndexEntry) -> Option<u64>) -> Option<u64> {
        let second = || (self.is_in_second.load(Ordering::Acquire) == 1).then_some(&self.second);
        match view {
            BEFORE => memtable(&self.first),
            FROZEN => second().and_then(&memtable).or_else(|| memtable(&self.first)),
            _ => second().and_then(&memtable).or_else(|| Some(self.table.load(Ordering::Relaxed))),
        }
    }

    /// The commit that a plain read sees.
    fn get(&self) -> u64 {
        let latest = |entry: &IndexEntry| Some(self.mvcc.latest(entry, &NoGuard, || NOW)?.version);
        self.look_up(self.view.load(Ordering::Acquire), latest).expect("the key exists from the start")
    }

    /// Takes a snapshot, and reads at it.
    fn read_at_snapshot(&self) {
        let (view, (ticket, seq)) = consistent_snapshot(
            || self.view.load(Ordering::Acquire),
            |view| self.view.load(Ordering::Acquire) == *view,
            || self.mvcc.snapshot(NOW),
            |(ticket, _)| self.mvcc.registry.release(&ticket),
        );
        let at = |entry: &IndexEntry| Some(self.mvcc.at(entry, seq, &NoGuard)?.version);
        assert_eq!(self.look_up(view, at), Some(seq), "not the commit of the snapshot");
        self.mvcc.registry.release(&ticket);
    }
}

fn explore(read: fn(&Levels)) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = model.preemption_bound.or(Some(3));
    model.check(move || {
        let levels = Arc::new(Levels::new());
        let reader = {
            let levels = Arc::clone(&levels);
            thread::spawn(move || read(&levels))
        };
        levels.write();
        reader.join().unwrap();
    });
}

#[test]
fn a_snapshot_beside_a_freeze_and_a_flush_reads_its_own_seq() {
    explore(Levels::read_at_snapshot);
}

#[test]
fn plain_reads_beside_a_freeze_and_a_flush_never_go_back() {
    explore(|levels| {
        let first = levels.get();
        assert!(levels.get() >= first, "time runs backwards");
    });
}

#[test]
fn a_snapshot_is_never_older_than_a_plain_read_before_it() {
    explore(|levels| {
        let first = levels.get();
        let (ticket, seq) = levels.mvcc.snapshot(NOW);
        levels.mvcc.registry.release(&ticket);
        assert!(seq >= first, "a snapshot that is older than an earlier read");
    });
}

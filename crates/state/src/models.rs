//! The protocols under the model checker: every interleaving of small programs, with the memory
//! orderings that the code uses.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p hightower-state --lib --release`. In these
//! programs the version written by commit n has location n and version n, so that a read shows its
//! commit, and whether its parts are consistent.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use std::time::Duration;

use loom::sync::Arc;
use loom::thread;

use crate::entry::IndexEntry;
use crate::in_flight::{EntryPointer, InFlightCommit};
use crate::location::LocationBits;
use crate::mvcc::MvccState;
use crate::outcome::CommandKind;
use crate::snapshot_registry::LiveSnapshots;
use crate::sync::NoGuard;
use crate::version::{Version, Word};

const NOW: Duration = Duration::ZERO;

/// Two keys that exist since commit 1.
struct Store {
    mvcc: MvccState,
    entries: [IndexEntry; 2],
}

impl EntryPointer for &IndexEntry {
    fn entry(&self) -> &IndexEntry {
        self
    }
}

fn version(seq: u64) -> Version {
    let location = LocationBits::from(u32::try_from(seq).unwrap());
    Version { word: Word::new(location, CommandKind::Set).pending(), seq, version: seq, len_bytes: 0 }
}

impl Store {
    fn new() -> Self {
        let settled = Version { word: version(1).word.settled(), ..version(1) };
        let mvcc = MvccState::new();
        mvcc.visible.store(1, crate::sync::Ordering::Release);
        Self { mvcc, entries: [IndexEntry::new(&settled), IndexEntry::new(&settled)] }
    }

    fn commit(&self, seq: u64, keys: &[usize], live: &mut LiveSnapshots) {
        let mut flight = InFlightCommit::new(seq);
        for &key in keys {
            flight.overwrite(&self.mvcc, &self.entries[key], &version(seq), &NoGuard);
        }
        flight.publish(&self.mvcc, live, &NoGuard, |_, _| {});
    }

    /// Drops the versions that no snapshot needs, as reclaiming does.
    fn trim(&self, live: &mut LiveSnapshots) {
        live.refresh(&self.mvcc.registry);
        self.entries.iter().for_each(|entry| {
            entry.older_versions().trim(live, &NoGuard);
        });
    }

    /// The commit that a plain read sees; its parts must be consistent.
    fn get(&self, key: usize) -> u64 {
        let latest = self.mvcc.latest(&self.entries[key], &NoGuard, || NOW).expect("the key is there from the start");
        assert_eq!(latest.word.location().get(), latest.version, "two versions mixed");
        latest.version
    }

    /// The commit that a read at a snapshot sees; its parts must be consistent.
    fn at(&self, key: usize, seq: u64) -> u64 {
        let found = self.mvcc.at(&self.entries[key], seq, &NoGuard).expect("the key is there from the start");
        assert_eq!((found.word.location().get(), found.version), (found.seq, found.seq), "two versions mixed");
        found.seq
    }
}

/// Runs a writer and readers in every interleaving with up to two preemptions, or with the maximum
/// in `LOOM_MAX_PREEMPTIONS`.
fn explore(write: fn(&Store), readers: &'static [fn(&Store)]) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = model.preemption_bound.or(Some(2));
    model.check(move || {
        let store = Arc::new(Store::new());
        let start = |run: fn(&Store)| {
            let store = Arc::clone(&store);
            thread::spawn(move || run(&store))
        };
        let threads: Vec<_> = readers.iter().copied().map(start).collect();
        write(&store);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

fn overwrites_once(store: &Store) {
    let mut live = LiveSnapshots::default();
    store.commit(2, &[0], &mut live);
    store.trim(&mut live);
}

fn overwrites_twice(store: &Store) {
    let mut live = LiveSnapshots::default();
    store.commit(2, &[0], &mut live);
    store.commit(3, &[0], &mut live);
}

fn writes_a_batch(store: &Store) {
    store.commit(2, &[0, 1], &mut LiveSnapshots::default());
}

/// Reads one key `times` times at one snapshot.
fn snapshot_reads(store: &Store, times: usize) {
    let (ticket, seq) = store.mvcc.snapshot(NOW);
    for _ in 0..times {
        assert_eq!(store.at(0, seq), seq);
    }
    store.mvcc.registry.release(&ticket);
}

#[test]
fn a_snapshot_reads_its_own_seq_twice_while_versions_come_and_go() {
    explore(overwrites_once, &[|store| snapshot_reads(store, 2)]);
}

#[test]
fn a_snapshot_reads_its_own_seq_through_two_commits() {
    explore(overwrites_twice, &[|store| snapshot_reads(store, 1)]);
}

#[test]
fn two_snapshots_read_their_own_seqs() {
    explore(overwrites_once, &[|store| snapshot_reads(store, 1), |store| snapshot_reads(store, 1)]);
}

#[test]
fn a_snapshot_sees_a_batch_whole() {
    explore(
        writes_a_batch,
        &[|store| {
            let (ticket, seq) = store.mvcc.snapshot(NOW);
            assert_eq!((store.at(0, seq), store.at(1, seq)), (seq, seq));
            store.mvcc.registry.release(&ticket);
        }],
    );
}

#[test]
fn plain_reads_see_a_batch_whole() {
    explore(
        writes_a_batch,
        &[|store| {
            let first = store.get(0);
            assert!(store.get(1) >= first, "half of a batch");
        }],
    );
    explore(
        writes_a_batch,
        &[|store| {
            let first = store.get(1);
            assert!(store.get(0) >= first, "half of a batch");
        }],
    );
}

#[test]
fn plain_reads_never_go_back() {
    explore(
        overwrites_once,
        &[|store| {
            let first = store.get(0);
            assert!(store.get(0) >= first, "time runs backwards");
        }],
    );
}

#[test]
fn plain_reads_never_mix_two_versions() {
    explore(
        overwrites_twice,
        &[|store| {
            store.get(0);
        }],
    );
}

#[test]
fn a_snapshot_is_never_older_than_what_was_read_before_it() {
    explore(
        overwrites_once,
        &[|store| {
            let seen = store.get(0);
            let (ticket, seq) = store.mvcc.snapshot(NOW);
            assert!(seq >= seen, "a snapshot that is older than an earlier read");
            assert!(store.at(0, seq) >= seen);
            store.mvcc.registry.release(&ticket);
        }],
    );
}

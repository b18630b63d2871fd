//! Readers, scanners and snapshots in threads beside a writer: every snapshot read is checked
//! against the model at its seq, batches are atomic, and versions kept for snapshots are dropped.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hightower_state::{Change, CommandKind, ConcurrentKvState, StateSnapshot, pin};

const KEYS: u32 = 40;

type Model = BTreeMap<Vec<u8>, u32>;

/// The state at each seq.
#[derive(Default)]
struct History(Mutex<HashMap<u64, Arc<Model>>>);

impl History {
    fn at(&self, seq: u64) -> Arc<Model> {
        Arc::clone(&self.0.lock().unwrap()[&seq])
    }

    fn put(&self, seq: u64, model: &Model) {
        self.0.lock().unwrap().insert(seq, Arc::new(model.clone()));
    }
}

fn name(key: u32) -> Vec<u8> {
    format!("key/{key:03}").into_bytes()
}

/// Sets the flag when dropped, also in a panic, so that the other threads stop.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Small and repeatable: xorshift, as Marsaglia gives it.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        u32::try_from(self.0 % u64::from(bound)).unwrap()
    }
}

fn run_time() -> Duration {
    let seconds = std::env::var("HIGHTOWER_TEST_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(seconds.unwrap_or(2))
}

/// Commits at random until `stop`, and returns the last seq. Locations ascend with every change.
fn write(state: &ConcurrentKvState<u32>, history: &History, stop: &AtomicBool) -> u64 {
    let (mut random, mut model, mut location, mut seq) = (Random(99), Model::new(), 0, 0);
    history.put(0, &model);
    while !stop.load(Ordering::Relaxed) {
        seq += 1;
        let commands = if random.below(3) > 0 { 1 } else { random.below(8) };
        let changes: Vec<_> = (0..commands)
            .map(|_| {
                location += 1;
                let kind = if random.below(5) == 0 { CommandKind::Delete } else { CommandKind::Set };
                (name(random.below(KEYS)), kind, location)
            })
            .collect();
        for (key, kind, location) in &changes {
            match kind {
                CommandKind::Set => model.insert(key.clone(), *location),
                CommandKind::Delete => model.remove(key),
            };
        }
        history.put(seq, &model);
        let guard = pin();
        let mut writer = state.writer();
        let mut commit = writer.begin(seq, &guard).unwrap();
        for (key, kind, location) in &changes {
            commit.apply(&Change {
                key,
                version: u64::from(*location),
                kind: *kind,
                location: *location,
                len_bytes: 0,
            });
        }
        commit.publish();
        forget_some(&mut writer, &mut random);
    }
    seq
}

fn forget_some(writer: &mut hightower_state::StateWriter<'_, u32>, random: &mut Random) {
    let key = name(random.below(KEYS));
    if let Some(version) = writer.version_of(&key) {
        writer.remove_tombstone(&key, version);
    }
}

fn check(snapshot: &StateSnapshot<u32>, model: &Model, random: &mut Random) {
    for _ in 0..8 {
        let key = name(random.below(KEYS));
        let found = snapshot.get(&key);
        assert_eq!(found.map(|found| found.location), model.get(&key).copied(), "at seq {}", snapshot.seq());
        assert!(found.is_none_or(|found| found.version == u64::from(found.location)), "two versions mixed");
    }
    let (from, to) = (name(random.below(KEYS)), name(random.below(KEYS)));
    let range = snapshot.range(Bound::Included(&from), Bound::Unbounded);
    let range: Vec<_> = range.map(|(key, found)| (key, found.location)).collect();
    let expected: Vec<_> = model.range(from..).map(|(key, location)| (key.clone(), *location)).collect();
    assert_eq!(range, expected, "at seq {}", snapshot.seq());
    let range = snapshot.range(Bound::Unbounded, Bound::Excluded(&to)).rev();
    let range: Vec<_> = range.map(|(key, found)| (key, found.location)).collect();
    let expected: Vec<_> = model.range(..to).rev().map(|(key, location)| (key.clone(), *location)).collect();
    assert_eq!(range, expected, "backwards, at seq {}", snapshot.seq());
}

/// Takes snapshots, holds some of them, and reads them until `stop`; they end in any order.
fn read(state: &ConcurrentKvState<u32>, history: &History, stop: &AtomicBool, seed: u64) -> usize {
    let (mut random, mut held, mut last, mut checks) = (Random(seed), Vec::new(), 0, 0);
    while !stop.load(Ordering::Relaxed) {
        let snapshot = state.snapshot();
        assert!(snapshot.seq() >= last, "snapshots go back");
        last = snapshot.seq();
        held.push((history.at(last), snapshot));
        for _ in 0..3 {
            let at = random.below(u32::try_from(held.len()).unwrap()) as usize;
            check(&held[at].1, &held[at].0, &mut random);
            checks += 1;
        }
        while held.len() > 6 {
            held.swap_remove(random.below(6) as usize);
        }
    }
    checks
}

#[test]
fn every_snapshot_read_is_right_while_a_writer_runs() {
    let (state, history, stop) = (ConcurrentKvState::<u32>::new(), History::default(), AtomicBool::new(false));
    history.put(0, &Model::new());
    let (seqs, checks) = std::thread::scope(|threads| {
        let writer = threads.spawn(|| write(&state, &history, &stop));
        let (state, history, stop) = (&state, &history, &stop);
        let readers: Vec<_> = (1..4).map(|seed| threads.spawn(move || read(state, history, stop, seed))).collect();
        std::thread::sleep(run_time());
        stop.store(true, Ordering::Relaxed);
        let checks: usize = readers.into_iter().map(|reader| reader.join().unwrap()).sum();
        (writer.join().unwrap(), checks)
    });
    assert!(seqs > 100 && checks > 100, "{seqs} commits and {checks} checks: too few to mean anything");
    state.reclaim();
    let stats = state.stats();
    assert_eq!((stats.retained_versions, stats.retained_bytes, stats.snapshots), (0, 0, 0));
    assert_eq!(state.len(), history.at(seqs).len());
}

/// Two keys that every commit writes together: a reader of the one and then the other never finds
/// the second older.
#[test]
fn plain_reads_see_batches_whole_and_never_go_back() {
    let (state, stop) = (ConcurrentKvState::<u32>::new(), AtomicBool::new(false));
    let keys: [&[u8]; 3] = [b"left", b"middle", b"right"];
    std::thread::scope(|threads| {
        let (state, stop) = (&state, &stop);
        for turn in 0..2 {
            threads.spawn(move || {
                let mut last = 0;
                while !stop.load(Ordering::Relaxed) {
                    for at in 0..6 {
                        let key = keys[(at + turn) % 3];
                        let found = state.get(key).map_or(0, |found| found.location);
                        assert!(found >= last, "half of a batch: {found} after {last}");
                        last = found;
                    }
                    let snapshot = state.snapshot();
                    let all = keys.map(|key| snapshot.get(key).map_or(0, |found| found.location));
                    assert!(all[0] == all[1] && all[1] == all[2] && all[0] >= last, "{all:?} after {last}");
                    last = all[0];
                }
            });
        }
        let _stop = StopOnDrop(stop);
        let start = Instant::now();
        for location in 1.. {
            let guard = pin();
            let mut writer = state.writer();
            let mut commit = writer.begin(u64::from(location), &guard).unwrap();
            for key in keys {
                commit.apply(&Change {
                    key,
                    version: u64::from(location),
                    kind: CommandKind::Set,
                    location,
                    len_bytes: 0,
                });
            }
            commit.publish();
            if location % 64 == 0 && start.elapsed() > run_time() {
                break;
            }
        }
    });
}

/// All records move repeatedly, the newest versions and those kept for a snapshot: a reader that
/// pins after places were retired never gets them.
#[test]
fn relocated_versions_are_found_where_they_are() {
    const SLOTS: u32 = 64;
    let state = ConcurrentKvState::<u32>::new();
    let stop = AtomicBool::new(false);
    // Location = generation * SLOTS + key. A reader that pins after `retired` generations were
    // retired must not read them.
    let retired = std::sync::atomic::AtomicU32::new(0);
    for key in 0..SLOTS {
        state.set(&name(key), 1, key).unwrap();
    }
    let held = state.snapshot();
    for key in 0..SLOTS {
        state.set(&name(key), 2, SLOTS + key).unwrap();
    }
    std::thread::scope(|threads| {
        let (state, stop, retired) = (&state, &stop, &retired);
        for snapshot in [Some(held.clone()), None] {
            threads.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let snapshot = snapshot.clone().unwrap_or_else(|| state.snapshot());
                    let mut range = snapshot.prefix(b"");
                    for key in 0..SLOTS {
                        let guard = pin();
                        let gone = retired.load(Ordering::SeqCst);
                        let (_, found) = range.next_pinned(&guard).unwrap();
                        assert_eq!(found.location % SLOTS, key);
                        assert!(found.location / SLOTS >= gone, "sent to a place that had been retired");
                        let found = snapshot.get_pinned(&name(key), &guard).unwrap();
                        assert!(found.location / SLOTS >= gone && found.location % SLOTS == key);
                    }
                }
            });
        }
        let _stop = StopOnDrop(stop);
        let start = Instant::now();
        for generation in (0..).step_by(2) {
            for key in 0..SLOTS {
                let mut writer = state.writer();
                let old = generation * SLOTS + key;
                assert!(writer.relocate(&name(key), old, old + 2 * SLOTS, 0).retained, "kept for the snapshot");
                let newest = writer.relocate(&name(key), old + SLOTS, old + 3 * SLOTS, 0);
                assert_eq!(newest.newest_len_bytes, Some(0));
            }
            state.retire_locations();
            retired.store(generation + 2, Ordering::SeqCst);
            if start.elapsed() > run_time() {
                break;
            }
        }
    });
}

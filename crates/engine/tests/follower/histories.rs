//! Random histories of a writer on the simulated file system, with a follower that looks after each
//! step, and before each call of the file system.
//!
//! `HIGHTOWER_TEST_SEED` sets the first history, `HIGHTOWER_TEST_CASES` their number.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use hightower_engine::{AppendMode, Background, Batch, Components, Durability, Result, SingleNodeEngine, StoreConfig};
use hightower_seams::ManualClock;
use hightower_segment::sim::{Choice, CrashPoint, FsHook, HookedFs, SeededEntropy, SimFs};

use crate::common::setting;
use crate::moving_dir::MovingFs;
use crate::witness::{Ask, Past, Seen, Witness, pairs_of};

/// The memory budgets of the writers, in turn: flushes all the time, often, and only on demand.
const INDEX_MEMORY_BYTES: [u64; 3] = [2 << 20, 4 << 10, 64 << 10];

/// What the writers keep as history, in turn.
const HISTORY_BYTES: [u64; 3] = [0, 1 << 30, 20_000];

/// Looks before calls of the file system.
#[derive(Debug)]
struct Look {
    witness: OnceLock<Arc<Witness>>,
    /// The number of calls from one look to the next; 0 for no looks.
    every: AtomicU32,
    calls: AtomicU64,
    looks: AtomicU64,
    failure: Mutex<Option<String>>,
}

impl Look {
    fn look(&self) {
        let every = u64::from(self.every.load(Ordering::Relaxed));
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        if every == 0 || !call.is_multiple_of(every) {
            return;
        }
        let Some(witness) = self.witness.get() else { return };
        self.looks.fetch_add(1, Ordering::Relaxed);
        let ask = if call.is_multiple_of(29 * every) { Ask::Open } else { Ask::CatchUp };
        if let Err(failure) = witness.ask(ask) {
            self.failure.lock().unwrap().get_or_insert(failure);
        }
    }
}

impl FsHook for Look {
    fn before_write(&self, _name: &str) -> io::Result<()> {
        self.look();
        Ok(())
    }

    fn written_at_once(&self, len_bytes: usize) -> usize {
        // Torn records and torn edits, for the follower that looks before the rest.
        if self.every.load(Ordering::Relaxed) > 0 { len_bytes.div_ceil(2) } else { len_bytes }
    }

    fn before_change(&self, _name: &str) -> io::Result<()> {
        self.look();
        Ok(())
    }

    fn before_file(&self) -> io::Result<()> {
        self.look();
        Ok(())
    }

    fn before_dir(&self, _path: &Path) -> io::Result<()> {
        self.look();
        Ok(())
    }
}

/// How often the rare things have happened.
#[derive(Debug, Default)]
struct Happened {
    looks: u64,
    kills: u64,
    losses: u64,
    divergences: u64,
    restarts: u64,
    tables_max: usize,
    held_max: u64,
    memory_max: u64,
    commits: usize,
    fed: u64,
    lost_feeds: u64,
}

struct History {
    random: u64,
    mode: AppendMode,
    fs: SimFs,
    moving: MovingFs,
    look: Arc<Look>,
    engine: Option<SingleNodeEngine>,
    past: Arc<Mutex<Past>>,
    witness: Arc<Witness>,
    opens: u64,
    seed: u64,
    happened: Happened,
    /// Whether some commits are synced.
    syncs: bool,
}

fn open(fs: &SimFs, look: &Arc<Look>, mode: AppendMode, seed: u64) -> Result<SingleNodeEngine> {
    let hooked = HookedFs::new(Arc::new(fs.clone()), Arc::clone(look) as Arc<dyn FsHook>);
    let components = Components::default()
        .with_fs(Arc::new(hooked))
        .with_clock(Arc::new(ManualClock::stepping(1_700_000_000_000, 1)))
        .with_entropy(Arc::new(SeededEntropy::new(seed)))
        .with_background(Background::Caller);
    // A seed of a history decides it for all its writers, so that a feed can rely on it.
    let history_bytes =
        if seed.is_multiple_of(4) { 1 << 30 } else { HISTORY_BYTES[(seed >> 33) as usize % HISTORY_BYTES.len()] };
    let config = StoreConfig::at("/store")
        .with_max_segment_size(4096)
        .with_index_memory_bytes(INDEX_MEMORY_BYTES[(seed >> 32) as usize % INDEX_MEMORY_BYTES.len()])
        .with_history_bytes(history_bytes)
        .with_append_mode(mode)
        .with_durability(Durability::Os)
        .with_compaction_interval(std::time::Duration::ZERO);
    SingleNodeEngine::with_components(config, components)
}

impl History {
    fn new(seed: u64, mode: AppendMode, every: u32) -> Self {
        let fs = SimFs::new();
        let look = Arc::new(Look {
            witness: OnceLock::new(),
            every: AtomicU32::new(0),
            calls: AtomicU64::new(0),
            looks: AtomicU64::new(0),
            failure: Mutex::new(None),
        });
        let engine = Some(open(&fs, &look, mode, seed).unwrap());
        let past = Past { states: vec![Default::default()], returned: 1 };
        let (moving, past) = (MovingFs::new(fs.clone()), Arc::new(Mutex::new(past)));
        let witness = Arc::new(Witness::new(&moving, &past, seed.is_multiple_of(4)));
        look.witness.set(Arc::clone(&witness)).unwrap();
        look.every.store(every, Ordering::Relaxed);
        let happened = Happened::default();
        Self { random: seed, mode, fs, moving, look, engine, past, witness, opens: 1, seed, happened, syncs: true }
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % bound
    }

    fn engine(&self) -> &SingleNodeEngine {
        self.engine.as_ref().unwrap()
    }

    /// One commit: announced, so that the follower may see it early.
    fn commit(&mut self, batch: &Batch, changes: Vec<(Vec<u8>, Option<Vec<u8>>)>) {
        {
            let mut past = self.past.lock().unwrap();
            let mut next = past.states.last().unwrap().clone();
            for (key, value) in changes {
                match value {
                    Some(value) => next.insert(key, value),
                    None => next.remove(&key),
                };
            }
            past.states.push(next);
        }
        let durability = if self.below(4) == 0 && self.syncs { Durability::Sync } else { Durability::Os };
        self.engine().commit_with(batch, durability).unwrap().committed().unwrap();
        let mut past = self.past.lock().unwrap();
        past.returned = past.states.len();
        self.happened.commits += 1;
    }

    fn write(&mut self, keys: u64) {
        let number = self.past.lock().unwrap().states.len();
        let (mut batch, mut changes) = (Batch::new(), Vec::new());
        // Makes each state another one.
        let tick = number.to_string().into_bytes();
        batch.put("tick", &tick);
        changes.push((b"tick".to_vec(), Some(tick)));
        for _ in 0..keys {
            let key = format!("key/{:02}", self.below(40)).into_bytes();
            if self.below(4) == 0 {
                batch.delete(&key);
                changes.push((key, None));
            } else {
                let len = if self.below(10) == 0 { 1200 } else { self.below(90) as usize };
                let value = [number.to_string().as_bytes(), &vec![b'.'; len]].concat();
                batch.put(&key, &value);
                changes.push((key, Some(value)));
            }
        }
        self.commit(&batch, changes);
    }

    fn step(&mut self) {
        let what = self.below(40);
        match what {
            0..=22 => {
                let keys = self.below(4);
                self.write(keys);
            }
            23..=26 => {
                let keys = 4 + self.below(20);
                self.write(keys);
            }
            27 | 28 => self.engine().checkpoint().unwrap(),
            29 | 30 => _ = self.engine().run_compaction_now().unwrap(),
            31 => self.engine().flush().unwrap(),
            32 => _ = self.ask(Ask::Hold),
            33 => _ = self.ask(Ask::Release),
            34 => _ = self.ask(Ask::Open),
            35 => self.close(),
            36 | 37 => self.kill(),
            38 => self.lose_power(),
            // A pause of the follower: it finds a lot at once.
            _ => {
                let every = self.look.every.swap(0, Ordering::Relaxed);
                for _ in 0..10 + self.below(60) {
                    match self.below(20) {
                        0 => self.engine().checkpoint().unwrap(),
                        1 => _ = self.engine().run_compaction_now().unwrap(),
                        _ => self.write(3),
                    }
                }
                self.look.every.store(every, Ordering::Relaxed);
            }
        }
        self.check();
    }

    fn ask(&mut self, ask: Ask) -> Seen {
        let seen = self.witness.ask(ask).unwrap_or_else(|failure| panic!("seed {}: the follower {failure}", self.seed));
        self.happened.tables_max = self.happened.tables_max.max(seen.tables);
        self.happened.held_max = self.happened.held_max.max(seen.held_segments);
        self.happened.memory_max = self.happened.memory_max.max(seen.index_memory_bytes);
        (self.happened.fed, self.happened.lost_feeds) = (seen.fed, seen.lost_feeds);
        seen
    }

    fn check(&mut self) {
        if let Some(failure) = self.look.failure.lock().unwrap().take() {
            panic!("seed {}: the follower {failure}", self.seed);
        }
        let seen = self.ask(Ask::CatchUp);
        assert_eq!(seen.shown + 1, self.past.lock().unwrap().states.len(), "seed {}", self.seed);
    }

    fn reopen(&mut self, fs: SimFs) {
        self.opens += 1;
        self.fs = fs;
        self.engine = Some(open(&self.fs, &self.look, self.mode, self.seed ^ (self.opens << 32)).unwrap());
    }

    fn close(&mut self) {
        self.engine.take().unwrap().close().unwrap();
        self.ask(Ask::CatchUp);
        self.reopen(self.fs.clone());
    }

    /// The writer dies, and another one starts.
    fn kill(&mut self) {
        self.happened.kills += 1;
        let fs = self.fs.after_kill();
        // Dropped, it would close its store, which the follower still reads.
        std::mem::forget(self.engine.take());
        self.moving.move_to(fs.clone());
        if self.below(2) == 0 {
            self.ask(Ask::CatchUp);
        }
        self.reopen(fs);
    }

    /// The power fails, and the follower somehow stays.
    fn lose_power(&mut self) {
        self.happened.losses += 1;
        self.syncs = false;
        for _ in 0..self.below(6) {
            self.write(1);
            self.check();
        }
        self.syncs = true;
        let choice = if self.below(4) == 0 { Choice::Nth(0) } else { Choice::Drawn(self.below(u64::MAX >> 33)) };
        let fs = self.fs.crash_at(CrashPoint { op: self.fs.op_count(), choice });
        let every = self.look.every.swap(0, Ordering::Relaxed);
        std::mem::forget(self.engine.take());
        self.reopen(fs.clone());
        let found = pairs_of(self.engine()).unwrap();
        let kept = {
            let mut past = self.past.lock().unwrap();
            let kept = past.states.iter().rposition(|state| *state == found).unwrap() + 1;
            past.states.truncate(kept);
            past.returned = kept;
            kept
        };
        // The new writer may go on before the follower looks.
        for _ in 0..self.below(3) * 5 {
            self.write(3);
        }
        if self.below(3) == 0 {
            _ = self.engine().run_compaction_now().unwrap();
        }
        self.moving.move_to(fs);
        let before = self.witness_divergences();
        let seen = self.ask(Ask::Diverge { kept });
        self.happened.divergences += seen.divergences - before;
        self.happened.restarts += seen.restarts;
        self.look.every.store(every, Ordering::Relaxed);
    }

    fn witness_divergences(&mut self) -> u64 {
        self.witness.ask(Ask::Release).unwrap().divergences
    }
}

fn run(mode: AppendMode, every: u32, first: u64, cases: u64, steps: usize) {
    let first = first + setting("HIGHTOWER_TEST_SEED", 0);
    let cases = setting("HIGHTOWER_TEST_CASES", cases);
    let mut all = Happened::default();
    for seed in first..first + cases {
        let mut history = History::new(seed, mode, every);
        (0..steps).for_each(|_| history.step());
        let one = history.happened;
        all.looks += history.look.looks.load(Ordering::Relaxed);
        all.kills += one.kills;
        all.losses += one.losses;
        all.divergences += one.divergences;
        all.restarts += one.restarts;
        all.commits += one.commits;
        all.fed += one.fed;
        all.lost_feeds += one.lost_feeds;
        all.tables_max = all.tables_max.max(one.tables_max);
        all.held_max = all.held_max.max(one.held_max);
        all.memory_max = all.memory_max.max(one.memory_max);
    }
    println!("follower, {mode:?}: {cases} histories from seed {first}: {all:?}");
    assert!(all.divergences > 0 && all.kills > 0 && all.tables_max > 1, "nothing rare has happened: {all:?}");
    assert!(all.fed > 0 && all.lost_feeds > 0, "feeds: {all:?}");
    assert!(all.memory_max < 4 << 20, "the memtables grow: {all:?}");
}

#[test]
fn every_history_shows_a_prefix_after_each_step() {
    run(AppendMode::Mapped, 0, 0, 30, 150);
}

#[test]
fn every_history_shows_a_prefix_before_each_call_of_the_file_system() {
    run(AppendMode::Positioned, 1, 1000, 4, 120);
}

#[test]
fn every_history_shows_a_prefix_before_some_calls_of_the_file_system() {
    run(AppendMode::Positioned, 7, 2000, 8, 150);
}

//! A store on the simulated file system, and the model that it is compared with.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::type_complexity, reason = "a test")]

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use hightower_engine::{
    AppendMode, Batch, BatchOutcome, Clock, Command, Components, Durability, Expect, KvState, Result, SingleNodeEngine,
    SnapshotEngine, StoreConfig,
};
use hightower_segment::sim::{SeededEntropy, SimFs};

/// A clock that moves by one millisecond each time it is asked.
#[derive(Debug, Default)]
pub(crate) struct CountingClock(AtomicI64);

impl Clock for CountingClock {
    fn now_ms(&self) -> i64 {
        1_700_000_000_000 + self.0.fetch_add(1, Ordering::Relaxed)
    }

    fn elapsed(&self) -> Duration {
        Duration::ZERO
    }
}

/// What commands with a version of their own say: recent enough that no tombstone's grace has passed.
const GIVEN_TIMESTAMP: i64 = 1_700_000_000_000;

/// One thing that a workload does.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Put {
        key: u8,
        value_len: usize,
        durability: Durability,
    },
    Delete {
        key: u8,
        durability: Durability,
    },
    Submit {
        key: u8,
        version: u64,
        is_delete: bool,
    },
    /// Keys to put, keys to delete, commands with versions of their own.
    Batch {
        puts: Vec<u8>,
        deletes: Vec<u8>,
        submits: Vec<(u8, u64)>,
        durability: Durability,
    },
    /// A batch that goes through only if the key is absent.
    Claim {
        key: u8,
    },
    Flush,
    /// A full compaction, with a checkpoint at its end.
    Compact,
    Checkpoint,
    Close,
    Kill,
}

/// What was acknowledged: how many commits there were, and up to which file system operation that was known.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Promise {
    pub(crate) op: usize,
    pub(crate) commits: usize,
}

/// A store, its model, and everything that was promised.
pub(crate) struct World {
    pub(crate) fs: SimFs,
    pub(crate) engine: Option<SingleNodeEngine>,
    pub(crate) model: KvState,
    /// The digest of the model after each commit; the first is the empty store's.
    pub(crate) digests: Vec<u64>,
    /// Acknowledged as durable.
    pub(crate) synced: Vec<Promise>,
    pub(crate) max_seq: u64,
    pub(crate) max_version: u64,
    mode: AppendMode,
    seed: u64,
}

pub(crate) fn config(mode: AppendMode) -> StoreConfig {
    StoreConfig {
        max_segment_size: 4096,
        append_mode: mode,
        durability: Some(Durability::Os),
        compaction_interval: Duration::ZERO,
        ..StoreConfig::at("/store")
    }
}

pub(crate) fn open(fs: &SimFs, mode: AppendMode, seed: u64) -> Result<SingleNodeEngine> {
    let components = Components {
        fs: Arc::new(fs.clone()),
        clock: Arc::new(CountingClock::default()),
        entropy: Arc::new(SeededEntropy::new(seed)),
        ..Components::default()
    };
    SingleNodeEngine::with_components(config(mode), components)
}

pub(crate) fn key(number: u8) -> Vec<u8> {
    // Some keys are prefixes of others.
    let text = b"a/bcd/e".repeat(1 + usize::from(number) % 3);
    [&text[..usize::from(number) % text.len()], &[number]].concat()
}

impl World {
    pub(crate) fn new(mode: AppendMode, seed: u64) -> Self {
        let fs = SimFs::new();
        let engine = Some(open(&fs, mode, seed).unwrap());
        let model = KvState::new();
        let digests = vec![model.digest()];
        Self { fs, engine, model, digests, synced: Vec::new(), max_seq: 0, max_version: 0, mode, seed }
    }

    fn engine(&self) -> &SingleNodeEngine {
        self.engine.as_ref().unwrap()
    }

    pub(crate) fn run(&mut self, steps: &[Step]) {
        steps.iter().for_each(|step| self.step(step));
    }

    pub(crate) fn step(&mut self, step: &Step) {
        match step {
            Step::Put { key: number, value_len, durability } => {
                let (key, value) = (key(*number), vec![*number; *value_len]);
                let seq = self.engine().latest_seq();
                self.engine().put_with(&key, &value, *durability).unwrap();
                let version = self.engine().latest_version();
                assert!(self.engine().latest_seq() > seq);
                self.apply_latest(&[(key, Some(value), version)]);
                self.note(*durability);
            }
            Step::Delete { key: number, durability } => {
                let key = key(*number);
                self.engine().delete_with(&key, *durability).unwrap();
                let version = self.engine().latest_version();
                self.apply_latest(&[(key, None, version)]);
                self.note(*durability);
            }
            Step::Submit { key: number, version, is_delete } => self.submit(*number, *version, *is_delete),
            Step::Batch { puts, deletes, submits, durability } => self.batch(puts, deletes, submits, *durability),
            Step::Claim { key: number } => {
                let key = key(*number);
                let batch = Batch::new().put(&key, "claimed").require(&key, Expect::Absent);
                match self.engine().commit(batch).unwrap() {
                    BatchOutcome::Committed { versions, .. } => {
                        assert_eq!(self.model.get(&key), None);
                        self.apply_latest(&[(key, Some(b"claimed".to_vec()), versions[0])]);
                    }
                    BatchOutcome::Rejected { found, .. } => assert_eq!(found, self.model.version_of(&key)),
                }
            }
            Step::Flush => {
                self.engine().flush().unwrap();
                self.note(Durability::Sync);
            }
            Step::Compact => {
                self.engine().run_compaction_now().unwrap();
                let dead = self
                    .engine()
                    .stats()
                    .segments
                    .iter()
                    .filter(|segment| segment.is_sealed)
                    .map(|s| s.dead_records)
                    .sum::<u64>();
                assert_eq!(dead, 0, "a full compaction leaves nothing dead");
                self.check();
            }
            Step::Checkpoint => self.engine().checkpoint().unwrap(),
            Step::Close => {
                self.engine().close().unwrap();
                self.note(Durability::Sync);
                self.engine = None;
                self.engine = Some(open(&self.fs, self.mode, self.seed ^ self.digests.len() as u64).unwrap());
                assert!(!self.engine().open_report().was_unclean());
                self.check();
            }
            Step::Kill => {
                let fs = self.fs.after_kill();
                let engine = open(&fs, self.mode, self.seed ^ self.digests.len() as u64).unwrap();
                // Crash points are counted on the new disk from here on, which holds everything.
                self.synced = vec![Promise { op: 0, commits: self.digests.len() - 1 }];
                self.fs = fs;
                self.engine = Some(engine);
                self.check();
            }
        }
    }

    fn submit(&mut self, number: u8, version: u64, is_delete: bool) {
        let (key, timestamp) = (key(number), GIVEN_TIMESTAMP);
        let command = if is_delete {
            Command::Delete { key, version, timestamp }
        } else {
            Command::Set { key, value: version.to_le_bytes().to_vec(), version, timestamp }
        };
        let expected = self.model.apply(&command);
        assert_eq!(self.engine().submit(command).unwrap(), expected);
        if expected.changed() {
            self.committed();
        }
    }

    fn batch(&mut self, puts: &[u8], deletes: &[u8], submits: &[(u8, u64)], durability: Durability) {
        let mut batch = Batch::new();
        let mut changes = Vec::new();
        for number in puts {
            let (key, value) = (key(*number), vec![*number; usize::from(*number) % 60]);
            batch.push_put(&key, &value);
            changes.push((key, Some(value), None));
        }
        for number in deletes {
            batch.push_delete(key(*number));
            changes.push((key(*number), None, None));
        }
        for (number, version) in submits {
            let (key, value) = (key(*number), b"batched".to_vec());
            let command =
                Command::Set { key: key.clone(), value: value.clone(), version: *version, timestamp: GIVEN_TIMESTAMP };
            batch.push_command(&command);
            changes.push((key, Some(value), Some(GIVEN_TIMESTAMP)));
        }
        let outcome = self.engine().commit_with(batch, durability).unwrap();
        let BatchOutcome::Committed { outcomes, versions, .. } = outcome else { panic!("rejected: {outcome:?}") };
        let mut changed = false;
        for (((key, value, given), version), outcome) in changes.into_iter().zip(versions).zip(outcomes) {
            let timestamp = given.unwrap_or_else(|| self.timestamp_of(&key, version));
            let command = match value {
                Some(value) => Command::Set { key, value, version, timestamp },
                None => Command::Delete { key, version, timestamp },
            };
            assert_eq!(self.model.apply(&command), outcome);
            changed |= outcome.changed();
        }
        if changed {
            self.committed();
            self.note(durability);
        }
    }

    /// The timestamp that the engine gave: taken from its own state, as the model cannot know the clock.
    fn timestamp_of(&self, key: &[u8], version: u64) -> i64 {
        let state = self.engine().snapshot_state().unwrap();
        state.record(key).filter(|record| record.version == version).map_or(0, |record| record.timestamp)
    }

    fn apply_latest(&mut self, changes: &[(Vec<u8>, Option<Vec<u8>>, u64)]) {
        for (key, value, version) in changes.iter().cloned() {
            let timestamp = self.timestamp_of(&key, version);
            let command = match value {
                Some(value) => Command::Set { key, value, version, timestamp },
                None => Command::Delete { key, version, timestamp },
            };
            assert!(self.model.apply(&command).changed());
        }
        self.committed();
    }

    fn committed(&mut self) {
        self.digests.push(self.model.digest());
        self.max_seq = self.max_seq.max(self.engine().latest_seq());
        self.max_version = self.max_version.max(self.engine().latest_version());
    }

    fn note(&mut self, durability: Durability) {
        if durability == Durability::Sync {
            self.synced.push(Promise { op: self.fs.op_count(), commits: self.digests.len() - 1 });
        }
    }

    /// The live state, and every way to read it, equals the model.
    pub(crate) fn check(&self) {
        let engine = self.engine();
        assert_eq!(engine.snapshot_state().unwrap().digest(), self.model.digest());
        assert_eq!(engine.len(), self.model.len());
        let pairs: Vec<_> = engine.range::<&[u8]>(..).map(|entry| entry.into_pair().unwrap()).collect();
        assert!(pairs.iter().map(|(key, value)| (&key[..], &value[..])).eq(self.model.iter()));
        let back: Vec<_> = engine.range::<&[u8]>(..).rev().map(|entry| entry.key().to_vec()).collect();
        assert!(back.iter().rev().map(|key| &key[..]).eq(self.model.iter().map(|(key, _)| key)));
        for number in 0..=255 {
            let key = key(number);
            assert_eq!(engine.get(&key).unwrap().as_deref(), self.model.get(&key));
        }
        assert!(engine.latest_seq() >= self.max_seq, "seq went back");
        assert!(
            engine.latest_version()
                >= self.model.iter().filter_map(|(key, _)| self.model.version_of(key)).max().unwrap_or(0)
        );
    }
}

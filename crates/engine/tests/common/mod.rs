//! A store on the simulated file system, and its model.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::type_complexity, reason = "a test")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hightower_engine::{
    AppendMode, ApplyOutcome, Background, Batch, BatchOutcome, Command, Committed, Components, Durability, Error,
    Expect, KvState, MergeOperator, MergeOutcome, Rejected, Result, SingleNodeEngine, SnapshotEngine, StoreConfig,
};
use hightower_seams::ManualClock;
use hightower_segment::sim::{SeededEntropy, SimFs};

/// The timestamp of commands with explicit versions: recent enough that no tombstone's grace is
/// over.
const GIVEN_TIMESTAMP: i64 = 1_700_000_000_000;

/// One step of a workload.
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
    /// Keys to put, keys to delete, and commands with explicit versions.
    Batch {
        puts: Vec<u8>,
        deletes: Vec<u8>,
        submits: Vec<(u8, u64)>,
        durability: Durability,
    },
    /// A batch that commits only if the key is absent.
    Claim {
        key: u8,
    },
    /// An addition, which is refused if the value is no counter.
    Add {
        key: u8,
        delta: i64,
        durability: Durability,
    },
    /// One batch of puts of counters, commands with explicit versions, additions of 1 to counters
    /// of its own, and merges by [`append`].
    Merge {
        puts: Vec<u8>,
        submits: Vec<(u8, u64)>,
        merged: Vec<u8>,
        durability: Durability,
    },
    Flush,
    /// A full compaction, which ends with a checkpoint.
    Compact,
    Checkpoint,
    /// A backup to the one backup directory.
    Backup,
    Close,
    Kill,
}

/// A promise: the number of acknowledged commits, and the number of file system operations at that
/// time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Promise {
    pub(crate) op: usize,
    pub(crate) commits: usize,
}

/// The seq and version of a commit, and the number of file system operations before it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HandedOut {
    pub(crate) began: usize,
    /// The number of operations when it had returned: from then on others may know its seq and
    /// version.
    pub(crate) done: usize,
    pub(crate) seq: u64,
    pub(crate) version: u64,
}

/// A range of recorded operations during which the store was open.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Life {
    pub(crate) opened: usize,
    pub(crate) closing: usize,
}

/// A store, its model, and its promises.
pub(crate) struct World {
    pub(crate) fs: SimFs,
    pub(crate) engine: Option<SingleNodeEngine>,
    pub(crate) model: KvState,
    /// The digest of the model after each commit; the first is that of the empty store.
    pub(crate) digests: Vec<u64>,
    /// Acknowledged as durable.
    pub(crate) synced: Vec<Promise>,
    pub(crate) max_seq: u64,
    pub(crate) max_version: u64,
    /// One for each commit, in order.
    pub(crate) handed_out: Vec<HandedOut>,
    /// Backups that have returned.
    pub(crate) backups: Vec<Promise>,
    /// Whether any command had an explicit version.
    pub(crate) given_versions: bool,
    /// The ranges of operations during which the store was open; it is open in the last one.
    pub(crate) lives: Vec<Life>,
    /// The number of operations before the current step.
    began: usize,
    mode: AppendMode,
    seed: u64,
    background: Background,
    index_memory_bytes: u64,
}

pub(crate) fn config(mode: AppendMode) -> StoreConfig {
    StoreConfig::at("/store")
        .with_max_segment_size(4096)
        .with_append_mode(mode)
        .with_durability(Durability::Os)
        .with_compaction_interval(Duration::ZERO)
}

pub(crate) fn open(fs: &SimFs, mode: AppendMode, seed: u64) -> Result<SingleNodeEngine> {
    open_with(fs, config(mode), seed, Background::Threads)
}

pub(crate) fn open_with(
    fs: &SimFs,
    config: StoreConfig,
    seed: u64,
    background: Background,
) -> Result<SingleNodeEngine> {
    let components = Components::default()
        .with_merge_operator("append", Arc::new(Append))
        .with_fs(Arc::new(fs.clone()))
        .with_clock(Arc::new(ManualClock::stepping(1_700_000_000_000, 1)))
        .with_entropy(Arc::new(SeededEntropy::new(seed)))
        .with_background(background);
    SingleNodeEngine::with_components(config, components)
}

/// The merge operator `append`.
#[derive(Debug)]
struct Append;

impl MergeOperator for Append {
    fn merge(&self, _key: &[u8], existing: Option<&[u8]>, operand: &[u8]) -> Result<MergeOutcome, String> {
        Ok(append(existing, operand))
    }
}

/// Appends to a value; deletes long ones, and keeps some.
pub(crate) fn append(existing: Option<&[u8]>, operand: &[u8]) -> MergeOutcome {
    match existing.map_or(0, <[u8]>::len) {
        100.. => MergeOutcome::Delete,
        len if len % 5 == 4 => MergeOutcome::Keep,
        _ => MergeOutcome::Put([existing.unwrap_or_default(), operand].concat()),
    }
}

/// A number from the environment, or the default.
pub(crate) fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

pub(crate) const BACKUP_DIR: &str = "/backup";

pub(crate) fn key(number: u8) -> Vec<u8> {
    // Some keys are prefixes of others.
    let text = b"a/bcd/e".repeat(1 + usize::from(number) % 3);
    [&text[..usize::from(number) % text.len()], &[number]].concat()
}

/// A workload from a seed, without kills, which would discard the earlier record. In workloads with
/// odd seeds the engine assigns all versions, so that the test knows exactly which ones were
/// assigned.
pub(crate) fn workload(seed: u64, steps: usize) -> Vec<Step> {
    let mut random = seed;
    let mut next = move |bound: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % bound
    };
    let mut byte = move |bound: u64| u8::try_from(next(bound)).unwrap();
    let submits = seed.is_multiple_of(2);
    let kinds = if seed % 4 < 2 { 15 } else { 18 };
    (0..steps)
        .map(|_| {
            let durability = if byte(4) == 0 { Durability::Sync } else { Durability::Os };
            match byte(kinds) {
                15 => Step::Put { key: byte(12), value_len: 0, durability },
                16 => Step::Add { key: byte(12), delta: 7, durability },
                17 => Step::Merge {
                    puts: vec![byte(12)],
                    submits: if submits { vec![(byte(12), u64::from(byte(80)))] } else { Vec::new() },
                    merged: (0..byte(5)).map(|_| byte(12)).collect(),
                    durability,
                },
                0..=5 => Step::Put { key: byte(12), value_len: usize::from(byte(200)), durability },
                6 => Step::Put { key: byte(12), value_len: 1500, durability },
                7 => Step::Delete { key: byte(12), durability },
                8 if submits => Step::Submit { key: byte(12), version: u64::from(byte(60)), is_delete: byte(2) == 0 },
                8 => Step::Claim { key: byte(12) },
                9 | 10 => Step::Batch {
                    puts: (0..byte(5)).map(|_| byte(12)).collect(),
                    deletes: vec![byte(12)],
                    submits: if submits { vec![(byte(12), u64::from(byte(80)))] } else { Vec::new() },
                    durability,
                },
                11 => Step::Compact,
                12 => Step::Checkpoint,
                13 => Step::Backup,
                _ if byte(3) == 0 => Step::Close,
                _ => Step::Flush,
            }
        })
        .collect()
}

impl World {
    pub(crate) fn new(mode: AppendMode, seed: u64) -> Self {
        Self::with_background(mode, seed, Background::Threads)
    }

    /// The same with a budget for the memory of the index, from the first reopening on.
    pub(crate) fn with_index_memory(mut self, index_memory_bytes: u64) -> Self {
        self.index_memory_bytes = index_memory_bytes;
        self.step(&Step::Close);
        self
    }

    /// A world whose file system has the same operations in each run.
    pub(crate) fn repeatable(mode: AppendMode, seed: u64) -> Self {
        Self::with_background(mode, seed, Background::Caller)
    }

    fn with_background(mode: AppendMode, seed: u64, background: Background) -> Self {
        let fs = SimFs::new();
        let engine = Some(open_with(&fs, config(mode), seed, background).unwrap());
        let model = KvState::new();
        let digests = vec![model.digest()];
        let lives = vec![Life { opened: fs.op_count(), closing: usize::MAX }];
        Self {
            fs,
            engine,
            model,
            digests,
            synced: Vec::new(),
            max_seq: 0,
            max_version: 0,
            handed_out: Vec::new(),
            backups: Vec::new(),
            given_versions: false,
            lives,
            began: 0,
            mode,
            seed,
            background,
            index_memory_bytes: 256 << 20,
        }
    }

    fn open(&self, fs: &SimFs) -> SingleNodeEngine {
        let seed = self.seed ^ self.digests.len() as u64;
        let config = config(self.mode).with_index_memory_bytes(self.index_memory_bytes);
        open_with(fs, config, seed, self.background).unwrap()
    }

    fn engine(&self) -> &SingleNodeEngine {
        self.engine.as_ref().unwrap()
    }

    pub(crate) fn run(&mut self, steps: &[Step]) {
        steps.iter().for_each(|step| self.step(step));
    }

    pub(crate) fn step(&mut self, step: &Step) {
        self.began = self.fs.op_count();
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
                let mut batch = Batch::new();
                batch.put(&key, "claimed").require(&key, Expect::Absent);
                match self.engine().commit(&batch).unwrap() {
                    BatchOutcome::Committed(Committed { versions, .. }) => {
                        assert_eq!(self.model.get(&key), None);
                        self.apply_latest(&[(key, Some(b"claimed".to_vec()), versions[0])]);
                    }
                    BatchOutcome::Rejected(Rejected { found, .. }) => assert_eq!(found, self.model.version_of(&key)),
                }
            }
            Step::Add { key: number, delta, durability } => {
                let key = key(*number);
                let known = self.model.get(&key).map_or(Some(0), |value| str::from_utf8(value).ok()?.parse().ok());
                match (known, self.engine().add_with(&key, *delta, *durability)) {
                    (None, Err(Error::NotACounter { key: refused })) => assert_eq!(refused, key),
                    (Some(known), Ok(sum)) => {
                        assert_eq!(sum, known + delta);
                        let version = self.engine().latest_version();
                        self.apply_latest(&[(key, Some(sum.to_string().into_bytes()), version)]);
                        self.note(*durability);
                    }
                    (known, outcome) => panic!("an addition to {known:?}: {outcome:?}"),
                }
            }
            Step::Merge { puts, submits, merged, durability } => self.merge(puts, submits, merged, *durability),
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
            Step::Backup => {
                self.engine().backup_to(BACKUP_DIR).unwrap();
                self.backups.push(Promise { op: self.fs.op_count(), commits: self.digests.len() - 1 });
            }
            Step::Close => {
                self.lives.last_mut().unwrap().closing = self.began;
                self.engine().close().unwrap();
                self.note(Durability::Sync);
                self.engine = None;
                self.engine = Some(self.open(&self.fs));
                self.lives.push(Life { opened: self.fs.op_count(), closing: usize::MAX });
                assert!(!self.engine().open_report().was_unclean());
                self.check();
            }
            Step::Kill => {
                let fs = self.fs.after_kill();
                let engine = self.open(&fs);
                // From here on crash points refer to the new disk, which has everything.
                self.synced = vec![Promise { op: 0, commits: self.digests.len() - 1 }];
                self.lives = vec![Life { opened: fs.op_count(), closing: usize::MAX }];
                (self.handed_out, self.backups) = (Vec::new(), Vec::new());
                self.fs = fs;
                self.engine = Some(engine);
                self.check();
            }
        }
    }

    fn submit(&mut self, number: u8, version: u64, is_delete: bool) {
        self.given_versions = true;
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
        if submits.is_empty() {
            return self.transaction(puts, deletes, durability);
        }
        self.given_versions = true;
        let mut batch = Batch::new();
        let mut changes = Vec::new();
        for number in puts {
            let (key, value) = (key(*number), vec![*number; usize::from(*number) % 60]);
            batch.put(&key, &value);
            changes.push((key, Some(value), None));
        }
        for number in deletes {
            batch.delete(key(*number));
            changes.push((key(*number), None, None));
        }
        for (number, version) in submits {
            let (key, value) = (key(*number), b"batched".to_vec());
            let command =
                Command::Set { key: key.clone(), value: value.clone(), version: *version, timestamp: GIVEN_TIMESTAMP };
            batch.submit(&command);
            changes.push((key, Some(value), Some(GIVEN_TIMESTAMP)));
        }
        let outcome = self.engine().commit_with(&batch, durability).unwrap();
        let BatchOutcome::Committed(Committed { outcomes, versions, .. }) = outcome else {
            panic!("rejected: {outcome:?}")
        };
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

    fn merge(&mut self, puts: &[u8], submits: &[(u8, u64)], merged: &[u8], durability: Durability) {
        self.given_versions |= !submits.is_empty();
        let mut batch = Batch::new();
        for number in puts {
            batch.put(key(*number), b"7").add(key(*number), 1);
        }
        let submits = submits
            .iter()
            .map(|(number, version)| Command::set(key(*number), version.to_string(), *version).at(GIVEN_TIMESTAMP));
        for command in submits.clone() {
            batch.submit(&command);
        }
        let operand = |number: u8| [b'a' + number % 26];
        for number in merged {
            batch.merge(key(*number), "append", operand(*number));
        }
        let outcome = self.engine().commit_with(&batch, durability).unwrap();
        let BatchOutcome::Committed(committed) = outcome else { panic!("rejected: {outcome:?}") };
        let mut told = committed.outcomes.into_iter().zip(committed.versions);
        let mut values = committed.merged.into_iter();
        let before = self.model.digest();
        for number in puts {
            self.apply_told(Some(Command::set(key(*number), "7", 0)), told.next());
            self.apply_told(Some(Command::set(key(*number), "8", 0)), told.next());
            assert_eq!(values.next().unwrap().unwrap(), "8");
        }
        for command in submits {
            self.apply_told(Some(command), told.next());
        }
        for number in merged {
            let key = key(*number);
            let command = match append(self.model.get(&key), &operand(*number)) {
                MergeOutcome::Put(value) => Some(Command::set(key.clone(), value, 0)),
                MergeOutcome::Delete => Some(Command::delete(key.clone(), 0)),
                MergeOutcome::Keep => None,
            };
            self.apply_told(command, told.next());
            assert_eq!(values.next().unwrap().as_deref(), self.model.get(&key));
        }
        if self.model.digest() != before {
            self.committed();
            self.note(durability);
        }
    }

    /// Applies a command of a batch with the version that it has got; without one, the batch must
    /// have written nothing.
    fn apply_told(&mut self, command: Option<Command>, told: Option<(ApplyOutcome, u64)>) {
        let (outcome, version) = told.unwrap();
        let Some(command) = command else { return assert_eq!((outcome, version), (ApplyOutcome::IgnoredStale, 0)) };
        let timestamp = match command.timestamp() {
            0 => self.timestamp_of(command.key(), version),
            given => given,
        };
        let command = match command.value() {
            Some(value) => Command::set(command.key(), value, version),
            None => Command::delete(command.key(), version),
        };
        let command = command.at(timestamp);
        assert_eq!(self.model.apply(&command), outcome);
    }

    /// The same changes as a transaction that has read its keys.
    fn transaction(&mut self, puts: &[u8], deletes: &[u8], durability: Durability) {
        let changes = puts.iter().map(|number| (*number, Some(vec![*number; usize::from(*number) % 60])));
        let changes: BTreeMap<_, _> = changes.chain(deletes.iter().map(|number| (*number, None))).collect();
        let mut transaction = self.engine().transaction().unwrap();
        for (number, value) in &changes {
            let key = key(*number);
            let found = transaction.get(&key).unwrap();
            assert_eq!(found.as_deref(), self.model.get(&key));
            match value {
                Some(value) => transaction.put(&key, value).unwrap(),
                None => transaction.delete(&key).unwrap(),
            }
        }
        let mut versions: BTreeMap<_, _> =
            changes.into_iter().map(|(number, value)| (key(number), (value, 0))).collect();
        let committed = transaction.commit_with(durability).unwrap();
        for ((_, version), committed) in versions.values_mut().zip(committed.versions) {
            *version = committed;
        }
        let changes: Vec<_> = versions.into_iter().map(|(key, (value, version))| (key, value, version)).collect();
        self.apply_latest(&changes);
        self.note(durability);
    }

    /// The timestamp that the engine assigned, from its own state, because the model does not know
    /// the clock.
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
        let (began, done) = (self.began, self.fs.op_count());
        self.handed_out.push(HandedOut { began, done, seq: self.max_seq, version: self.max_version });
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
        let pairs: Vec<_> = engine.range(..).unwrap().map(|entry| entry.unwrap().into_pair().unwrap()).collect();
        assert!(pairs.iter().map(|(key, value)| (&key[..], &value[..])).eq(self.model.iter()));
        let back: Vec<_> = engine.range(..).unwrap().rev().map(|entry| entry.unwrap().key().to_vec()).collect();
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

//! Random operations, maintenance, reopens, kills and power losses on a simulated disk, compared
//! with the model.
//!
//! The store has no threads here, so an input is reproducible, and a run takes no time to start
//! threads. The schedules and the linearizability checker test concurrency.
#![no_main]

use std::sync::Arc;
use std::time::Duration;

use hightower_engine::{
    AppendMode, Background, Command, Components, Durability, KvState, SingleNodeEngine, SnapshotEngine,
    StoreConfig,
};
use hightower_seams::ManualClock;
use hightower_segment::sim::{Choice, CrashPoint, Fault, FaultKind, SeededEntropy, SimFs};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
enum Step {
    Set {
        key: u8,
        len: u8,
        version: u16,
    },
    Delete {
        key: u8,
        version: u16,
    },
    Batch(Vec<(u8, u16)>),
    Flush,
    Compact,
    Checkpoint,
    Close,
    Kill,
    /// The number decides which writes reached the disk.
    PowerLoss(u32),
}

/// The clock stands still: no tombstone's grace ends, so compaction drops nothing that the model
/// has.
const NOW_MS: i64 = 1_700_000_000_000;

struct World {
    fs: SimFs,
    mode: AppendMode,
    engine: SingleNodeEngine,
    model: KvState,
    /// The state that must survive a power loss.
    durable: KvState,
    /// The commits after it.
    since: Vec<Vec<Command>>,
}

fn open(fs: &SimFs, append_mode: AppendMode) -> SingleNodeEngine {
    let components = Components::default().with_fs(Arc::new(fs.clone())).with_clock(Arc::new(ManualClock::at(NOW_MS))).with_entropy(Arc::new(SeededEntropy::new(5))).with_background(Background::Caller);
    let config = StoreConfig::at("/store").with_max_segment_size(4096).with_append_mode(append_mode).with_durability(Durability::Os).with_compaction_interval(Duration::ZERO);
    SingleNodeEngine::with_components(config, components).expect("an undamaged store opens")
}

fn set(key: u8, len: u8, version: u16) -> Command {
    Command::Set { key: vec![b'k', key % 16], value: vec![key; len.into()], version: version.into(), timestamp: NOW_MS }
}

impl World {
    fn new(mode: AppendMode) -> Self {
        let fs = SimFs::new();
        let engine = open(&fs, mode);
        Self { fs, mode, engine, model: KvState::new(), durable: KvState::new(), since: Vec::new() }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Set { key, len, version } => self.submit(set(*key, *len, *version)),
            Step::Delete { key, version } => self.submit(Command::Delete {
                key: vec![b'k', key % 16],
                version: (*version).into(),
                timestamp: NOW_MS,
            }),
            Step::Batch(changes) => {
                let commands: Vec<_> = changes.iter().take(20).map(|(key, version)| set(*key, 9, *version)).collect();
                let expected: Vec<_> = commands.iter().map(|command| self.model.apply(command)).collect();
                assert_eq!(self.engine.submit_batch(commands.clone()).expect("submit"), expected);
                self.since.push(commands);
            }
            Step::Flush => {
                self.engine.flush().expect("flush");
                self.all_is_durable();
            }
            Step::Compact => drop(self.engine.run_compaction_now().expect("compact")),
            Step::Checkpoint => self.engine.checkpoint().expect("checkpoint"),
            Step::Close => {
                self.engine.close().expect("close");
                self.engine = open(&self.fs, self.mode);
                self.all_is_durable();
            }
            Step::Kill => {
                self.reopen(self.fs.after_kill());
                self.all_is_durable();
            }
            Step::PowerLoss(seed) => self.lose_power(u64::from(*seed)),
        }
    }

    fn submit(&mut self, command: Command) {
        assert_eq!(self.model.apply(&command), self.engine.submit(command.clone()).expect("submit"));
        self.since.push(vec![command]);
    }

    /// Opens the store on another disk, and drops the old store, whose disk is no longer used.
    fn reopen(&mut self, fs: SimFs) {
        let engine = open(&fs, self.mode);
        self.abandon();
        self.engine = engine;
        self.fs = fs;
    }

    /// Makes all later writes fail, so that dropping the store is cheap: otherwise it would write a
    /// table that nobody reads.
    fn abandon(&self) {
        self.fs.inject(Fault { kind: FaultKind::Io, at_call: self.fs.call_count(), lasting: true });
    }

    fn digest(&self) -> u64 {
        self.engine.snapshot_state().expect("read").digest()
    }

    /// Recovery and close sync what there is.
    fn all_is_durable(&mut self) {
        self.durable = self.model.clone();
        self.since.clear();
    }

    /// The found state is the durable one plus a prefix of the later commits.
    fn lose_power(&mut self, seed: u64) {
        let choice = if seed == 0 { Choice::Nth(0) } else { Choice::Drawn(seed) };
        self.reopen(self.fs.crash_at(CrashPoint { op: self.fs.op_count(), choice }));
        let found = self.digest();
        self.model = self.durable.clone();
        let mut commits = std::mem::take(&mut self.since).into_iter();
        while self.model.digest() != found {
            let commit = commits.next().expect("a power loss leaves a prefix of the commits");
            for command in &commit {
                self.model.apply(command);
            }
        }
        self.all_is_durable();
    }
}

fuzz_target!(|input: (bool, Vec<Step>)| {
    let (mapped, steps) = input;
    let mut world = World::new(if mapped { AppendMode::Mapped } else { AppendMode::Positioned });
    steps.iter().take(200).for_each(|step| world.step(step));
    assert_eq!(world.digest(), world.model.digest());
    world.abandon();
});

//! The engine's threads in thousands of orders: shuttle runs the whole engine on the simulated file
//! system, and draws from a seed which thread continues at each lock, wait and step.
//!
//! In every program callers put, delete, read, scan, add and commit conditional batches on three
//! keys and a counter, beside the subject of the program. Afterwards the simulated process dies,
//! the store is opened again, and its content ends the history as one more scan. The history must
//! be linearizable, so nothing acknowledged is lost and nothing reappears.
//!
//! Only with `--cfg shuttle`: `cargo xtask schedules`. `HIGHTOWER_TEST_CASES` sets the number of
//! orders per program (default 100), `HIGHTOWER_TEST_SEED` their seed. A failure prints shuttle's
//! schedule, and the same seed finds it again.

#![cfg(shuttle)]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    reason = "a test that cannot go on ends here, and says what it saw"
)]

#[path = "serializability/checker.rs"]
mod anomalies;
#[path = "linearizability/checker.rs"]
mod checker;
#[path = "serializability/client.rs"]
mod client;
mod common;
#[path = "serializability/history.rs"]
mod history;
#[path = "linearizability/random.rs"]
mod random;
#[allow(dead_code, reason = "the threads here are shuttle's")]
#[path = "linearizability/recorder.rs"]
mod recorder;
#[path = "linearizability/store.rs"]
mod store;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anomalies::anomaly;
use checker::is_linearizable;
use client::{Client, LISTS};
use common::{config, open_with, setting};
use hightower_engine::{
    AppendMode, Background, Batch, BatchOutcome, ChangeFeed, Durability, Error, FeedCommit, KeyspaceId,
    KeyspaceOptions, Result, SingleNodeEngine, SnapshotEngine,
};
use hightower_segment::sim::{Choice, CrashPoint, SimFs};
use history::first_out_of_order;
use recorder::Caller;
use shuttle::rand::Rng as _;
use shuttle::scheduler::RandomScheduler;
use shuttle::{Config, MaxSteps, Runner, thread};
use store::Store;

const CALLERS: u32 = 3;

/// A store for several threads.
struct Scene {
    fs: SimFs,
    engine: SingleNodeEngine,
    clock: AtomicU64,
    seed: u64,
}

impl Scene {
    fn new(background: Background, worker_threads: usize) -> Self {
        let seed: u64 = shuttle::rand::thread_rng().r#gen();
        let mode = if seed.is_multiple_of(2) { AppendMode::Mapped } else { AppendMode::Positioned };
        let fs = SimFs::new();
        let config = config(mode).with_commit_queue_depth(1024 * worker_threads);
        let engine = open_with(&fs, config, seed, background).unwrap();
        Self { fs, engine, clock: AtomicU64::new(0), seed }
    }

    /// Fills the store, so that a compaction has work.
    fn fill(&self) {
        for number in 0..4 {
            Caller::new(&self.engine, &self.clock, 100 + number, self.seed).run(8);
        }
        self.engine.run_compaction_now().unwrap();
    }

    /// Runs the callers beside the others, then kills the simulated process, and checks all
    /// outcomes.
    fn run(self, calls: u32, others: &[&(dyn Fn(&SingleNodeEngine) + Sync)]) {
        let start = Caller::new(&self.engine, &self.clock, 0, 0).scan().unwrap();
        let mut history = thread::scope(|scope| {
            let callers: Vec<_> = (0..CALLERS).map(|number| scope.spawn(move_caller(&self, number, calls))).collect();
            for other in others {
                scope.spawn(|| other(&self.engine));
            }
            callers.into_iter().flat_map(|caller| caller.join().unwrap()).collect::<Vec<checker::Call<Store>>>()
        });
        history.push(start);
        let reopened = open_with(&self.fs.after_kill(), config(AppendMode::Mapped), 1, Background::Caller).unwrap();
        history.extend(Caller::new(&reopened, &self.clock, 0, 0).scan());
        assert!(
            is_linearizable_from_anywhere(&history),
            "no order of these calls explains what they were told: {history:#?}"
        );
    }
}

fn move_caller(scene: &Scene, number: u32, calls: u32) -> impl FnOnce() -> Vec<checker::Call<Store>> + '_ {
    move || Caller::new(&scene.engine, &scene.clock, number, scene.seed).run(calls)
}

/// Whether the history is linearizable from the content of its first scan.
fn is_linearizable_from_anywhere(history: &[checker::Call<Store>]) -> bool {
    let first = history.iter().min_by_key(|call| call.began);
    let Some((_, store::Outcome::Saw(content))) = first.and_then(|call| call.ended.as_ref()) else { return false };
    is_linearizable(content, history)
}

fn explore(program: impl Fn() + Send + Sync + 'static) {
    let (seed, cases) = (setting("HIGHTOWER_TEST_SEED", 1), setting("HIGHTOWER_TEST_CASES", 100));
    let mut settings = Config::new();
    settings.stack_size = 1 << 20;
    settings.max_steps = MaxSteps::FailAfter(2_000_000);
    let done = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&done);
    let scheduler = RandomScheduler::new_from_seed(seed, cases as usize);
    Runner::new(scheduler, settings).run(move || {
        program();
        count.fetch_add(1, Ordering::Relaxed);
    });
    let name = std::thread::current().name().unwrap_or_default().to_owned();
    println!("schedules, {name}: {} orders from seed {seed}, 0 violations", done.load(Ordering::Relaxed));
}

#[test]
fn commits() {
    explore(|| Scene::new(Background::Caller, 0).run(6, &[]));
}

#[test]
fn commits_through_the_pipeline() {
    explore(|| Scene::new(Background::Caller, 1).run(5, &[]));
}

/// Transactions that read lists and ranges: serializable, in the order of their seqnos.
fn transact(worker_threads: usize) {
    let scene = Scene::new(Background::Caller, worker_threads);
    let history = thread::scope(|scope| {
        let start = |number: u32| {
            let scene = &scene;
            scope.spawn(move || Client::new(&scene.engine, number.into(), scene.seed).run(4))
        };
        let clients: Vec<_> = (0..CALLERS).map(start).collect();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect::<Vec<_>>()
    });
    assert_eq!(anomaly(&history, LISTS), None);
    assert_eq!(first_out_of_order(&history, LISTS), None);
}

#[test]
fn transactions() {
    explore(|| transact(0));
}

#[test]
fn transactions_through_the_pipeline() {
    explore(|| transact(1));
}

/// A write that is acknowledged as durable is on the simulated disk without any unsynced write.
#[test]
fn group_commit() {
    explore(|| {
        let scene = Scene::new(Background::Caller, 0);
        thread::scope(|scope| {
            for number in 0..CALLERS {
                let scene = &scene;
                scope.spawn(move || {
                    for nth in 0..3 {
                        let key = format!("{number}/{nth}");
                        scene.engine.put_with(&key, "durable", Durability::Sync).unwrap();
                        let point = CrashPoint { op: scene.fs.op_count(), choice: Choice::Nth(0) };
                        let left =
                            open_with(&scene.fs.crash_at(point), config(AppendMode::Mapped), 2, Background::Caller);
                        assert!(
                            left.unwrap().contains_key(&key).unwrap(),
                            "{key} was acknowledged before it was durable"
                        );
                    }
                });
            }
        });
    });
}

#[test]
fn sealing_while_reading_and_writing() {
    explore(|| Scene::new(Background::Threads, 0).run(6, &[&|engine| engine.flush().unwrap_or(())]));
}

#[test]
fn compaction_against_overwrites_and_deletes() {
    explore(|| {
        let scene = Scene::new(Background::Caller, 0);
        scene.fill();
        scene.run(5, &[&|engine| drop(engine.run_compaction_now().unwrap())]);
    });
}

/// A snapshot reads the same before, during and after a compaction beside writes.
#[test]
fn snapshots_against_compaction() {
    explore(|| {
        let scene = Scene::new(Background::Caller, 0);
        scene.fill();
        let look = |engine: &SingleNodeEngine| {
            let snapshot = engine.snapshot().unwrap();
            let first = snapshot.to_state().unwrap();
            for _ in 0..2 {
                thread::yield_now();
                assert_eq!(snapshot.to_state().unwrap().digest(), first.digest(), "a snapshot has changed");
            }
            for (key, value) in first.iter() {
                assert_eq!(snapshot.get(key).unwrap().as_deref(), Some(value));
            }
        };
        scene.run(4, &[&|engine| drop(engine.run_compaction_now().unwrap()), &look]);
    });
}

#[test]
fn checkpoints_against_writes() {
    explore(|| {
        let scene = Scene::new(Background::Caller, 0);
        scene.run(5, &[&|engine| engine.checkpoint().unwrap(), &|engine| engine.checkpoint().unwrap()]);
    });
}

/// Each feed gets every commit, beside writers, segment changes and a compaction. A lost wake-up
/// lets a reader wait until the steps are used up.
fn feeds_beside_writers(background: Background) {
    const WRITES: usize = 3;
    let scene = Scene::new(background, 0);
    scene.fill();
    let (engine, start) = (&scene.engine, scene.engine.latest_seq());
    let write = |number: u8| {
        let put = |nth: usize| {
            // Some commits fill a segment.
            let value = vec![number; if nth == 1 { 3000 } else { 10 }];
            let durability = if nth == 2 { Durability::Sync } else { Durability::Os };
            let outcome = engine.commit_with(Batch::new().put(format!("{number}/{nth}"), value), durability);
            let BatchOutcome::Committed(committed) = outcome.unwrap() else { panic!("rejected") };
            committed.seq
        };
        (0..WRITES).map(put).collect::<Vec<u64>>()
    };
    let read = |feed: ChangeFeed| feed.take(2 * WRITES).map(|commit| commit.unwrap().seqno()).collect::<Vec<u64>>();
    let (mut made, found) = thread::scope(|scope| {
        let readers = [
            scope.spawn(|| read(engine.watch(.., start).unwrap())),
            scope.spawn(|| read(engine.watch_durable(.., start).unwrap())),
            scope.spawn(|| {
                let feed = engine.watch(.., start).unwrap();
                // In a schedule every timer may fire early.
                while !engine.wait_for(start + 1, Duration::MAX).unwrap() {}
                read(feed)
            }),
        ];
        scope.spawn(|| drop(engine.run_compaction_now().unwrap()));
        let writers = [0, 1].map(|number| scope.spawn(move || write(number)));
        let made = writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect::<Vec<u64>>();
        engine.flush().unwrap();
        (made, readers.map(|reader| reader.join().unwrap()))
    });
    made.sort_unstable();
    assert!(found.iter().all(|found| *found == made), "{found:?} of {made:?}");
}

#[test]
fn feeds_with_threads() {
    explore(|| feeds_beside_writers(Background::Threads));
}

#[test]
fn feeds_with_callers_only() {
    explore(|| feeds_beside_writers(Background::Caller));
}

/// Feeds sleep as the last commit comes; nothing follows that would wake them instead.
fn feeds_waiting_for_the_last_commit(background: Background) {
    let scene = Scene::new(background, 0);
    let (engine, start) = (&scene.engine, scene.engine.latest_seq());
    let put = |key: &str| drop(engine.commit_with(Batch::new().put(key, "value"), Durability::Os).unwrap());
    thread::scope(|scope| {
        let iterated = engine.watch(.., start).unwrap();
        scope.spawn(move || assert_eq!(iterated.take(2).filter(Result::is_ok).count(), 2));
        let (told, calls) = std::sync::mpsc::channel();
        let call = move |next: Result<FeedCommit>| told.send(next.unwrap().seqno()).unwrap();
        let subscription = engine.watch(.., start).unwrap().subscribe(call).unwrap();
        let writers = ["a", "b"].map(|key| scope.spawn(move || put(key)));
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        let mut seqnos = Vec::new();
        while seqnos.len() < 2 {
            seqnos.extend(calls.try_recv());
            thread::yield_now();
        }
        assert_eq!(subscription.stop().unwrap(), seqnos[1]);
    });
}

#[test]
fn feeds_sleep_with_threads() {
    explore(|| feeds_waiting_for_the_last_commit(Background::Threads));
}

#[test]
fn feeds_sleep_with_callers_only() {
    explore(|| feeds_waiting_for_the_last_commit(Background::Caller));
}

/// Writers, the thread that prepares files and the thread that releases room request room at the
/// same time, and each uses its allowed room.
#[test]
fn a_quota_against_files_made_ahead() {
    explore(|| {
        let fs = SimFs::new();
        let quota = 1 << 20;
        let config = config(AppendMode::Mapped).with_max_disk_bytes(quota).with_max_segment_size(quota);
        let engine = open_with(&fs, config, shuttle::rand::thread_rng().r#gen(), Background::Threads).unwrap();
        // Each value takes a separate segment, mostly longer than prepared ones. The distance of
        // the last allowed one from the quota is random.
        let value = vec![0; shuttle::rand::thread_rng().gen_range(50_000..250_000)];
        thread::scope(|scope| {
            for number in 0..2 {
                let (engine, value) = (&engine, &value);
                scope.spawn(move || {
                    let grown = (0..).map(|nth| engine.put(format!("{number}/{nth}"), value)).find_map(Result::err);
                    assert_eq!(grown.unwrap().code(), "full");
                    let disk_bytes = engine.stats().disk_bytes;
                    assert!(disk_bytes <= quota, "{disk_bytes} bytes of the disk are taken, of {quota} allowed");
                });
            }
        });
    });
}

/// Each write is in the log before the commit that drops its keyspace, or refused.
#[test]
fn drops_of_keyspaces_against_writers() {
    explore(|| {
        let (fs, seed) = (SimFs::new(), shuttle::rand::thread_rng().r#gen());
        let engine = open_with(&fs, config(AppendMode::Positioned), seed, Background::Caller).unwrap();
        let keyspace = engine.create_keyspace("a", KeyspaceOptions::default()).unwrap();
        let mut feed = engine.watch_all(engine.latest_seq()).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                let refused = (0_u32..).find_map(|number| keyspace.put(number.to_be_bytes(), "").err());
                assert_eq!(refused.unwrap().code(), "keyspace_dropped");
            });
            scope.spawn(|| engine.drop_keyspace("a").unwrap());
        });
        let mut is_dropped = false;
        while let Some(commit) = feed.try_next().unwrap() {
            let written: Vec<_> = commit.changes().map(|change| change.keyspace()).collect();
            assert!(!(is_dropped && written.contains(&keyspace.id())), "written after the drop");
            is_dropped |= written.contains(&KeyspaceId::SYSTEM);
        }
        assert!(is_dropped);
    });
}

/// The first write of a value counts its keyspace, while others write and delete there: the use is
/// then that of a scan, and the quota holds.
#[test]
fn counts_of_keyspaces_against_writers() {
    explore(|| {
        let (fs, seed) = (SimFs::new(), shuttle::rand::thread_rng().r#gen());
        let engine = open_with(&fs, config(AppendMode::Positioned), seed, Background::Caller).unwrap();
        let keyspace = engine.create_keyspace("a", KeyspaceOptions::default()).unwrap();
        (0..3_u8).for_each(|key| drop(keyspace.put([key], "value")));
        engine.alter_keyspace("a", KeyspaceOptions::default().with_max_keys(3)).unwrap();
        thread::scope(|scope| {
            for thread in 0..3_u8 {
                let keyspace = &keyspace;
                scope.spawn(move || {
                    keyspace.delete([thread]).unwrap();
                    for key in [thread, 1, 9] {
                        match keyspace.put([key], vec![0; usize::from(thread)]) {
                            Ok(_) | Err(Error::KeyspaceFull { limit: 3, next: 4, .. }) => {}
                            Err(failure) => panic!("{failure}"),
                        }
                    }
                });
            }
        });
        let (used, mut keys, mut bytes) = (keyspace.usage().unwrap(), 0, 0);
        let count = |key: &[u8], value: &[u8]| {
            (keys, bytes) = (keys + 1, bytes + (key.len() + value.len()) as u64);
            ControlFlow::Continue(())
        };
        keyspace.iter().unwrap().for_each_pair(count).unwrap();
        assert_eq!((used.keys, used.bytes), (keys, bytes));
        assert!(keys <= 3, "{keys} keys under a quota of 3");
    });
}

/// Late calls return `Closed`, and all acknowledged writes exist afterwards.
#[test]
fn closing_against_everything() {
    explore(|| {
        let scene = Scene::new(Background::Threads, usize::from(shuttle::rand::thread_rng().r#gen::<bool>()));
        let close = |engine: &SingleNodeEngine| engine.close().unwrap();
        let upkeep = |engine: &SingleNodeEngine| {
            // They may come too late.
            let _ = engine.run_compaction_now();
            let _ = engine.checkpoint();
        };
        let read = |engine: &SingleNodeEngine| {
            let snapshot = engine.snapshot().unwrap();
            let _ = engine.snapshot_state();
            assert_eq!(snapshot.to_state().unwrap().digest(), snapshot.to_state().unwrap().digest());
        };
        scene.run(4, &[&close, &upkeep, &read]);
    });
}

type Call = fn(&SingleNodeEngine) -> Result<()>;

/// The calls of a store, one for each kind of wait.
const CALLS: [(&str, Call); 12] = [
    ("put", |engine| engine.put("beside", "value").map(drop)),
    ("put and wait", |engine| engine.put_with("beside", "value", Durability::Sync).map(drop)),
    ("batch", |engine| engine.commit(Batch::new().put("beside", "value").delete("a")).map(drop)),
    ("asynchronous batch", |engine| engine.commit_async(Batch::new().put("beside", "value"))?.wait().map(drop)),
    ("get", |engine| engine.get("a").map(drop)),
    ("scan", |engine| engine.range(..)?.for_each_pair(|_, _| ControlFlow::Continue(()))),
    ("snapshot", |engine| engine.snapshot()?.to_state().map(drop)),
    ("flush", SingleNodeEngine::flush),
    ("checkpoint", SingleNodeEngine::checkpoint),
    ("compaction", |engine| engine.run_compaction_now().map(drop)),
    ("backup", |engine| engine.backup_to("copy").map(drop)),
    ("export", |engine| engine.export_snapshot(&mut Vec::new()).map(drop)),
];

/// A filled store, with or without threads and a queue.
fn any_scene() -> Scene {
    let mut random = shuttle::rand::thread_rng();
    let background = if random.r#gen() { Background::Threads } else { Background::Caller };
    let scene = Scene::new(background, usize::from(random.r#gen::<bool>()));
    Caller::new(&scene.engine, &scene.clock, 100, scene.seed).run(4);
    scene
}

/// Closes beside closes and two calls of one kind: all closers get the same outcome, each call
/// succeeds or returns `Closed`, and the store is closed afterwards.
#[test]
fn closing_beside_closing_and_each_call() {
    explore(|| {
        let scene = any_scene();
        let (name, call) = CALLS[shuttle::rand::thread_rng().gen_range(0..CALLS.len())];
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| scene.engine.close().unwrap());
                scope.spawn(|| match call(&scene.engine).map_err(|error| error.code()) {
                    Ok(()) | Err("closed" | "locked") => {}
                    Err(kind) => panic!("{name} beside a close: {kind:?}"),
                });
            }
        });
        let durable_seq = scene.engine.stats().durable_seq;
        assert_eq!(durable_seq, scene.engine.latest_seq(), "a close has returned");
        call(&scene.engine).unwrap_err();
        let reopened = open_with(&scene.fs, config(AppendMode::Mapped), 1, Background::Caller).unwrap();
        assert!(!reopened.open_report().was_unclean(), "{name} beside a close");
        assert_eq!(reopened.len(), scene.engine.len());
    });
}

/// Several threads make a call and drop their handles, in any state of the store: the last drop
/// closes it.
#[test]
fn dropping_in_each_state() {
    explore(|| {
        let Scene { fs, engine, .. } = any_scene();
        let engine = Arc::new(engine);
        let mut random = shuttle::rand::thread_rng();
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let (engine, last) = (Arc::clone(&engine), random.gen_range(0..=CALLS.len()));
                thread::spawn(move || {
                    let outcome = CALLS.get(last).map_or_else(|| engine.close(), |(_, call)| call(&engine));
                    // Another thread may have closed the store, or may be copying to the same
                    // directory.
                    assert!(
                        outcome
                            .map_err(|error| error.code())
                            .map_or_else(|kind| matches!(kind, "closed" | "locked"), |()| true)
                    );
                    drop(engine);
                })
            })
            .collect();
        let keys = random.r#gen::<bool>().then(|| engine.snapshot().ok()).flatten();
        drop(engine);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        let reopened = open_with(&fs, config(AppendMode::Mapped), 1, Background::Caller).unwrap();
        assert!(!reopened.open_report().was_unclean(), "the last handle has closed it");
        if let Some(keys) = keys {
            keys.to_state().unwrap();
        }
    });
}

//! Versions and timestamps of callers, and clocks with any reading: they affect only the caller's
//! own key.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hightower_engine::{
    ApplyOutcome, Batch, Clock, Command, CompactionConfig, Components, Error, Result, SingleNodeEngine, SnapshotEngine,
    StoreConfig, import_snapshot, limits, restore, salvage,
};
use hightower_seams::ManualClock;
use hightower_segment::sim::{Choice, CrashPoint, SimFs};
use tempfile::TempDir;

const OWN: u64 = 1 << 63;
const NOW_MS: i64 = 1_700_000_000_000;
const GRACE: Duration = Duration::from_secs(60);

fn config(dir: &Path) -> StoreConfig {
    let compaction = CompactionConfig::default().with_tombstone_grace(GRACE);
    StoreConfig::at(dir)
        .with_max_segment_size(16 << 10)
        .with_compaction_interval(Duration::ZERO)
        .with_compaction(compaction)
}

fn open_with(config: StoreConfig, clock: &Arc<ManualClock>) -> SingleNodeEngine {
    let components = Components::default().with_clock(Arc::clone(clock) as Arc<_>);
    SingleNodeEngine::with_components(config, components).unwrap()
}

fn set(key: &str, version: u64, timestamp: i64) -> Command {
    Command::Set { key: key.into(), value: b"own".to_vec(), version, timestamp }
}

fn removal(key: &str, version: u64) -> Command {
    Command::Delete { key: key.into(), version, timestamp: NOW_MS }
}

type Submit = fn(&SingleNodeEngine, Command) -> Result<ApplyOutcome>;

/// Every path by which a caller submits a command.
const PATHS: [Submit; 6] = [
    |engine, command| engine.submit(command),
    |engine, command| engine.submit_async(command)?.wait(),
    |engine, command| engine.submit_batch([command]).map(|outcomes| outcomes[0]),
    |engine, command| outcome_of(engine.commit(Batch::new().submit(&command))?),
    |engine, command| outcome_of(engine.commit_async(Batch::new().put("beside", "x").submit(&command))?.wait()?),
    |engine, command| {
        let mut batch = Batch::new();
        batch.submit(&command);
        outcome_of(engine.commit(batch.delete("beside"))?)
    },
];

fn outcome_of(outcome: hightower_engine::BatchOutcome) -> Result<ApplyOutcome> {
    match outcome {
        hightower_engine::BatchOutcome::Committed(hightower_engine::Committed { outcomes, .. }) => {
            Ok(*outcomes.iter().find(|outcome| **outcome != ApplyOutcome::Removed).unwrap_or(&outcomes[0]))
        }
        rejected @ hightower_engine::BatchOutcome::Rejected(_) => panic!("{rejected:?}"),
    }
}

fn refuses(path: Submit, engine: &SingleNodeEngine, command: Command) {
    let version = command.version();
    match path(engine, command) {
        Err(Error::LimitExceeded { what: "submitted version", found, limit }) => {
            assert_eq!((found, limit), (version, limits::MAX_SUBMITTED_VERSION));
        }
        other => panic!("version {version}: {other:?}"),
    }
}

/// A put and a delete win, whatever was submitted before.
fn puts_and_deletes_win(engine: &SingleNodeEngine, key: &str) {
    assert_eq!(engine.put(key, "put").unwrap(), ApplyOutcome::Applied);
    assert_eq!(engine.get(key).unwrap().unwrap(), b"put");
    assert_eq!(engine.delete(key).unwrap(), ApplyOutcome::Removed);
    assert_eq!(engine.get(key).unwrap(), None);
    let batch = engine.commit(Batch::new().put(key, "batch")).unwrap();
    assert!(batch.is_committed());
    assert_eq!(engine.get(key).unwrap().unwrap(), b"batch");
}

#[test]
fn a_version_from_2_to_the_63_on_is_refused_on_every_path() {
    assert_eq!(limits::MAX_SUBMITTED_VERSION, OWN - 1);
    for workers in [0, 1] {
        for (number, path) in PATHS.into_iter().enumerate() {
            let dir = TempDir::new().unwrap();
            let config = config(dir.path()).with_commit_queue_depth(1024 * workers);
            let engine = open_with(config.clone(), &Arc::new(ManualClock::at(NOW_MS)));
            engine.put("a", "1").unwrap();
            let digest = engine.snapshot_state().unwrap().digest();
            for version in [OWN, OWN + 1, u64::MAX - 1, u64::MAX] {
                refuses(path, &engine, set("a", version, NOW_MS));
                refuses(path, &engine, removal("b", version));
            }
            assert_eq!(engine.snapshot_state().unwrap().digest(), digest, "path {number}: something has changed");
            assert_eq!(engine.latest_version(), 1);

            // The highest allowed version wins, and later writes still work.
            assert_eq!(path(&engine, set("a", OWN - 1, NOW_MS)).unwrap(), ApplyOutcome::Applied);
            for key in ["a", "b"] {
                puts_and_deletes_win(&engine, key);
            }
            engine.run_compaction_now().unwrap();
            puts_and_deletes_win(&engine, "a");
            engine.close().unwrap();
            let engine = open_with(config, &Arc::new(ManualClock::at(NOW_MS)));
            assert!(engine.latest_version() >= OWN, "path {number}");
            for key in ["a", "b", "c"] {
                puts_and_deletes_win(&engine, key);
            }
            // After a reopen, callers still may not submit a version of the store's range.
            refuses(path, &engine, set("d", OWN, NOW_MS));
            assert_eq!(path(&engine, set("d", 7, NOW_MS)).unwrap(), ApplyOutcome::Applied);
        }
    }
}

#[test]
fn copies_keep_the_versions_that_the_store_gave() {
    let dir = TempDir::new().unwrap();
    let components = Components::default();
    let at = |name: &str| dir.path().join(name);
    let engine = SingleNodeEngine::with_config(config(&at("kv"))).unwrap();
    engine.submit(set("a", OWN - 1, 0)).unwrap();
    engine.put("b", "above").unwrap();
    engine.put("c", [7; 12 << 10]).unwrap();
    engine.delete("d").unwrap();
    let digest = engine.snapshot_state().unwrap().digest();
    let mut stream = Vec::new();
    engine.export_snapshot(&mut stream).unwrap();
    engine.backup_to(at("backup")).unwrap();
    engine.close().unwrap();

    import_snapshot(&components, &mut &stream[..], at("moved")).unwrap();
    restore(&components, at("backup"), at("restored")).unwrap();
    salvage(&components, at("kv"), at("saved"), &mut |_| ControlFlow::Continue(())).unwrap();
    for name in ["moved", "restored", "saved"] {
        let copy = SingleNodeEngine::with_config(config(&at(name))).unwrap();
        assert_eq!(copy.snapshot_state().unwrap().digest(), digest, "{name}");
        for key in ["a", "b", "d", "e"] {
            puts_and_deletes_win(&copy, key);
        }
        refuses(PATHS[0], &copy, set("a", OWN, 0));
    }
}

#[test]
fn a_crash_above_the_versions_of_callers_gives_none_twice() {
    let fs = SimFs::new();
    let open = |fs: &SimFs| {
        let components = Components::default().with_fs(Arc::new(fs.clone()));
        SingleNodeEngine::with_components(config(Path::new("/store")), components).unwrap()
    };
    let engine = open(&fs);
    engine.submit(set("a", OWN - 1, 0)).unwrap();
    engine.flush().unwrap();
    for _ in 0..20 {
        engine.put("b", "lost").unwrap();
    }
    let given = engine.get_versioned("b").unwrap().unwrap().1;
    assert_eq!(given, OWN + 19);
    let engine = open(&fs.crash_at(CrashPoint { op: fs.op_count(), choice: Choice::Nth(0) }));
    assert_eq!(engine.get("b").unwrap(), None);
    engine.put("b", "anew").unwrap();
    let anew = engine.get_versioned("b").unwrap().unwrap().1;
    assert!(anew > given && anew < u64::MAX / 4 * 3, "{anew}");
}

#[test]
fn a_timestamp_of_a_command_that_rolls_neither_ends_a_grace_nor_makes_it_endless() {
    for timestamp in [i64::MIN, 0, NOW_MS - 1_000_000, NOW_MS + 1_000_000, i64::MAX] {
        for workers in [0, 1] {
            for path in PATHS {
                let (dir, clock) = (TempDir::new().unwrap(), Arc::new(ManualClock::at(NOW_MS)));
                let engine = open_with(config(dir.path()).with_commit_queue_depth(1024 * workers), &clock);
                let big = |key: &str| {
                    let (key, value) = (key.into(), vec![1; 10 << 10]);
                    Command::Set { key, value, version: engine.latest_version() + 1, timestamp }
                };
                let dead = ["first", "second", "third"];
                for key in dead {
                    clock.advance(Duration::from_millis(10));
                    engine.put(key, "x").unwrap();
                    engine.delete(key).unwrap();
                    assert!(path(&engine, big(&format!("big/{key}"))).unwrap().changed());
                }
                clock.advance(Duration::from_millis(1000));
                engine.run_compaction_now().unwrap();
                for key in dead {
                    let late = set(key, 1, NOW_MS);
                    assert!(!engine.submit(late).unwrap().changed(), "{key} is back, by timestamp {timestamp}");
                }
                let now_ms = clock.now_ms();
                for segment in engine.stats().segments {
                    assert!((NOW_MS..=now_ms).contains(&segment.created_ms), "{timestamp}: {segment:?}");
                }
                for _ in 0..3 {
                    clock.advance(Duration::from_millis(61_000));
                    engine.put("beside", "y").unwrap();
                    engine.delete("beside").unwrap();
                    engine.run_compaction_now().unwrap();
                }
                assert!(engine.stats().tombstones <= 1, "timestamp {timestamp} keeps tombstones for ever");
            }
        }
    }
}

#[test]
fn an_output_of_compaction_is_not_as_old_as_a_caller_says() {
    let (dir, clock) = (TempDir::new().unwrap(), Arc::new(ManualClock::at(NOW_MS)));
    let engine = open_with(config(dir.path()), &clock);
    for number in 0..400 {
        engine.submit(set(&format!("k/{}", number % 200), number + 1, 5)).unwrap();
    }
    clock.advance(Duration::from_millis(1000));
    engine.run_compaction_now().unwrap();
    let segments = engine.stats().segments;
    assert!(segments.iter().any(|segment| segment.is_compacted));
    for segment in segments {
        let created_ms = if segment.is_compacted { NOW_MS + 1000 } else { segment.created_ms };
        assert_eq!(segment.created_ms, created_ms, "{segment:?}");
        assert!(segment.created_ms >= NOW_MS, "{segment:?}");
    }
}

#[test]
fn a_clock_that_steps_back_ends_no_grace() {
    for back_to in [i64::MIN, -1, 0, NOW_MS - 3_600_000] {
        let (dir, clock) = (TempDir::new().unwrap(), Arc::new(ManualClock::at(NOW_MS)));
        let engine = open_with(config(dir.path()), &clock);
        engine.put("k", "x").unwrap();
        clock.set_now_ms(back_to);
        let delete_and_roll = |engine: &SingleNodeEngine, key: &str| {
            engine.put(key, "x").unwrap();
            engine.delete(key).unwrap();
            engine.put("beside", [1; 10 << 10]).unwrap();
            engine.put("beside", [2; 10 << 10]).unwrap();
        };
        delete_and_roll(&engine, "k");
        engine.close().unwrap();
        // The same after a restart.
        let engine = open_with(config(dir.path()), &clock);
        delete_and_roll(&engine, "l");
        clock.set_now_ms(NOW_MS + 1000);
        engine.run_compaction_now().unwrap();
        for key in ["k", "l"] {
            assert!(!engine.submit(set(key, 1, 0)).unwrap().changed(), "{key} is back after {back_to}");
        }
        clock.advance(Duration::from_millis(61_000));
        engine.put("beside", "y").unwrap();
        engine.run_compaction_now().unwrap();
        assert_eq!(engine.stats().tombstones, 0, "{back_to}");
    }
}

#[test]
fn a_clock_that_was_ahead_keeps_no_tombstone_for_ever() {
    for ahead in [i64::MAX, NOW_MS * 1000, NOW_MS + 3_600_000_000] {
        let (dir, clock) = (TempDir::new().unwrap(), Arc::new(ManualClock::at(ahead)));
        let engine = open_with(config(dir.path()), &clock);
        engine.put("k", "x").unwrap();
        engine.delete("k").unwrap();
        engine.close().unwrap();
        clock.set_now_ms(NOW_MS);
        let engine = open_with(config(dir.path()), &clock);
        // Time passes at half of its pace until the clock has caught up.
        for _ in 0..3 {
            engine.put("beside", [3; 10 << 10]).unwrap();
            engine.run_compaction_now().unwrap();
            clock.advance(Duration::from_millis(125_000));
        }
        engine.put("beside", "y").unwrap();
        engine.run_compaction_now().unwrap();
        assert_eq!(engine.stats().tombstones, 0, "{ahead}");
    }
}

#[test]
fn a_grace_ends_while_the_clock_is_behind_and_nothing_is_written() {
    let (dir, clock) = (TempDir::new().unwrap(), Arc::new(ManualClock::at(NOW_MS)));
    let engine = open_with(config(dir.path()), &clock);
    engine.put("k", "x").unwrap();
    engine.delete("k").unwrap();
    engine.run_compaction_now().unwrap();
    clock.set_now_ms(NOW_MS - 365 * 24 * 3_600_000);
    for _ in 0..3 {
        clock.advance(Duration::from_millis(125_000));
        engine.run_compaction_now().unwrap();
    }
    assert_eq!(engine.stats().tombstones, 0, "time has stood still");
}

#[test]
fn a_crash_takes_back_no_time_that_a_seal_has_seen() {
    let (fs, clock) = (SimFs::new(), Arc::new(ManualClock::at(NOW_MS)));
    let open = |fs: &SimFs| {
        let components = Components::default()
            .with_fs(Arc::new(fs.clone()))
            .with_clock(Arc::clone(&clock) as Arc<_>)
            .with_background(hightower_engine::Background::Caller);
        SingleNodeEngine::with_components(config(Path::new("/store")), components).unwrap()
    };
    let engine = open(&fs);
    // The next segment is prepared early; its predecessor is sealed an hour later.
    engine.put("a", [1; 9 << 10]).unwrap();
    engine.put("b", [2; 9 << 10]).unwrap();
    clock.advance(Duration::from_millis(3_600_000));
    engine.put("c", [3; 9 << 10]).unwrap();
    let created_ms: Vec<_> = engine.stats().segments.iter().map(|segment| segment.created_ms).collect();
    assert_eq!(created_ms, [NOW_MS; 3], "no header tells of that hour");
    clock.set_now_ms(NOW_MS);
    let engine = open(&fs.crash_at(CrashPoint { op: fs.op_count(), choice: Choice::Everything }));
    let latest_ms = engine.stats().segments.iter().map(|segment| segment.created_ms).max();
    assert_eq!(latest_ms, Some(NOW_MS + 3_600_000), "the seal has seen that hour");
}

/// A clock with random readings over the whole range of its types.
#[derive(Debug)]
struct Wild(AtomicU64);

impl Wild {
    fn draw(&self) -> u64 {
        let drawn = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        (drawn ^ (drawn >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9)
    }
}

impl Clock for Wild {
    fn now_ms(&self) -> i64 {
        match self.draw() >> 61 {
            0 => i64::MIN,
            1 => i64::MAX,
            2 => 0,
            3 => 253_402_300_799_999,
            4 => NOW_MS,
            _ => self.draw().cast_signed(),
        }
    }

    fn elapsed(&self) -> Duration {
        match self.draw() >> 61 {
            0 => Duration::MAX,
            1 => Duration::ZERO,
            2 => Duration::from_secs(u64::MAX),
            _ => Duration::from_micros(self.draw() >> 40),
        }
    }
}

#[test]
fn a_clock_that_says_anything_harms_nothing() {
    for (workers, background) in [
        (0, hightower_engine::Background::Threads),
        (1, hightower_engine::Background::Threads),
        (0, hightower_engine::Background::Caller),
    ] {
        let dir = TempDir::new().unwrap();
        for round in 0..4_u64 {
            let components =
                Components::default().with_clock(Arc::new(Wild(AtomicU64::new(round)))).with_background(background);
            let compaction = CompactionConfig::default()
                .with_tombstone_grace(GRACE)
                .with_rate_limit_bytes_per_s(std::num::NonZeroU64::new(1 << 30));
            let config = config(dir.path())
                .with_commit_queue_depth(1024 * workers)
                .with_compaction(compaction)
                .with_max_segment_size(1 << 20)
                .with_compaction_interval(Duration::from_millis(1));
            let engine = SingleNodeEngine::with_components(config, components).unwrap();
            for number in 0..1500_u64 {
                engine.put(format!("{}", number % 300), vec![7; 3000]).unwrap();
                if number % 7 == 0 {
                    engine.delete(format!("{}", number % 300)).unwrap();
                }
            }
            std::thread::sleep(Duration::from_millis(20));
            engine.run_compaction_now().unwrap();
            let stats = engine.stats();
            assert_eq!((stats.poisoned, stats.caught_panics, stats.last_panic), (None, 0, None));
            engine.close().unwrap();
        }
    }
}

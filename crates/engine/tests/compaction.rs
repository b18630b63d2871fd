//! Compaction and flushes through the public interface: the visible effect of each rule.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use hightower_engine::{
    Command, CompactionConfig, Components, Error, SegmentStats, SingleNodeEngine, SnapshotEngine, StoreConfig,
    TablesUse,
};
use hightower_seams::{Clock as _, Entropy, ManualClock};
use tempfile::TempDir;

fn config(dir: &Path) -> StoreConfig {
    let compaction = CompactionConfig::default().with_tombstone_grace(Duration::from_secs(60));
    StoreConfig::at(dir)
        .with_max_segment_size(16 << 10)
        .with_compaction_interval(Duration::ZERO)
        .with_compaction(compaction)
}

fn open_at(dir: &TempDir, clock: &Arc<ManualClock>) -> SingleNodeEngine {
    let components = Components::default().with_clock(Arc::clone(clock) as Arc<_>);
    SingleNodeEngine::with_components(config(dir.path()), components).unwrap()
}

fn key(number: u32) -> String {
    format!("key/{number:06}")
}

fn remove_tables(dir: &TempDir) -> usize {
    let files = std::fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().path());
    let tables: Vec<_> = files.filter(|path| path.extension().is_some_and(|end| end == "tbl")).collect();
    tables.iter().for_each(|path| std::fs::remove_file(path).unwrap());
    tables.len()
}

fn files(dir: &TempDir) -> Vec<String> {
    let files = std::fs::read_dir(dir.path()).unwrap();
    files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect()
}

fn live(segments: &[SegmentStats]) -> BTreeMap<u32, (u64, u64, u64)> {
    let of = |segment: &SegmentStats| (segment.id, (segment.live_records, segment.live_bytes, segment.dead_records));
    segments.iter().filter(|segment| segment.live_records + segment.dead_records > 0).map(of).collect()
}

/// The table of a run's moves has all that the tables below it had.
#[test]
fn a_table_whose_entries_have_all_moved_goes() {
    let (dir, clock) = (TempDir::new().unwrap(), Arc::new(ManualClock::at(1_700_000_000_000)));
    let components = Components::default().with_clock(Arc::clone(&clock) as Arc<_>);
    // No merge follows the runs.
    let config = config(dir.path()).with_checkpoint_after_compaction(false);
    let engine = SingleNodeEngine::with_components(config, components).unwrap();
    for number in 0..1000 {
        engine.put(key(number), "overwritten").unwrap();
        engine.put(key(number), number.to_string()).unwrap();
    }
    engine.checkpoint().unwrap();
    let before = engine.stats().tables[0].id;
    let snapshot = engine.snapshot().unwrap();
    assert!(engine.run_compaction_now().unwrap().removed_segments > 3);
    let tables = engine.stats().tables;
    assert_eq!((tables.len(), tables[0].keys, engine.len()), (1, 1000, 1000), "{tables:?}");
    assert_ne!(tables[0].id, before);
    let tables_on_disk = || files(&dir).iter().filter(|name| name.ends_with(".tbl")).count();
    assert_eq!(tables_on_disk(), 2, "the snapshot holds the old one");
    let read = |read: &dyn Fn(String) -> Vec<u8>| {
        assert!((0..1000).all(|number| read(key(number)) == number.to_string().as_bytes()));
    };
    read(&|key| snapshot.get(key).unwrap().unwrap().to_vec());
    drop(snapshot);
    engine.run_compaction_now().unwrap();
    assert_eq!(tables_on_disk(), 1);
    read(&|key| engine.get(key).unwrap().unwrap().to_vec());
    engine.close().unwrap();
    let engine = open_at(&dir, &clock);
    assert!(matches!(engine.open_report().tables, TablesUse::Loaded { tables: 1, entries: 1000, .. }));
    read(&|key| engine.get(key).unwrap().unwrap().to_vec());
}

#[test]
fn what_was_overwritten_is_freed_and_the_rest_stays() {
    let (dir, clock) = (TempDir::new().unwrap(), Arc::new(ManualClock::at(1_700_000_000_000)));
    let engine = open_at(&dir, &clock);
    for round in 0..5 {
        for number in 0..1000 {
            engine.put(key(number), format!("value {round}").repeat(5)).unwrap();
        }
    }
    let before = engine.stats();
    let report = engine.run_compaction_now().unwrap();
    let after = engine.stats();
    assert!(report.removed_segments > 10 && report.freed_bytes > before.dead_bytes / 2, "{report:?}");
    assert!(after.dead_bytes * 20 < after.live_bytes, "{after:?}");
    assert_eq!(after.keys, 1000);
    for number in 0..1000 {
        assert_eq!(engine.get(key(number)).unwrap().unwrap(), "value 4".repeat(5).as_bytes());
    }
    assert_eq!(engine.run_compaction_now().unwrap().runs, 0, "nothing is left to do");
    let digest = engine.snapshot_state().unwrap().digest();
    engine.close().unwrap();

    let engine = open_at(&dir, &clock);
    assert!(matches!(&engine.open_report().tables, TablesUse::Loaded { entries: 1000, .. }));
    assert_eq!(engine.open_report().replayed_records, 0);
    assert_eq!(live(&engine.stats().segments), live(&after.segments), "accounts from the table");
    assert_eq!(engine.snapshot_state().unwrap().digest(), digest);
    drop(engine);

    assert_eq!(remove_tables(&dir), 1, "one table, no temporary file");
    let engine = open_at(&dir, &clock);
    assert!(matches!(engine.open_report().tables, TablesUse::Rebuilt { .. }));
    assert_eq!(live(&engine.stats().segments), live(&after.segments), "accounts from the log");
    assert_eq!(engine.snapshot_state().unwrap().digest(), digest);
}

#[test]
fn deleted_keys_stay_deleted_whatever_is_lost() {
    let (dir, clock) = (TempDir::new().unwrap(), Arc::new(ManualClock::at(1_700_000_000_000)));
    let mut old_table = None;
    let engine = open_at(&dir, &clock);
    for number in 0..2000 {
        engine.put(key(number), [7; 50]).unwrap();
    }
    engine.checkpoint().unwrap();
    old_table.replace(std::fs::read(dir.path().join(table_name(&dir))).unwrap());
    for number in 0..1900 {
        engine.delete(key(number)).unwrap();
    }
    engine.run_compaction_now().unwrap();
    assert_eq!(engine.stats().tombstones, 1900, "their grace has not passed");
    clock.advance(Duration::from_millis(120_000));
    let report = engine.run_compaction_now().unwrap();
    assert_eq!((report.forgotten_tombstones, engine.stats().tombstones), (1900, 0));
    let check = |engine: &SingleNodeEngine| {
        assert_eq!((engine.len(), engine.stats().tombstones), (100, 0));
        assert!((0..2000).all(|number| engine.contains_key(key(number)).unwrap() == (number >= 1900)));
        let stats = engine.stats();
        assert!(stats.live_bytes < 100 * 100 && stats.dead_bytes < 20_000, "{stats:?}");
    };
    check(&engine);
    engine.close().unwrap();
    let engine = open_at(&dir, &clock);
    check(&engine);
    engine.close().unwrap();

    // An old table in the place of the new one.
    std::fs::write(dir.path().join(table_name(&dir)), old_table.unwrap()).unwrap();
    let engine = open_at(&dir, &clock);
    let TablesUse::Rebuilt { reason } = &engine.open_report().tables else { panic!("an old table was loaded") };
    assert!(reason.contains("not the table that the manifest names"), "{reason}");
    check(&engine);
    engine.close().unwrap();

    remove_tables(&dir);
    let engine = open_at(&dir, &clock);
    check(&engine);
    drop(engine);

    // The same with a table that is damaged at any offset: each read is right, or says so.
    let met = |engine: &SingleNodeEngine| {
        let is_damaged =
            |error: &Error| matches!(error, Error::Corrupt { path, .. } if path.extension().unwrap() == "tbl");
        let mut met = 0;
        for number in 0..2000 {
            match engine.contains_key(key(number)) {
                Ok(found) => assert_eq!(found, number >= 1900, "{number}"),
                Err(error) => met += usize::from(is_damaged(&error)),
            }
        }
        let mut keys = 1900..2000;
        for found in engine.iter().unwrap() {
            match found {
                Ok(found) => assert_eq!(found.key(), key(keys.next().unwrap()).as_bytes()),
                Err(error) => {
                    met += usize::from(is_damaged(&error));
                    keys = 2000..2000;
                }
            }
        }
        assert!(keys.is_empty(), "keys are missing");
        // The background may meet it first, as it looks for dropped keyspaces.
        assert!(engine.stats().table_damage.is_some() || met == 0);
        met
    };
    let mut rebuilt = [0, 0];
    for at in (0..).step_by(97) {
        let name = table_name(&dir);
        let whole = std::fs::read(dir.path().join(&name)).unwrap();
        if at >= whole.len() {
            break;
        }
        let mut damaged = whole.clone();
        damaged[at] ^= 0x10;
        std::fs::write(dir.path().join(&name), &damaged).unwrap();
        let reader = SingleNodeEngine::with_config(config(dir.path()).with_read_only(true)).unwrap();
        let met_by_reader = met(&reader);
        drop(reader);
        let engine = open_at(&dir, &clock);
        assert_eq!(met(&engine), met_by_reader);
        rebuilt[0] += usize::from(matches!(engine.open_report().tables, TablesUse::Rebuilt { .. }));
        rebuilt[1] += usize::from(met_by_reader > 0);
        engine.checkpoint().unwrap();
        check(&engine);
        engine.close().unwrap();
        if table_name(&dir) == name {
            // Nothing has met the damage.
            std::fs::write(dir.path().join(&name), &whole).unwrap();
        }
    }
    assert!(rebuilt.iter().all(|rebuilt| *rebuilt > 0), "{rebuilt:?}: by opens, by checkpoints");
}

fn table_name(dir: &TempDir) -> String {
    files(dir).into_iter().find(|name| name.ends_with(".tbl")).unwrap()
}

/// Random numbers that are drawn when a table is begun: a moment at which others commit.
struct Interloper {
    engine: OnceLock<Arc<SingleNodeEngine>>,
    numbers: AtomicU64,
}

impl std::fmt::Debug for Interloper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Interloper")
    }
}

impl Entropy for Interloper {
    fn fill(&self, out: &mut [u8]) -> std::io::Result<()> {
        if let Some(engine) = self.engine.get() {
            engine.put("late", "put after the moment of the table").unwrap();
        }
        let number = self.numbers.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        out.iter_mut().zip(number.to_le_bytes().into_iter().cycle()).for_each(|(out, byte)| *out = byte);
        Ok(())
    }
}

#[test]
fn what_is_written_during_a_flush_is_not_covered() {
    let dir = TempDir::new().unwrap();
    let entropy = Arc::new(Interloper { engine: OnceLock::new(), numbers: AtomicU64::new(7) });
    let components = Components::default().with_entropy(Arc::clone(&entropy) as Arc<_>);
    let engine = Arc::new(SingleNodeEngine::with_components(config(dir.path()), components).unwrap());
    engine.put("early", "put before").unwrap();
    assert!(entropy.engine.set(Arc::clone(&engine)).is_ok());
    engine.checkpoint().unwrap();
    assert_eq!((engine.len(), engine.stats().tables[0].keys), (2, 1));
    engine.flush().unwrap();
    let killed = TempDir::new().unwrap();
    for name in files(&dir) {
        std::fs::copy(dir.path().join(&name), killed.path().join(&name)).unwrap();
    }
    let again = SingleNodeEngine::with_config(config(killed.path())).unwrap();
    assert!(matches!(again.open_report().tables, TablesUse::Loaded { entries: 1, .. }));
    assert!(again.get("early").unwrap().is_some() && again.get("late").unwrap().is_some());
    engine.close().unwrap();
}

/// Most of what the table points to is gone, and what compaction wrote since is not covered.
#[test]
fn a_table_from_before_a_compaction_brings_nothing_back() {
    let (dir, clock) = (TempDir::new().unwrap(), Arc::new(ManualClock::at(1_700_000_000_000)));
    let config = |dir: &Path| config(dir).with_checkpoint_after_compaction(false);
    let open = |dir: &Path| {
        let components = Components::default().with_clock(Arc::clone(&clock) as Arc<_>);
        SingleNodeEngine::with_components(config(dir), components).unwrap()
    };
    let engine = open(dir.path());
    for number in 0..2000 {
        engine.put(key(number), [7; 50]).unwrap();
    }
    engine.checkpoint().unwrap();
    for number in 0..1900 {
        engine.delete(key(number)).unwrap();
    }
    engine.put(key(1950), "newer").unwrap();
    clock.advance(Duration::from_millis(120_000));
    let report = engine.run_compaction_now().unwrap();
    assert_eq!(report.forgotten_tombstones, 1900);
    engine.put(key(1951), "newest").unwrap();
    engine.flush().unwrap();
    // As a kill leaves the store.
    let killed = TempDir::new().unwrap();
    for name in files(&dir) {
        std::fs::copy(dir.path().join(&name), killed.path().join(&name)).unwrap();
    }
    let again = open(killed.path());
    let use_of = &again.open_report().tables;
    assert!(matches!(use_of, TablesUse::Loaded { entries: 0..=100, .. }), "{use_of:?}");
    assert_eq!((again.len(), again.stats().tombstones), (100, 0));
    assert_eq!(again.get(key(1950)).unwrap().unwrap(), "newer");
    assert_eq!(again.get(key(1951)).unwrap().unwrap(), "newest");
    assert_eq!(live(&again.stats().segments), live(&engine.stats().segments));
}

#[test]
fn a_late_older_command_meets_the_tombstone_until_its_grace_has_passed() {
    let (dir, clock) = (TempDir::new().unwrap(), Arc::new(ManualClock::at(1_700_000_000_000)));
    let engine = open_at(&dir, &clock);
    let set =
        |version| Command::Set { key: b"k".to_vec(), value: b"late".to_vec(), version, timestamp: clock.now_ms() };
    engine.submit(Command::Delete { key: b"k".to_vec(), version: 10, timestamp: clock.now_ms() }).unwrap();
    for _ in 0..3 {
        engine.run_compaction_now().unwrap();
        assert!(!engine.submit(set(9)).unwrap().changed());
        clock.advance(Duration::from_millis(25_000));
    }
    engine.run_compaction_now().unwrap();
    assert_eq!(engine.stats().tombstones, 0);
    assert!(engine.submit(set(9)).unwrap().changed());
    engine.close().unwrap();
    assert_eq!(open_at(&dir, &clock).get("k").unwrap().unwrap(), b"late");
}

#[test]
fn a_submitted_timestamp_neither_shortens_nor_lengthens_the_grace() {
    let minute_ms = 60_000;
    for timestamp in [i64::MIN, 0, 1, i64::MAX] {
        let (dir, clock) = (TempDir::new().unwrap(), Arc::new(ManualClock::at(1_700_000_000_000)));
        let engine = open_at(&dir, &clock);
        clock.advance(Duration::from_millis(10 * minute_ms));
        let late = || Command::Set { key: b"k".to_vec(), value: b"late".to_vec(), version: 9, timestamp: 0 };
        engine.submit(Command::Delete { key: b"k".to_vec(), version: 10, timestamp }).unwrap();
        engine.put("beside", "x").unwrap();
        for _ in 0..2 {
            engine.put("beside", "y").unwrap();
            engine.run_compaction_now().unwrap();
            assert!(!engine.submit(late()).unwrap().changed(), "timestamp {timestamp}: forgotten too early");
        }
        // At the latest one grace after its last move.
        for _ in 0..2 {
            clock.advance(Duration::from_millis(minute_ms + 1));
            engine.put("beside", "z").unwrap();
            engine.run_compaction_now().unwrap();
        }
        assert_eq!(engine.stats().tombstones, 0, "timestamp {timestamp}: kept for ever");
    }
}

#[test]
fn a_live_store_is_left_alone_for_a_hundred_intervals() {
    let dir = TempDir::new().unwrap();
    let engine =
        SingleNodeEngine::with_config(config(dir.path()).with_compaction_interval(Duration::from_millis(2))).unwrap();
    for number in 0..3000 {
        engine.put(key(number), [1; 60]).unwrap();
    }
    let before = live(&engine.stats().segments);
    thread::sleep(Duration::from_millis(300));
    assert_eq!(engine.stats().compaction.runs, 0);
    assert_eq!(live(&engine.stats().segments), before);
    assert_eq!(engine.run_compaction_now().unwrap().written_segments, 0, "nor when asked to: it is little");
}

#[test]
fn an_explicit_run_puts_what_is_live_in_key_order_once() {
    let scattered = |number: u32| key(number * 7919 % 20_000);
    for order_when_explicit in [true, false] {
        let dir = TempDir::new().unwrap();
        let base = config(dir.path());
        let compaction = base.compaction.clone().with_order_when_explicit(order_when_explicit);
        let config = base.with_compaction(compaction).with_max_segment_size(1 << 20);
        let engine = SingleNodeEngine::with_config(config.clone()).unwrap();
        for number in 0..20_000 {
            engine.put(scattered(number), [number.to_le_bytes()[0]; 100]).unwrap();
        }
        let moved = engine.run_compaction_now().unwrap().moved_records;
        let in_order = |segment: &&SegmentStats| segment.is_compacted;
        let ordered: u64 = engine.stats().segments.iter().filter(in_order).map(|segment| segment.live_records).sum();
        assert_eq!(moved, ordered);
        // The rest in the active segment is too small for a separate segment.
        assert!(if order_when_explicit { (10_000..=20_000).contains(&moved) } else { moved == 0 }, "{moved}");
        assert_eq!(engine.run_compaction_now().unwrap().moved_records, 0, "once is enough");
        engine.close().unwrap();
        let engine = SingleNodeEngine::with_config(config).unwrap();
        for number in 0..20_000 {
            assert_eq!(engine.get(scattered(number)).unwrap().unwrap(), [number.to_le_bytes()[0]; 100]);
        }
    }
}

#[test]
fn the_background_keeps_the_log_in_bounds() {
    let dir = TempDir::new().unwrap();
    let engine =
        SingleNodeEngine::with_config(config(dir.path()).with_compaction_interval(Duration::from_millis(20))).unwrap();
    for round in 0..20 {
        for number in 0..500 {
            engine.put(key(number * (round + 1) % 500), [1; 60]).unwrap();
        }
    }
    let is_in_bounds = || {
        let stats = engine.stats();
        let len: u64 = stats.segments.iter().map(|segment| segment.len_bytes).sum();
        len * 2 <= stats.live_bytes * 3 && stats.compaction.waiting_segments == 0
    };
    // Many short waits instead of a deadline, so that a suspended machine does not end the wait.
    let is_kept = (0..3000).any(|_| {
        thread::sleep(Duration::from_millis(10));
        is_in_bounds()
    });
    assert!(is_kept, "{:?}", engine.stats());
    assert_eq!(engine.stats().compaction.last_failure, None);
    assert_eq!(engine.len(), 500);
}

#[test]
fn snapshots_read_what_they_saw_across_compactions() {
    let (dir, clock) = (TempDir::new().unwrap(), Arc::new(ManualClock::at(1_700_000_000_000)));
    let engine = open_at(&dir, &clock);
    for number in 0..600 {
        engine.put(key(number), "first").unwrap();
    }
    let first = engine.snapshot().unwrap();
    for number in 0..400 {
        engine.put(key(number), "second").unwrap();
    }
    for number in 400..500 {
        engine.delete(key(number)).unwrap();
    }
    let second = engine.snapshot().unwrap();
    let mut range = second.range(..);
    let held: Vec<_> = range.by_ref().take(50).collect();
    clock.advance(Duration::from_millis(120_000));
    for round in 0..4 {
        engine.put(key(0), format!("round {round}")).unwrap();
        engine.run_compaction_now().unwrap();
        for number in 0..600 {
            assert_eq!(first.get(key(number)).unwrap().unwrap(), b"first");
            let expected = match number {
                0..400 => Some(&b"second"[..]),
                400..500 => None,
                _ => Some(&b"first"[..]),
            };
            assert_eq!(second.get(key(number)).unwrap().as_deref(), expected);
        }
    }
    assert!(held.iter().all(|entry| entry.as_ref().unwrap().value().unwrap() == b"second"));
    assert_eq!(range.map(|entry| entry.unwrap().value().unwrap()).filter(|value| *value == b"second").count(), 350);
    assert_eq!(engine.stats().tombstones, 100, "the first snapshot needs them");
    drop((first, second, held));
    clock.advance(Duration::from_millis(120_000));
    engine.run_compaction_now().unwrap();
    engine.put("x", "y").unwrap();
    engine.run_compaction_now().unwrap();
    let stats = engine.stats();
    assert_eq!((stats.tombstones, stats.retained_versions), (0, 0));
    assert!(stats.dead_bytes < 3000, "{stats:?}");
}

#[test]
fn everything_at_once() {
    let dir = TempDir::new().unwrap();
    let config = config(dir.path()).with_compaction_interval(Duration::from_millis(1));
    let engine = Arc::new(SingleNodeEngine::with_config(config.clone()).unwrap());
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    engine.run_compaction_now().unwrap();
                    engine.checkpoint().unwrap();
                }
            });
        }
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let snapshot = engine.snapshot().unwrap();
                let sum = |_: ()| -> u64 {
                    let pairs = snapshot.prefix("n/").map(|entry| entry.unwrap().value().unwrap());
                    pairs.map(|value| String::from_utf8_lossy(&value).parse::<u64>().unwrap()).sum()
                };
                assert_eq!(sum(()), sum(()), "a snapshot does not move");
            }
        });
        for round in 0..200_u64 {
            for number in 0..40_u64 {
                engine.put(format!("n/{number}"), (round + number).to_string()).unwrap();
            }
            engine.delete(format!("n/{}", round % 40)).unwrap();
            for number in 0..40_u64 {
                let expected = (number != round % 40).then(|| (round + number).to_string());
                assert_eq!(
                    engine.get(format!("n/{number}")).unwrap().as_deref(),
                    expected.as_deref().map(str::as_bytes)
                );
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    let digest = engine.snapshot_state().unwrap().digest();
    engine.close().unwrap();
    let again = SingleNodeEngine::with_config(config).unwrap();
    assert_eq!(again.snapshot_state().unwrap().digest(), digest);
}

#[test]
fn closing_ends_whatever_runs() {
    for round in 0..10 {
        let dir = TempDir::new().unwrap();
        let engine = SingleNodeEngine::with_config(config(dir.path())).unwrap();
        for number in 0..3000 {
            engine.put(key(number % 200), [1; 60]).unwrap();
        }
        thread::scope(|scope| {
            scope.spawn(|| {
                // It ends in time, or gets `Closed`.
                let _ = engine.run_compaction_now();
            });
            thread::sleep(Duration::from_micros(round * 300));
            engine.close().unwrap();
        });
        drop(engine);
        let engine = SingleNodeEngine::with_config(config(dir.path())).unwrap();
        assert!(!engine.open_report().was_unclean());
        assert_eq!(engine.len(), 200);
    }
}

#[test]
fn opening_can_be_watched_and_ended() {
    use std::ops::ControlFlow;
    let dir = TempDir::new().unwrap();
    let engine = SingleNodeEngine::with_config(config(dir.path())).unwrap();
    (0..5000).for_each(|number| assert!(engine.put(key(number), "v").unwrap().changed()));
    engine.close().unwrap();
    for without_table in [false, true] {
        if without_table {
            remove_tables(&dir);
        }
        let mut last = 0;
        let opened = SingleNodeEngine::open_with_progress(config(dir.path()), Components::default(), |progress| {
            assert!(progress.done <= progress.total && progress.done >= last);
            last = progress.done;
            if progress.done > progress.total / 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert_eq!(opened.unwrap_err().code(), "aborted");
    }
    assert_eq!(SingleNodeEngine::with_config(config(dir.path())).unwrap().len(), 5000);
}

#[test]
fn rounds_of_overwrite_delete_compact_reopen_leak_nothing() {
    let rounds = std::env::var("HIGHTOWER_TEST_CASES").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(60);
    let (dir, clock) = (TempDir::new().unwrap(), Arc::new(ManualClock::at(1_700_000_000_000)));
    let size =
        || -> u64 { std::fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).sum() };
    let (mut sizes, mut counts) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let engine = open_at(&dir, &clock);
        (0..300).for_each(|number| assert!(engine.put(key(number), [1; 80]).unwrap().changed()));
        (0..300).for_each(|number| assert!(engine.put(format!("only/{round}/{number}"), [1; 80]).unwrap().changed()));
        (0..300).for_each(|number| assert!(engine.delete(format!("only/{round}/{number}")).unwrap().changed()));
        clock.advance(Duration::from_millis(120_000));
        engine.run_compaction_now().unwrap();
        assert_eq!((engine.len(), engine.stats().tombstones), (300, 0));
        drop(engine);
        sizes.push(size());
        counts.push(files(&dir).len() as u64);
    }
    // A reader of another test may delay the removal of files until the next open; but nothing
    // accumulates.
    let is_flat = |of: &[u64]| of.iter().filter(|it| **it > of[0] + of[0] / 4).count() * 5 < of.len();
    assert!(is_flat(&sizes), "{sizes:?}");
    assert!(is_flat(&counts), "{counts:?}");
    #[cfg(target_os = "linux")]
    assert!(std::fs::read_dir("/proc/self/fd").unwrap().count() < 200);
}

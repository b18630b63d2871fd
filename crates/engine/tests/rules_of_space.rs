//! Rare cases of compaction, checkpoints and copies: one key with a long history, equal versions,
//! the oldest segment, and everything at once until the store is closed.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use hightower_engine::{
    Command, CompactionConfig, Components, Error, KvState, SingleNodeEngine, SnapshotEngine, StoreConfig, restore,
};
use tempfile::TempDir;

fn config(dir: &Path) -> StoreConfig {
    let compaction = CompactionConfig::default().with_tombstone_grace(Duration::ZERO);
    StoreConfig::at(dir)
        .with_max_segment_size(8 << 10)
        .with_compaction_interval(Duration::ZERO)
        .with_compaction(compaction)
}

fn open(dir: &Path) -> SingleNodeEngine {
    SingleNodeEngine::with_config(config(dir)).unwrap()
}

fn remove_tables(dir: &Path) {
    let files = std::fs::read_dir(dir).unwrap().map(|file| file.unwrap().path());
    files
        .filter(|path| path.extension().is_some_and(|end| end == "tbl"))
        .for_each(|path| std::fs::remove_file(path).unwrap());
}

fn digest(engine: &SingleNodeEngine) -> u64 {
    engine.snapshot_state().unwrap().digest()
}

/// The digests of the content: opened with the table, opened from the log only, and of a copy.
fn digests_from_everywhere(dir: &Path, engine: SingleNodeEngine) -> Vec<u64> {
    let places = TempDir::new().unwrap();
    let (backup, restored) = (places.path().join("backup"), places.path().join("restored"));
    engine.backup_to(&backup).unwrap();
    restore(&Components::default(), &backup, &restored).unwrap();
    let mut digests = vec![digest(&engine), digest(&open(&backup)), digest(&open(&restored))];
    engine.close().unwrap();
    digests.push(digest(&open(dir)));
    remove_tables(dir);
    digests.push(digest(&open(dir)));
    digests
}

#[test]
fn a_long_history_on_one_key() {
    let dir = TempDir::new().unwrap();
    let engine = open(dir.path());
    let value = |round: u32| [&round.to_le_bytes()[..], &[7; 96]].concat();
    let mut seen = Vec::new();
    for round in 0..2100 {
        engine.put("key", value(round)).unwrap();
        if round % 300 == 0 {
            seen.push((round, engine.snapshot().unwrap()));
            engine.run_compaction_now().unwrap();
        }
    }
    // A snapshot's content does not change, for any number of moves of its records.
    for (round, snapshot) in &seen {
        assert_eq!(snapshot.get("key").unwrap().unwrap(), value(*round));
    }
    drop(seen);
    engine.run_compaction_now().unwrap();
    let stats = engine.stats();
    assert!(stats.live_bytes < 200 && stats.dead_bytes < 200, "{stats:?}");
    let expected = digest(&engine);
    assert!(digests_from_everywhere(dir.path(), engine).iter().all(|digest| *digest == expected));

    let engine = open(dir.path());
    assert_eq!(engine.get("key").unwrap().unwrap(), value(2099));
    engine.delete("key").unwrap();
    engine.run_compaction_now().unwrap();
    let empty = KvState::new().digest();
    assert!(digests_from_everywhere(dir.path(), engine).iter().all(|digest| *digest == empty), "deleted is deleted");
}

#[test]
fn versions_out_of_order_and_equal_ones_of_sets_and_deletes() {
    let mut state = 5_u64;
    let mut draw = |bound: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % bound
    };
    for _ in 0..8 {
        let dir = TempDir::new().unwrap();
        // No tombstone is dropped here, because the model drops none either.
        let compaction = CompactionConfig::default().with_tombstone_grace(Duration::from_secs(1 << 30));
        let config = config(dir.path()).with_compaction(compaction);
        let engine = SingleNodeEngine::with_config(config.clone()).unwrap();
        let mut model = KvState::new();
        for number in 0..1500 {
            let (key, version) = (format!("key/{}", draw(12)).into_bytes(), 1 + draw(40));
            let timestamp = 1_700_000_000_000 + number;
            let command = if draw(2) == 0 {
                Command::Delete { key, version, timestamp }
            } else {
                let value = vec![u8::try_from(draw(256)).unwrap(); 40];
                Command::Set { key, value, version, timestamp }
            };
            let expected = model.apply(command.borrow());
            assert_eq!(engine.submit(command).unwrap(), expected);
            if draw(100) == 0 {
                engine.run_compaction_now().unwrap();
            }
        }
        assert_eq!(digest(&engine), model.digest());
        engine.close().unwrap();
        drop(engine);
        remove_tables(dir.path());
        let engine = SingleNodeEngine::with_config(config.clone()).unwrap();
        assert_eq!(
            digest(&engine),
            model.digest(),
            "from a log that holds all that was overtaken since the last compaction"
        );
        engine.run_compaction_now().unwrap();
        let digests = digests_from_everywhere(dir.path(), engine);
        assert_eq!(digests, vec![model.digest(); digests.len()]);
    }
}

#[test]
fn the_oldest_segment_goes_once_nothing_lives_in_it() {
    let dir = TempDir::new().unwrap();
    let engine = open(dir.path());
    let oldest = |engine: &SingleNodeEngine| engine.stats().segments.iter().map(|segment| segment.id).min().unwrap();
    let first = oldest(&engine);
    // Only the last writes overwrite its records; all later segments stay live.
    for number in 0..400 {
        engine.put(format!("key/{number:04}"), [1; 60]).unwrap();
    }
    let in_first = engine.stats().segments.iter().find(|segment| segment.id == first).unwrap().live_records;
    assert!(in_first > 20 && oldest(&engine) == first);
    for number in 0..in_first {
        engine.delete(format!("key/{number:04}")).unwrap();
    }
    let copied_before = engine.stats().compaction.written_bytes;
    engine.run_compaction_now().unwrap();
    assert!(oldest(&engine) > first, "{:?}", engine.stats().segments);
    assert!(!dir.path().join(hightower_segment::segment_name(first)).exists());
    assert_eq!(engine.len() as u64, 400 - in_first);
    assert!(engine.stats().compaction.written_bytes - copied_before < 60_000, "what lives is not copied for it twice");
    let expected = digest(&engine);
    assert!(digests_from_everywhere(dir.path(), engine).iter().all(|digest| *digest == expected));
}

/// Compactions, checkpoints and backups at the same time, beside the background thread and a
/// writer, until the store is closed.
#[test]
fn everything_at_once_until_it_is_closed() {
    for round in 0..3 {
        let (dir, places) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let busy = config(dir.path()).with_compaction_interval(Duration::from_millis(1));
        let engine = SingleNodeEngine::with_config(busy).unwrap();
        let (written, backups) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let until_closed = |work: &dyn Fn() -> Result<(), Error>| loop {
            match work() {
                Ok(()) => {}
                Err(error) if error.code() == "closed" => return,
                Err(error) => panic!("{error}"),
            }
        };
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| until_closed(&|| engine.run_compaction_now().map(drop)));
            }
            scope.spawn(|| until_closed(&|| engine.checkpoint()));
            scope.spawn(|| {
                until_closed(&|| {
                    let backup = places.path().join("backup");
                    engine.backup_to(&backup)?;
                    // Keys are written in ascending order, and a key is deleted only after the next
                    // one is written.
                    let copy = SingleNodeEngine::open_read_only(&backup).unwrap();
                    let numbers: Vec<usize> = copy
                        .get_prefix("")
                        .unwrap()
                        .iter()
                        .map(|(key, _)| std::str::from_utf8(key).unwrap().parse().unwrap())
                        .collect();
                    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "{numbers:?}");
                    backups.fetch_add(1, Ordering::Relaxed);
                    Ok(())
                });
            });
            scope.spawn(|| {
                until_closed(&|| {
                    let number = written.load(Ordering::Relaxed);
                    engine.put(format!("{number:09}"), [3; 80])?;
                    written.store(number + 1, Ordering::Relaxed);
                    if number >= 50 {
                        engine.delete(format!("{:09}", number - 50))?;
                    }
                    Ok(())
                });
            });
            let least = 300 * (1 + round);
            while written.load(Ordering::Relaxed) < least || backups.load(Ordering::Relaxed) == 0 {
                thread::sleep(Duration::from_micros(200));
            }
            engine.close().unwrap();
        });
        drop(engine);
        let engine = open(dir.path());
        assert!(!engine.open_report().was_unclean());
        let written = written.into_inner();
        assert!((50..=52).contains(&engine.len()), "{}", engine.len());
        assert!(engine.contains_key(format!("{:09}", written - 1)).unwrap(), "the last acknowledged put");
        let expected = digest(&engine);
        assert!(digests_from_everywhere(dir.path(), engine).iter().all(|digest| *digest == expected));
    }
}

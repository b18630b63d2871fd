//! Damaged tables of an open store: a read that meets the damage says so, and the next maintenance
//! rebuilds the tables from the log.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use hightower_engine::{
    Background, Components, Durability, Error, OpenPhase, Range, SingleNodeEngine, StoreConfig, TablesUse,
};
use hightower_segment::sim::{CrashPlan, Fault, FaultKind, SimFs};

const DIR: &str = "/store";

type Content = BTreeMap<Vec<u8>, Vec<u8>>;

fn config(interval: Duration) -> StoreConfig {
    StoreConfig::at(DIR)
        .with_max_segment_size(16 << 10)
        .with_min_segment_size(16 << 10)
        .with_compaction_interval(interval)
}

fn components(fs: &SimFs, background: Background) -> Components {
    Components::default().with_fs(Arc::new(fs.clone())).with_background(background)
}

fn open(fs: &SimFs) -> SingleNodeEngine {
    SingleNodeEngine::with_components(config(Duration::ZERO), components(fs, Background::Caller)).unwrap()
}

/// A closed store with one table, and its content.
fn closed_store() -> (SimFs, Content) {
    let fs = SimFs::new();
    let engine = open(&fs);
    for round in 0..3_u8 {
        for number in 0..200 {
            engine.put(format!("key/{number:03}"), [round; 60]).unwrap();
        }
    }
    engine.delete("key/100").unwrap();
    let content = content(engine.iter().unwrap()).unwrap();
    assert_eq!(content.len(), 199);
    engine.close().unwrap();
    (fs, content)
}

fn content(range: Range) -> Result<Content, Error> {
    range.map(|entry| entry.and_then(|entry| Ok((entry.key().to_vec(), entry.value()?.to_vec())))).collect()
}

fn files(fs: &SimFs, suffix: &str) -> Vec<PathBuf> {
    let names = fs.names_in(Path::new(DIR)).unwrap();
    names.iter().filter(|name| name.ends_with(suffix)).map(|name| Path::new(DIR).join(name)).collect()
}

fn flip(fs: &SimFs, path: &Path, at: usize) {
    let mut bytes = fs.read_file(path).unwrap();
    bytes[at] ^= 4;
    fs.plant(path, &bytes);
}

/// Damages the first block of the only table, which an open does not read.
fn damage_table(fs: &SimFs) -> PathBuf {
    let [table] = <[PathBuf; 1]>::try_from(files(fs, ".tbl")).unwrap();
    flip(fs, &table, 100);
    table
}

fn assert_meets_damage(engine: &SingleNodeEngine, table: &Path) {
    assert!(matches!(engine.open_report().tables, TablesUse::Loaded { .. }));
    let met = content(engine.iter().unwrap());
    assert!(matches!(&met, Err(Error::Corrupt { path, .. }) if path == table), "{met:?}");
    let reason = engine.stats().table_damage.unwrap();
    assert!(reason.contains(&*table.to_string_lossy()), "{reason}");
}

#[test]
fn the_next_maintenance_after_a_read_that_meets_damage_rebuilds() {
    let maintenance: [fn(&SingleNodeEngine); 2] =
        [|engine| engine.checkpoint().unwrap(), |engine| drop(engine.run_compaction_now().unwrap())];
    for mend in maintenance {
        let (fs, mut expected) = closed_store();
        let table = damage_table(&fs);
        let engine = open(&fs);
        let snapshot = engine.snapshot().unwrap();
        assert_meets_damage(&engine, &table);
        // What is newer than the table is read as ever.
        engine.put("key/000", "newer").unwrap();
        engine.delete("key/001").unwrap();
        expected.insert(b"key/000".to_vec(), b"newer".to_vec());
        expected.remove(&b"key/001"[..]);
        assert_eq!(engine.get("key/000").unwrap().unwrap(), "newer");
        mend(&engine);
        assert!(content(engine.iter().unwrap()).unwrap() == expected);
        let stats = engine.stats();
        assert_eq!((stats.compaction.rebuilds, stats.table_damage), (1, None));
        // The snapshot has the damaged table, which no longer matters to the store.
        assert!(matches!(content(snapshot.iter()), Err(Error::Corrupt { .. })));
        assert_eq!(engine.stats().table_damage, None);
        assert!(files(&fs, ".tbl").contains(&table), "the snapshot holds it");
        drop(snapshot);
        engine.run_compaction_now().unwrap();
        assert!(!files(&fs, ".tbl").contains(&table), "nothing holds it");
        assert_eq!(engine.stats().compaction.rebuilds, 1);
        engine.close().unwrap();
        let again = open(&fs);
        assert!(matches!(again.open_report().tables, TablesUse::Loaded { .. }));
        assert!(content(again.iter().unwrap()).unwrap() == expected);
    }
}

/// What meets the damage may be maintenance itself.
#[test]
fn a_compaction_that_meets_damage_rebuilds_and_goes_on() {
    let (fs, expected) = closed_store();
    damage_table(&fs);
    let engine = open(&fs);
    let report = engine.run_compaction_now().unwrap();
    assert!(report.removed_segments > 0 && report.freed_bytes > 0, "{report:?}");
    let stats = engine.stats();
    assert_eq!((stats.compaction.rebuilds, stats.table_damage), (1, None));
    assert!(content(engine.iter().unwrap()).unwrap() == expected);
}

#[test]
fn a_close_rebuilds_too() {
    let (fs, expected) = closed_store();
    let table = damage_table(&fs);
    let engine = open(&fs);
    assert_meets_damage(&engine, &table);
    engine.close().unwrap();
    let again = open(&fs);
    assert!(matches!(again.open_report().tables, TablesUse::Loaded { .. }));
    assert!(content(again.iter().unwrap()).unwrap() == expected);
}

#[test]
fn the_background_rebuilds_at_once() {
    let (fs, expected) = closed_store();
    let table = damage_table(&fs);
    let components = components(&fs, Background::Threads);
    let engine = SingleNodeEngine::with_components(config(Duration::from_secs(3600)), components).unwrap();
    let met = content(engine.iter().unwrap());
    assert!(matches!(&met, Err(Error::Corrupt { path, .. }) if *path == table), "{met:?}");
    let begun = Instant::now();
    while engine.stats().compaction.rebuilds == 0 {
        assert!(begun.elapsed() < Duration::from_secs(30), "the background was not woken");
        sleep(Duration::from_millis(2));
    }
    assert!(content(engine.iter().unwrap()).unwrap() == expected);
    assert_eq!(engine.stats().compaction.failures, 0);
    engine.close().unwrap();
}

#[test]
fn a_rebuild_from_a_damaged_log_fails_and_is_tried_again_later() {
    let (fs, _) = closed_store();
    let table = damage_table(&fs);
    let segment = files(&fs, ".seg").into_iter().next().unwrap();
    flip(&fs, &segment, 300);
    let components = components(&fs, Background::Threads);
    let engine = SingleNodeEngine::with_components(config(Duration::from_millis(20)), components).unwrap();
    let met = content(engine.iter().unwrap());
    assert!(matches!(&met, Err(Error::Corrupt { path, .. }) if *path == table), "{met:?}");
    let failed = engine.checkpoint();
    assert!(matches!(&failed, Err(Error::Corrupt { path, .. }) if *path == segment), "{failed:?}");
    sleep(Duration::from_millis(400));
    let stats = engine.stats();
    assert!((1..=6).contains(&stats.compaction.failures), "{:?}", stats.compaction);
    assert!(stats.compaction.last_failure.unwrap().contains(&*segment.to_string_lossy()));
    assert_eq!((stats.compaction.rebuilds, stats.table_damage.is_some()), (0, true));
    // Reads still say so, and writes go on.
    assert!(content(engine.iter().unwrap()).is_err());
    engine.put("key/000", "newer").unwrap();
    assert_eq!(engine.get("key/000").unwrap().unwrap(), "newer");
    assert_eq!(files(&fs, ".tbl"), [table], "nothing is left of the attempts");
    assert!(engine.checkpoint().is_err());
    assert_eq!(files(&fs, ".tbl").len(), 2, "a flush reads no table");
    assert_eq!(engine.get("key/000").unwrap().unwrap(), "newer");
}

/// A rebuild needs room for runs of all records beside the table: it does not begin without that.
#[test]
fn a_rebuild_does_not_fill_the_device() {
    let (fs, _) = closed_store();
    let table = damage_table(&fs);
    let engine = open(&fs);
    assert_meets_damage(&engine, &table);
    // Enough for the new table alone.
    fs.set_capacity_bytes(Some(fs.used_bytes() + 64 * 601));
    let full = engine.checkpoint();
    assert!(matches!(full, Err(Error::Full { .. })), "{full:?}");
    fs.set_capacity_bytes(Some(fs.used_bytes() + 200 * 601));
    engine.checkpoint().unwrap();
    assert!(content(engine.iter().unwrap()).is_ok());
}

#[test]
fn without_room_an_open_reads_the_log_into_memory_and_a_rebuild_waits() {
    let (fs, expected) = closed_store();
    let table = damage_table(&fs);
    let engine = open(&fs);
    assert_meets_damage(&engine, &table);
    fs.set_capacity_bytes(Some(fs.used_bytes()));
    let full = engine.checkpoint();
    assert!(matches!(full, Err(Error::Full { .. })), "{full:?}");
    assert!(content(engine.iter().unwrap()).is_err());
    // A close without room leaves the damage to the next maintenance.
    engine.close().unwrap();
    let bytes = fs.read_file(&table).unwrap();
    fs.set_capacity_bytes(None);
    fs.plant(&table, &bytes[..bytes.len() - 1]);
    fs.set_capacity_bytes(Some(fs.used_bytes()));

    let engine = open(&fs);
    let use_of = &engine.open_report().tables;
    assert!(matches!(use_of, TablesUse::Rebuilt { .. }), "{use_of:?}");
    assert!(engine.stats().tables.is_empty() && engine.open_report().replayed_records > 0);
    assert!(content(engine.iter().unwrap()).unwrap() == expected);
    fs.set_capacity_bytes(None);
    engine.checkpoint().unwrap();
    assert_eq!(engine.stats().tables.len(), 1);
    assert!(content(engine.iter().unwrap()).unwrap() == expected);
    engine.close().unwrap();
    let again = open(&fs);
    assert!(matches!(again.open_report().tables, TablesUse::Loaded { .. }));
    assert!(content(again.iter().unwrap()).unwrap() == expected);
}

#[test]
fn an_open_that_rebuilds_can_be_watched_and_ended() {
    let (fs, expected) = closed_store();
    let [table] = <[PathBuf; 1]>::try_from(files(&fs, ".tbl")).unwrap();
    fs.unplant(&table);
    let before = fs.names_in(Path::new(DIR)).unwrap();
    let open = |watch: &mut dyn FnMut(OpenPhase) -> ControlFlow<()>| {
        let components = components(&fs, Background::Caller);
        SingleNodeEngine::open_with_progress(config(Duration::ZERO), components, |progress| watch(progress.phase))
    };
    let ended = open(&mut |phase| match phase {
        OpenPhase::Rebuild => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    assert!(matches!(ended, Err(Error::Aborted(_))), "{ended:?}");
    assert_eq!(fs.names_in(Path::new(DIR)).unwrap(), before);
    let mut phases = Vec::new();
    let engine = open(&mut |phase| {
        phases.push(phase);
        ControlFlow::Continue(())
    });
    let engine = engine.unwrap();
    assert_eq!(phases.first(), Some(&OpenPhase::Rebuild));
    let TablesUse::Rebuilt { reason } = &engine.open_report().tables else { panic!("it was rebuilt") };
    assert!(reason.contains(&*table.to_string_lossy()), "{reason}");
    assert_eq!((engine.open_report().replayed_records, engine.stats().tables.len()), (0, 1));
    assert!(content(engine.iter().unwrap()).unwrap() == expected);
}

#[test]
fn a_crash_at_any_moment_of_a_rebuild_costs_only_another() {
    let (fs, expected) = closed_store();
    let table = damage_table(&fs);
    let fs = fs.after_kill();
    let engine = open(&fs);
    assert_meets_damage(&engine, &table);
    engine.checkpoint().unwrap();
    let (mut mended, mut whole) = (0, 0);
    for state in fs.crash_states(CrashPlan { exhaustive_limit: 4, samples: 2, seed: 1 }) {
        let engine = open(&state.fs);
        let use_of = &engine.open_report().tables;
        assert!(matches!(use_of, TablesUse::Loaded { tables: 1, .. }), "{}: {use_of:?}", state.point);
        assert_eq!(files(&state.fs, ".tbl").len(), 1, "{}: a run or a replaced table is left", state.point);
        match content(engine.iter().unwrap()) {
            Ok(found) => {
                assert!(found == expected, "{}", state.point);
                whole += 1;
            }
            Err(_) => {
                engine.checkpoint().unwrap();
                assert!(content(engine.iter().unwrap()).unwrap() == expected, "{}", state.point);
                mended += 1;
            }
        }
    }
    assert!(mended > 10 && whole > 0, "{mended} {whole}");
}

/// The commits that made records dead are durable before the records are gone.
#[test]
fn no_power_loss_after_a_compaction_takes_the_last_value_of_a_key() {
    let fs = SimFs::new();
    let open_without = |fs: &SimFs| {
        let config = config(Duration::ZERO).with_checkpoint_after_compaction(false);
        SingleNodeEngine::with_components(config, components(fs, Background::Caller)).unwrap()
    };
    let engine = open_without(&fs);
    let keys = || (0..300).map(|number| format!("key/{number:03}"));
    keys().for_each(|key| assert!(engine.put(key, [1; 60]).is_ok()));
    engine.checkpoint().unwrap();
    let before = fs.after_kill();
    let engine = open_without(&before);
    keys().for_each(|key| assert!(engine.put_with(key, [2; 60], Durability::Os).is_ok()));
    assert!(engine.run_compaction_now().unwrap().removed_segments > 0);
    for state in before.crash_states(CrashPlan { exhaustive_limit: 4, samples: 2, seed: 1 }) {
        let engine = open(&state.fs);
        assert!(keys().all(|key| engine.contains_key(key).unwrap()), "{}", state.point);
    }
}

/// A copy of a store has no tables. Its first open makes one, instead of holding all keys in
/// memory, and a crash at any moment of it costs only another.
#[test]
fn a_long_log_without_tables_becomes_one_in_bounded_memory() {
    let (fs, expected) = closed_store();
    open(&fs).backup_to("/copy").unwrap();
    let open_copy = |fs: &SimFs, index_memory_bytes: u64| {
        let mut config = config(Duration::ZERO).with_index_memory_bytes(index_memory_bytes);
        config.data_dir = "/copy".into();
        SingleNodeEngine::with_components(config, components(fs, Background::Caller)).unwrap()
    };
    let check = |engine: &SingleNodeEngine, what: &str| {
        assert!(content(engine.iter().unwrap()).unwrap() == expected, "{what}");
    };
    let roomy = open_copy(&fs.after_kill(), 1 << 20);
    assert_eq!(roomy.open_report().tables, TablesUse::None, "a short log is replayed into memory");
    assert!(roomy.open_report().replayed_records > 600);
    check(&roomy, "roomy");

    let fs = fs.after_kill();
    let engine = open_copy(&fs, 4 << 10);
    let report = engine.open_report();
    assert!(matches!(report.tables, TablesUse::Built { log_bytes: 32_768.. }), "{report:?}");
    assert!(report.replayed_records < 200, "only the segment that was not sealed: {report:?}");
    check(&engine, "made");
    engine.put("key/000", [2; 60]).unwrap();
    drop(engine);
    let again = open_copy(&fs, 4 << 10);
    assert!(matches!(again.open_report().tables, TablesUse::Loaded { .. }), "{:?}", again.open_report());
    check(&again, "again");
    for state in fs.crash_states(CrashPlan { exhaustive_limit: 4, samples: 2, seed: 1 }) {
        let engine = open_copy(&state.fs, 4 << 10);
        check(&engine, &state.point.to_string());
        drop(engine);
        check(&open_copy(&state.fs, 4 << 10), &state.point.to_string());
    }

    // A device without room for the table takes no harm: the log is replayed into memory.
    let fs = fs.after_kill();
    for table in fs.names_in(Path::new("/copy")).unwrap().iter().filter(|name| name.ends_with(".tbl")) {
        fs.unplant(&Path::new("/copy").join(table));
    }
    fs.set_capacity_bytes(Some(fs.used_bytes()));
    check(&open_copy(&fs, 4 << 10), "full");
}

/// A store with segments that are half dead, and a memtable that a failed flush has frozen.
fn with_a_frozen_memtable() -> (SimFs, SingleNodeEngine, Content) {
    let fs = SimFs::new();
    let config = config(Duration::ZERO).with_checkpoint_after_compaction(false);
    let engine = SingleNodeEngine::with_components(config, components(&fs, Background::Caller)).unwrap();
    for round in 0..4_u8 {
        for number in (0..200).step_by(1 + usize::from(round)) {
            engine.put(format!("key/{number:03}"), [round; 60]).unwrap();
        }
    }
    engine.checkpoint().unwrap();
    for number in 0..100 {
        engine.put(format!("other/{number:03}"), "in the frozen memtable").unwrap();
    }
    fs.inject(Fault { kind: FaultKind::NoDescriptors, at_call: fs.call_count(), lasting: true });
    assert_eq!(engine.checkpoint().unwrap_err().code(), "io");
    fs.heal();
    let content = read_all(&engine).unwrap();
    assert_eq!(content.len(), 300);
    (fs, engine, content)
}

/// Reads blocks of the tables, and then their lines.
fn read_all(engine: &SingleNodeEngine) -> Result<Content, Error> {
    let content = content(engine.iter().unwrap())?;
    for (key, value) in &content {
        assert_eq!(engine.get(key)?.as_deref(), Some(&value[..]));
    }
    Ok(content)
}

/// The memtable was frozen before the compaction, and is flushed after it.
#[test]
fn outputs_stay_covered_when_an_older_memtable_is_flushed_after_their_compaction() {
    let (fs, engine, expected) = with_a_frozen_memtable();
    let before = fs.call_count();
    let report = engine.run_compaction_now().unwrap();
    assert!(report.moved_records > 50, "{report:?}");
    let calls = fs.call_count() - before;
    drop((fs, engine));
    for at in 0..calls {
        // The flush between the steps of a run may fail, and then succeed after its outputs.
        let (fs, engine, _) = with_a_frozen_memtable();
        fs.inject(Fault { kind: FaultKind::NoDescriptors, at_call: fs.call_count() + at, lasting: false });
        if engine.run_compaction_now().is_err() {
            continue;
        }
        engine.checkpoint().unwrap();
        let killed = open(&fs.after_kill());
        assert!(matches!(killed.open_report().tables, TablesUse::Loaded { .. }));
        assert_eq!(killed.open_report().replayed_records, 0, "all of it is in the tables, call {at}");
        assert!(read_all(&killed).unwrap() == expected);
    }
    let mut rebuilds = 0;
    for at in 0..calls {
        let (fs, engine, expected) = with_a_frozen_memtable();
        fs.inject(Fault { kind: FaultKind::FlipBit, at_call: fs.call_count() + at, lasting: false });
        let (Ok(_), Err(_)) = (engine.run_compaction_now(), read_all(&engine)) else { continue };
        engine.checkpoint().unwrap();
        assert!(read_all(&engine).unwrap() == expected, "after a flip at call {at}");
        rebuilds += engine.stats().compaction.rebuilds;
    }
    assert!(rebuilds > 0, "no flip has damaged a table");
}

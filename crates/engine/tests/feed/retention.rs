//! The history: what the log keeps for feeds that resume.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hightower_engine::{
    AppendMode, Background, CheckLevel, Components, Error, OpenReport, SingleNodeEngine, StoreConfig, check, restore,
};
use hightower_seams::ManualClock;
use hightower_segment::sim::{CrashPlan, Fault, FaultKind, SimFs};

use super::drain;
use crate::common::{config, open_with};

const ALL: u64 = 1 << 30;

fn keeping(history_bytes: u64) -> StoreConfig {
    config(AppendMode::Positioned).with_history_bytes(history_bytes)
}

fn open(fs: &SimFs, history_bytes: u64) -> SingleNodeEngine {
    open_with(fs, keeping(history_bytes), 1, Background::Caller).unwrap()
}

/// Overwrites one key until some segments are full. Returns the seqnos.
fn fill(engine: &SingleNodeEngine, times: usize) -> Vec<u64> {
    let mut seqnos = Vec::new();
    for _ in 0..times {
        engine.put("filler", [0; 500]).unwrap();
        seqnos.push(engine.latest_seq());
    }
    seqnos
}

/// The seqnos of the commits after `after`.
fn seqnos_after(engine: &SingleNodeEngine, after: u64) -> Result<Vec<u64>, Error> {
    Ok(drain(&mut engine.watch(.., after)?)?.into_iter().map(|(seqno, _)| seqno).collect())
}

/// The number of commits after `after`.
fn commits_after(engine: &SingleNodeEngine, after: u64) -> Result<usize, Error> {
    Ok(seqnos_after(engine, after)?.len())
}

fn segment_files(fs: &SimFs) -> usize {
    fs.names_in(Path::new("/store")).unwrap().iter().filter(|name| name.ends_with(".seg")).count()
}

#[test]
fn a_feed_begins_anywhere_in_the_history_after_compactions_closes_and_kills() {
    let mut fs = SimFs::new();
    let mut engine = open(&fs, ALL);
    for round in 1..=6 {
        fill(&engine, 40);
        engine.run_compaction_now().unwrap();
        assert_eq!(commits_after(&engine, 0).unwrap(), 40 * round);
        assert!(engine.stats().feeds.history_bytes > 10_000 * round as u64);
        assert_eq!(engine.stats().compaction.waiting_segments, 0, "the history waits for nobody");
        if round % 2 == 0 {
            engine.close().unwrap();
        } else {
            fs = fs.after_kill();
        }
        engine = open(&fs, ALL);
        assert_eq!(commits_after(&engine, 0).unwrap(), 40 * round);
        assert_eq!(engine.get("filler").unwrap().unwrap(), [0; 500]);
    }
    engine.close().unwrap();
    let reader = open_with(&fs, keeping(0).with_read_only(true), 2, Background::Caller).unwrap();
    assert_eq!(commits_after(&reader, 0).unwrap(), 240);
}

/// What is history does not answer reads, and compaction does not read it again.
#[test]
fn a_key_that_only_the_history_has_is_gone() {
    let fs = SimFs::new();
    let clock = Arc::new(ManualClock::stepping(1_700_000_000_000, 1));
    let open = || {
        let components = Components::default().with_clock(clock.clone()).with_fs(Arc::new(fs.clone()));
        let components = components.with_background(Background::Caller);
        SingleNodeEngine::with_components(keeping(ALL), components).unwrap()
    };
    let engine = open();
    engine.put("secret", "value").unwrap();
    engine.delete("secret").unwrap();
    fill(&engine, 40);
    clock.advance(Duration::from_secs(40 * 24 * 3600));
    engine.run_compaction_now().unwrap();
    engine.run_compaction_now().unwrap();
    assert_eq!(engine.stats().tombstones, 0);
    let removed = engine.run_compaction_now().unwrap().removed_segments;
    assert_eq!(removed, 0, "there is nothing to compact");
    engine.close().unwrap();
    for _ in 0..2 {
        let engine = open();
        assert_eq!((engine.get("secret").unwrap(), engine.len()), (None, 1));
        assert_eq!(commits_after(&engine, 0).unwrap(), 42);
        engine.close().unwrap();
    }
}

#[test]
fn the_history_is_bounded_in_bytes() {
    let fs = SimFs::new();
    let engine = open(&fs, 30_000);
    for _ in 0..10 {
        let made = fill(&engine, 40);
        engine.run_compaction_now().unwrap();
        let stats = engine.stats().feeds;
        assert!(stats.history_bytes <= 30_000, "{stats:?}");
        // 20,000 bytes of commits are well within it.
        assert_eq!(seqnos_after(&engine, made[4]).unwrap(), made[5..]);
        let Some(before) = stats.oldest_seqno.checked_sub(1) else { continue };
        assert!(matches!(commits_after(&engine, before), Err(Error::HistoryLost { .. })));
        assert!(segment_files(&fs) < 20, "{}", segment_files(&fs));
    }
    engine.close().unwrap();
    // Without the setting, the next compaction gives it up.
    let engine = open(&fs, 0);
    let oldest = engine.stats().feeds.oldest_seqno;
    assert!(commits_after(&engine, oldest).unwrap() > 35);
    let files = segment_files(&fs);
    engine.run_compaction_now().unwrap();
    assert_eq!(engine.stats().feeds.history_bytes, 0);
    assert!(matches!(commits_after(&engine, oldest), Err(Error::HistoryLost { .. })));
    assert!(segment_files(&fs) + 5 < files, "{} of {files}", segment_files(&fs));
}

#[test]
fn the_history_is_bounded_in_age() {
    let fs = SimFs::new();
    let clock = Arc::new(ManualClock::stepping(1_700_000_000_000, 1));
    let components = Components::default().with_clock(clock.clone()).with_fs(Arc::new(fs.clone()));
    let config = keeping(ALL).with_history_age(Duration::from_secs(60));
    let components = components.with_background(Background::Caller);
    let engine = SingleNodeEngine::with_components(config, components).unwrap();
    fill(&engine, 40);
    engine.run_compaction_now().unwrap();
    clock.advance(Duration::from_secs(40));
    let made = fill(&engine, 40);
    engine.run_compaction_now().unwrap();
    assert_eq!(commits_after(&engine, 0).unwrap(), 80, "nothing is 60 seconds old");
    clock.advance(Duration::from_secs(40));
    engine.run_compaction_now().unwrap();
    assert_eq!(seqnos_after(&engine, made[0]).unwrap(), made[1..]);
    assert!(matches!(commits_after(&engine, 10), Err(Error::HistoryLost { .. })));
    clock.advance(Duration::from_secs(40));
    fill(&engine, 10);
    engine.run_compaction_now().unwrap();
    assert!(engine.stats().feeds.history_bytes < 10_000, "{:?}", engine.stats().feeds);
}

#[test]
fn a_full_device_and_the_quota_take_the_history() {
    let fs = SimFs::new();
    let engine = open(&fs, ALL);
    for _ in 0..4 {
        fill(&engine, 40);
        engine.run_compaction_now().unwrap();
    }
    assert!(engine.stats().feeds.history_bytes > 40_000);
    fs.set_capacity_bytes(Some(fs.used_bytes()));
    let mut round = 0_u32;
    while engine.put(format!("{round}"), [1; 500]).is_ok() && round < 1000 {
        round += 1;
    }
    engine.run_compaction_now().unwrap();
    assert_eq!(engine.stats().feeds.history_bytes, 0);
    engine.put("more", [1; 500]).unwrap();

    let fs = SimFs::new();
    let engine = open_with(&fs, keeping(ALL).with_max_disk_bytes(1 << 20), 1, Background::Caller).unwrap();
    for round in 0..60 {
        fill(&engine, 40);
        engine.run_compaction_now().unwrap_or_else(|error| panic!("round {round}: {error}"));
        let stats = engine.stats();
        assert!(stats.feeds.history_bytes < 1 << 20, "{:?}", stats.feeds);
    }
}

#[test]
fn a_copy_has_no_history_and_says_so() {
    let fs = SimFs::new();
    let engine = open(&fs, ALL);
    fill(&engine, 40);
    engine.run_compaction_now().unwrap();
    engine.backup_to("/backup").unwrap();
    let oldest = engine.latest_seq();
    let components = || Components::default().with_fs(Arc::new(fs.clone()));
    restore(&components(), "/backup", "/copy").unwrap();
    let mut config = keeping(ALL);
    config.data_dir = "/copy".into();
    let copy = SingleNodeEngine::with_components(config, components().with_background(Background::Caller)).unwrap();
    assert!(matches!(commits_after(&copy, 3), Err(Error::HistoryLost { .. })));
    assert_eq!(commits_after(&copy, oldest).unwrap(), 0);
    assert_eq!(copy.get("filler").unwrap().unwrap(), [0; 500]);
}

/// The content does not depend on the history.
#[test]
fn a_missing_or_damaged_segment_of_the_history_is_reported_and_begins_it_later() {
    for is_missing in [true, false] {
        let fs = SimFs::new();
        let engine = open(&fs, ALL);
        let made = fill(&engine, 60);
        engine.run_compaction_now().unwrap();
        engine.close().unwrap();
        drop(engine);
        let names = fs.names_in(Path::new("/store")).unwrap();
        let segments: Vec<_> = names.into_iter().filter(|name| name.ends_with(".seg")).collect();
        let victim = Path::new("/store").join(&segments[1]);
        let mut bytes = fs.read_file(&victim).unwrap();
        bytes[20] ^= 1;
        fs.unplant(&victim);
        if !is_missing {
            fs.plant(&victim, &bytes);
        }
        for is_first in [true, false] {
            if is_first {
                let components = Components::default().with_fs(Arc::new(fs.clone()));
                let watch = &mut |_| ControlFlow::Continue(());
                let report = check(&components, "/store", CheckLevel::Checksums, watch).unwrap();
                assert_eq!(report.damage.iter().map(|place| &*place.path).collect::<Vec<_>>(), [&*victim]);
            }
            let engine = open(&fs, ALL);
            let OpenReport { recovery, .. } = engine.open_report();
            assert_eq!(recovery.history_damage.is_some(), is_first, "{recovery:?}");
            assert_eq!(engine.get("filler").unwrap().unwrap(), [0; 500]);
            assert!(matches!(commits_after(&engine, 0), Err(Error::HistoryLost { .. })));
            let oldest = engine.stats().feeds.oldest_seqno;
            let left = made.iter().filter(|seqno| **seqno > oldest).count();
            assert!((40..58).contains(&left) && commits_after(&engine, oldest).unwrap() == left, "{left}");
            assert!(!fs.names_in(Path::new("/store")).unwrap().contains(&segments[1]));
            engine.close().unwrap();
        }
    }
}

/// The numbers of all values that a feed from the history's beginning on has.
fn numbers(engine: &SingleNodeEngine) -> Result<Vec<u8>, Error> {
    let commits = drain(&mut engine.watch(.., engine.stats().feeds.oldest_seqno)?)?;
    Ok(commits.into_iter().map(|(_, changes)| changes[0].1.as_ref().unwrap()[0]).collect())
}

/// Whether the numbers rise by one up to that of the store's value.
fn is_whole(engine: &SingleNodeEngine, numbers: &[u8]) -> bool {
    let rise = numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]);
    let value = engine.get("filler").unwrap();
    rise && numbers.last().is_none_or(|last| value.is_some_and(|value| value[0] == *last))
}

/// After any crash and after any failed call, the history has each commit from its beginning on.
#[test]
fn crashes_and_faults_leave_a_whole_history() {
    let story = |fs: &SimFs, history_bytes: u64| -> Result<(), Error> {
        let engine = open_with(fs, keeping(history_bytes), 1, Background::Caller)?;
        for round in 0..3 {
            (0..30).try_for_each(|number| engine.put("filler", [number + 30 * round; 500]).map(drop))?;
            engine.flush()?;
            engine.run_compaction_now()?;
        }
        engine.close()
    };
    for history_bytes in [ALL, 20_000] {
        let fs = SimFs::new();
        story(&fs, history_bytes).unwrap();
        let plan = CrashPlan { exhaustive_limit: 2, samples: 1, seed: 5 };
        let mut states = 0;
        for state in fs.crash_states(plan) {
            let engine = open(&state.fs, history_bytes);
            let seen = numbers(&engine).unwrap_or_else(|error| panic!("{}: {error}", state.point));
            assert!(is_whole(&engine, &seen), "{}: {seen:?}", state.point);
            assert!(history_bytes < ALL || seen.first().is_none_or(|first| *first == 0), "{}: {seen:?}", state.point);
            engine.put("filler", "more").unwrap();
            engine.run_compaction_now().unwrap();
            states += 1;
        }
        assert!(states > 100, "{states}");
        for at_call in 0..fs.call_count() {
            let fs = SimFs::new();
            fs.inject(Fault { kind: FaultKind::Io, at_call, lasting: false });
            let _failed = story(&fs, history_bytes);
            fs.heal();
            let engine = open(&fs.after_kill(), history_bytes);
            let seen = numbers(&engine).unwrap();
            assert!(is_whole(&engine, &seen), "call {at_call}: {seen:?}");
        }
    }
}

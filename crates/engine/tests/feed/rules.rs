//! One situation for each rule of the feed.

use std::time::Duration;

use hightower_engine::{
    AppendMode, Background, Batch, Components, Durability, Error, SingleNodeEngine, StoreConfig, restore,
};
use hightower_segment::sim::{Choice, CrashPoint, SimFs};

use super::{drain, seen};
use crate::common::{config, open_with};

fn open(fs: &SimFs) -> SingleNodeEngine {
    open_with(fs, config(AppendMode::Mapped), 1, Background::Caller).unwrap()
}

/// Overwrites one key until some segments are full.
fn fill(engine: &SingleNodeEngine, times: usize) {
    for _ in 0..times {
        engine.put("filler", [0; 500]).unwrap();
    }
}

fn seqnos(feed: &mut hightower_engine::ChangeFeed) -> Vec<u64> {
    drain(feed).unwrap().into_iter().map(|(seqno, _)| seqno).collect()
}

#[test]
fn a_feed_after_a_snapshot_has_what_the_snapshot_lacks() {
    let fs = SimFs::new();
    let engine = open(&fs);
    for round in 0..40 {
        engine.put(format!("key/{}", round % 7), format!("{round}")).unwrap();
        if round % 5 == 0 {
            engine.delete(format!("key/{}", round % 3)).unwrap();
        }
    }
    let snapshot = engine.snapshot().unwrap();
    fill(&engine, 30);
    engine.run_compaction_now().unwrap();
    let mut feed = match engine.watch_prefix("key/", snapshot.seq()) {
        // Nobody had watched.
        Err(Error::HistoryLost { .. }) => engine.watch_prefix("key/", engine.snapshot().unwrap().seq()).unwrap(),
        feed => feed.unwrap(),
    };
    assert!(engine.commit(Batch::new().put("key/1", "x").put("other", "y").delete("key/2")).unwrap().is_committed());
    let commits = drain(&mut feed).unwrap();
    assert_eq!(commits.len(), 1);
    assert_eq!(commits[0].1.iter().map(|change| &change.0[..]).collect::<Vec<_>>(), [b"key/1", b"key/2"]);
}

#[test]
fn compaction_keeps_what_an_open_feed_has_not_read_and_nothing_else() {
    let fs = SimFs::new();
    let engine = open(&fs);
    let mut feed = engine.watch(.., engine.latest_seq()).unwrap();
    let start = feed.seqno();
    fill(&engine, 40);
    engine.run_compaction_now().unwrap();
    let stats = engine.stats().feeds;
    assert!(stats.retained_bytes > 10_000 && stats.open == 1 && stats.slowest_seqno == Some(start), "{stats:?}");
    assert_eq!(seqnos(&mut feed).len(), 40, "a live feed has everything");
    assert_eq!(feed.seqno(), engine.latest_seq());
    fill(&engine, 20);
    engine.run_compaction_now().unwrap();
    assert_eq!(seqnos(&mut feed).len(), 20);
    engine.run_compaction_now().unwrap();
    let stats = engine.stats().feeds;
    assert_eq!(stats.retained_bytes, 0, "it has read everything");
    assert!(matches!(engine.watch(.., start), Err(Error::HistoryLost { oldest }) if oldest == stats.oldest_seqno));
    assert!(engine.watch(.., stats.oldest_seqno).is_ok());
    drop(feed);
    // A feed that does not ask, and has nothing to read, keeps nothing.
    let idle = engine.watch_prefix("nothing", engine.latest_seq()).unwrap();
    fill(&engine, 40);
    engine.run_compaction_now().unwrap();
    let stats = engine.stats().feeds;
    assert_eq!((stats.retained_bytes, stats.open, stats.slowest_seqno), (0, 1, Some(engine.latest_seq())));
    drop(idle);
    assert_eq!(engine.stats().feeds.open, 0);
}

#[test]
fn a_feed_that_lags_too_far_is_told_that_history_is_lost() {
    let fs = SimFs::new();
    let small = config(AppendMode::Mapped).with_max_feed_lag_bytes(16 << 10);
    let engine = open_with(&fs, small, 1, Background::Caller).unwrap();
    let mut slow = engine.watch(.., engine.latest_seq()).unwrap();
    let mut steady = engine.watch(.., engine.latest_seq()).unwrap();
    for round in 0..20 {
        fill(&engine, 10);
        assert_eq!(seqnos(&mut steady).len(), 10, "round {round}");
        engine.run_compaction_now().unwrap();
        let retained_bytes = engine.stats().feeds.retained_bytes;
        assert!(retained_bytes <= 16 << 10, "{retained_bytes}");
    }
    let oldest = engine.stats().feeds.oldest_seqno;
    match drain(&mut slow) {
        Err(Error::HistoryLost { oldest: told }) => assert_eq!(told, oldest),
        other => panic!("{other:?}"),
    }
    assert!(slow.try_next().unwrap().is_none(), "an error ends the feed");
}

#[test]
fn a_feed_in_a_removed_segment_reads_it_to_the_end_or_says_that_it_is_lost() {
    let fs = SimFs::new();
    let engine = open_with(&fs, config(AppendMode::Mapped).with_max_feed_lag_bytes(0), 1, Background::Caller).unwrap();
    let start = engine.latest_seq();
    fill(&engine, 40);
    let mut feed = engine.watch(.., start).unwrap();
    let first = feed.try_next().unwrap().unwrap();
    engine.run_compaction_now().unwrap();
    assert_eq!(seen(&first).1[0].1.as_deref(), Some(&[0; 500][..]), "a commit keeps its segment");
    let error = std::iter::from_fn(|| feed.try_next().transpose()).find_map(Result::err);
    assert_eq!(error.unwrap().code(), "history_lost");
}

#[test]
fn history_stays_lost_after_an_open_and_what_is_left_can_be_resumed() {
    let fs = SimFs::new();
    let engine = open(&fs);
    let start = engine.latest_seq();
    fill(&engine, 40);
    let read = engine.latest_seq();
    engine.run_compaction_now().unwrap();
    engine.put("key", "new").unwrap();
    let new = engine.latest_seq();
    let oldest = engine.stats().feeds.oldest_seqno;
    assert!((start + 1..=read).contains(&oldest), "{oldest}");
    engine.close().unwrap();
    for is_read_only in [false, true] {
        let config = config(AppendMode::Mapped).with_read_only(is_read_only);
        let engine = open_with(&fs, config, 2, Background::Caller).unwrap();
        assert_eq!(engine.stats().feeds.oldest_seqno, oldest);
        assert!(matches!(engine.watch(.., start), Err(Error::HistoryLost { oldest: told }) if told == oldest));
        let mut feed = engine.watch(.., read).unwrap();
        assert_eq!(seqnos(&mut feed), [new]);
        if is_read_only {
            assert!(feed.next().is_none(), "a store that is open for reading has no more");
            assert!(engine.wait_for(1, Duration::MAX).unwrap() && !engine.wait_for(u64::MAX, Duration::MAX).unwrap());
        }
        engine.close().unwrap();
    }
}

#[test]
fn a_seqno_that_the_store_never_had_has_diverged() {
    let fs = SimFs::new();
    let engine = open(&fs);
    engine.put("key", "value").unwrap();
    let latest = engine.latest_seq();
    let Err(Error::Diverged { last_kept }) = engine.watch(.., latest + 1) else { panic!("it has not come yet") };
    assert_eq!(last_kept, latest);
    assert!(matches!(engine.watch(.., u64::MAX), Err(Error::Diverged { .. })));
}

/// A power loss takes commits that a feed has seen. A feed cannot resume there, also after more
/// commits and opens; at the last kept commit and at later ones it can.
#[test]
fn a_feed_cannot_resume_at_a_commit_that_a_crash_has_taken() {
    for lost in [1, 40] {
        let fs = SimFs::new();
        let engine = open(&fs);
        engine.put_with("key", "kept", Durability::Sync).unwrap();
        fill(&engine, lost);
        let made = seqnos(&mut engine.watch(.., 0).unwrap());
        let crash = CrashPoint { op: fs.op_count(), choice: Choice::Nth(0) };
        drop(engine);
        let fs = fs.crash_at(crash);
        let kept = seqnos(&mut open(&fs).watch(.., 0).unwrap());
        assert!(!kept.is_empty() && kept.len() < made.len() && made.starts_with(&kept));
        let mut later = Vec::new();
        for _ in 0..3 {
            let engine = open(&fs);
            for after in &made[kept.len()..] {
                match engine.watch(.., *after) {
                    Err(Error::Diverged { last_kept }) => {
                        assert!(last_kept < *after && Some(&last_kept) >= kept.last(), "{last_kept}, after {after}");
                        assert!(engine.watch(.., last_kept).is_ok());
                    }
                    other => panic!("{lost} lost, after {after}: {other:?}"),
                }
            }
            let next = engine.latest_seq();
            later.push(next);
            for after in kept.iter().chain(&later) {
                assert!(engine.watch(.., *after).is_ok(), "{lost} lost, after {after}");
            }
            engine.put_with("key", "next", Durability::Sync).unwrap();
            assert!(Some(&engine.latest_seq()) > made.last() && engine.latest_seq() > next, "no seqno comes back");
            assert_eq!(seqnos(&mut engine.watch(.., next).unwrap()), [engine.latest_seq()]);
            later.push(engine.latest_seq());
            engine.close().unwrap();
        }
    }
}

#[test]
fn a_durable_feed_shows_what_no_power_loss_can_take() {
    let fs = SimFs::new();
    let engine = open(&fs);
    engine.put("a", "1").unwrap();
    // This one begins where nothing is durable yet, and the next one before it.
    let mut late = engine.watch_durable(.., engine.latest_seq()).unwrap();
    let mut early = engine.watch_durable(.., 0).unwrap();
    let mut all = engine.watch(.., 0).unwrap();
    assert_eq!((seqnos(&mut early).len(), seqnos(&mut late).len(), seqnos(&mut all).len()), (0, 0, 1));
    let mut third = engine.watch_durable(.., 0).unwrap();
    assert_eq!(seqnos(&mut third), [0; 0]);
    engine.put("b", "2").unwrap();
    engine.flush().unwrap();
    let latest = engine.latest_seq();
    assert_eq!(seqnos(&mut early), [latest - 1, latest]);
    assert_eq!(seqnos(&mut third), [latest - 1, latest]);
    assert_eq!(seqnos(&mut late), [latest]);
}

#[test]
fn a_restored_backup_has_its_own_history() {
    let dir = tempfile::tempdir().unwrap();
    let [of_store, of_backup, of_copy] = ["store", "backup", "copy"].map(|name| dir.path().join(name));
    let engine = SingleNodeEngine::open(&of_store).unwrap();
    engine.put("key", "1").unwrap();
    engine.backup_to(&of_backup).unwrap();
    let saved = engine.latest_seq();
    engine.put("key", "2").unwrap();
    let later = engine.latest_seq();
    restore(&Components::default(), &of_backup, &of_copy).unwrap();
    let copy = SingleNodeEngine::open(&of_copy).unwrap();
    assert_eq!(seqnos(&mut copy.watch(.., 0).unwrap()), [saved]);
    copy.put("key", "3").unwrap();
    assert!(matches!(copy.watch(.., later), Err(Error::Diverged { last_kept }) if last_kept == saved));
    assert_eq!(seqnos(&mut copy.watch(.., saved).unwrap()), [copy.latest_seq()]);
}

#[test]
fn a_feed_with_a_full_ring_reads_on_by_itself() {
    let fs = SimFs::new();
    let engine = open(&fs);
    let (mut narrow, mut wide) =
        (engine.watch_prefix("a", engine.latest_seq()).unwrap(), engine.watch(.., engine.latest_seq()).unwrap());
    assert!(narrow.try_next().unwrap().is_none() && wide.try_next().unwrap().is_none(), "both follow");
    for round in 1..5_usize {
        for number in 0..200 {
            engine.put(if number % 2 == 0 { "a" } else { "b" }, format!("{number}")).unwrap();
        }
        assert_eq!(seqnos(&mut narrow).len(), 100, "round {round}");
        assert_eq!(seqnos(&mut wide).len(), 200, "round {round}");
    }
}

#[test]
fn damage_ends_a_feed_and_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let engine = SingleNodeEngine::with_config(StoreConfig::at(dir.path())).unwrap();
    for number in 0..100 {
        engine.put(format!("key/{number}"), [7; 100]).unwrap();
    }
    engine.close().unwrap();
    let segment = std::fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().path());
    let segment = segment.filter(|path| path.extension().is_some_and(|end| end == "seg")).min().unwrap();
    let mut bytes = std::fs::read(&segment).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    let engine = SingleNodeEngine::with_components(StoreConfig::at(dir.path()), Components::default()).unwrap();
    let mut feed = engine.watch(.., 0).unwrap();
    let found: Vec<_> = feed.by_ref().collect();
    assert!((30..70).contains(&found.len()), "{}", found.len());
    assert_eq!(found.last().unwrap().as_ref().unwrap_err().code(), "corrupt");
    let mut later = engine.watch(.., engine.latest_seq()).unwrap();
    engine.put("key", "new").unwrap();
    assert_eq!(seqnos(&mut later), [engine.latest_seq()]);
}

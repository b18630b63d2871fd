//! One situation for each rule of the feeds of followers.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::moving_dir::MovingFs;
use hightower_engine::{
    Background, ChangeKind, Components, Durability, Error, Follower, FollowerConfig, FollowerFeed, KeyspaceId,
    KeyspaceOptions, SingleNodeEngine, StoreConfig,
};
use hightower_segment::sim::{Choice, CrashPoint, SimFs};

const SEGMENT_BYTES: u64 = 16 << 10;

fn open(fs: &SimFs, history_bytes: u64) -> SingleNodeEngine {
    let config = StoreConfig::at("/store")
        .with_max_segment_size(SEGMENT_BYTES)
        .with_min_segment_size(SEGMENT_BYTES)
        .with_durability(Durability::Os)
        .with_history_bytes(history_bytes);
    SingleNodeEngine::with_components(config, components(fs)).unwrap()
}

fn components(fs: &SimFs) -> Components {
    Components::default().with_fs(Arc::new(fs.clone())).with_background(Background::Caller)
}

fn follow(fs: &SimFs, max_feed_lag_bytes: u64) -> Follower {
    let config = FollowerConfig::at("/store").with_max_feed_lag_bytes(max_feed_lag_bytes);
    Follower::with_components(config, components(fs)).unwrap()
}

/// Overwrites ten keys again and again: all but the last segments are garbage.
fn write(engine: &SingleNodeEngine, numbers: std::ops::Range<u32>) {
    for number in numbers {
        engine.put([(number % 10) as u8], number.to_le_bytes()).unwrap();
    }
}

fn numbers_of(feed: &mut FollowerFeed) -> Result<Vec<u32>, Error> {
    let mut numbers = Vec::new();
    while let Some(commit) = feed.try_next()? {
        for change in commit.changes() {
            let value = change.value()?.unwrap();
            numbers.push(u32::from_le_bytes(value.as_ref().try_into().unwrap()));
        }
    }
    Ok(numbers)
}

#[test]
fn a_follower_keeps_what_its_feeds_have_not_read() {
    for max_feed_lag_bytes in [1 << 20, 0] {
        let fs = SimFs::new();
        let engine = open(&fs, 0);
        let follower = follow(&fs, max_feed_lag_bytes);
        let mut feed = follower.watch(.., 0).unwrap();
        write(&engine, 0..3_000);
        follower.catch_up().unwrap();
        engine.run_compaction_now().unwrap();
        follower.catch_up().unwrap();
        match numbers_of(&mut feed) {
            Ok(numbers) => assert!(max_feed_lag_bytes > 0 && numbers.iter().copied().eq(0..3_000)),
            Err(Error::HistoryLost { .. }) => assert_eq!(max_feed_lag_bytes, 0),
            Err(failure) => panic!("{failure}"),
        }
        // What was read is given up with the next look.
        follower.catch_up().unwrap();
        assert!(matches!(follower.watch(.., 0), Err(Error::HistoryLost { .. })));
    }
}

#[test]
fn a_new_start_of_the_follower_loses_nothing_that_it_has_kept() {
    for max_feed_lag_bytes in [1 << 20, 0] {
        let fs = SimFs::new();
        let engine = open(&fs, 0);
        let follower = follow(&fs, max_feed_lag_bytes);
        let mut feed = follower.watch(.., 0).unwrap();
        write(&engine, 0..1);
        assert!(feed.try_next().unwrap().is_some());
        write(&engine, 1..3_000);
        follower.catch_up().unwrap();
        // Nobody keeps the last of these.
        write(&engine, 3_000..6_000);
        engine.run_compaction_now().unwrap();
        follower.catch_up().unwrap();
        assert!(follower.stats().restarts > 0);
        follower.catch_up().unwrap();
        let mut expected = 1..3_000_u32;
        let failure = loop {
            match feed.try_next() {
                Ok(commit) => {
                    let value = commit.unwrap().changes().next().unwrap().value().unwrap().unwrap();
                    assert_eq!(value, expected.next().unwrap().to_le_bytes());
                }
                Err(failure) => break failure,
            }
        };
        assert!(matches!(failure, Error::HistoryLost { .. }), "{failure}");
        // A follower that keeps nothing for feeds does not keep the log of before its new start.
        assert_eq!(expected.is_empty(), max_feed_lag_bytes > 0, "{} are missing", expected.len());
    }
}

#[test]
fn a_feed_begins_at_the_end_of_a_store_that_was_opened_again() {
    let fs = SimFs::new();
    let engine = open(&fs, 0);
    write(&engine, 0..10);
    engine.close().unwrap();
    let engine = open(&fs, 0);
    // Behind the last commit, because seqnos jump at an open.
    let after = engine.latest_seq();
    let mut feed = follow(&fs, 0).watch(.., after).unwrap();
    write(&engine, 10..12);
    assert_eq!(numbers_of(&mut feed).unwrap(), [10, 11]);
}

#[test]
fn a_feed_of_a_keyspace_follows_the_one_that_has_the_name_now() {
    let fs = SimFs::new();
    let engine = open(&fs, 0);
    let mut jobs = engine.create_keyspace("jobs", KeyspaceOptions::default()).unwrap();
    let follower = follow(&fs, 0);
    let after = follower.latest_seq();
    jobs.clear().unwrap();
    let mut feed = follower.watch_keyspace("jobs", .., after).unwrap();
    jobs.put("1", "queued").unwrap();
    assert_eq!(feed.try_next().unwrap().unwrap().changes().next().unwrap().keyspace(), jobs.id());
}

#[test]
fn a_feed_begins_in_the_history_of_the_writer() {
    let fs = SimFs::new();
    let engine = open(&fs, 1 << 30);
    write(&engine, 0..3_000);
    engine.run_compaction_now().unwrap();
    let follower = follow(&fs, 0);
    let mut feed = follower.watch(.., 0).unwrap();
    assert!(numbers_of(&mut feed).unwrap().into_iter().eq(0..3_000));
    let place = feed.seqno();
    // What compaction has removed meanwhile, this follower has never seen.
    write(&engine, 3_000..6_000);
    engine.run_compaction_now().unwrap();
    assert!(numbers_of(&mut feed).unwrap().into_iter().eq(3_000..6_000));
    engine.close().unwrap();
    let mut resumed = follow(&fs, 0).watch(.., place).unwrap();
    assert!(numbers_of(&mut resumed).unwrap().into_iter().eq(3_000..6_000));
    assert!(matches!(follower.watch(.., engine.latest_seq() + 1_000_000), Err(Error::Diverged { .. })));
}

#[test]
fn damaged_history_costs_nothing_but_itself() {
    let fs = SimFs::new();
    let engine = open(&fs, 1 << 30);
    write(&engine, 0..3_000);
    engine.run_compaction_now().unwrap();
    write(&engine, 3_000..3_100);
    let first = fs.names_in(Path::new("/store")).unwrap().into_iter().filter(|name| name.ends_with(".seg")).min();
    fs.unplant(&Path::new("/store").join(first.unwrap()));
    let follower = follow(&fs, 0);
    let Err(Error::HistoryLost { oldest }) = follower.watch(.., 0) else { panic!("the first segment is gone") };
    let mut feed = follower.watch(.., oldest).unwrap();
    let numbers = numbers_of(&mut feed).unwrap();
    assert!(numbers.len() > 1_000 && *numbers.last().unwrap() == 3_099, "{} numbers", numbers.len());
    assert_eq!(follower.len().unwrap(), 10);
}

#[test]
fn a_feed_of_another_store_diverges() {
    let dir = tempfile::tempdir().unwrap();
    let write = |count: u32| {
        let engine = SingleNodeEngine::open(dir.path()).unwrap();
        (0..count).for_each(|number| _ = engine.put("key", number.to_le_bytes()).unwrap());
        engine.close().unwrap();
    };
    write(5);
    let follower = Follower::open(dir.path()).unwrap();
    let mut feed = follower.watch(.., 0).unwrap();
    assert_eq!(numbers_of(&mut feed).unwrap().len(), 5);
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        std::fs::remove_file(entry.unwrap().path()).unwrap();
    }
    write(50);
    assert!(matches!(feed.try_next(), Err(Error::Diverged { last_kept: 0 })));
    assert!(feed.try_next().unwrap().is_none() && feed.next().is_none(), "an error ends the feed");
    // The follower tells its next caller, too.
    assert!(matches!(follower.catch_up(), Err(Error::Diverged { .. })));
}

#[test]
fn no_feed_begins_at_a_commit_that_was_lost_later() {
    let fs = SimFs::new();
    let engine = open(&fs, 0);
    engine.put_with("kept", 0_u32.to_le_bytes(), Durability::Sync).unwrap();
    let moving = MovingFs::new(fs.clone());
    let components = Components::default().with_fs(Arc::new(moving.clone()));
    let follower = Follower::with_components(FollowerConfig::at("/store"), components).unwrap();
    let mut feed = follower.watch(.., 0).unwrap();
    assert_eq!(numbers_of(&mut feed).unwrap(), [0]);
    write(&engine, 0..10);
    let lost_seq = engine.latest_seq();
    let crashed = fs.crash_at(CrashPoint { op: fs.op_count(), choice: Choice::Nth(0) });
    std::mem::forget(engine);
    let engine = open(&crashed, 0);
    moving.move_to(crashed);
    write(&engine, 10..12);
    assert_eq!(numbers_of(&mut feed).unwrap(), [10, 11]);
    assert!(engine.latest_seq() > lost_seq);
    assert!(matches!(follower.watch(.., lost_seq), Err(Error::Diverged { .. })));
}

#[test]
fn a_waiting_feed_has_each_commit_of_a_running_writer() {
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig::at(dir.path()).with_max_segment_size(SEGMENT_BYTES).with_history_bytes(1 << 30);
    let engine = SingleNodeEngine::with_config(config).unwrap();
    let jobs = engine.create_keyspace("jobs", KeyspaceOptions::default()).unwrap();
    let follower = Follower::open(dir.path()).unwrap();
    let after = follower.latest_seq();
    let (feed, all) = (follower.watch(.., after).unwrap(), follower.watch_all(after).unwrap());
    let mut of_jobs = follower.watch_keyspace("jobs", .., after).unwrap();
    assert!(matches!(follower.watch_keyspace("none", .., after), Err(Error::KeyspaceNotFound { .. })));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..2_000_u32 {
                engine.put("key", number.to_le_bytes()).unwrap();
                jobs.delete(number.to_le_bytes()).unwrap();
                if number % 500 == 0 {
                    engine.run_compaction_now().unwrap();
                }
            }
        });
        for (number, commit) in (0..2_000_u32).zip(feed) {
            let commit = commit.unwrap();
            assert_eq!(commit.changes().next().unwrap().value().unwrap().unwrap(), number.to_le_bytes());
        }
        assert_eq!(all.take(4_000).filter(|commit| commit.as_ref().unwrap().len() == 1).count(), 4_000);
    });
    for number in 0..2_000_u32 {
        let commit = of_jobs.next_timeout(Duration::from_secs(10)).unwrap().unwrap();
        let change = commit.changes().next().unwrap();
        assert_eq!((change.key(), change.kind()), (&number.to_le_bytes()[..], ChangeKind::Delete));
        assert!(change.keyspace() == jobs.id() && change.keyspace() != KeyspaceId::DEFAULT);
    }
    assert!(of_jobs.next_timeout(Duration::from_millis(2)).unwrap().is_none());
    assert_eq!(of_jobs.seqno(), engine.latest_seq());
}

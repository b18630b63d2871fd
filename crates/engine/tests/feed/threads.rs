//! Feeds beside writers, rolls and compactions, with the store's own threads.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hightower_engine::{Batch, BatchOutcome, ChangeFeed, SingleNodeEngine, StoreConfig};

/// The next commits until one has a change of the key `end`.
fn read_to_end(mut feed: ChangeFeed) -> Vec<(u64, usize)> {
    let mut found = Vec::new();
    for commit in &mut feed {
        let commit = commit.unwrap();
        found.push((commit.seqno(), commit.len()));
        if commit.changes().any(|change| change.key() == b"end") {
            break;
        }
    }
    found
}

#[test]
fn every_reader_gets_every_commit_of_all_writers() {
    const WRITERS: usize = 3;
    const COMMITS: usize = 2_000;
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig::at(dir.path()).with_max_segment_size(64 << 10).with_min_segment_size(16 << 10);
    let engine = SingleNodeEngine::with_config(config.with_compaction_interval(Duration::ZERO)).unwrap();
    let start = engine.latest_seq();
    let is_done = AtomicBool::new(false);
    let (made, found) = thread::scope(|scope| {
        let readers: Vec<_> = (0..3)
            .map(|reader| {
                let feed = if reader == 0 { engine.watch_durable(.., start) } else { engine.watch(.., start) };
                let feed = feed.unwrap();
                scope.spawn(move || read_to_end(feed))
            })
            .collect();
        let narrow = engine.watch_prefix("1/", start).unwrap();
        let narrow =
            scope.spawn(move || narrow.take(COMMITS).map(|commit| commit.unwrap().seqno()).collect::<Vec<_>>());
        let compactions = scope.spawn(|| {
            while !is_done.load(Ordering::Relaxed) {
                engine.run_compaction_now().unwrap();
            }
        });
        let write = |writer: usize| {
            let mut made = Vec::new();
            for number in 0..COMMITS {
                let mut batch = Batch::new();
                for nth in 0..=number % 3 {
                    batch.put(format!("{writer}/{}", (number + nth) % 50), [7; 90]);
                }
                let BatchOutcome::Committed(committed) = engine.commit(&batch).unwrap() else { panic!("rejected") };
                made.push((committed.seq, number % 3 + 1));
            }
            made
        };
        let writers: Vec<_> = (0..WRITERS).map(|writer| scope.spawn(move || write(writer))).collect();
        let mut made: Vec<_> = writers.into_iter().map(|writer| writer.join().unwrap()).collect();
        let of_one: Vec<u64> = made[1].iter().map(|(seqno, _)| *seqno).collect();
        engine.put("end", "").unwrap();
        made.push(vec![(engine.latest_seq(), 1)]);
        assert_eq!(narrow.join().unwrap(), of_one);
        let found: Vec<_> = readers.into_iter().map(|reader| reader.join().unwrap()).collect();
        is_done.store(true, Ordering::Relaxed);
        compactions.join().unwrap();
        (made, found)
    });
    let mut made = made.concat();
    made.sort_unstable();
    for found in found {
        assert!(found == made, "{} commits of {}", found.len(), made.len());
    }
}

#[test]
fn a_commit_wakes_a_sleeping_reader_within_milliseconds() {
    let dir = tempfile::tempdir().unwrap();
    let engine = SingleNodeEngine::open(dir.path()).unwrap();
    let mut feed = engine.watch_prefix("key", engine.latest_seq()).unwrap();
    let mut times: Vec<_> = (0..50)
        .map(|number| {
            // Long enough that the hub sleeps in every second round.
            thread::sleep(Duration::from_millis(if number % 2 == 0 { 20 } else { 1 }));
            thread::scope(|scope| {
                let reader = scope.spawn(|| {
                    let commit = feed.next().unwrap().unwrap();
                    (Instant::now(), commit.seqno())
                });
                thread::sleep(Duration::from_millis(1));
                let made = Instant::now();
                engine.put("key", "value").unwrap();
                let (came, seqno) = reader.join().unwrap();
                assert_eq!(seqno, engine.latest_seq());
                came.saturating_duration_since(made)
            })
        })
        .collect();
    times.sort_unstable();
    println!("from put to reader: median {:?}, worst {:?}", times[25], times[49]);
    assert!(times[25] < Duration::from_millis(5), "{times:?}");
}

#[test]
fn readers_that_wait_end_with_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let engine = SingleNodeEngine::open(dir.path()).unwrap();
    thread::scope(|scope| {
        let feed = engine.watch(.., engine.latest_seq()).unwrap();
        let reader = scope.spawn(move || feed.collect::<Vec<_>>());
        let waiter = scope.spawn(|| engine.wait_for(u64::MAX, Duration::MAX));
        thread::sleep(Duration::from_millis(20));
        engine.close().unwrap();
        let found = reader.join().unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].as_ref().unwrap_err().code(), "closed");
        assert_eq!(waiter.join().unwrap().unwrap_err().code(), "closed");
    });
    assert_eq!(engine.watch(.., 0).map(drop).unwrap_err().code(), "closed");
    SingleNodeEngine::open(dir.path()).unwrap();
}

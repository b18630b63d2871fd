//! Opening, closing and dropping a store from any thread at any moment, and from within its own calls.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod common;

use std::ops::{Bound, ControlFlow};
use std::sync::{Arc, Barrier};
use std::thread;

use common::{config, open_with};
use hightower_engine::{
    AppendMode, Background, Batch, Command, Durability, Error, ErrorKind, KvEngine, SingleNodeEngine, SnapshotEngine,
    StoreConfig,
};
use hightower_segment::sim::{Fault, FaultKind, SimFs};

fn at(dir: &tempfile::TempDir) -> SingleNodeEngine {
    SingleNodeEngine::with_config(StoreConfig::at(dir.path())).unwrap()
}

/// Closes a store from several threads at once; what each is told.
fn close_at_once(engine: &SingleNodeEngine, threads: usize) -> Vec<Result<(), Error>> {
    let start = Barrier::new(threads);
    thread::scope(|scope| {
        let closers: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    start.wait();
                    engine.close()
                })
            })
            .collect();
        closers.into_iter().map(|closer| closer.join().unwrap()).collect()
    })
}

#[test]
fn closers_at_once_are_all_told_the_same() {
    for round in 0..60 {
        let dir = tempfile::tempdir().unwrap();
        let config = StoreConfig { worker_threads: round % 2, ..StoreConfig::at(dir.path()) };
        let engine = SingleNodeEngine::with_config(config).unwrap();
        for number in 0..100 {
            engine.put_with(format!("{number:03}"), "value", Durability::Os).unwrap();
        }
        for outcome in close_at_once(&engine, 3) {
            outcome.unwrap();
        }
        assert_eq!(engine.stats().durable_seq, 100);
        engine.close().unwrap();
        drop(engine);
        let reopened = at(&dir);
        assert!(!reopened.open_report().was_unclean(), "somebody has closed it");
        assert_eq!(reopened.len(), 100);
    }
}

#[test]
fn a_later_closer_gets_the_failure_of_the_first() {
    let fs = SimFs::new();
    let engine = open_with(&fs, config(AppendMode::Positioned), 1, Background::Caller).unwrap();
    engine.put_with("key", "value", Durability::Os).unwrap();
    fs.inject(Fault { kind: FaultKind::Io, at_call: fs.call_count(), lasting: true });
    let kinds: Vec<_> =
        close_at_once(&engine, 3).into_iter().map(|outcome| outcome.map_err(|error| error.to_string())).collect();
    assert!(kinds[0].is_err() && kinds.iter().all(|kind| *kind == kinds[0]), "{kinds:?}");
    assert_eq!(engine.close().map_err(|error| error.to_string()), kinds[0]);
}

/// Every call that needs the store, by name.
fn all_calls<'a>(engine: &'a SingleNodeEngine, dir: &'a tempfile::TempDir) -> Vec<(&'static str, ErrorKind)> {
    let set = || Command::Set { key: b"k".to_vec(), value: b"v".to_vec(), version: 9, timestamp: 0 };
    let kind = |outcome: Result<(), Error>| outcome.map_or_else(|error| error.kind(), |()| panic!("no error"));
    vec![
        ("put", kind(engine.put("k", "v").map(drop))),
        ("put_with", kind(engine.put_with("k", "v", Durability::Sync).map(drop))),
        ("delete", kind(engine.delete("k").map(drop))),
        ("submit", kind(engine.submit(set()).map(drop))),
        ("submit_async", kind(engine.submit_async(set()).map(drop))),
        ("submit_batch", kind(engine.submit_batch([set()]).map(drop))),
        ("commit", kind(engine.commit(Batch::new().put("k", "v")).map(drop))),
        ("commit_async", kind(engine.commit_async(Batch::new().put("k", "v")).map(drop))),
        ("get", kind(engine.get("k").map(drop))),
        ("get_with", kind(engine.get_with("k", |_| ()).map(drop))),
        ("get_versioned", kind(engine.get_versioned("k").map(drop))),
        ("multi_get", kind(engine.multi_get(&["k"]).map(drop))),
        ("get_prefix", kind(engine.get_prefix("k").map(drop))),
        ("range", kind(engine.range::<&str>(..).map(drop))),
        ("prefix", kind(engine.prefix("k").map(drop))),
        ("contains_key", kind(engine.contains_key("k").map(drop))),
        ("read_with", kind(engine.read_with(|_| ()))),
        ("snapshot", kind(engine.snapshot().map(drop))),
        ("snapshot_state", kind(engine.snapshot_state().map(drop))),
        ("scan", kind(KvEngine::scan(engine, Bound::Unbounded, Bound::Unbounded, 1).map(drop))),
        ("flush", kind(engine.flush())),
        ("checkpoint", kind(engine.checkpoint())),
        ("run_compaction_now", kind(engine.run_compaction_now().map(drop))),
        ("backup_to", kind(engine.backup_to(dir.path().join("copy")).map(drop))),
        ("export_snapshot", kind(engine.export_snapshot(&mut Vec::new()).map(drop))),
    ]
}

#[test]
fn a_closed_store_says_so_to_every_call_and_its_snapshots_stay() {
    for worker_threads in [0, 1] {
        let dir = tempfile::tempdir().unwrap();
        let config = StoreConfig { worker_threads, ..StoreConfig::at(dir.path().join("kv")) };
        let engine = SingleNodeEngine::with_config(config).unwrap();
        engine.put("a", "1").unwrap();
        engine.put("b", "2").unwrap();
        let (snapshot, mut range) = (engine.snapshot().unwrap(), engine.range::<&str>(..).unwrap());
        let before = engine.stats();
        engine.close().unwrap();
        for (call, kind) in all_calls(&engine, &dir) {
            assert_eq!(kind, ErrorKind::Closed, "{call}");
        }
        assert_eq!(snapshot.get("a").unwrap().unwrap(), b"1");
        assert_eq!(snapshot.multi_get(&["b", "c"]).unwrap()[0].as_deref(), Some(&b"2"[..]));
        assert_eq!(range.next_back().unwrap().value().unwrap(), b"2");
        // Numbers go on telling what was last true.
        assert_eq!((engine.len(), engine.latest_seq(), engine.latest_version()), (2, 2, before.latest_version));
        let after = engine.stats();
        assert_eq!((after.keys, after.latest_seq, after.durable_seq, after.index_bytes), (2, 2, 2, 0));
    }
}

#[test]
fn a_store_that_is_open_for_reading_says_so_too() {
    let dir = tempfile::tempdir().unwrap();
    at(&dir).put("a", "1").unwrap();
    let engine = SingleNodeEngine::open_read_only(dir.path()).unwrap();
    let snapshot = engine.snapshot().unwrap();
    engine.close().unwrap();
    engine.close().unwrap();
    assert_eq!(engine.get("a").unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(engine.contains_key("a").unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(engine.put("a", "2").unwrap_err().kind(), ErrorKind::ReadOnly);
    assert_eq!(snapshot.get("a").unwrap().unwrap(), b"1");
}

#[test]
fn whoever_watches_an_opening_cannot_open_the_store_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let engine = at(&dir);
    for number in 0..200 {
        engine.put(format!("{number}"), "value").unwrap();
    }
    drop(engine);
    let mut seen = Vec::new();
    let watch = |_| {
        seen.push(SingleNodeEngine::with_config(StoreConfig::at(dir.path())).map(drop).map_err(|error| error.kind()));
        ControlFlow::Continue(())
    };
    let engine = SingleNodeEngine::open_with_progress(
        StoreConfig::at(dir.path()),
        hightower_engine::Components::default(),
        watch,
    );
    assert_eq!(engine.unwrap().len(), 200);
    assert!(!seen.is_empty() && seen.iter().all(|outcome| *outcome == Err(ErrorKind::Locked)), "{seen:?}");
}

/// Closing beside every call: what was acknowledged is there, and what came too late was told.
#[test]
fn a_close_beside_all_calls_ends_and_loses_nothing() {
    for round in 0..20 {
        let dir = tempfile::tempdir().unwrap();
        let config = StoreConfig { worker_threads: round % 2, ..StoreConfig::at(dir.path().join("kv")) };
        let engine = Arc::new(SingleNodeEngine::with_config(config).unwrap());
        let acknowledged: usize = thread::scope(|scope| {
            let writers: Vec<_> = (0..2)
                .map(|writer| {
                    let engine = &engine;
                    scope.spawn(move || {
                        let put = |nth: &usize| engine.put(format!("{writer}/{nth}"), "value").is_ok();
                        (0..).take_while(put).count()
                    })
                })
                .collect();
            for others in 0..2 {
                let (engine, dir) = (&engine, &dir);
                scope.spawn(move || {
                    while engine.get("0/0").is_ok() {
                        let _late = match others {
                            0 => engine.run_compaction_now().map(drop),
                            _ => engine.backup_to(dir.path().join("copy")).map(drop),
                        };
                        let _late = engine.checkpoint();
                        let _late = engine.range::<&str>(..).map(Iterator::count);
                    }
                });
            }
            thread::sleep(std::time::Duration::from_millis(2));
            close_at_once(&engine, 2).into_iter().for_each(|outcome| outcome.unwrap());
            writers.into_iter().map(|writer| writer.join().unwrap()).sum()
        });
        assert_eq!(engine.len(), acknowledged);
        drop(engine);
        let reopened = SingleNodeEngine::with_config(StoreConfig::at(dir.path().join("kv"))).unwrap();
        assert_eq!(reopened.len(), acknowledged);
    }
}

//! Opens, closes and drops of a store from any thread at any moment, and from within its own calls.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod common;

use std::io;
use std::ops::{Bound, ControlFlow};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, Mutex, OnceLock, Weak};
use std::thread;
use std::time::Duration;

use common::{config, open_with};
use hightower_engine::{
    AppendMode, Background, Batch, CheckLevel, Clock, Command, CompactionConfig, CompactionPolicy, Components,
    CostBenefit, Durability, Error, Goal, KvEngine, SegmentUsage, SingleNodeEngine, SnapshotEngine, StoreConfig, check,
    import_snapshot, restore_with_progress, salvage,
};
use hightower_segment::sim::{Fault, FaultKind, SimFs};

fn at(dir: &tempfile::TempDir) -> SingleNodeEngine {
    SingleNodeEngine::with_config(StoreConfig::at(dir.path())).unwrap()
}

/// Closes a store from several threads at once; returns their outcomes.
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
        let config = StoreConfig::at(dir.path()).with_commit_queue_depth(1024 * (round % 2));
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
fn all_calls<'a>(engine: &'a SingleNodeEngine, dir: &'a tempfile::TempDir) -> Vec<(&'static str, &'static str)> {
    let set = || Command::Set { key: b"k".to_vec(), value: b"v".to_vec(), version: 9, timestamp: 0 };
    let kind = |outcome: Result<(), Error>| outcome.map_or_else(|error| error.code(), |()| panic!("no error"));
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
        ("range", kind(engine.range(..).map(drop))),
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
        let config = StoreConfig::at(dir.path().join("kv")).with_commit_queue_depth(1024 * worker_threads);
        let engine = SingleNodeEngine::with_config(config).unwrap();
        engine.put("a", "1").unwrap();
        engine.put("b", "2").unwrap();
        let (snapshot, mut range) = (engine.snapshot().unwrap(), engine.range(..).unwrap());
        let before = engine.stats();
        engine.close().unwrap();
        for (call, kind) in all_calls(&engine, &dir) {
            assert_eq!(kind, "closed", "{call}");
        }
        assert_eq!(snapshot.get("a").unwrap().unwrap(), b"1");
        assert_eq!(snapshot.multi_get(&["b", "c"]).unwrap()[0].as_deref(), Some(&b"2"[..]));
        assert_eq!(range.next_back().unwrap().unwrap().value().unwrap(), b"2");
        // Counters return their last values.
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
    assert_eq!(engine.get("a").unwrap_err().code(), "closed");
    assert_eq!(engine.contains_key("a").unwrap_err().code(), "closed");
    assert_eq!(engine.put("a", "2").unwrap_err().code(), "read_only");
    assert_eq!(snapshot.get("a").unwrap().unwrap(), b"1");
}

#[test]
fn the_watcher_of_an_open_cannot_open_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let engine = at(&dir);
    for number in 0..200 {
        engine.put(format!("{number}"), "value").unwrap();
    }
    drop(engine);
    let mut seen = Vec::new();
    let watch = |_| {
        seen.push(SingleNodeEngine::with_config(StoreConfig::at(dir.path())).map(drop).map_err(|error| error.code()));
        ControlFlow::Continue(())
    };
    let engine = SingleNodeEngine::open_with_progress(StoreConfig::at(dir.path()), Components::default(), watch);
    assert_eq!(engine.unwrap().len(), 200);
    assert!(!seen.is_empty() && seen.iter().all(|outcome| *outcome == Err("locked")), "{seen:?}");
}

/// A close beside every call: acknowledged writes exist, and later calls return `Closed`.
#[test]
fn a_close_beside_all_calls_ends_and_loses_nothing() {
    for round in 0..20 {
        let dir = tempfile::tempdir().unwrap();
        let config = StoreConfig::at(dir.path().join("kv")).with_commit_queue_depth(1024 * (round % 2));
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
                        let _late = engine.range(..).map(Iterator::count);
                    }
                });
            }
            thread::sleep(Duration::from_millis(2));
            close_at_once(&engine, 2).into_iter().for_each(|outcome| outcome.unwrap());
            writers.into_iter().map(|writer| writer.join().unwrap()).sum()
        });
        assert!(engine.len() <= acknowledged, "a closed store has the lower bound only");
        drop(engine);
        let reopened = SingleNodeEngine::with_config(StoreConfig::at(dir.path().join("kv"))).unwrap();
        assert_eq!(reopened.len(), acknowledged);
    }
}

/// A reader of any store delays the release of memory and maps. A close waits up to 100 ms for it,
/// so that its device can be unmounted then.
#[cfg(target_os = "linux")]
#[test]
fn no_file_of_a_closed_store_stays_mapped() {
    let dir = tempfile::tempdir().unwrap();
    let engine = SingleNodeEngine::with_config(StoreConfig::at(dir.path().join("kv"))).unwrap();
    (0..1000).for_each(|number| assert!(engine.put(format!("{number}"), "value").is_ok()));
    engine.checkpoint().unwrap();
    let is_mapped = || std::fs::read_to_string("/proc/self/maps").unwrap().contains(dir.path().to_str().unwrap());
    assert!(is_mapped());
    let pinned = Barrier::new(2);
    thread::scope(|scope| {
        scope.spawn(|| {
            let guard = hightower_index::pin();
            pinned.wait();
            thread::sleep(Duration::from_millis(20));
            drop(guard);
        });
        pinned.wait();
        engine.close().unwrap();
        drop(engine);
        assert!(!is_mapped());
    });
}

/// Threads that read, sync or copy the store during its close do not keep it locked, and neither do
/// snapshots.
#[test]
fn a_store_can_be_opened_as_soon_as_its_close_has_returned() {
    let dir = tempfile::tempdir().unwrap();
    let mut held = Vec::new();
    for round in 0..150_usize {
        let config = StoreConfig::at(dir.path().join("kv"))
            .with_commit_queue_depth(1024 * (round % 3))
            .with_max_segment_size(16 << 10);
        let engine = SingleNodeEngine::with_config(config).unwrap();
        for number in 0..20 {
            engine.put_with(format!("{number}"), vec![7; 3 << 10], Durability::Os).unwrap();
        }
        held.push((engine.snapshot().unwrap(), engine.range(..).unwrap()));
        if held.len() > 5 {
            held.remove(0);
        }
        let closed = AtomicBool::new(false);
        thread::scope(|scope| {
            for other in 0..4 {
                let (engine, dir, closed) = (&engine, &dir, &closed);
                scope.spawn(move || {
                    while !closed.load(Ordering::SeqCst) {
                        match other {
                            0 => drop(engine.stats()),
                            1 => drop(engine.flush()),
                            2 => drop(engine.backup_to(dir.path().join("copy"))),
                            _ => drop(engine.put_with("key", "value", Durability::Sync)),
                        }
                    }
                });
            }
            thread::sleep(Duration::from_micros(500));
            let outcome = engine.close();
            let again = SingleNodeEngine::open_read_only(dir.path().join("kv"));
            closed.store(true, Ordering::SeqCst);
            outcome.unwrap();
            assert!(!again.unwrap_or_else(|error| panic!("round {round}: {error}")).open_report().was_unclean());
        });
    }
    for (snapshot, mut range) in held {
        assert_eq!(snapshot.get("7").unwrap().map(|value| value.len()), Some(3 << 10));
        assert!(range.next_back().unwrap().unwrap().value().is_ok());
    }
}

/// A store of some mebibytes in small segments, so that a progress callback is called often.
fn with_much(dir: &std::path::Path, components: Components) -> SingleNodeEngine {
    let config = StoreConfig::at(dir).with_max_segment_size(256 << 10).with_compaction_interval(Duration::ZERO);
    let engine = SingleNodeEngine::with_components(config, components).unwrap();
    for number in 0..300_u32 {
        engine.put_with(format!("{number:04}"), vec![7; 16 << 10], Durability::Os).unwrap();
    }
    engine
}

#[test]
fn the_watcher_of_a_backup_may_call_and_close_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let engine = with_much(&dir.path().join("kv"), Components::default());
    engine.delete("0000").unwrap();
    let mut calls = 0;
    let copied = engine.backup_with_progress(dir.path().join("copy"), |_| {
        calls += 1;
        if calls == 1 {
            engine.checkpoint().unwrap();
            engine.run_compaction_now().unwrap();
            engine.backup_to(dir.path().join("other copy")).unwrap();
            assert_eq!(engine.backup_to(dir.path().join("copy")).unwrap_err().code(), "locked");
            // A close from another thread must not wait for the copy either.
            thread::scope(|scope| scope.spawn(|| engine.close()).join().unwrap()).unwrap();
            engine.close().unwrap();
            // An open removes the leftovers of compaction, and the copy continues.
            let again = SingleNodeEngine::with_config(StoreConfig::at(dir.path().join("kv"))).unwrap();
            again.run_compaction_now().unwrap();
        }
        ControlFlow::Continue(())
    });
    let copied = copied.unwrap();
    assert!(calls > 1, "it was asked more than once");
    for copy in ["copy", "other copy"] {
        let copy = dir.path().join(copy);
        let report =
            check(&Components::default(), &copy, CheckLevel::Tables, &mut |_| ControlFlow::Continue(())).unwrap();
        assert!(report.is_whole(), "{report:?}");
        let copy = SingleNodeEngine::open_read_only(&copy).unwrap();
        assert_eq!((copy.len(), copy.get("0299").unwrap().map(|value| value.len())), (299, Some(16 << 10)));
        assert!(copy.latest_seq() >= copied.seq);
    }
}

/// Closes a store, opens it again and changes it.
fn close_and_go_on_anew(engine: &SingleNodeEngine, config: &StoreConfig) {
    engine.close().unwrap();
    let again = SingleNodeEngine::with_config(config.clone()).unwrap();
    again.put("new", "value").unwrap();
    again.run_compaction_now().unwrap();
}

#[test]
fn a_visitor_may_close_the_store_and_keeps_what_it_was_shown() {
    for worker_threads in [0, 1, 3] {
        let dir = tempfile::tempdir().unwrap();
        let config =
            StoreConfig::at(dir.path()).with_commit_queue_depth(1024 * worker_threads).with_max_segment_size(32 << 10);
        let open = || {
            let engine = SingleNodeEngine::with_config(config.clone()).unwrap();
            for number in 0..100 {
                engine.put_with(format!("{number:03}"), [3; 700], Durability::Os).unwrap();
            }
            engine
        };
        let engine = open();
        let visit = |value: &[u8]| {
            close_and_go_on_anew(&engine, &config);
            assert_eq!(value, [3; 700]);
        };
        engine.get_with("007", visit).unwrap().unwrap();

        let engine = open();
        let mut seen = 0;
        let visit = |_: &[u8], value: &[u8]| {
            seen += 1;
            if seen == 3 {
                close_and_go_on_anew(&engine, &config);
            }
            assert!(seen > 100 || value == [3; 700]);
            ControlFlow::Continue(())
        };
        engine.range(..).unwrap().for_each_pair(visit).unwrap();
        assert_eq!(seen, 101);

        let engine = open();
        let commands = (1..4).map(|version| {
            if version == 2 {
                close_and_go_on_anew(&engine, &config);
            }
            Command::Delete { key: b"007".to_vec(), version, timestamp: 0 }
        });
        assert_eq!(engine.submit_batch(commands).unwrap_err().code(), "closed");
    }
}

/// A stream that closes the store that writes to it.
struct Closing<'a>(&'a SingleNodeEngine, Vec<u8>);

impl io::Write for Closing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.close().map_err(io::Error::other)?;
        self.1.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn an_export_goes_on_when_the_store_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let engine = with_much(&dir.path().join("kv"), Components::default());
    let mut stream = Closing(&engine, Vec::new());
    let exported = engine.export_snapshot(&mut stream).unwrap();
    assert_eq!(exported.records, 300);
    import_snapshot(&Components::default(), &mut &stream.1[..], dir.path().join("moved")).unwrap();
    assert_eq!(SingleNodeEngine::open_read_only(dir.path().join("moved")).unwrap().len(), 300);
}

#[test]
fn the_watcher_of_a_copy_or_a_check_gets_an_answer_from_its_store() {
    let dir = tempfile::tempdir().unwrap();
    let kv = dir.path().join("kv");
    drop(with_much(&kv, Components::default()));
    let components = Components::default();
    let mut answers = Vec::new();
    let mut watch = |_| {
        answers.push(SingleNodeEngine::with_config(StoreConfig::at(&kv)).map(drop).map_err(|error| error.code()));
        ControlFlow::Continue(())
    };
    restore_with_progress(&components, &kv, dir.path().join("restored"), &mut watch).unwrap();
    salvage(&components, &kv, dir.path().join("saved"), &mut watch).unwrap();
    check(&components, &kv, CheckLevel::Tables, &mut watch).unwrap();
    assert!(answers.len() > 3 && answers.iter().all(|answer| *answer == Err("locked")), "{answers:?}");
    assert_eq!(SingleNodeEngine::open_read_only(dir.path().join("saved")).unwrap().len(), 300);
}

/// A policy that calls its own store.
#[derive(Debug, Default)]
struct Meddler {
    engine: OnceLock<Weak<SingleNodeEngine>>,
    answers: Mutex<Vec<(Goal, Result<(), &'static str>)>>,
    dir: std::path::PathBuf,
}

impl CompactionPolicy for Meddler {
    fn choose(&self, segments: &[SegmentUsage], goal: Goal, config: &CompactionConfig) -> Vec<u32> {
        let Some(engine) = self.engine.get().and_then(Weak::upgrade) else { return Vec::new() };
        engine.put("from the policy", "value").unwrap();
        assert!(engine.get("from the policy").unwrap().is_some());
        let calls = [
            engine.checkpoint(),
            engine.run_compaction_now().map(drop),
            engine.backup_to(self.dir.join("copy")).map(drop),
            engine.close(),
        ];
        self.answers.lock().unwrap().extend(calls.map(|call| (goal, call.map_err(|error| error.code()))));
        CostBenefit.choose(segments, goal, config)
    }
}

#[test]
fn a_policy_that_calls_the_store_gets_an_error_where_it_would_wait_for_itself() {
    let dir = tempfile::tempdir().unwrap();
    let meddler = Arc::new(Meddler { dir: dir.path().to_owned(), ..Meddler::default() });
    let components = Components::default().with_policy(Arc::clone(&meddler) as Arc<_>);
    let config = StoreConfig::at(dir.path().join("kv")).with_compaction_interval(Duration::from_millis(1));
    let engine = Arc::new(SingleNodeEngine::with_components(config, components).unwrap());
    for number in 0..100 {
        engine.put("key", format!("{number}")).unwrap();
    }
    meddler.engine.set(Arc::downgrade(&engine)).unwrap();
    let has_answered = |goal| meddler.answers.lock().unwrap().iter().any(|(asked, _)| *asked == goal);
    while !has_answered(Goal::Background) {
        thread::sleep(Duration::from_millis(1));
    }
    engine.run_compaction_now().unwrap();
    assert!(has_answered(Goal::Full));
    let answers = std::mem::take(&mut *meddler.answers.lock().unwrap());
    assert!(answers.iter().all(|(_, answer)| *answer == Err("validation")), "{answers:?}");
    // The policy's handle may be the last one: then its thread, a thread of the store, closes the
    // store.
    drop(engine);
    let reopened = (0..10_000).find_map(|_| {
        thread::sleep(Duration::from_millis(1));
        SingleNodeEngine::with_config(StoreConfig::at(dir.path().join("kv"))).ok()
    });
    let reopened = reopened.unwrap();
    assert!(!reopened.open_report().was_unclean());
    assert_eq!(reopened.get("key").unwrap().unwrap(), b"99");
}

/// A policy that holds the last handle of the store on a background thread.
#[derive(Debug, Default)]
struct LastHolder {
    engine: Mutex<Option<Arc<SingleNodeEngine>>>,
    has_dropped: AtomicBool,
}

impl CompactionPolicy for LastHolder {
    fn choose(&self, _: &[SegmentUsage], _: Goal, _: &CompactionConfig) -> Vec<u32> {
        let engine = self.engine.lock().unwrap().take();
        if let Some(engine) = engine {
            drop(engine);
            self.has_dropped.store(true, Ordering::SeqCst);
        }
        Vec::new()
    }
}

#[test]
fn the_last_handle_may_be_dropped_by_a_thread_of_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let policy = Arc::new(LastHolder::default());
    let components = Components::default().with_policy(Arc::clone(&policy) as Arc<_>);
    let config = StoreConfig::at(dir.path()).with_compaction_interval(Duration::from_millis(1));
    let engine = Arc::new(SingleNodeEngine::with_components(config, components).unwrap());
    engine.put_with("key", "value", Durability::Os).unwrap();
    *policy.engine.lock().unwrap() = Some(engine);
    while !policy.has_dropped.load(Ordering::SeqCst) {
        thread::sleep(Duration::from_millis(1));
    }
    let reopened = (0..10_000).find_map(|_| {
        thread::sleep(Duration::from_millis(1));
        SingleNodeEngine::with_config(StoreConfig::at(dir.path())).ok()
    });
    let reopened = reopened.unwrap();
    assert!(!reopened.open_report().was_unclean(), "it was closed, not only left");
    assert_eq!(reopened.get("key").unwrap().unwrap(), b"value");
}

/// Lets the background thread compact everything while an explicit run waits for it, so that
/// nothing is left for the run.
#[derive(Debug, Default)]
struct BackgroundFirst {
    explicit_began: AtomicBool,
    is_armed: AtomicBool,
    background_began: AtomicBool,
}

impl CompactionPolicy for BackgroundFirst {
    fn choose(&self, segments: &[SegmentUsage], goal: Goal, config: &CompactionConfig) -> Vec<u32> {
        if goal == Goal::Full || !self.is_armed.load(Ordering::SeqCst) {
            return Vec::new();
        }
        self.background_began.store(true, Ordering::SeqCst);
        while !self.explicit_began.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(1));
        }
        CostBenefit.choose(segments, Goal::Full, config)
    }
}

impl Clock for BackgroundFirst {
    fn now_ms(&self) -> i64 {
        1_700_000_000_000
    }

    fn elapsed(&self) -> Duration {
        if thread::current().name() == Some("explicit") {
            self.explicit_began.store(true, Ordering::SeqCst);
        }
        Duration::ZERO
    }
}

#[test]
fn an_explicit_run_reports_what_the_background_did_for_it_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let both = Arc::new(BackgroundFirst::default());
    let components =
        Components::default().with_policy(Arc::clone(&both) as Arc<_>).with_clock(Arc::clone(&both) as Arc<_>);
    let config = StoreConfig::at(dir.path())
        .with_compaction_interval(Duration::from_millis(1))
        .with_max_segment_size(16 << 10)
        .with_compaction(CompactionConfig::default().with_order_when_explicit(false));
    let engine = SingleNodeEngine::with_components(config, components).unwrap();
    for number in 0..400 {
        engine.put_with(format!("{}", number % 40), vec![b'v'; 500 + number], Durability::Os).unwrap();
        engine.put_with(format!("kept {number}"), "value", Durability::Os).unwrap();
    }
    engine.flush().unwrap();
    both.is_armed.store(true, Ordering::SeqCst);
    while !both.background_began.load(Ordering::SeqCst) {
        thread::sleep(Duration::from_millis(1));
    }
    let report = thread::scope(|scope| {
        let explicit = || engine.run_compaction_now().unwrap();
        thread::Builder::new().name("explicit".into()).spawn_scoped(scope, explicit).unwrap().join().unwrap()
    });
    assert!(report.runs > 0 && report.moved_records > 0 && report.freed_bytes > 0, "{report:?}");
}

//! Panics of a caller's code: the store is unchanged, the panic is counted and shown, and all other
//! calls continue.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod common;

use std::io;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use hightower_engine::{
    CheckLevel, Clock, CompactionConfig, CompactionPolicy, Components, CostBenefit, Durability, Goal, SegmentUsage,
    SingleNodeEngine, StoreConfig, check,
};
use hightower_segment::Entropy;

/// A policy, a clock and a source of randomness that panic while a flag is set.
#[derive(Debug, Default)]
struct Unreliable {
    panics: AtomicBool,
}

impl Unreliable {
    fn may_panic(&self) {
        assert!(!self.panics.load(Ordering::SeqCst), "as it was told");
    }
}

impl CompactionPolicy for Unreliable {
    fn choose(&self, segments: &[SegmentUsage], _: Goal, config: &CompactionConfig) -> Vec<u32> {
        self.may_panic();
        CostBenefit.choose(segments, Goal::Full, config)
    }
}

impl Clock for Unreliable {
    fn now_ms(&self) -> i64 {
        self.may_panic();
        1_700_000_000_000
    }

    fn elapsed(&self) -> Duration {
        self.may_panic();
        Duration::from_secs(1)
    }
}

impl Entropy for Unreliable {
    fn fill(&self, out: &mut [u8]) -> io::Result<()> {
        self.may_panic();
        out.fill(7);
        Ok(())
    }
}

/// Waits in many short steps, so that a suspended machine does not end the wait.
fn wait_for(what: &str, is_there: impl Fn() -> bool) {
    for _ in 0..20_000 {
        if is_there() {
            return;
        }
        thread::sleep(Duration::from_millis(1));
    }
    panic!("{what}");
}

/// Half of the records are overwritten.
fn fill(engine: &SingleNodeEngine) {
    for number in 0..400 {
        engine.put_with(format!("{}", number % 40), vec![b'v'; 500 + number], Durability::Os).unwrap();
        engine.put_with(format!("kept {number}"), "value", Durability::Os).unwrap();
    }
}

fn small(dir: &tempfile::TempDir) -> StoreConfig {
    StoreConfig::at(dir.path().join("kv")).with_max_segment_size(16 << 10)
}

#[test]
fn a_policy_that_panics_fails_its_run_and_the_background_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let policy = Arc::new(Unreliable::default());
    policy.panics.store(true, Ordering::SeqCst);
    let components = Components::default().with_policy(Arc::clone(&policy) as Arc<_>);
    let config = small(&dir).with_compaction_interval(Duration::from_millis(1));
    let engine = SingleNodeEngine::with_components(config, components).unwrap();
    fill(&engine);
    wait_for("the panic is not shown", || engine.stats().compaction.failures > 0);
    let failure = engine.stats().compaction.last_failure.unwrap();
    assert!(failure.contains("the compaction policy panicked: as it was told"), "{failure}");
    let error = engine.run_compaction_now().unwrap_err();
    assert_eq!((error.code(), engine.len()), ("panicked", 440), "{error}");
    assert!(engine.stats().caught_panics >= 2 && engine.stats().poisoned.is_none());

    policy.panics.store(false, Ordering::SeqCst);
    fill(&engine);
    wait_for("the background has given up", || engine.stats().compaction.runs > 0);
    engine.run_compaction_now().unwrap();
    engine.close().unwrap();
}

#[test]
fn a_clock_that_panics_stands_still_and_leaves_no_writer_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(Unreliable::default());
    let components = Components::default().with_clock(Arc::clone(&clock) as Arc<_>);
    let engine = SingleNodeEngine::with_components(small(&dir), components).unwrap();
    engine.put("first", "value").unwrap();
    clock.panics.store(true, Ordering::SeqCst);
    thread::scope(|scope| {
        for writer in 0..4 {
            let engine = &engine;
            scope.spawn(move || {
                for number in 0..10 {
                    engine.put_with(format!("{writer}/{number}"), "value", Durability::Sync).unwrap();
                }
            });
        }
    });
    engine.run_compaction_now().unwrap();
    engine.checkpoint().unwrap();
    let stats = engine.stats();
    assert!(stats.caught_panics > 0 && stats.poisoned.is_none(), "{stats:?}");
    assert_eq!(stats.last_panic.as_deref(), Some("the clock panicked: as it was told"));
    engine.close().unwrap();
    drop(engine);
    assert_eq!(SingleNodeEngine::with_config(small(&dir)).unwrap().len(), 41);
}

#[test]
fn a_source_of_randomness_that_panics_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let entropy = Arc::new(Unreliable::default());
    let components = Components::default().with_entropy(Arc::clone(&entropy) as Arc<_>);
    entropy.panics.store(true, Ordering::SeqCst);
    let refused = SingleNodeEngine::with_components(small(&dir), components.clone()).unwrap_err();
    assert!(refused.to_string().contains("the source of randomness panicked"), "{refused}");
    entropy.panics.store(false, Ordering::SeqCst);
    let engine = SingleNodeEngine::with_components(small(&dir), components).unwrap();
    engine.put("key", "value").unwrap();
    entropy.panics.store(true, Ordering::SeqCst);
    assert_eq!(engine.checkpoint().unwrap_err().code(), "io");
    assert_eq!(engine.export_snapshot(&mut Vec::new()).unwrap_err().code(), "io");
    assert_eq!(engine.get("key").unwrap().unwrap(), b"value");
    assert!(engine.stats().caught_panics >= 2, "the thread that makes segments may have asked as well");
}

fn panics<R>(call: impl FnOnce() -> R) {
    assert!(catch_unwind(AssertUnwindSafe(call)).is_err(), "the panic is the caller's own, and reaches it");
}

/// A stream that accepts some bytes, and then panics.
struct Breaking(usize);

impl io::Write for Breaking {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.checked_sub(bytes.len()).unwrap();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_range_whose_visitor_panics_still_gives_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let engine = SingleNodeEngine::with_config(small(&dir)).unwrap();
    for number in 0..1000 {
        engine.put_with(format!("{number:03}"), "value", Durability::Os).unwrap();
    }
    for (begun, at) in [(0, 0), (0, 300), (3, 7), (70, 700)] {
        let mut range = engine.range(..).unwrap();
        assert_eq!(range.by_ref().take(begun).count(), begun);
        let mut seen = begun;
        panics(|| {
            range.for_each_pair(|_, _| {
                seen += 1;
                assert!(seen <= begun + at, "here");
                ControlFlow::Continue(())
            })
        });
        let rest: Vec<_> = range.map(|entry| entry.unwrap().key().to_vec()).collect();
        assert_eq!(rest.first().map(Vec::as_slice), Some(format!("{seen:03}").as_bytes()));
        assert_eq!(rest.len(), 1000 - seen, "what the visitor was shown has been visited");
    }
}

#[test]
fn callbacks_that_panic_leave_the_store_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let config = small(&dir).with_max_segment_size(256 << 10);
    let engine = SingleNodeEngine::with_config(config.clone()).unwrap();
    for number in 0..100_u32 {
        engine.put_with(format!("{number:03}"), vec![7; 32 << 10], Durability::Os).unwrap();
    }
    let copy = dir.path().join("copy");
    panics(|| engine.get_with("000", |_| panic!("here")));
    panics(|| engine.read_with(|_| panic!("here")));
    panics(|| engine.backup_with_progress(&copy, |_| panic!("here")));
    panics(|| engine.export_snapshot(&mut Breaking(1 << 20)));
    panics(|| engine.submit_batch(std::iter::from_fn(|| panic!("here"))));
    assert_eq!((engine.len(), engine.stats().caught_panics), (100, 0), "they were not the store's to catch");
    engine.put_with("100", "value", Durability::Sync).unwrap();
    engine.checkpoint().unwrap();
    engine.run_compaction_now().unwrap();
    engine.backup_to(&copy).unwrap();
    engine.close().unwrap();
    drop(engine);
    panics(|| SingleNodeEngine::open_with_progress(config.clone(), Components::default(), |_| panic!("here")));
    panics(|| check(&Components::default(), &copy, CheckLevel::Tables, &mut |_| panic!("here")));
    let engine = SingleNodeEngine::with_config(config).unwrap();
    assert!(!engine.open_report().was_unclean());
    assert_eq!((engine.len(), SingleNodeEngine::open_read_only(&copy).unwrap().len()), (101, 101));
}

/// Runs its closure when dropped.
struct Last<F: FnMut()>(F);

impl<F: FnMut()> Drop for Last<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

#[test]
fn a_destructor_that_uses_a_store_while_its_thread_panics_does_no_harm() {
    let dir = tempfile::tempdir().unwrap();
    let engine = SingleNodeEngine::with_config(small(&dir)).unwrap();
    let other = StoreConfig::at(dir.path().join("other")).with_max_segment_size(16 << 10);
    fill(&SingleNodeEngine::with_config(other.clone()).unwrap());
    let mut outcomes = Vec::new();
    panics(|| {
        let _last = Last(|| {
            outcomes.push(engine.put_with("a", "1", Durability::Sync).map(drop));
            outcomes.push(engine.flush());
            outcomes.push(engine.checkpoint());
            outcomes.push(engine.run_compaction_now().map(drop));
            outcomes.push(engine.backup_to(dir.path().join("copy")).map(drop));
            outcomes.push(SingleNodeEngine::with_config(other.clone()).map(|other| assert_eq!(other.len(), 440)));
        });
        panic!("here")
    });
    assert_eq!(outcomes.len(), 6);
    outcomes.into_iter().for_each(|outcome| outcome.unwrap());
    assert_eq!(engine.stats().poisoned, None);
    engine.put_with("b", "2", Durability::Sync).unwrap();
    engine.close().unwrap();
}

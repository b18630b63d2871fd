//! The measurements that an application receives with the features `metrics` and `tracing`.
#![cfg(all(feature = "metrics", feature = "tracing"))]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use hightower_engine::{Batch, Command, Durability, SingleNodeEngine, StoreConfig};
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

/// Records the names of entered spans.
#[derive(Clone, Default)]
struct Names(Arc<Mutex<Vec<&'static str>>>);

impl<S: tracing::Subscriber> Layer<S> for Names {
    fn on_new_span(&self, span: &tracing::span::Attributes<'_>, _: &tracing::span::Id, _: Context<'_, S>) {
        if span.metadata().target() == "hightower" {
            self.0.lock().unwrap().push(span.metadata().name());
        }
    }
}

/// Metrics by name and labels, with the number of records since the last call.
fn counts(snapshotter: &Snapshotter) -> BTreeMap<(String, String), u64> {
    let mut counts = BTreeMap::new();
    for (key, _, _, value) in snapshotter.snapshot().into_vec() {
        let labels: Vec<_> = key.key().labels().map(|label| label.value().to_owned()).collect();
        let count = match value {
            DebugValue::Counter(count) => count,
            DebugValue::Histogram(times) => times.len() as u64,
            DebugValue::Gauge(_) => panic!("no gauge was promised"),
        };
        counts.insert((key.key().name().to_owned(), labels.join(" ")), count);
    }
    counts
}

/// With and without a queue: the commit thread uses the recorder of the process, the caller its
/// own.
#[test]
fn writes_without_waiting_are_counted_as_the_others() {
    let global = DebuggingRecorder::new();
    let of_thread = global.snapshotter();
    global.install().unwrap();
    for depth in [0, 8] {
        let local = DebuggingRecorder::new();
        let of_caller = local.snapshotter();
        let dir = tempfile::tempdir().unwrap();
        metrics::with_local_recorder(&local, || {
            let engine = SingleNodeEngine::builder(dir.path()).commit_queue_depth(depth).open().unwrap();
            engine.submit_async(Command::set("a", "1", 1)).unwrap().wait().unwrap();
            engine.commit_async(Batch::from_iter([("b", "2")])).unwrap().wait().unwrap().committed().unwrap();
            engine.commit_async(Batch::new().put("", "no key")).unwrap().wait().unwrap_err();
            engine.put("c", "3").unwrap();
            engine.close().unwrap();
            engine.commit_async(Batch::from_iter([("d", "4")])).unwrap_err();
        });
        let mut counts = counts(&of_caller);
        for (key, count) in self::counts(&of_thread) {
            *counts.entry(key).or_default() += count;
        }
        let count = |name: &str, labels: &str| counts.get(&(name.to_owned(), labels.to_owned())).copied().unwrap_or(0);
        let operations = ["submit", "batch", "put"].map(|name| count("hightower_operation_seconds", name));
        assert_eq!(operations, [1, 3, 1], "a queue of {depth}: {counts:?}");
        let failures = ["batch validation", "batch closed"].map(|labels| count("hightower_failures_total", labels));
        assert_eq!(failures, [1, 1], "a queue of {depth}: {counts:?}");
    }
}

#[test]
fn operations_are_counted_timed_and_spanned() {
    let names = Names::default();
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let dir = tempfile::tempdir().unwrap();
    let subscriber = tracing_subscriber::registry().with(names.clone());
    tracing::subscriber::with_default(subscriber, || {
        metrics::with_local_recorder(&recorder, || {
            let engine = SingleNodeEngine::with_config(StoreConfig::at(dir.path())).unwrap();
            engine.put_with("a", "1", Durability::Sync).unwrap();
            engine.put("b", "2").unwrap();
            assert!(engine.get("a").unwrap().is_some());
            engine.delete("a").unwrap();
            engine.put("", "no key").unwrap_err();
            engine.close().unwrap();
        });
    });

    let counts = counts(&snapshotter);
    let count = |name: &str, labels: &str| counts.get(&(name.to_owned(), labels.to_owned())).copied().unwrap_or(0);
    assert_eq!(count("hightower_operation_seconds", "put"), 3, "{counts:?}");
    assert_eq!(count("hightower_operation_seconds", "get"), 1);
    assert_eq!(count("hightower_operation_seconds", "delete"), 1);
    assert_eq!(count("hightower_operation_seconds", "open"), 1);
    assert!(count("hightower_operation_seconds", "sync") >= 1);
    assert_eq!(count("hightower_failures_total", "put validation"), 1, "{counts:?}");

    let names = names.0.lock().unwrap().clone();
    for wanted in ["open", "put", "sync", "get", "delete", "close"] {
        assert!(names.contains(&wanted), "no span {wanted} in {names:?}");
    }
}

/// A recorder and a subscriber that panic in every call.
struct Broken;

impl metrics::Recorder for Broken {
    fn describe_counter(&self, _: metrics::KeyName, _: Option<metrics::Unit>, _: metrics::SharedString) {}

    fn describe_gauge(&self, _: metrics::KeyName, _: Option<metrics::Unit>, _: metrics::SharedString) {}

    fn describe_histogram(&self, _: metrics::KeyName, _: Option<metrics::Unit>, _: metrics::SharedString) {}

    fn register_counter(&self, _: &metrics::Key, _: &metrics::Metadata<'_>) -> metrics::Counter {
        panic!("a broken recorder")
    }

    fn register_gauge(&self, _: &metrics::Key, _: &metrics::Metadata<'_>) -> metrics::Gauge {
        panic!("a broken recorder")
    }

    fn register_histogram(&self, _: &metrics::Key, _: &metrics::Metadata<'_>) -> metrics::Histogram {
        panic!("a broken recorder")
    }
}

impl<S: tracing::Subscriber> Layer<S> for Broken {
    fn on_exit(&self, _: &tracing::span::Id, _: Context<'_, S>) {
        panic!("a broken subscriber")
    }
}

#[test]
fn instruments_that_panic_are_noted_and_the_work_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let subscriber = tracing_subscriber::registry().with(Broken);
    tracing::subscriber::with_default(subscriber, || {
        metrics::with_local_recorder(&Broken, || {
            let engine = SingleNodeEngine::with_config(StoreConfig::at(dir.path())).unwrap();
            for number in 0..10 {
                engine.put_with(format!("{number}"), "value", Durability::Sync).unwrap();
            }
            assert_eq!(engine.get("3").unwrap().unwrap(), b"value");
            engine.put("", "no key").unwrap_err();
            let stats = engine.stats();
            assert!(stats.caught_panics >= 20 && stats.poisoned.is_none(), "{stats:?}");
            assert!(stats.last_panic.is_some());
            engine.close().unwrap();
        });
    });
    assert_eq!(SingleNodeEngine::with_config(StoreConfig::at(dir.path())).unwrap().len(), 10);
}

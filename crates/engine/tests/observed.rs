//! What the instruments of an application hear: with the features `metrics` and `tracing`.
#![cfg(all(feature = "metrics", feature = "tracing"))]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use hightower_engine::{Durability, SingleNodeEngine, StoreConfig};
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

/// Keeps the names of the spans that were entered.
#[derive(Clone, Default)]
struct Names(Arc<Mutex<Vec<&'static str>>>);

impl<S: tracing::Subscriber> Layer<S> for Names {
    fn on_new_span(&self, span: &tracing::span::Attributes<'_>, _: &tracing::span::Id, _: Context<'_, S>) {
        if span.metadata().target() == "hightower" {
            self.0.lock().unwrap().push(span.metadata().name());
        }
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
    let count = |name: &str, labels: &str| counts.get(&(name.to_owned(), labels.to_owned())).copied().unwrap_or(0);
    assert_eq!(count("hightower_operation_seconds", "put"), 3, "{counts:?}");
    assert_eq!(count("hightower_operation_seconds", "get"), 1);
    assert_eq!(count("hightower_operation_seconds", "delete"), 1);
    assert_eq!(count("hightower_operation_seconds", "open"), 1);
    assert!(count("hightower_operation_seconds", "sync") >= 1);
    assert_eq!(count("hightower_failures_total", "put Validation"), 1, "{counts:?}");

    let names = names.0.lock().unwrap().clone();
    for wanted in ["open", "put", "sync", "get", "delete", "close"] {
        assert!(names.contains(&wanted), "no span {wanted} in {names:?}");
    }
}

/// A recorder and a subscriber that panic at everything.
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

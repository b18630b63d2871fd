//! Counters and merge operators: no update is lost or repeated, whatever else goes on, and a merge
//! that fails changes nothing.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::thread;

use hightower_engine::{
    Batch, ChangeKind, Components, Durability, Error, Expect, Keyspace, KeyspaceOptions, KvReader, KvWriter,
    MergeOperator, MergeOutcome, SharedKeyspace, SingleNodeEngine, StoreBuilder,
};
use tempfile::TempDir;

fn builder(dir: &TempDir) -> StoreBuilder {
    SingleNodeEngine::builder(dir.path()).durability(Durability::Os)
}

/// The operators of these tests.
#[derive(Debug)]
enum Test {
    /// Appends the operand.
    Append,
    /// Panics, refuses, or deletes, as the operand says.
    Obey,
}

impl MergeOperator for Test {
    fn merge(&self, key: &[u8], existing: Option<&[u8]>, operand: &[u8]) -> Result<MergeOutcome, String> {
        match (self, operand) {
            (Self::Append, _) => Ok(MergeOutcome::Put([existing.unwrap_or_default(), operand].concat())),
            (_, b"panic") => panic!("as it was told"),
            (_, b"refuse") => Err(format!("{} is not to be changed", key.escape_ascii())),
            (_, b"grow") => Ok(MergeOutcome::Put(vec![0; (1 << 30) + 1])),
            (_, b"keep") => Ok(MergeOutcome::Keep),
            _ => Ok(MergeOutcome::Delete),
        }
    }
}

fn components() -> Components {
    Components::default()
        .with_merge_operator("append", Arc::new(Test::Append))
        .with_merge_operator("obey", Arc::new(Test::Obey))
}

#[test]
fn counters_count() {
    let dir = TempDir::new().unwrap();
    let engine = builder(&dir).open().unwrap();
    assert_eq!(engine.add("a", 5).unwrap(), 5);
    assert_eq!(engine.add("a", -7).unwrap(), -2);
    engine.delete("a").unwrap();
    assert_eq!(engine.add("a", 1).unwrap(), 1, "a deleted key is 0");
    assert_eq!(engine.add("a", i64::MAX - 1).unwrap(), i64::MAX);
    let written = engine.latest_seq();
    let Err(Error::CounterOverflow { key, value, added }) = engine.add("a", 1) else { panic!("an overflow") };
    assert_eq!((&key[..], value, added), (&b"a"[..], i64::MAX, 1));
    assert_eq!(engine.add("b", i64::MIN).unwrap(), i64::MIN);
    assert_eq!(engine.add("b", -1).unwrap_err().code(), "counter_overflow");
    for no_counter in ["", "x", "1.5", " 1", "9223372036854775808", "\u{661}"] {
        engine.put("c", no_counter).unwrap();
        assert!(matches!(engine.add("c", 1), Err(Error::NotACounter { key }) if key == b"c"), "{no_counter}");
        assert_eq!(engine.get("c").unwrap().unwrap(), no_counter);
    }
    assert_eq!(engine.latest_seq(), written + 1 + 6, "refused additions write nothing");
    assert_eq!(engine.add("", 1).unwrap_err().code(), "validation");
    engine.close().unwrap();
    let engine = builder(&dir).open().unwrap();
    assert_eq!(engine.get("a").unwrap().unwrap(), i64::MAX.to_string(), "what was logged is the sum");
    assert_eq!(engine.add("a", -1).unwrap(), i64::MAX - 1);
}

#[test]
fn merges_of_a_batch_see_each_other_and_fail_together() {
    let dir = TempDir::new().unwrap();
    for depth in [0, 64] {
        let engine = builder(&dir).components(components()).commit_queue_depth(depth).open().unwrap();
        let mut batch = Batch::new();
        batch.add("n", 1).put("n", "10").add("n", 1).add("n", 2).delete("n").add("n", 4).merge("n", "obey", "delete");
        batch.merge("text", "append", "a").merge("text", "append", "b").merge("gone", "obey", "delete");
        batch.merge("text", "obey", "keep");
        engine.delete("text").unwrap();
        let before = engine.latest_seq();
        let committed = engine.commit(&batch).unwrap().committed().unwrap();
        assert_eq!(committed.seq, before + 1);
        let text = |value: &Option<_>| value.as_ref().map(|value: &hightower_engine::Value| value.to_vec());
        let merged: Vec<_> = committed.merged.iter().map(text).collect();
        let expected = [Some("1"), Some("11"), Some("13"), Some("4"), None, Some("a"), Some("ab"), None, Some("ab")];
        assert_eq!(merged, expected.map(|value| value.map(|value| value.as_bytes().to_vec())));
        assert_eq!(committed.outcomes.iter().filter(|outcome| !outcome.changed()).count(), 2, "gone, and the kept one");
        assert_eq!(engine.get("n").unwrap(), None);
        assert_eq!(engine.get("text").unwrap().unwrap(), "ab");

        let mut refused = Batch::new();
        refused.put("x", "1").add("y", 1).add("x", i64::MAX);
        assert_eq!(engine.commit(&refused).unwrap_err().code(), "counter_overflow");
        assert_eq!((engine.get("x").unwrap(), engine.get("y").unwrap()), (None, None));
        refused.clear();
        refused.add("y", 1).require("x", Expect::Present);
        assert!(!engine.commit(&refused).unwrap().is_committed());
        assert_eq!(engine.get("y").unwrap(), None);
        assert_eq!(engine.latest_seq(), committed.seq);
        let names: Vec<_> = batch.changes().map(|change| change.merge.unwrap_or("-").to_owned()).collect();
        let expected = ["add", "-", "add", "add", "-", "add", "obey", "append", "append", "obey", "obey"];
        assert_eq!(names, expected);
        engine.close().unwrap();
    }
}

#[test]
fn all_handles_merge() {
    let dir = TempDir::new().unwrap();
    let engine = Arc::new(builder(&dir).components(components()).open().unwrap());
    let named = engine.create_keyspace("named", KeyspaceOptions::default()).unwrap();
    assert_eq!(named.add("n", 2).unwrap(), 2);
    assert_eq!(named.merge("t", "append", "x").unwrap().unwrap(), "x");
    let mut batch = Batch::new();
    batch.add("n", 3).add_in(&named, "n", 5).merge_in(&named, "t", "append", "y");
    assert!(engine.commit(&batch).unwrap().is_committed());
    assert_eq!(named.commit(Batch::new().add("n", 1).put("p", "q")).unwrap().committed().unwrap().merged.len(), 1);
    assert_eq!((engine.get("n").unwrap().unwrap(), named.get("n").unwrap().unwrap()), ("3".into(), "8".into()));
    let writer: Arc<dyn KvWriter> = Arc::new(SharedKeyspace::of(&engine, "named").unwrap());
    assert_eq!(writer.add(b"n", 1).unwrap(), 9);
    assert_eq!(writer.merge(b"t", "append", b"z").unwrap().unwrap(), "xyz");
    assert_eq!(KvReader::get(&*writer, b"t").unwrap().unwrap(), "xyz");

    let mut transaction = engine.transaction().unwrap();
    assert_eq!(transaction.add("n", 1).unwrap(), 4);
    assert_eq!(transaction.add("n", 1).unwrap(), 5, "it sees its own");
    assert_eq!(transaction.add_in(&named, "n", 1).unwrap(), 10);
    assert_eq!(transaction.merge("t", "append", "v").unwrap().unwrap(), "v");
    assert_eq!(transaction.merge_in(&named, "t", "obey", "delete").unwrap(), None);
    assert_eq!(transaction.merge("t", "obey", "refuse").unwrap_err().code(), "merge_refused");
    engine.add("n", 10).unwrap();
    assert_eq!(transaction.commit().unwrap_err().code(), "transaction_conflict", "it has read the counter");
    assert_eq!(engine.update(|transaction| transaction.add("n", 1)).unwrap(), 14);

    assert_eq!(engine.merge("n", "unknown", "1").unwrap_err().code(), "validation");
    let dropped = Keyspace::of(&engine, "named").unwrap();
    engine.drop_keyspace("named").unwrap();
    assert_eq!(dropped.add("n", 1).unwrap_err().code(), "keyspace_dropped");
}

/// Threads count, beside compactions and flushes that change the levels. Each sum is returned once.
fn count(engine: &SingleNodeEngine, threads: usize, additions: usize) {
    let sums = Mutex::new(BTreeSet::new());
    thread::scope(|scope| {
        for number in 0..threads {
            let sums = &sums;
            scope.spawn(move || {
                let mut mine = Vec::new();
                for at in 0..additions {
                    if at % 3 == 0 {
                        let mut batch = Batch::new();
                        batch.put(format!("other/{number}/{at}"), vec![0; 200]).add("hot", 1);
                        let committed = engine.commit(&batch).unwrap().committed().unwrap();
                        mine.push(committed.merged[0].as_ref().unwrap().as_str().unwrap().parse().unwrap());
                    } else {
                        mine.push(engine.add("hot", 1).unwrap());
                    }
                    engine.merge("all", "append", [u8::try_from(number).unwrap()]).unwrap();
                }
                assert!(mine.is_sorted(), "of one thread they rise");
                sums.lock().unwrap().extend(mine);
            });
        }
        scope.spawn(|| {
            for _ in 0..5 {
                engine.checkpoint().unwrap();
                engine.run_compaction_now().unwrap();
            }
        });
    });
    let all = i64::try_from(threads * additions).unwrap();
    assert!(sums.into_inner().unwrap().into_iter().eq(1..=all), "each sum once");
    let appended = engine.get("all").unwrap().unwrap();
    for number in 0..threads {
        let count = appended.iter().filter(|byte| usize::from(**byte) == number).count();
        assert_eq!(count, additions, "what thread {number} has appended");
    }
}

#[test]
fn no_thread_loses_an_update() {
    for depth in [0, 256] {
        let dir = TempDir::new().unwrap();
        let memory = 256 << 10;
        let builder = builder(&dir).components(components()).commit_queue_depth(depth).index_memory_bytes(memory);
        let engine = builder.max_segment_size(256 << 10).open().unwrap();
        count(&engine, 4, 200);
        engine.close().unwrap();
        let engine = SingleNodeEngine::open(dir.path()).unwrap();
        assert_eq!(engine.get("hot").unwrap().unwrap(), "800");
    }
}

#[test]
fn queued_additions_are_added_in_order() {
    let dir = TempDir::new().unwrap();
    let engine = builder(&dir).components(components()).commit_queue_depth(1024).open().unwrap();
    let mut tickets = Vec::new();
    for number in 0..500 {
        let mut batch = Batch::new();
        batch.add("n", 1).merge("t", "append", [b'a' + u8::try_from(number % 26).unwrap()]);
        tickets.push(engine.commit_async(batch).unwrap());
    }
    for (number, ticket) in (1..).zip(tickets) {
        let committed = ticket.wait().unwrap().committed().unwrap();
        assert_eq!(committed.merged[0].as_ref().unwrap(), &number.to_string());
        assert_eq!(committed.merged[1].as_ref().unwrap().len(), number);
    }
    let text = engine.get("t").unwrap().unwrap();
    assert!(text.iter().zip((b'a'..=b'z').cycle()).all(|(found, expected)| *found == expected));
}

#[test]
fn values_in_tables_are_merged() {
    let dir = TempDir::new().unwrap();
    let engine = builder(&dir).components(components()).open().unwrap();
    let key = |number: i64| format!("counters/{number:04}");
    for round in 1..=3_i64 {
        for number in 0..300 {
            assert_eq!(engine.add(key(number), number).unwrap(), number * round);
        }
        engine.checkpoint().unwrap();
    }
    let mut batch = Batch::new();
    (0..300).for_each(|number| {
        batch.add(key(number), number).merge(key(number), "append", "0");
    });
    engine.commit(&batch).unwrap().committed().unwrap();
    for number in 1..300 {
        assert_eq!(engine.get(key(number)).unwrap().unwrap(), format!("{}0", number * 4));
    }
}

#[test]
fn a_panic_or_a_refusal_changes_nothing() {
    let dir = TempDir::new().unwrap();
    let engine = builder(&dir).components(components()).open().unwrap();
    engine.put("k", "v").unwrap();
    let written = engine.latest_seq();
    let failed = engine.merge("k", "obey", "panic").unwrap_err();
    assert_eq!(failed.to_string(), "a merge operator panicked: as it was told");
    let mut batch = Batch::new();
    batch.put("x", "y").merge("k", "obey", "panic");
    assert_eq!(engine.commit(&batch).unwrap_err().code(), "panicked");
    let stats = engine.stats();
    assert!(stats.caught_panics >= 2, "{}", stats.caught_panics);
    assert_eq!(stats.last_panic.unwrap(), "a merge operator panicked: as it was told");
    let refused = engine.merge("k", "obey", "refuse").unwrap_err();
    assert_eq!(refused.to_string(), "the merge operator obey has refused: k is not to be changed");
    assert_eq!(engine.merge("k", "obey", "grow").unwrap_err().code(), "limit_exceeded");
    assert_eq!(engine.merge("k", "obey", "keep").unwrap().unwrap(), "v");
    assert_eq!(engine.latest_seq(), written, "nothing was written");
    assert_eq!(engine.merge("k", "append", "w").unwrap().unwrap(), "vw");
    assert_eq!(engine.get("x").unwrap(), None);
}

/// Changes its key by another thread during each of its first calls; then panics, if it is told.
#[derive(Debug, Default)]
struct Overtaken {
    engine: OnceLock<Weak<SingleNodeEngine>>,
    calls: AtomicU64,
}

impl MergeOperator for Overtaken {
    fn merge(&self, key: &[u8], existing: Option<&[u8]>, operand: &[u8]) -> Result<MergeOutcome, String> {
        let call = self.calls.fetch_add(1, Ordering::SeqCst);
        if call < 4 {
            let engine = self.engine.get().unwrap().upgrade().unwrap();
            let key = key.to_vec();
            thread::spawn(move || engine.put(key, call.to_string())).join().unwrap().unwrap();
        } else if operand == b"panic" {
            panic!("under the lock");
        }
        Ok(MergeOutcome::Put([existing.unwrap_or_default(), operand].concat()))
    }
}

#[test]
fn an_operator_that_is_always_overtaken_runs_under_the_lock_at_last() {
    for (operand, is_ok) in [("!", true), ("panic", false)] {
        let dir = TempDir::new().unwrap();
        let operator = Arc::new(Overtaken::default());
        let components =
            Components::default().with_merge_operator("overtaken", Arc::clone(&operator) as Arc<dyn MergeOperator>);
        let engine = Arc::new(builder(&dir).components(components).open().unwrap());
        operator.engine.set(Arc::downgrade(&engine)).unwrap();
        let merged = engine.merge("k", "overtaken", operand);
        assert_eq!(operator.calls.load(Ordering::SeqCst), 5, "four times without the lock, once under it");
        let value = engine.get("k").unwrap().unwrap();
        if is_ok {
            assert_eq!((merged.unwrap().unwrap(), value), ("3!".into(), "3!".into()));
        } else {
            assert_eq!((merged.unwrap_err().code(), value), ("panicked", "3".into()));
        }
        assert_eq!(engine.merge("k", "overtaken", "?").unwrap().unwrap().last(), Some(&b'?'), "later writers go on");
        assert_eq!(engine.stats().caught_panics, u64::from(!is_ok));
    }
}

/// Writes to its store.
#[derive(Debug, Default)]
struct Writing(OnceLock<Weak<SingleNodeEngine>>);

impl MergeOperator for Writing {
    fn merge(&self, _: &[u8], _: Option<&[u8]>, _: &[u8]) -> Result<MergeOutcome, String> {
        let engine = self.0.get().unwrap().upgrade().unwrap();
        engine.put("other", "").map(|_| MergeOutcome::Keep).map_err(|refused| refused.code().to_owned())
    }
}

#[test]
fn an_operator_does_not_write() {
    let dir = TempDir::new().unwrap();
    let operator = Arc::new(Writing::default());
    let components =
        Components::default().with_merge_operator("writing", Arc::clone(&operator) as Arc<dyn MergeOperator>);
    let engine = Arc::new(builder(&dir).components(components).open().unwrap());
    operator.0.set(Arc::downgrade(&engine)).unwrap();
    let Err(Error::MergeRefused { reason, .. }) = engine.merge("k", "writing", "") else { panic!("it has written") };
    assert_eq!((&*reason, engine.get("other").unwrap()), ("validation", None));
    engine.put("k", "v").unwrap();
}

#[test]
fn a_merge_is_logged_as_a_set_or_a_delete() {
    let dir = TempDir::new().unwrap();
    let engine = builder(&dir).components(components()).open().unwrap();
    let mut feed = engine.watch(.., 0).unwrap();
    engine.add("n", 1).unwrap();
    engine.add_with("n", 1, Durability::Sync).unwrap();
    engine.merge("n", "obey", "keep").unwrap();
    engine.merge("n", "obey", "delete").unwrap();
    engine.merge("n", "obey", "delete").unwrap();
    let mut seen = Vec::new();
    while let Some(commit) = feed.try_next().unwrap() {
        for change in commit.changes() {
            seen.push((change.kind(), change.value().unwrap().map(|value| value.to_vec())));
        }
    }
    let set = |value: &str| (ChangeKind::Set, Some(value.as_bytes().to_vec()));
    assert_eq!(seen, [set("1"), set("2"), (ChangeKind::Delete, None)]);
}

#[test]
fn a_full_store_refuses_additions() {
    let dir = TempDir::new().unwrap();
    let engine = builder(&dir).max_segment_size(64 << 10).max_disk_bytes(1 << 20).open().unwrap();
    engine.add("n", 41).unwrap();
    let full = (0..10_000).find_map(|number| engine.put(format!("fill/{number}"), [0; 1000]).err());
    assert_eq!(full.unwrap().code(), "full");
    let failure = (0..10_000).find_map(|_| engine.add("n", 0).err());
    assert_eq!(failure.unwrap().code(), "full");
    assert_eq!(engine.get("n").unwrap().unwrap(), "41");
    engine.delete_prefix("fill/").unwrap();
    engine.run_compaction_now().unwrap();
    assert_eq!(engine.add("n", 1).unwrap(), 42);
}

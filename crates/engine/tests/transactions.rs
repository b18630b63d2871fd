//! Transactions, one rule at a time. `serializability` checks them all together.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "a test that cannot go on ends here, and says what it saw"
)]

use std::ops::Bound;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use hightower_engine::{
    Batch, Command, CompactionConfig, Conflict, Durability, Error, Expect, KvReader, Result, SingleNodeEngine,
    StoreConfig, Transaction, limits,
};
use tempfile::TempDir;

fn config(dir: &TempDir) -> StoreConfig {
    StoreConfig::at(dir.path())
        .with_max_segment_size(64 << 10)
        .with_compaction_interval(Duration::ZERO)
        .with_compaction(CompactionConfig::default().with_tombstone_grace(Duration::ZERO))
}

/// A store with a value "1" for each of the keys.
fn store(keys: &[&str]) -> (TempDir, SingleNodeEngine) {
    let dir = TempDir::new().unwrap();
    let engine = SingleNodeEngine::with_config(config(&dir)).unwrap();
    for key in keys {
        engine.put(key, "1").unwrap();
    }
    (dir, engine)
}

#[track_caller]
fn conflict(outcome: Result<hightower_engine::Committed>) -> Conflict {
    match outcome {
        Err(Error::TransactionConflict(conflict)) => conflict,
        other => panic!("no conflict: {other:?}"),
    }
}

fn keys(transaction: &Transaction<'_>) -> Vec<String> {
    let keys = transaction.range(..).unwrap().map(|entry| String::from_utf8(entry.unwrap().key().to_vec()).unwrap());
    keys.collect()
}

#[test]
fn a_key_that_was_read_must_not_change() {
    let (_dir, engine) = store(&["a", "b"]);
    let mut transaction = engine.transaction().unwrap();
    assert_eq!(transaction.get("a").unwrap().unwrap(), "1");
    transaction.put("b", "2").unwrap();
    let version = engine.put_versioned("a", "9").unwrap();
    assert_eq!(transaction.get("a").unwrap().unwrap(), "1", "its snapshot stays");
    let met = conflict(transaction.commit());
    assert_eq!((met.key, met.expected, met.found), (b"a".to_vec(), Expect::Version(1), Some(version)));
    assert_eq!(engine.get("b").unwrap().unwrap(), "1");
    assert_eq!(engine.stats().transactions.conflicts, 1);
}

#[test]
fn a_key_that_was_read_as_absent_must_not_appear() {
    let (_dir, engine) = store(&["a"]);
    for read in [
        |it: &Transaction<'_>| it.get("new").unwrap().is_none(),
        |it: &Transaction<'_>| !it.contains_key("new").unwrap(),
    ] {
        let mut transaction = engine.transaction().unwrap();
        assert!(read(&transaction));
        transaction.put("a", "2").unwrap();
        engine.put("new", "").unwrap();
        let met = conflict(transaction.commit());
        assert_eq!((met.key, met.expected), (b"new".to_vec(), Expect::Absent));
        engine.delete("new").unwrap();
    }
    // Gone again, it is as it was read.
    let mut transaction = engine.transaction().unwrap();
    assert_eq!(transaction.get("new").unwrap(), None);
    transaction.put("a", "2").unwrap();
    engine.put("new", "").unwrap();
    engine.delete("new").unwrap();
    transaction.commit().unwrap();
}

#[test]
fn no_key_appears_disappears_or_changes_in_a_range_that_was_read() {
    type Change = fn(&SingleNodeEngine) -> bool;
    let changes: [(&str, Change); 4] = [
        ("p/new", |engine| engine.put("p/new", "").unwrap().changed()),
        ("p/a", |engine| engine.put("p/a", "2").unwrap().changed()),
        ("p/b", |engine| engine.delete("p/b").unwrap().changed()),
        ("p/new", |engine| engine.commit(Batch::new().put("x", "").put("p/new", "")).unwrap().is_committed()),
    ];
    for (changed, change) in changes {
        let (_dir, engine) = store(&["o", "p/a", "p/b", "p0"]);
        let mut transaction = engine.transaction().unwrap();
        assert_eq!(transaction.prefix("p/").unwrap().count(), 2);
        transaction.put("o", "2").unwrap();
        engine.put("p0", "beside the range").unwrap();
        engine.put("o", "before the range").unwrap();
        assert!(change(&engine));
        let met = conflict(transaction.commit());
        assert_eq!(met.key, changed.as_bytes());
        assert_eq!(met.range.as_deref(), Some(&(Bound::Included(b"p/".to_vec()), Bound::Excluded(b"p0".to_vec()))));
        assert!(matches!(met.expected, Expect::UnchangedSince(4)), "{met:?}");
        assert_eq!(met.found, engine.get_versioned(changed).unwrap().map(|(_, version)| version));
    }
    let (_dir, engine) = store(&["o", "p/a", "p/b", "p0"]);
    let mut transaction = engine.transaction().unwrap();
    assert_eq!(transaction.prefix("p/").unwrap().count(), 2);
    transaction.put("p/c", "2").unwrap();
    engine.put("p0", "beside the range").unwrap();
    transaction.commit().unwrap();
}

#[test]
fn a_range_counts_as_far_as_it_was_read() {
    let (_dir, engine) = store(&["q/1", "q/2", "q/3", "q/4", "z"]);
    let begin = || {
        let mut transaction = engine.transaction().unwrap();
        let mut range = transaction.prefix("q/").unwrap();
        assert_eq!(range.next().unwrap().unwrap().key(), b"q/1");
        assert_eq!(range.next_back().unwrap().unwrap().key(), b"q/4");
        drop(range);
        transaction.put("z", "2").unwrap();
        transaction
    };
    let transaction = begin();
    engine.put("q/2", "unread").unwrap();
    transaction.commit().unwrap();
    for changed in ["q/0", "q/1", "q/4", "q/5"] {
        let transaction = begin();
        engine.put(changed, "read").unwrap();
        assert_eq!(conflict(transaction.commit()).key, changed.as_bytes());
        if ["q/0", "q/5"].contains(&changed) {
            engine.delete(changed).unwrap();
        }
    }
    // A range that nothing was asked of.
    let mut transaction = engine.transaction().unwrap();
    drop(transaction.prefix("q/").unwrap());
    transaction.put("z", "3").unwrap();
    engine.put("q/1", "unread").unwrap();
    transaction.commit().unwrap();
    // Also what a forgotten iterator has read counts.
    let mut transaction = engine.transaction().unwrap();
    let mut range = transaction.prefix("q/").unwrap();
    range.next();
    std::mem::forget(range);
    transaction.put("z", "4").unwrap();
    engine.put("q/1", "read").unwrap();
    conflict(transaction.commit());
}

/// Two doctors are on call, and each may leave while another stays.
#[test]
fn write_skew_is_a_conflict_with_deletes_too() {
    for by_range in [false, true] {
        let (_dir, engine) = store(&["oncall/alice", "oncall/bob"]);
        let leave = |name: &str| {
            let mut transaction = engine.transaction().unwrap();
            let on_call = if by_range {
                transaction.prefix("oncall/").unwrap().count()
            } else {
                let is_there = |key| transaction.get(key).unwrap().is_some();
                ["oncall/alice", "oncall/bob"].into_iter().filter(|key| is_there(*key)).count()
            };
            assert_eq!(on_call, 2);
            transaction.delete(format!("oncall/{name}")).unwrap();
            transaction
        };
        let (alice, bob) = (leave("alice"), leave("bob"));
        alice.commit().unwrap();
        assert_eq!(conflict(bob.commit()).key, b"oncall/alice", "by range: {by_range}");
        assert_eq!(engine.len(), 1);
    }
}

#[test]
fn own_writes_are_seen_in_both_directions() {
    let (_dir, engine) = store(&["b", "d", "f"]);
    let mut transaction = engine.transaction().unwrap();
    for key in ["a", "c", "d", "g"] {
        transaction.put(key, "own").unwrap();
    }
    transaction.delete("f").unwrap();
    transaction.delete("e").unwrap();
    assert_eq!(keys(&transaction), ["a", "b", "c", "d", "g"]);
    let backwards = transaction.range(..).unwrap().rev().map(|entry| entry.unwrap().key()[0]);
    assert_eq!(backwards.collect::<Vec<_>>(), b"gdcba");
    let values: Vec<_> = KvReader::range(&transaction, Bound::Included(b"b"), Bound::Excluded(b"g")).unwrap().collect();
    let values: Vec<_> = values.into_iter().map(|pair| pair.unwrap().1.to_vec()).collect();
    assert_eq!(values, [&b"1"[..], b"own", b"own"]);
    assert_eq!((transaction.get("f").unwrap(), transaction.get("g").unwrap().unwrap()), (None, "own".into()));
    assert!(!transaction.contains_key("f").unwrap() && transaction.contains_key("a").unwrap());
    assert_eq!(KvReader::get_versioned(&transaction, b"a").unwrap().unwrap().1, 0, "not committed yet");
    assert_eq!(engine.len(), 3);
    let committed = transaction.commit().unwrap();
    assert_eq!((committed.versions.len(), engine.len()), (6, 5));
    assert_eq!(engine.latest_seq(), committed.seq, "one commit");
}

#[test]
fn own_writes_are_no_reads() {
    let (_dir, engine) = store(&["a"]);
    let mut transaction = engine.transaction().unwrap();
    transaction.put("a", "2").unwrap();
    assert_eq!(transaction.get("a").unwrap().unwrap(), "2");
    engine.put("a", "3").unwrap();
    transaction.commit().unwrap();
    assert_eq!(engine.get("a").unwrap().unwrap(), "2", "a write without a read comes later");
}

#[test]
fn savepoints_take_writes_back_but_keep_reads() {
    let (_dir, engine) = store(&["a", "b"]);
    let mut transaction = engine.transaction().unwrap();
    transaction.put("c", "1").unwrap();
    let first = transaction.savepoint();
    transaction.delete("a").unwrap();
    transaction.put("c", "2").unwrap();
    transaction.delete("c").unwrap();
    let second = transaction.savepoint();
    transaction.put("a", "3").unwrap();
    transaction.put("c", "3").unwrap();
    transaction.rollback_to(&second).unwrap();
    assert_eq!((transaction.get("a").unwrap(), transaction.get("c").unwrap()), (None, None));
    transaction.put("d", "4").unwrap();
    transaction.rollback_to(&first).unwrap();
    assert_eq!(keys(&transaction), ["a", "b", "c"]);
    assert_eq!((transaction.get("c").unwrap().unwrap(), transaction.writes()), ("1".into(), 1));
    assert!(matches!(transaction.rollback_to(&second), Err(Error::Validation(_))), "it has ended");
    transaction.rollback_to(&first).unwrap();
    let mut other = engine.transaction().unwrap();
    other.savepoint();
    assert!(matches!(other.rollback_to(&first), Err(Error::Validation(_))), "of another transaction");

    let mut transaction = engine.transaction().unwrap();
    let before = transaction.savepoint();
    assert!(transaction.contains_key("a").unwrap());
    transaction.put("b", "2").unwrap();
    transaction.rollback_to(&before).unwrap();
    transaction.put("b", "3").unwrap();
    engine.delete("a").unwrap();
    assert_eq!(conflict(transaction.commit()).key, b"a");
}

#[test]
fn transactions_without_writes_never_fail() {
    let (_dir, engine) = store(&["a", "b"]);
    let mut transaction = engine.transaction().unwrap();
    assert_eq!((keys(&transaction).len(), transaction.get("c").unwrap()), (2, None));
    let before = transaction.savepoint();
    transaction.put("a", "never").unwrap();
    transaction.rollback_to(&before).unwrap();
    engine.put("c", "").unwrap();
    engine.delete("a").unwrap();
    assert_eq!(keys(&transaction).len(), 2);
    let committed = transaction.commit().unwrap();
    assert_eq!((committed.seq, committed.versions.len()), (2, 0));
}

#[test]
fn memory_is_bounded_and_reported() {
    let dir = TempDir::new().unwrap();
    let engine = SingleNodeEngine::with_config(config(&dir).with_max_transaction_bytes(64 << 10)).unwrap();
    let mut writer = engine.transaction().unwrap();
    let value = vec![7; 1000];
    let mut written = 0_u32;
    let failure = loop {
        assert!(written < 100, "{} bytes", writer.len_bytes());
        match writer.put(written.to_be_bytes(), &value) {
            Ok(()) => written += 1,
            Err(failure) => break failure,
        }
    };
    assert!(matches!(failure, Error::LimitExceeded { what: "transaction (bytes)", limit: 65_536, .. }), "{failure}");
    let stats = engine.stats().transactions;
    assert_eq!((stats.live, stats.len_bytes), (1, 48 << 10));
    let committed = writer.commit().unwrap();
    assert_eq!((committed.versions.len() as u32, engine.stats().transactions.len_bytes), (written, 0));

    // A transaction without writes may still read, but may no longer write.
    let mut reader = engine.transaction().unwrap();
    for number in 0..10_000_u32 {
        assert_eq!(reader.get(format!("absent/{number}")).unwrap(), None);
        assert!(reader.len_bytes() <= 64 << 10);
    }
    assert!(matches!(reader.put("a", ""), Err(Error::LimitExceeded { .. })));
    assert_eq!(reader.range(..).unwrap().count() as u32, written);
    reader.commit().unwrap();

    // With writes the read fails that is too much, and so do later ones and the commit.
    let mut both = engine.transaction().unwrap();
    both.put("a", "").unwrap();
    let reads = (0..10_000_u32).find_map(|number| both.get(format!("absent/{number}")).err());
    assert!(matches!(reads, Some(Error::LimitExceeded { .. })), "{reads:?}");
    assert!(both.get("b").is_err() && both.range(..).is_err());
    assert!(matches!(both.commit(), Err(Error::LimitExceeded { .. })));
    assert_eq!((engine.get("a").unwrap(), engine.stats().transactions.live), (None, 0));

    // A range that goes over the limit says so at its items, and ends.
    for number in 0..10 {
        engine.put(format!("{number}{}", "x".repeat(6000)), "").unwrap();
    }
    let mut scan = engine.transaction().unwrap();
    scan.put("a", vec![0; 60 << 10]).unwrap();
    let mut range = scan.range(..).unwrap();
    let failed = range.by_ref().filter(Result::is_err).count();
    assert!(failed >= 10 && range.next().is_none(), "{failed}");
    drop(range);
    assert!(matches!(scan.commit(), Err(Error::LimitExceeded { .. })));
}

#[test]
fn limits_of_keys_values_and_commands_hold_at_the_call() {
    let (_dir, engine) = store(&["a"]);
    let mut transaction = engine.transaction().unwrap();
    assert!(matches!(transaction.put("", ""), Err(Error::Validation(_))));
    let long = vec![0; limits::MAX_KEY_LEN_BYTES + 1];
    assert!(matches!(transaction.delete(&long), Err(Error::LimitExceeded { what: "key (bytes)", .. })));
    assert_eq!((transaction.get("").unwrap(), transaction.get(&long).unwrap()), (None, None));
    assert_eq!(transaction.range("z".."a").unwrap().count(), 0);
    assert_eq!(transaction.range((Bound::Excluded("a"), Bound::Excluded("a"))).unwrap().count(), 0);
    for number in 0..limits::MAX_BATCH_COMMANDS as u32 {
        transaction.put(number.to_be_bytes(), "").unwrap();
    }
    let over = transaction.put("one more", "");
    assert!(matches!(over, Err(Error::LimitExceeded { what: "transaction (written keys)", .. })), "{over:?}");
    transaction.put(0_u32.to_be_bytes(), "again").unwrap();
    assert_eq!(transaction.commit().unwrap().versions.len(), limits::MAX_BATCH_COMMANDS);
}

/// A commit that other commits disturb in the last of many ranges, and one that they miss.
#[test]
fn a_transaction_may_read_many_keys_and_ranges() {
    const READS: u32 = 3000;
    let (_dir, engine) = store(&["a", "k/02000", "p/00077/y"]);
    let begin = |by_keys: bool| {
        let mut transaction = engine.transaction().unwrap();
        for number in 0..READS {
            if by_keys {
                let is_there = transaction.contains_key(format!("k/{number:05}")).unwrap();
                assert_eq!(is_there, number == 2000);
            } else {
                let count = transaction.prefix(format!("p/{number:05}/")).unwrap().count();
                assert_eq!(count, usize::from(number == 77));
            }
        }
        transaction.put("a", "3").unwrap();
        transaction
    };
    let beside = |key: &str| assert!(engine.put(key, "").unwrap().changed());
    for by_keys in [true, false] {
        let transaction = begin(by_keys);
        for key in ["a", "k/", "k/02000/", "k/03000", "p/00077", "p/00077.", "p/000770"] {
            beside(key);
        }
        transaction.commit().unwrap();
    }
    for key in ["k/00000", "k/02000", "k/02999"] {
        let (transaction, seq) = (begin(true), engine.latest_seq());
        let version = engine.put_versioned(key, "2").unwrap();
        let met = conflict(transaction.commit());
        assert_eq!((met.key.as_slice(), met.range.as_ref(), met.found), (key.as_bytes(), None, Some(version)));
        assert_eq!(met.expected, Expect::UnchangedSince(seq), "too many keys for a look at each under the lock");
        assert!(met.to_string().contains("it was read at seqno"), "{met}");
        if key != "k/02000" {
            engine.delete(key).unwrap();
        }
    }
    let transaction = begin(true);
    engine.delete("k/02000").unwrap();
    assert_eq!(conflict(transaction.commit()).key, b"k/02000");
    for key in ["p/00000/x", "p/00077/y", "p/02999/z"] {
        let transaction = begin(false);
        beside(key);
        let met = conflict(transaction.commit());
        assert_eq!((met.key.as_slice(), met.range.is_some()), (key.as_bytes(), true));
        engine.delete(key).unwrap();
        beside("p/00077/y");
    }
    let mut batch = Batch::new();
    batch.put("a", "2");
    for number in 0..READS {
        batch.require_prefix(format!("p/{number:05}/"), engine.latest_seq());
    }
    assert!(engine.commit(&batch).unwrap().is_committed());
    beside("p/02998/");
    assert_eq!(engine.commit(&batch).unwrap().committed().unwrap_err().key, b"p/02998/");
}

/// A range that was read is known to have changed, though the tombstone's grace is over.
#[test]
fn a_delete_is_not_forgotten_while_a_transaction_lives() {
    let (_dir, engine) = store(&["a", "p/1"]);
    for many_keys in [false, true] {
        let mut transaction = engine.transaction().unwrap();
        if many_keys {
            for number in 0..1000 {
                transaction.contains_key(format!("p/{number}")).unwrap();
            }
        } else {
            assert_eq!(transaction.prefix("p/").unwrap().count(), 1);
        }
        transaction.put("a", "2").unwrap();
        engine.delete("p/1").unwrap();
        engine.run_compaction_now().unwrap();
        assert_eq!(conflict(transaction.commit()).key, b"p/1");
        engine.put("p/1", "").unwrap();
    }
}

/// k with version 10 is read, deleted with 11, its tombstone has no more grace, and version 10 is
/// submitted again with another value. A snapshot keeps the tombstone, so the command is stale.
#[test]
fn a_version_does_not_come_back_while_a_transaction_lives() {
    let (_dir, engine) = store(&["a"]);
    let submit = |value| engine.submit(Command::set("k", value, 10)).unwrap().changed();
    assert!(submit("first"));
    let mut transaction = engine.transaction().unwrap();
    assert_eq!(transaction.get("k").unwrap().unwrap(), "first");
    transaction.put("a", "2").unwrap();
    engine.delete("k").unwrap();
    engine.run_compaction_now().unwrap();
    assert_eq!(engine.stats().tombstones, 1);
    assert!(!submit("second"));
    assert_eq!(conflict(transaction.commit()).key, b"k");
    engine.run_compaction_now().unwrap();
    assert!(submit("third"), "the tombstone is gone");
}

/// Stops the commit thread until a message is sent; `None` if it was too fast to be stopped.
fn hold_queue(engine: &SingleNodeEngine) -> Option<mpsc::Sender<()>> {
    let (go_on, stop) = mpsc::channel();
    let (stopped, is_stopped) = mpsc::channel();
    let this_thread = thread::current().id();
    engine.commit_async(Batch::new().put("hold", "")).unwrap().on_outcome(move |_| {
        if thread::current().id() != this_thread {
            stopped.send(()).unwrap_or_default();
            stop.recv().unwrap_or_default();
        }
    });
    is_stopped.recv().ok().map(|()| go_on)
}

/// The same, while the transaction waits in the queue.
#[test]
fn a_version_does_not_come_back_while_a_transaction_is_queued() {
    let dir = TempDir::new().unwrap();
    let engine = SingleNodeEngine::with_config(config(&dir).with_commit_queue_depth(16)).unwrap();
    assert!(engine.submit(Command::set("k", "first", 10)).unwrap().changed());
    let mut transaction = engine.transaction().unwrap();
    assert_eq!(transaction.get("k").unwrap().unwrap(), "first");
    transaction.put("a", "2").unwrap();
    engine.delete("k").unwrap();
    let go_on = (0..1000).find_map(|_| hold_queue(&engine)).expect("the queue can be held");
    let late = engine.submit_async(Command::set("k", "second", 10)).unwrap();
    let ticket = transaction.commit_async().unwrap();
    engine.run_compaction_now().unwrap();
    go_on.send(()).unwrap();
    assert!(!late.wait().unwrap().changed());
    assert_eq!(conflict(ticket.wait()).key, b"k");
    assert_eq!(engine.stats().transactions.conflicts, 1);
}

#[test]
fn update_repeats_until_there_is_no_conflict() {
    let (_dir, engine) = store(&["n"]);
    let runs = AtomicU32::new(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..100 {
                    let seen = engine.update(|transaction| {
                        runs.fetch_add(1, Ordering::Relaxed);
                        let count: u32 = transaction.get("n")?.unwrap().as_str().unwrap().parse().unwrap();
                        transaction.put("n", (count + 1).to_string())?;
                        Ok(count + 1)
                    });
                    assert!(seen.unwrap() > 1);
                }
            });
        }
    });
    assert_eq!(engine.get("n").unwrap().unwrap(), "401");
    let conflicts = engine.stats().transactions.conflicts;
    assert_eq!(u64::from(runs.load(Ordering::Relaxed)), 400 + conflicts);
    // Who changes what he has read himself, elsewhere, never gets through.
    let tries = AtomicU32::new(0);
    let never = engine.update(|transaction| {
        let read = transaction.get("n")?;
        tries.fetch_add(1, Ordering::Relaxed);
        engine.put("n", "")?;
        transaction.put("m", read.unwrap())
    });
    assert!(matches!(never, Err(Error::TransactionConflict(_))));
    assert_eq!(tries.load(Ordering::Relaxed), 1000);
    let refused: Result<()> = engine.update(|transaction| {
        transaction.put("m", "")?;
        Err(Error::Aborted("the caller"))
    });
    assert!(matches!(refused, Err(Error::Aborted(_))));
    assert_eq!(engine.get("m").unwrap(), None);
}

#[test]
fn the_durability_is_that_of_the_call() {
    let dir = TempDir::new().unwrap();
    let engine = SingleNodeEngine::with_config(config(&dir).with_durability(Durability::Os)).unwrap();
    let put = |durability: Option<Durability>| {
        let mut transaction = engine.transaction().unwrap();
        transaction.put("a", "").unwrap();
        let committed = match durability {
            Some(durability) => transaction.commit_with(durability),
            None => transaction.commit(),
        };
        (engine.stats().durable_seq, committed.unwrap().seq)
    };
    let (durable, committed) = put(None);
    assert!(durable < committed);
    let (durable, committed) = put(Some(Durability::Sync));
    assert_eq!(durable, committed);
    let transaction = engine.transaction().unwrap();
    engine.close().unwrap();
    assert!(matches!(engine.transaction(), Err(Error::Closed)));
    assert_eq!(transaction.get("a").unwrap().unwrap(), "", "a snapshot outlives its engine");
    let mut transaction = transaction;
    transaction.put("a", "2").unwrap();
    assert!(matches!(transaction.commit(), Err(Error::Closed)));
}

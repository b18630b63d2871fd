//! Keyspaces, beside a plain map for each. The keys are short and made of few bytes, with those
//! among them that stored keys give a meaning to.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::collections::BTreeMap;
use std::ops::Bound;

use hightower_engine::{
    Batch, ChangeKind, Command, Components, Error, Expect, KeyspaceId, SingleNodeEngine, SnapshotEngine, StoreConfig,
    dump, import_snapshot, limits,
};

type Content = BTreeMap<Vec<u8>, Vec<u8>>;

fn random(seed: u64) -> impl FnMut(usize) -> usize {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    move |bound| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % bound
    }
}

fn key(below: &mut impl FnMut(usize) -> usize) -> Vec<u8> {
    let len = 1 + below(4);
    (0..len).map(|_| [0, 1, b'a', 0xfe, 0xff][below(5)]).collect()
}

fn bound(below: &mut impl FnMut(usize) -> usize) -> Bound<Vec<u8>> {
    match below(3) {
        0 => Bound::Unbounded,
        1 => Bound::Included(key(below)),
        _ => Bound::Excluded(key(below)),
    }
}

fn pairs(content: &Content, is_wanted: impl Fn(&[u8]) -> bool) -> Vec<(Vec<u8>, Vec<u8>)> {
    content.iter().filter(|(key, _)| is_wanted(key)).map(|(key, value)| (key.clone(), value.clone())).collect()
}

fn open(dir: &tempfile::TempDir) -> SingleNodeEngine {
    // With a few KiB, memtables become tables all the time.
    SingleNodeEngine::with_config(StoreConfig::at(dir.path()).with_index_memory_bytes(4 << 10)).unwrap()
}

fn check(engine: &SingleNodeEngine, model: &Content, below: &mut impl FnMut(usize) -> usize) {
    assert_eq!((engine.len(), engine.is_empty()), (model.len(), model.is_empty()));
    let snapshot = engine.snapshot().unwrap();
    let all = pairs(model, |_| true);
    let shown: Vec<_> = snapshot.iter().map(|entry| entry.unwrap().into_pair().unwrap()).collect();
    assert!(shown.iter().map(|(key, value)| (key.as_slice(), &**value)).eq(all.iter().map(|(k, v)| (&k[..], &v[..]))));
    let keys: Vec<Vec<u8>> = (0..40).map(|_| key(below)).collect();
    let values = engine.multi_get(&keys).unwrap();
    for (key, value) in keys.iter().zip(values) {
        assert_eq!(value.as_deref(), model.get(key).map(Vec::as_slice), "{key:?}");
        assert_eq!(engine.get(key).unwrap().as_deref(), model.get(key).map(Vec::as_slice));
        assert_eq!(snapshot.get(key).unwrap().as_deref(), model.get(key).map(Vec::as_slice));
        assert_eq!(engine.contains_key(key).unwrap(), model.contains_key(key));
    }
    for _ in 0..20 {
        let (from, to) = (bound(below), bound(below));
        let is_held =
            |key: &[u8]| std::ops::RangeBounds::<Vec<u8>>::contains(&(from.clone(), to.clone()), &key.to_vec());
        let range = engine.range((from.clone(), to.clone())).unwrap();
        let mut backwards: Vec<_> = range.rev().map(|entry| entry.unwrap().key().to_vec()).collect();
        backwards.reverse();
        let expected: Vec<_> = pairs(model, is_held).into_iter().map(|(key, _)| key).collect();
        assert_eq!(backwards, expected, "{from:?} {to:?}");
        let (prefix, cursor) = (key(below)[..1].to_vec(), key(below));
        let mut found = Vec::new();
        let visit = |key: &[u8], _: &[u8]| {
            found.push(key.to_vec());
            std::ops::ControlFlow::Continue(())
        };
        engine.prefix(&prefix).unwrap().after(&cursor).for_each_pair(visit).unwrap();
        let is_held = |key: &[u8]| key.starts_with(&prefix) && key > cursor.as_slice();
        assert_eq!(found, pairs(model, is_held).into_iter().map(|(key, _)| key).collect::<Vec<_>>());
        let before: Vec<_> =
            engine.iter().unwrap().before(&cursor).map(|entry| entry.unwrap().key().to_vec()).collect();
        assert_eq!(before, pairs(model, |key| key < &cursor[..]).into_iter().map(|(key, _)| key).collect::<Vec<_>>());
    }
}

/// Any bytes are a key of the default keyspace, in each call.
#[test]
fn the_default_keyspace_takes_every_key() {
    for seed in 0..3 {
        let mut below = random(seed);
        let dir = tempfile::tempdir().unwrap();
        let mut engine = open(&dir);
        let (mut model, mut followed) = (Content::new(), Content::new());
        let mut seqno = 0;
        for step in 0..400_u32 {
            let (key, value) = (key(&mut below), step.to_le_bytes().to_vec());
            match below(12) {
                0..4 => {
                    engine.put(&key, &value).unwrap();
                    model.insert(key, value);
                }
                4 => {
                    engine.delete(&key).unwrap();
                    model.remove(&key);
                }
                5 => {
                    let version = engine.latest_version() + 1;
                    let command = Command::set(key.clone(), value.clone(), version);
                    assert!(engine.submit(command).unwrap().changed());
                    model.insert(key, value);
                }
                6 => {
                    let expect = if model.contains_key(&key) { Expect::Present } else { Expect::Absent };
                    let mut batch = Batch::new();
                    batch.require(&key, expect).require_prefix(&key, engine.latest_seq()).put(&key, &value);
                    assert!(batch.changes().all(|change| change.key == key));
                    assert!(engine.commit(&batch).unwrap().is_committed());
                    model.insert(key, value);
                }
                7 => {
                    let (from, to) = (bound(&mut below), bound(&mut below));
                    let is_held =
                        |key: &Vec<u8>| std::ops::RangeBounds::<Vec<u8>>::contains(&(from.clone(), to.clone()), key);
                    let mut transaction = engine.transaction().unwrap();
                    transaction.put(&key, &value).unwrap();
                    model.insert(key.clone(), value);
                    let found: Vec<_> = transaction
                        .range((from.clone(), to.clone()))
                        .unwrap()
                        .map(|entry| entry.unwrap().key().to_vec())
                        .collect();
                    assert!(found.iter().eq(model.keys().filter(|key| is_held(key))), "{from:?} {to:?} {found:?}");
                    assert_eq!(transaction.get(&key).unwrap().as_deref(), model.get(&key).map(Vec::as_slice));
                    transaction.commit().unwrap();
                }
                8 if step % 40 == 0 => {
                    let prefix = &key[..1];
                    engine.delete_prefix(prefix).unwrap();
                    model.retain(|key, _| !key.starts_with(prefix));
                }
                9 if step % 20 == 0 => check(&engine, &model, &mut below),
                10 if step % 40 == 0 => drop(engine.run_compaction_now().unwrap()),
                _ if step % 50 == 0 => {
                    drop(engine);
                    engine = open(&dir);
                    seqno = seqno.max(engine.stats().feeds.oldest_seqno);
                }
                _ => {}
            }
        }
        check(&engine, &model, &mut below);
        assert!(
            engine
                .snapshot_state()
                .unwrap()
                .iter()
                .map(|(key, value)| (key.to_vec(), value.to_vec()))
                .eq(model.clone())
        );
        // A feed from the oldest commit on, over a compacted store: what it tells is in the model.
        for commit in std::iter::from_fn({
            let mut feed = engine.watch(.., engine.stats().feeds.oldest_seqno).unwrap();
            move || feed.try_next().unwrap()
        }) {
            for change in commit.changes() {
                let key = change.key().to_vec();
                if change.kind() == ChangeKind::Set {
                    followed.insert(key, change.value().unwrap().unwrap().to_vec());
                } else {
                    followed.remove(&key);
                }
            }
        }
        assert!(followed.iter().all(|(key, value)| model.get(key) == Some(value)), "{followed:?}");
        check_copies(&engine, &model);
    }
}

/// An export and a dump have the user's keys.
fn check_copies(engine: &SingleNodeEngine, model: &Content) {
    let (mut stream, dir) = (Vec::new(), tempfile::tempdir().unwrap());
    engine.export_snapshot(&mut stream).unwrap();
    let copy = dir.path().join("copy");
    import_snapshot(&Components::default(), &mut &stream[..], &copy).unwrap();
    let mut dumped = Content::new();
    let visit = &mut |record: hightower_engine::RawRecord<'_>| {
        assert_eq!(record.keyspace, KeyspaceId::DEFAULT);
        if let Some(value) = record.command.value() {
            dumped.insert(record.command.key().to_vec(), value.to_vec());
        }
        std::ops::ControlFlow::Continue(())
    };
    dump(&Components::default(), &copy, visit).unwrap();
    assert_eq!(&dumped, model);
    let copy = SingleNodeEngine::open(&copy).unwrap();
    assert!(copy.snapshot_state().unwrap().iter().map(|(key, value)| (key.to_vec(), value.to_vec())).eq(model.clone()));
}

#[test]
fn the_longest_key_may_begin_with_any_byte() {
    let dir = tempfile::tempdir().unwrap();
    let engine = SingleNodeEngine::open(dir.path()).unwrap();
    for first in [0, 0xff] {
        let longest = vec![first; limits::MAX_KEY_LEN_BYTES];
        engine.put(&longest, "value").unwrap();
        assert_eq!(engine.get(&longest).unwrap().unwrap(), "value");
        let too_long = vec![first; limits::MAX_KEY_LEN_BYTES + 1];
        let refused = engine.put(&too_long, "").unwrap_err();
        let is_right = |found, limit| found == too_long.len() as u64 && limit == limits::MAX_KEY_LEN_BYTES as u64;
        assert!(matches!(refused, Error::LimitExceeded { found, limit, .. } if is_right(found, limit)), "{refused}");
        assert_eq!(engine.get(&too_long).unwrap(), None);
    }
    assert_eq!(engine.len(), 2);
}

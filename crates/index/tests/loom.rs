//! The publication, growth and reclamation protocols under loom: the crate's own code, small
//! histories, every order of steps.
//!
//! ```sh
//! RUSTFLAGS="--cfg loom" cargo test -p hightower-index --release --test loom
//! ```
//!
//! Values are loom cells: reading one that was not published in order, or dropping one that a
//! reader still reads, fails the model.

#![cfg(loom)]
#![allow(clippy::unwrap_used)]

use hightower_index::{KeyHasher, Map, Published, PublishedArc, Writer, pin, with_hasher};
use loom::cell::UnsafeCell;
use loom::thread;

/// A value that loom checks.
struct LoomCell(UnsafeCell<u64>);

// SAFETY: the cell is only written when it is dropped; loom checks that nobody reads it then.
unsafe impl Sync for LoomCell {}

impl LoomCell {
    fn new(value: u64) -> Self {
        Self(UnsafeCell::new(value))
    }

    fn read(&self) -> u64 {
        // SAFETY: loom fails the model if the write was not ordered before this.
        self.0.with(|value| unsafe { *value })
    }
}

impl Drop for LoomCell {
    fn drop(&mut self) {
        // SAFETY: loom fails the model if a read is not ordered before this.
        self.0.with_mut(|value| unsafe { *value = u64::MAX });
    }
}

/// Spreads one-byte keys over the directory by their low bits; all other bits come from the key
/// too.
struct Plain;

impl KeyHasher for Plain {
    fn hash(&self, key: &[u8]) -> u64 {
        let byte = u64::from(*key.last().unwrap_or(&0));
        byte << 61 | byte << 32 | (byte << 29 & 0xffff_ffff)
    }
}

/// Every key in one group, with one tag.
struct Same;

impl KeyHasher for Same {
    fn hash(&self, _key: &[u8]) -> u64 {
        0
    }
}

fn model(run: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.max_branches = 50_000;
    builder.check(run);
}

fn filled<H: KeyHasher>(hasher: H, keys: std::ops::Range<u8>) -> (Writer<LoomCell, H>, Map<LoomCell, H>) {
    let (mut writer, map) = with_hasher(hasher);
    for key in keys {
        writer.insert(&[key], LoomCell::new(u64::from(key)));
    }
    (writer, map)
}

fn check<H: KeyHasher>(map: &Map<LoomCell, H>, key: u8) {
    let guard = pin();
    assert_eq!(map.get(&[key], &guard).map(LoomCell::read), Some(u64::from(key)));
}

/// Scans the keys, which must include `stable`; each value must be that of its key.
fn scan<H: KeyHasher>(map: &Map<LoomCell, H>, stable: std::ops::Range<u8>) {
    let guard = pin();
    let keys: Vec<u8> = map
        .iter(&guard)
        .inspect(|entry| assert_eq!(entry.value().read(), u64::from(entry.key()[0])))
        .map(|entry| entry.key()[0])
        .collect();
    assert!(keys.is_sorted_by(|left, right| left < right));
    assert!(stable.clone().all(|key| keys.contains(&key)), "{keys:?} lacks some of {stable:?}");
}

#[test]
fn a_lookup_sees_a_whole_leaf_or_none() {
    model(|| {
        let (mut writer, map) = filled(Plain, 0..0);
        let reader = thread::spawn(move || {
            let guard = pin();
            assert!(map.get(b"a", &guard).is_none_or(|value| value.read() == 7));
        });
        writer.insert(b"a", LoomCell::new(7));
        reader.join().unwrap();
    });
}

#[test]
fn a_walk_sees_a_child_added_whole_or_not() {
    model(|| {
        let (mut writer, map) = filled(Plain, 0..3);
        let reader = thread::spawn(move || scan(&map, 0..3));
        writer.insert(&[3], LoomCell::new(3));
        reader.join().unwrap();
    });
}

#[test]
fn a_walk_sees_a_node_replaced_whole() {
    model(|| {
        let (mut writer, map) = filled(Plain, 0..4);
        let reader = thread::spawn(move || scan(&map, 0..4));
        writer.insert(&[4], LoomCell::new(4));
        reader.join().unwrap();
    });
}

#[test]
fn a_walk_keeps_its_keys_while_a_node_shrinks() {
    model(|| {
        let (mut writer, map) = filled(Plain, 0..3);
        let reader = thread::spawn(move || scan(&map, 0..1));
        writer.remove(&[2]);
        writer.remove(&[1]);
        reader.join().unwrap();
    });
}

#[test]
fn a_lookup_finds_its_key_while_the_table_grows() {
    for key in [0, 5] {
        model(move || {
            // Six of eight slots are used: the next insert splits the bucket and doubles the
            // directory.
            let (mut writer, map) = filled(Plain, 0..6);
            let reader = thread::spawn(move || check(&map, key));
            writer.insert(&[6], LoomCell::new(6));
            reader.join().unwrap();
            check(&writer.map(), key);
        });
    }
}

#[test]
fn a_lookup_finds_its_key_while_a_segment_grows() {
    model(|| {
        let (mut writer, map) = filled(Same, 0..6);
        let reader = thread::spawn(move || check(&map, 5));
        writer.insert(&[6], LoomCell::new(6));
        reader.join().unwrap();
        (0..7).for_each(|key| check(&writer.map(), key));
    });
}

#[test]
fn a_lookup_finds_its_key_behind_graves() {
    model(|| {
        let (mut writer, map) = filled(Same, 0..4);
        let reader = thread::spawn(move || check(&map, 2));
        writer.remove(&[3]);
        writer.remove(&[1]);
        writer.insert(&[4], LoomCell::new(4));
        reader.join().unwrap();
    });
}

#[test]
fn a_removed_value_lives_while_it_is_read() {
    model(|| {
        let (mut writer, map) = filled(Plain, 0..1);
        let reader = thread::spawn(move || {
            let guard = pin();
            let value = map.get(&[0], &guard);
            thread::yield_now();
            assert!(value.is_none_or(|value| value.read() == 0));
        });
        writer.remove(&[0]);
        writer.reclaim();
        reader.join().unwrap();
    });
}

#[test]
fn a_replaced_cell_content_lives_while_it_is_read() {
    model(|| {
        let cell = loom::sync::Arc::new(Published::new(LoomCell::new(1)));
        let reader = {
            let cell = loom::sync::Arc::clone(&cell);
            thread::spawn(move || {
                let guard = pin();
                let value = cell.load(&guard).map(LoomCell::read);
                assert!(matches!(value, Some(1 | 2)));
            })
        };
        let guard = pin();
        cell.store(Some(Box::new(LoomCell::new(2))), &guard);
        drop(guard);
        pin().flush();
        reader.join().unwrap();
    });
}

#[test]
fn a_replaced_arc_lives_while_it_is_lent_or_kept() {
    model(|| {
        let cell = loom::sync::Arc::new(PublishedArc::new(std::sync::Arc::new(LoomCell::new(1))));
        let reader = {
            let cell = loom::sync::Arc::clone(&cell);
            thread::spawn(move || {
                let guard = pin();
                let kept = cell.load_arc(&guard);
                assert!(matches!(cell.load(&guard).read(), 1 | 2));
                assert!(matches!(kept.read(), 1 | 2));
                // Loom does not see how the count of std's Arc orders a drop behind other threads'
                // reads, so here the cell's reference is the last one: epochs release it.
                drop(kept);
                drop(guard);
            })
        };
        let guard = pin();
        cell.store(std::sync::Arc::new(LoomCell::new(2)), &guard);
        drop(guard);
        pin().flush();
        reader.join().unwrap();
    });
}

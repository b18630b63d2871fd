//! One situation for each rule of followers.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hightower_engine::{Batch, Components, Error, Follower, FollowerConfig, KvReader, SingleNodeEngine, StoreConfig};
use hightower_segment::sim::SimFs;

fn config(dir: &Path) -> StoreConfig {
    StoreConfig::at(dir).with_max_segment_size(16 << 10).with_min_segment_size(16 << 10)
}

#[test]
fn a_store_that_is_not_there_is_not_found() {
    let dir = tempfile::tempdir().unwrap();
    for place in [dir.path().to_owned(), dir.path().join("none")] {
        assert!(matches!(Follower::open(&place), Err(Error::NotFound(_))), "{place:?}");
        assert_eq!(place.exists(), place == dir.path());
    }
    assert!(matches!(Follower::open(""), Err(Error::Validation(_))));
}

#[test]
fn a_closed_store_is_followed_through_its_next_writers() {
    let dir = tempfile::tempdir().unwrap();
    let engine = SingleNodeEngine::with_config(config(dir.path())).unwrap();
    engine.put("life", "1").unwrap();
    engine.close().unwrap();
    let follower = Follower::open(dir.path()).unwrap();
    for life in 2..6_u8 {
        assert_eq!(follower.get("life").unwrap().unwrap(), (life - 1).to_string());
        // The follower prevents no writer.
        let engine = SingleNodeEngine::with_config(config(dir.path())).unwrap();
        engine.put("life", life.to_string()).unwrap();
        assert_eq!(follower.catch_up().unwrap(), engine.latest_seq());
        engine.close().unwrap();
        follower.catch_up().unwrap();
    }
    assert_eq!(follower.stats().restarts, 0);
}

#[test]
fn reads_of_a_follower_are_those_of_its_writer() {
    let dir = tempfile::tempdir().unwrap();
    let engine = SingleNodeEngine::with_config(config(dir.path())).unwrap();
    let follower = Follower::open(dir.path()).unwrap();
    assert!(follower.is_empty().unwrap());
    let mut batch = Batch::new();
    (0..100_u8).for_each(|number| _ = batch.put([b'k', number], [number; 9]));
    engine.commit(&batch).unwrap().committed().unwrap();
    engine.checkpoint().unwrap();
    engine.delete([b'k', 7]).unwrap();
    assert_eq!(follower.len().unwrap(), 0);
    assert_eq!(follower.catch_up().unwrap(), engine.latest_seq());
    assert_eq!((follower.len().unwrap(), follower.stats().tables.len()), (99, 1));
    let all = |reader: &dyn KvReader| reader.prefix(b"k").unwrap().map(Result::unwrap).collect::<Vec<_>>();
    assert_eq!(all(&follower), all(&engine));
    for number in 0..101 {
        let key = [b'k', number];
        assert_eq!(follower.get_versioned(key).unwrap(), engine.get_versioned(key).unwrap());
        assert_eq!(follower.contains_key(key).unwrap(), engine.contains_key(key).unwrap());
    }
}

#[test]
fn memtables_go_when_the_writers_tables_cover_them() {
    let dir = tempfile::tempdir().unwrap();
    let engine = SingleNodeEngine::with_config(config(dir.path())).unwrap();
    let follower = Follower::open(dir.path()).unwrap();
    let empty = follower.stats().index_memory_bytes;
    let mut most = 0;
    for round in 0..20_u32 {
        for number in 0..3_000_u32 {
            engine.put(format!("{round}/{number}"), [1; 20]).unwrap();
        }
        follower.catch_up().unwrap();
        most = most.max(follower.stats().index_memory_bytes);
        engine.checkpoint().unwrap();
        follower.catch_up().unwrap();
    }
    let least = follower.stats().index_memory_bytes;
    assert_eq!(follower.len().unwrap(), 60_000);
    // All keys take 6 MiB.
    assert!(most < 2 << 20 && least <= empty, "{empty} bytes at first, then up to {most}, at last {least}");
}

#[test]
fn removed_segments_go_when_nothing_needs_them() {
    let dir = tempfile::tempdir().unwrap();
    let engine = SingleNodeEngine::with_config(config(dir.path())).unwrap();
    let follower = Follower::open(dir.path()).unwrap();
    for number in 0..2_000_u32 {
        engine.put(format!("{}", number % 50), [7; 100]).unwrap();
    }
    follower.catch_up().unwrap();
    let snapshot = follower.snapshot().unwrap();
    engine.run_compaction_now().unwrap();
    follower.catch_up().unwrap();
    assert!(follower.stats().held_segments > 0, "the snapshot needs them");
    assert_eq!(snapshot.prefix("").filter(|entry| entry.as_ref().unwrap().value().is_ok()).count(), 50);
    drop(snapshot);
    // Readers of other tests may hold an epoch for a moment.
    let is_free = || {
        follower.catch_up().unwrap();
        follower.stats().held_segments == 0
    };
    assert!((0..2000).any(|_| is_free() || {
        std::thread::sleep(Duration::from_millis(1));
        false
    }));
    assert_eq!(follower.len().unwrap(), 50);
}

#[test]
fn a_missing_segment_is_damage_and_the_old_state_stays() {
    let fs = SimFs::new();
    let components = Components::default().with_fs(Arc::new(fs.clone()));
    let engine = SingleNodeEngine::with_components(config(Path::new("/store")), components.clone()).unwrap();
    engine.put("a", "1").unwrap();
    let follower = Follower::with_components(FollowerConfig::at("/store"), components.clone()).unwrap();
    engine.close().unwrap();
    let engine = SingleNodeEngine::with_components(config(Path::new("/store")), components.clone()).unwrap();
    engine.put("a", "2").unwrap();
    let names = fs.names_in(Path::new("/store")).unwrap();
    let last = names.iter().filter(|name| name.ends_with(".seg")).max().unwrap();
    fs.unplant(&Path::new("/store").join(last));
    assert!(matches!(follower.catch_up(), Err(Error::Corrupt { .. })));
    assert_eq!(follower.get("a").unwrap().unwrap(), "1");
    assert!(matches!(Follower::with_components(FollowerConfig::at("/store"), components), Err(Error::Corrupt { .. })));
}

#[test]
fn another_store_in_the_place_of_the_first_is_a_divergence() {
    let dir = tempfile::tempdir().unwrap();
    let engine = SingleNodeEngine::with_config(config(dir.path())).unwrap();
    engine.put("a", "1").unwrap();
    engine.close().unwrap();
    let refresh = FollowerConfig::at(dir.path()).with_refresh_interval(Duration::from_millis(1));
    let (follower, refreshing) = (Follower::open(dir.path()).unwrap(), Follower::with_config(refresh).unwrap());
    for file in std::fs::read_dir(dir.path()).unwrap() {
        std::fs::remove_file(file.unwrap().path()).unwrap();
    }
    assert!(follower.catch_up().is_err());
    let engine = SingleNodeEngine::with_config(config(dir.path())).unwrap();
    engine.put("b", "1").unwrap();
    assert!(matches!(follower.catch_up(), Err(Error::Diverged { .. })));
    assert!(!follower.contains_key("a").unwrap() && follower.contains_key("b").unwrap());
    assert_eq!(follower.catch_up().unwrap(), engine.latest_seq());
    assert_eq!(follower.stats().divergences, 1);
    // Its thread keeps the error for the next caller.
    let has_followed = || refreshing.contains_key("b").unwrap();
    assert!((0..5000).any(|_| has_followed() || {
        std::thread::sleep(Duration::from_millis(1));
        false
    }));
    assert!(matches!(refreshing.catch_up(), Err(Error::Diverged { .. })));
    assert!(refreshing.catch_up().is_ok());
}

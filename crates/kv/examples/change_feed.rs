//! Following the store: a cache of other threads' writes, and a secondary index that continues
//! where it was, in a later run too.
//!
//! `cargo run -p hightower-kv --example change_feed`

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::thread;

use hightower_kv::prelude::*;
use hightower_kv::{ChangeFeed, FeedCommit, Result};

/// A cache of the keys with one prefix. A thread keeps it up to date.
#[derive(Default)]
struct Cache {
    content: Mutex<HashMap<Vec<u8>, Value>>,
}

impl Cache {
    /// Fills the cache from a snapshot, and returns the feed of what the snapshot lacks.
    fn fill(&self, engine: &SingleNodeEngine, prefix: &str) -> Result<ChangeFeed> {
        let snapshot = engine.snapshot()?;
        let content: Result<HashMap<_, _>> = snapshot.prefix(prefix).map(|entry| entry?.into_pair()).collect();
        *self.content.lock().unwrap_or_else(|broken| broken.into_inner()) = content?;
        engine.watch_prefix(prefix, snapshot.seq())
    }

    /// Applies one commit as a whole, so that no reader sees half of a batch.
    fn apply(&self, commit: &FeedCommit) -> Result<()> {
        let mut content = self.content.lock().unwrap_or_else(|broken| broken.into_inner());
        for change in commit.changes() {
            match change.value()? {
                Some(value) => content.insert(change.key().to_vec(), value),
                None => content.remove(change.key()),
            };
        }
        Ok(())
    }

    fn get(&self, key: &str) -> Option<Value> {
        self.content.lock().unwrap_or_else(|broken| broken.into_inner()).get(key.as_bytes()).cloned()
    }

    /// Follows the store until it is closed. A feed that was too slow begins anew.
    fn follow(&self, engine: &SingleNodeEngine, mut feed: ChangeFeed, prefix: &str) -> Result<()> {
        while let Some(next) = feed.next() {
            match next {
                Ok(commit) => self.apply(&commit)?,
                Err(Error::HistoryLost { .. }) => feed = self.fill(engine, prefix)?,
                Err(Error::Closed) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// The key under which the index keeps its place: the seqno up to which it has every commit.
const INDEX_PLACE: &str = "index/place";

/// Brings the index `by_city/CITY/USER` up to date with the records `user/USER`. Each step writes
/// the index and its place in one batch, so a crash repeats no step and skips none.
fn update_index(engine: &SingleNodeEngine) -> Result<u64> {
    let place = engine.get(INDEX_PLACE)?.and_then(|place| Some(u64::from_le_bytes(place.as_bytes().try_into().ok()?)));
    let mut feed = match engine.watch_prefix("user/", place.unwrap_or(0)) {
        Err(Error::HistoryLost { .. } | Error::Diverged { .. }) => return rebuild_index(engine),
        feed => feed?,
    };
    let mut steps = 0;
    while let Some(commit) = feed.try_next()? {
        let mut batch = Batch::new();
        for change in commit.changes() {
            let user = change.key().strip_prefix(b"user/").unwrap_or_default();
            // Where the user was before is written beside the index.
            let of_user = [b"city_of/", user].concat();
            if let Some(city) = engine.get(&of_user)? {
                batch.delete(index_key(&city, user));
            }
            match change.value()? {
                Some(city) => batch.put(index_key(&city, user), "").put(&of_user, city),
                None => batch.delete(&of_user),
            };
        }
        batch.put(INDEX_PLACE, commit.seqno().to_le_bytes());
        engine.commit(&batch)?.committed()?;
        steps += 1;
    }
    Ok(steps)
}

fn index_key(city: &[u8], user: &[u8]) -> Vec<u8> {
    [b"by_city/", city, b"/", user].concat()
}

/// Writes the index anew from a snapshot.
fn rebuild_index(engine: &SingleNodeEngine) -> Result<u64> {
    let snapshot = engine.snapshot()?;
    for prefix in ["by_city/", "city_of/"] {
        engine.delete_prefix(prefix)?;
    }
    for entry in snapshot.prefix("user/") {
        let (key, city) = entry?.into_pair()?;
        let user = key.strip_prefix(b"user/").unwrap_or_default();
        let mut batch = Batch::new();
        batch.put(index_key(&city, user), "").put([b"city_of/", user].concat(), city);
        engine.commit(&batch)?.committed()?;
    }
    engine.put(INDEX_PLACE, snapshot.seq().to_le_bytes())?;
    Ok(1)
}

fn users_in(engine: &SingleNodeEngine, city: &str) -> Result<Vec<String>> {
    let prefix = format!("by_city/{city}/");
    let name = |key: &[u8]| String::from_utf8_lossy(key.get(prefix.len()..).unwrap_or_default()).into_owned();
    engine.prefix(&prefix)?.map(|entry| Ok(name(entry?.key()))).collect()
}

fn main() -> Result<()> {
    let dir = std::env::temp_dir().join(format!("hightower-change-feed-{}", std::process::id()));
    let engine = SingleNodeEngine::open(&dir)?;
    engine.put("user/ada", "London")?;

    let cache = Arc::new(Cache::default());
    let feed = cache.fill(&engine, "user/")?;
    thread::scope(|scope| {
        let follower = scope.spawn(|| cache.follow(&engine, feed, "user/"));
        engine.put("user/grace", "New York")?;
        engine.put("user/ada", "Paris")?;
        // The cache is at most about a millisecond behind.
        while cache.get("user/ada").is_none_or(|city| city != "Paris") {
            thread::yield_now();
        }
        println!("cached: grace is in {:?}", cache.get("user/grace"));

        println!("index: {} steps; Paris has {:?}", update_index(&engine)?, users_in(&engine, "Paris")?);
        engine.delete("user/ada")?;
        println!("index: {} step; Paris has {:?}", update_index(&engine)?, users_in(&engine, "Paris")?);
        assert_eq!(users_in(&engine, "New York")?, ["grace"]);
        engine.close()?;
        follower.join().unwrap_or(Err(Error::Closed))
    })?;

    // A later run continues where the index was.
    let engine = SingleNodeEngine::open(&dir)?;
    assert_eq!(update_index(&engine)?, 0);
    engine.put("user/alan", "London")?;
    assert_eq!((update_index(&engine)?, users_in(&engine, "London")?), (1, vec!["alan".to_owned()]));
    engine.close()?;
    std::fs::remove_dir_all(&dir).unwrap_or_default();
    Ok(())
}

//! Random histories: commits, segment changes, compactions, closes and kills, with feeds that come
//! and go.

use std::ops::Bound;

use hightower_engine::{
    AppendMode, Background, Batch, BatchOutcome, ChangeFeed, Durability, Error, SingleNodeEngine, StoreConfig,
};
use hightower_segment::sim::SimFs;

use super::{Commit, drain};
use crate::common::{config, key, open_with, setting};

/// A feed, its range, and the seqno up to which it has returned everything.
struct Reader {
    feed: ChangeFeed,
    bounds: (Bound<Vec<u8>>, Bound<Vec<u8>>),
    is_durable: bool,
    after: u64,
}

/// A store, and the commits that it has made.
struct History {
    fs: SimFs,
    engine: Option<SingleNodeEngine>,
    commits: Vec<Commit>,
    readers: Vec<Reader>,
    config: StoreConfig,
    random: u64,
    resumed: usize,
    lost: usize,
}

impl History {
    fn new(seed: u64) -> Self {
        let mode = if seed.is_multiple_of(2) { AppendMode::Mapped } else { AppendMode::Positioned };
        let fs = SimFs::new();
        let history_bytes = [0, 30_000, 1 << 30][seed as usize / 2 % 3];
        let config = config(mode).with_history_bytes(history_bytes);
        let engine = Some(open_with(&fs, config.clone(), seed, Background::Caller).unwrap());
        let random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        Self { fs, engine, commits: Vec::new(), readers: Vec::new(), config, random, resumed: 0, lost: 0 }
    }

    fn next(&mut self, bound: u64) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % bound
    }

    fn engine(&self) -> &SingleNodeEngine {
        self.engine.as_ref().unwrap()
    }

    fn some_key(&mut self) -> Vec<u8> {
        key(self.next(12) as u8)
    }

    fn commit(&mut self) {
        let mut batch = Batch::new();
        let mut changes = Vec::new();
        for _ in 0..=self.next(4) {
            let key = self.some_key();
            let len = if self.next(20) == 0 { 1500 } else { self.next(60) as usize };
            let value = (self.next(4) > 0).then(|| vec![self.random as u8; len]);
            match &value {
                Some(value) => batch.put(&key, value),
                None => batch.delete(&key),
            };
            changes.push((key, value, 0));
        }
        let durability = if self.next(4) == 0 { Durability::Sync } else { Durability::Os };
        let BatchOutcome::Committed(committed) = self.engine().commit_with(&batch, durability).unwrap() else {
            panic!("rejected")
        };
        for (change, version) in changes.iter_mut().zip(committed.versions) {
            change.2 = version;
        }
        self.commits.push((committed.seq, changes));
    }

    fn some_bounds(&mut self) -> (Bound<Vec<u8>>, Bound<Vec<u8>>) {
        match self.next(4) {
            0 => (Bound::Unbounded, Bound::Unbounded),
            1 => (Bound::Included(self.some_key()), Bound::Unbounded),
            2 => (Bound::Unbounded, Bound::Excluded(self.some_key())),
            _ => {
                let (from, to) = (self.some_key(), self.some_key());
                (Bound::Excluded(from.clone().min(to.clone())), Bound::Included(from.max(to)))
            }
        }
    }

    /// A new feed from any place: the end, a commit of the model, or the end of a closed one.
    fn watch(&mut self, bounds: (Bound<Vec<u8>>, Bound<Vec<u8>>), after: u64, is_durable: bool) {
        let engine = self.engine();
        let feed = if is_durable { engine.watch_durable(&bounds, after) } else { engine.watch(&bounds, after) };
        let oldest = engine.stats().feeds.oldest_seqno;
        match feed {
            Ok(feed) => {
                assert!(after >= oldest, "resumed at {after}, and {oldest} is the oldest");
                self.readers.push(Reader { feed, bounds, is_durable, after });
                self.resumed += 1;
            }
            Err(Error::HistoryLost { oldest: told }) => {
                assert!(told == oldest && after < told, "{after} is not lost: {told}, {oldest}");
                assert!(self.config.history_bytes < 1 << 30, "all of the history is kept");
                self.lost += 1;
            }
            Err(error) => panic!("after {after}: {error}"),
        }
    }

    fn watch_somewhere(&mut self) {
        let known = self.commits.len() as u64;
        let at = self.next(known.max(1)) as usize;
        let after = match self.next(3) {
            0 => self.engine().latest_seq(),
            1 => self.commits.get(at).map_or(0, |commit| commit.0),
            _ => 0,
        };
        let bounds = self.some_bounds();
        let is_durable = self.next(4) == 0;
        self.watch(bounds, after, is_durable);
    }

    /// The feed returns what the model has.
    fn read(&mut self, at: usize) {
        let (latest, durable) = (self.engine().latest_seq(), self.engine().stats().durable_seq);
        let reader = &mut self.readers[at];
        let upto = if reader.is_durable { durable } else { latest };
        let found = match drain(&mut reader.feed) {
            Ok(found) => found,
            Err(Error::HistoryLost { oldest }) => {
                assert!(reader.after < oldest && self.config.history_bytes < 1 << 30);
                self.lost += 1;
                self.readers.swap_remove(at);
                return;
            }
            Err(error) => panic!("{error}"),
        };
        let expected = of_model(&self.commits, &reader.bounds, reader.after, upto);
        assert_eq!(found, expected, "after {} up to {upto}, durable: {}", reader.after, reader.is_durable);
        reader.after = reader.feed.seqno();
        assert_eq!(reader.after, upto.max(reader.after));
    }

    /// All feeds end, and begin again in the store that is opened now.
    fn reopen(&mut self, fs: SimFs) {
        let ended: Vec<_> = self
            .readers
            .drain(..)
            .map(|reader| {
                let after = reader.feed.seqno();
                (reader.bounds, after, reader.is_durable)
            })
            .collect();
        self.engine = None;
        let seed = self.random;
        self.engine = Some(open_with(&fs, self.config.clone(), seed, Background::Caller).unwrap());
        self.fs = fs;
        ended.into_iter().for_each(|(bounds, after, is_durable)| self.watch(bounds, after, is_durable));
    }

    fn step(&mut self) {
        match self.next(24) {
            0 => drop(self.engine().run_compaction_now().unwrap()),
            1 => self.engine().flush().unwrap(),
            2 => {
                for at in (0..self.readers.len()).rev() {
                    self.read(at);
                }
                self.engine().close().unwrap();
                self.readers.iter_mut().for_each(|reader| {
                    assert_eq!(reader.feed.try_next().unwrap_err().code(), "closed");
                    assert!(reader.feed.try_next().unwrap().is_none(), "an error ends the feed");
                });
                self.reopen(self.fs.clone());
            }
            // A kill takes nothing.
            3 => {
                for at in (0..self.readers.len()).rev() {
                    self.read(at);
                }
                self.reopen(self.fs.after_kill());
            }
            4 | 5 => self.watch_somewhere(),
            6 if !self.readers.is_empty() => {
                let at = self.next(self.readers.len() as u64) as usize;
                self.readers.swap_remove(at);
            }
            7..10 if !self.readers.is_empty() => {
                let at = self.next(self.readers.len() as u64) as usize;
                self.read(at);
            }
            10 => (0..200).for_each(|_| self.commit()),
            _ => self.commit(),
        }
    }
}

fn of_model(commits: &[Commit], bounds: &(Bound<Vec<u8>>, Bound<Vec<u8>>), after: u64, upto: u64) -> Vec<Commit> {
    let holds = |key: &Vec<u8>| std::ops::RangeBounds::contains(bounds, key);
    let near = commits.iter().filter(|(seqno, _)| (after + 1..=upto).contains(seqno));
    let within =
        near.map(|(seqno, changes)| (*seqno, changes.iter().filter(|change| holds(&change.0)).cloned().collect()));
    within.filter(|(_, changes): &Commit| !changes.is_empty()).collect()
}

#[test]
fn every_history_is_told_once_in_order_and_whole() {
    let (first, cases) = (setting("HIGHTOWER_TEST_SEED", 1), setting("HIGHTOWER_TEST_CASES", 20));
    let (mut resumed, mut lost, mut commits) = (0, 0, 0);
    for seed in first..first + cases {
        let mut history = History::new(seed);
        (0..300).for_each(|_| history.step());
        for at in (0..history.readers.len()).rev() {
            history.read(at);
        }
        (resumed, lost, commits) = (resumed + history.resumed, lost + history.lost, commits + history.commits.len());
    }
    println!("{cases} histories, {commits} commits, {resumed} feeds begun, {lost} too late");
    assert!(cases < 20 || (resumed > 200 && lost > 20), "{resumed} {lost}");
}

//! A follower on a thread of its own, that compares what it shows with what the writer has done.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use hightower_engine::{Components, Error, Follower, FollowerConfig, FollowerFeed, KvReader, Snapshot};

use crate::moving_dir::MovingFs;

pub(crate) type Pairs = BTreeMap<Vec<u8>, Vec<u8>>;

/// All states of the writer, in order. No two are alike.
#[derive(Debug, Default)]
pub(crate) struct Past {
    /// The state after each commit, the empty one first.
    pub(crate) states: Vec<Pairs>,
    /// The number of states whose commits have returned.
    pub(crate) returned: usize,
}

/// What the follower is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// Catch up, and compare. Every returned commit must be there.
    CatchUp,
    /// The same with a new follower.
    Open,
    /// Hold a snapshot of now.
    Hold,
    /// Compare the held snapshots with what they were, and drop them.
    Release,
    /// Catch up after a power loss that has left this number of states.
    Diverge { kept: usize },
}

/// What it answers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) shown: usize,
    pub(crate) divergences: u64,
    pub(crate) restarts: u64,
    pub(crate) index_memory_bytes: u64,
    pub(crate) held_segments: u64,
    pub(crate) tables: usize,
    /// The number of commits that its feed has returned.
    pub(crate) fed: u64,
    /// How often its feed has lost history.
    pub(crate) lost_feeds: u64,
}

/// A follower, asked from another thread: it must not take part in the writer's order of locks.
#[derive(Debug)]
pub(crate) struct Witness {
    asks: Option<Sender<Ask>>,
    answers: Mutex<Receiver<Result<Seen, String>>>,
    thread: Option<JoinHandle<()>>,
}

struct Eye {
    fs: MovingFs,
    past: Arc<Mutex<Past>>,
    follower: Follower,
    held: Vec<(Snapshot, Pairs)>,
    /// The number of the state that it has shown last.
    shown: usize,
    feed: Fed,
}

/// A feed, and the state that its changes lead to.
struct Fed {
    feed: FollowerFeed,
    pairs: Pairs,
    /// The number of that state.
    nth: usize,
    returned: u64,
    lost: u64,
    /// Whether the writer keeps all commits.
    is_kept: bool,
}

pub(crate) fn pairs_of(reader: &dyn KvReader) -> Result<Pairs, Error> {
    let all = reader.prefix(b"")?;
    all.map(|pair| pair.map(|(key, value)| (key, value.to_vec()))).collect()
}

fn open(fs: &MovingFs) -> Result<Follower, Error> {
    Follower::with_components(FollowerConfig::at("/store"), Components::default().with_fs(Arc::new(fs.clone())))
}

impl Witness {
    pub(crate) fn new(fs: &MovingFs, past: &Arc<Mutex<Past>>, is_kept: bool) -> Self {
        let ((asks, asked), (answer, answers)) = (channel(), channel());
        let (fs, past) = (fs.clone(), Arc::clone(past));
        let follower = open(&fs).unwrap();
        let feed = follower.watch(.., 0).unwrap();
        let feed = Fed { feed, pairs: Pairs::new(), nth: 0, returned: 0, lost: 0, is_kept };
        let mut eye = Eye { fs, past, follower, held: Vec::new(), shown: 0, feed };
        let thread = std::thread::spawn(move || {
            for ask in asked {
                let seen = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| eye.answer(ask)));
                let seen = seen.unwrap_or_else(|_| Err("it panics".to_owned()));
                if answer.send(seen).is_err() {
                    return;
                }
            }
        });
        Self { asks: Some(asks), answers: Mutex::new(answers), thread: Some(thread) }
    }

    pub(crate) fn ask(&self, ask: Ask) -> Result<Seen, String> {
        self.asks.as_ref().unwrap().send(ask).unwrap();
        self.answers.lock().unwrap().recv().unwrap()
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.asks = None;
        self.thread.take().unwrap().join().unwrap();
    }
}

impl Eye {
    fn answer(&mut self, ask: Ask) -> Result<Seen, String> {
        match ask {
            Ask::CatchUp => {
                self.follower.catch_up().map_err(|error| format!("catches up with {error}"))?;
                self.compare()?;
                self.read_feed()?;
            }
            Ask::Open => {
                self.follower = open(&self.fs).map_err(|error| format!("does not open: {error}"))?;
                self.compare()?;
                // A feed of the new follower goes on where the last one ended.
                match self.follower.watch(.., self.feed.feed.seqno()) {
                    Ok(feed) => self.feed.feed = feed,
                    Err(lost) => self.feed_anew(lost)?,
                }
                self.read_feed()?;
            }
            Ask::Hold => {
                let snapshot = self.follower.snapshot().map_err(|error| error.to_string())?;
                let pairs = pairs_of(&snapshot).map_err(|error| error.to_string())?;
                self.held.push((snapshot, pairs));
            }
            Ask::Release => {
                for (snapshot, pairs) in self.held.drain(..) {
                    let found = pairs_of(&snapshot).map_err(|error| format!("a snapshot has {error}"))?;
                    if found != pairs {
                        return Err("a snapshot has changed".to_owned());
                    }
                }
            }
            Ask::Diverge { kept } => self.diverge(kept)?,
        }
        let stats = self.follower.stats();
        Ok(Seen {
            shown: self.shown,
            divergences: stats.divergences,
            restarts: stats.restarts,
            index_memory_bytes: stats.index_memory_bytes,
            held_segments: stats.held_segments,
            tables: stats.tables.len(),
            fed: self.feed.returned,
            lost_feeds: self.feed.lost,
        })
    }

    /// It shows every returned commit, and at most the one in progress.
    fn compare(&mut self) -> Result<(), String> {
        let past = self.past.lock().unwrap();
        let found = pairs_of(&self.follower).map_err(|error| format!("reads {error}"))?;
        let nth = past.states.iter().rposition(|state| *state == found);
        let Some(nth) = nth else { return Err(format!("shows no state of the writer: {} keys", found.len())) };
        if nth < self.shown {
            return Err(format!("has gone back from {} to {nth}", self.shown));
        }
        if nth + 1 < past.returned {
            return Err(format!("shows state {nth} of {} that have returned", past.returned));
        }
        self.shown = nth;
        let len = self.follower.len().map_err(|error| error.to_string())?;
        if len != found.len() as u64 {
            return Err(format!("counts {len} keys, and shows {}", found.len()));
        }
        for (key, value) in found.iter().take(5) {
            let got = self.follower.get(key).map_err(|error| format!("gets {error}"))?;
            if got.as_deref() != Some(&value[..]) {
                return Err("gets another value than its range has".to_owned());
            }
        }
        Ok(())
    }

    /// Each commit leads from one state of the writer to the next one.
    fn read_feed(&mut self) -> Result<(), String> {
        loop {
            match self.feed.feed.try_next() {
                Ok(Some(commit)) => {
                    let fed = &mut self.feed;
                    for change in commit.changes() {
                        match change.value().map_err(|error| format!("has a change with {error}"))? {
                            Some(value) => fed.pairs.insert(change.key().to_vec(), value.to_vec()),
                            None => fed.pairs.remove(change.key()),
                        };
                    }
                    (fed.nth, fed.returned) = (fed.nth + 1, fed.returned + 1);
                    if self.past.lock().unwrap().states.get(fed.nth) != Some(&fed.pairs) {
                        return Err(format!("has a feed that leads to no state {}", fed.nth));
                    }
                }
                Ok(None) => break,
                Err(lost) => self.feed_anew(lost)?,
            }
        }
        // It may have caught up meanwhile.
        let past = self.past.lock().unwrap();
        if self.feed.nth < self.shown || self.feed.nth >= past.states.len() {
            return Err(format!("has a feed at state {}, and shows {}", self.feed.nth, self.shown));
        }
        Ok(())
    }

    fn feed_anew(&mut self, failure: Error) -> Result<(), String> {
        match failure {
            Error::HistoryLost { .. } if !self.feed.is_kept => self.feed.lost += 1,
            failure => return Err(format!("has a feed with {failure}")),
        }
        self.begin_feed()
    }

    fn begin_feed(&mut self) -> Result<(), String> {
        let snapshot = self.follower.snapshot().map_err(|error| error.to_string())?;
        let fed = &mut self.feed;
        fed.pairs = pairs_of(&snapshot).map_err(|error| error.to_string())?;
        let past = self.past.lock().unwrap();
        fed.nth = past.states.iter().rposition(|state| *state == fed.pairs).ok_or("begins a feed at no state")?;
        drop(past);
        match self.follower.watch(.., snapshot.seq()) {
            Ok(feed) => fed.feed = feed,
            // Compaction has come between.
            Err(Error::HistoryLost { .. }) if !fed.is_kept => return self.begin_feed(),
            Err(failure) => return Err(format!("begins a feed with {failure}")),
        }
        Ok(())
    }

    fn diverge(&mut self, kept: usize) -> Result<(), String> {
        let had = self.shown;
        let fed = self.feed.nth;
        match self.follower.catch_up() {
            Err(Error::Diverged { .. }) if had + 1 > kept => self.shown = 0,
            Ok(_) if had < kept => {}
            other => return Err(format!("catches up with {other:?} at state {had}, of which {kept} are left")),
        }
        self.compare()?;
        if fed + 1 > kept {
            match self.feed.feed.try_next() {
                Err(Error::Diverged { .. }) => {}
                Err(Error::HistoryLost { .. }) if !self.feed.is_kept => {}
                other => return Err(format!("has a feed with {other:?} at state {fed}, of which {kept} are left")),
            }
            self.begin_feed()?;
        }
        self.read_feed()
    }
}

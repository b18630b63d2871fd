//! The followers of one end of the log: the visible one, or the durable one.
//!
//! A lane reads each commit once for all of its followers, and puts its place into the rings of
//! those that watch one of its keys. A ring is short. When it is full, the follower reads on by
//! itself, from the first commit that has no place in the ring, until it has caught up.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::feed::cursor::{CommitPlace, LogCursor};
use crate::feed::log::FeedLog;
use crate::feed::signal::FeedSignal;
use crate::feed::watched_range::{RangeIndex, WatchedRange};
use crate::mutants::planted;

/// Maximum number of places in a ring.
const RING_LEN: usize = 64;
/// Number of commits that are examined under one hold of the lock.
const EXAMINED_PER_HOLD: usize = 256;

/// The feeds that read up to one end of the log.
#[derive(Debug, Default)]
pub(crate) struct Lane {
    members: HashMap<u64, Member>,
    /// Number of members that follow.
    followers: usize,
    /// The ranges of the members.
    index: RangeIndex,
    /// The next commit to examine. `None` while nobody follows.
    cursor: Option<LogCursor>,
    /// The members that watch a key of the commit that is examined.
    hits: Vec<u64>,
}

/// A feed, for its lane.
#[derive(Debug)]
struct Member {
    signal: Arc<FeedSignal>,
    /// Whether the lane examines commits for it. Otherwise it reads by itself.
    is_following: bool,
    /// The places of commits for it, in order.
    ring: VecDeque<CommitPlace>,
    /// The first commit that found the ring full.
    overflow: Option<LogCursor>,
    /// Whether it has taken places that it may not have read yet.
    has_taken: bool,
    /// It has read all commits up to this seqno.
    after: u64,
    /// While it follows: it has read, or its ring has had, its commits up to this seqno.
    told: u64,
}

/// What a feed gets from its lane.
#[derive(Debug)]
pub(crate) enum Taken {
    /// Places of commits.
    Places,
    /// The place from which the feed reads by itself.
    Overflow(LogCursor),
    /// Nothing: each examined commit that the feed watches was taken.
    Nothing,
}

impl Lane {
    pub(crate) fn add(&mut self, id: u64, range: WatchedRange, signal: &Arc<FeedSignal>, after: u64) {
        let member = Member {
            signal: Arc::clone(signal),
            is_following: false,
            ring: VecDeque::new(),
            overflow: None,
            has_taken: false,
            after,
            told: after,
        };
        self.members.insert(id, member);
        self.index.add(id, range);
    }

    pub(crate) fn remove(&mut self, id: u64) {
        if let Some(member) = self.members.remove(&id) {
            self.followers -= usize::from(member.is_following);
            self.index.note_removed();
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }

    pub(crate) fn has_followers(&self) -> bool {
        self.followers > 0
    }

    /// The number of places in all rings.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.members.values().map(|member| member.ring.len()).sum()
    }

    /// The feed has read everything before `cursor`, and follows from there on. If the lane has
    /// examined more than that, it does so again.
    pub(crate) fn follow(&mut self, id: u64, cursor: &LogCursor) {
        let Some(member) = self.members.get_mut(&id) else { return };
        member.note_read(cursor.read_up_to());
        (member.told, member.is_following) = (cursor.read_up_to(), true);
        let is_first = self.followers == 0;
        self.followers += 1;
        let has_examined_more = |examined: &LogCursor| cursor.next_seq() < examined.next_seq();
        let is_ahead = self.cursor.as_ref().is_none_or(has_examined_more) && !planted("follower_begins_late");
        if is_first || is_ahead {
            self.cursor = Some(cursor.clone());
        }
    }

    /// The feed reads by itself, and has read all commits up to this seqno.
    pub(crate) fn note_read(&mut self, id: u64, after: u64) {
        if let Some(member) = self.members.get_mut(&id) {
            member.note_read(after);
        }
    }

    /// Puts into `places`, which is empty, the places for this feed, if there are any.
    pub(crate) fn take(&mut self, id: u64, places: &mut VecDeque<CommitPlace>) -> Taken {
        let Some(member) = self.members.get_mut(&id) else { return Taken::Nothing };
        member.has_taken = false;
        if let Some(first) = member.ring.front() {
            (member.after, member.has_taken) = (first.seq.saturating_sub(1), true);
            std::mem::swap(&mut member.ring, places);
            return Taken::Places;
        }
        match member.overflow.take() {
            Some(cursor) => {
                member.note_read(cursor.read_up_to());
                Taken::Overflow(cursor)
            }
            None => Taken::Nothing,
        }
    }

    /// Whether there are followers and commits up to `limit` that were not examined for them.
    pub(crate) fn is_behind(&self, limit: u64) -> bool {
        self.has_followers() && self.cursor.as_ref().is_some_and(|cursor| cursor.next_seq() <= limit)
    }

    /// Examines some commits up to `limit`. Adds the signals of the feeds that should look.
    pub(crate) fn examine(&mut self, log: &FeedLog, limit: u64, signals: &mut Vec<Arc<FeedSignal>>) {
        let Self { members, followers, index, cursor, hits } = self;
        if *followers == 0 {
            return;
        }
        index.refresh(|id| members.contains_key(&id));
        let Some(at) = cursor else { return };
        for _ in 0..EXAMINED_PER_HOLD {
            hits.clear();
            let next = at.next(log, limit, |_, command| index.for_each_with(command.key(), |id| hits.push(id)));
            match next {
                Ok(Some((seq, offset, segment))) => {
                    if hits.is_empty() {
                        continue;
                    }
                    let place = CommitPlace::of(&segment, offset, seq);
                    hits.sort_unstable();
                    hits.dedup();
                    for id in hits.iter() {
                        if let Some(member) = members.get_mut(id).filter(|member| member.is_following) {
                            member.push(&place, signals);
                            *followers -= usize::from(!member.is_following);
                        }
                    }
                }
                Ok(None) => return,
                Err(_) => {
                    // Each follower reads on by itself, and meets the failure.
                    for member in members.values_mut().filter(|member| member.is_following) {
                        member.read_alone_from(at.clone(), signals);
                    }
                    (*followers, *cursor) = (0, None);
                    return;
                }
            }
        }
    }

    /// Each feed has read all commits up to its seqno in this list.
    pub(crate) fn read_up_to(&self) -> impl Iterator<Item = u64> {
        let examined = self.cursor.as_ref().map(|cursor| cursor.read_up_to());
        self.members.values().map(move |member| member.read_up_to(examined))
    }

    pub(crate) fn signal_all(&self, signals: &mut Vec<Arc<FeedSignal>>) {
        signals.extend(self.members.values().map(|member| Arc::clone(&member.signal)));
    }
}

impl Member {
    fn push(&mut self, place: &CommitPlace, signals: &mut Vec<Arc<FeedSignal>>) {
        if place.seq <= self.told && !planted("followers_told_twice") {
            return;
        }
        self.told = place.seq;
        if self.ring.is_empty() {
            signals.push(Arc::clone(&self.signal));
        }
        if self.ring.len() < RING_LEN || planted("ring_without_bound") {
            self.ring.push_back(place.clone());
        } else if planted("overflow_drops") {
            self.ring.clear();
        } else {
            self.read_alone_from(place.cursor(), signals);
        }
    }

    fn read_alone_from(&mut self, cursor: LogCursor, signals: &mut Vec<Arc<FeedSignal>>) {
        (self.is_following, self.overflow) = (false, Some(cursor));
        signals.push(Arc::clone(&self.signal));
    }

    fn note_read(&mut self, after: u64) {
        self.after = self.after.max(after);
    }

    fn read_up_to(&self, examined: Option<u64>) -> u64 {
        match self.ring.front() {
            _ if self.has_taken => self.after,
            Some(first) => first.seq.saturating_sub(1),
            None => examined.filter(|_| self.is_following).unwrap_or(self.after),
        }
    }
}

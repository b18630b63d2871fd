//! The segments of commits in their order, for readers that follow the log.
//!
//! The list is always complete: it has every segment with commits above one seqno. When compaction
//! has removed a segment, the list keeps it as long as a feed or the history needs it; after that,
//! the list begins behind it.

use std::collections::BTreeMap;
use std::sync::Arc;

use hightower_log::SegmentKind;
use hightower_segment::{CommitHistory, LostCommits, Segment};

use crate::error::{Error, Result};
use crate::mutants::planted;
use crate::sync::Mutex;

/// The log of a store, for feeds.
#[derive(Debug)]
pub(crate) struct FeedLog {
    state: Mutex<FeedLogState>,
}

#[derive(Debug)]
struct FeedLogState {
    history: CommitHistory,
    /// By their base seq.
    segments: BTreeMap<u64, FeedSegment>,
    /// Segments that were removed from the list, and that the manifest may still name.
    given_up: Vec<Arc<Segment>>,
    is_closed: bool,
}

#[derive(Debug)]
struct FeedSegment {
    segment: Arc<Segment>,
    standing: Standing,
}

/// The place of a segment in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Live,
    /// Compaction has removed it, and only feeds keep it.
    Removed,
    /// Compaction has removed it, and the manifest names it as history.
    Retained,
}

impl FeedLog {
    /// The log of a store with these segments, and those that are retained as history.
    pub(crate) fn new(
        history: CommitHistory,
        live: impl Iterator<Item = Arc<Segment>>,
        retained: Vec<Arc<Segment>>,
    ) -> Self {
        let is_held = |segment: &Arc<Segment>| {
            let last_seq = segment.last_seq().unwrap_or(u64::MAX);
            segment.kind() == SegmentKind::Append && last_seq > history.complete_after
        };
        let (retained, given_up) = retained.into_iter().partition::<Vec<_>, _>(is_held);
        let retained = retained.into_iter().map(|segment| FeedSegment { segment, standing: Standing::Retained });
        let live = live.filter(is_held).map(FeedSegment::live);
        let segments = live.chain(retained).map(|found| (found.segment.header().base_seq, found)).collect();
        Self { state: Mutex::new(FeedLogState { history, segments, given_up, is_closed: false }) }
    }

    /// Adds the segment that the next commit goes to. The caller holds the commit lock.
    pub(crate) fn add(&self, segment: &Arc<Segment>) {
        let added = FeedSegment::live(Arc::clone(segment));
        self.state.lock().segments.insert(segment.header().base_seq, added);
    }

    /// The segment of the first commit above `after`; commits at or below `after` may come first.
    /// `None` if the log of a store that is open for reading ends before.
    ///
    /// # Errors
    ///
    /// [`Error::HistoryLost`], [`Error::Diverged`], [`Error::Closed`].
    pub(crate) fn segment_after(&self, after: u64, visible: u64) -> Result<Option<Arc<Segment>>> {
        let state = self.state.lock();
        state.check_open()?;
        // What is lost before the begin of the log is gone like everything there.
        let is_within = |lost: &LostCommits| lost.to > state.history.complete_after;
        if let Some(LostCommits { from, .. }) = state.history.lost_at(after).filter(is_within) {
            return Err(Error::Diverged { last_kept: from - 1 });
        }
        if after > visible {
            return Err(Error::Diverged { last_kept: visible });
        }
        state.check_held(after)?;
        let has_more = |found: &(&u64, &FeedSegment)| found.1.segment.last_seq().is_none_or(|last| last > after);
        let begins_before = state.segments.range(..=after).next_back().filter(has_more);
        let found = begins_before.or_else(|| state.segments.range(after + 1..).next());
        Ok(found.map(|(_, found)| Arc::clone(&found.segment)))
    }

    /// The segment behind that with this base seq, for a reader that has read all commits up to
    /// `after`.
    ///
    /// # Errors
    ///
    /// [`Error::HistoryLost`] if commits between `after` and that segment are gone;
    /// [`Error::Closed`].
    pub(crate) fn next_segment(&self, base_seq: u64, after: u64) -> Result<Option<Arc<Segment>>> {
        let state = self.state.lock();
        state.check_open()?;
        if !planted("lost_segments_skipped") {
            state.check_held(after)?;
        }
        Ok(state.segments.range(base_seq + 1..).next().map(|(_, found)| Arc::clone(&found.segment)))
    }

    /// Each commit above this seqno is there, but for those lost in crashes.
    pub(crate) fn complete_after(&self) -> u64 {
        self.state.lock().history.complete_after
    }

    /// Notes that compaction has removed these segments; `are_retained` tells whether the manifest
    /// names them as history.
    pub(crate) fn note_removed(&self, ids: &[u32], are_retained: bool) {
        let mut state = self.state.lock();
        for found in state.segments.values_mut().filter(|found| ids.contains(&found.segment.id())) {
            found.standing = if are_retained { Standing::Retained } else { Standing::Removed };
        }
    }

    /// Notes as removed each segment that does not exist any more.
    pub(crate) fn note_existing(&self, exists: impl Fn(u32) -> bool) {
        for found in self.state.lock().segments.values_mut().filter(|found| !exists(found.segment.id())) {
            found.standing = Standing::Removed;
        }
    }

    /// Notes the commits that crashes have taken, of a later manifest.
    pub(crate) fn note_lost(&self, lost: &[LostCommits]) {
        lost.clone_into(&mut self.state.lock().history.lost);
    }

    /// The last commit of the segments that ended before this time, in Unix milliseconds; 0 if none
    /// did.
    pub(crate) fn ended_before(&self, time_ms: i64) -> u64 {
        let state = self.state.lock();
        // A segment ends when the next one is created.
        let later = state.segments.values().skip(1).map(|found| found.segment.header().created_ms);
        let ended = state.segments.values().zip(later).take_while(|(_, end_ms)| *end_ms < time_ms);
        ended.last().and_then(|(found, _)| found.segment.last_seq()).unwrap_or(0)
    }

    /// A reader that has read all commits up to this seqno, or more, is at most `max_bytes` behind
    /// the end.
    pub(crate) fn within(&self, max_bytes: u64) -> u64 {
        let state = self.state.lock();
        let mut unread_bytes = 0;
        for (base_seq, found) in state.segments.iter().rev() {
            unread_bytes += u64::from(found.segment.len_bytes());
            if unread_bytes > max_bytes {
                if planted("lag_up_to_the_next_segment") {
                    return state.segments.range(base_seq + 1..).next().map_or(u64::MAX, |(next, _)| next - 1);
                }
                // Seqnos jump between segments: not the one before the next segment.
                return found.segment.last_seq().unwrap_or(u64::MAX);
            }
        }
        0
    }

    /// Gives removed segments up that have no commit above `needed_after`, and with them every
    /// earlier segment.
    pub(crate) fn give_up_to(&self, needed_after: u64) {
        let mut state = self.state.lock();
        let removed = state.segments.values().filter(|found| found.standing != Standing::Live);
        let last_seq = removed.filter_map(|found| found.segment.last_seq()).filter(|last| *last <= needed_after).max();
        let Some(last_seq) = last_seq else { return };
        let kept = state.segments.split_off(&last_seq.saturating_add(1));
        let given_up = std::mem::replace(&mut state.segments, kept);
        let retained = given_up.values().filter(|found| found.standing == Standing::Retained);
        if !planted("given_up_history_stays_named") {
            state.given_up.extend(retained.map(|found| Arc::clone(&found.segment)));
        }
        state.history.complete_after = state.history.complete_after.max(last_seq);
        // The last holder unmaps a file: not under the lock.
        drop(state);
        drop(given_up);
    }

    /// The retained segments that the list has given up since the last call.
    pub(crate) fn take_given_up(&self) -> Vec<Arc<Segment>> {
        std::mem::take(&mut self.state.lock().given_up)
    }

    /// Bytes of the segments that only feeds hold.
    pub(crate) fn removed_bytes(&self) -> u64 {
        self.bytes_of(Standing::Removed)
    }

    /// Bytes of the segments that are kept as history.
    pub(crate) fn retained_bytes(&self) -> u64 {
        self.bytes_of(Standing::Retained)
    }

    fn bytes_of(&self, standing: Standing) -> u64 {
        let state = self.state.lock();
        let segments = state.segments.values().filter(|found| found.standing == standing);
        segments.map(|found| u64::from(found.segment.len_bytes())).sum()
    }

    /// Gives everything up: the store is closing.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.is_closed = true;
        let segments = (std::mem::take(&mut state.segments), std::mem::take(&mut state.given_up));
        drop(state);
        drop(segments);
    }
}

impl FeedLogState {
    /// A reader must not take the end of the list for the end of the log.
    fn check_open(&self) -> Result<()> {
        if self.is_closed { Err(Error::Closed) } else { Ok(()) }
    }

    fn check_held(&self, after: u64) -> Result<()> {
        let oldest = self.history.complete_after;
        if after < oldest { Err(Error::HistoryLost { oldest }) } else { Ok(()) }
    }
}

impl FeedSegment {
    fn live(segment: Arc<Segment>) -> Self {
        Self { segment, standing: Standing::Live }
    }
}

#[cfg(test)]
mod tests {
    use crate::components::{Background, Components};
    use crate::config::StoreConfig;
    use crate::engine::SingleNodeEngine;

    #[test]
    fn a_reader_at_the_end_of_a_segment_lags_by_the_later_ones() {
        let dir = tempfile::tempdir().unwrap();
        let config = StoreConfig::at(dir.path()).with_min_segment_size(16 << 10).with_max_segment_size(16 << 10);
        // No thread seals a segment meanwhile.
        let components = Components::default().with_background(Background::Caller);
        let engine = SingleNodeEngine::with_components(config, components).unwrap();
        for number in 0..1000_u32 {
            engine.put(number.to_le_bytes(), [7; 90]).unwrap();
        }
        let log = engine.feeds.log();
        let segments: Vec<_> = log.state.lock().segments.values().map(|found| found.segment.clone()).collect();
        let mut jumps = 0;
        for pair in segments.windows(2) {
            let last_seq = pair[0].last_seq().unwrap();
            jumps += usize::from(pair[1].header().base_seq > last_seq + 1);
            let later = segments.iter().filter(|segment| segment.header().base_seq > last_seq);
            let unread_bytes = later.map(|segment| u64::from(segment.len_bytes())).sum();
            assert!(log.within(unread_bytes) <= last_seq, "{last_seq} is {unread_bytes} bytes behind");
            assert!(log.within(unread_bytes - 1) > last_seq, "{last_seq} is {unread_bytes} bytes behind");
        }
        assert!(jumps > 0, "no seqnos jump in {} segments", segments.len());
        assert_eq!(log.within(u64::MAX), 0);
    }
}

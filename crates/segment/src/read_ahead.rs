//! Having the device read what a sequential reader will need.
//!
//! The readers' maps are advised as read at random, so that a lookup brings the pages of its record
//! and no others. Who reads all of a segment from front to back says so for that time
//! ([`InOrder`]); the system then reads ahead. A reader of many records that stand one behind the
//! other only for a while asks for windows ahead of it ([`ReadAhead`]): small at first, so that a
//! look at a few records brings little, and each twice as long as the one before. Then it counts as
//! a reader of the whole segment: windows come in single small pages, which cost three times the
//! processor time of the large ones that the system reads ahead by itself.

use std::ops::{Deref, Range};
use std::sync::{Arc, Weak};

use crate::mutants::planted;
use crate::segment::Segment;

const FIRST_WINDOW_BYTES: u32 = 64 << 10;
const LONGEST_WINDOW_BYTES: u32 = 512 << 10;
/// The system cuts a longer wish, without an error, to what it reads ahead of a file or to the
/// device's longest request, whichever is more. Both are rarely below this.
const WISH_BYTES: u32 = 128 << 10;
/// Who has come so far into a segment reads all of it.
const LOOK_BYTES: u32 = FIRST_WINDOW_BYTES / 2;

/// How far the device was asked to read ahead of a reader of one segment.
#[derive(Debug, Default)]
pub struct ReadAhead {
    asked_to: u32,
    /// When the reader has come here, the next window is asked for.
    next_at: u32,
    window_bytes: u32,
    /// The segment, once the reader counts as one of all of it. Weak: a reader may wait for long,
    /// and the segment's file is not to wait for it.
    in_order: Option<Weak<Segment>>,
}

impl Drop for ReadAhead {
    fn drop(&mut self) {
        self.end();
    }
}

impl ReadAhead {
    /// It no longer counts as a reader of the whole segment, if it did.
    fn end(&mut self) {
        if let Some(segment) = self.in_order.take().and_then(|segment| segment.upgrade()) {
            segment.mapping().end_in_order();
        }
    }

    /// Whether it counts as a reader of the whole segment.
    #[must_use]
    pub fn is_in_order(&self) -> bool {
        self.in_order.is_some()
    }

    /// Whether a reader that has come to `offset` needs another window.
    #[inline]
    #[must_use]
    pub fn is_due(&self, offset: u32) -> bool {
        offset >= self.next_at
    }

    /// The next window for a reader at `offset`: from one to two windows are always ahead of it.
    fn next_window(&mut self, offset: u32) -> Range<u32> {
        self.window_bytes = (self.window_bytes * 2).clamp(FIRST_WINDOW_BYTES, LONGEST_WINDOW_BYTES);
        let from = self.asked_to.max(offset);
        self.asked_to = from.saturating_add(self.window_bytes);
        self.next_at = self.asked_to.saturating_sub(self.window_bytes).max(offset.saturating_add(1));
        from..self.asked_to
    }
}

/// A window in pieces that the system does not cut.
fn wishes(window: Range<u32>) -> impl Iterator<Item = Range<usize>> {
    let wish_bytes = if planted("wishes_are_cut") { LONGEST_WINDOW_BYTES } else { WISH_BYTES };
    let starts = window.clone().step_by(wish_bytes as usize);
    starts.map(move |start| start as usize..start.saturating_add(wish_bytes).min(window.end) as usize)
}

impl Segment {
    /// Has the device read ahead of a reader that goes through the segment from front to back and
    /// has come to `offset`: 64 KiB first, later 512 KiB at once, and then as far as the system
    /// likes, until it is 64 KiB from the end or `ahead` is dropped. Costs a comparison, and a
    /// system call for each 128 KiB of the first 960. Without `may_read_all` windows go on.
    #[inline]
    pub fn read_ahead(self: &Arc<Self>, ahead: &mut ReadAhead, offset: u32, may_read_all: bool) {
        if ahead.is_due(offset) && !planted("nobody_reads_ahead") {
            self.ask_for(ahead, offset, may_read_all);
        }
    }

    #[cold]
    fn ask_for(self: &Arc<Self>, ahead: &mut ReadAhead, offset: u32, may_read_all: bool) {
        if ahead.is_in_order() {
            // The rest has been read ahead.
            ahead.next_at = u32::MAX;
            return ahead.end();
        }
        if may_read_all && ahead.window_bytes == LONGEST_WINDOW_BYTES && !planted("long_scans_ask_for_windows") {
            let nearly_end = self.len_bytes().saturating_sub(FIRST_WINDOW_BYTES);
            ahead.next_at = if planted("readers_stay_at_the_end") { u32::MAX } else { nearly_end };
            ahead.in_order = Some(Arc::downgrade(self));
            self.mapping().begin_in_order();
            return;
        }
        let mut window = ahead.next_window(offset);
        window.end = window.end.min(self.len_bytes());
        if window.is_empty() {
            ahead.next_at = u32::MAX;
        }
        for wish in wishes(window) {
            // If it is refused, the reader waits for each page.
            let _wish = self.mapping().will_need(wish);
        }
    }
}

/// A reader that goes through a segment from front to back, for as long as it lives.
#[derive(Debug)]
pub struct InOrder<S: Deref<Target = Segment>> {
    segment: S,
    /// From here on it is one that reads all of it; before that it may only look at the first
    /// records. `None` once that is so.
    looks_until: Option<u32>,
}

impl<S: Deref<Target = Segment>> InOrder<S> {
    /// A reader of all of it.
    fn of_all(segment: S) -> Self {
        let mut reader = Self::looking(segment, 0);
        reader.begin();
        reader
    }

    /// A reader from `offset` on that may be content with the first records.
    pub(crate) fn looking(segment: S, offset: u32) -> Self {
        Self { segment, looks_until: Some(offset.saturating_add(LOOK_BYTES)) }
    }

    /// The reader has come to `offset`. Costs a comparison.
    #[inline]
    pub(crate) fn go_to(&mut self, offset: u32) {
        if self.looks_until.is_some_and(|until| offset >= until) {
            self.begin();
        }
    }

    #[cold]
    fn begin(&mut self) {
        if self.looks_until.take().is_some() && !planted("nobody_reads_ahead") {
            self.segment.mapping().begin_in_order();
        }
    }
}

impl<S: Deref<Target = Segment>> Drop for InOrder<S> {
    fn drop(&mut self) {
        if self.looks_until.is_none() && !planted("nobody_reads_ahead") {
            self.segment.mapping().end_in_order();
        }
    }
}

impl Segment {
    /// Has the system read ahead, for a reader that goes through all of the segment from front to
    /// back, as long as what this gives lives.
    #[must_use]
    pub fn read_in_order(&self) -> InOrder<&Self> {
        InOrder::of_all(self)
    }

    /// The same for who holds the segment.
    #[must_use]
    pub fn hold_in_order(self: &Arc<Self>) -> InOrder<Arc<Self>> {
        InOrder::of_all(Arc::clone(self))
    }
}

#[cfg(test)]
mod tests {
    use super::{LONGEST_WINDOW_BYTES, ReadAhead, WISH_BYTES, wishes};

    #[test]
    fn no_wish_is_longer_than_the_system_grants() {
        let window = 64..64 + LONGEST_WINDOW_BYTES;
        let wishes: Vec<_> = wishes(window.clone()).collect();
        assert!(wishes.iter().all(|wish| wish.len() <= WISH_BYTES as usize));
        assert!(wishes.windows(2).all(|pair| pair[0].end == pair[1].start));
        let (first, last) = (wishes.first().unwrap(), wishes.last().unwrap());
        assert_eq!(first.start..last.end, window.start as usize..window.end as usize);
        assert_eq!(super::wishes(5..5).count(), 0);
    }

    #[test]
    fn windows_grow_and_stay_ahead() {
        let mut ahead = ReadAhead::default();
        let mut windows = Vec::new();
        for offset in (64..64 << 20).step_by(1000) {
            while ahead.is_due(offset) {
                windows.push(ahead.next_window(offset));
            }
            assert!(ahead.asked_to > offset);
        }
        assert_eq!(
            windows[..3],
            [64..64 + (64 << 10), 64 + (64 << 10)..64 + (192 << 10), 64 + (192 << 10)..64 + (448 << 10)]
        );
        assert!(windows.windows(2).all(|pair| pair[0].end == pair[1].start), "each byte is asked for once");
        assert!((127..135).contains(&windows.len()), "{} windows", windows.len());
    }
}

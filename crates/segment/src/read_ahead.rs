//! Read-ahead for sequential readers.
//!
//! The readers' maps have the advice "random", so that a lookup reads only the pages of its record.
//! A reader of a whole segment from front to back holds an [`InOrder`]; while it lives, the kernel
//! reads ahead. A scan may end soon, so after some pages it requests windows ([`ReadAhead`]): a
//! small one, so that a scan of few records reads little, then each twice as long as the previous
//! one. Windows that are in memory cost a question to the system and no request. After the longest
//! window, the scan counts as a reader of the whole segment, because windows come in
//! single small pages, which cost three times the processor time of the kernel's own read-ahead in
//! large pages.

use std::ops::{Deref, Range};
use std::sync::{Arc, Weak};

use crate::mutants::planted;
use crate::segment::Segment;

const FIRST_WINDOW_BYTES: u32 = 64 << 10;
const LONGEST_WINDOW_BYTES: u32 = 512 << 10;
/// The kernel cuts a longer request, without an error, to the larger of the file's read-ahead size
/// and the device's longest request. Both are rarely below this.
const WISH_BYTES: u32 = 128 << 10;
/// A scan requests its first window after this many bytes. Most short scans end before, and two
/// pages are soon read.
const FIRST_WINDOW_AFTER_BYTES: u32 = 8 << 10;
/// A reader that has read this many bytes of a segment counts as a reader of the whole segment.
const LOOK_BYTES: u32 = FIRST_WINDOW_BYTES / 2;

/// The read-ahead state of one reader of one segment.
#[derive(Debug, Default)]
pub struct ReadAhead {
    asked_to: u32,
    /// At this offset the reader requests the next window.
    next_at: u32,
    window_bytes: u32,
    /// The segment, once the reader counts as a reader of the whole segment. Weak, because a reader
    /// may pause for long, and must not delay the removal of the segment's file.
    in_order: Option<Weak<Segment>>,
}

impl Drop for ReadAhead {
    fn drop(&mut self) {
        self.end();
    }
}

impl ReadAhead {
    /// The state of a reader that begins at `offset`. It requests its first window 8 KiB behind it.
    #[must_use]
    pub fn from(offset: u32) -> Self {
        let after_bytes = if planted("short_scans_ask_for_windows") { 0 } else { FIRST_WINDOW_AFTER_BYTES };
        let mut ahead = Self::default();
        ahead.next_at = offset.saturating_add(after_bytes);
        ahead
    }

    /// Ends its state as a reader of the whole segment, if it is one.
    fn end(&mut self) {
        if let Some(segment) = self.in_order.take().and_then(|segment| segment.upgrade()) {
            segment.mapping().end_in_order();
        }
    }

    /// Whether the reader counts as a reader of the whole segment.
    #[must_use]
    pub fn is_in_order(&self) -> bool {
        self.in_order.is_some()
    }

    /// Whether a reader at `offset` needs another window.
    #[inline]
    #[must_use]
    pub fn is_due(&self, offset: u32) -> bool {
        offset >= self.next_at
    }

    /// The next window for a reader at `offset`, which then always has half a window or more ahead
    /// of it.
    fn next_window(&mut self, offset: u32) -> Range<u32> {
        self.window_bytes = (self.window_bytes * 2).clamp(FIRST_WINDOW_BYTES, LONGEST_WINDOW_BYTES);
        let from = self.asked_to.max(offset);
        self.asked_to = from.saturating_add(self.window_bytes);
        self.next_at = self.asked_to.saturating_sub(self.window_bytes / 2).max(offset.saturating_add(1));
        from..self.asked_to
    }
}

/// A window, divided into requests that the kernel does not cut.
fn wishes(window: Range<u32>) -> impl Iterator<Item = Range<usize>> {
    let wish_bytes = if planted("wishes_are_cut") { LONGEST_WINDOW_BYTES } else { WISH_BYTES };
    let starts = window.clone().step_by(wish_bytes as usize);
    starts.map(move |start| start as usize..start.saturating_add(wish_bytes).min(window.end) as usize)
}

impl Segment {
    /// Reads ahead for a sequential reader at `offset`: first windows of 64 to 512 KiB, then the
    /// kernel's own read-ahead, until the reader is 64 KiB from the end or `ahead` is dropped.
    /// Costs a comparison, and a system call for each 128 KiB of the first 960 KiB. Without
    /// `may_read_all`, the reader requests windows to the end.
    #[inline]
    pub fn read_ahead(self: &Arc<Self>, ahead: &mut ReadAhead, offset: u32, may_read_all: bool) {
        if ahead.is_due(offset) && !planted("nobody_reads_ahead") {
            self.ask_for(ahead, offset, may_read_all);
        }
    }

    #[cold]
    fn ask_for(self: &Arc<Self>, ahead: &mut ReadAhead, offset: u32, may_read_all: bool) {
        if ahead.is_in_order() {
            // The kernel has already read the rest.
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
            // If the kernel refuses, the reader waits for each page.
            let _wish = self.mapping().will_need(wish);
        }
    }
}

/// Marks a reader of a segment from front to back, as long as this value lives.
#[derive(Debug)]
pub struct InOrder<S: Deref<Target = Segment>> {
    segment: S,
    /// From this offset on, it counts as a reader of the whole segment; before that, it may end
    /// after a few records. `None` once it counts.
    looks_until: Option<u32>,
}

impl<S: Deref<Target = Segment>> InOrder<S> {
    /// A reader of the whole segment.
    fn of_all(segment: S) -> Self {
        let mut reader = Self::looking(segment, 0);
        reader.begin();
        reader
    }

    /// A reader from `offset` on, which may end after a few records.
    pub(crate) fn looking(segment: S, offset: u32) -> Self {
        Self { segment, looks_until: Some(offset.saturating_add(LOOK_BYTES)) }
    }

    /// Notes that the reader is at `offset`. Costs a comparison.
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
    /// Turns on the kernel's read-ahead for a reader of the whole segment, as long as the returned
    /// value lives.
    #[must_use]
    pub fn read_in_order(&self) -> InOrder<&Self> {
        InOrder::of_all(self)
    }

    /// Like [`read_in_order`](Self::read_in_order), with its own reference to the segment.
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
        let mut ahead = ReadAhead::from(64);
        assert!(!ahead.is_due(8 << 10), "a short scan requests nothing");
        ahead.next_at = 0;
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
        assert!(windows.windows(2).all(|pair| pair[0].end == pair[1].start), "each byte is requested once");
        assert!((127..135).contains(&windows.len()), "{} windows", windows.len());
    }
}

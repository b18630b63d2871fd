//! The prefault controller: the speed of the log's tail decides the distance and the size of pages
//! touched ahead.
//!
//! Touching huge pages takes a seventh of the time of small ones and half of that of the system's
//! fault-around, and saves TLB misses later. But the system writes a changed huge page as a whole,
//! in a sync or after half a minute. So they are only for a tail that advances by more than one
//! huge page between two syncs and per second.
//!
//! On a virtual machine whose host backs memory only when it is touched, and reclaims free memory,
//! a huge page can take ten times as long; small pages are mostly recently used ones. So touching
//! is timed, and if huge pages come slower than the tail needs them, they are left to the system's
//! fault-around for a while.
//!
//! Long records that overtake the touched pages are written by system calls, which need no touched
//! pages. If most appended bytes are such records, no pages are touched.

use std::time::Duration;

use hightower_segment::{HUGE_PAGE_BYTES, Pages, TailProgress};

/// Maximum distance of touched pages ahead of the tail; less without writes.
const AHEAD_MAX_BYTES: u32 = 4 << 20;
const AHEAD_MIN_BYTES: u32 = 256 << 10;
/// Interval between two measurements of the tail's speed.
const ROUND: Duration = Duration::from_secs(1);
/// Touching a huge page of 2 MiB takes about 250 µs. A touch may be too slow above this time plus
/// the same time per MiB.
const SLOW: Duration = Duration::from_micros(250);
/// It is too slow if it also takes more than 1 / this of the time in which the tail
/// advances by the same length.
const SLOW_SHARE: u32 = 2;
/// Number of slow touches in a row that disable huge pages, because a single one may be noise. A
/// single touch disables them if it takes [`HOPELESS_TIMES`] times the tail's time.
const SLOW_OFTEN: u8 = 3;
const HOPELESS_TIMES: u32 = 4;
/// The minimum time over which the tail's mean speed is computed.
const SPEED_OVER: Duration = Duration::from_millis(2);
/// The time for which huge pages are then disabled.
const DEAR_FOR: Duration = Duration::from_secs(10);

/// The range to touch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ahead {
    pub(crate) len_bytes: u32,
    pub(crate) pages: Pages,
}

/// The observations of the tail.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    last: Option<TailProgress>,
    pages: Pages,
    /// The advance of the tail since the last sync, in rounds with a fast tail.
    unsynced_bytes: u64,
    round_began: Duration,
    round_bytes: u64,
    /// The recent time of the tail per MiB; `None` if it has not advanced.
    time_per_mib: Option<Duration>,
    speed_since: Duration,
    speed_bytes: u64,
    /// Number of consecutive slow touches of huge pages.
    slow_touches: u8,
    /// The end of the time without huge pages.
    dear_until: Duration,
}

impl Pace {
    /// Observes the tail, and returns the range to touch.
    pub(crate) fn look(&mut self, tail: TailProgress, now: Duration) -> Ahead {
        let before = self.last.replace(tail).unwrap_or(tail);
        let before = if before.segment == tail.segment { before } else { TailProgress::default() };
        let moved_bytes = u64::from(tail.len_bytes.saturating_sub(before.len_bytes));
        let written_bytes = u64::from(tail.written_bytes.saturating_sub(before.written_bytes));
        self.unsynced_bytes += moved_bytes;
        self.round_bytes += moved_bytes;
        self.note_speed(moved_bytes, now);
        let is_much = self.unsynced_bytes >= HUGE_PAGE_BYTES as u64;
        if is_much {
            self.pages = Pages::Huge;
        }
        if tail.durable_bytes > before.durable_bytes {
            self.unsynced_bytes = 0;
            if !is_much {
                self.pages = Pages::Small;
            }
        }
        self.end_round(now);
        let len_bytes = match moved_bytes {
            0 => AHEAD_MIN_BYTES,
            _ if 2 * written_bytes > moved_bytes => 0,
            _ => AHEAD_MAX_BYTES,
        };
        let is_dear = self.pages == Pages::Huge && now < self.dear_until;
        Ahead { len_bytes, pages: if is_dear { Pages::Mixed } else { self.pages } }
    }

    /// Records the time of touching a range, of which `touched_bytes` were untouched before.
    pub(crate) fn took(&mut self, ahead: Ahead, touched_bytes: u32, spent: Duration, now: Duration) {
        let Some(time_per_mib) = self.time_per_mib else { return };
        if ahead.pages != Pages::Huge || touched_bytes == 0 {
            return;
        }
        let left = time_of(touched_bytes.into(), time_per_mib);
        let is_slow = spent > SLOW * (1 + (touched_bytes >> 20)) && spent * SLOW_SHARE > left;
        self.slow_touches = if is_slow { self.slow_touches + 1 } else { 0 };
        if self.slow_touches == SLOW_OFTEN || is_slow && spent > left * HOPELESS_TIMES {
            self.slow_touches = 0;
            self.dear_until = now + DEAR_FOR;
        }
    }

    fn note_speed(&mut self, moved_bytes: u64, now: Duration) {
        self.speed_bytes += moved_bytes;
        let since = now.saturating_sub(self.speed_since);
        if since < SPEED_OVER {
            return;
        }
        let per_mib_ns = |bytes| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX).saturating_mul(1 << 20) / bytes;
        self.time_per_mib = (self.speed_bytes > 0).then(|| Duration::from_nanos(per_mib_ns(self.speed_bytes)));
        (self.speed_since, self.speed_bytes) = (now, 0);
    }

    fn end_round(&mut self, now: Duration) {
        if now.saturating_sub(self.round_began) < ROUND {
            return;
        }
        if self.round_bytes < HUGE_PAGE_BYTES as u64 {
            self.unsynced_bytes = 0;
            self.pages = Pages::Small;
        }
        (self.round_began, self.round_bytes) = (now, 0);
    }
}

/// The time of the tail for a number of bytes.
fn time_of(bytes: u64, time_per_mib: Duration) -> Duration {
    let per_mib_ns = u64::try_from(time_per_mib.as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(per_mib_ns.saturating_mul(bytes) >> 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u32 = 1 << 20;

    fn at(segment: u32, len_bytes: u32, durable_bytes: u32) -> TailProgress {
        TailProgress { segment, len_bytes, durable_bytes, written_bytes: 0 }
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_fast_tail_gets_huge_pages_until_it_is_synced_or_slow() {
        let mut pace = Pace::default();
        assert_eq!(pace.look(at(1, 64, 0), ms(0)), Ahead { len_bytes: AHEAD_MIN_BYTES, pages: Pages::Small });
        assert_eq!(pace.look(at(1, MIB, 0), ms(1)), Ahead { len_bytes: AHEAD_MAX_BYTES, pages: Pages::Small });
        assert_eq!(pace.look(at(1, 3 * MIB, 0), ms(2)).pages, Pages::Huge);
        // Into the next segment.
        assert_eq!(pace.look(at(2, MIB, 0), ms(3)).pages, Pages::Huge);
        // Synced after many bytes, and then after few.
        assert_eq!(pace.look(at(2, 4 * MIB, 4 * MIB), ms(4)).pages, Pages::Huge);
        assert_eq!(pace.look(at(2, 4 * MIB + 100, 4 * MIB + 100), ms(5)).pages, Pages::Small);
        assert_eq!(pace.look(at(2, 7 * MIB, 4 * MIB + 100), ms(6)).pages, Pages::Huge);
        // A round without writes.
        assert_eq!(pace.look(at(2, 7 * MIB, 4 * MIB + 100), ms(1006)).pages, Pages::Huge);
        let quiet = pace.look(at(2, 7 * MIB, 4 * MIB + 100), ms(2006));
        assert_eq!(quiet, Ahead { len_bytes: AHEAD_MIN_BYTES, pages: Pages::Small });
    }

    /// A tail that advances by 1 MiB per millisecond, and uses huge pages.
    fn fast(pace: &mut Pace, from_ms: u32) -> Ahead {
        (0..=4).map(|step| pace.look(at(1, (from_ms + step) * MIB, 0), ms((from_ms + step).into()))).last().unwrap()
    }

    #[test]
    fn huge_pages_that_come_slower_than_the_tail_are_not_asked_for_for_a_while() {
        let mut pace = Pace::default();
        let ahead = fast(&mut pace, 1);
        assert_eq!(ahead.pages, Pages::Huge);
        pace.took(ahead, 4 * MIB, ms(1), ms(5));
        assert_eq!(fast(&mut pace, 6).pages, Pages::Huge);
        (0..2).for_each(|_| pace.took(ahead, 2 * MIB, ms(4), ms(10)));
        pace.took(ahead, 2 * MIB, ms(1), ms(10));
        pace.took(ahead, 2 * MIB, ms(4), ms(10));
        assert_eq!(pace.look(at(1, 10 * MIB, 0), ms(10)).pages, Pages::Huge, "not three times in a row");
        (0..2).for_each(|_| pace.took(ahead, 2 * MIB, ms(4), ms(10)));
        assert_eq!(fast(&mut pace, 11).pages, Pages::Mixed);
        let synced = at(1, 16 * MIB, 16 * MIB);
        pace.look(synced, ms(16));
        assert_eq!(pace.look(at(1, 16 * MIB + 9, 16 * MIB + 9), ms(17)).pages, Pages::Small);
        assert_eq!(pace.look(at(1, 20 * MIB, 0), ms(10_011)).pages, Pages::Huge);
    }

    #[test]
    fn huge_pages_that_are_hopelessly_slow_are_given_up_at_once() {
        let mut pace = Pace::default();
        let ahead = fast(&mut pace, 1);
        pace.took(ahead, 2 * MIB, ms(9), ms(14));
        assert_eq!(fast(&mut pace, 14).pages, Pages::Mixed);
    }

    #[test]
    fn huge_pages_may_be_slow_if_the_tail_is_slower() {
        let mut pace = Pace::default();
        // 1 MiB in 4 ms.
        for step in 1..100_u32 {
            let ahead = pace.look(at(1, step * MIB, 0), ms(4 * u64::from(step)));
            assert_eq!(ahead.pages, if step < 3 { Pages::Small } else { Pages::Huge });
            pace.took(ahead, 2 * MIB, Duration::from_micros(3900), ms(4 * u64::from(step) + 4));
        }
        let ahead = pace.look(at(1, 100 * MIB, 0), ms(400));
        (0..3).for_each(|_| pace.took(ahead, 2 * MIB, Duration::from_micros(4100), ms(404)));
        assert_eq!(pace.look(at(1, 101 * MIB, 0), ms(405)).pages, Pages::Mixed);
    }

    #[test]
    fn nothing_is_touched_for_what_is_written() {
        let mut pace = Pace::default();
        pace.look(at(1, 64, 0), ms(0));
        assert_eq!(pace.look(at(1, MIB, 0), ms(1)).len_bytes, AHEAD_MAX_BYTES);
        let written = TailProgress { written_bytes: MIB, ..at(1, 2 * MIB, 0) };
        assert_eq!(pace.look(written, ms(2)).len_bytes, 0);
        assert_eq!(pace.look(written, ms(3)).len_bytes, AHEAD_MIN_BYTES, "who knows what comes");
        assert_eq!(pace.look(TailProgress { len_bytes: 4 * MIB, ..written }, ms(4)).len_bytes, AHEAD_MAX_BYTES);
        assert_eq!(pace.look(TailProgress { written_bytes: MIB, ..at(2, MIB + 64, 0) }, ms(5)).len_bytes, 0);
    }

    #[test]
    fn a_tail_that_is_slow_or_synced_often_gets_small_pages() {
        let (mut slow, mut synced) = (Pace::default(), Pace::default());
        for step in 1..200 {
            assert_eq!(slow.look(at(1, step * MIB / 2, 0), ms(500 * u64::from(step))).pages, Pages::Small);
            assert_eq!(synced.look(at(1, step * MIB, step * MIB), ms(u64::from(step))).pages, Pages::Small);
        }
    }
}

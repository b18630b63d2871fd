//! The lengths of new files: the room on the device that a segment, an output of compaction and a
//! reserve may take.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use hightower_log::MAX_HEAD_LEN_BYTES;
use hightower_log::limits::MAX_KEY_LEN_BYTES;

use crate::error::SegmentError;
use crate::fs::DeviceRoom;
use crate::layout::{OVERHEAD_BYTES, SEAL_LEN_BYTES, SHORT_LEN_BYTES};
use crate::mutants::planted;
use crate::options::MIN_SEGMENT_LEN_BYTES;
use crate::store_dir::StoreDir;

/// Length of a segment that takes no commit.
pub(crate) const OPENING_LEN_BYTES: u32 = 4096;
/// A segment takes at most 1/`DEVICE_SHARE` of the device, so that the reserves take a small part
/// of it, and at most 1/`FREE_SHARE` of the free room.
const DEVICE_SHARE: u64 = 64;
const FREE_SHARE: u64 = 8;
/// Maximum length of the reserves for the tail and for compaction, while the device has room for
/// many segments.
const AMPLE_RESERVE_LEN_BYTES: u32 = 1 << 20;
/// Maximum length of these reserves, unless a segment is longer.
const FIRST_RESERVE_LEN_BYTES: u32 = 256 << 10;
/// The length of a segment for the delete of the longest key.
#[allow(clippy::cast_possible_truncation, reason = "65,667")]
const DELETE_LEN_BYTES: u32 = (MAX_HEAD_LEN_BYTES + MAX_KEY_LEN_BYTES) as u32 + OVERHEAD_BYTES;
/// The part of a segment that may be cut off, or be longer for the delete of the same key.
#[allow(clippy::cast_possible_truncation, reason = "68")]
const GROWTH_LEN_BYTES: u32 = MAX_HEAD_LEN_BYTES as u32 + SEAL_LEN_BYTES;

/// The data that the lengths of new files depend on, besides the device.
#[derive(Debug)]
pub(crate) struct FileLengths {
    store: Arc<StoreDir>,
    /// The option with this name.
    segment_len_bytes: u32,
    /// The length of files that are created ahead of their use, in bytes.
    next: AtomicU32,
    /// The length of the longest segment in bytes, including segments for a single long commit.
    longest: AtomicU32,
    /// The free room that the device requires for the creation of a file, in bytes, as of the last
    /// query.
    for_names: AtomicU64,
}

impl FileLengths {
    /// For a store without segments.
    pub(crate) fn new(store: Arc<StoreDir>, segment_len_bytes: u32) -> Self {
        Self {
            store,
            segment_len_bytes,
            next: AtomicU32::new(segment_len_bytes),
            longest: AtomicU32::new(0),
            for_names: AtomicU64::new(0),
        }
    }

    /// The lengths of new files, if the next one needs `least` bytes.
    pub(crate) fn now(&self, least: u32) -> Result<Lengths, SegmentError> {
        let longest = self.longest.load(Ordering::Relaxed);
        let lengths = Lengths::of(self.room()?, least, self.next(), longest.min(self.segment_len_bytes));
        Ok(lengths.with_deletes(longest.max(least)))
    }

    pub(crate) fn room(&self) -> Result<DeviceRoom, SegmentError> {
        let room = self.store.dir.room();
        let room = room.map_err(|error| SegmentError::io("look at the room for", self.store.path(), error))?;
        self.for_names.store(room.for_name_bytes, Ordering::Relaxed);
        Ok(room)
    }

    /// The free room that the device requires for the creation of a file, in bytes, as of the last
    /// query.
    pub(crate) fn for_names(&self) -> u64 {
        if planted("new_files_need_no_room") { 0 } else { self.for_names.load(Ordering::Relaxed) }
    }

    /// The length of files that are created ahead of their use, in bytes.
    pub(crate) fn next(&self) -> u32 {
        self.next.load(Ordering::Relaxed)
    }

    pub(crate) fn set_next(&self, len_bytes: u32) {
        self.next.store(len_bytes.clamp(MIN_SEGMENT_LEN_BYTES, self.segment_len_bytes), Ordering::Relaxed);
    }

    /// Records the length of a new segment.
    pub(crate) fn note_segment(&self, len_bytes: u32) {
        self.longest.fetch_max(len_bytes, Ordering::Relaxed);
    }

    /// Records the length of a segment of an earlier open, which was cut at its end: the same
    /// record with a longer head, and a seal, may be longer.
    pub(crate) fn note_recovered(&self, len_bytes: u32) {
        self.note_segment(len_bytes.saturating_add(GROWTH_LEN_BYTES));
    }

    /// The length of a segment for commits that outrun the preparation of files: the full length.
    pub(crate) fn whole_segment(&self, lengths: Lengths, least: u32) -> u32 {
        self.segment_len_bytes.min(lengths.segment).max(least)
    }
}

/// The lengths of new files for the current state of the device, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lengths {
    /// A segment for commits, unless one commit needs more.
    pub(crate) segment: u32,
    /// A segment of compaction, unless one record needs more.
    pub(crate) output: u32,
    /// The reserve for compaction.
    pub(crate) reserve: u32,
    /// The reserve for the tail.
    pub(crate) tail: u32,
    /// The part of it that new data needs: the longest delete fits into it.
    pub(crate) least_tail: u32,
    /// The reserve for opening.
    pub(crate) opening: u32,
    pub(crate) available_bytes: u64,
}

impl Lengths {
    /// `least` is the length of the next file, `next` the length of files created ahead of use, and
    /// `longest` the length of the store's longest segment.
    fn of(room: DeviceRoom, least: u32, next: u32, longest: u32) -> Self {
        let share = |bytes: u64| u32::try_from(bytes).unwrap_or(u32::MAX).max(SHORT_LEN_BYTES);
        let output = share(room.total_bytes / DEVICE_SHARE);
        let segment = output.min(share(room.available_bytes / FREE_SHARE));
        let opening = OPENING_LEN_BYTES.min(next);
        if planted("segments_ignore_the_device") {
            return Self::with_reserves(u32::MAX, u32::MAX, longest, opening, u64::MAX);
        }
        let longest = longest.min(output);
        let taken_next = u64::from(least.max(segment.min(longest)));
        let is_scarce = room.available_bytes < taken_next + FREE_SHARE * u64::from(longest);
        let wanted = if is_scarce {
            longest
        } else {
            longest.max(next.min(FIRST_RESERVE_LEN_BYTES)).min(AMPLE_RESERVE_LEN_BYTES)
        };
        Self::with_reserves(segment, output, wanted.min(output), opening, room.available_bytes)
    }

    fn with_reserves(segment: u32, output: u32, reserve: u32, opening: u32, available_bytes: u64) -> Self {
        Self { segment, output, reserve, tail: reserve, least_tail: reserve / 2, opening, available_bytes }
    }

    /// With room for the delete of any key in the tail's reserve. At worst, the delete needs a
    /// segment of its own, which is no longer than the one of the key's record. `longest` is the
    /// length of the longest segment that exists or is about to be created.
    fn with_deletes(self, longest: u32) -> Self {
        if planted("long_deletes_need_no_room") {
            return self;
        }
        let delete = longest.min(DELETE_LEN_BYTES);
        Self { tail: self.tail.max(delete), least_tail: self.least_tail.max(delete), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::{DeviceRoom, Lengths, SHORT_LEN_BYTES};

    #[test]
    fn files_fit_their_device() {
        const MIB: u64 = 1 << 20;
        let of = |total_mib: u64, available_bytes: u64| {
            let room = DeviceRoom { total_bytes: total_mib * MIB, available_bytes, ..DeviceRoom::UNKNOWN };
            let Lengths { segment, output, reserve, .. } = Lengths::of(room, 0, 64 << 20, 64 << 20);
            (segment >> 10, output >> 10, reserve >> 10)
        };
        let most = u32::MAX >> 10;
        assert_eq!(of(1 << 20, 1 << 40), (most, most, 1024), "the reserves are short while the device has room");
        assert_eq!(of(1 << 20, 256 * MIB), (32 << 10, most, 64 << 10));
        assert_eq!(of(48, 48 * MIB), (768, 768, 768));
        assert_eq!(of(48, MIB), (128, 768, 768));
        assert_eq!(of(1, 0), (16, 16, 16));
        assert_eq!(SHORT_LEN_BYTES >> 10, 16);
    }
}

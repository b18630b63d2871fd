//! The location of a record: segment and offset.

use hightower_state::{HINT_BITS, Location, LocationBits};

/// The location of a record in the log. Segment ids are never reused, so a location never means
/// another record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) segment: u32,
    pub(crate) offset: u32,
}

/// The highest segment id that fits a location: 2^30 segments of 64 MiB are 64 PiB of log.
pub(crate) const MAX_SEGMENT_ID: u32 = (1 << 30) - 1;

impl Location for Place {
    fn to_bits(self) -> LocationBits {
        let bits = u64::from(self.segment & MAX_SEGMENT_ID) << 32 | u64::from(self.offset);
        // Masked to 62 bits above; `Segments::add` refuses a segment with a larger id.
        LocationBits::new(bits).unwrap_or(LocationBits::from(self.offset))
    }

    fn from_bits(bits: LocationBits) -> Self {
        let bits = bits.get();
        // Both halves are truncated on purpose.
        #[allow(clippy::cast_possible_truncation, reason = "the halves of a 62-bit number")]
        let (segment, offset) = ((bits >> 32) as u32, bits as u32);
        Self { segment, offset }
    }

    fn hint(self) -> u32 {
        HintedPlace::of(self).0
    }
}

/// A hint of a location: the low bits of the segment's id, and the cache line in which the record
/// begins. Zero, a segment's header, means no hint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HintedPlace(pub(crate) u32);

impl HintedPlace {
    const LINE_BYTES: u32 = 64;
    /// Number of bits for the cache line of a hint: lines of the first 64 MiB of a segment.
    const LINE_BITS: u32 = 20;
    /// Number of segments that a hint distinguishes.
    pub(crate) const SEGMENTS: usize = 1 << (HINT_BITS - Self::LINE_BITS);

    fn of(place: Place) -> Self {
        let line = place.offset / Self::LINE_BYTES;
        if line >> Self::LINE_BITS != 0 {
            return Self(0);
        }
        #[expect(clippy::cast_possible_truncation, reason = "less than 128")]
        let segment = Self::segment_of(place.segment) as u32;
        Self(segment << Self::LINE_BITS | line)
    }

    /// The low bits of a segment's id.
    #[inline]
    pub(crate) fn segment_of(id: u32) -> usize {
        id as usize % Self::SEGMENTS
    }

    #[inline]
    pub(crate) fn segment(self) -> usize {
        (self.0 >> Self::LINE_BITS) as usize % Self::SEGMENTS
    }

    /// The offset of the cache line.
    #[inline]
    pub(crate) fn offset(self) -> u32 {
        self.0 % (1 << Self::LINE_BITS) * Self::LINE_BYTES
    }
}

#[cfg(test)]
mod tests {
    use hightower_state::Location;

    use super::{HintedPlace, MAX_SEGMENT_ID, Place};

    #[test]
    fn bits_and_back() {
        for segment in [0, 1, 77, MAX_SEGMENT_ID] {
            for offset in [0, 64, u32::MAX] {
                let place = Place { segment, offset };
                assert_eq!(Place::from_bits(place.to_bits()), place);
            }
        }
    }

    #[test]
    fn a_hint_tells_segment_and_line() {
        let hint = |segment, offset| HintedPlace(Place { segment, offset }.hint());
        assert_eq!((hint(3, 200).segment(), hint(3, 200).offset()), (3, 192));
        assert_eq!(
            (hint(128 + 127, (64 << 20) - 1).segment(), hint(127, (64 << 20) - 1).offset()),
            (127, (64 << 20) - 64)
        );
        assert_eq!(hint(3, 64 << 20), HintedPlace(0), "too far in for a hint");
    }
}

//! Where a record lives: which segment, which offset.

use hightower_state::{Location, LocationBits};

/// The place of a record in the log. Segment ids are never used twice, so a place never comes to mean another record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) segment: u32,
    pub(crate) offset: u32,
}

/// Segment ids that fit a place: 2^30 segments of 64 MiB are 64 EiB of log.
pub(crate) const MAX_SEGMENT_ID: u32 = (1 << 30) - 1;

impl Location for Place {
    fn to_bits(self) -> LocationBits {
        let bits = u64::from(self.segment & MAX_SEGMENT_ID) << 32 | u64::from(self.offset);
        // Masked to 62 bits above; no segment with a larger id is ever put into the table (see `Table::with`).
        LocationBits::new(bits).unwrap_or(LocationBits::from(self.offset))
    }

    fn from_bits(bits: LocationBits) -> Self {
        let bits = bits.get();
        // Both halves are cut out of the word on purpose.
        #[allow(clippy::cast_possible_truncation, reason = "the halves of a 62-bit number")]
        let (segment, offset) = ((bits >> 32) as u32, bits as u32);
        Self { segment, offset }
    }
}

#[cfg(test)]
mod tests {
    use hightower_state::Location;

    use super::{MAX_SEGMENT_ID, Place};

    #[test]
    fn bits_and_back() {
        for segment in [0, 1, 77, MAX_SEGMENT_ID] {
            for offset in [0, 64, u32::MAX] {
                let place = Place { segment, offset };
                assert_eq!(Place::from_bits(place.to_bits()), place);
            }
        }
    }
}

//! Locations: 62 bits with the place of a value.
//!
//! The state stores no values. For each key it stores the location of the value: a place in a
//! segment file, a slot in a slab, or a number that is the value. It packs a location and two flags
//! into a word of 64 bits.

/// The bits of a location: a number below 2^62.
///
/// ```
/// use hightower_state::LocationBits;
///
/// assert_eq!(LocationBits::new(1 << 62), None);
/// assert_eq!(LocationBits::new(17).map(LocationBits::get), Some(17));
/// assert_eq!(LocationBits::from(17_u32).get(), 17);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LocationBits(u64);

impl LocationBits {
    /// The number of bits of a location.
    pub const BITS: u32 = 62;

    /// The bits of a number; `None` if it is 2^62 or more.
    #[must_use]
    pub const fn new(bits: u64) -> Option<Self> {
        if bits >> Self::BITS == 0 { Some(Self(bits)) } else { None }
    }

    /// The lowest 62 bits of a word.
    pub(crate) const fn low(word: u64) -> Self {
        Self(word & ((1 << Self::BITS) - 1))
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Packs a 16-bit and a 32-bit number. [`parts`](Self::parts) unpacks them.
    #[must_use]
    pub const fn from_parts(high: u16, low: u32) -> Self {
        Self((high as u64) << 32 | low as u64)
    }

    /// The 16 bits above the lowest 32, and the lowest 32 bits.
    #[must_use]
    pub const fn parts(self) -> (u16, u32) {
        #[allow(clippy::cast_possible_truncation, reason = "the parts are cut out of a longer number on purpose")]
        ((self.0 >> 32) as u16, self.0 as u32)
    }
}

impl From<u32> for LocationBits {
    fn from(bits: u32) -> Self {
        Self(u64::from(bits))
    }
}

/// A type that can be packed into [`LocationBits`].
///
/// Conversion to bits and back must return the same location.
///
/// ```
/// use hightower_state::{Location, LocationBits};
///
/// #[derive(Clone, Copy, Debug, PartialEq)]
/// struct Place { file: u16, offset: u32 }
///
/// impl Location for Place {
///     fn to_bits(self) -> LocationBits {
///         LocationBits::from_parts(self.file, self.offset)
///     }
///
///     fn from_bits(bits: LocationBits) -> Self {
///         let (file, offset) = bits.parts();
///         Self { file, offset }
///     }
/// }
///
/// let place = Place { file: 3, offset: 64 };
/// assert_eq!(Place::from_bits(place.to_bits()), place);
/// ```
pub trait Location: Copy + Send + Sync + 'static {
    /// The location as bits.
    fn to_bits(self) -> LocationBits;

    /// The location of these bits.
    fn from_bits(bits: LocationBits) -> Self;

    /// A hint that [`ConcurrentKvState::get_hinted`](crate::ConcurrentKvState::get_hinted) passes
    /// on before it has found the location. The index keeps its lowest
    /// [`HINT_BITS`](crate::HINT_BITS) bits.
    fn hint(self) -> u32 {
        0
    }
}

impl Location for LocationBits {
    fn to_bits(self) -> LocationBits {
        self
    }

    fn from_bits(bits: LocationBits) -> Self {
        bits
    }
}

impl Location for u32 {
    fn to_bits(self) -> LocationBits {
        self.into()
    }

    #[allow(clippy::cast_possible_truncation, reason = "the bits came from a u32")]
    fn from_bits(bits: LocationBits) -> Self {
        bits.get() as u32
    }
}

//! What a location is: 62 bits that say where a value lives.
//!
//! The state doesn't hold values. It holds, for each key, where the value is: a place in a segment
//! file, a slot in a slab, or a number that is the value. Two bits of the word that holds it are
//! the state's own.

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
    /// How many bits a location has.
    pub const BITS: u32 = 62;

    /// The bits as a location's; `None` if the number is 2^62 or more.
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

    /// A 16-bit and a 32-bit number side by side. [`parts`](Self::parts) takes them apart.
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

/// Something small that says where a value lives.
///
/// Going to bits and back must give the same location.
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

    /// The location that these bits came from.
    fn from_bits(bits: LocationBits) -> Self;

    /// What a lookup can be told before it has found the location:
    /// [`ConcurrentKvState::get_hinted`](crate::ConcurrentKvState::get_hinted). The lowest
    /// [`HINT_BITS`](crate::HINT_BITS) bits of it are kept.
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

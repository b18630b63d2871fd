//! Lines of the point table: 64 bytes with a checksum, fingerprints and pointers.
//!
//! The upper bits of a key's hash select its home line. Entries of a line are in the order of their
//! hashes: first those that overflowed from the previous line, then the line's own. An entry
//! without a slot goes to the next line, or, if that is also full, to the list at the end. A lookup
//! therefore reads the home line, and reads the next line only if its hash is at or above the first
//! hash that overflowed.

/// The length of a line in bytes: that of a cache line.
pub(crate) const LINE_LEN: usize = 64;
/// The bits of checksum and head before the slots.
const SLOTS_AT_BIT: usize = 48;
const SLOT_BITS: usize = LINE_LEN * 8 - SLOTS_AT_BIT;
/// The threshold of a line without overflow.
pub(crate) const NO_THRESHOLD: u16 = 256;
const MAX_SLOTS: usize = 31;
const LEAST_FINGERPRINT_BITS: u8 = 11;
const MOST_FINGERPRINT_BITS: u8 = 32;
/// The widest pointer that one load of eight bytes can read at any bit offset.
const MOST_POINTER_BITS: u8 = 56;

/// The layout of a table's lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LineShape {
    /// The number of home lines; one more line takes the overflow of the last.
    pub(crate) lines: u64,
    pub(crate) slots: u8,
    pub(crate) fingerprint_bits: u8,
    pub(crate) segment_bits: u8,
    pub(crate) offset_bits: u8,
}

/// The average number of keys per line, in 64ths, by the number of slots. With this load, 1.5 % of
/// the keys find no slot in their home line.
const KEYS_IN_64THS: [u16; MAX_SLOTS + 1] = [
    0, 1, 20, 51, 90, 134, 180, 228, 278, 330, 382, 435, 489, 544, 599, 655, 711, 767, 824, 881, 938, 996, 1053, 1111,
    1169, 1228, 1286, 1345, 1404, 1463, 1522, 1581,
];

impl LineShape {
    /// The shape for `keys` keys, `segments` segments and offsets up to `max_offset`.
    pub(crate) fn of(keys: u64, segments: usize, max_offset: u32) -> Self {
        let bits = |most: u64| u64::BITS - most.leading_zeros();
        let segment_bits = bits((segments as u64).saturating_sub(1));
        let offset_bits = bits(max_offset.into());
        let narrow = |bits: u32| u8::try_from(bits).unwrap_or(u8::MAX);
        let (segment_bits, offset_bits) = (narrow(segment_bits), narrow(offset_bits));
        let pointer_bits = usize::from(segment_bits) + usize::from(offset_bits);
        let slots = (SLOT_BITS / (pointer_bits + usize::from(LEAST_FINGERPRINT_BITS))).min(MAX_SLOTS);
        let fingerprint_bits = (SLOT_BITS / slots - pointer_bits).min(MOST_FINGERPRINT_BITS.into());
        let mean = KEYS_IN_64THS.get(slots).copied().unwrap_or(64);
        let lines = (u128::from(keys) * 64).div_ceil(mean.into());
        Self {
            lines: u64::try_from(lines).unwrap_or(u64::MAX).max(1),
            slots: u8::try_from(slots).unwrap_or(1),
            fingerprint_bits: u8::try_from(fingerprint_bits).unwrap_or(LEAST_FINGERPRINT_BITS),
            segment_bits,
            offset_bits,
        }
    }

    /// Whether the layout is valid for this number of segments.
    pub(crate) fn is_possible(&self, segments: usize) -> bool {
        let pointer_bits = self.pointer_bits();
        self.lines > 0
            && (1..=MAX_SLOTS).contains(&usize::from(self.slots))
            && (1..=MOST_FINGERPRINT_BITS).contains(&self.fingerprint_bits)
            && pointer_bits <= usize::from(MOST_POINTER_BITS)
            && self.offset_bits <= 32
            && usize::from(self.slots) * (usize::from(self.fingerprint_bits) + pointer_bits) <= SLOT_BITS
            && segments as u64 <= 1 << self.segment_bits
    }

    fn pointer_bits(&self) -> usize {
        usize::from(self.segment_bits) + usize::from(self.offset_bits)
    }

    /// The home line of a hash, and the rank of the hash within the line's share of all hashes,
    /// from 0 to 255.
    #[inline]
    pub(crate) fn home(&self, hash: u64) -> (u64, u16) {
        let product = u128::from(hash) * u128::from(self.lines);
        let [_, _, _, _, _, _, _, rank, high @ ..] = product.to_le_bytes();
        (u64::from_le_bytes(high), u16::from(rank))
    }

    /// The fingerprint of a hash in its slot: the lowest bits.
    #[inline]
    pub(crate) fn fingerprint(&self, hash: u64) -> u64 {
        hash & mask(self.fingerprint_bits.into())
    }

    /// A pointer in the form of a slot: the segment's place among the table's segments in the upper
    /// bits, the offset in the lower bits.
    pub(crate) fn pack(&self, segment_place: u64, offset: u32) -> u64 {
        segment_place << self.offset_bits | u64::from(offset)
    }

    pub(crate) fn unpack(&self, packed: u64) -> (usize, u32) {
        let offset = u32::try_from(packed & mask(self.offset_bits.into())).unwrap_or(u32::MAX);
        (usize::try_from(packed >> self.offset_bits).unwrap_or(usize::MAX), offset)
    }
}

const fn mask(bits: usize) -> u64 {
    if bits >= 64 { u64::MAX } else { (1 << bits) - 1 }
}

/// A line in memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PointLine {
    pub(crate) bytes: [u8; LINE_LEN],
}

impl PointLine {
    /// A line without its checksum, from the fingerprint and packed pointer of each entry; there
    /// must not be more entries than slots.
    pub(crate) fn new(shape: &LineShape, entries: &[(u64, u64)], threshold: u16, has_listed: bool) -> Self {
        let mut line = Self { bytes: [0; LINE_LEN] };
        let count = u16::try_from(entries.len()).unwrap_or(0);
        let head = count | threshold << 5 | u16::from(has_listed) << 14;
        line.put(32, head.into());
        let slots = usize::from(shape.slots);
        let (fingerprint_bits, pointer_bits) = (usize::from(shape.fingerprint_bits), shape.pointer_bits());
        for (slot, (fingerprint, packed)) in entries.iter().take(slots).enumerate() {
            line.put(SLOTS_AT_BIT + slot * fingerprint_bits, *fingerprint);
            line.put(SLOTS_AT_BIT + slots * fingerprint_bits + slot * pointer_bits, *packed);
        }
        line
    }

    /// A line without entries, which is in no file.
    #[inline]
    pub(crate) fn empty() -> Self {
        let mut line = Self { bytes: [0; LINE_LEN] };
        line.put(32, u64::from(NO_THRESHOLD << 5));
        line
    }

    #[inline]
    fn place(bit: usize) -> (usize, usize) {
        let byte = (bit / 8).min(LINE_LEN - 8);
        (byte, bit - byte * 8)
    }

    fn put(&mut self, bit: usize, number: u64) {
        let (byte, shift) = Self::place(bit);
        if let Some(word) = self.bytes.get_mut(byte..).and_then(|rest| rest.first_chunk_mut::<8>()) {
            *word = (u64::from_le_bytes(*word) | number << (shift & 63)).to_le_bytes();
        }
    }

    #[inline]
    fn get(&self, bit: usize, bits: usize) -> u64 {
        let (byte, shift) = Self::place(bit);
        let word = self.bytes.get(byte..).and_then(|rest| rest.first_chunk::<8>());
        word.map_or(0, |word| u64::from_le_bytes(*word) >> (shift & 63) & mask(bits))
    }

    fn head(&self) -> u16 {
        let [_, _, _, _, low, high, ..] = self.bytes;
        u16::from_le_bytes([low, high])
    }

    /// The number of used slots.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        usize::from(self.head() & 31)
    }

    /// A key of this line may be in the next line if its rank is at or above this one.
    #[inline]
    pub(crate) fn threshold(&self) -> u16 {
        self.head() >> 5 & 511
    }

    /// Whether a key of this line is in the list at the end.
    #[inline]
    pub(crate) fn has_listed(&self) -> bool {
        self.head() >> 14 & 1 == 1
    }

    /// Whether its numbers are valid, and all unused bits are zero.
    pub(crate) fn is_sound(&self, shape: &LineShape) -> bool {
        let entries: Vec<_> =
            (0..self.len()).map(|slot| (self.fingerprint(shape, slot), self.packed(shape, slot))).collect();
        let mut same = Self::new(shape, &entries, self.threshold(), self.has_listed());
        same.bytes[..4].copy_from_slice(&self.bytes[..4]);
        self.len() <= shape.slots.into() && self.threshold() <= NO_THRESHOLD && same.bytes == self.bytes
    }

    #[inline]
    pub(crate) fn fingerprint(&self, shape: &LineShape, slot: usize) -> u64 {
        let bits = usize::from(shape.fingerprint_bits);
        self.get(SLOTS_AT_BIT + slot * bits, bits)
    }

    #[inline]
    pub(crate) fn packed(&self, shape: &LineShape, slot: usize) -> u64 {
        let bits = shape.pointer_bits();
        self.get(SLOTS_AT_BIT + usize::from(shape.slots) * usize::from(shape.fingerprint_bits) + slot * bits, bits)
    }
}

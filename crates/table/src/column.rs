//! Columns: numbers of one kind, each stored as its difference from the least in a fixed number of
//! bits.
//!
//! A column is its width in bits, its least number, and the differences, low bits first and without
//! gaps. The width is that of the largest difference, so a column of equal numbers has no
//! differences. A reader can read each number without the others.

/// The widest column whose numbers a load of eight bytes can read at any bit offset; numbers of
/// wider columns take eight whole bytes each.
const WIDTH_MAX: u32 = 56;

/// Writes a number, seven bits per byte, low bits first. The highest bit of a byte says whether
/// more bytes follow.
pub(crate) fn put_varint(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        let [low, ..] = number.to_le_bytes();
        bytes.push(low | 0x80);
        number >>= 7;
    }
    let [low, ..] = number.to_le_bytes();
    bytes.push(low);
}

/// Reads numbers and columns from a byte string, in order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct VarintReader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> VarintReader<'a> {
    pub(crate) fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at }
    }

    pub(crate) fn position(&self) -> usize {
        self.at
    }

    fn byte(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    /// A number in its shortest encoding, the only valid one.
    pub(crate) fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return None;
            }
            number |= bits << shift;
            if byte < 0x80 {
                return (byte != 0 || shift == 0).then_some(number);
            }
        }
        None
    }

    /// A column of `count` numbers.
    pub(crate) fn column(&mut self, count: usize) -> Option<PackedColumn> {
        let width = u32::from(self.byte()?);
        if width > WIDTH_MAX && width != u64::BITS {
            return None;
        }
        let mask = u64::MAX.checked_shr(u64::BITS - width).unwrap_or(0);
        let least = self.number()?;
        let start = self.at;
        let end = start.checked_add(count.checked_mul(width as usize)?.div_ceil(8))?;
        if end > self.bytes.len() {
            return None;
        }
        self.at = end;
        Some(PackedColumn { start, width: width as usize, mask, least })
    }
}

/// Writes a column.
pub(crate) fn put_column(bytes: &mut Vec<u8>, numbers: impl Iterator<Item = u64> + Clone) {
    let mut least = u64::MAX;
    let mut most = 0;
    for number in numbers.clone() {
        least = least.min(number);
        most = most.max(number);
    }
    let least = least.min(most);
    let width = match u64::BITS - (most - least).leading_zeros() {
        width @ 0..=WIDTH_MAX => width,
        _ => u64::BITS,
    };
    let [low, ..] = width.to_le_bytes();
    bytes.push(low);
    put_varint(bytes, least);
    if width == 0 {
        return;
    }
    if width == u64::BITS {
        numbers.for_each(|number| bytes.extend_from_slice(&(number - least).to_le_bytes()));
        return;
    }
    // `waiting_bits` stays below 8 before a number is added, so all of it fits.
    let (mut waiting, mut waiting_bits) = (0_u64, 0);
    for number in numbers {
        waiting |= (number - least) << waiting_bits;
        waiting_bits += width;
        let whole = (waiting_bits / 8) as usize;
        bytes.extend_from_slice(waiting.to_le_bytes().get(..whole).unwrap_or_default());
        waiting = waiting.checked_shr(waiting_bits & !7).unwrap_or(0);
        waiting_bits %= 8;
    }
    if waiting_bits > 0 {
        let [low, ..] = waiting.to_le_bytes();
        bytes.push(low);
    }
}

/// The place of a column in a block, without the bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PackedColumn {
    start: usize,
    width: usize,
    mask: u64,
    least: u64,
}

impl PackedColumn {
    /// The number at `place`, read from the column's block. The result for a place past the end is
    /// arbitrary.
    #[inline]
    pub(crate) fn get(&self, block: &[u8], place: usize) -> u64 {
        if self.width == 0 {
            return self.least;
        }
        let bit = place * self.width;
        let rest = block.get(self.start + bit / 8..).unwrap_or_default();
        let word = rest.first_chunk().map_or_else(|| last_word(rest), |word| u64::from_le_bytes(*word));
        self.least.wrapping_add(word >> (bit % 8) & self.mask)
    }

    /// The number of set bits of a column of single bits.
    fn ones(&self, block: &[u8], count: usize) -> u32 {
        let (bytes, bits) = (count * self.width / 8, count * self.width % 8);
        let whole = block.get(self.start..self.start + bytes).unwrap_or_default();
        let last = block.get(self.start + bytes).map_or(0, |byte| byte & !(u8::MAX << bits));
        whole.iter().map(|byte| byte.count_ones()).sum::<u32>() + last.count_ones()
    }

    /// The least number.
    pub(crate) fn least(&self) -> u64 {
        self.least
    }

    /// Whether all numbers equal `number`.
    pub(crate) fn is_all(&self, number: u64) -> bool {
        self.width == 0 && self.least == number
    }

    /// Calls `set` with each of the targets and the number at its place.
    #[inline(always)]
    pub(crate) fn unpack<T>(&self, block: &[u8], targets: &mut [T], mut set: impl FnMut(&mut T, u64)) {
        if self.width == 0 {
            targets.iter_mut().for_each(|target| set(target, self.least));
            return;
        }
        let bytes = block.get(self.start..).unwrap_or_default();
        let mut bit = 0;
        for target in targets {
            let rest = bytes.get(bit / 8..).unwrap_or_default();
            let word = rest.first_chunk().map_or_else(|| last_word(rest), |word| u64::from_le_bytes(*word));
            set(target, self.least.wrapping_add(word >> (bit % 8) & self.mask));
            bit += self.width;
        }
    }

    /// The sum of the first `count` numbers; `None` if it is too large.
    pub(crate) fn sum(&self, block: &[u8], count: usize) -> Option<u64> {
        if self.width == 0 {
            return self.least.checked_mul(count as u64);
        }
        (0..count).try_fold(0_u64, |sum, place| sum.checked_add(self.get(block, place)))
    }

    /// The number of ones among the first `count` numbers; `None` if one is neither 0 nor 1.
    pub(crate) fn count_ones(&self, block: &[u8], count: usize) -> Option<usize> {
        if self.width == 0 || (self.width, self.least) == (1, 0) {
            let ones = usize::try_from(self.ones(block, count)).ok()?;
            return (self.least <= 1).then_some(ones + usize::try_from(self.least).ok()? * count);
        }
        (0..count).try_fold(0, |ones, place| match self.get(block, place) {
            0 => Some(ones),
            1 => Some(ones + 1),
            _ => None,
        })
    }
}

/// The number in fewer than eight bytes, with zeros for the missing ones.
#[cold]
fn last_word(rest: &[u8]) -> u64 {
    rest.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::{VarintReader, put_column, put_varint};

    fn column(numbers: &[u64]) -> Vec<u8> {
        let mut bytes = Vec::new();
        put_column(&mut bytes, numbers.iter().copied());
        bytes
    }

    #[test]
    fn numbers_come_back_whatever_their_width() {
        for width in 0..=64_u32 {
            let most = u64::MAX.checked_shr(64 - width).unwrap_or(0);
            for least in [0, 5, u64::MAX - most] {
                let Some(last) = least.checked_add(most) else { continue };
                let drawn = (0..37_u64).map(|n| least + (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) & most));
                let numbers: Vec<u64> = drawn.chain([least, last]).collect();
                let bytes = column(&numbers);
                for behind in [&[][..], &[0xff; 9]] {
                    let bytes = [&bytes[..], behind].concat();
                    let mut reader = VarintReader::new(&bytes, 0);
                    let column = reader.column(numbers.len()).unwrap();
                    assert_eq!(bytes.len() - reader.position(), behind.len(), "{width} bits");
                    let found: Vec<u64> = (0..numbers.len()).map(|place| column.get(&bytes, place)).collect();
                    assert_eq!(found, numbers, "{width} bits");
                }
                assert!((0..bytes.len()).all(|len| VarintReader::new(&bytes[..len], 0).column(39).is_none()));
            }
        }
    }

    #[test]
    fn numbers_that_are_all_the_same_take_no_room() {
        assert_eq!(column(&[300; 128]), [0, 0xac, 2]);
        assert_eq!(column(&[]), [0, 0]);
        assert_eq!(column(&[7, 6, 7, 7]), [1, 6, 0b1101]);
    }

    #[test]
    fn widths_that_there_are_not_are_refused() {
        for width in (57..64).chain(65..=255) {
            let bytes = [&[width, 0][..], &[0; 600]].concat();
            assert!(VarintReader::new(&bytes, 0).column(8).is_none());
        }
    }

    #[test]
    fn a_number_has_one_encoding() {
        for number in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX] {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, number);
            assert_eq!(VarintReader::new(&bytes, 0).number(), Some(number));
        }
        for wrong in
            [&[0x80, 0][..], &[0x80], &[], &[0xff; 11], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]]
        {
            assert_eq!(VarintReader::new(wrong, 0).number(), None, "{wrong:x?}");
        }
    }
}

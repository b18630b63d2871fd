//! Columns: numbers of one kind, each stored as its difference to the minimum, with the bits of the
//! largest difference.
//!
//! A column is its width in bits, its minimum, and the difference of each number to the minimum,
//! low bits first and without gaps. Equal numbers need no bits, and each number can be read without
//! the others.

use crate::checkpoint::numbers::{Numbers, put_number};

/// The widest column whose numbers can be read with one load of eight bytes at any bit offset;
/// wider ones take eight bytes per number.
const WIDTH_MAX: u32 = 56;

/// Writes a column.
pub(crate) fn put_column(bytes: &mut Vec<u8>, numbers: impl Iterator<Item = u64> + Clone) {
    let least = numbers.clone().min().unwrap_or(0);
    let span = numbers.clone().max().unwrap_or(0) - least;
    let width = match u64::BITS - span.leading_zeros() {
        width @ 0..=WIDTH_MAX => width,
        _ => u64::BITS,
    };
    bytes.push(u8::try_from(width).unwrap_or(u8::MAX));
    put_number(bytes, least);
    let (mut waiting, mut waiting_bits) = (0_u128, 0);
    for number in numbers {
        waiting |= u128::from(number - least) << waiting_bits;
        waiting_bits += width;
        while waiting_bits >= 8 {
            let [low, ..] = waiting.to_le_bytes();
            bytes.push(low);
            waiting >>= 8;
            waiting_bits -= 8;
        }
    }
    if waiting_bits > 0 {
        let [low, ..] = waiting.to_le_bytes();
        bytes.push(low);
    }
}

/// A column, read in place.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Column<'a> {
    /// The bytes from its first number to the end of the block.
    bytes: &'a [u8],
    width: usize,
    mask: u64,
    least: u64,
}

impl<'a> Column<'a> {
    /// Splits a column of `count` numbers off the front; `None` if it is invalid.
    pub(crate) fn take(numbers: &mut Numbers<'a>, count: usize) -> Option<Self> {
        let width = u32::from(numbers.byte()?);
        let is_width = width <= WIDTH_MAX || width == u64::BITS;
        let mask = if is_width { u64::MAX.checked_shr(u64::BITS - width).unwrap_or(0) } else { return None };
        let (width, least) = (width as usize, numbers.number()?);
        let bytes = numbers.rest();
        numbers.take(count.checked_mul(width)?.div_ceil(8))?;
        Some(Self { bytes, width, mask, least })
    }

    /// The number at this index. An index out of range yields an arbitrary number.
    #[inline]
    pub(crate) fn get(&self, place: usize) -> u64 {
        let bit = place * self.width;
        let rest = self.bytes.get(bit / 8..).unwrap_or_default();
        let word = rest.first_chunk().map_or_else(|| last_word(rest), |word| u64::from_le_bytes(*word));
        self.least.wrapping_add(word >> (bit % 8) & self.mask)
    }

    /// The minimum.
    pub(crate) fn least(&self) -> u64 {
        self.least
    }

    /// The sum of the first numbers, which must be 0 or 1; otherwise `None`.
    pub(crate) fn count_ones(&self, count: usize) -> Option<usize> {
        if self.width == 0 {
            return usize::try_from(self.least).ok().filter(|each| *each <= 1).map(|each| each * count);
        }
        (0..count).try_fold(0, |ones, place| match self.get(place) {
            0 => Some(ones),
            1 => Some(ones + 1),
            _ => None,
        })
    }
}

/// Fewer than eight bytes, padded with zeros.
#[cold]
fn last_word(rest: &[u8]) -> u64 {
    rest.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::{Column, put_column};
    use crate::checkpoint::numbers::Numbers;

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
                let numbers: Vec<u64> = (0..37)
                    .map(|n: u64| least + (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) & most))
                    .chain([least, last])
                    .collect();
                let bytes = column(&numbers);
                for behind in [&[][..], &[0xff; 9]] {
                    let bytes = [&bytes[..], behind].concat();
                    let mut at = Numbers { bytes: &bytes, at: 0 };
                    let column = Column::take(&mut at, numbers.len()).unwrap();
                    assert_eq!(at.rest(), behind, "{width} bits");
                    assert!(
                        numbers.iter().enumerate().all(|(place, number)| column.get(place) == *number),
                        "{width} bits"
                    );
                }
                assert!(
                    (0..bytes.len())
                        .all(|len| Column::take(&mut Numbers { bytes: &bytes[..len], at: 0 }, 39).is_none())
                );
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
            assert!(Column::take(&mut Numbers { bytes: &bytes, at: 0 }, 8).is_none());
        }
    }

    #[test]
    fn ones_are_counted_and_anything_else_is_refused() {
        let count = |numbers: &[u64]| {
            let bytes = column(numbers);
            Column::take(&mut Numbers { bytes: &bytes, at: 0 }, numbers.len()).unwrap().count_ones(numbers.len())
        };
        assert_eq!(
            [count(&[0, 1, 1, 0]), count(&[1, 1]), count(&[0, 0]), count(&[])],
            [Some(2), Some(2), Some(0), Some(0)]
        );
        assert_eq!([count(&[0, 1, 2]), count(&[2, 2])], [None, None]);
    }
}

//! Search among up to 16 unsorted key bytes in two words: all at once with SSE2, which every x86_64
//! has, otherwise byte by byte.
//!
//! Lane `i` is byte `i` of the sixteen, counted from the low end of the first word. Masks have bit
//! `i` for lane `i`. The words are passed by value, so the caller decides how to load them
//! (atomically).

/// Byte `at` of the sixteen.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "one byte is meant")]
pub(crate) fn lane(keys: [u64; 2], at: usize) -> u8 {
    (keys[at / 8] >> (8 * (at % 8))) as u8
}

/// The lanes that equal `byte`.
#[inline(always)]
pub(crate) fn equal_mask(keys: [u64; 2], byte: u8) -> u32 {
    #[cfg(target_arch = "x86_64")]
    return sse2::equal_mask(keys, byte);
    #[cfg(not(target_arch = "x86_64"))]
    portable::equal_mask(keys, byte)
}

/// The smallest byte at or above `byte` in the first `used` lanes, and its lane.
#[inline(always)]
pub(crate) fn first_at_least(keys: [u64; 2], used: usize, byte: u8) -> Option<(u8, usize)> {
    #[cfg(target_arch = "x86_64")]
    return sse2::first_at_least(keys, used, byte);
    #[cfg(not(target_arch = "x86_64"))]
    portable::first_at_least(keys, used, byte)
}

/// The greatest byte at or below `byte` in the first `used` lanes, and its lane.
#[inline(always)]
pub(crate) fn last_at_most(keys: [u64; 2], used: usize, byte: u8) -> Option<(u8, usize)> {
    // Inverting all bits reverses the order.
    let (found, at) = first_at_least([!keys[0], !keys[1]], used, !byte)?;
    Some((!found, at))
}

/// The first lanes of a node in the order of their bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lanes {
    /// Four bits per lane, the next one lowest.
    order: u64,
    left: u8,
}

impl Lanes {
    pub(crate) const NONE: Self = Self { order: 0, left: 0 };

    /// The next lane.
    #[inline(always)]
    pub(crate) fn next(&mut self) -> Option<usize> {
        let lane = self.peek()?;
        self.order >>= 4;
        self.left -= 1;
        Some(lane)
    }

    /// The lane after the next one.
    #[inline(always)]
    pub(crate) fn peek_second(self) -> Option<usize> {
        (self.left > 1).then_some((self.order >> 4 & 15) as usize)
    }

    /// The next lane, without advancing.
    #[inline(always)]
    pub(crate) fn peek(self) -> Option<usize> {
        (self.left > 0).then_some((self.order & 15) as usize)
    }
}

/// The first `used` lanes, whose bytes differ, in ascending or descending order of their bytes.
#[inline]
pub(crate) fn order(keys: [u64; 2], used: usize, rising: bool) -> Lanes {
    let ranks = ranks(keys, used);
    let mut order = 0;
    for (at, rank) in (0..used).zip(bytes(ranks)) {
        let rank = usize::from(rank);
        order |= (at as u64) << (4 * if rising { rank } else { used - 1 - rank });
    }
    #[expect(clippy::cast_possible_truncation, reason = "at most 16")]
    return Lanes { order, left: used as u8 };
}

/// The 16 lanes in order, by shifting: indexing takes four times as many instructions.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "one byte is meant")]
fn bytes(words: [u64; 2]) -> impl Iterator<Item = u8> {
    let mut rest = u128::from(words[1]) << 64 | u128::from(words[0]);
    core::iter::repeat_with(move || {
        let byte = rest as u8;
        rest >>= 8;
        byte
    })
}

/// For each of the first `used` lanes, the number of lanes with a smaller byte.
#[inline(always)]
fn ranks(keys: [u64; 2], used: usize) -> [u64; 2] {
    #[cfg(target_arch = "x86_64")]
    return sse2::ranks(keys, used);
    #[cfg(not(target_arch = "x86_64"))]
    portable::ranks(keys, used)
}

#[cfg(target_arch = "x86_64")]
mod sse2 {
    use core::arch::x86_64::{
        __m128i, _mm_and_si128, _mm_andnot_si128, _mm_cmpeq_epi8, _mm_cmplt_epi8, _mm_cvtsi128_si32, _mm_cvtsi128_si64,
        _mm_max_epu8, _mm_min_epu8, _mm_movemask_epi8, _mm_or_si128, _mm_set_epi8, _mm_set_epi64x, _mm_set1_epi8,
        _mm_srli_epi16, _mm_srli_si128, _mm_sub_epi8,
    };

    #[inline(always)]
    fn load(keys: [u64; 2]) -> __m128i {
        // SAFETY: SSE2 is part of x86_64.
        unsafe { _mm_set_epi64x(keys[1].cast_signed(), keys[0].cast_signed()) }
    }

    #[inline(always)]
    fn splat(byte: u8) -> __m128i {
        // SAFETY: SSE2 is part of x86_64.
        unsafe { _mm_set1_epi8(byte.cast_signed()) }
    }

    #[inline(always)]
    fn mask(lanes: __m128i) -> u32 {
        // SAFETY: SSE2 is part of x86_64.
        unsafe { _mm_movemask_epi8(lanes) }.cast_unsigned()
    }

    #[inline(always)]
    pub(super) fn equal_mask(keys: [u64; 2], byte: u8) -> u32 {
        // SAFETY: SSE2 is part of x86_64.
        mask(unsafe { _mm_cmpeq_epi8(load(keys), splat(byte)) })
    }

    #[inline(always)]
    pub(super) fn first_at_least(keys: [u64; 2], used: usize, byte: u8) -> Option<(u8, usize)> {
        #[expect(clippy::cast_possible_truncation, reason = "at most 16")]
        let used = splat(used as u8);
        let keys = load(keys);
        // SAFETY: SSE2 is part of x86_64.
        unsafe {
            let numbers = _mm_set_epi8(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
            let at_least = _mm_cmpeq_epi8(_mm_max_epu8(keys, splat(byte)), keys);
            let candidates = _mm_and_si128(at_least, _mm_cmplt_epi8(numbers, used));
            if mask(candidates) == 0 {
                return None;
            }
            // Lanes that are no candidates become 255, so the least of all is the least candidate.
            let least = least(_mm_or_si128(_mm_and_si128(keys, candidates), _mm_andnot_si128(candidates, splat(0xff))));
            let lanes = mask(_mm_and_si128(_mm_cmpeq_epi8(keys, splat(least)), candidates));
            Some((least, lanes.trailing_zeros() as usize))
        }
    }

    #[inline(always)]
    pub(super) fn ranks(keys: [u64; 2], used: usize) -> [u64; 2] {
        let all = load(keys);
        // Each lane counts the lanes with at most its value, including itself: a comparison that
        // holds is -1.
        let mut ranks = splat(0xff);
        for byte in super::bytes(keys).take(used) {
            let each = splat(byte);
            // SAFETY: SSE2 is part of x86_64.
            unsafe { ranks = _mm_sub_epi8(ranks, _mm_cmpeq_epi8(_mm_max_epu8(all, each), all)) };
        }
        // SAFETY: SSE2 is part of x86_64.
        unsafe {
            [_mm_cvtsi128_si64(ranks).cast_unsigned(), _mm_cvtsi128_si64(_mm_srli_si128::<8>(ranks)).cast_unsigned()]
        }
    }

    /// The least of all lanes.
    #[inline(always)]
    fn least(lanes: __m128i) -> u8 {
        // SAFETY: SSE2 is part of x86_64.
        let low = unsafe {
            let low = _mm_min_epu8(lanes, _mm_srli_si128::<8>(lanes));
            let low = _mm_min_epu8(low, _mm_srli_si128::<4>(low));
            let low = _mm_min_epu8(low, _mm_srli_si128::<2>(low));
            _mm_cvtsi128_si32(_mm_min_epu8(low, _mm_srli_epi16::<8>(low)))
        };
        #[expect(clippy::cast_possible_truncation, reason = "the low byte is meant")]
        return low.cast_unsigned() as u8;
    }
}

#[cfg(any(test, not(target_arch = "x86_64")))]
mod portable {
    use super::lane;

    #[inline(always)]
    pub(super) fn equal_mask(keys: [u64; 2], byte: u8) -> u32 {
        (0..16).fold(0, |mask, at| mask | u32::from(lane(keys, at) == byte) << at)
    }

    #[inline(always)]
    pub(super) fn first_at_least(keys: [u64; 2], used: usize, byte: u8) -> Option<(u8, usize)> {
        (0..used).map(|at| (lane(keys, at), at)).filter(|(each, _)| *each >= byte).min()
    }

    #[inline(always)]
    pub(super) fn ranks(keys: [u64; 2], used: usize) -> [u64; 2] {
        let mut ranks = [0; 2];
        for at in 0..used {
            let rank = (0..used).filter(|&other| lane(keys, other) < lane(keys, at)).count();
            ranks[at / 8] |= (rank as u64) << (8 * (at % 8));
        }
        ranks
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 16 } else { 2_000 }))]

        #[test]
        fn fast_search_agrees_with_the_portable_one(keys: [u64; 2], used in 0_usize..=16, byte: u8, small: bool) {
            let keys = if small { keys.map(|word| word & 0x0303_0303_0303_0303) } else { keys };
            prop_assert_eq!(equal_mask(keys, byte), portable::equal_mask(keys, byte));
            prop_assert_eq!(first_at_least(keys, used, byte), portable::first_at_least(keys, used, byte));
            let last = (0..used).map(|at| lane(keys, at)).filter(|each| *each <= byte).max();
            prop_assert_eq!(last_at_most(keys, used, byte).map(|(each, _)| each), last);
        }

        #[test]
        fn lanes_come_in_the_order_of_their_bytes(bytes in proptest::collection::hash_set(any::<u8>(), 0..=16), rising: bool) {
            let mut keys = [0; 2];
            let bytes: Vec<u8> = bytes.into_iter().collect();
            for (at, byte) in bytes.iter().enumerate() {
                keys[at / 8] |= u64::from(*byte) << (8 * (at % 8));
            }
            for at in 0..bytes.len() {
                prop_assert_eq!(lane(ranks(keys, bytes.len()), at), lane(portable::ranks(keys, bytes.len()), at));
            }
            let mut lanes = order(keys, bytes.len(), rising);
            let found: Vec<u8> = std::iter::from_fn(|| lanes.next()).map(|at| bytes[at]).collect();
            let mut wanted = bytes;
            wanted.sort_unstable();
            if !rising {
                wanted.reverse();
            }
            prop_assert_eq!(found, wanted);
        }
    }
}

//! Search among up to sixteen unsorted key bytes in two words: all at once with SSE2, which every x86_64 has, else byte by byte.
//!
//! Lane `i` is byte `i` of the sixteen, counted from the low end of the first word. Masks have bit `i` for lane `i`. The words are passed by
//! value, so the caller decides how to load them (atomically).

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

/// The least byte at or above `byte` in the first `used` lanes, and its lane.
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
    // Order turns around when all bits do.
    let (found, at) = first_at_least([!keys[0], !keys[1]], used, !byte)?;
    Some((!found, at))
}

#[cfg(target_arch = "x86_64")]
mod sse2 {
    use core::arch::x86_64::{
        __m128i, _mm_and_si128, _mm_andnot_si128, _mm_cmpeq_epi8, _mm_cmplt_epi8, _mm_cvtsi128_si32, _mm_max_epu8,
        _mm_min_epu8, _mm_movemask_epi8, _mm_or_si128, _mm_set_epi8, _mm_set_epi64x, _mm_set1_epi8, _mm_srli_epi16,
        _mm_srli_si128,
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
    }
}

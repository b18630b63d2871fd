//! Comparison of short keys without a function call.
//!
//! The standard library's comparison is a call that first branches on the length, which takes
//! longer than comparing about ten bytes. Here keys are compared by loads of fixed width; the last
//! load overlaps the previous one, so no load reaches beyond the key, into a cache line that was
//! not prefetched.

use core::cmp::Ordering;

/// Whether both are equal.
#[inline(always)]
pub(crate) fn equal(left: &[u8], right: &[u8]) -> bool {
    if left.len() != right.len() {
        return false;
    }
    match left.len() {
        8..=16 => ends_equal::<8>(left, right),
        17..=32 => ends_equal::<16>(left, right),
        33..=64 => equal_up_to_64(left, right),
        4..=7 => ends_equal::<4>(left, right),
        _ => left == right,
    }
}

/// Whether the first and the last `N` bytes are equal. Both have at least `N` bytes.
#[inline(always)]
fn ends_equal<const N: usize>(left: &[u8], right: &[u8]) -> bool {
    // Both comparisons, without a branch between them.
    (left.first_chunk::<N>() == right.first_chunk::<N>()) & (left.last_chunk::<N>() == right.last_chunk::<N>())
}

/// Of 33 to 64 bytes: the first 32, and the last 32.
#[inline(always)]
fn equal_up_to_64(left: &[u8], right: &[u8]) -> bool {
    let (Some(left_head), Some(right_head)) = (left.first_chunk::<32>(), right.first_chunk::<32>()) else {
        return false;
    };
    let (Some(left_tail), Some(right_tail)) = (left.last_chunk::<32>(), right.last_chunk::<32>()) else { return false };
    ends_equal::<16>(left_head, right_head) & ends_equal::<16>(left_tail, right_tail)
}

/// The length of the common prefix.
#[inline]
pub(crate) fn common_len(left: &[u8], right: &[u8]) -> usize {
    let len = left.len().min(right.len());
    let (left, right) = (&left[..len], &right[..len]);
    let (left_words, left_rest) = left.as_chunks::<8>();
    let (right_words, right_rest) = right.as_chunks::<8>();
    for (at, (left, right)) in left_words.iter().zip(right_words).enumerate() {
        let difference = u64::from_le_bytes(*left) ^ u64::from_le_bytes(*right);
        if difference != 0 {
            return at * 8 + difference.trailing_zeros() as usize / 8;
        }
    }
    let difference = short_word(left_rest) ^ short_word(right_rest);
    // Both words have zeros for missing bytes, so a difference is before the end.
    if difference == 0 { len } else { left_words.len() * 8 + difference.trailing_zeros() as usize / 8 }
}

/// Up to seven bytes as one number, the first lowest. Of four to seven, the middle ones are read
/// twice.
#[inline(always)]
fn short_word(bytes: &[u8]) -> u64 {
    if let (Some(head), Some(tail)) = (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
        let shift = 8 * (bytes.len() - 4);
        return u64::from(u32::from_le_bytes(*head)) | u64::from(u32::from_le_bytes(*tail)) << shift;
    }
    bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
}

/// The order of both, as of slices.
#[inline]
pub(crate) fn compare(left: &[u8], right: &[u8]) -> Ordering {
    let shared = common_len(left, right);
    left.get(shared).cmp(&right.get(shared))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every length around the limits, and a difference at every place.
    #[test]
    fn short_comparisons_agree_with_those_of_slices() {
        let step = if cfg!(miri) { 7 } else { 1 };
        for len in (0..=100).step_by(step) {
            let left: Vec<u8> = (0..=u8::MAX).take(len).map(|at| at ^ 0x5a).collect();
            assert!(equal(&left, &left.clone()));
            assert_eq!((common_len(&left, &left), compare(&left, &left)), (len, Ordering::Equal));
            for at in 0..len {
                for change in [1_u8, 0x80, 0xff] {
                    let mut right = left.clone();
                    right[at] ^= change;
                    assert!(!equal(&left, &right), "{len} {at}");
                    assert_eq!(common_len(&left, &right), at);
                    assert_eq!(compare(&left, &right), left.cmp(&right));
                }
                assert!(!equal(&left, &left[..at]));
                assert_eq!(compare(&left, &left[..at]), Ordering::Greater);
                assert_eq!(compare(&left[..at], &left), Ordering::Less);
            }
        }
    }
}

//! SipHash (Aumasson and Bernstein, 2012), which the point table of a checkpoint is made with.
//!
//! Keyed, so that nobody can choose keys that fall into one slot; written out here, because the bytes of a file must not depend on the version
//! of a library.

/// SipHash with one round per word and three at the end.
pub(crate) fn siphash13(key: (u64, u64), bytes: &[u8]) -> u64 {
    siphash::<1, 3>(key, bytes)
}

fn siphash<const WORD_ROUNDS: usize, const END_ROUNDS: usize>(key: (u64, u64), bytes: &[u8]) -> u64 {
    let mut state = [
        key.0 ^ 0x736f_6d65_7073_6575,
        key.1 ^ 0x646f_7261_6e64_6f6d,
        key.0 ^ 0x6c79_6765_6e65_7261,
        key.1 ^ 0x7465_6462_7974_6573,
    ];
    let mut absorb = |word: u64| {
        state[3] ^= word;
        (0..WORD_ROUNDS).for_each(|_| round(&mut state));
        state[0] ^= word;
    };
    let (words, rest) = bytes.as_chunks::<8>();
    words.iter().for_each(|word| absorb(u64::from_le_bytes(*word)));
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    // Only the lowest byte of the length counts.
    last[7] = bytes.len().to_le_bytes()[0];
    absorb(u64::from_le_bytes(last));
    state[2] ^= 0xff;
    (0..END_ROUNDS).for_each(|_| round(&mut state));
    state.iter().fold(0, |hash, part| hash ^ part)
}

fn round(state: &mut [u64; 4]) {
    let [a, b, c, d] = state;
    *a = a.wrapping_add(*b);
    *b = b.rotate_left(13) ^ *a;
    *a = a.rotate_left(32);
    *c = c.wrapping_add(*d);
    *d = d.rotate_left(16) ^ *c;
    *a = a.wrapping_add(*d);
    *d = d.rotate_left(21) ^ *a;
    *c = c.wrapping_add(*b);
    *b = b.rotate_left(17) ^ *c;
    *c = c.rotate_left(32);
}

#[cfg(test)]
mod tests {
    use super::{siphash, siphash13};

    #[test]
    fn the_published_vector_of_siphash_2_4() {
        let key = (0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908);
        let bytes: Vec<u8> = (0..15).collect();
        assert_eq!(siphash::<2, 4>(key, &bytes), 0xa129_ca61_49be_45e5);
        assert_ne!(siphash13(key, &bytes), siphash13((0, 1), &bytes));
    }
}

//! Lower-case hexadecimal, without branches or look-ups that depend on the digits, because the
//! digits may be secret.

/// Appends the lower-case digits of `bytes` to `text`.
pub(crate) fn encode(bytes: &[u8], text: &mut String) {
    for byte in bytes {
        text.push(digit(byte >> 4));
        text.push(digit(byte & 15));
    }
}

/// Decodes `text` into `out`; `false` if a character is no digit or the length is not twice that of
/// `out`.
pub(crate) fn decode(text: &[u8], out: &mut [u8]) -> bool {
    decode_folding(text, out, 0x20)
}

/// As [`decode`], but only lower-case digits, so that each value has one text.
pub(crate) fn decode_lower(text: &[u8], out: &mut [u8]) -> bool {
    decode_folding(text, out, 0)
}

/// `case_bit` is set in each letter before decoding: 0x20 makes upper case lower.
fn decode_folding(text: &[u8], out: &mut [u8], case_bit: u8) -> bool {
    let (pairs, rest) = text.as_chunks::<2>();
    if !rest.is_empty() || pairs.len() != out.len() {
        return false;
    }
    let mut bad = 0;
    for ([high, low], byte) in pairs.iter().zip(out) {
        let (high, low) = (nibble(*high, case_bit), nibble(*low, case_bit));
        bad |= (high | low) & 0xf0;
        *byte = high << 4 | (low & 15);
    }
    bad == 0
}

fn digit(nibble: u8) -> char {
    let letter = (9_u8.wrapping_sub(nibble)) >> 7; // 1 for 10..=15
    char::from(b'0' + nibble + letter * (b'a' - b'0' - 10))
}

/// The digit's value, or a byte above 15 if `c` is no digit. Masks, not branches: the loop above
/// becomes vector instructions.
fn nibble(c: u8, case_bit: u8) -> u8 {
    let decimal = c.wrapping_sub(b'0');
    let letter = (c | case_bit).wrapping_sub(b'a');
    let is_decimal = u8::from(decimal < 10).wrapping_neg();
    let is_letter = u8::from(letter < 6).wrapping_neg();
    (is_decimal & decimal) | (is_letter & (letter.wrapping_add(10))) | (!(is_decimal | is_letter) & 0xf0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_round_trips() {
        let bytes: Vec<u8> = (0..=255).collect();
        let mut text = String::new();
        encode(&bytes, &mut text);
        assert!(text.starts_with("000102") && text.ends_with("fdfeff"), "{text}");
        let mut back = vec![0; 256];
        assert!(decode_lower(text.as_bytes(), &mut back));
        assert_eq!(back, bytes);
        assert!(decode(text.to_uppercase().as_bytes(), &mut back));
        assert_eq!(back, bytes);
        assert!(!decode_lower(text.to_uppercase().as_bytes(), &mut back));
    }

    #[test]
    fn every_other_character_is_refused() {
        for c in 0..=255_u8 {
            let mut out = [0];
            assert_eq!(decode(&[c, b'0'], &mut out), c.is_ascii_hexdigit(), "{c}");
            assert_eq!(decode(&[b'0', c], &mut out), c.is_ascii_hexdigit(), "{c}");
        }
        assert!(!decode(b"0", &mut [0]));
        assert!(!decode(b"000", &mut [0]));
    }
}

//! Hexadecimal in lower case, without branches or look-ups that depend on the digits: secrets
//! pass through here.

/// Appends the lower-case digits of `bytes` to `text`.
pub(crate) fn encode(bytes: &[u8], text: &mut String) {
    for byte in bytes {
        text.push(digit(byte >> 4));
        text.push(digit(byte & 15));
    }
}

/// Decodes `text` into `out`; `false` if a character is no lower- or upper-case digit or the
/// length is not exactly twice that of `out`.
pub(crate) fn decode(text: &[u8], out: &mut [u8]) -> bool {
    if text.len() != 2 * out.len() {
        return false;
    }
    let mut bad = 0;
    for (pair, byte) in text.chunks_exact(2).zip(out) {
        let (high, low) = (nibble(pair[0]), nibble(pair[1]));
        bad |= (high | low) >> 8;
        *byte = ((high << 4 | low) & 0xff) as u8;
    }
    bad == 0
}

/// Decodes as [`decode`] does, but takes lower-case digits only, so that each value has one text.
pub(crate) fn decode_lower(text: &[u8], out: &mut [u8]) -> bool {
    let upper = text.iter().fold(0, |upper, &c| upper | in_range(c, b'A', b'F'));
    upper == 0 && decode(text, out)
}

fn digit(nibble: u8) -> char {
    let letter = (9_u8.wrapping_sub(nibble)) >> 7; // 1 for 10..=15
    char::from(b'0' + nibble + letter * (b'a' - b'0' - 10))
}

/// All ones if `low <= c <= high`, else zero.
fn in_range(c: u8, low: u8, high: u8) -> u16 {
    let (c, low, high) = (u16::from(c), u16::from(low), u16::from(high));
    let outside = (c.wrapping_sub(low) | high.wrapping_sub(c)) >> 15;
    outside.wrapping_sub(1)
}

/// The digit's value, with bit 8 set if `c` is no digit.
fn nibble(c: u8) -> u16 {
    let (decimal, lower, upper) = (in_range(c, b'0', b'9'), in_range(c, b'a', b'f'), in_range(c, b'A', b'F'));
    let wide = u16::from(c);
    let value = (decimal & wide.wrapping_sub(48)) | (lower & wide.wrapping_sub(87)) | (upper & wide.wrapping_sub(55));
    value | (!(decimal | lower | upper) & 0x100)
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

//! The key of an entry of a range.

const INLINE_LEN_BYTES: usize = 22;

/// The bytes of a key. Up to 22 bytes are stored inline, so that a scan of short keys allocates
/// nothing.
#[derive(Clone)]
pub(crate) enum EntryKey {
    Inline { len: u8, bytes: [u8; INLINE_LEN_BYTES] },
    Heap(Box<[u8]>),
}

impl EntryKey {
    pub(crate) fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Inline { len, bytes } => bytes.get(..usize::from(*len)).unwrap_or_default(),
            Self::Heap(bytes) => bytes,
        }
    }

    pub(crate) fn into_vec(self) -> Vec<u8> {
        match self {
            Self::Inline { .. } => self.as_bytes().to_vec(),
            Self::Heap(bytes) => bytes.into_vec(),
        }
    }
}

impl From<&[u8]> for EntryKey {
    fn from(key: &[u8]) -> Self {
        match u8::try_from(key.len()) {
            Ok(len) if key.len() <= INLINE_LEN_BYTES => {
                let mut bytes = [0; INLINE_LEN_BYTES];
                bytes[..key.len()].copy_from_slice(key);
                Self::Inline { len, bytes }
            }
            _ => Self::Heap(key.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{EntryKey, INLINE_LEN_BYTES};

    #[test]
    fn keys_of_every_length_come_back() {
        for len in [0, 1, INLINE_LEN_BYTES, INLINE_LEN_BYTES + 1, 255, 256, 65_535] {
            let bytes: Vec<u8> = (0..len).map(|at| u8::try_from(at % 251).unwrap()).collect();
            let key = EntryKey::from(&bytes[..]);
            assert_eq!(key.as_bytes(), bytes);
            assert_eq!(key.into_vec(), bytes);
        }
    }

    #[test]
    fn it_is_three_words() {
        assert_eq!(size_of::<EntryKey>(), 24);
    }
}

//! What a read hands out.

use std::borrow::Borrow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

const INLINE_LEN_BYTES: usize = 22;

/// The bytes of a value, owned by the caller.
///
/// Up to 22 bytes are held in place; longer ones cost one allocation when read and none when cloned. It dereferences to `[u8]`.
///
/// ```
/// use hightower_engine::Value;
///
/// let value = Value::from(&b"running"[..]);
/// assert_eq!(value, b"running");
/// assert!(value.starts_with(b"run"));
/// assert_eq!(value.to_vec(), b"running".to_vec());
/// ```
#[derive(Clone)]
pub struct Value(Repr);

#[derive(Clone)]
enum Repr {
    Inline { len: u8, bytes: [u8; INLINE_LEN_BYTES] },
    Shared(Arc<[u8]>),
}

impl Value {
    /// The bytes as a vector; costs a copy.
    #[must_use]
    pub fn into_vec(self) -> Vec<u8> {
        self.to_vec()
    }
}

impl Deref for Value {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            // The length never exceeds the array's: only `from` sets it.
            Repr::Inline { len, bytes } => &bytes[..usize::from(*len)],
            Repr::Shared(bytes) => bytes,
        }
    }
}

impl From<&[u8]> for Value {
    fn from(from: &[u8]) -> Self {
        match u8::try_from(from.len()) {
            Ok(len) if from.len() <= INLINE_LEN_BYTES => {
                let mut bytes = [0; INLINE_LEN_BYTES];
                bytes[..from.len()].copy_from_slice(from);
                Self(Repr::Inline { len, bytes })
            }
            _ => Self(Repr::Shared(Arc::from(from))),
        }
    }
}

impl<const N: usize> From<&[u8; N]> for Value {
    fn from(from: &[u8; N]) -> Self {
        Self::from(&from[..])
    }
}

impl From<Vec<u8>> for Value {
    fn from(from: Vec<u8>) -> Self {
        Self::from(&from[..])
    }
}

impl From<Value> for Vec<u8> {
    fn from(value: Value) -> Self {
        value.to_vec()
    }
}

impl AsRef<[u8]> for Value {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Borrow<[u8]> for Value {
    fn borrow(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "b\"{}\"", self.escape_ascii())
    }
}

impl Eq for Value {}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        self[..] == other[..]
    }
}

impl PartialOrd for Value {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Value {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self[..].cmp(&other[..])
    }
}

impl Hash for Value {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self[..].hash(state);
    }
}

impl PartialEq<[u8]> for Value {
    fn eq(&self, other: &[u8]) -> bool {
        self[..] == *other
    }
}

impl PartialEq<&[u8]> for Value {
    fn eq(&self, other: &&[u8]) -> bool {
        self[..] == **other
    }
}

impl<const N: usize> PartialEq<[u8; N]> for Value {
    fn eq(&self, other: &[u8; N]) -> bool {
        self[..] == *other
    }
}

impl<const N: usize> PartialEq<&[u8; N]> for Value {
    fn eq(&self, other: &&[u8; N]) -> bool {
        self[..] == **other
    }
}

impl PartialEq<Vec<u8>> for Value {
    fn eq(&self, other: &Vec<u8>) -> bool {
        self[..] == other[..]
    }
}

#[cfg(test)]
mod tests {
    use super::{INLINE_LEN_BYTES, Value};

    #[test]
    fn every_length_comes_back() {
        for len in [0, 1, INLINE_LEN_BYTES, INLINE_LEN_BYTES + 1, 255, 256, 70_000] {
            let bytes: Vec<u8> = (0..len).map(|at| u8::try_from(at % 251).unwrap()).collect();
            let value = Value::from(&bytes[..]);
            assert_eq!(value, bytes);
            assert_eq!(value.clone().into_vec(), bytes);
        }
    }

    #[test]
    fn it_is_three_words() {
        assert_eq!(size_of::<Value>(), 24);
    }
}

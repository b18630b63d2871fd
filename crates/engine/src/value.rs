//! The value returned by a read.

use std::borrow::Borrow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

const INLINE_LEN_BYTES: usize = 22;

/// The bytes of a value, owned by the caller.
///
/// Up to 22 bytes are stored inline; longer values cost one allocation when read and none when
/// cloned. It dereferences to `[u8]`, and compares with bytes and with text. With the feature
/// `bytes` it converts from and to `bytes::Bytes`, with `serde` it is serialized as bytes.
///
/// ```
/// use hightower_engine::Value;
///
/// let value = Value::from(&b"running"[..]);
/// assert_eq!(value, b"running");
/// assert_eq!(value, "running");
/// assert_eq!(value.as_str(), Ok("running"));
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
    /// An empty value, without an allocation.
    ///
    /// ```
    /// use hightower_engine::Value;
    ///
    /// const NONE: Value = Value::new();
    /// assert_eq!(NONE, Value::default());
    /// assert!(NONE.is_empty());
    /// ```
    #[must_use]
    pub const fn new() -> Self {
        Self(Repr::Inline { len: 0, bytes: [0; INLINE_LEN_BYTES] })
    }

    /// The bytes, without a copy.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self
    }

    /// The value as text. It costs a check of all bytes.
    ///
    /// ```
    /// use hightower_engine::Value;
    ///
    /// assert_eq!(Value::from("grün").as_str(), Ok("grün"));
    /// assert!(Value::from(b"\xff").as_str().is_err());
    /// ```
    ///
    /// # Errors
    ///
    /// If the bytes are not UTF-8; the error has the position of the first invalid byte.
    pub fn as_str(&self) -> Result<&str, std::str::Utf8Error> {
        std::str::from_utf8(self)
    }

    /// The bytes as a vector. It costs a copy.
    #[must_use]
    pub fn into_vec(self) -> Vec<u8> {
        self.to_vec()
    }
}

impl Deref for Value {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            // Only `from` sets the length, which never exceeds the array's.
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

impl From<&str> for Value {
    fn from(from: &str) -> Self {
        Self::from(from.as_bytes())
    }
}

impl From<String> for Value {
    fn from(from: String) -> Self {
        Self::from(from.as_bytes())
    }
}

impl Default for Value {
    fn default() -> Self {
        Self::new()
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

impl PartialEq<str> for Value {
    fn eq(&self, other: &str) -> bool {
        self[..] == *other.as_bytes()
    }
}

impl PartialEq<&str> for Value {
    fn eq(&self, other: &&str) -> bool {
        self[..] == *other.as_bytes()
    }
}

impl PartialEq<String> for Value {
    fn eq(&self, other: &String) -> bool {
        self[..] == *other.as_bytes()
    }
}

/// The reverse comparison, so that the value may be on either side of an assertion.
macro_rules! equal_to_value {
    ($($other:ty),*) => {$(
        impl PartialEq<Value> for $other {
            fn eq(&self, other: &Value) -> bool {
                other == self
            }
        }
    )*};
}

equal_to_value!([u8], &[u8], Vec<u8>, str, &str, String);

/// Without a copy of values over 22 bytes.
#[cfg(feature = "bytes")]
impl From<Value> for bytes::Bytes {
    fn from(value: Value) -> Self {
        match &value.0 {
            Repr::Inline { .. } => Self::copy_from_slice(&value),
            Repr::Shared(_) => Self::from_owner(value),
        }
    }
}

/// Costs a copy.
#[cfg(feature = "bytes")]
impl From<bytes::Bytes> for Value {
    fn from(from: bytes::Bytes) -> Self {
        Self::from(&from[..])
    }
}

#[cfg(feature = "serde")]
impl serde_core::Serialize for Value {
    fn serialize<S: serde_core::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self)
    }
}

#[cfg(feature = "serde")]
impl<'de> serde_core::Deserialize<'de> for Value {
    fn deserialize<D: serde_core::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_bytes(OfBytes)
    }
}

/// Accepts bytes, text, and a sequence of bytes, which is the form of bytes in text formats.
#[cfg(feature = "serde")]
struct OfBytes;

#[cfg(feature = "serde")]
impl<'de> serde_core::de::Visitor<'de> for OfBytes {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("bytes")
    }

    fn visit_bytes<E: serde_core::de::Error>(self, bytes: &[u8]) -> Result<Value, E> {
        Ok(Value::from(bytes))
    }

    fn visit_str<E: serde_core::de::Error>(self, text: &str) -> Result<Value, E> {
        Ok(Value::from(text))
    }

    fn visit_seq<A: serde_core::de::SeqAccess<'de>>(self, mut bytes: A) -> Result<Value, A::Error> {
        // The size hint is untrusted; memory is allocated for the actual input.
        let mut collected = Vec::with_capacity(bytes.size_hint().unwrap_or(0).min(4096));
        while let Some(byte) = bytes.next_element::<u8>()? {
            collected.push(byte);
        }
        Ok(Value::from(collected))
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
    fn it_compares_with_bytes_and_text_on_either_side() {
        let value = Value::from("running");
        assert_eq!(value, "running");
        assert_eq!("running", value);
        assert_eq!(value, *"running");
        assert_eq!(value, String::from("running"));
        assert_eq!(String::from("running"), value);
        assert_eq!(b"running"[..], value);
        assert_eq!(b"running".to_vec(), value);
        assert_ne!(value, "runnin");
        assert_ne!(value, "");
        assert_eq!(Value::default(), "");
    }

    #[test]
    fn it_is_text_only_if_it_is_utf8() {
        assert_eq!(Value::from("a\0é").as_str(), Ok("a\0é"));
        let error = Value::from(&b"ab\xc3"[..]).as_str().unwrap_err();
        assert_eq!(error.valid_up_to(), 2);
    }

    #[cfg(feature = "bytes")]
    #[test]
    fn long_values_become_bytes_without_a_copy() {
        let value = Value::from(vec![7; 100]);
        let at = value.as_ptr();
        let bytes = bytes::Bytes::from(value);
        assert_eq!((bytes.as_ptr(), &bytes[..]), (at, &[7; 100][..]));
        assert_eq!(Value::from(bytes), [7; 100]);
        assert_eq!(&bytes::Bytes::from(Value::from("short"))[..], b"short");
    }

    #[cfg(feature = "serde")]
    #[test]
    fn it_is_serialized_as_bytes() {
        let value = Value::from(&[0, 255, 3]);
        let text = serde_json::to_string(&value).unwrap();
        assert_eq!(text, "[0,255,3]");
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
        assert_eq!(serde_json::from_str::<Value>("\"text\"").unwrap(), "text");
        assert!(serde_json::from_str::<Value>("[256]").is_err());
        assert!(serde_json::from_str::<Value>("{}").is_err());
    }

    #[test]
    fn it_is_three_words() {
        assert_eq!(size_of::<Value>(), 24);
    }
}

//! The keys of the store. Only this file knows how they are composed; `docs/FORMAT.md` has the
//! bytes.
//!
//! Keys of the default keyspace are stored as they are, unless they begin with the byte 255. All
//! others have a prefix: 255, the length of the keyspace's id, the id. So the order of stored keys
//! is the order of the ids, and within a keyspace that of the user's keys. A default key that
//! begins with 255 has the prefix of the id 0, which has no bytes.

use std::ops::Bound;

use hightower_log::CommandRef;

use crate::bounds::{OwnedBounds, prefix_end};
use crate::error::{Error, Result};
use crate::keyspace::KeyspaceId;
use crate::limits;
use crate::mutants::planted;

/// The first byte of each stored key with a prefix.
const MARK: u8 = u8::MAX;

/// The first stored key of a keyspace other than the default one: their ids have a byte or more.
const OTHERS: &[u8] = &[MARK, 1];

/// Length of the longest prefix: the mark, a length, an id.
pub(crate) const MAX_PREFIX_LEN_BYTES: usize = 2 + size_of::<u64>();

/// Stored keys up to this length are composed without an allocation.
const INLINE_LEN_BYTES: usize = 62;

/// A key as it is stored.
#[derive(Clone, Debug)]
pub(crate) enum StoredKey<'k> {
    /// The same bytes as the user's key.
    AsIs(&'k [u8]),
    Inline {
        len: u8,
        bytes: [u8; INLINE_LEN_BYTES],
    },
    Heap(Vec<u8>),
}

/// Two bounds of stored keys.
#[derive(Clone, Debug)]
pub(crate) struct StoredBounds<'k> {
    from: Bound<StoredKey<'k>>,
    to: Bound<StoredKey<'k>>,
}

/// A stored key, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UserKey<'k> {
    pub(crate) keyspace: KeyspaceId,
    pub(crate) key: &'k [u8],
}

/// Whether the stored key of this key of the default keyspace has the same bytes.
#[inline]
pub(crate) fn is_stored_as_is(key: &[u8]) -> bool {
    key.first() != Some(&MARK) || planted("default_keys_reach_other_keyspaces")
}

/// The user's part of a stored key.
#[inline]
pub(crate) fn user_part(stored: &[u8]) -> &[u8] {
    if stored.first() == Some(&MARK) { behind_prefix(stored) } else { stored }
}

/// Calls `use_stored` with the stored key of a key of the default keyspace: nearly always the same
/// bytes, at the cost of one comparison.
#[inline]
pub(crate) fn with_default_key<R>(key: &[u8], use_stored: impl FnOnce(&[u8]) -> R) -> R {
    if is_stored_as_is(key) { use_stored(key) } else { with_composed_key(key, use_stored) }
}

#[cold]
#[inline(never)]
fn with_composed_key<R>(key: &[u8], use_stored: impl FnOnce(&[u8]) -> R) -> R {
    use_stored(KeyspaceId::DEFAULT.composed(key).as_bytes())
}

#[cold]
fn behind_prefix(stored: &[u8]) -> &[u8] {
    let len = stored.get(1).map_or(0, |len| 2 + usize::from(*len));
    stored.get(len..).unwrap_or_default()
}

impl<'k> UserKey<'k> {
    /// Takes a stored key apart. A key that no version of the store writes counts as one of the
    /// default keyspace.
    pub(crate) fn of(stored: &'k [u8]) -> Self {
        let default = Self { keyspace: KeyspaceId::DEFAULT, key: stored };
        let [MARK, len, rest @ ..] = stored else { return default };
        let Some((id, key)) = rest.split_at_checked(usize::from(*len)) else { return default };
        let mut bytes = [0; size_of::<u64>()];
        let Some(at) = bytes.len().checked_sub(id.len()) else { return default };
        bytes[at..].copy_from_slice(id);
        Self { keyspace: KeyspaceId::new(u64::from_be_bytes(bytes)), key }
    }
}

/// The prefix of the stored keys of a keyspace.
struct Prefix {
    bytes: [u8; MAX_PREFIX_LEN_BYTES],
    len: usize,
}

impl Prefix {
    fn of(keyspace: KeyspaceId) -> Self {
        let id = keyspace.get();
        let skipped_bits = id.leading_zeros() / u8::BITS * u8::BITS;
        let id_len = ((u64::BITS - skipped_bits) / u8::BITS) as usize;
        // Copies have fixed lengths, which need no call.
        let mut bytes = [0; MAX_PREFIX_LEN_BYTES];
        bytes[0] = MARK;
        // At most 8.
        bytes[1] = u8::try_from(id_len).unwrap_or(u8::MAX);
        bytes[2..].copy_from_slice(&id.checked_shl(skipped_bits).unwrap_or(0).to_be_bytes());
        Self { bytes, len: 2 + id_len }
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl KeyspaceId {
    /// The stored key of one of the user's. The keys of the default keyspace cost one comparison.
    #[inline]
    pub(crate) fn stored(self, key: &[u8]) -> StoredKey<'_> {
        if self == Self::DEFAULT && is_stored_as_is(key) { StoredKey::AsIs(key) } else { self.composed(key) }
    }

    #[inline(never)]
    fn composed(self, key: &[u8]) -> StoredKey<'static> {
        let prefix = Prefix::of(self);
        let len = prefix.len + key.len();
        if len > INLINE_LEN_BYTES {
            return StoredKey::Heap([prefix.as_bytes(), key].concat());
        }
        let mut bytes = [0; INLINE_LEN_BYTES];
        // The key overwrites what is behind the prefix.
        bytes[..MAX_PREFIX_LEN_BYTES].copy_from_slice(&prefix.bytes);
        bytes[prefix.len..len].copy_from_slice(key);
        StoredKey::Inline { len: u8::try_from(len).unwrap_or(u8::MAX), bytes }
    }

    /// The stored keys between two keys of the user's.
    pub(crate) fn stored_bounds<'k>(self, from: Bound<&'k [u8]>, to: Bound<&'k [u8]>) -> StoredBounds<'k> {
        let from = match from {
            Bound::Unbounded if self == Self::DEFAULT => Bound::Unbounded,
            Bound::Unbounded => Bound::Included(self.composed(&[])),
            Bound::Included(key) => Bound::Included(self.stored(key)),
            Bound::Excluded(key) => Bound::Excluded(self.stored(key)),
        };
        let to = match to {
            Bound::Unbounded => self.end(),
            Bound::Included(key) => Bound::Included(self.stored(key)),
            Bound::Excluded(key) => Bound::Excluded(self.stored(key)),
        };
        StoredBounds { from, to }
    }

    /// Calls `use_bounds` with the stored keys between two keys of the user's. Those of the default
    /// keyspace are nearly always the same bytes.
    #[inline]
    pub(crate) fn with_bounds<R>(
        self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        use_bounds: impl FnOnce(Bound<&[u8]>, Bound<&[u8]>) -> R,
    ) -> R {
        let is_as_is = |bound| match bound {
            Bound::Unbounded => true,
            Bound::Included(key) | Bound::Excluded(key) => is_stored_as_is(key),
        };
        if self == Self::DEFAULT && is_as_is(from) && is_as_is(to) {
            let end = if planted("default_range_shows_other_keyspaces") { to } else { Bound::Excluded(OTHERS) };
            return use_bounds(from, if to == Bound::Unbounded { end } else { to });
        }
        let bounds = self.stored_bounds(from, to);
        use_bounds(bounds.from(), bounds.to())
    }

    /// The stored keys of the user's keys with a prefix.
    pub(crate) fn stored_prefix(self, prefix: &[u8]) -> StoredBounds<'_> {
        let from = if prefix.is_empty() && self == Self::DEFAULT {
            Bound::Unbounded
        } else {
            Bound::Included(self.stored(prefix))
        };
        let to = match prefix_end(prefix) {
            Some(end) if self == Self::DEFAULT && is_stored_as_is(&end) => Bound::Excluded(StoredKey::Heap(end)),
            Some(end) => Bound::Excluded(self.composed(&end)),
            None => self.end(),
        };
        StoredBounds { from, to }
    }

    /// Behind the last stored key of the keyspace.
    fn end<'k>(self) -> Bound<StoredKey<'k>> {
        if self == Self::DEFAULT {
            if planted("default_range_shows_other_keyspaces") {
                return Bound::Unbounded;
            }
            return Bound::Excluded(StoredKey::AsIs(OTHERS));
        }
        prefix_end(Prefix::of(self).as_bytes()).map_or(Bound::Unbounded, |end| Bound::Excluded(StoredKey::Heap(end)))
    }
}

impl StoredKey<'_> {
    #[inline]
    pub(crate) fn as_bytes(&self) -> &[u8] {
        match self {
            Self::AsIs(key) => key,
            Self::Inline { len, bytes } => bytes.get(..usize::from(*len)).unwrap_or_default(),
            Self::Heap(bytes) => bytes,
        }
    }

    pub(crate) fn into_vec(self) -> Vec<u8> {
        match self {
            Self::Heap(bytes) => bytes,
            _ => self.as_bytes().to_vec(),
        }
    }
}

impl AsRef<[u8]> for StoredKey<'_> {
    fn as_ref(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl StoredBounds<'_> {
    /// The keys of all keyspaces.
    pub(crate) fn all() -> Self {
        Self { from: Bound::Unbounded, to: Bound::Unbounded }
    }

    /// The keys of all keyspaces but the default one.
    pub(crate) fn behind_default() -> Self {
        Self { from: Bound::Included(StoredKey::AsIs(OTHERS)), to: Bound::Unbounded }
    }

    pub(crate) fn from(&self) -> Bound<&[u8]> {
        self.from.as_ref().map(StoredKey::as_bytes)
    }

    pub(crate) fn to(&self) -> Bound<&[u8]> {
        self.to.as_ref().map(StoredKey::as_bytes)
    }

    pub(crate) fn into_owned(self) -> OwnedBounds {
        (self.from.map(StoredKey::into_vec), self.to.map(StoredKey::into_vec))
    }
}

/// The bounds of the user's keys that these bounds of stored keys have come from.
pub(crate) fn user_bounds<'k>(from: Bound<&'k [u8]>, to: Bound<&'k [u8]>) -> (Bound<&'k [u8]>, Bound<&'k [u8]>) {
    let keyspace = match from {
        Bound::Included(stored) | Bound::Excluded(stored) => UserKey::of(stored).keyspace,
        Bound::Unbounded => KeyspaceId::DEFAULT,
    };
    let user_from = match from.map(user_part) {
        Bound::Included([]) if keyspace != KeyspaceId::DEFAULT => Bound::Unbounded,
        user_from => user_from,
    };
    let to = match (to, keyspace.end()) {
        (Bound::Excluded(stored), Bound::Excluded(end)) if stored == end.as_bytes() => Bound::Unbounded,
        (to, _) => to.map(user_part),
    };
    (user_from, to)
}

/// The same command with the user's part of its stored key.
pub(crate) fn of_user(stored: CommandRef<'_>) -> CommandRef<'_> {
    match stored {
        CommandRef::Set { key, value, version, timestamp } => {
            CommandRef::Set { key: user_part(key), value, version, timestamp }
        }
        CommandRef::Delete { key, version, timestamp } => {
            CommandRef::Delete { key: user_part(key), version, timestamp }
        }
    }
}

/// Checks the length of the user's part of a stored key.
#[inline]
pub(crate) fn check_key(stored: &[u8]) -> Result<()> {
    let len = user_part(stored).len();
    if len == 0 {
        return Err(Error::Validation(EMPTY.into()));
    }
    if len > limits::MAX_KEY_LEN_BYTES && !planted("limits_unchecked") {
        let limit = limits::MAX_KEY_LEN_BYTES as u64;
        return Err(Error::LimitExceeded { what: "key (bytes)", found: len as u64, limit });
    }
    Ok(())
}

const EMPTY: &str = "the key is empty: a key has 1 to 65,520 bytes";

// The longest key fits a record behind the longest prefix.
const _: () = assert!(limits::MAX_KEY_LEN_BYTES + MAX_PREFIX_LEN_BYTES <= hightower_log::limits::MAX_KEY_LEN_BYTES);

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn stored(keyspace: u64, key: &[u8]) -> Vec<u8> {
        KeyspaceId::new(keyspace).stored(key).into_vec()
    }

    /// The examples of `docs/FORMAT.md`.
    #[test]
    fn stored_keys_have_these_bytes() {
        for (keyspace, key, bytes) in [
            (0, &b"a"[..], &b"a"[..]),
            (0, b"\xfe\xff", b"\xfe\xff"),
            (0, b"\xff", b"\xff\x00\xff"),
            (0, b"\xff\x01a", b"\xff\x00\xff\x01a"),
            (1, b"a", b"\xff\x01\x01a"),
            (16, b"a", b"\xff\x01\x10a"),
            (255, b"\xff", b"\xff\x01\xff\xff"),
            (256, b"a", b"\xff\x02\x01\x00a"),
            (u64::MAX, b"a", b"\xff\x08\xff\xff\xff\xff\xff\xff\xff\xffa"),
        ] {
            assert_eq!(stored(keyspace, key), bytes, "{keyspace} {key:?}");
        }
    }

    #[test]
    fn a_key_that_no_store_writes_is_one_of_the_default_keyspace() {
        for stored in [&b"\xff"[..], b"\xff\x01", b"\xff\x09123456789", b"\xff\x02\x01"] {
            assert_eq!(UserKey::of(stored), UserKey { keyspace: KeyspaceId::DEFAULT, key: stored });
            assert!(user_part(stored).len() <= stored.len());
        }
    }

    fn keyspace() -> impl Strategy<Value = u64> {
        prop_oneof![Just(0), 1..300_u64, any::<u64>(), Just(u64::MAX)]
    }

    fn key() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![Just(0), Just(1), Just(0xfe), Just(0xff), any::<u8>()];
        prop_oneof![8 => vec(byte, 0..5), 1 => vec(any::<u8>(), 40..80)]
    }

    fn bound() -> impl Strategy<Value = Bound<Vec<u8>>> {
        prop_oneof![Just(Bound::Unbounded), key().prop_map(Bound::Included), key().prop_map(Bound::Excluded)]
    }

    fn holds(bounds: (Bound<&[u8]>, Bound<&[u8]>), key: &[u8]) -> bool {
        std::ops::RangeBounds::<[u8]>::contains(&bounds, key)
    }

    proptest! {
        #[test]
        fn the_order_is_that_of_keyspaces_and_keys(one in (keyspace(), key()), other in (keyspace(), key())) {
            let (stored_one, stored_other) = (stored(one.0, &one.1), stored(other.0, &other.1));
            prop_assert_eq!(stored_one.cmp(&stored_other), one.cmp(&other));
            prop_assert_eq!(user_part(&stored_one), &one.1);
            let parts = UserKey { keyspace: KeyspaceId::new(one.0), key: &one.1 };
            prop_assert_eq!(UserKey::of(&stored_one), parts);
        }

        #[test]
        fn a_range_holds_the_keys_of_its_keyspace(
            keyspace in keyspace(), from in bound(), to in bound(), prefix in key(), of in keyspace(), key in key()
        ) {
            let (from, to) = (from.as_ref().map(Vec::as_slice), to.as_ref().map(Vec::as_slice));
            let id = KeyspaceId::new(keyspace);
            let bounds = id.stored_bounds(from, to);
            let stored_key = stored(of, &key);
            let is_held = of == keyspace && holds((from, to), &key);
            prop_assert_eq!(holds((bounds.from(), bounds.to()), &stored_key), is_held);
            prop_assert_eq!(id.with_bounds(from, to, |from, to| holds((from, to), &stored_key)), is_held);
            // An included empty key is as good as no bound: no key is empty.
            let is_same = |one: Bound<&[u8]>, other| {
                one == other || (one == Bound::Included(&[]) && other == Bound::Unbounded)
            };
            let again = user_bounds(bounds.from(), bounds.to());
            prop_assert!(is_same(from, again.0) && to == again.1, "{:?} {:?}", (from, to), again);
            let bounds = id.stored_prefix(&prefix);
            let is_held = of == keyspace && key.starts_with(&prefix);
            prop_assert_eq!(holds((bounds.from(), bounds.to()), &stored_key), is_held);
        }
    }
}

//! Limits on the keys and bytes under the range of a grant.

use crate::codec::{FieldReader, FieldWriter};
use crate::error::{Error, Result};

/// A limit on the number of keys, and on the bytes of keys and values, under the range of a grant.
/// It limits the writes that the grant allows.
///
/// All keys under the range count, also those of other writers: two users with one role share its
/// quota. Only current values count: no tombstones, and no old values that compaction will remove.
///
/// If several grants allow a write, it must fit in the quota of each. If one of them has no quota,
/// none applies. For an API key with limits this holds for the owner's grants, and for the key's
/// own.
///
/// # Examples
/// ```
/// use hightower_auth::{Action, Grant, KeyRange, Quota};
/// let quota = Quota::new(Some(10_000), Some(64 << 20))?;
/// let grant = Grant::new([Action::Read, Action::Write], KeyRange::prefix("tenant-a/"))?.with_quota(quota)?;
/// assert_eq!(grant.quota().and_then(Quota::max_keys), Some(10_000));
/// # Ok::<(), hightower_auth::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Quota {
    max_keys: Option<u64>,
    max_bytes: Option<u64>,
}

impl Quota {
    /// A quota with a maximum number of keys, and a maximum of bytes of keys and values. 0 allows
    /// no growth.
    ///
    /// # Errors
    /// [`Error::Validation`] if both are `None`.
    pub fn new(max_keys: Option<u64>, max_bytes: Option<u64>) -> Result<Self> {
        if max_keys.is_none() && max_bytes.is_none() {
            return Err(Error::Validation("a quota needs a limit of keys, of bytes, or both"));
        }
        Ok(Self { max_keys, max_bytes })
    }

    /// Maximum number of keys; `None` for no limit.
    pub fn max_keys(&self) -> Option<u64> {
        self.max_keys
    }

    /// Maximum bytes of keys and values; `None` for no limit.
    pub fn max_bytes(&self) -> Option<u64> {
        self.max_bytes
    }

    /// The intersection of two quotas.
    pub(crate) fn and(&self, other: &Self) -> Self {
        let least = |one: Option<u64>, other: Option<u64>| one.into_iter().chain(other).min();
        Self { max_keys: least(self.max_keys, other.max_keys), max_bytes: least(self.max_bytes, other.max_bytes) }
    }

    /// Whether `other` allows everything that this quota allows.
    pub(crate) fn is_within(&self, other: &Self) -> bool {
        self.and(other) == *self
    }

    pub(crate) fn encode(quota: Option<&Self>, writer: &mut FieldWriter) {
        let (max_keys, max_bytes) = quota.map_or((None, None), |quota| (quota.max_keys, quota.max_bytes));
        writer.u8(u8::from(max_keys.is_some()) | u8::from(max_bytes.is_some()) << 1);
        for limit in max_keys.into_iter().chain(max_bytes) {
            writer.u64(limit);
        }
    }

    pub(crate) fn decode(reader: &mut FieldReader<'_>) -> Result<Option<Self>> {
        let limits = reader.u8()?;
        if limits > 3 {
            return Err(Error::Crypto("a grant has a limit of an unknown kind; update the program"));
        }
        let max_keys = if limits & 1 != 0 { Some(reader.u64()?) } else { None };
        let max_bytes = if limits & 2 != 0 { Some(reader.u64()?) } else { None };
        Ok((limits != 0).then_some(Self { max_keys, max_bytes }))
    }
}

/// The use of a range.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct QuotaUse {
    /// Keys that have a value.
    pub keys: u64,
    /// Bytes of these keys and their values.
    pub bytes: u64,
}

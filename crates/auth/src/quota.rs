//! How much may be under the range of a grant.

use crate::codec::{Reader, Writer};
use crate::error::{Error, Result};

/// How many keys, and how many bytes of keys and values, may be under the range of a grant, for writes that the grant
/// allows.
///
/// It counts what is under the range, whoever wrote it: two users with one role share its quota. Only values that are
/// there count, as long as they are: no space that compaction has yet to free, no tombstones.
///
/// Who has several grants on a key has to fit in the quota of each; a grant without a quota that allows the same frees
/// them from all. For an API key with limits this holds for its owner's grants, and for its own.
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
    /// At most this many keys, and at most this many bytes of keys and values. 0 lets nothing grow.
    ///
    /// # Errors
    /// [`Error::Validation`] if both are `None`.
    pub fn new(max_keys: Option<u64>, max_bytes: Option<u64>) -> Result<Self> {
        if max_keys.is_none() && max_bytes.is_none() {
            return Err(Error::Validation("a quota limits keys or bytes"));
        }
        Ok(Self { max_keys, max_bytes })
    }

    /// Most keys; `None`: any number.
    pub fn max_keys(&self) -> Option<u64> {
        self.max_keys
    }

    /// Most bytes of keys and values; `None`: any number.
    pub fn max_bytes(&self) -> Option<u64> {
        self.max_bytes
    }

    /// What fits in both.
    pub(crate) fn and(&self, other: &Self) -> Self {
        let least = |one: Option<u64>, other: Option<u64>| one.into_iter().chain(other).min();
        Self { max_keys: least(self.max_keys, other.max_keys), max_bytes: least(self.max_bytes, other.max_bytes) }
    }

    /// Whether what fits in this fits in `other`.
    pub(crate) fn is_within(&self, other: &Self) -> bool {
        self.and(other) == *self
    }

    pub(crate) fn encode(quota: Option<&Self>, writer: &mut Writer) {
        let (max_keys, max_bytes) = quota.map_or((None, None), |quota| (quota.max_keys, quota.max_bytes));
        writer.u8(u8::from(max_keys.is_some()) | u8::from(max_bytes.is_some()) << 1);
        for limit in max_keys.into_iter().chain(max_bytes) {
            writer.u64(limit);
        }
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Option<Self>> {
        let limits = reader.u8()?;
        if limits > 3 {
            return Err(Error::Crypto("a grant has a limit that this build does not know"));
        }
        let max_keys = if limits & 1 != 0 { Some(reader.u64()?) } else { None };
        let max_bytes = if limits & 2 != 0 { Some(reader.u64()?) } else { None };
        Ok((limits != 0).then_some(Self { max_keys, max_bytes }))
    }
}

/// What is under a range.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct QuotaUse {
    /// Keys that have a value.
    pub keys: u64,
    /// Bytes of these keys and their values.
    pub bytes: u64,
}

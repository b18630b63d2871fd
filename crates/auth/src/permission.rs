//! Permissions: grants of actions on ranges of keys. Without a grant nothing is allowed.
//!
//! Every range is half-open over byte strings, `start <= key < end`; a range without end contains
//! every key from `start` on. The successor of the key `k` is `k` and a zero byte, so each kind of
//! bound of the engine maps exactly to such a range. A [`PermissionSet`] keeps, per action, sorted
//! disjoint ranges: a check is one binary search. A range is allowed only if every key in it is
//! allowed.

use std::ops::Bound;

use crate::codec::{FieldReader, FieldWriter};
use crate::error::{Error, Result};
use crate::quota::Quota;

/// Longest bound of a grant, in bytes.
pub const MAX_GRANT_KEY_LEN_BYTES: usize = 1024;
/// Maximum number of grants in one role or API key.
pub const MAX_GRANTS: usize = 256;

/// An operation that a grant can allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// Read values, list keys, and state requirements on keys in a batch.
    Read,
    /// Put and delete values, with versions that the engine assigns.
    Write,
    /// Submit commands with explicit versions, which can block later writers.
    Admin,
    /// View users, their sessions, API keys, tokens and factors. The range is one of usernames in
    /// normal form.
    ViewUsers,
    /// Create and change users. The range is one of usernames in normal form. See
    /// [`crate::AdminService`].
    ManageUsers,
    /// Define roles, and give them to users. The range is one of role names.
    ManageRoles,
    /// Read the audit trail. Only a grant on all keys counts.
    ReadAudit,
}

impl Action {
    /// All actions on keys.
    pub const ALL: [Self; 3] = [Self::Read, Self::Write, Self::Admin];
    /// All actions on users, roles and the audit trail. A grant has either management actions or
    /// actions on keys.
    pub const MANAGEMENT: [Self; 4] = [Self::ViewUsers, Self::ManageUsers, Self::ManageRoles, Self::ReadAudit];

    fn bit(self) -> u8 {
        match self {
            Self::Read => 1,
            Self::Write => 2,
            Self::Admin => 4,
            Self::ViewUsers => 8,
            Self::ManageUsers => 16,
            Self::ManageRoles => 32,
            Self::ReadAudit => 64,
        }
    }

    fn index(self) -> usize {
        match self {
            Self::Read => 0,
            Self::Write => 1,
            Self::Admin => 2,
            Self::ViewUsers => 3,
            Self::ManageUsers => 4,
            Self::ManageRoles => 5,
            Self::ReadAudit => 6,
        }
    }
}

/// The bits of the actions on keys.
const ON_KEYS: u8 = 7;
/// The bits of the actions that change keys.
const WRITES: u8 = 6;

/// The keys from `start` (inclusive) to `end` (exclusive).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyRange {
    start: Vec<u8>,
    end: Option<Vec<u8>>,
}

impl KeyRange {
    /// Every key.
    pub fn all() -> Self {
        Self { start: Vec::new(), end: None }
    }

    /// The keys that start with `prefix`.
    pub fn prefix(prefix: impl Into<Vec<u8>>) -> Self {
        let start = prefix.into();
        Self { end: prefix_end(&start), start }
    }

    /// The keys with `start <= key < end`; without `end`, all keys from `start` on.
    pub fn new(start: impl Into<Vec<u8>>, end: Option<Vec<u8>>) -> Self {
        Self { start: start.into(), end }
    }

    /// Exactly one key.
    pub fn key(key: &[u8]) -> Self {
        Self { start: key.to_vec(), end: Some(successor(key)) }
    }

    /// The keys between two bounds, in the form of the engine's scans.
    pub fn bounds(from: Bound<&[u8]>, to: Bound<&[u8]>) -> Self {
        let start = match from {
            Bound::Included(key) => key.to_vec(),
            Bound::Excluded(key) => successor(key),
            Bound::Unbounded => Vec::new(),
        };
        let end = match to {
            Bound::Included(key) => Some(successor(key)),
            Bound::Excluded(key) => Some(key.to_vec()),
            Bound::Unbounded => None,
        };
        Self { start, end }
    }

    /// The inclusive start of the range.
    pub fn start(&self) -> &[u8] {
        &self.start
    }

    /// The exclusive end of the range; `None` if it has no end.
    pub fn end(&self) -> Option<&[u8]> {
        self.end.as_deref()
    }

    /// Whether the range contains no key.
    pub fn is_empty(&self) -> bool {
        self.end.as_ref().is_some_and(|end| *end <= self.start)
    }

    /// Whether the range contains `key`.
    pub fn contains(&self, key: &[u8]) -> bool {
        self.start.as_slice() <= key && self.end.as_deref().is_none_or(|end| key < end)
    }

    /// Whether the ranges have a common key.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        let begins_before_end = |one: &Self, other: &Self| other.end.as_ref().is_none_or(|end| one.start < *end);
        begins_before_end(self, other) && begins_before_end(other, self)
    }

    pub(crate) fn encode(&self, writer: &mut FieldWriter) -> Result<()> {
        writer.bytes(&self.start)?.optional_bytes(self.end.as_deref()).map(drop)
    }

    pub(crate) fn decode(reader: &mut FieldReader<'_>) -> Result<Self> {
        let start = reader.bytes()?.to_vec();
        Ok(Self { start, end: reader.optional_bytes()?.map(<[u8]>::to_vec) })
    }
}

fn successor(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}

pub(crate) use hightower_engine::prefix_end;

/// A set of actions on a range of keys. No action implies another.
///
/// # Examples
/// ```
/// use hightower_auth::{Action, Grant, KeyRange};
/// let grant = Grant::new([Action::Read, Action::Write], KeyRange::prefix("jobs/"))?;
/// assert!(grant.allows(Action::Read, b"jobs/7"));
/// assert!(!grant.allows(Action::Admin, b"jobs/7"));
/// assert!(!grant.allows(Action::Read, b"job"));
/// # Ok::<(), hightower_auth::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Grant {
    actions: u8,
    range: KeyRange,
    quota: Option<Quota>,
}

impl Grant {
    /// A grant of these actions on these keys.
    ///
    /// # Errors
    /// [`Error::Validation`] for an empty set of actions, a mixture of management actions and
    /// actions on keys, an empty range, or a bound over [`MAX_GRANT_KEY_LEN_BYTES`].
    pub fn new(actions: impl IntoIterator<Item = Action>, range: KeyRange) -> Result<Self> {
        let actions = actions.into_iter().fold(0, |all, action| all | action.bit());
        if actions == 0 || range.is_empty() {
            return Err(Error::Validation("a grant needs an action and a range that is not empty"));
        }
        if actions & ON_KEYS != 0 && actions & !ON_KEYS != 0 {
            return Err(Error::Validation("a grant is of actions on keys or of management, not of both"));
        }
        if range.start.len() > MAX_GRANT_KEY_LEN_BYTES
            || range.end.as_ref().is_some_and(|end| end.len() > MAX_GRANT_KEY_LEN_BYTES)
        {
            return Err(Error::Validation("a bound of a grant is longer than 1024 bytes"));
        }
        Ok(Self { actions, range, quota: None })
    }

    /// The same grant with a quota. Writes that exceed the quota are refused. See [`Quota`].
    ///
    /// # Errors
    /// [`Error::Validation`] if the grant has neither [`Action::Write`] nor [`Action::Admin`].
    pub fn with_quota(self, quota: Quota) -> Result<Self> {
        if self.actions & WRITES == 0 {
            return Err(Error::Validation("a quota is for a grant that allows write or admin"));
        }
        Ok(Self { quota: Some(quota), ..self })
    }

    /// The limit for writes that the grant allows; `None` for no limit.
    pub fn quota(&self) -> Option<&Quota> {
        self.quota.as_ref()
    }

    /// The actions, in order.
    pub fn actions(&self) -> impl Iterator<Item = Action> + '_ {
        Action::ALL.into_iter().chain(Action::MANAGEMENT).filter(|action| self.actions & action.bit() != 0)
    }

    /// The keys.
    pub fn range(&self) -> &KeyRange {
        &self.range
    }

    /// Whether this grant alone allows `action` on `key`.
    pub fn allows(&self, action: Action, key: &[u8]) -> bool {
        self.actions & action.bit() != 0 && self.range.contains(key)
    }
}

pub(crate) fn check_grants(grants: &[Grant]) -> Result<()> {
    if grants.len() > MAX_GRANTS { Err(Error::LimitExceeded("more than 256 grants")) } else { Ok(()) }
}

pub(crate) fn encode_grants(grants: &[Grant], writer: &mut FieldWriter) -> Result<()> {
    let Ok(count) = u16::try_from(grants.len()) else {
        return Err(Error::LimitExceeded("more than 256 grants"));
    };
    writer.u16(count);
    for grant in grants {
        writer.u8(grant.actions);
        grant.range.encode(writer)?;
        Quota::encode(grant.quota.as_ref(), writer);
    }
    Ok(())
}

pub(crate) fn decode_grants(reader: &mut FieldReader<'_>) -> Result<Vec<Grant>> {
    let count = reader.u16()?;
    (0..count).map(|_| decode_grant(reader)).collect()
}

fn decode_grant(reader: &mut FieldReader<'_>) -> Result<Grant> {
    let actions = reader.u8()?;
    let is_mixed = actions & ON_KEYS != 0 && actions & !ON_KEYS != 0;
    if actions == 0 || actions > 127 || is_mixed {
        return Err(Error::Crypto("a grant names an action that this build does not know"));
    }
    let (range, quota) = (KeyRange::decode(reader)?, Quota::decode(reader)?);
    if quota.is_some() && actions & WRITES == 0 {
        return Err(Error::Crypto("a grant that allows no writes has a quota"));
    }
    Ok(Grant { actions, range, quota })
}

/// The union of grants, prepared for fast checks. An empty set allows nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PermissionSet {
    by_action: [Vec<KeyRange>; 7],
    /// `None` if no grant has a quota.
    metered: Option<Box<Metered>>,
}

/// The grants of a set, divided into those with and without a quota.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Metered {
    without_quota: PermissionSet,
    with_quota: Vec<(Grant, Quota)>,
}

impl PermissionSet {
    /// The union of `grants`. The cost is `n log n`.
    pub fn new<'a>(grants: impl IntoIterator<Item = &'a Grant>) -> Self {
        let grants: Vec<&Grant> = grants.into_iter().collect();
        let mut set = Self::union(grants.iter().copied());
        let with_quota: Vec<_> =
            grants.iter().filter_map(|grant| Some(((*grant).clone(), grant.quota.clone()?))).collect();
        if !with_quota.is_empty() {
            let without_quota = Self::union(grants.into_iter().filter(|grant| grant.quota.is_none()));
            set.metered = Some(Box::new(Metered { without_quota, with_quota }));
        }
        set
    }

    fn union<'a>(grants: impl Iterator<Item = &'a Grant>) -> Self {
        let mut set = Self::default();
        for grant in grants {
            for action in grant.actions() {
                set.by_action[action.index()].push(grant.range.clone());
            }
        }
        for ranges in &mut set.by_action {
            *ranges = merged(std::mem::take(ranges));
        }
        set
    }

    /// Whether `action` is allowed on `key`.
    pub fn allows(&self, action: Action, key: &[u8]) -> bool {
        self.covering(action, key).is_some()
    }

    /// Whether `action` is allowed on every key of `range`; `true` for an empty range.
    pub fn allows_range(&self, action: Action, range: &KeyRange) -> bool {
        if range.is_empty() {
            return true;
        }
        // The ranges are disjoint and not adjacent, so one of them must contain the whole range.
        self.covering(action, &range.start).is_some_and(|covering| match (&covering.end, &range.end) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(covering), Some(end)) => end <= covering,
        })
    }

    /// Whether a grant has a quota.
    pub(crate) fn has_quotas(&self) -> bool {
        self.metered.is_some()
    }

    /// The quotas that limit a change of `key`, with their ranges: the quotas of all grants that
    /// allow the change, or none if a grant without a quota allows it.
    pub(crate) fn quotas<'a>(
        &'a self,
        action: Action,
        key: &'a [u8],
    ) -> impl Iterator<Item = (&'a KeyRange, &'a Quota)> {
        let metered = self.metered.iter().filter(move |metered| !metered.without_quota.allows(action, key));
        let grants = metered.flat_map(|metered| &metered.with_quota);
        grants.filter(move |(grant, _)| grant.allows(action, key)).map(|(grant, quota)| (&grant.range, quota))
    }

    /// Whether `rights` is limited at least as tightly as this set: each quota of this set that
    /// limits something in `rights` also exists in `rights`, on the same range.
    pub(crate) fn quotas_hold(&self, rights: &Self) -> bool {
        let Some(mine) = &self.metered else { return true };
        let theirs = rights.metered.as_deref();
        let free = theirs.map_or(rights, |theirs| &theirs.without_quota);
        let is_free = |action, range: &KeyRange| mine.without_quota.allows_range(action, range);
        let writes = |action: &Action| action.bit() & WRITES != 0;
        let with_quota = theirs.map_or(&[][..], |theirs| &theirs.with_quota);
        let is_kept = |action: Action, held: &Grant, quota: &Quota| {
            with_quota.iter().any(|(grant, given)| {
                grant.range == held.range && grant.actions & action.bit() != 0 && given.is_within(quota)
            })
        };
        free.ranges().filter(|(action, _)| writes(action)).all(|(action, range)| is_free(action, range))
            && with_quota.iter().all(|(given, _)| {
                given.actions().filter(writes).all(|action| {
                    is_free(action, &given.range)
                        || mine.with_quota.iter().all(|(held, quota)| {
                            held.actions & action.bit() == 0
                                || !held.range.overlaps(&given.range)
                                || is_kept(action, held, quota)
                        })
                })
            })
    }

    /// All pairs of an action and one of its ranges.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = (Action, &KeyRange)> {
        let actions = Action::ALL.into_iter().chain(Action::MANAGEMENT);
        actions.flat_map(|action| self.by_action[action.index()].iter().map(move |range| (action, range)))
    }

    fn covering(&self, action: Action, key: &[u8]) -> Option<&KeyRange> {
        let ranges = &self.by_action[action.index()];
        let behind = ranges.partition_point(|range| range.start.as_slice() <= key);
        ranges.get(behind.checked_sub(1)?).filter(|range| range.contains(key))
    }
}

/// Sorts the ranges, and merges overlapping and adjacent ones.
fn merged(mut ranges: Vec<KeyRange>) -> Vec<KeyRange> {
    ranges.sort();
    let mut merged: Vec<KeyRange> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match merged.last_mut() {
            Some(last) if last.end.as_ref().is_none_or(|end| *end >= range.start) => {
                last.end = match (last.end.take(), range.end) {
                    (Some(one), Some(other)) => Some(one.max(other)),
                    _ => None,
                };
            }
            _ => merged.push(range),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_of_ff_have_no_end() {
        assert_eq!(prefix_end(b"a\xff\xff"), Some(b"b".to_vec()));
        assert_eq!(prefix_end(b"\xff\xff"), None);
        assert_eq!(prefix_end(b""), None);
        assert!(KeyRange::prefix(b"\xff".to_vec()).contains(b"\xff\xff\xff"));
    }

    #[test]
    fn touching_grants_cover_what_spans_them() {
        let grants = [
            Grant::new([Action::Read], KeyRange::new("a", Some(b"c".to_vec()))).unwrap(),
            Grant::new([Action::Read], KeyRange::new("c", Some(b"e".to_vec()))).unwrap(),
        ];
        let set = PermissionSet::new(&grants);
        assert!(set.allows_range(Action::Read, &KeyRange::new("b", Some(b"d".to_vec()))));
        assert!(!set.allows_range(Action::Read, &KeyRange::new("b", Some(b"e\0".to_vec()))));
        assert!(!set.allows_range(Action::Write, &KeyRange::new("b", Some(b"d".to_vec()))));
        assert!(!set.allows_range(Action::Read, &KeyRange::new("b", None)));
    }

    #[test]
    fn grants_are_stored_with_their_quotas() {
        let grant = |actions: &[Action]| Grant::new(actions.iter().copied(), KeyRange::prefix("a/")).unwrap();
        let quota = |max_keys, max_bytes| Quota::new(max_keys, max_bytes).unwrap();
        let grants = [
            grant(&[Action::Read]),
            grant(&[Action::Write]).with_quota(quota(Some(7), None)).unwrap(),
            grant(&[Action::Admin]).with_quota(quota(None, Some(0))).unwrap(),
            grant(&Action::ALL).with_quota(quota(Some(u64::MAX), Some(9))).unwrap(),
        ];
        let encoded = |grants: &[Grant]| {
            let mut writer = FieldWriter::default();
            encode_grants(grants, &mut writer).unwrap();
            writer.finish()
        };
        let bytes = encoded(&grants);
        assert_eq!(decode_grants(&mut FieldReader::new(&bytes)).unwrap(), grants);
        for len in 0..bytes.len() {
            assert!(decode_grants(&mut FieldReader::new(&bytes[..len])).is_err());
        }
        let mut of_read = encoded(&grants[..1]);
        for limits in [1, 2, 3, 4, 255] {
            *of_read.last_mut().unwrap() = limits;
            let bytes = [&of_read[..], &[0; 16]].concat();
            assert!(decode_grants(&mut FieldReader::new(&bytes)).is_err(), "{limits}");
        }
    }

    #[test]
    fn senseless_grants_are_refused() {
        assert!(Grant::new([], KeyRange::all()).is_err());
        assert!(Grant::new([Action::Read, Action::ViewUsers], KeyRange::all()).is_err());
        assert!(Grant::new([Action::Read], KeyRange::new("b", Some(b"b".to_vec()))).is_err());
        assert!(Grant::new([Action::Read], KeyRange::prefix(vec![0; 1025])).is_err());
    }
}

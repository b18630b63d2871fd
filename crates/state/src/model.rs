//! The plain state: a `BTreeMap` of keys and values.
//!
//! It is the model for all other tests, a small state that includes its values, and the shortest
//! definition of the store's meaning. It is a *join*: the same commands in any order, repetition,
//! grouping and merge give the same state and the same [digest](KvState::digest).

use std::collections::BTreeMap;
use std::ops::Bound;

use hightower_log::{Command, CommandRef};

use crate::bounds::{is_empty, prefix_end};
use crate::outcome::{ApplyOutcome, CommandKind};

/// The winner of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Winner {
    version: u64,
    timestamp: i64,
    /// `None`: a tombstone.
    value: Option<Vec<u8>>,
}

/// The newest command of a key, from [`KvState::record`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateRecord<'a> {
    /// The winning version.
    pub version: u64,
    /// The command's Unix time in milliseconds.
    pub timestamp: i64,
    /// The value, or `None` for a tombstone.
    pub value: Option<&'a [u8]>,
}

/// A whole state with its values, ordered by key.
///
/// Different commands of one key must have different versions. If two have the same version, the
/// first one stays.
///
/// ```
/// use hightower_log::Command;
/// use hightower_state::{ApplyOutcome, KvState};
///
/// let set = Command::Set { key: b"a".to_vec(), value: b"1".to_vec(), version: 7, timestamp: 0 };
/// let delete = Command::Delete { key: b"a".to_vec(), version: 10, timestamp: 0 };
///
/// let mut state = KvState::new();
/// assert_eq!(state.apply(&delete), ApplyOutcome::Removed);
/// assert_eq!(state.apply(&set), ApplyOutcome::IgnoredStale);
/// assert_eq!(state.get(b"a"), None);
/// assert_eq!(state.version_of(b"a"), Some(10));
///
/// let other: KvState = [set, delete].into_iter().collect();
/// assert_eq!(state.digest(), other.digest());
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KvState {
    winners: BTreeMap<Vec<u8>, Winner>,
    live: usize,
}

impl KvState {
    /// An empty state.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Applies one command and returns its outcome. It costs one tree lookup, and copies key and
    /// value if the command wins.
    pub fn apply<'a>(&mut self, command: impl Into<CommandRef<'a>>) -> ApplyOutcome {
        let command = command.into();
        let kind = kind_of(&command);
        let outcome = self.evaluate(command.key(), command.version(), kind);
        if outcome.changed() {
            self.install(command.key().to_vec(), winner_of(&command));
        }
        outcome
    }

    /// The outcome of [`apply`](Self::apply), without a change.
    #[must_use]
    pub fn evaluate(&self, key: &[u8], version: u64, kind: CommandKind) -> ApplyOutcome {
        ApplyOutcome::decide(self.version_of(key), version, kind)
    }

    /// Merges another state. The result equals the state after all commands of both.
    ///
    /// ```
    /// use hightower_log::Command;
    /// use hightower_state::KvState;
    ///
    /// let set = |version| Command::Set { key: b"a".to_vec(), value: vec![version as u8], version, timestamp: 0 };
    /// let mut left: KvState = [set(1)].into_iter().collect();
    /// left.merge([set(2)].into_iter().collect());
    /// assert_eq!(left.get(b"a"), Some(&[2][..]));
    /// ```
    pub fn merge(&mut self, other: Self) {
        for (key, winner) in other.winners {
            if self.version_of(&key).is_none_or(|version| winner.version > version) {
                self.install(key, winner);
            }
        }
    }

    /// The value of a key, if the key exists.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<&[u8]> {
        self.winners.get(key)?.value.as_deref()
    }

    /// The newest version that a key has seen, tombstones included.
    #[must_use]
    pub fn version_of(&self, key: &[u8]) -> Option<u64> {
        Some(self.winners.get(key)?.version)
    }

    /// The record of a key, tombstones included.
    #[must_use]
    pub fn record(&self, key: &[u8]) -> Option<StateRecord<'_>> {
        self.winners.get(key).map(Winner::record)
    }

    /// The existing keys and their values, in key order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&[u8], &[u8])> {
        self.winners.iter().filter_map(live)
    }

    /// The existing keys between two bounds, and their values, in key order. Reversed bounds are an
    /// empty range.
    pub fn range(&self, from: Bound<&[u8]>, to: Bound<&[u8]>) -> impl DoubleEndedIterator<Item = (&[u8], &[u8])> {
        let bounds = (!is_empty(from, to)).then_some((from, to));
        bounds.into_iter().flat_map(|bounds| self.winners.range::<[u8], _>(bounds).filter_map(live))
    }

    /// The keys that begin with `prefix`, and their values, in key order.
    ///
    /// ```
    /// use hightower_log::Command;
    /// use hightower_state::KvState;
    ///
    /// let set = |key: &[u8]| Command::Set { key: key.to_vec(), value: vec![], version: 1, timestamp: 0 };
    /// let state: KvState = [set(b"a/1"), set(b"a/2"), set(b"b/1")].into_iter().collect();
    /// assert_eq!(state.prefix(b"a/").count(), 2);
    /// ```
    pub fn prefix(&self, prefix: &[u8]) -> impl DoubleEndedIterator<Item = (&[u8], &[u8])> {
        let end = prefix_end(prefix);
        let to = end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        self.winners.range::<[u8], _>((Bound::Included(prefix), to)).filter_map(live)
    }

    /// The tombstones and their versions, in key order.
    pub fn tombstones(&self) -> impl DoubleEndedIterator<Item = (&[u8], u64)> {
        let dead = |(key, winner): (_, &Winner)| winner.value.is_none().then_some((key, winner.version));
        self.winners.iter().map(|(key, winner)| (key.as_slice(), winner)).filter_map(dead)
    }

    /// The number of existing keys, without tombstones.
    #[must_use]
    pub fn len(&self) -> usize {
        self.live
    }

    /// Whether no key exists. Tombstones may exist.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// A 64-bit digest of keys, versions, timestamps, values and tombstones.
    ///
    /// Equal states have equal digests, independent of their histories. It detects accidents, not
    /// attacks: FNV-1a (64 bits, as defined by Fowler, Noll and Vo) over each record in key order,
    /// lengths first, numbers little-endian.
    #[must_use]
    pub fn digest(&self) -> u64 {
        let mut hash = Fnv1a::new();
        for (key, winner) in &self.winners {
            hash.write_bytes(key);
            hash.write(&winner.version.to_le_bytes());
            hash.write(&winner.timestamp.to_le_bytes());
            hash.write(&[u8::from(winner.value.is_some())]);
            if let Some(value) = &winner.value {
                hash.write_bytes(value);
            }
        }
        hash.0
    }

    fn install(&mut self, key: Vec<u8>, winner: Winner) {
        let is_live = winner.value.is_some();
        let was_live = self.winners.insert(key, winner).is_some_and(|old| old.value.is_some());
        self.live += usize::from(is_live);
        self.live -= usize::from(was_live);
    }
}

impl Extend<Command> for KvState {
    fn extend<I: IntoIterator<Item = Command>>(&mut self, commands: I) {
        for command in commands {
            self.apply(&command);
        }
    }
}

impl FromIterator<Command> for KvState {
    fn from_iter<I: IntoIterator<Item = Command>>(commands: I) -> Self {
        let mut state = Self::new();
        state.extend(commands);
        state
    }
}

impl Winner {
    fn record(&self) -> StateRecord<'_> {
        StateRecord { version: self.version, timestamp: self.timestamp, value: self.value.as_deref() }
    }
}

fn live<'a>((key, winner): (&'a Vec<u8>, &'a Winner)) -> Option<(&'a [u8], &'a [u8])> {
    Some((key, winner.value.as_deref()?))
}

fn kind_of(command: &CommandRef<'_>) -> CommandKind {
    match command {
        CommandRef::Set { .. } => CommandKind::Set,
        CommandRef::Delete { .. } => CommandKind::Delete,
    }
}

fn winner_of(command: &CommandRef<'_>) -> Winner {
    let value = command.value().map(<[u8]>::to_vec);
    Winner { version: command.version(), timestamp: command.timestamp(), value }
}

struct Fnv1a(u64);

impl Fnv1a {
    const fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    fn write_bytes(&mut self, bytes: &[u8]) {
        self.write(&(bytes.len() as u64).to_le_bytes());
        self.write(bytes);
    }
}

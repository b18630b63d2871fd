//! The records of the catalogue: keys of the system keyspace, described in `docs/FORMAT.md`.

use std::time::Duration;

use crate::config::Durability;
use crate::error::{Error, Result};
use crate::keyspace::{KeyspaceId, KeyspaceOptions};
use crate::value::Value;

/// The key of the next free id.
pub(crate) const NEXT_ID: &[u8] = b"i";
/// The keys of keyspaces: this prefix, then the name.
pub(crate) const NAMES: &[u8] = b"n";
/// The keys of dropped keyspaces with keys that are still to be deleted: this prefix, then the id.
pub(crate) const DROPPED: &[u8] = b"d";

/// The id of the first keyspace that is created. Smaller ones are for the store.
pub(crate) const FIRST_ID: u64 = 16;

const VERSION: u8 = 1;
const LEN_BYTES: usize = 34;
/// A quota of no limit.
const NO_QUOTA: u64 = u64::MAX;

pub(crate) fn name_key(name: &str) -> Vec<u8> {
    [NAMES, name.as_bytes()].concat()
}

pub(crate) fn dropped_key(id: KeyspaceId) -> Vec<u8> {
    [DROPPED, &id.get().to_be_bytes()].concat()
}

/// The id in the key of a dropped keyspace.
pub(crate) fn dropped_id(key: &[u8]) -> Result<KeyspaceId> {
    let id = key.strip_prefix(DROPPED).and_then(|id| id.try_into().ok());
    id.map(|id| KeyspaceId::new(u64::from_be_bytes(id))).ok_or_else(unknown)
}

pub(crate) fn next_id(value: &[u8]) -> Result<u64> {
    value.try_into().map(u64::from_le_bytes).map_err(|_| unknown())
}

/// A keyspace, as the catalogue has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CatalogueRecord {
    pub(crate) id: KeyspaceId,
    pub(crate) options: KeyspaceOptions,
}

impl CatalogueRecord {
    /// The record of this name, which `get` reads from the system keyspace.
    pub(crate) fn find(name: &str, get: impl FnOnce(Vec<u8>) -> Result<Option<Value>>) -> Result<Self> {
        match get(name_key(name))? {
            Some(value) => Self::decode(&value),
            None => Err(Error::KeyspaceNotFound { name: name.to_owned() }),
        }
    }

    pub(crate) fn encode(self) -> [u8; LEN_BYTES] {
        let (kind, interval) = match self.options.durability {
            None => (0, Duration::ZERO),
            Some(Durability::Os) => (1, Duration::ZERO),
            Some(Durability::Interval(interval)) => (2, interval),
            Some(Durability::Sync) => (3, Duration::ZERO),
        };
        let mut bytes = [0; LEN_BYTES];
        bytes[0] = VERSION;
        bytes[1..9].copy_from_slice(&self.id.get().to_le_bytes());
        bytes[9] = kind;
        let interval_ns = u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX);
        let quota = |limit: Option<u64>| limit.unwrap_or(NO_QUOTA).to_le_bytes();
        bytes[10..18].copy_from_slice(&interval_ns.to_le_bytes());
        bytes[18..26].copy_from_slice(&quota(self.options.max_keys));
        bytes[26..].copy_from_slice(&quota(self.options.max_bytes));
        bytes
    }

    pub(crate) fn decode(value: &[u8]) -> Result<Self> {
        let bytes: &[u8; LEN_BYTES] = value.try_into().map_err(|_| unknown())?;
        let number = |at: usize| {
            let bytes = bytes[at..].first_chunk().copied().unwrap_or_default();
            u64::from_le_bytes(bytes)
        };
        let durability = match (bytes[0], bytes[9], number(10)) {
            (VERSION, 0, 0) => None,
            (VERSION, 1, 0) => Some(Durability::Os),
            (VERSION, 2, interval_ns) => Some(Durability::Interval(Duration::from_nanos(interval_ns))),
            (VERSION, 3, 0) => Some(Durability::Sync),
            _ => return Err(unknown()),
        };
        let quota = |at| Some(number(at)).filter(|limit| *limit != NO_QUOTA);
        let options = KeyspaceOptions { durability, max_keys: quota(18), max_bytes: quota(26) };
        Ok(Self { id: KeyspaceId::new(number(1)), options })
    }
}

fn unknown() -> Error {
    Error::VersionUnsupported {
        path: "the catalogue of keyspaces".into(),
        detail: "a record is not one that this build writes; use a newer build".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_have_these_bytes() {
        let record = |durability, max_keys| {
            let options = KeyspaceOptions { durability, max_keys, max_bytes: max_keys.map(|keys| keys + 1) };
            CatalogueRecord { id: KeyspaceId::new(0x1234), options }
        };
        let second = Duration::from_secs(1);
        for (durability, kind, interval) in [
            (None, 0, [0; 8]),
            (Some(Durability::Os), 1, [0; 8]),
            (Some(Durability::Interval(second)), 2, [0x00, 0xca, 0x9a, 0x3b, 0, 0, 0, 0]),
            (Some(Durability::Sync), 3, [0; 8]),
        ] {
            for (max_keys, quotas) in [(None, [0xff; 16]), (Some(7), *b"\x07\0\0\0\0\0\0\0\x08\0\0\0\0\0\0\0")] {
                let bytes = [&[1, 0x34, 0x12, 0, 0, 0, 0, 0, 0, kind][..], &interval, &quotas].concat();
                assert_eq!(record(durability, max_keys).encode()[..], bytes);
                assert_eq!(CatalogueRecord::decode(&bytes).unwrap(), record(durability, max_keys));
            }
        }
        assert_eq!(name_key("abc"), b"nabc");
        assert_eq!(dropped_key(KeyspaceId::new(0x1234)), b"d\0\0\0\0\0\0\x12\x34");
        assert_eq!(dropped_id(b"d\0\0\0\0\0\0\x12\x34").unwrap(), KeyspaceId::new(0x1234));
    }

    #[test]
    fn unknown_records_are_refused() {
        let known = CatalogueRecord { id: KeyspaceId::new(16), options: KeyspaceOptions::default() }.encode();
        let changed = |at: usize, byte| {
            let mut bytes = known;
            bytes[at] = byte;
            bytes.to_vec()
        };
        for bytes in [Vec::new(), known[..33].to_vec(), changed(0, 2), changed(9, 4), changed(10, 1)] {
            let refused = CatalogueRecord::decode(&bytes);
            assert!(matches!(refused, Err(Error::VersionUnsupported { .. })), "{bytes:?}: {refused:?}");
        }
        assert!(next_id(b"1234567").is_err() && dropped_id(b"d1234567").is_err() && dropped_id(b"n12345678").is_err());
    }
}

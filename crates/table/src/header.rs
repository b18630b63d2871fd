//! The first 64 bytes of a table: magic, version, features, id, salt and hash seed.

use std::fmt;

use xxhash_rust::xxh3::xxh3_64;

use crate::planted;

pub(crate) const MAGIC: [u8; 8] = *b"HTKVTBL\n";
/// The version of the format that this build writes and reads.
///
/// ```
/// assert_eq!(hightower_table::TABLE_VERSION, 1);
/// ```
pub const TABLE_VERSION: u16 = 1;
pub(crate) const HEADER_LEN: usize = 64;
const CHECK_AT: usize = 56;

/// The header, decoded.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct TableHeader {
    pub(crate) id: u64,
    pub(crate) salt: u64,
    pub(crate) hash_seed: u64,
}

impl fmt::Debug for TableHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The seed stays out of logs, like the secrets that derive from it.
        f.debug_struct("TableHeader").field("id", &self.id).field("salt", &self.salt).finish_non_exhaustive()
    }
}

/// The reason why bytes are not the header of a readable table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NoHeader {
    Damaged(&'static str),
    Unsupported(String),
}

impl TableHeader {
    pub(crate) fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..10].copy_from_slice(&TABLE_VERSION.to_le_bytes());
        bytes[10..12].copy_from_slice(&64_u16.to_le_bytes());
        // Features, 12 to 16: none.
        bytes[16..24].copy_from_slice(&self.salt.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.id.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.hash_seed.to_le_bytes());
        let check = xxh3_64(&bytes[..CHECK_AT]);
        bytes[CHECK_AT..].copy_from_slice(&check.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(file: &[u8]) -> Result<Self, NoHeader> {
        let Some(bytes) = file.first_chunk::<HEADER_LEN>() else {
            return Err(NoHeader::Damaged("a truncated file"));
        };
        if bytes.first_chunk() != Some(&MAGIC) {
            return Err(NoHeader::Damaged("it does not have the magic of a table"));
        }
        let (words, _) = bytes.as_chunks::<8>();
        let word = |place: usize| words.get(place).map_or(0, |word| u64::from_le_bytes(*word));
        if word(7) != xxh3_64(&bytes[..CHECK_AT]) {
            return Err(NoHeader::Damaged("wrong checksum of the header"));
        }
        let [version_low, version_high, len_low, len_high, features @ ..] = word(1).to_le_bytes();
        let version = u16::from_le_bytes([version_low, version_high]);
        if version != TABLE_VERSION {
            return Err(NoHeader::Unsupported(format!("version {version} of the table format")));
        }
        let features = u32::from_le_bytes(features);
        if features != 0 && !planted("table_features_guessed") {
            return Err(NoHeader::Unsupported(format!("a feature of the set {features:#x}")));
        }
        if u16::from_le_bytes([len_low, len_high]) != 64 || (word(5), word(6)) != (0, 0) {
            return Err(NoHeader::Damaged("a header that this version does not allow"));
        }
        Ok(Self { salt: word(2), id: word(3), hash_seed: word(4) })
    }
}

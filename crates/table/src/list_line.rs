//! Lines of the list at the end of the point table: the entries for which neither the home line nor
//! the next one has a slot, in the order of their hashes.

use crate::checksum::Salt;
use crate::error::{Damaged, damaged};
use crate::line::LINE_LEN;
use crate::point_entry::PointEntry;

/// Number of entries in a line; the last line may have fewer.
pub(crate) const ENTRIES: usize = 3;
const ENTRIES_AT: usize = 16;

/// A line of at most [`ENTRIES`] entries, for the offset `offset`.
pub(crate) fn encode(entries: &[PointEntry], salt: Salt, offset: u64) -> [u8; LINE_LEN] {
    let mut line = [0; LINE_LEN];
    line[4] = u8::try_from(entries.len()).unwrap_or(0);
    for (place, entry) in line[ENTRIES_AT..].as_chunks_mut::<{ PointEntry::LEN }>().0.iter_mut().zip(entries) {
        *place = entry.encode();
    }
    let check = salt.check(offset, &line[4..]);
    line[..4].copy_from_slice(&check.to_le_bytes());
    line
}

/// The entries of the line at `offset`, and the number of valid ones.
pub(crate) fn decode(
    line: &[u8; LINE_LEN],
    salt: Salt,
    offset: u64,
) -> Result<([PointEntry; ENTRIES], usize), Damaged> {
    if salt.check(offset, &line[4..]) != u32::from_le_bytes([line[0], line[1], line[2], line[3]]) {
        return Err(damaged(offset, "wrong checksum of a line of the list"));
    }
    let count = usize::from(line[4]);
    let entries: Vec<_> = line[ENTRIES_AT..].as_chunks().0.iter().map(PointEntry::decode).collect();
    match <[PointEntry; ENTRIES]>::try_from(entries) {
        Ok(entries) if (1..=ENTRIES).contains(&count) => Ok((entries, count)),
        _ => Err(damaged(offset, "a line of the list with an invalid number of entries")),
    }
}

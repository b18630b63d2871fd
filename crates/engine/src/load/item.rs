//! Records of the log for the merge, and the choice of the newest.

use hightower_index::prefetch_read;
use hightower_segment::SegmentRecord;

/// Prefetch distance, in records.
const PREFETCH_AHEAD: usize = 12;
/// The bit of a record's length that marks a tombstone. No record is that long.
const TOMBSTONE: u32 = 1 << 31;

/// Number of key bytes that are copied beside a record.
const NEAR_LEN_BYTES: usize = 20;

/// A record for the merge: one cache line.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub(crate) struct Item<'a> {
    /// The key, in the log.
    pub(crate) far_key: &'a [u8],
    /// Eight bytes of the key, behind the common prefix of all keys: they decide most comparisons
    /// without a read of the log.
    pub(super) bytes: u64,
    pub(crate) version: u64,
    /// The index of its segment among the replayed segments.
    pub(crate) part: u32,
    pub(crate) offset: u32,
    len: u32,
    /// A copy of the key, if it fits. Records are not merged in the order of the log, so each read
    /// of the log is a cache miss.
    near_key: [u8; NEAR_LEN_BYTES],
}

impl<'a> Item<'a> {
    pub(super) fn of(part: u32, entry: &SegmentRecord<'a>, prefix_len: usize) -> Self {
        let tombstone = if entry.command.value().is_none() { TOMBSTONE } else { 0 };
        let (key, version) = (entry.command.key(), entry.command.version());
        Self { part, offset: entry.offset, len: entry.len_bytes | tombstone, ..Self::new(key, prefix_len, version) }
    }

    /// A record of a key, without a place.
    pub(super) fn new(key: &'a [u8], prefix_len: usize, version: u64) -> Self {
        let mut near_key = [0; NEAR_LEN_BYTES];
        if let Some(near) = near_key.get_mut(..key.len()) {
            near.copy_from_slice(key);
        }
        let bytes = eight_bytes(key, prefix_len);
        Self { far_key: key, bytes, version, part: 0, offset: 0, len: 0, near_key }
    }

    pub(crate) fn key(&self) -> &[u8] {
        self.near_key.get(..self.far_key.len()).unwrap_or(self.far_key)
    }

    /// Prefetches it.
    pub(super) fn prefetch(&self) {
        prefetch_read(&self.near_key);
    }

    /// Compares by the places in the log.
    fn in_log(&self) -> (u32, u32) {
        (self.part, self.offset)
    }

    pub(crate) fn len_bytes(&self) -> u32 {
        self.len & !TOMBSTONE
    }

    pub(crate) fn is_tombstone(&self) -> bool {
        self.len & TOMBSTONE != 0
    }
}

/// The index of an item, and its key bytes: small, so that sorting moves little and compares
/// numbers.
pub(super) type Order = (u64, u32, u32);

/// Sorts by key and keeps the newest record of each key; if two have the same version, the first in
/// the log. The items' bytes begin at the same offset of all keys, behind their common prefix.
/// `find` returns the item with an index in a part.
pub(super) fn newest_in_order<'i, 'a: 'i>(
    mut order: Vec<Order>,
    find: impl Fn(u32, u32) -> &'i Item<'a>,
) -> Vec<Item<'a>> {
    order.sort_unstable();
    let gathered = order.iter().enumerate().map(|(at, (_, part, place))| {
        if let Some((_, part, place)) = order.get(at + PREFETCH_AHEAD) {
            find(*part, *place).prefetch();
        }
        *find(*part, *place)
    });
    let mut items: Vec<Item<'a>> = gathered.collect();
    for alike in items.chunk_by_mut(|left, right| left.bytes == right.bytes).filter(|alike| alike.len() > 1) {
        alike.sort_unstable_by(|left, right| {
            let newer = || right.version.cmp(&left.version);
            left.key().cmp(right.key()).then_with(newer).then_with(|| left.in_log().cmp(&right.in_log()))
        });
    }
    items.dedup_by(|next, newest| next.bytes == newest.bytes && next.key() == newest.key());
    items
}

/// Eight bytes of a key from an offset on, comparable as a number; padded with zeros.
pub(super) fn eight_bytes(key: &[u8], from: usize) -> u64 {
    let rest = key.get(from..).unwrap_or_default();
    if let Some(bytes) = rest.first_chunk() {
        return u64::from_be_bytes(*bytes);
    }
    rest.iter().zip((0..64).step_by(8).rev()).fold(0, |number, (byte, shift)| number | u64::from(*byte) << shift)
}

#[cfg(test)]
mod tests {
    use super::{Item, newest_in_order};

    #[test]
    fn the_newest_of_each_key_in_key_order() {
        for prefix in [&b""[..], b"common/prefix/of/all/"] {
            let keys: Vec<Vec<u8>> = [
                &b"b"[..],
                b"",
                b"a",
                b"a\0",
                b"abcdefgh",
                b"abcdefghi",
                b"abcdefgh\0",
                b"b",
                b"a",
                b"a key that is not near",
            ]
            .iter()
            .map(|rest| [prefix, b"k", rest].concat())
            .collect();
            let mut items: Vec<Item<'_>> = Vec::new();
            for (key, at) in keys.iter().zip(0..) {
                items.push(Item { offset: at, ..Item::new(key, prefix.len(), u64::from(100 - at)) });
            }
            let order = items.iter().zip(0..).map(|(item, at)| (item.bytes, 0, at)).collect();
            let newest = newest_in_order(order, |_, at| &items[at as usize]);
            let mut expected: Vec<_> = keys.clone();
            expected.sort();
            expected.dedup();
            assert_eq!(newest.iter().map(|item| item.key().to_vec()).collect::<Vec<_>>(), expected);
            assert!(newest.iter().all(|item| ![7, 8].contains(&item.offset)), "of two the one with the higher version");
        }
    }
}

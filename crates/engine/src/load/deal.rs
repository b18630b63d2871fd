//! Partitioning of records by key range: each range can then be sorted separately, by any thread,
//! and fits a processor's cache.

use parking_lot::Mutex;

use crate::load::item::{Item, Order, eight_bytes, newest_in_order};
use crate::parallel::in_pieces;

/// Records, partitioned by range.
#[derive(Debug)]
pub(crate) struct Dealt<'a> {
    parts: Vec<RangePart<'a>>,
}

/// The records of one part, partitioned by range.
#[derive(Debug, Default)]
struct RangePart<'a> {
    items: Vec<Item<'a>>,
    /// The records with their bytes, range after range.
    places: Vec<(u64, u32)>,
    /// The end of each range in `places`.
    ends: Vec<usize>,
}

impl RangePart<'_> {
    fn range(&self, range: usize) -> &[(u64, u32)] {
        let start = range.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        let end = self.ends.get(range).copied().unwrap_or(start);
        self.places.get(start..end).unwrap_or_default()
    }
}

impl<'a> Dealt<'a> {
    /// Partitions records into the ranges that begin at these ascending keys; the first range has
    /// the keys below all of them.
    pub(crate) fn of(parts: Vec<Vec<Item<'a>>>, prefix: &[u8], cuts: &[&[u8]]) -> Self {
        let cuts: Vec<(u64, &[u8])> = cuts.iter().map(|cut| (cut_bytes(cut, prefix), *cut)).collect();
        let parts: Vec<_> = parts.into_iter().map(Mutex::new).collect();
        let dealt = in_pieces(
            parts.len(),
            |piece| deal(std::mem::take(&mut *parts[piece].lock()), &cuts),
            || std::ops::ControlFlow::Continue(()),
        );
        // The callback never aborts the work.
        Self { parts: dealt.unwrap_or_default() }
    }

    /// The newest records of the keys of a range, in key order.
    pub(crate) fn range(&self, range: usize) -> Vec<Item<'a>> {
        let parts = || (0..).zip(&self.parts);
        let mut order: Vec<Order> = Vec::with_capacity(parts().map(|(_, part)| part.range(range).len()).sum());
        parts()
            .for_each(|(number, part)| order.extend(part.range(range).iter().map(|(bytes, at)| (*bytes, number, *at))));
        newest_in_order(order, |part, at| &self.parts[part as usize].items[at as usize])
    }
}

/// A number that compares with the bytes of items as the cut compares with their keys. If the
/// numbers are equal, the keys decide.
fn cut_bytes(cut: &[u8], prefix: &[u8]) -> u64 {
    if cut.starts_with(prefix) {
        eight_bytes(cut, prefix.len())
    } else if cut < prefix {
        0
    } else {
        u64::MAX
    }
}

fn deal<'a>(items: Vec<Item<'a>>, cuts: &[(u64, &[u8])]) -> RangePart<'a> {
    let range_of = |item: &Item<'a>| cuts.partition_point(|cut| *cut <= (item.bytes, item.key()));
    let ranges: Vec<u32> = items.iter().map(|item| u32::try_from(range_of(item)).unwrap_or(u32::MAX)).collect();
    let mut ends = vec![0; cuts.len() + 1];
    ranges.iter().for_each(|range| ends[*range as usize] += 1);
    // `ends` now has the start of each range; the partitioning advances it to the end.
    let mut start = 0;
    for end in &mut ends {
        start += std::mem::replace(end, start);
    }
    let mut places = vec![(0, 0); items.len()];
    for ((item, at), range) in items.iter().zip(0..).zip(ranges) {
        let end = &mut ends[range as usize];
        places[*end] = (item.bytes, at);
        *end += 1;
    }
    RangePart { items, places, ends }
}

#[cfg(test)]
mod tests {
    use super::Dealt;
    use crate::load::item::Item;

    #[test]
    fn every_record_is_in_the_range_of_its_key() {
        for prefix in [&b""[..], b"p/"] {
            let keys: Vec<Vec<u8>> =
                (0..200_u32).map(|n| [prefix, format!("{:03}", n * 61 % 200).as_bytes()].concat()).collect();
            let item = |number: usize| Item::new(&keys[number], prefix.len(), u64::try_from(number).unwrap());
            let parts = vec![(0..120).map(item).collect(), Vec::new(), (60..200).map(item).collect()];
            let cut = |text: &str| [prefix, text.as_bytes()].concat();
            let cuts = [b"".to_vec(), b"a".to_vec(), cut("050"), cut("0500"), cut("1"), b"q".to_vec()];
            let mut cuts: Vec<&[u8]> = cuts.iter().map(Vec::as_slice).collect();
            cuts.sort_unstable();
            let dealt = Dealt::of(parts, prefix, &cuts);
            let mut all = Vec::new();
            for range in 0..=cuts.len() {
                let items = dealt.range(range);
                assert!(items.iter().all(|item| cuts[..range].iter().all(|cut| *cut <= item.key())));
                assert!(items.iter().all(|item| cuts[range..].iter().all(|cut| *cut > item.key())));
                all.extend(items.iter().map(|item| item.key().to_vec()));
            }
            let mut expected = keys.clone();
            expected.sort_unstable();
            assert_eq!(all, expected, "each once, in order");
        }
    }
}

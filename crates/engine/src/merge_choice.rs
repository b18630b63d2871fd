//! The choice of the tables to merge: the newest, if there are several of similar size or too many.

use crate::mutants::planted;
use crate::tables::TableStats;

/// The maximum number of tables after a flush.
pub(crate) const TABLES_MAX: usize = 8;
/// A merge takes tables, from the newest on, as long as the next one is at most this many times as
/// large as those before it together.
const MERGED_SIZE_RATIO: u64 = 2;
/// The number of such tables that is worth a merge.
const WORTH_MERGING: usize = 4;

/// The number of the newest tables that are worth a merge.
pub(crate) fn worth_merging(newest_first: &[TableStats]) -> Option<usize> {
    let mut sum = newest_first.first()?.len_bytes;
    let mut count = 1;
    for table in newest_first.get(1..)? {
        if table.len_bytes > sum.saturating_mul(MERGED_SIZE_RATIO) {
            break;
        }
        sum += table.len_bytes;
        count += 1;
    }
    if count >= WORTH_MERGING {
        return Some(count);
    }
    (newest_first.len() > TABLES_MAX && !planted("tables_without_bound")).then(|| count.max(2))
}

#[cfg(test)]
mod tests {
    use super::{TABLES_MAX, TableStats, worth_merging};

    fn tables(lengths: &[u64]) -> Vec<TableStats> {
        lengths.iter().map(|&len_bytes| TableStats { id: 1, len_bytes, keys: 1, tombstones: 0 }).collect()
    }

    #[test]
    fn tables_of_similar_length_are_merged_and_there_are_never_more_than_eight() {
        let worth = |lengths: &[u64]| worth_merging(&tables(lengths));
        assert_eq!(worth(&[]), None);
        assert_eq!(worth(&[1, 1, 1]), None);
        assert_eq!(worth(&[1, 1, 1, 1]), Some(4));
        assert_eq!(worth(&[1, 2, 6, 18, 55]), Some(4));
        assert_eq!(worth(&[1, 1, 1, 100, 100]), None, "the large ones are not worth it");
        let steep: Vec<u64> = (0..9).map(|power| 4_u64.pow(power)).collect();
        assert_eq!((worth(&steep[..TABLES_MAX]), worth(&steep)), (None, Some(2)));
        // Flushes of any lengths.
        let (mut lengths, mut number) = (Vec::new(), 1_u64);
        for _ in 0..10_000 {
            number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            lengths.insert(0, 1 << (number >> 59));
            if let Some(count) = worth(&lengths) {
                let merged = lengths.drain(..count).sum();
                lengths.insert(0, merged);
            }
            assert!(lengths.len() <= TABLES_MAX, "{lengths:?}");
        }
    }
}

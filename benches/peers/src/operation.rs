//! Operations, and the streams of operations of the workloads. Streams are created before the clock
//! starts.

use crate::data::{
    GROUP_KEYS, GROUP_PREFIX_LEN_BYTES, Key, Permutation, Random, TEN_PREFIX_LEN_BYTES, Zipfian, absent_key, key,
    sorted_indexes,
};

/// The kind of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Write it.
    Put,
    /// Write it; it is above all other keys.
    PutLast,
    /// Remove it.
    Delete,
    /// Read it; it is present.
    Get,
    /// Look it up; it is absent.
    GetAbsent,
    /// Read it, then write it.
    ReadModifyWrite,
    /// Read all pairs with its first `len_bytes` bytes; there must be `pairs` of them.
    ScanPrefix { len_bytes: u8, pairs: u16 },
    /// Read `pairs` pairs from it on.
    ScanFrom { pairs: u16 },
}

/// One operation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operation {
    /// The key.
    pub(crate) key: Key,
    /// What to do with it.
    pub(crate) kind: Kind,
}

/// The operations of each thread.
pub(crate) type Streams = Vec<Vec<Operation>>;

/// `kind` for the `count` numbers of `index_at`, dealt to the threads in turn.
fn deal(count: u64, threads: u64, kind: Kind, mut index_at: impl FnMut(u64) -> u64) -> Streams {
    let mut streams: Streams = (0..threads).map(|_| Vec::with_capacity(count.div_ceil(threads) as usize)).collect();
    for place in 0..count {
        streams[(place % threads) as usize].push(Operation { key: key(index_at(place)), kind });
    }
    streams
}

/// Puts of all keys below `keys` in random order.
pub(crate) fn load_random(keys: u64, threads: u64) -> Streams {
    let order = Permutation::new(keys, 1);
    deal(keys, threads, Kind::Put, |place| order.at(place))
}

/// Puts of all keys below `keys` in their own order.
pub(crate) fn load_sorted(keys: u64) -> Streams {
    vec![sorted_indexes(keys).map(|index| Operation { key: key(index), kind: Kind::PutLast }).collect()]
}

/// `count` operations of one kind on keys below `keys`, all equally likely.
pub(crate) fn uniform(keys: u64, count: u64, threads: u64, kind: Kind) -> Streams {
    let mut random = Random::new(2);
    deal(count, threads, kind, |_| random.below(keys))
}

/// `count` operations of one kind on keys below `keys`, scattered Zipfian.
pub(crate) fn zipfian(keys: u64, count: u64, threads: u64, kind: Kind) -> Streams {
    let (order, ranks, mut random) = (Permutation::new(keys, 3), Zipfian::new(keys), Random::new(4));
    deal(count, threads, kind, |_| order.at(ranks.rank(&mut random)))
}

/// Removes `count` different keys below `keys`.
pub(crate) fn deletes(keys: u64, count: u64) -> Streams {
    let order = Permutation::new(keys, 5);
    deal(count.min(keys), 1, Kind::Delete, |place| order.at(place))
}

/// Looks up absent keys, between present ones.
pub(crate) fn absent(keys: u64, count: u64) -> Streams {
    let mut random = Random::new(6);
    vec![(0..count).map(|_| Operation { key: absent_key(random.below(keys)), kind: Kind::GetAbsent }).collect()]
}

/// Scans of prefixes with 10 keys each.
pub(crate) fn scans_of_ten(keys: u64, count: u64) -> Streams {
    uniform(keys, count, 1, Kind::ScanPrefix { len_bytes: TEN_PREFIX_LEN_BYTES as u8, pairs: 10 })
}

/// Scans of prefixes with 1,000 keys each.
pub(crate) fn scans_of_a_thousand(keys: u64, count: u64) -> Streams {
    let pairs = GROUP_KEYS as u16;
    uniform(keys, count, 1, Kind::ScanPrefix { len_bytes: GROUP_PREFIX_LEN_BYTES as u8, pairs })
}

/// The core workloads of the Yahoo Cloud Serving Benchmark (Cooper and others, 2010).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ycsb {
    /// Half reads, half updates.
    A,
    /// 95 % reads, 5 % updates.
    B,
    /// Reads.
    C,
    /// 95 % reads of the latest inserts, 5 % inserts.
    D,
    /// 95 % scans of `pairs` pairs, 5 % inserts.
    E { pairs: u16 },
    /// Half reads, half reads that are followed by an update.
    F,
}

/// The operations of a YCSB workload over `keys` loaded keys. New keys start at number `first_new`.
/// Each thread inserts its own keys and, in D, reads its own, so that every read finds its key
/// independent of the other thread. The second value is the first unused number.
pub(crate) fn ycsb(workload: Ycsb, keys: u64, count: u64, threads: u64, first_new: u64) -> (Streams, u64) {
    let per_thread = count / threads;
    let (order, ranks) = (Permutation::new(keys, 3), Zipfian::new(keys));
    let stream = |thread: u64| {
        let mut random = Random::new(100 + thread);
        let first_own = first_new + thread * per_thread;
        let mut inserted = 0;
        (0..per_thread)
            .map(|_| {
                let is_first = random.below(100) < if matches!(workload, Ycsb::A | Ycsb::F) { 50 } else { 95 };
                let rank = ranks.rank(&mut random);
                let popular = key(order.at(rank));
                let kind = match (workload, is_first) {
                    (Ycsb::C, _) | (Ycsb::A | Ycsb::B | Ycsb::F | Ycsb::D, true) => Kind::Get,
                    (Ycsb::A | Ycsb::B, false) => Kind::Put,
                    (Ycsb::F, false) => Kind::ReadModifyWrite,
                    (Ycsb::E { pairs }, true) => Kind::ScanFrom { pairs },
                    (Ycsb::D | Ycsb::E { .. }, false) => {
                        inserted += 1;
                        return Operation { key: key(first_own + inserted - 1), kind: Kind::Put };
                    }
                };
                match workload {
                    Ycsb::D if rank < inserted => Operation { key: key(first_own + inserted - 1 - rank), kind },
                    Ycsb::D => Operation { key: key(keys - 1 - (rank - inserted)), kind },
                    _ => Operation { key: popular, kind },
                }
            })
            .collect()
    };
    ((0..threads).map(stream).collect(), first_new + threads * per_thread)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loads_hold_every_key_once() {
        let mut random: Vec<Key> = load_random(5000, 2).concat().iter().map(|operation| operation.key).collect();
        random.sort_unstable();
        let sorted: Vec<Key> = load_sorted(5000).concat().iter().map(|operation| operation.key).collect();
        assert_eq!(random, sorted);
    }

    #[test]
    fn mixes_have_their_shares() {
        let share = |workload, wanted: fn(&Kind) -> bool| {
            let (streams, _) = ycsb(workload, 10_000, 100_000, 2, 10_000);
            streams.concat().iter().filter(|operation| wanted(&operation.kind)).count() as f64 / 100_000.0
        };
        assert!((share(Ycsb::A, |kind| *kind == Kind::Put) - 0.5).abs() < 0.01);
        assert!((share(Ycsb::B, |kind| *kind == Kind::Put) - 0.05).abs() < 0.01);
        assert!((share(Ycsb::C, |kind| *kind == Kind::Get) - 1.0).abs() < 1e-9);
        assert!((share(Ycsb::D, |kind| *kind == Kind::Put) - 0.05).abs() < 0.01);
        assert!((share(Ycsb::E { pairs: 10 }, |kind| matches!(kind, Kind::ScanFrom { .. })) - 0.95).abs() < 0.01);
        assert!((share(Ycsb::F, |kind| *kind == Kind::ReadModifyWrite) - 0.5).abs() < 0.01);
    }
}

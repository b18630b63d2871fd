//! The rows of the table: the measured quantity, its unit, and the bar of the own store.

/// The unit of a row, which decides whether more or less is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Per second: more is better.
    PerSecond,
    /// Microseconds: less is better.
    Microseconds,
    /// Milliseconds: less is better.
    Milliseconds,
    /// Mebibytes: less is better.
    Mebibytes,
    /// Kibibytes: less is better.
    Kibibytes,
    /// Repetitions: less is better.
    Retries,
    /// Bytes on disk per byte of keys and values: less is better.
    BytesPerByte,
}

impl Unit {
    /// Whether more is better.
    pub(crate) fn more_is_better(self) -> bool {
        self == Self::PerSecond
    }

    /// Its text behind a number.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::PerSecond => "/s",
            Self::Microseconds => "µs",
            Self::Milliseconds => "ms",
            Self::Mebibytes => "MiB",
            Self::Kibibytes => "KiB",
            Self::Retries => "retries",
            Self::BytesPerByte => "×",
        }
    }
}

/// The kind of work of a row. Stores with a weaker guarantee count as the best only in reads and
/// synced writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Writes, or writes and reads, that must survive a killed process.
    Writes,
    /// Only reads.
    Reads,
    /// Writes that must survive power loss, which all stores guarantee here.
    SyncedWrites,
    /// Memory, disk space and time of an open.
    Resources,
}

impl Access {
    /// Whether all stores give the same guarantee here.
    pub(crate) fn is_equal_for_all(self) -> bool {
        matches!(self, Self::Reads | Self::SyncedWrites)
    }
}

/// The bar of the own store.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Bar {
    /// At least this multiple of the best peer.
    TimesBest(f64),
    /// At most this value.
    AtMost(f64),
    /// No bar.
    None,
}

/// A row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    /// Its name in results.
    pub(crate) id: &'static str,
    /// Its name in the table.
    pub(crate) title: &'static str,
    /// Its unit.
    pub(crate) unit: Unit,
    /// Its kind of work.
    pub(crate) access: Access,
    /// The bar of the own store.
    pub(crate) bar: Bar,
    /// Its plot.
    pub(crate) plot: &'static str,
}

const fn rate(id: &'static str, title: &'static str, access: Access, bar: Bar, plot: &'static str) -> Row {
    Row { id, title, unit: Unit::PerSecond, access, bar, plot }
}

const fn resource(id: &'static str, title: &'static str, unit: Unit, bar: Bar) -> Row {
    Row { id, title, unit, access: Access::Resources, bar, plot: "resources" }
}

const fn latency(id: &'static str, title: &'static str, bar: Bar) -> Row {
    Row { id, title, unit: Unit::Microseconds, access: Writes, bar, plot: "latency" }
}

use Access::{Reads, SyncedWrites, Writes};
use Bar::{AtMost, TimesBest};

/// All rows, in the order of the table.
pub(crate) const ROWS: &[Row] = &[
    rate("put_random", "put, random new keys", Writes, TimesBest(2.5), "writes"),
    rate("put_sorted", "put, sorted new keys", Writes, TimesBest(1.8), "writes"),
    rate("put_random_2", "put, random new keys, 2 threads", Writes, TimesBest(3.0), "writes"),
    rate("overwrite_zipfian", "overwrite, Zipfian", Writes, TimesBest(3.5), "writes"),
    rate("delete", "delete", Writes, TimesBest(3.0), "writes"),
    rate("get_uniform", "get, uniform", Reads, TimesBest(1.5), "reads"),
    rate("get_uniform_2", "get, uniform, 2 threads", Reads, TimesBest(1.5), "reads"),
    rate("get_zipfian", "get, Zipfian", Reads, TimesBest(1.4), "reads"),
    rate("get_absent", "get, absent key", Reads, TimesBest(4.0), "reads"),
    rate("scan_10_fresh", "prefix scan of 10, before compaction", Reads, TimesBest(0.6), "scans"),
    rate("scan_10", "prefix scan of 10, after compaction", Reads, TimesBest(1.0), "scans"),
    rate("scan_1000_fresh", "prefix scan of 1,000, before compaction", Reads, TimesBest(0.6), "scans"),
    rate("scan_1000", "prefix scan of 1,000, after compaction", Reads, TimesBest(1.0), "scans"),
    rate("scan_all", "scan of everything after compaction, pairs", Reads, TimesBest(1.0), "scans"),
    rate("synced_1", "synced commit, 1 thread", SyncedWrites, TimesBest(1.1), "synced"),
    rate("synced_8", "synced commit, 8 threads", SyncedWrites, TimesBest(1.6), "synced"),
    rate("synced_batch", "synced batch of 1,000", SyncedWrites, TimesBest(2.0), "synced"),
    rate("tx_uniform_1", "transaction of 2 reads and 1 write, uniform", Writes, TimesBest(2.0), "writes"),
    rate("tx_uniform_2", "transaction of 2 reads and 1 write, uniform, 2 threads", Writes, TimesBest(2.0), "writes"),
    rate("tx_hot_1", "transaction of 2 reads and 1 write, 100 keys", Writes, TimesBest(2.0), "writes"),
    rate("tx_hot_2", "transaction of 2 reads and 1 write, 100 keys, 2 threads", Writes, TimesBest(2.0), "writes"),
    resource("tx_hot_retries", "retries of a transaction on 100 keys, p99.9, 2 threads", Unit::Retries, AtMost(20.0)),
    rate("put_value_64", "put, values of 64 B", Writes, TimesBest(2.0), "values"),
    rate("put_value_512", "put, values of 512 B", Writes, TimesBest(2.0), "values"),
    rate("put_value_4096", "put, values of 4 KiB", Writes, TimesBest(2.0), "values"),
    rate("put_value_65536", "put, values of 64 KiB", Writes, TimesBest(2.0), "values"),
    rate("ycsb_a_1", "YCSB A, 1 thread", Writes, Bar::None, "ycsb-1"),
    rate("ycsb_b_1", "YCSB B, 1 thread", Writes, Bar::None, "ycsb-1"),
    rate("ycsb_c_1", "YCSB C, 1 thread", Reads, Bar::None, "ycsb-1"),
    rate("ycsb_d_1", "YCSB D, 1 thread", Writes, Bar::None, "ycsb-1"),
    rate("ycsb_e10_1", "YCSB E, scans of 10, 1 thread", Writes, Bar::None, "ycsb-1"),
    rate("ycsb_e100_1", "YCSB E, scans of 100, 1 thread", Writes, Bar::None, "ycsb-1"),
    rate("ycsb_f_1", "YCSB F, 1 thread", Writes, Bar::None, "ycsb-1"),
    rate("ycsb_a_2", "YCSB A, 2 threads", Writes, TimesBest(2.5), "ycsb-2"),
    rate("ycsb_b_2", "YCSB B, 2 threads", Writes, TimesBest(1.5), "ycsb-2"),
    rate("ycsb_c_2", "YCSB C, 2 threads", Reads, TimesBest(1.2), "ycsb-2"),
    rate("ycsb_d_2", "YCSB D, 2 threads", Writes, TimesBest(1.5), "ycsb-2"),
    rate("ycsb_e10_2", "YCSB E, scans of 10, 2 threads", Writes, TimesBest(1.0), "ycsb-2"),
    rate("ycsb_e100_2", "YCSB E, scans of 100, 2 threads", Writes, TimesBest(1.0), "ycsb-2"),
    rate("ycsb_f_2", "YCSB F, 2 threads", Writes, TimesBest(2.5), "ycsb-2"),
    latency("put_p50", "put while segments roll, median", Bar::None),
    latency("put_p999", "put while segments roll, p99.9", AtMost(30.0)),
    latency("put_max", "put while segments roll, the slowest", AtMost(10_000.0)),
    resource("reopen", "open after a clean close, to the first get", Unit::Milliseconds, AtMost(150.0)),
    resource("disk", "disk per live byte after churn and compaction, closed", Unit::BytesPerByte, AtMost(1.1)),
    resource("disk_open", "the same, still open", Unit::BytesPerByte, Bar::None),
    resource("disk_garbage", "the same before compaction", Unit::BytesPerByte, Bar::None),
    resource("compaction", "time of that compaction", Unit::Milliseconds, Bar::None),
    resource("memory", "anonymous memory after the load", Unit::Mebibytes, AtMost(120.0)),
    resource("memory_read", "anonymous memory after reading, too", Unit::Mebibytes, Bar::None),
    rate("beyond_load", "load in random order, limited", Writes, TimesBest(1.5), ""),
    latency("beyond_put_p9999_limited", "put of that load, p99.99", Bar::None),
    resource("beyond_memory_limited", "anonymous memory of that load, at most", Unit::Mebibytes, Bar::None),
    resource("beyond_open_cold", "open to the first get, files not in memory, limited", Unit::Milliseconds, Bar::None),
    rate("beyond_get_limited", "get, uniform, limited", Reads, TimesBest(1.0), ""),
    resource("beyond_get_read", "bytes from the device for such a get", Unit::Kibibytes, Bar::None),
    rate("beyond_get_zipfian_limited", "get, Zipfian, limited", Reads, TimesBest(1.0), ""),
    rate("beyond_ycsb_a_limited", "YCSB A, 2 threads, limited", Writes, TimesBest(1.0), ""),
    rate("beyond_ycsb_b_limited", "YCSB B, 2 threads, limited", Writes, TimesBest(1.0), ""),
    rate("beyond_ycsb_c_limited", "YCSB C, 2 threads, limited", Reads, TimesBest(1.0), ""),
    rate("beyond_ycsb_f_limited", "YCSB F, 2 threads, limited", Writes, TimesBest(1.0), ""),
    rate("beyond_ycsb_d_limited", "YCSB D, 2 threads, limited", Writes, TimesBest(1.0), ""),
    resource("beyond_open", "open to the first get", Unit::Milliseconds, AtMost(10.0)),
    rate("beyond_get", "get, uniform", Reads, TimesBest(1.5), ""),
    rate("beyond_get_zipfian", "get, Zipfian", Reads, TimesBest(1.5), ""),
    rate("beyond_ycsb_a", "YCSB A, 2 threads", Writes, TimesBest(1.5), ""),
    rate("beyond_ycsb_b", "YCSB B, 2 threads", Writes, TimesBest(1.5), ""),
    rate("beyond_ycsb_c", "YCSB C, 2 threads", Reads, TimesBest(1.5), ""),
    rate("beyond_ycsb_f", "YCSB F, 2 threads", Writes, TimesBest(1.5), ""),
    rate("beyond_ycsb_d", "YCSB D, 2 threads", Writes, TimesBest(1.5), ""),
    rate("beyond_overwrite", "overwrite, uniform", Writes, Bar::None, ""),
    resource("beyond_written", "bytes written to the device for that, per byte", Unit::BytesPerByte, AtMost(5.0)),
    resource("beyond_dirtied", "bytes of pages that the process made dirty, per byte", Unit::BytesPerByte, Bar::None),
    resource("beyond_compaction", "time of a full compaction after that and deletes", Unit::Milliseconds, Bar::None),
    resource("beyond_disk", "disk per byte after it, closed", Unit::BytesPerByte, AtMost(1.2)),
    resource("beyond_disk_1000", "the same, values of 1,000 B, a tenth of the keys", Unit::BytesPerByte, AtMost(1.1)),
    rate("beyond_scan_all", "scan of everything after it, pairs", Reads, TimesBest(1.0), ""),
    rate("beyond_scan_10", "prefix scan of 10 after it", Reads, TimesBest(1.2), ""),
    rate("beyond_scan_1000", "prefix scan of 1,000 after it", Reads, TimesBest(1.2), ""),
    rate("beyond_get_compacted", "get, uniform, after it", Reads, Bar::None, ""),
    rate("beyond_ycsb_e10", "YCSB E, scans of 10, 2 threads, after it", Writes, TimesBest(1.0), ""),
    rate("beyond_ycsb_e100", "YCSB E, scans of 100, 2 threads, after it", Writes, TimesBest(1.0), ""),
    resource("beyond_open_killed", "open to the first get after kill -9 among puts", Unit::Milliseconds, AtMost(200.0)),
    rate("beyond_put", "put, random new keys, each timed", Writes, Bar::None, ""),
    latency("beyond_put_p50", "such a put, median", Bar::None),
    latency("beyond_put_p9999", "such a put, p99.99", AtMost(10_000.0)),
    latency("beyond_put_max", "such a put, the slowest", Bar::None),
    resource("beyond_memory", "anonymous memory of these puts and of gets, at most", Unit::Mebibytes, AtMost(112.0)),
];

/// The row of bare synced appends, without a store.
pub(crate) const BARE_SYNC: &str = "bare_sync";

/// The share of the rate of bare synced appends that synced commits of one thread must reach.
pub(crate) const BARE_SYNC_SHARE: f64 = 0.85;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_distinct() {
        let mut ids: Vec<_> = ROWS.iter().map(|row| row.id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), ROWS.len());
    }
}

//! Tables of two million keys of 41.5 bytes on average: building, lookups, scans, opens. Also
//! prints the bytes per key, and the number of candidate records per lookup.
//!
//! `HIGHTOWER_BENCH_KEYS` sets the number of keys.

#![allow(clippy::expect_used, clippy::print_stderr, reason = "a benchmark stops at an error and reports sizes")]
#![allow(clippy::cast_possible_truncation, reason = "drawn numbers may be cut")]

use std::hint::black_box;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use hightower_segment::{Dir, Fs, RealFs};
use hightower_table::{
    EntryKind, LevelMerge, MergeSource, RecordPointer, ScanDirection, SeekTo, TableEntry, TableOptions, TableReader,
    TableWriter,
};

const SEGMENT_LEN_BYTES: u32 = 64 << 20;
const RECORD_LEN_BYTES: u32 = 136;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap_or(0)
    }
}

/// Ascending keys of 41 and 42 bytes.
fn keys(count: usize) -> Vec<Vec<u8>> {
    let mut random = Random(1);
    let mut keys: Vec<Vec<u8>> = (0..count)
        .map(|number| {
            let drawn = random.next();
            let (space, a, b) = (drawn % 1000, drawn >> 32, random.next() as u32);
            if number % 2 == 0 {
                format!("pods/namespace-{space:03}/workload-{a:08x}-{:04x}", b & 0xffff).into_bytes()
            } else {
                format!("pods/namespace-{space:03}/workload-{a:08x}-{:05x}", b & 0xf_ffff).into_bytes()
            }
        })
        .collect();
    keys.sort();
    keys.dedup();
    keys
}

/// Records in the order of random puts, spread over the segments.
fn scattered(random: &mut Random, count: usize) -> TableEntry {
    let place = random.below(count) as u64 * u64::from(RECORD_LEN_BYTES);
    let segment = u32::try_from(place / u64::from(SEGMENT_LEN_BYTES)).unwrap_or(0);
    let offset = 64 + u32::try_from(place % u64::from(SEGMENT_LEN_BYTES)).unwrap_or(0);
    let pointer = RecordPointer { segment, offset };
    TableEntry { version: random.below(count) as u64, kind: EntryKind::Set, pointer, len_bytes: RECORD_LEN_BYTES }
}

fn entries(count: usize, is_compacted: bool) -> Vec<TableEntry> {
    let mut random = Random(2);
    let each_segment = SEGMENT_LEN_BYTES / RECORD_LEN_BYTES;
    (0..u32::try_from(count).unwrap_or(u32::MAX))
        .map(|number| {
            let mut entry = scattered(&mut random, count);
            if is_compacted {
                let (segment, place) = (number / each_segment, number % each_segment);
                entry.pointer = RecordPointer { segment, offset: 64 + place * RECORD_LEN_BYTES };
            }
            entry
        })
        .collect()
}

fn write(dir: &Arc<dyn Dir>, name: &str, keys: &[Vec<u8>], entries: &[TableEntry]) -> TableReader {
    write_in(TableOptions::DEFAULT_MEMORY_BYTES, dir, name, keys, entries)
}

fn write_in(
    memory_bytes: usize,
    dir: &Arc<dyn Dir>,
    name: &str,
    keys: &[Vec<u8>],
    entries: &[TableEntry],
) -> TableReader {
    let options = TableOptions::new(1, 2, 3).with_memory_bytes(memory_bytes);
    let mut writer = TableWriter::create(dir, name, options).expect("a writer");
    for (key, entry) in keys.iter().zip(entries) {
        writer.push(key, *entry).expect("an ascending key");
    }
    writer.finish().expect("a table");
    TableReader::open(dir.as_ref(), name).expect("the table")
}

fn tables(criterion: &mut Criterion) {
    let count = std::env::var("HIGHTOWER_BENCH_KEYS").ok().and_then(|keys| keys.parse().ok()).unwrap_or(2_000_000);
    let keys = keys(count);
    let len_bytes: usize = keys.iter().map(Vec::len).sum();
    let scratch = tempfile::tempdir_in(std::env::var_os("HIGHTOWER_BENCH_DIR").unwrap_or_else(|| ".".into()))
        .expect("a directory");
    let dir = RealFs.open_dir(scratch.path()).expect("the directory");
    let scattered = entries(keys.len(), false);
    let table = write(&dir, "scattered.tbl", &keys, &scattered);
    let compacted = write(&dir, "compacted.tbl", &keys, &entries(keys.len(), true));
    let per_key = |bytes: u64| bytes as f64 / keys.len() as f64;
    let (order, points) = parts(&dir, "scattered.tbl");
    eprintln!(
        "{} keys of {:.1} bytes: {:.2} bytes a key, of which order {:.2}, points {:.2}; records in key order {:.2}",
        keys.len(),
        per_key(len_bytes as u64),
        per_key(table.len_bytes()),
        per_key(order),
        per_key(points),
        per_key(compacted.len_bytes()),
    );
    build(criterion, &dir, &keys, &scattered);
    lookups(criterion, &table, &keys);
    walks(criterion, &table, &keys);
    merges(criterion, &dir, &keys, &scattered);
    criterion.benchmark_group("open").bench_function("table", |bencher| {
        bencher.iter(|| TableReader::open(dir.as_ref(), "scattered.tbl").expect("the table"));
    });
}

/// The bytes of the leaves and nodes, and of the point table, from the footer.
fn parts(dir: &Arc<dyn Dir>, name: &str) -> (u64, u64) {
    let path: &Path = dir.path();
    let bytes = std::fs::read(path.join(name)).expect("the table's bytes");
    let trailer = &bytes[bytes.len() - 128..];
    let word = |place: usize| u64::from_le_bytes(trailer[8 * place..8 * place + 8].try_into().expect("eight bytes"));
    (word(9), word(2) - word(9))
}

fn build(criterion: &mut Criterion, dir: &Arc<dyn Dir>, keys: &[Vec<u8>], entries: &[TableEntry]) {
    let mut group = criterion.benchmark_group("build");
    group.throughput(Throughput::Elements(keys.len() as u64)).sample_size(10);
    let remove = || {
        if let Err(error) = dir.remove_file("built.tbl") {
            assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
        }
    };
    for memory_bytes in [TableOptions::DEFAULT_MEMORY_BYTES, 4 << 20] {
        group.bench_function(format!("in {} MiB", memory_bytes >> 20), |bencher| {
            let write = |()| write_in(memory_bytes, dir, "built.tbl", keys, entries);
            bencher.iter_batched(remove, write, BatchSize::PerIteration);
        });
    }
}

fn lookups(criterion: &mut Criterion, table: &TableReader, keys: &[Vec<u8>]) {
    let hasher = table.hasher();
    let mut random = Random(3);
    let present: Vec<u64> = (0..1 << 20).map(|_| hasher.hash(&keys[random.below(keys.len())])).collect();
    let absent: Vec<u64> = (0..1 << 20).map(|_| random.next()).collect();
    let found = |hashes: &[u64]| {
        hashes.iter().map(|hash| table.candidates(*hash).expect("a line").count()).sum::<usize>() as f64
            / hashes.len() as f64
    };
    eprintln!("candidates of a present key {:.4}, of an absent one {:.4}", found(&present), found(&absent));
    let mut group = criterion.benchmark_group("lookup");
    for (name, hashes) in [("hit", &present), ("miss", &absent)] {
        let mut next = 0;
        group.throughput(Throughput::Elements(1)).bench_function(name, |bencher| {
            bencher.iter(|| {
                next = (next + 1) % hashes.len();
                black_box(table.candidates(hashes[next]).expect("a line").next())
            });
        });
        group.throughput(Throughput::Elements(64)).bench_function(format!("{name}, 64 at once"), |bencher| {
            bencher.iter(|| {
                next = (next + 64) % (hashes.len() - 64);
                let batch = &hashes[next..next + 64];
                table.prefetch(batch);
                batch.iter().filter(|hash| table.candidates(**hash).expect("a line").next().is_some()).count()
            });
        });
    }
    let asked: Vec<&[u8]> = (0..1 << 16).map(|_| keys[random.below(keys.len())].as_slice()).collect();
    let mut next = 0;
    group.throughput(Throughput::Elements(1)).bench_function("hash and hit", |bencher| {
        bencher.iter(|| {
            next = (next + 1) % asked.len();
            black_box(table.candidates(hasher.hash(asked[next])).expect("a line").next())
        });
    });
    group.bench_function("get in order", |bencher| {
        bencher.iter(|| {
            next = (next + 1) % asked.len();
            black_box(table.get(asked[next]).expect("blocks"))
        });
    });
}

fn walks(criterion: &mut Criterion, table: &TableReader, keys: &[Vec<u8>]) {
    let mut random = Random(4);
    let asked: Vec<&[u8]> = (0..1 << 16).map(|_| keys[random.below(keys.len())].as_slice()).collect();
    let mut next = 0;
    let mut group = criterion.benchmark_group("walk");
    for pairs in [10, 1000] {
        group.throughput(Throughput::Elements(pairs));
        group.bench_function(format!("{pairs} ahead"), |bencher| {
            bencher.iter(|| {
                next = (next + 1) % asked.len();
                let mut cursor = table.cursor();
                let mut is_there = cursor.seek(asked[next], SeekTo::AtOrAfter).expect("blocks");
                for _ in 0..pairs {
                    if is_there {
                        black_box((cursor.key(), cursor.entry()));
                    }
                    is_there = cursor.advance().expect("blocks");
                }
            });
        });
        group.bench_function(format!("{pairs} back"), |bencher| {
            bencher.iter(|| {
                next = (next + 1) % asked.len();
                let mut cursor = table.cursor();
                let mut is_there = cursor.seek(asked[next], SeekTo::AtOrBefore).expect("blocks");
                for _ in 0..pairs {
                    if is_there {
                        black_box((cursor.key(), cursor.entry()));
                    }
                    is_there = cursor.retreat().expect("blocks");
                }
            });
        });
    }
    group.throughput(Throughput::Elements(keys.len() as u64)).sample_size(10);
    group.bench_function("all", |bencher| {
        bencher.iter(|| {
            let mut all = table.range::<&[u8]>(.., ScanDirection::Forward);
            let mut sum = 0;
            while all.advance().expect("blocks") {
                sum += all.entry().version;
            }
            sum
        });
    });
    group.bench_function("check", |bencher| {
        bencher.iter(|| table.check_with(&mut |_| ControlFlow::Continue(())).expect("a whole table"));
    });
}

/// Four levels, each with a quarter of the keys, in turn.
fn merges(criterion: &mut Criterion, dir: &Arc<dyn Dir>, keys: &[Vec<u8>], entries: &[TableEntry]) {
    let levels: Vec<TableReader> = (0..4)
        .map(|level| {
            let of_level = |place: &usize| place % 4 == level;
            let keys: Vec<_> = (0..keys.len()).filter(of_level).map(|place| keys[place].clone()).collect();
            let entries: Vec<_> = (0..entries.len()).filter(of_level).map(|place| entries[place]).collect();
            write(dir, &format!("level-{level}.tbl"), &keys, &entries)
        })
        .collect();
    let mut group = criterion.benchmark_group("merge");
    group.throughput(Throughput::Elements(keys.len() as u64)).sample_size(10);
    group.bench_function("4 levels", |bencher| {
        bencher.iter(|| {
            let sources = levels.iter().map(|table| table.range::<&[u8]>(.., ScanDirection::Forward)).collect();
            let mut merge = LevelMerge::new(sources, ScanDirection::Forward, |_| true);
            let mut sum = 0;
            while merge.advance().expect("blocks") {
                sum += merge.entry().version;
            }
            sum
        });
    });
}

criterion_group!(benches, tables);
criterion_main!(benches);

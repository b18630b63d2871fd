//! The cost of encoding and decoding records: `cargo bench -p hightower-log`.

#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark may end at once")]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use hightower_log::{
    CommandRef, Placement, RecordContext, SegmentHeader, SegmentKind, decode, encode, encode_head, payload_checksum,
};

const KEY: &[u8; 16] = b"0123456789abcdef";
const OFFSET: u32 = 64;
const PLACEMENT: Placement = Placement::Appended { durable: 0, continues: false };
const VALUE_LENS_BYTES: [usize; 4] = [0, 100, 4 << 10, 64 << 10];

fn context() -> RecordContext {
    RecordContext::new(0x5eed, 1, 1_700_000_000_000)
}

fn command(value: &[u8]) -> CommandRef<'_> {
    CommandRef::Set { key: KEY, value, version: 7, timestamp: 1_700_000_000_250 }
}

fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("codec");
    let context = context();
    for len_bytes in VALUE_LENS_BYTES {
        let value = vec![7; len_bytes];
        let command = command(&value);
        group.throughput(Throughput::Bytes((KEY.len() + len_bytes) as u64));
        let mut record = Vec::with_capacity(len_bytes + 64);
        group.bench_function(BenchmarkId::new("encode", len_bytes), |bencher| {
            bencher.iter(|| {
                record.clear();
                encode(&mut record, &context, OFFSET, black_box(&command), PLACEMENT).unwrap();
            });
        });
        group.bench_function(BenchmarkId::new("decode", len_bytes), |bencher| {
            bencher.iter(|| decode(black_box(&record), &context, OFFSET).unwrap().command());
        });
        group.bench_function(BenchmarkId::new("payload_checksum", len_bytes), |bencher| {
            bencher.iter(|| payload_checksum(black_box(KEY), black_box(&value)));
        });
    }
    group.finish();
}

/// The parts whose cost does not depend on the length of the value.
fn fixed(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("codec");
    let (context, value) = (context(), [7; 100]);
    let checksum = payload_checksum(KEY, &value);
    group.bench_function("encode_head", |bencher| {
        bencher.iter(|| encode_head(&context, OFFSET, black_box(&command(&value)), PLACEMENT, checksum).unwrap());
    });
    let header = SegmentHeader {
        id: 1,
        kind: SegmentKind::Append,
        features: 0,
        salt: 0x5eed,
        base_seq: 1,
        base_version: 1,
        base_timestamp: 1_700_000_000_000,
        created_ms: 1_700_000_000_000,
    };
    group.bench_function("segment header, both ways", |bencher| {
        bencher.iter(|| SegmentHeader::decode(&black_box(header).encode()).unwrap());
    });
    group.finish();
}

criterion_group!(codec, benches, fixed);
criterion_main!(codec);

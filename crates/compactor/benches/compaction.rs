//! The cost of compaction's decisions and of its loop, without files: `cargo bench -p
//! hightower-compactor`. (A whole compaction of a store is the engine's scenario
//! `compaction/run_compaction_now`.)

#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark may end at once")]

use std::convert::Infallible;
use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use hightower_compactor::{
    Budget, CompactionConfig, CompactionPolicy, CostBenefit, Goal, Host, Need, RecordPlace, SegmentUsage, SizeTiered,
    TombstoneRule, Visit, Visitor, rewrite,
};
use hightower_log::{CommandRef, SegmentKind};

const RECORDS: u32 = 100_000;
const RECORD_LEN_BYTES: u32 = 136;

/// One segment of records with keys in random order; every second record survives.
struct Memory {
    keys: Vec<[u8; 16]>,
    copied: u32,
}

impl Memory {
    fn new() -> Self {
        let key = |number: u32| {
            let mut key = *b"key/000000000000";
            key[4..].copy_from_slice(format!("{:012}", number.wrapping_mul(2_654_435_761)).as_bytes());
            key
        };
        Self { keys: (0..RECORDS).map(key).collect(), copied: 0 }
    }
}

impl Host for Memory {
    type Error = Infallible;

    fn for_each_record(&mut self, _segment: u32, visit: Visitor<'_, Self, Infallible>) -> Result<(), Infallible> {
        for offset in 0..RECORDS {
            let key = self.keys[offset as usize];
            let command = CommandRef::Set { key: &key, value: b"", version: 1, timestamp: 0 };
            if visit(self, offset, command, RECORD_LEN_BYTES)? == Visit::Stop {
                break;
            }
        }
        Ok(())
    }

    fn need(&self, place: RecordPlace, _command: &CommandRef<'_>) -> Result<Need, Infallible> {
        Ok(if place.offset.is_multiple_of(2) { Need::Keep } else { Need::None })
    }

    fn hides_older(&self, _place: RecordPlace, _key: &[u8], _removed: &[u32]) -> Result<bool, Infallible> {
        Ok(false)
    }

    fn copy(&mut self, _place: RecordPlace) -> Result<(RecordPlace, u32), Infallible> {
        self.copied += 1;
        Ok((RecordPlace { segment: 2, offset: self.copied }, RECORD_LEN_BYTES))
    }

    fn throttle(&mut self, _bytes: u64) -> Result<(), Infallible> {
        Ok(())
    }
}

fn segments(count: u32) -> Vec<SegmentUsage> {
    let usage = |id: u32| SegmentUsage {
        id,
        kind: if id.is_multiple_of(3) { SegmentKind::Compacted } else { SegmentKind::Append },
        is_sealed: true,
        base_seq: u64::from(id) * 500_000,
        len_bytes: 64 << 20,
        records: 450_000,
        live_records: 450_000 / u64::from(id % 7 + 1),
        live_bytes: (64 << 20) / u64::from(id % 7 + 1),
        retained_records: 0,
        expired_tombstone_bytes: 0,
        age: Duration::from_secs(u64::from(count - id)),
    };
    (0..count).map(usage).collect()
}

fn policies(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("compaction_policy");
    let (config, tiers) = (CompactionConfig::default(), SizeTiered::default());
    for count in [16, 1024] {
        let segments = segments(count);
        let policies: [(&str, &dyn CompactionPolicy); 2] = [("CostBenefit", &CostBenefit), ("SizeTiered", &tiers)];
        for (name, policy) in policies {
            group.bench_function(BenchmarkId::new(name, count), |bencher| {
                bencher.iter(|| policy.choose(&segments, Goal::Background, &config));
            });
        }
    }
    group.finish();
}

fn runs(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("compaction_run");
    group.throughput(Throughput::Elements(RECORDS.into())).sample_size(20);
    let usage = segments(2);
    group.bench_function("rewrite, 100,000 records in memory, half of them dead", |bencher| {
        bencher.iter_batched(
            Memory::new,
            |mut host| rewrite(&mut host, &[1], Budget::default(), |emptied| TombstoneRule::new(&usage, emptied)),
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

criterion_group!(compaction, policies, runs);
criterion_main!(compaction);

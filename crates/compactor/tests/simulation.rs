//! A simulation of the steady size of the log with the policy alone: Zipfian keys, segments with a
//! fixed number of records, compaction whenever the policy chooses segments.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test, which shows what it measured")]

use std::collections::HashMap;
use std::time::Duration;

use hightower_compactor::{CompactionConfig, CompactionPolicy, CostBenefit, Goal, SegmentUsage, SizeTiered};
use hightower_log::SegmentKind;

const RECORD_BYTES: u64 = 136;

/// A log of records that contain only the number of their key.
struct Log {
    /// By id: whether compaction wrote the segment, its begin, the keys of its records, and the
    /// number of live ones.
    segments: HashMap<u32, (SegmentKind, u64, Vec<u32>, u64)>,
    /// The segment and the position of the newest record of each key.
    index: Vec<Option<(u32, usize)>>,
    records_per_segment: usize,
    active: u32,
    next_id: u32,
    writes: u64,
    copied: u64,
}

impl Log {
    fn new(keys: usize, records_per_segment: usize) -> Self {
        let mut log = Self {
            segments: HashMap::new(),
            index: vec![None; keys],
            records_per_segment,
            active: 0,
            next_id: 1,
            writes: 0,
            copied: 0,
        };
        log.active = log.begin(SegmentKind::Append);
        log
    }

    fn begin(&mut self, kind: SegmentKind) -> u32 {
        let id = self.next_id;
        self.next_id += 1;
        self.segments.insert(id, (kind, self.writes, Vec::new(), 0));
        id
    }

    fn append(&mut self, segment: u32, key: u32) {
        let (_, _, records, live) = self.segments.get_mut(&segment).unwrap();
        records.push(key);
        *live += 1;
        let place = (segment, records.len() - 1);
        if let Some((old, _)) = self.index[key as usize].replace(place)
            && let Some((_, _, _, live)) = self.segments.get_mut(&old)
        {
            *live -= 1;
        }
    }

    fn put(&mut self, key: u32) -> bool {
        self.writes += 1;
        self.append(self.active, key);
        let is_full = self.segments[&self.active].2.len() == self.records_per_segment;
        if is_full {
            self.active = self.begin(SegmentKind::Append);
        }
        is_full
    }

    fn usage(&self) -> Vec<SegmentUsage> {
        let mut usage: Vec<_> = self
            .segments
            .iter()
            .map(|(id, (kind, begun, records, live))| SegmentUsage {
                id: *id,
                kind: *kind,
                is_sealed: *id != self.active,
                base_seq: *begun,
                len_bytes: 64 + records.len() as u64 * RECORD_BYTES,
                records: records.len() as u64,
                live_records: *live,
                live_bytes: live * RECORD_BYTES,
                retained_records: 0,
                expired_tombstone_bytes: 0,
                // 100,000 writes per second.
                age: Duration::from_micros((self.writes - begun) * 10),
            })
            .collect();
        usage.sort_by_key(|usage| usage.id);
        usage
    }

    fn compact(&mut self, policy: &dyn CompactionPolicy, goal: Goal, config: &CompactionConfig) -> bool {
        let victims = policy.choose(&self.usage(), goal, config);
        let mut output = None;
        for victim in &victims {
            let records = self.segments[victim].2.clone();
            for (at, key) in records.into_iter().enumerate() {
                if self.index[key as usize] != Some((*victim, at)) {
                    continue;
                }
                let is_full = |log: &Self, id: u32| log.segments[&id].2.len() == log.records_per_segment;
                let segment = match output {
                    Some(id) if !is_full(self, id) => id,
                    _ => self.begin(SegmentKind::Compacted),
                };
                output = Some(segment);
                self.append(segment, key);
                self.copied += 1;
            }
            let (_, _, _, live) = self.segments.remove(victim).unwrap();
            assert_eq!(live, 0);
        }
        !victims.is_empty()
    }

    fn bytes_per_live_byte(&self) -> f64 {
        let usage = self.usage();
        let len: u64 = usage.iter().map(|usage| usage.len_bytes).sum();
        let live: u64 = usage.iter().map(|usage| usage.live_bytes).sum();
        len as f64 / live as f64
    }
}

/// Zipfian numbers below `keys` with an exponent of 0.99, after Gray et al. (1994), scattered over
/// the keys.
struct Zipf {
    keys: f64,
    zeta: f64,
    eta: f64,
    state: u64,
}

impl Zipf {
    const THETA: f64 = 0.99;

    fn new(keys: u32) -> Self {
        let zeta = |n: u32| (1..=n).map(|rank| f64::from(rank).powf(-Self::THETA)).sum::<f64>();
        let (all, two) = (zeta(keys), zeta(2));
        let eta = (1.0 - (2.0 / f64::from(keys)).powf(1.0 - Self::THETA)) / (1.0 - two / all);
        Self { keys: f64::from(keys), zeta: all, eta, state: 0x9e37_79b9_7f4a_7c15 }
    }

    fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rank below the number of keys")]
    fn key(&mut self) -> u32 {
        let uniform = (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
        let scaled = uniform * self.zeta;
        let rank = if scaled < 1.0 {
            0.0
        } else if scaled < 1.0 + 0.5_f64.powf(Self::THETA) {
            1.0
        } else {
            self.keys * (self.eta * uniform - self.eta + 1.0).powf(1.0 / (1.0 - Self::THETA))
        };
        (u64::from(rank as u32).wrapping_mul(0x9e37_79b9_7f4a_7c15) % self.keys as u64) as u32
    }
}

struct Outcome {
    peak: f64,
    settled: f64,
    full: f64,
    write_amplification: f64,
}

fn play(policy: &dyn CompactionPolicy, keys: u32, overwrites: u32, records_per_segment: usize) -> Outcome {
    let config = CompactionConfig::default();
    let mut log = Log::new(keys as usize, records_per_segment);
    let mut zipf = Zipf::new(keys);
    let mut peak: f64 = 0.0;
    for at in 0..keys + overwrites {
        let key = if at < keys { at } else { zipf.key() };
        if log.put(key) {
            while log.compact(policy, Goal::Background, &config) {}
            peak = peak.max(log.bytes_per_live_byte());
        }
    }
    // When idle, the engine ends the active segment if too much of the log can be freed.
    log.active = log.begin(SegmentKind::Append);
    while log.compact(policy, Goal::Background, &config) {}
    let settled = log.bytes_per_live_byte();
    let write_amplification = (log.writes + log.copied) as f64 / log.writes as f64;
    while log.compact(policy, Goal::Full, &config) {}
    let full = log.bytes_per_live_byte();
    println!("peak {peak:.3}, settled {settled:.3}, full {full:.3}, write amplification {write_amplification:.2}");
    Outcome { peak, settled, full, write_amplification }
}

#[test]
fn the_log_settles_within_its_bounds() {
    for records_per_segment in [150, 1_500, 15_000] {
        let outcome = play(&CostBenefit, 30_000, 120_000, records_per_segment);
        assert!(outcome.settled <= 1.5 && outcome.full <= 1.1);
        assert!(outcome.write_amplification <= 2.5);
        // During writes, the active segment adds to the size; it may be half of the live bytes in
        // the last case.
        assert!(outcome.peak <= 1.75);
    }
}

#[test]
fn size_tiers_settle_too() {
    let outcome = play(&SizeTiered::default(), 30_000, 120_000, 1_500);
    assert!(outcome.full <= 1.1 && outcome.write_amplification <= 4.0);
}

#[test]
fn a_live_log_costs_nothing_and_overwriting_all_of_it_frees_all_of_it() {
    let config = CompactionConfig::default();
    let mut log = Log::new(10_000, 1_000);
    (0..10_000).for_each(|key| {
        log.put(key);
    });
    for _ in 0..100 {
        assert!(!log.compact(&CostBenefit, Goal::Background, &config));
        assert!(!log.compact(&CostBenefit, Goal::Full, &config));
    }
    (0..10_000).for_each(|key| {
        log.put(key);
    });
    while log.compact(&CostBenefit, Goal::Background, &config) {}
    assert_eq!(log.copied, 0, "dead segments are dropped without a look");
    assert!(log.bytes_per_live_byte() < 1.01);
}

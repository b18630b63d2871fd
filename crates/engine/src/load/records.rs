//! Reads and verifies, for the merge, the records of the log beyond the position that tables cover.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use hightower_segment::{Segment, SegmentError};

use crate::error::Result;
use crate::load::deal::Dealt;
use crate::load::item::{Item, eight_bytes};
use crate::load::progress::{ABORTED, ReplayMeter};
use crate::parallel::in_pieces;

/// Maximum number of records in memory, of 80 bytes each, before all but the newest of each key are
/// dropped.
pub(crate) const HELD_MAX: usize = 5 << 20;
/// Approximate number of records in a key range.
const RECORDS_PER_RANGE: usize = 8 << 10;
/// Number of ranges of newest records that are joined in one part.
const RANGES_PER_PART: usize = 64;
/// A segment, and the offset from which to read it.
#[derive(Clone, Copy)]
pub(crate) struct Rest<'a> {
    pub(crate) segment: &'a Arc<Segment>,
    pub(crate) from: u32,
}

impl Rest<'_> {
    pub(crate) fn len_bytes(&self) -> u64 {
        u64::from(self.segment.len_bytes().saturating_sub(self.from))
    }
}

/// Records of several segments, in parts: the records of one segment, or the newest of some key
/// ranges.
#[derive(Debug, Default)]
pub(crate) struct Pending<'a> {
    pub(crate) parts: Vec<Vec<Item<'a>>>,
    /// The ids of the replayed segments.
    pub(crate) segments: Vec<u32>,
    /// The common prefix of all keys.
    pub(crate) prefix: &'a [u8],
    /// The number of read records, including dropped ones.
    pub(crate) records: u64,
}

impl<'a> Pending<'a> {
    fn held(&self) -> usize {
        self.parts.iter().map(Vec::len).sum()
    }

    /// Adds the records of a segment. Their key bytes begin behind the common prefix, or are
    /// adjusted.
    fn add(&mut self, mut read: Read<'a>) {
        self.records += read.records;
        let prefix_len = if read.has_prefix { self.prefix.len() } else { 0 };
        if prefix_len < self.prefix.len() {
            self.prefix = &[];
            self.parts.iter_mut().for_each(|part| set_bytes(part, 0));
        }
        if prefix_len < read.prefix_len {
            set_bytes(&mut read.items, prefix_len);
        }
        self.parts.push(read.items);
    }

    /// Drops all records but the newest of each key.
    fn keep_newest(&mut self, meter: &mut ReplayMeter<'_>) -> Result<()> {
        let cuts = record_cuts(self);
        let dealt = Dealt::of(std::mem::take(&mut self.parts), self.prefix, &cuts);
        let ranges: Vec<usize> = (0..=cuts.len()).collect();
        let pieces: Vec<&[usize]> = ranges.chunks(RANGES_PER_PART).collect();
        let newest = |piece: usize| {
            let ranges: &[usize] = pieces[piece];
            ranges.iter().flat_map(|range| dealt.range(*range)).collect()
        };
        self.parts = in_pieces(pieces.len(), newest, || meter.set(meter.done)).ok_or(ABORTED)?;
        Ok(())
    }
}

/// Reads and verifies the segments with several threads.
///
/// When more than `most` records are in memory, all but the newest of each key are dropped. If more
/// than half remain, `most` grows with the number of keys. So the memory is bounded by the number
/// of keys, like the index, and not by the length of the log.
pub(crate) fn read<'a>(rest: &[Rest<'a>], mut most: usize, meter: &mut ReplayMeter<'_>) -> Result<Pending<'a>> {
    let prefix = likely_prefix(rest);
    let segments = rest.iter().map(|rest| rest.segment.id()).collect();
    let mut pending = Pending { parts: Vec::new(), segments, prefix, records: 0 };
    let mut left: Vec<(u32, Rest<'a>)> = (0..).zip(rest.iter().copied()).collect();
    while !left.is_empty() {
        if pending.held() >= most / 2 && !pending.parts.is_empty() {
            pending.keep_newest(meter)?;
            most = most.max(2 * pending.held());
        }
        left = read_some(left, most, &mut pending, meter)?;
    }
    Ok(pending)
}

/// Reads segments up to a number of records; returns the unread segments.
fn read_some<'a>(
    rest: Vec<(u32, Rest<'a>)>,
    most: usize,
    pending: &mut Pending<'a>,
    meter: &mut ReplayMeter<'_>,
) -> Result<Vec<(u32, Rest<'a>)>> {
    let (held, done) = (AtomicUsize::new(pending.held()), AtomicU64::new(meter.done));
    let prefix = pending.prefix;
    let read = |piece: usize| {
        let (part, rest): (u32, Rest<'a>) = rest[piece];
        if held.load(Ordering::Relaxed) > most {
            return Ok(None);
        }
        let read = read_segment(rest, part, prefix)?;
        held.fetch_add(read.items.len(), Ordering::Relaxed);
        done.fetch_add(rest.len_bytes(), Ordering::Relaxed);
        Ok(Some(read))
    };
    let parts: Option<Vec<Result<_, SegmentError>>> =
        in_pieces(rest.len(), read, || meter.set(done.load(Ordering::Relaxed)));
    let mut left = Vec::new();
    for (rest, part) in rest.iter().zip(parts.ok_or(ABORTED)?) {
        match part? {
            Some(read) => pending.add(read),
            None => left.push(*rest),
        }
    }
    meter.done = done.into_inner();
    Ok(left)
}

/// Keys with about [`RECORDS_PER_RANGE`] records between two adjacent ones.
pub(super) fn record_cuts<'a>(pending: &Pending<'a>) -> Vec<&'a [u8]> {
    /// Number of samples per cut, so that the ranges have about equal sizes.
    const SAMPLES_PER_CUT: usize = 16;
    let step = RECORDS_PER_RANGE / SAMPLES_PER_CUT;
    let samples = pending.parts.iter().flat_map(|part| part.iter().skip(step / 2).step_by(step));
    let mut samples: Vec<&[u8]> = samples.map(|item| item.far_key).collect();
    samples.sort_unstable();
    samples.into_iter().skip(SAMPLES_PER_CUT).step_by(SAMPLES_PER_CUT).collect()
}

/// The common prefix of the first keys of all segments.
fn likely_prefix<'a>(rest: &[Rest<'a>]) -> &'a [u8] {
    const KEYS_PER_SEGMENT: usize = 4;
    let entries = rest.iter().flat_map(|rest| rest.segment.entries_from(rest.from, 0).take(KEYS_PER_SEGMENT));
    // The full read of the segment finds damage again.
    let keys = entries.filter_map(|entry| entry.ok().map(|entry| entry.command.key()));
    let prefix = keys.reduce(|prefix, key| {
        let shared = prefix.iter().zip(key).take_while(|(left, right)| left == right).count();
        &prefix[..shared]
    });
    prefix.unwrap_or_default()
}

/// The records of a segment.
struct Read<'a> {
    items: Vec<Item<'a>>,
    records: u64,
    /// Whether all keys have the assumed prefix.
    has_prefix: bool,
    /// Length of the common prefix of all keys.
    prefix_len: usize,
}

fn read_segment<'a>(rest: Rest<'a>, part: u32, prefix: &[u8]) -> Result<Read<'a>, SegmentError> {
    let mut has_prefix = true;
    // An estimate with 128 bytes per record; shorter records let the vector grow.
    let mut items: Vec<Item<'a>> = Vec::with_capacity(usize::try_from(rest.len_bytes() / 128).unwrap_or(0));
    for entry in rest.segment.entries_from(rest.from, 0) {
        let entry = entry?;
        has_prefix &= entry.command.key().starts_with(prefix);
        items.push(Item::of(part, &entry, prefix.len()));
    }
    let records = items.len() as u64;
    Ok(Read { items, records, has_prefix, prefix_len: prefix.len() })
}

fn set_bytes(items: &mut [Item<'_>], prefix_len: usize) {
    items.iter_mut().for_each(|item| item.bytes = eight_bytes(item.far_key, prefix_len));
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;
    use std::path::Path;
    use std::sync::Arc;

    use hightower_log::SegmentHeader;
    use hightower_segment::{Fs, ReadOnlyStore, RealFs, Tolerance};

    use super::{HELD_MAX, ReplayMeter, Rest, read};
    use crate::{SingleNodeEngine, StoreConfig};

    /// A key, and the number of its newest record.
    type Newest = (Vec<u8>, u64, u32, u32, bool);

    /// The newest records of a log, read with at most `most` records in memory, and the number of
    /// all records.
    fn newest(dir: &Path, most: usize) -> (Vec<Newest>, u64) {
        let fs: Arc<dyn Fs> = Arc::new(RealFs);
        let store = ReadOnlyStore::open(&fs, dir, Tolerance::Strict).unwrap();
        let from = u32::try_from(SegmentHeader::LEN).unwrap();
        let rest: Vec<_> = store.segments().iter().map(|segment| Rest { segment, from }).collect();
        let mut go_on = |_| ControlFlow::Continue(());
        let mut meter = ReplayMeter { done: 0, total: 0, watch: &mut go_on };
        let mut pending = read(&rest, most, &mut meter).unwrap();
        assert_eq!(meter.done, rest.iter().map(Rest::len_bytes).sum::<u64>());
        pending.keep_newest(&mut meter).unwrap();
        let items = pending.parts.iter().flatten();
        let newest = items.map(|item| (item.key().to_vec(), item.version, item.part, item.offset, item.is_tombstone()));
        (newest.collect(), pending.records)
    }

    #[test]
    fn what_is_forgotten_on_the_way_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let small = StoreConfig {
            max_segment_size: 16 * 1024,
            min_segment_size: 16 * 1024,
            compaction_interval: std::time::Duration::ZERO,
            ..StoreConfig::at(dir.path())
        };
        let engine = SingleNodeEngine::with_config(small).unwrap();
        let key = |number: u32| match number % 1000 {
            long if long.is_multiple_of(7) => format!("pod/{long}/{}", "x".repeat(40)),
            short => format!("pod/{short}"),
        };
        for step in 0..12_000_u32 {
            let number = step.wrapping_mul(0x9e37_79b9) % 12_000;
            engine.put(key(number), number.to_le_bytes()).unwrap();
            // Nearly all keys begin with the expected prefix; these few do not.
            if step > 9_000 && step.is_multiple_of(500) {
                engine.put(format!("node/{step}"), []).unwrap();
            }
            if number.is_multiple_of(11) {
                engine.delete(key(number / 2)).unwrap();
            }
        }
        engine.close().unwrap();
        let (all, records) = newest(dir.path(), HELD_MAX);
        assert!(records > 12_000 && all.len() < 1_500, "{records} records of {} keys", all.len());
        assert!(all.is_sorted_by(|left, right| left.0 < right.0));
        for most in [0, 1, 300, 2_000, 11_000] {
            assert!(newest(dir.path(), most) == (all.clone(), records), "holding {most}");
        }
    }
}

//! One run: read the inputs, collect the survivors, write them in key order.
//!
//! Memory is bounded for segments of any size: the run collects the keys and places of survivors up
//! to a budget. When the budget is exhausted, the run ends; an input that was not read to its end
//! stays, with its moved records dead. The next run continues with it.
//!
//! The run changes no live data. Its result has the work of the engine after the outputs are
//! durable: the empty inputs, the moved records, and the tombstones to drop.

use hightower_log::CommandRef;

use crate::mutants::planted;
use crate::tombstone::TombstoneRule;

/// The place of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordPlace {
    /// The number of its segment.
    pub segment: u32,
    /// The offset in the segment.
    pub offset: u32,
}

/// Whether a record is still needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Nothing needs it.
    None,
    /// The newest command of its key, or needed by a snapshot.
    Keep,
    /// A tombstone that is the newest command of its key; no snapshot reads the previous version,
    /// and the grace is over.
    Expired,
}

/// Whether to continue with the rest of the segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visit {
    /// Continue.
    Next,
    /// Stop here.
    Stop,
}

/// A visitor of records, with the offset, the command and the length.
pub type Visitor<'a, H, E> = &'a mut dyn FnMut(&mut H, u32, CommandRef<'_>, u32) -> Result<Visit, E>;

/// The engine, as a run sees it.
pub trait Host {
    /// The error of reads and writes.
    type Error;

    /// Calls `visit` with the offset, the command and the length of each record of a segment, in
    /// file order, until it returns [`Visit::Stop`].
    ///
    /// # Errors
    ///
    /// If a record cannot be read or is invalid. The run then ends without a change.
    fn for_each_record(&mut self, segment: u32, visit: Visitor<'_, Self, Self::Error>) -> Result<(), Self::Error>;

    /// Whether the record at this place is still needed.
    ///
    /// # Errors
    ///
    /// If the host cannot tell. The run then ends without a change.
    fn need(&self, place: RecordPlace, command: &CommandRef<'_>) -> Result<Need, Self::Error>;

    /// Whether the state has an older entry of the key of a tombstone at `place`, hidden by it, in
    /// a segment that is not one of `removed`. Without the tombstone, that entry would be visible.
    ///
    /// # Errors
    ///
    /// As [`need`](Self::need).
    fn hides_older(&self, place: RecordPlace, key: &[u8], removed: &[u32]) -> Result<bool, Self::Error>;

    /// Copies the record at `place` into an output, and returns its new place and length.
    ///
    /// # Errors
    ///
    /// If it cannot be read or written.
    fn copy(&mut self, place: RecordPlace) -> Result<(RecordPlace, u32), Self::Error>;

    /// Counts bytes read or written since the last call, and waits to limit the rate.
    ///
    /// # Errors
    ///
    /// If the run must end now.
    fn throttle(&mut self, bytes: u64) -> Result<(), Self::Error>;
}

/// The memory budget of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Maximum number of survivors in a run. Each takes 32 bytes besides its key.
    pub survivors: usize,
    /// Maximum total length of their keys, in bytes.
    pub key_bytes: usize,
    /// Maximum total size of their records, in bytes. The run reads the records in key order for
    /// the copies, so an input that memory cannot hold is read again for each of its records.
    pub record_bytes: u64,
}

impl Default for Budget {
    /// 128 Ki survivors with 4 MiB of keys: 8 MiB, and about 3 MiB for the copies.
    fn default() -> Self {
        Self { survivors: 128 << 10, key_bytes: 4 << 20, record_bytes: LEAST_RECORD_BYTES }
    }
}

/// The memory of a small machine holds the records of such a run and their copies.
const LEAST_RECORD_BYTES: u64 = 64 << 20;
/// Number of sorted runs that a scan can follow in turn.
const RUNS: u64 = 16;

impl Budget {
    /// The budget of a run in a store with this number of live bytes: a 16th of them, at least 64
    /// MiB. So the runs that order the whole store are few enough for a scan to follow.
    #[must_use]
    pub fn for_store(live_bytes: u64) -> Self {
        Self { record_bytes: LEAST_RECORD_BYTES.max(live_bytes / RUNS), ..Self::default() }
    }
}

/// A copied record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    /// The old place.
    pub from: RecordPlace,
    /// The place of the copy.
    pub to: RecordPlace,
    /// The length of the copy, in bytes.
    pub len_bytes: u32,
    /// Whether it is a tombstone.
    pub is_tombstone: bool,
    key_at: u32,
    key_len: u16,
}

/// The result of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewritten {
    /// The inputs that were read to their end. They are not needed after [`moved`](Self::moved) is
    /// installed.
    pub emptied: Vec<u32>,
    /// The copied records, in key order.
    pub moved: Vec<Moved>,
    /// Dropped tombstones, to be removed from the index after the inputs are removed.
    pub forgotten: Vec<RecordPlace>,
    /// Bytes of records read from inputs.
    pub read_bytes: u64,
    /// Bytes of records written to outputs.
    pub written_bytes: u64,
    /// The keys of the collected records, concatenated.
    keys: Vec<u8>,
}

impl Rewritten {
    /// The key of a record of [`moved`](Self::moved); empty for a record of another run. It does
    /// not read the copy.
    #[must_use]
    pub fn key_of(&self, moved: &Moved) -> &[u8] {
        key_at(&self.keys, moved.key_at, moved.key_len)
    }
}

fn key_at(keys: &[u8], at: u32, len: u16) -> &[u8] {
    let start = at as usize;
    keys.get(start..start + usize::from(len)).unwrap_or_default()
}

/// Reads `inputs` in order and copies the survivors in key order. `rule` returns the tombstone rule
/// for the inputs that were read to their end.
///
/// # Errors
///
/// Those of the host. Then nothing has changed, and the outputs are garbage.
pub fn rewrite<H: Host>(
    host: &mut H,
    inputs: &[u32],
    budget: Budget,
    rule: impl FnOnce(&[u32]) -> TombstoneRule,
) -> Result<Rewritten, H::Error> {
    let mut survivors = SurvivorBatch::within(budget);
    let mut done = Rewritten::default();
    for (input, id) in inputs.iter().enumerate() {
        if !gather(host, *id, input, &mut survivors, &mut done.read_bytes)? {
            break;
        }
        done.emptied.push(*id);
    }
    if planted("partial_input_removed") {
        done.emptied = inputs.to_vec();
    }
    let rule = rule(&done.emptied);
    survivors.sort();
    for survivor in &survivors.entries {
        let Some(segment) = inputs.get(usize::from(survivor.input)) else { continue };
        let from = RecordPlace { segment: *segment, offset: survivor.offset };
        let key = key_at(&survivors.keys, survivor.key_at, survivor.key_len);
        if survivor.is_expired && rule.allows(from.segment) && !host.hides_older(from, key, &done.emptied)? {
            done.forgotten.push(from);
            continue;
        }
        let (to, len_bytes) = host.copy(from)?;
        done.written_bytes += u64::from(len_bytes);
        let Survivor { is_tombstone, key_at, key_len, .. } = *survivor;
        done.moved.push(Moved { from, to, len_bytes, is_tombstone, key_at, key_len });
        host.throttle(len_bytes.into())?;
    }
    done.keys = survivors.keys;
    Ok(done)
}

/// Collects the survivors of one input. Returns whether it was read to its end.
fn gather<H: Host>(
    host: &mut H,
    id: u32,
    input: usize,
    survivors: &mut SurvivorBatch,
    read_bytes: &mut u64,
) -> Result<bool, H::Error> {
    let Ok(input) = u16::try_from(input) else { return Ok(false) };
    let mut has_room = true;
    host.for_each_record(id, &mut |host, offset, command, len_bytes| {
        host.throttle(len_bytes.into())?;
        *read_bytes += u64::from(len_bytes);
        let need = host.need(RecordPlace { segment: id, offset }, &command)?;
        if need == Need::None {
            return Ok(Visit::Next);
        }
        let survivor = Survivor {
            input,
            offset,
            is_tombstone: command.value().is_none(),
            is_expired: need == Need::Expired,
            ..Survivor::default()
        };
        has_room = survivors.add(command.key(), len_bytes, survivor);
        Ok(if has_room { Visit::Next } else { Visit::Stop })
    })?;
    Ok(has_room)
}

/// A surviving record; its key is in the arena.
#[derive(Clone, Copy, Debug, Default)]
struct Survivor {
    /// The first bytes of the key behind the common prefix, which decide most comparisons.
    head: u64,
    key_at: u32,
    key_len: u16,
    input: u16,
    offset: u32,
    is_tombstone: bool,
    is_expired: bool,
}

#[derive(Debug)]
struct SurvivorBatch {
    entries: Vec<Survivor>,
    keys: Vec<u8>,
    record_bytes: u64,
    budget: Budget,
}

impl SurvivorBatch {
    fn within(budget: Budget) -> Self {
        // Places in the arena are 32 bits wide.
        let budget = Budget { key_bytes: budget.key_bytes.min(1 << 30), survivors: budget.survivors.max(1), ..budget };
        Self { entries: Vec::new(), keys: Vec::new(), record_bytes: 0, budget }
    }

    /// Adds a record, if the budget allows. The first one always fits.
    fn add(&mut self, key: &[u8], len_bytes: u32, survivor: Survivor) -> bool {
        let is_first = self.entries.is_empty();
        let fits = self.entries.len() < self.budget.survivors && self.keys.len() + key.len() <= self.budget.key_bytes;
        let record_bytes = self.record_bytes + u64::from(len_bytes);
        let fits = fits && (record_bytes <= self.budget.record_bytes || planted("runs_of_any_length"));
        let (Ok(key_at), Ok(key_len)) = (u32::try_from(self.keys.len()), u16::try_from(key.len())) else {
            return false;
        };
        if !fits && !is_first {
            return false;
        }
        self.record_bytes = record_bytes;
        self.grow(key.len());
        self.entries.push(Survivor { key_at, key_len, ..survivor });
        self.keys.extend_from_slice(key);
        true
    }

    /// Grows in steps, not by doubling.
    fn grow(&mut self, key_len: usize) {
        if self.entries.len() == self.entries.capacity() {
            self.entries.reserve_exact((self.budget.survivors / 8).max(64));
        }
        if self.keys.capacity() - self.keys.len() < key_len {
            self.keys.reserve_exact(key_len.max(self.budget.key_bytes / 8));
        }
    }

    fn sort(&mut self) {
        let Self { entries, keys, .. } = self;
        let key = |survivor: &Survivor| key_at(keys, survivor.key_at, survivor.key_len);
        let common = entries.first().map_or(0, |first| {
            entries.iter().fold(key(first).len(), |common, entry| shared_len(key(first), key(entry)).min(common))
        });
        for entry in entries.iter_mut() {
            entry.head = head_of(key(entry).get(common..).unwrap_or_default());
        }
        // Several records of one key (for snapshots) stay in the order of their places.
        entries.sort_unstable_by(|a, b| {
            a.head
                .cmp(&b.head)
                .then_with(|| key(a).cmp(key(b)))
                .then_with(|| (a.input, a.offset).cmp(&(b.input, b.offset)))
        });
    }
}

/// The length of the common prefix of two keys.
fn shared_len(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// The first eight bytes as a number with the same order; missing bytes count as zero.
fn head_of(key: &[u8]) -> u64 {
    let mut head = [0; 8];
    let len = key.len().min(8);
    head[..len].copy_from_slice(&key[..len]);
    u64::from_be_bytes(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset: u32) -> Survivor {
        Survivor { offset, ..Survivor::default() }
    }

    #[test]
    fn survivors_sort_by_key_whatever_their_heads_say() {
        let mut survivors = SurvivorBatch::within(Budget::default());
        let keys: [&[u8]; 9] = [
            b"pod/9",
            b"pod/1",
            b"pod/",
            b"pod/1\0",
            b"pod/1\0\0\0\0\0\0\0\0\0",
            b"pod/12345678b",
            b"pod/12345678a",
            b"pod/\xff",
            b"pod/1",
        ];
        for (offset, key) in keys.iter().enumerate() {
            assert!(survivors.add(key, 100, at(u32::try_from(offset).unwrap())));
        }
        survivors.sort();
        let order: Vec<_> = survivors.entries.iter().map(|entry| keys[entry.offset as usize]).collect();
        let mut expected = keys.to_vec();
        expected.sort_unstable();
        assert_eq!(order, expected);
    }

    #[test]
    fn the_budget_ends_a_run_but_the_first_record_always_fits() {
        let mut survivors = SurvivorBatch::within(Budget { survivors: 2, key_bytes: 10, ..Budget::default() });
        assert!(survivors.add(&[7; 100], 100, at(64)));
        assert!(!survivors.add(b"k", 100, at(200)), "the keys' bytes are used up");
        let mut survivors = SurvivorBatch::within(Budget { survivors: 2, key_bytes: 10, ..Budget::default() });
        assert!(survivors.add(b"a", 100, at(1)) && survivors.add(b"b", 100, at(2)));
        assert!(!survivors.add(b"c", 100, at(3)));
        assert!(survivors.entries.capacity() <= 64);
    }
    #[test]
    fn a_run_is_no_longer_than_memory_is_likely_to_hold() {
        let mut survivors = SurvivorBatch::within(Budget { record_bytes: 1000, ..Budget::default() });
        assert!(survivors.add(b"a", 5000, at(1)), "the first record always fits");
        assert!(!survivors.add(b"b", 1, at(2)));
        let mut survivors = SurvivorBatch::within(Budget { record_bytes: 1000, ..Budget::default() });
        assert!(survivors.add(b"a", 500, at(1)) && survivors.add(b"b", 500, at(2)));
        assert!(!survivors.add(b"c", 1, at(3)));
        assert_eq!(Budget::for_store(0).record_bytes, 64 << 20);
        assert_eq!(Budget::for_store(16 << 30).record_bytes, 1 << 30);
    }
}

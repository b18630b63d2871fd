//! Walking over the records of a segment: strictly, for replay; for its end, in recovery; and past
//! damage, for checks.

use hightower_log::{CommandRef, DecodeError, Record, RecordBody, RecordContext, SegmentKind, decode, probe};

use crate::error::{Damage, SegmentError};
use crate::mutants::planted;
use crate::read_ahead::InOrder;
use crate::segment::{FIRST_RECORD_AT, Segment, to_offset};

/// A command and where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The offset of its record.
    pub offset: u32,
    /// The length of its record in bytes.
    pub len_bytes: u32,
    /// The seq of its commit; all commands of one commit share it. Counts nothing in compacted
    /// segments.
    pub seq: u64,
    /// Whether more commands of the same commit follow.
    pub continues: bool,
    /// The command.
    pub command: CommandRef<'a>,
}

/// The commands of a segment in file order, each verified; made by [`Segment::entries`]. The first
/// error ends it.
#[derive(Debug)]
pub struct Entries<'a> {
    segment: &'a Segment,
    bytes: &'a [u8],
    offset: u32,
    seq: u64,
    in_commit: bool,
    done: bool,
    order: InOrder<&'a Segment>,
}

impl<'a> Entries<'a> {
    pub(crate) fn new(segment: &'a Segment, offset: u32, seq: u64) -> Self {
        let offset = offset.max(FIRST_RECORD_AT);
        let bytes = segment.bytes_from(offset);
        Self { segment, bytes, offset, seq, in_commit: false, done: false, order: InOrder::looking(segment, offset) }
    }

    fn step(&mut self) -> Result<Option<Entry<'a>>, SegmentError> {
        loop {
            if self.bytes.is_empty() {
                return self.end();
            }
            self.order.go_to(self.offset);
            let record = match decode(self.bytes, self.segment.context(), self.offset) {
                Err(_) if planted("damage_is_an_end") => return Ok(None),
                record => record.map_err(|error| self.segment.damaged(self.offset, error))?,
            };
            check_kind(self.segment, self.offset, &record, self.in_commit)?;
            let offset = self.offset;
            self.bytes = self.bytes.get(record.len as usize..).unwrap_or_default();
            self.offset = offset.saturating_add(record.len);
            let RecordBody::Command(command) = record.body else { continue };
            let (seq, continues) = (self.seq, record.continues());
            self.in_commit = continues;
            if !continues {
                self.seq += 1;
            }
            return Ok(Some(Entry { offset, len_bytes: record.len, seq, continues, command }));
        }
    }

    fn end(&self) -> Result<Option<Entry<'a>>, SegmentError> {
        if self.in_commit {
            let damage = Damage::Structure("the last commit has no end");
            return Err(SegmentError::corrupt(self.segment.path(), self.offset.into(), damage));
        }
        Ok(None)
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<Entry<'a>, SegmentError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let item = self.step().transpose();
        self.done = !matches!(item, Some(Ok(_)));
        item
    }
}

/// Whether a record may stand in a segment of this kind, at this place of a commit.
fn check_kind(segment: &Segment, offset: u32, record: &Record<'_>, in_commit: bool) -> Result<(), SegmentError> {
    let damage = match (segment.kind(), record.durable(), record.body) {
        (SegmentKind::Append, None, _) => "a relocated record in a segment of commits",
        (SegmentKind::Compacted, Some(_), _) => "a committed record in a compacted segment",
        (_, _, RecordBody::Seal { .. }) if in_commit => "a seal within a commit",
        _ => return Ok(()),
    };
    Err(SegmentError::corrupt(segment.path(), offset.into(), Damage::Structure(damage)))
}

/// How the records of an append segment end, as far as its bytes tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tail {
    /// Where the last whole commit (or the seal) ends.
    pub(crate) end: u32,
    /// Whole commits before it.
    pub(crate) commits: u64,
    /// Their commands.
    pub(crate) records: u64,
    /// The highest version among them.
    pub(crate) max_version: u64,
    /// Whether a seal ends the segment.
    pub(crate) sealed: bool,
    /// What stands where reading stopped, and where that is; it may be inside a commit that began
    /// at `end`.
    pub(crate) stop: (u32, DecodeError),
}

/// Reads commits from the start of `bytes`, a whole segment file, up to the first that is not
/// whole.
pub(crate) fn find_tail(bytes: &[u8], context: &RecordContext) -> Tail {
    let start = FIRST_RECORD_AT;
    let mut tail = Tail {
        end: start,
        commits: 0,
        records: 0,
        max_version: 0,
        sealed: false,
        stop: (start, DecodeError::NoRecord { offset: start }),
    };
    // Of the commit that is being read.
    let (mut at, mut pending_records, mut pending_version) = (start, 0, 0);
    loop {
        let rest = bytes.get(at as usize..).unwrap_or_default();
        let record = match decode(rest, context, at) {
            Ok(record) if record.durable().is_some() => record,
            Ok(_) => return Tail { stop: (at, DecodeError::NoRecord { offset: at }), ..tail },
            Err(error) => return Tail { stop: (at, error), ..tail },
        };
        if matches!(record.body, RecordBody::Seal { .. }) && pending_records > 0 {
            return Tail { stop: (at, DecodeError::NoRecord { offset: at }), ..tail };
        }
        at = at.saturating_add(record.len);
        match record.body {
            RecordBody::Seal { max_version, .. } => {
                let max_version = tail.max_version.max(max_version);
                return Tail {
                    end: at,
                    sealed: true,
                    max_version,
                    stop: (at, DecodeError::NoRecord { offset: at }),
                    ..tail
                };
            }
            RecordBody::Command(command) => {
                pending_records += 1;
                pending_version = pending_version.max(command.version());
            }
        }
        if !record.continues() || planted("batch_marker_ignored") {
            tail.end = at;
            tail.commits += 1;
            tail.records += pending_records;
            tail.max_version = tail.max_version.max(pending_version);
            (pending_records, pending_version) = (0, 0);
        }
    }
}

/// What stands behind the place where reading stopped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Beyond {
    /// Where the last thing that looks like a record ends; 0 if there is none.
    pub(crate) end: u32,
    /// The largest `durable` of a valid record there that is greater than what was asked for.
    pub(crate) witness: Option<u32>,
}

/// Looks for records from `from` on, wherever they may start, and for a valid one that knew more
/// than `known` bytes to be durable.
pub(crate) fn look_beyond(bytes: &[u8], context: &RecordContext, from: u32, known: u32) -> Beyond {
    let mut beyond = Beyond::default();
    let mut at = from as usize;
    // Where what counts ends so far.
    let mut behind = at;
    while let Some(next) = next_candidate(bytes, at) {
        at = next;
        let rest = bytes.get(at..).unwrap_or_default();
        let offset = to_offset(at);
        let Some(found) = probe(rest, context, offset) else {
            at += 1;
            continue;
        };
        // The head fits; only a record that fits as a whole is a witness, or is skipped over. One
        // that is not whole is what is left of a commit only right behind what counts: among all
        // that a file held before it was used again, some heads fit by chance.
        let Ok(record) = decode(rest, context, offset) else {
            if at == behind || planted("leftovers_count_as_lost") {
                let claimed =
                    usize::try_from(found.len).map_or(bytes.len(), |len| at.saturating_add(len).min(bytes.len()));
                behind = claimed.max(at + 1);
                beyond.end = beyond.end.max(to_offset(behind));
            }
            at += 1;
            continue;
        };
        at += record.len as usize;
        behind = at;
        beyond.end = beyond.end.max(to_offset(at));
        if found.durable > known {
            beyond.witness = beyond.witness.max(Some(found.durable));
        }
    }
    beyond
}

/// The next place at or after `at` where a record may start: one whose fifth byte, the kind, is not
/// zero. Runs of zeros, which is what most of a preallocated file is, are skipped a word at a time.
fn next_candidate(bytes: &[u8], at: usize) -> Option<usize> {
    const KIND_AT: usize = 4;
    let mut kind_at = at + KIND_AT;
    while bytes.get(kind_at..).and_then(|rest| rest.first_chunk::<8>()) == Some(&[0; 8]) {
        kind_at += 8;
    }
    let skipped = bytes.get(kind_at..)?.iter().position(|byte| *byte != 0)?;
    Some(kind_at + skipped - KIND_AT)
}

/// One finding of [`Segment::scan`].
#[derive(Clone, Debug)]
pub enum Finding<'a> {
    /// A valid command.
    Entry(Entry<'a>),
    /// Bytes that are no valid record, up to the next one.
    Damaged {
        /// Where they start.
        offset: u32,
        /// How many there are until the next valid record or the end.
        len_bytes: u32,
        /// What is wrong with them.
        error: DecodeError,
    },
}

/// What is in a segment, damaged places included; made by [`Segment::scan`].
#[derive(Debug)]
pub struct Scan<'a> {
    segment: &'a Segment,
    bytes: &'a [u8],
    at: usize,
    seq: u64,
    order: InOrder<&'a Segment>,
}

impl Segment {
    /// Walks over everything in the segment and goes on behind damage, for checks and salvage.
    /// Behind a damaged place seqs are no longer exact, and a batch may be seen in part.
    ///
    /// Costs a checksum over every record, and behind damage a look at every byte until a record is
    /// found.
    #[must_use]
    pub fn scan(&self) -> Scan<'_> {
        let at = FIRST_RECORD_AT as usize;
        let (bytes, seq) = (self.bytes_from(0), self.header().base_seq);
        Scan { segment: self, bytes, at, seq, order: InOrder::looking(self, FIRST_RECORD_AT) }
    }
}

impl<'a> Iterator for Scan<'a> {
    type Item = Finding<'a>;

    fn next(&mut self) -> Option<Finding<'a>> {
        loop {
            let rest = self.bytes.get(self.at..).filter(|rest| !rest.is_empty())?;
            let offset = to_offset(self.at);
            self.order.go_to(offset);
            let record = match decode(rest, self.segment.context(), offset) {
                Ok(record) => record,
                Err(error) => return self.damaged(offset, error),
            };
            self.at += record.len as usize;
            let RecordBody::Command(command) = record.body else { continue };
            let (seq, continues) = (self.seq, record.continues());
            self.seq += u64::from(!continues);
            return Some(Finding::Entry(Entry { offset, len_bytes: record.len, seq, continues, command }));
        }
    }
}

impl<'a> Scan<'a> {
    /// Steps to the next valid record, or to the end.
    fn damaged(&mut self, offset: u32, error: DecodeError) -> Option<Finding<'a>> {
        let start = self.at;
        let mut at = start + 1;
        loop {
            let Some(next) = next_candidate(self.bytes, at) else {
                at = self.bytes.len();
                break;
            };
            at = next;
            let rest = self.bytes.get(at..).unwrap_or_default();
            let likely = self.segment.kind() == SegmentKind::Compacted
                || probe(rest, self.segment.context(), to_offset(at)).is_some();
            if likely && decode(rest, self.segment.context(), to_offset(at)).is_ok() {
                break;
            }
            at += 1;
        }
        self.at = at;
        // Zeros up to the end of a file that was never sealed are no damage.
        let nothing = at == self.bytes.len()
            && matches!(error, DecodeError::NoRecord { .. } | DecodeError::Truncated { .. })
            && self.bytes.get(start..).unwrap_or_default().iter().all(|byte| *byte == 0);
        (!nothing).then(|| Finding::Damaged { offset, len_bytes: to_offset(at - start), error })
    }
}

#[cfg(test)]
mod tests {
    use hightower_log::{Placement, encode};

    use super::*;

    const PLACEMENT: Placement = Placement::Appended { durable: FIRST_RECORD_AT, continues: false };

    fn filled(context: &RecordContext, len_bytes: usize) -> Vec<u8> {
        let mut bytes = vec![0; FIRST_RECORD_AT as usize];
        for version in 0.. {
            let command = CommandRef::Set { key: b"key", value: b"value", version, timestamp: 0 };
            let offset = to_offset(bytes.len());
            encode(&mut bytes, context, offset, &command, PLACEMENT).unwrap();
            if bytes.len() >= len_bytes {
                break;
            }
        }
        bytes
    }

    #[test]
    fn what_a_file_held_before_it_was_used_again_is_nothing_that_was_lost() {
        let stale = filled(&RecordContext::new(1, 0, 0), 8 << 20);
        let context = RecordContext::new(2, 0, 0);
        assert_eq!(find_tail(&stale, &context).end, FIRST_RECORD_AT);
        for from in [FIRST_RECORD_AT, 1000] {
            assert_eq!(look_beyond(&stale, &context, from, 0), Beyond::default());
        }
    }

    #[test]
    fn a_commit_of_which_a_part_is_there_was_lost_as_far_as_its_head_says() {
        let context = RecordContext::new(1, 0, 0);
        let whole = filled(&context, 200);
        let last = find_tail(&whole, &context).end;
        let torn = &whole[..whole.len() - 3];
        let end = find_tail(torn, &context).end;
        assert!(end < last);
        assert_eq!(look_beyond(torn, &context, end, end).end, to_offset(torn.len()));
        // Behind a hole only what is whole is known.
        let mut holed = whole.clone();
        holed[end as usize - 1] ^= 1;
        let from = find_tail(&holed, &context).end;
        assert!(from < end);
        assert_eq!(look_beyond(&holed, &context, from, from).end, last);
    }
}
